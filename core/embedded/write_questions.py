"""The model writes questions about passages, and keeps those that it answers itself in the same way (round trip,
Alberti et al. 2019).

    torchrun ... -m core.embedded.write_questions --model DIR --passages shard0/passages.jsonl.gz --out DIR --seconds 90
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from core.embedded.corpus import A, Passage, load_passages, save_passages
from core.embedded.questions import QA
from core.evaluation.metrics import f1, normalise
from core.generate import generate
from core.prompts import MarkedFormat


def write(
    model: Any, tokenizer: Any, passages: Sequence[Passage], *, temperature: float, agree: float = 0.6
) -> list[Passage]:
    """One new question for each passage where the round trip succeeds (answer in the text, F1 of the model's own answer
    at least `agree`)."""
    fmt = MarkedFormat(tokenizer)
    options = {"stop_ids": fmt.stop_ids, "pad_id": fmt.pad_id}
    contexts = [tokenizer.decode(tokenizer.encode(p.text, add_special_tokens=False)[:600]) for p in passages]
    prompts = [fmt.write_question(c) for c in contexts]
    written, _ = generate(
        model, prompts, max_new=32, temperature=temperature, **options | {"stop_ids": fmt.stop_ids | {A}}
    )
    questions = [tokenizer.decode(ids).partition("?") for ids in written]
    asked = [(i, text.strip() + mark) for i, (text, mark, _) in enumerate(questions) if text.strip() and mark]
    if not asked:
        return []
    rows = [[*prompts[i], *tokenizer.encode(f" {q}", add_special_tokens=False), A] for i, q in asked]
    answers, _ = generate(model, rows, max_new=16, **options)
    found = [(i, QA(q, tokenizer.decode(ids).strip())) for (i, q), ids in zip(asked, answers, strict=True)]
    found = [(i, qa) for i, qa in found if _answerable(qa, contexts[i])]
    if not found:
        return []
    answers, _ = generate(model, [fmt.in_context(contexts[i], q.question) for i, q in found], max_new=16, **options)
    return [
        Passage(passages[i].title, passages[i].text, [qa])
        for (i, qa), ids in zip(found, answers, strict=True)
        if f1(tokenizer.decode(ids).strip(), [qa.answer]) >= agree
    ]


def _answerable(qa: QA, context: str) -> bool:
    """A short answer that stands in the text and not in the question."""
    answer = normalise(qa.answer)
    return (
        1 <= len(qa.answer.split()) <= 10
        and bool(answer)
        and answer in normalise(context)
        and answer not in normalise(qa.question)
    )


def batches(passages: Sequence[Passage], size: int) -> Iterator[list[Passage]]:
    """All passages again and again, those of similar length together: little padding."""
    while passages:
        for at in range(0, len(passages), 8 * size):
            window = sorted(passages[at : at + 8 * size], key=lambda p: len(p.text))
            yield from (window[i : i + size] for i in range(0, len(window), size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument("--passages", nargs="+", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--batch", type=int, default=768)
    parser.add_argument("--temperature", type=float, default=0.8)
    options = parser.parse_args()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")
    model = (
        AutoModelForCausalLM.from_pretrained(
            options.model, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32
        )
        .to(device)
        .eval()
    )
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    torch.manual_seed(rank)
    passages = [p for path in options.passages for p in load_passages(Path(path)) if len(p.text.split()) < 260]
    passages = passages[rank::world]
    generator = torch.Generator().manual_seed(1)
    passages = [passages[i] for i in torch.randperm(len(passages), generator=generator).tolist()]
    kept: list[Passage] = []
    tried, began = 0, time.time()
    for some in batches(passages, options.batch):
        if time.time() - began > options.seconds:
            break
        kept += write(model, tokenizer, some, temperature=options.temperature)
        tried += len(some)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    save_passages(out / f"written-{rank}.jsonl.gz", kept)
    print(f"rank {rank}: tried {tried}, kept {len(kept)}, {time.time() - began:.0f} s", flush=True)
    for p in kept[:: max(1, len(kept) // 6)][:6] if rank == 0 else []:
        print("  ", p.questions[0], "|", p.text[:160].replace("\n", " "), flush=True)


if __name__ == "__main__":
    main()
