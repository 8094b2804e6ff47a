"""Reading material for the last stages: human questions, rule-made ones, the model's own -> packed rows; and how well a
model reads.

    python -m core.embedded.reading rows --out DIR --human reading-comprehension.jsonl.gz --passages ... --written ...
    python -m core.embedded.reading evaluate --model DIR --human ... [--squad FILE]
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.embedded.corpus import Passage, Weights, load_passages, make_rows, read_human
from core.embedded.questions import QA
from core.evaluation.metrics import exact_match, f1
from core.evaluation.squad import read_squad
from core.generate import generate, held_back
from core.prompts import PromptFormat, format_for


def widened(human: Sequence[Passage], seed: int = 0) -> list[Passage]:
    """Human contexts as they are, and single sentences joined to paragraphs of 2-7 with all their questions."""
    rng = random.Random(seed)
    short = [p for p in human if len(p.text.split()) < 60]
    joined = []
    for _ in range(4 * len(short)):
        some = rng.sample(short, rng.randint(2, 7))
        joined.append(
            Passage(
                "Notes",
                " ".join(p.text for p in some),
                [q for p in some for q in rng.sample(p.questions, min(4, len(p.questions)))],
            )
        )
    return [p for p in human if len(p.text.split()) >= 25 or rng.random() < 0.5] + joined


def reading_rows(
    human: list[Passage],
    written: list[Passage],
    ruled: list[Passage],
    tokenizer: Path,
    out: Path,
    *,
    length: int,
    workers: int,
    repeats: int,
) -> int:
    """Write rows.npy and rows-weights.npy; answers carry most of the weight. Returns the number of rows."""
    out.mkdir(parents=True, exist_ok=True)
    material = [p for n in range(repeats) for p in widened(human, n)] + written + ruled
    rows, weights = make_rows(
        material,
        tokenizer,
        length,
        weights=Weights(context=2, question=2, answer=40),
        kinds={"read": 0.8, "write": 0.17, "closed": 0.03},
        seed=3,
        workers=workers,
    )
    np.save(out / "rows-weights.npy", weights)
    np.save(out / "rows.npy", rows)
    (out / "rows.ready").touch()
    return len(rows)


def in_context(
    model: Any,
    tokenizer: Any,
    fmt: PromptFormat,
    asked: Sequence[tuple[str, str, Sequence[str]]],
    batch: int = 128,
    room: int = 3000,
) -> dict[str, float]:
    """Exact match and F1 (percent) with the context in the prompt; '' as context asks closed book."""
    em = score = 0.0
    order = sorted(range(len(asked)), key=lambda i: len(asked[i][0]))
    for at in range(0, len(order), batch):
        some = [asked[i] for i in order[at : at + batch]]
        prompts = [
            fmt.in_context(tokenizer.decode(tokenizer.encode(c, add_special_tokens=False)[:room]), q)
            if c
            else fmt.closed_book(q)
            for c, q, _ in some
        ]
        options = {"stop_ids": fmt.stop_ids, "pad_id": fmt.pad_id, "max_new": 24, "hold_back": held_back(fmt)}
        rows, _ = generate(model, prompts, **options)
        for ids, (_, _, gold) in zip(rows, some, strict=True):
            text = tokenizer.decode(ids).strip()
            em += exact_match(text, gold)
            score += f1(text, gold)
    return {"em": 100 * em / max(1, len(asked)), "f1": 100 * score / max(1, len(asked)), "questions": len(asked)}


def evaluate(model: Any, tokenizer: Any, human: Path, squad: Path | None) -> dict[str, dict[str, float]]:
    """Reading figures on the held-out human questions by source, on paragraphs joined from them, and on stories."""
    fmt = format_for(tokenizer)
    sets: dict[str, list[tuple[str, str, Sequence[str]]]] = defaultdict(list)
    dev = read_human(human, dev=True)
    rng = random.Random(5)
    for p in dev:
        sets[p.title] += [(p.text, q.question, [q.answer]) for q in rng.sample(p.questions, min(6, len(p.questions)))]
    sentences = [p for p in dev if p.title == "qamr"]
    for _ in range(40):
        some = rng.sample(sentences, 5)
        sets["qamr-5"] += [
            (" ".join(p.text for p in some), q.question, [q.answer])
            for p in some
            for q in rng.sample(p.questions, min(2, len(p.questions)))
        ]
    sets["closed book"] = [("", q, a) for _, q, a in sets["nq"] + sets["qamr"]]
    if squad:
        sets["stories"] = [(q.context, q.text, q.answers) for a in read_squad(squad)[:8] for q in a.questions]
    return {name: in_context(model, tokenizer, fmt, asked[:600]) for name, asked in sets.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["rows", "evaluate"])
    parser.add_argument("--human", required=True)
    parser.add_argument("--tokenizer")
    parser.add_argument("--passages", nargs="*", default=[])
    parser.add_argument("--every", type=int, default=8, help="take one in so many rule-made passages")
    parser.add_argument("--written", nargs="*", default=[])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--length", type=int, default=1025)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--model")
    parser.add_argument("--squad")
    parser.add_argument("--out")
    o = parser.parse_args()
    if o.what == "rows":
        ruled = [p for path in o.passages for p in load_passages(Path(path), every=o.every)]
        written: dict[tuple[str, str], list[QA]] = defaultdict(list)
        for p in (p for path in o.written for p in load_passages(Path(path))):
            written[p.title, p.text] += p.questions
        n = reading_rows(
            read_human(Path(o.human), dev=False),
            [Passage(*k, v) for k, v in written.items()],
            ruled,
            Path(o.tokenizer),
            Path(o.out),
            length=o.length,
            workers=o.workers,
            repeats=o.repeats,
        )
        print("rows", n, "written", len(written), "ruled", len(ruled), flush=True)
        return
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = (
        AutoModelForCausalLM.from_pretrained(o.model, dtype=torch.bfloat16 if device == "cuda" else torch.float32)
        .to(device)
        .eval()
    )
    figures = evaluate(model, AutoTokenizer.from_pretrained(o.model), Path(o.human), Path(o.squad) if o.squad else None)
    for name, f in figures.items():
        print(f"{name:12} EM {f['em']:5.1f}  F1 {f['f1']:5.1f}  n {f['questions']}", flush=True)
    if o.out:
        Path(o.out).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
