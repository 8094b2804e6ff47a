"""How fast learning and answering are, also on a model of 1.1 B parameters: TinyLlama's shape, random weights."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from core.engine import Engine, EngineConfig
from core.evaluation.bench import learn_chunks, peak_memory_mb
from core.learning.preparation import FastWeightsConfig
from core.model import LoadedModel
from core.ports import Ask
from core.prepare.episodes import Shape
from core.prepare.material import Material
from core.prepare.outer import OuterConfig
from core.prepare.prepare import INNER, PrepareConfig, prepare
from core.types import Chunk

DOCUMENT_TOKENS = 25_000  # of the document that is learned
PROMPT_TOKENS = 5_000  # tokens in a prompt, or learned instead
TIMED_ANSWER_TOKENS = 5  # tokens of every answer, its end among them: the mean of what people's questions get
REPEATS = 7
LARGE = {
    "hidden_size": 2048, "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4,
    "intermediate_size": 5632, "max_position_embeddings": 8192,
}  # fmt: skip
MEMORY_MB = 14_000
WORDS_TRIED = 4_000  # tokens, of which those are kept that are whole words


def large(base: LoadedModel, shape: dict[str, int] | None = None) -> LoadedModel:
    """A model of TinyLlama's shape, beside the base model and with its tokenizer. It says nothing at the usual cost."""
    torch.manual_seed(0)
    with torch.device(base.device):
        kind = type(base.model)  # Llama's
        numbers = (shape or LARGE) | {"vocab_size": len(base.tokenizer)}
        model = kind(type(base.model.config)(**numbers)).to(base.dtype)
    model.eval().requires_grad_(False)
    return LoadedModel("1.1B", model, base.tokenizer, base.device, base.dtype, "1" * 64, None)


def document(base: LoadedModel, tokens: int, section: int) -> list[Chunk]:
    """Random words of one token each, in sections: their text has as many tokens again."""
    encode = partial(base.tokenizer.encode, add_special_tokens=False)
    rng = random.Random(0)
    words = []
    for token in rng.sample(range(len(base.tokenizer)), min(WORDS_TRIED, len(base.tokenizer))):
        text = base.tokenizer.decode([token])
        if text.startswith(" ") and text[1:].isalpha() and encode(text) == [token]:
            words.append(token)
    chunks: list[Chunk] = []
    for start in range(0, tokens, section):
        ids = rng.choices(words, k=min(section, tokens - start))
        chunks.append(Chunk(len(chunks), base.tokenizer.decode(ids), tuple(ids), 1, 1))
    return chunks


def learning(base: LoadedModel, learner: str, tokens: int = DOCUMENT_TOKENS, **settings: Any) -> dict[str, Any]:
    """Seconds and peak memory of learning a document, by the learner alone."""
    engine = Engine(base, EngineConfig(learner=learner, check=False, guard=False, **settings))
    chunks = document(base, tokens, engine.chunk_size)
    learn_chunks(engine, chunks[:1], "Warm-up")
    if base.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    learned, seconds = learn_chunks(engine, chunks, "A document")
    return {
        "tokens": tokens,
        "learning_seconds": seconds,
        "peak_memory_mb": peak_memory_mb(engine),
        "megabytes": sum(t.numel() * t.element_size() for t in learned.tensors.values()) / 2**20,
        "batch_tokens": engine.course(learner).learning.batch_tokens,
        "recompute": engine.course(learner).learning.recompute,
    }


def learning_large(base: LoadedModel, learner: str, memory_mb: int = MEMORY_MB) -> dict[str, Any]:
    """The same for 1.1 B parameters, within a memory limit."""
    return learning(large(base), learner, memory_mb=memory_mb)


def preparing(base: LoadedModel, outer: OuterConfig, inner: FastWeightsConfig = INNER) -> dict[str, Any]:
    """Learning to learn (`bot prepare`) on invented facts: seconds of a step, and peak memory."""
    if base.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    config = PrepareConfig(outer=replace(outer, reading_seconds=0, every=1), inner=inner, held_out=2)
    reports: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        prepare(base, Material(), Material(), Path(folder), config, reports.append)
    return {
        "steps": reports[-1]["step"],
        "seconds_a_step": reports[-1]["seconds"] / reports[-1]["step"],
        "tokens_a_step": statistics.mean(s.segments * s.documents * inner.segment for s in Shape.read(outer.shapes)),
        "peak_memory_mb": torch.cuda.max_memory_allocated() / 2**20 if base.device.type == "cuda" else None,
    }


def asking(base: LoadedModel, learner: str, tokens: int = PROMPT_TOKENS) -> dict[str, Any]:
    """Median seconds of questions, one alone and 32 at once: closed book, with the weights of three sections beside the
    base model's row, and what the search needs, as the service asks where it knows several documents; against the
    document in the prompt. Every answer is as long."""
    engine = Engine(base, EngineConfig(learner=learner, check=False, guard=False))
    engine.format.stop_ids = frozenset({-1})  # no answer ends early
    chunks = document(base, tokens, engine.chunk_size)
    learned, _ = learn_chunks(engine, chunks, "A document")
    sections = sorted(set(learned.sections))[:3]
    weights = [learned.section(s) for s in sections]
    question = "Who built the lighthouse, and when was it?"
    closed = [Ask(question, w, learner=learner) for w in weights] + [Ask(question)]
    text = base.tokenizer.decode(list(chain.from_iterable(chunk.token_ids for chunk in chunks)))
    figures: dict[str, Any] = {"tokens": engine.prompt_tokens(question, text), "sections": len(sections)}
    for count in (1, 32):
        memory = answer_seconds(engine, closed * count, [question] * count)
        prompt = answer_seconds(engine, [Ask(question, context=text)] * count)
        figures[f"closed_book_{count}"] = memory
        figures[f"in_context_{count}"] = prompt
        figures[f"ratio_{count}"] = memory / prompt
    return figures


def answer_seconds(engine: Engine, asks: Sequence[Ask], searched: Sequence[str] = ()) -> float:
    """Median over answers to the whole batch, after one that warms up. searched: questions of which the search is
    asked, too."""
    taken = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        engine.queries(searched)
        engine.answer(asks, most_tokens=TIMED_ANSWER_TOKENS)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])
