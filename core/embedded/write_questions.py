"""The model asks about passages as people do, and answers itself with the passage in the prompt.

A copy of the model is taught to ask from people's questions alone. The model as it is then reads: what it is sure of
becomes a question of the passage, whatever its writer had in mind. So what a learner has to give back without the text
is what a reader reads off it (self-study, Eyuboglu et al. 2025, "Cartridges", arXiv 2506.06266), and the question need
not be a clever one.

    torchrun ... -m core.embedded.write_questions --model DIR --human FILE --passages FILE... --out DIR --seconds 60
"""

from __future__ import annotations

import argparse
import copy
import os
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from core.embedded.corpus import A, Passage, Weights, example, load_passages, read_human, save_passages
from core.embedded.questions import QA
from core.evaluation.metrics import normalise
from core.generate import generate, read
from core.learning.outer import reading_loss
from core.prompts import MarkedFormat

LONGEST = 600  # tokens of a context
LENGTH = 1024  # tokens of a row to learn asking from
OF_A_CONTEXT = 3  # people's questions: of a sentence there are forty


def teach(model: Any, tokenizer: Any, human: Sequence[Passage], seconds: float, *, rows: int = 24, steps: int = 10**6):
    """A copy of the model that asks as people do. Returns: the copy, and the mean loss of its last ten steps, nats."""
    writer, rng = copy.deepcopy(model).float().train(), random.Random(0)
    optimiser = torch.optim.AdamW(writer.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.0)
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
    few = Weights(context=2, question=2, answer=10)  # of what it writes, the question counts as much as the answer
    began, losses = time.time(), []
    for step in range(steps):
        done = (time.time() - began) / seconds
        if done >= 1:
            break
        ids, weights = [], []
        while len(ids) < rows * LENGTH + 1:
            passage = rng.choice(human)
            asked = rng.sample(passage.questions, min(OF_A_CONTEXT, len(passage.questions)))
            more = example(Passage("Notes", passage.text, asked), (), encode, rng, few, "write")
            ids, weights = ids + more[0], weights + more[1]
        packed = torch.tensor([ids, weights], device=model.device)[:, : rows * LENGTH + 1]
        with torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type == "cuda"):
            loss = reading_loss(writer, packed.unfold(1, LENGTH + 1, LENGTH).transpose(0, 1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(writer.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = 3e-4 * min(1.0, (step + 1) / 20) * (1 - done)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    return writer.to(model.dtype).eval(), sum(losses[-10:]) / max(1, len(losses[-10:]))


def write(
    writer: Any,
    reader: Any,
    tokenizer: Any,
    passages: Sequence[Passage],
    *,
    each: int = 4,
    temperature: float = 0.8,
    sure: float = 0.6,
) -> list[Passage]:
    """Up to `each` questions for every passage, with the reader's answers: those that it gives with a confidence of at
    least `sure`, in words of the text."""
    fmt = MarkedFormat(tokenizer)
    options = {"stop_ids": fmt.stop_ids, "pad_id": fmt.pad_id}
    texts = [tokenizer.encode(p.text.strip(), add_special_tokens=False)[:LONGEST] for p in passages]
    of = [n for n in range(len(texts)) for _ in range(each)]
    asking, stops = [[*texts[n], fmt.ask] for n in of], fmt.stop_ids | {A}
    prefix = read(writer, texts, fmt.pad_id)
    drafts, _ = generate(
        writer, asking, max_new=28, temperature=temperature, prefix=prefix, of=of, **options | {"stop_ids": stops}
    )
    written = [tokenizer.decode(ids).partition("?") for ids in drafts]
    asked = dict.fromkeys((n, text.strip()) for n, (text, mark, _) in zip(of, written, strict=True) if mark)
    asked = [(n, f"{text}?") for n, text in asked if 2 <= len(text.split()) <= 20]
    if not asked:
        return []
    prompts = [[*texts[n], *fmt.closed_book(question)] for n, question in asked]
    answers, chances = generate(
        reader, prompts, max_new=16, prefix=read(reader, texts, fmt.pad_id), of=[n for n, _ in asked], **options
    )
    found: dict[int, list[QA]] = {}
    for (n, question), ids, chance in zip(asked, answers, chances, strict=True):
        qa = QA(question, tokenizer.decode(ids).strip())
        if chance >= sure and _answers(qa, passages[n].text):
            found.setdefault(n, []).append(qa)
    return [Passage(passages[n].title, passages[n].text, some) for n, some in found.items()]


def _answers(qa: QA, context: str) -> bool:
    """A short answer that stands in the text and not in the question."""
    answer = normalise(qa.answer)
    return (
        1 <= len(qa.answer.split()) <= 10
        and bool(answer)
        and answer in normalise(context)
        and answer not in normalise(qa.question)
    )


def batches(passages: Sequence[Passage], size: int) -> Iterator[list[Passage]]:
    """All passages once, those of similar length together: little padding."""
    for at in range(0, len(passages), 8 * size):
        window = sorted(passages[at : at + 8 * size], key=lambda p: len(p.text))
        yield from (window[i : i + size] for i in range(0, len(window), size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument("--human", required=True, type=Path)
    parser.add_argument("--passages", nargs="+", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--teach", type=float, default=30, help="seconds of learning to ask")
    parser.add_argument("--seconds", type=float, default=60, help="of writing")
    parser.add_argument("--rows", type=int, default=24, help="of 1,024 tokens, a step of learning to ask")
    parser.add_argument("--batch", type=int, default=384, help="passages")
    parser.add_argument("--each", type=int, default=4, help="questions of a passage")
    parser.add_argument("--sure", type=float, default=0.6, help="least confidence of the answers")
    parser.add_argument("--words", type=int, default=260, help="most words of a passage: of short ones it errs least")
    o = parser.parse_args()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    reader = AutoModelForCausalLM.from_pretrained(o.model, dtype=dtype).to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(o.model)
    torch.manual_seed(rank)
    writer, loss = teach(reader, tokenizer, read_human(o.human, dev=False), o.teach, rows=o.rows)
    passages = [p for path in o.passages for p in load_passages(path, every=world, first=rank)]
    passages = [p for p in passages if len(p.text.split()) <= o.words]
    random.Random(1).shuffle(passages)
    kept: list[Passage] = []
    tried, began = 0, time.time()
    for some in batches(passages, o.batch):
        if time.time() - began > o.seconds:
            break
        kept += write(writer, reader, tokenizer, some, each=o.each, sure=o.sure)
        tried += len(some)
    o.out.mkdir(parents=True, exist_ok=True)
    save_passages(o.out / f"written-{rank}.jsonl.gz", kept)
    count = sum(len(p.questions) for p in kept)
    print(
        f"rank {rank}: loss of asking {loss:.2f}; {tried} passages, {count} questions of {len(kept)} kept, "
        f"{time.time() - began:.0f} s",
        flush=True,
    )
    for p in kept[:: max(1, len(kept) // 6)][:6] if rank == 0 else []:
        print("  ", p.questions[0], "|", p.text[:160].replace("\n", " "), flush=True)


if __name__ == "__main__":
    main()
