"""Training material: articles -> token stream, and passages with questions -> packed rows.

    python -m core.embedded.corpus --articles wikipedia-0.txt.xz --tokenizer tokenizer.json --out DIR

Held out from all training: every article whose crc32(title) is 0 modulo 50, and human contexts with crc32 0 modulo 20.
"""

from __future__ import annotations

import argparse
import gzip
import json
import lzma
import random
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from core.embedded.questions import QA, ask_paragraph, recurring
from core.options import add_options, given
from core.prompts import NOT_IN_TEXT

END, PAD, Q, A, ASK, DOC = range(6)  # special tokens of the embedded tokenizer
HUMAN_SOURCES = ("nq", "qamr", "fairy")  # mctest's licence is for research only


class Passage(NamedTuple):
    title: str
    text: str
    questions: list[QA]


@dataclass(frozen=True)
class Weights:
    """Loss weight of the tokens of a row, in tenths (stored as uint8)."""

    context: int = 10
    question: int = 3
    answer: int = 20


def held_out(title: str) -> bool:
    return zlib.crc32(title.encode()) % 50 == 0


def read_articles(path: Path) -> list[tuple[str, str]]:
    """(title, text) of every article of one `wikipedia-N.txt.xz`."""
    with lzma.open(path, "rt", encoding="utf-8") as f:
        text = f.read()
    pairs = (article.strip().partition("\n") for article in text.split("\n\x1e\n"))
    return [(head.lstrip("# ").strip(), body.strip()) for head, _, body in pairs if body.strip()]


def read_human(path: Path, *, dev: bool) -> list[Passage]:
    """Human questions, grouped by their context; `dev` gives the held-out twentieth."""
    grouped: dict[tuple[str, str], list[QA]] = {}
    with gzip.open(path, "rt") as f:
        rows = [json.loads(line) for line in f]
    for x in rows:
        if x["source"] in HUMAN_SOURCES and "\n" not in x["answer"]:
            question = x["question"].split("?")[0].strip() + "?"
            grouped.setdefault((x["source"], x["context"]), []).append(QA(question, x["answer"].strip()))
    return [Passage(s, c, qs) for (s, c), qs in grouped.items() if (zlib.crc32(c.encode()) % 20 == 0) == dev]


def passages_of(article: tuple[str, str], recur: float = 0.0) -> list[Passage]:
    """Paragraph groups of 40-350 words of one article, each with questions by rule; in so many of them a sentence is
    taken out and asked."""
    title, body = article
    rng = random.Random(zlib.crc32(title.encode()))
    found, group, size = [], [], 0
    target = rng.choice((80, 150, 250, 350))
    for paragraph in [p for p in body.split("\n") if p] + [""]:
        words = len(paragraph.split())
        if group and (size + words > target or not paragraph):
            if 30 <= size <= 500:
                taken = recurring(group, title, rng) if recur and rng.random() < recur else None
                group, more = taken or (group, None)
                questions = [q for p in group for q in ask_paragraph(p, title, rng, 6)]
                found.append(Passage(title, "\n".join(group), [*questions, *([more] if more else [])]))
            group, size, target = [], 0, rng.choice((80, 150, 250, 350))
        if paragraph and words < 450:
            group.append(paragraph)
            size += words
    return found


def make_passages(articles: Sequence[tuple[str, str]], workers: int, recur: float = 0.0) -> Iterator[Passage]:
    with Pool(workers) as pool:
        for made in pool.imap_unordered(partial(passages_of, recur=recur), articles, chunksize=64):
            yield from made


# -- rows -------------------------------------------------------------------------------------------------------------

_tokenizer: Tokenizer


def _start(path: str) -> None:
    global _tokenizer
    _tokenizer = Tokenizer.from_file(path)


def example(
    passage: Passage,
    strangers: Sequence[QA],
    encode: Callable[[str], list[int]],
    rng: random.Random,
    w: Weights,
    kind: str,
    unanswerable: float = 0.25,
) -> tuple[list[int], list[int]]:
    """One context and its questions as tokens and weights. kind: read | write (a question) | closed (no context).
    `unanswerable` is the chance that one of the strangers' questions is among those to read."""
    head = f"# {passage.title}\n" if rng.random() < 0.5 else ""
    context = [] if kind == "closed" else encode(head + passage.text)[:820]
    ids, weights = list(context), [w.context] * len(context)
    questions = rng.sample(passage.questions, min(len(passage.questions), rng.choice((1, 2, 4, 8))))
    asked = [(q.question, q.answer) for q in questions]
    if kind == "read" and strangers and rng.random() < unanswerable:
        asked.insert(rng.randint(0, len(asked)), (rng.choice(strangers).question, NOT_IN_TEXT))
    for question, answer in asked[:1] if kind == "write" else asked:
        q, a = encode(" " + question), encode(" " + answer)
        if kind == "write":  # the mark between question and answer is the model's to write: it counts too
            ids += [ASK, *q, A, *a, END]
            weights += [0, *[10] * (len(q) + 1), *[w.answer] * (len(a) + 1)]
        else:
            ids += [Q, *q, A, *a, END]
            weights += [0, *[w.question] * len(q), 0, *[w.answer] * (len(a) + 1)]
    return ids, weights


def _example(args: tuple[Passage, list[QA], int, Weights, str]) -> tuple[np.ndarray, np.ndarray]:
    passage, strangers, seed, w, kind = args
    encode = lambda t: _tokenizer.encode(t, add_special_tokens=False).ids  # noqa: E731
    ids, weights = example(passage, strangers, encode, random.Random(seed), w, kind)
    return np.array(ids, np.uint16), np.array(weights, np.uint8)


def make_rows(
    passages: Sequence[Passage],
    tokenizer: Path,
    length: int,
    *,
    weights: Weights,
    kinds: dict[str, float],
    seed: int,
    workers: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Pack examples into rows of `length` tokens. Returns uint16 [N, length] and uint8 loss weights [N, length]."""
    rng = random.Random(seed)
    order = list(range(len(passages)))
    rng.shuffle(order)
    kind = rng.choices(list(kinds), list(kinds.values()), k=len(order))
    work = (
        (passages[i], passages[order[n - 1]].questions if n else [], seed + n, weights, kind[n])
        for n, i in enumerate(order)
        if passages[i].questions
    )
    rows, row_weights = [], []
    bins: list[tuple[int, list[np.ndarray], list[np.ndarray]]] = []  # open rows: (tokens so far, parts, weights)

    def close(at: int) -> None:
        _, parts, more = bins.pop(at)
        ids = np.concatenate(parts)[:length]
        rows.append(np.pad(ids, (0, length - len(ids)), constant_values=PAD))
        row_weights.append(np.pad(np.concatenate(more)[:length], (0, length - len(ids))))

    with Pool(workers, _start, (str(tokenizer),)) as pool:
        for ids, ws in pool.imap(_example, work, chunksize=256):
            at = next((i for i, b in enumerate(bins) if b[0] + len(ids) <= length), None)
            if at is None:
                if len(bins) >= 24:
                    close(max(range(len(bins)), key=lambda i: bins[i][0]))
                bins.append((0, [], []))
                at = len(bins) - 1
            used, parts, more = bins[at]
            bins[at] = (used + len(ids), [*parts, ids], [*more, ws])
    while bins:
        close(0)
    return np.stack(rows), np.stack(row_weights)


def tokenise(texts: Iterable[str], tokenizer: Path, batch: int = 2048) -> np.ndarray:
    """All texts as one uint16 stream, END after each."""
    encoder = Tokenizer.from_file(str(tokenizer))
    texts = list(texts)
    parts = []
    for i in range(0, len(texts), batch):
        for e in encoder.encode_batch_fast(texts[i : i + batch], add_special_tokens=False):
            parts.append(np.array([*e.ids, END], np.uint16))
    return np.concatenate(parts)


def save_passages(path: Path, passages: Iterable[Passage]) -> None:
    with gzip.open(path, "wt", compresslevel=1) as f:
        for p in passages:
            f.write(json.dumps([p.title, p.text, p.questions]) + "\n")


def load_passages(path: Path, *, every: int = 1, first: int = 0) -> list[Passage]:
    with gzip.open(path, "rt") as f:
        lines = [line for n, line in enumerate(f) if n % every == first]
    return [Passage(t, x, [QA(*q) for q in qs]) for t, x, qs in map(json.loads, lines)]


@dataclass(frozen=True)
class ShardConfig:
    length: int = 1025  # tokens of a row
    workers: int = 8
    recur: float = 0.0  # share of the passages of which a sentence is taken out and asked


def prepare_shard(source: Path, tokenizer: Path, out: Path, config: ShardConfig = ShardConfig()) -> dict[str, int]:
    """One shard -> tokens.npy, val.npy, (dev-)passages.jsonl.gz, rows.npy and rows-weights.npy in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    articles = read_articles(source)
    train = [a for a in articles if not held_out(a[0])]
    dev = [a for a in articles if held_out(a[0])]
    np.save(out / "tokens.npy", tokenise((f"# {t}\n{b}" for t, b in train), tokenizer))
    np.save(out / "val.npy", tokenise((f"# {t}\n{b}" for t, b in dev), tokenizer))
    (out / "tokens.ready").touch()
    passages = list(make_passages(train, config.workers, config.recur))
    save_passages(out / "dev-passages.jsonl.gz", make_passages(dev, config.workers))
    rows, weights = make_rows(
        passages,
        tokenizer,
        config.length,
        weights=Weights(),
        kinds={"read": 0.93, "closed": 0.07},
        seed=1,
        workers=config.workers,
    )
    np.save(out / "rows-weights.npy", weights)
    np.save(out / "rows.npy", rows)
    (out / "rows.ready").touch()
    save_passages(out / "passages.jsonl.gz", passages)
    (out / "passages.ready").touch()
    return {
        "articles": len(articles),
        "passages": len(passages),
        "questions": sum(len(p.questions) for p in passages),
        "rows": len(rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--articles", required=True, type=Path, help="one shard")
    parser.add_argument("--tokenizer", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    add_options(parser, ShardConfig)
    o = parser.parse_args()
    config = ShardConfig(**given(o, ShardConfig))
    began = time.time()
    made = prepare_shard(o.articles, o.tokenizer, o.out, config)
    print(", ".join(f"{n:,} {what}" for what, n in made.items()), f"in {time.time() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
