"""The instrument: the same questions under every condition, on documents in SQuAD's format.

base            the model as it is, closed book
learned         the document's weights attached, closed book; the router picks the section, never the prompt
wrong_document  another document's weights, the same way: what a gain would be worth without its document
in_context      the gold paragraph (else as much of it as fits) in the prompt
retrieval       the best chunk by BM25 in the prompt
both            the best chunk in the prompt and the document's weights attached
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.errors import Refused
from core.evaluation.metrics import exact_match, f1
from core.ports import Ask, Engine, Learned
from core.service import best_of
from core.types import Chunk, Completion, Page
from core.words import match_expression

if TYPE_CHECKING:
    from torch import Tensor

CONDITIONS = ("base", "learned", "wrong_document", "in_context", "retrieval", "both")
ROUTED = 3  # sections that may answer a question; as in the service
BATCH = 16  # questions at once


@dataclass(frozen=True)
class Question:
    text: str
    answers: tuple[str, ...]
    context: str  # the gold paragraph


@dataclass(frozen=True)
class Article:
    title: str
    text: tuple[str, ...]  # paragraphs, each once
    questions: tuple[Question, ...]


@dataclass
class Studied:
    """A learned document."""

    article: Article
    chunks: list[Chunk]
    learned: Learned
    seconds: float
    search: sqlite3.Connection
    by_section: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def routed(self, question: str, limit: int) -> list[int]:
        """Chunks that the question's words point at, best first; the first chunk when none does."""
        rows = self.search.execute(
            "SELECT rowid FROM chunk WHERE chunk MATCH ? ORDER BY bm25(chunk) LIMIT ?",
            (match_expression(question), limit),
        )
        return [row[0] for row in rows] or [0]

    def weights(self, chunk: int) -> Mapping[str, Tensor]:
        section = self.learned.sections[chunk]
        if section not in self.by_section:
            self.by_section[section] = {
                k.partition("/")[2]: v for k, v in self.learned.tensors.items() if k.startswith(f"{section}/")
            }
        return self.by_section[section]


def read_squad(path: Path) -> list[Article]:
    """SQuAD v1.1 or v2.0 JSON; questions without an answer are left out. Raises: Refused."""
    try:
        data = json.loads(path.read_text())["data"]
        return [
            Article(
                a.get("title") or f"document {n + 1}",
                tuple(dict.fromkeys(p["context"] for p in a["paragraphs"])),
                tuple(
                    Question(q["question"], tuple(dict.fromkeys(x["text"] for x in q["answers"])), p["context"])
                    for p in a["paragraphs"] for q in p["qas"] if q.get("answers")
                ),
            )
            for n, a in enumerate(data)
        ]  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(f"'{path.name}' is not a question set in SQuAD's format.") from error


def study(engine: Engine, article: Article, tick: Callable[[int, int], None] = lambda done, total: None) -> Studied:
    """Learn one article as the product does."""
    chunks = engine.chunk([Page(i + 1, text) for i, text in enumerate(article.text)])
    began = time.perf_counter()
    steps = engine.learn(chunks, title=article.title)
    while True:
        try:
            step = next(steps)
            tick(step.done, step.total)
        except StopIteration as end:
            learned: Learned = end.value
            break
    search = sqlite3.connect(":memory:")
    search.execute("CREATE VIRTUAL TABLE chunk USING fts5(text, tokenize = 'porter unicode61')")
    search.executemany("INSERT INTO chunk(rowid, text) VALUES (?, ?)", [(c.index, c.text) for c in chunks])
    return Studied(article, chunks, learned, time.perf_counter() - began, search)


def answer_all(
    engine: Engine, questions: Sequence[Question], rows: Callable[[Question], list[Ask]], tick: Callable[[int], None]
) -> tuple[list[Completion], float]:
    """The best of each question's rows; and seconds a question."""
    out: list[Completion] = []
    began = time.perf_counter()
    for at in range(0, len(questions), BATCH):
        asks = [rows(q) for q in questions[at : at + BATCH]]
        flat = engine.answer([a for group in asks for a in group])
        for group in asks:
            out.append(best_of(flat[: len(group)])[1])
            flat = flat[len(group) :]
        tick(len(out))
    return out, (time.perf_counter() - began) / max(1, len(questions))


def shorten(text: str, engine: Any, room: int) -> str:
    """As much of a context as the model's window takes."""
    ids = engine.base.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return text if len(ids) <= room else engine.base.tokenizer.decode(ids[:room])


def run(
    engine: Any,
    squad_path: Path,
    documents: int | None = None,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    *,
    conditions: Sequence[str] = CONDITIONS,
    routed: int = ROUTED,
) -> dict[str, Any]:
    """Figures in percent for each condition, with 95 % bootstrap intervals clustered by document, and what was gained and
    lost against the base model; seconds to learn, seconds a question, megabytes of weights, prompt tokens."""
    articles = [a for a in read_squad(squad_path) if a.questions][:documents]
    if not articles:
        raise Refused(f"'{squad_path.name}' holds no questions with answers.")
    began = time.time()
    studied = []
    for n, article in enumerate(articles):
        studied.append(
            study(
                engine,
                article,
                lambda done, total, n=n: progress("learning", n * 100 + 100 * done // total, 100 * len(articles)),
            )
        )
    strangers = [studied[n - 1] for n in range(len(studied))] if len(studied) > 1 else [study(engine, _stranger())]
    scores: dict[str, list[list[tuple[float, float]]]] = {c: [] for c in conditions}
    seconds: dict[str, float] = {}
    prompts: dict[str, float] = {}
    samples = []
    for n, mine in enumerate(studied):
        makers = _rows(engine, mine, strangers[n], routed)
        questions = mine.article.questions
        given: dict[str, list[Completion]] = {}
        for c in conditions:
            given[c], each = answer_all(
                engine,
                questions,
                makers[c],
                lambda done, n=n, c=c, q=questions: progress(c, n * 100 + 100 * done // len(q), 100 * len(articles)),
            )
            seconds[c] = seconds.get(c, 0.0) + each * len(questions)
            prompts[c] = prompts.get(c, 0.0) + sum(
                engine.prompt_tokens(q.text, makers[c](q)[0].context) for q in questions
            )
            scores[c].append(
                [
                    (exact_match(a.text, q.answers), f1(a.text, q.answers))
                    for a, q in zip(given[c], questions, strict=True)
                ]
            )
        samples += [
            {"question": q.text, "gold": list(q.answers), **{c: given[c][i].text for c in conditions}}
            for i, q in enumerate(questions)
        ]
    total = sum(len(a.questions) for a in articles)
    figures = {
        c: _figures(scores[c], scores.get("base"))
        | {"seconds_a_question": seconds[c] / total, "prompt_tokens": prompts[c] / total}
        for c in conditions
    }
    return {
        "documents": len(articles),
        "questions": total,
        "tokens": sum(c.token_count for s in studied for c in s.chunks),
        "model": engine.name,
        "learner": engine.learner,
        "chunk_size": engine.chunk_size,
        "conditions": figures,
        "seconds": time.time() - began,
        "learning_seconds": sum(s.seconds for s in studied),
        "loss": [[s.learned.metrics.initial_loss, s.learned.metrics.final_loss] for s in studied],
        "megabytes": sum(v.numel() * v.element_size() for s in studied for v in s.learned.tensors.values()) / 2**20 / len(studied),
        "peak_memory_mb": peak_memory_mb(engine),
        "answers": samples,
    }


def _rows(engine: Any, mine: Studied, stranger: Studied, routed: int) -> dict[str, Callable[[Question], list[Ask]]]:
    """For each condition, how a question becomes rows of a batch; with several, the most confident one answers."""
    room = engine.context_tokens

    def learned(of: Studied, q: Question, context: str = "") -> list[Ask]:
        sections = dict.fromkeys(of.learned.sections[c] for c in of.routed(q.text, 2 * routed))
        first = {of.learned.sections[c.index]: c.index for c in reversed(of.chunks)}
        return [
            Ask(q.text, of.weights(first[s]), context=context, learner=engine.learner)
            for s in list(sections)[: 1 if context else routed]
        ]

    def best_chunk(q: Question) -> str:
        return shorten(mine.chunks[mine.routed(q.text, 1)[0]].text, engine, room)

    return {
        "base": lambda q: [Ask(q.text)],
        "learned": lambda q: learned(mine, q),
        "wrong_document": lambda q: learned(stranger, q),
        "in_context": lambda q: [Ask(q.text, context=shorten(q.context, engine, room))],
        "retrieval": lambda q: [Ask(q.text, context=best_chunk(q))],
        "both": lambda q: learned(mine, q, best_chunk(q)),
    }


def _figures(scores: list[list[tuple[float, float]]], base: list[list[tuple[float, float]]] | None) -> dict[str, Any]:
    flat = np.array([x for doc in scores for x in doc]) * 100
    out: dict[str, Any] = {"em": round(float(flat[:, 0].mean()), 2), "f1": round(float(flat[:, 1].mean()), 2)}
    out["f1_interval"] = [round(v, 2) for v in interval([[x[1] * 100 for x in doc] for doc in scores])]
    if base is not None:
        before = np.array([x for doc in base for x in doc]) * 100
        out["gained"] = int(((flat[:, 1] >= 50) & (before[:, 1] < 50)).sum())
        out["lost"] = int(((flat[:, 1] < 50) & (before[:, 1] >= 50)).sum())
    return out


def interval(by_document: Sequence[Sequence[float]], rounds: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean, documents resampled whole (cluster bootstrap)."""
    rng = np.random.default_rng(seed)
    sums = np.array([sum(d) for d in by_document])
    counts = np.array([len(d) for d in by_document])
    if len(counts) == 1:  # one document: resample its questions
        values = np.array(by_document[0])
        means = rng.choice(values, (rounds, len(values))).mean(1)
    else:
        pick = rng.integers(0, len(counts), (rounds, len(counts)))
        means = sums[pick].sum(1) / counts[pick].sum(1)
    return float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))


def _stranger() -> Article:
    """A document of invented facts, when the set has only one document."""
    import random

    from core.embedded.invented import invented_document

    made = invented_document(random.Random(3), 60)
    return Article(made.title, (" ".join(made.sentences),), ())


def peak_memory_mb(engine: Any) -> float:
    """Of the GPU's allocator, or of this process."""
    import resource

    import torch

    if engine.base.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
