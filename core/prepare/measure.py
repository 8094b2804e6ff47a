"""How well a preparation reads and remembers: documents kept out of training, asked with and without their text."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from core.generate import generate, held_back
from core.learning.preparation import SlowWeights
from core.learning.segments import stack_segments
from core.prepare.episodes import Episode, draw, encode_document
from core.prepare.invented import invented_document
from core.prepare.material import Material
from core.prepare.questions import QA
from core.prompts import ChatFormat, format_for
from core.squad import exact_match, f1

KINDS = ("learned", "wrong", "in_context", "base")
EXCERPT_WORDS = 130  # of a document that is drawn to measure by, at most


@torch.no_grad()
def learned_figures(
    model: Any,
    tokenizer: Any,
    prepared: SlowWeights,
    episodes: Sequence[Episode],
    *,
    per_document: int = 8,
    batch: int = 32,
    most_tokens: int = 16,
    kinds: Sequence[str] = KINDS,
) -> dict[str, float]:
    """Exact match and F1 (percent), greedy, of each kind: learned, wrong document, the text in the prompt, and the
    model as it is."""
    plain, fmt = ChatFormat(tokenizer), format_for(tokenizer, prepared=True)
    device = next(model.parameters()).device
    reader = prepared.merged(model)
    scores = {kind: [0.0, 0.0] for kind in kinds}
    count = 0
    began = time.time()
    for start in range(0, len(episodes), batch):
        group = list(episodes[start : start + batch])
        learned = learn_all(reader, tokenizer, fmt, prepared, group, device)
        rows: list[int] = []  # questions of each document
        asked: list[QA] = []
        closed, in_context, without = [], [], []  # prompts
        for episode in group:
            questions = episode.questions[:per_document]
            rows.append(len(questions))
            asked += questions
            for q in questions:
                closed.append(fmt.closed_book(q.question))
                in_context.append(fmt.in_context(episode.text, q.question))
                without.append(plain.closed_book(q.question))
        wrong = {name: delta.roll(1, 0) for name, delta in learned.items()}
        conditions: Mapping[str, tuple[Any, list[list[int]], dict[str, Tensor]]] = {
            "learned": (reader, closed, learned),
            "wrong": (reader, closed, wrong),
            "in_context": (reader, in_context, {}),
            "base": (model, without, {}),
        }
        for kind in kinds:
            network, prompts, deltas = conditions[kind]
            hold_back = held_back(fmt) if kind != "base" else None
            with prepared.fast_weights_attached(network, deltas, rows):
                answers, _ = generate(network, prompts, hold_back=hold_back, **fmt.options(most_tokens))
            for ids, q in zip(answers, asked, strict=True):
                text = tokenizer.decode(ids, skip_special_tokens=True).strip()
                scores[kind][0] += exact_match(text, [q.answer])
                scores[kind][1] += f1(text, [q.answer])
        count += len(asked)
    figures = {"questions": float(count), "seconds": time.time() - began}
    for kind, (em, score) in scores.items():
        figures |= {f"{kind}_em": 100 * em / max(1, count), f"{kind}_f1": 100 * score / max(1, count)}
    return figures


def learn_all(
    reader: Any, tokenizer: Any, fmt: ChatFormat, prepared: SlowWeights, episodes: Sequence[Episode], device: Any
) -> dict[str, Tensor]:
    """What was learned of each document, [D, ...] by name; documents of several segments share a delta."""
    encode = partial(tokenizer.encode, add_special_tokens=False)
    length = prepared.config.segment
    documents = [encode_document(e, encode, fmt, length, 100_000) for e in episodes]
    inputs, targets = stack_segments(documents, length, fmt.pad_id)
    return prepared.learn(reader, inputs.to(device), targets.to(device))[1]


def measuring_sets(development: Material, documents: int = 64) -> dict[str, list[Episode]]:
    """Documents kept out of training: invented facts, and one excerpt each of people's, long-answer and table texts."""
    rng = random.Random(11)
    made = [invented_document(rng, 8) for _ in range(documents // 2)]
    facts = []
    for document in made:
        asked = [rng.choice(questions) for questions in document.questions]
        facts.append(Episode(document.title, " ".join(document.sentences), asked))
    sets = {"facts": facts}
    for kind in ("people", "long", "tables", "other-languages"):
        if len(development.passages.get(kind, [])) >= documents:
            sets[kind] = [draw(development, rng, EXCERPT_WORDS, {kind: 1.0}) for _ in range(documents)]
    return sets
