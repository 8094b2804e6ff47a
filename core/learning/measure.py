"""How well a prepared model learns: documents kept out of training, asked closed book."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from core.embedded.corpus import load_passages, read_human
from core.embedded.invented import invented_document
from core.evaluation.metrics import exact_match, f1
from core.generate import generate, held_back
from core.learning.episodes import Episode, encode_document, run_of
from core.learning.fast_weights import IGNORE, Prepared
from core.learning.native import Native
from core.prompts import format_for

KINDS = ("learned", "wrong", "base")


@torch.no_grad()
def learned_figures(
    model: Any,
    tokenizer: Any,
    prepared: Prepared | Native,
    episodes: Sequence[Episode],
    *,
    per_document: int = 24,
    limit: int = 100_000,
    batch: int = 8,
) -> dict[str, float]:
    """Exact match and F1 (percent) of learned, wrong document and base, greedy, closed book."""
    fmt = format_for(tokenizer)
    device = next(model.parameters()).device
    encode = lambda t: tokenizer.encode(t, add_special_tokens=False)  # noqa: E731
    scores = {k: [0.0, 0.0] for k in KINDS}
    count = 0
    began = time.time()
    for at in range(0, len(episodes), batch):
        some = list(episodes[at : at + batch])
        documents = [encode_document(e, encode, fmt, prepared.config.segment, limit) for e in some]
        most = max(len(i) for i, _ in documents)
        t = prepared.config.segment
        inputs = torch.tensor([i + [[fmt.pad_id] * t] * (most - len(i)) for i, _ in documents], device=device)
        targets = torch.tensor([g + [[IGNORE] * t] * (most - len(g)) for _, g in documents], device=device)
        _, learned = prepared.learn(model, inputs, targets)
        asked = [e.questions[:per_document] for e in some]
        prompts = [fmt.closed_book(q.question) for qs in asked for q in qs]
        rows = [len(qs) for qs in asked]
        wrong = {k: v.roll(1, 0) for k, v in learned.items()}
        options = {"stop_ids": fmt.stop_ids, "pad_id": fmt.pad_id, "max_new": 16, "hold_back": held_back(fmt)}
        for kind, weights in (("learned", learned), ("wrong", wrong), ("base", {})):
            if kind == "wrong" and len(some) < 2:
                continue
            with prepared.reading(model, weights, rows):
                out, _ = generate(model, prompts, **options)
            for ids, q in zip(out, (q for qs in asked for q in qs), strict=True):
                text = tokenizer.decode(ids).strip()
                scores[kind][0] += exact_match(text, [q.answer])
                scores[kind][1] += f1(text, [q.answer])
        count += len(prompts)
    figures = {"questions": float(count), "seconds": time.time() - began}
    for kind, (em, score) in scores.items():
        figures |= {f"{kind}_em": 100 * em / max(1, count), f"{kind}_f1": 100 * score / max(1, count)}
    return figures


def measuring_sets(human: Path | None, dev_passages: Sequence[Path]) -> dict[str, list[Episode]]:
    """Documents kept out of training: invented facts by number, human sentences and paragraphs, articles by length."""
    rng = random.Random(11)
    sets: dict[str, list[Episode]] = {}
    for n, documents in ((10, 16), (32, 8), (100, 4), (300, 2)):
        made = [invented_document(rng, n) for _ in range(documents)]
        sets[f"facts {n}"] = [
            Episode(m.title, " ".join(m.sentences), [rng.choice(qs) for qs in m.questions]) for m in made
        ]
    if human:
        dev = read_human(human, dev=True)
        sentences = [p for p in dev if p.title == "qamr"]
        paragraphs = [p for p in dev if p.title == "nq"]
        sets["sentences 5"] = [
            Episode(
                "Notes",
                " ".join(p.text for p in some),
                [q for p in some for q in rng.sample(p.questions, min(4, len(p.questions)))],
            )
            for some in (rng.sample(sentences, 5) for _ in range(16))
        ]
        sets["paragraph"] = [Episode("Notes", p.text, p.questions) for p in paragraphs[:96]]
        mixed = [run_of([*paragraphs, *sentences], rng, 700, same_title=False) for _ in range(8)]
        sets["human 700"] = [
            e._replace(title="Notes", questions=rng.sample(e.questions, min(24, len(e.questions)))) for e in mixed
        ]
    passages = [p for path in dev_passages for p in load_passages(path) if p.questions]
    if passages:
        for tokens, documents in ((200, 24), (800, 8), (2000, 4)):
            made = [run_of(passages, rng, tokens, same_title=True) for _ in range(documents)]
            sets[f"article {tokens}"] = [
                e._replace(questions=rng.sample(e.questions, min(24, len(e.questions)))) for e in made
            ]
    return sets
