"""Questions that the reader writes itself about texts nobody has asked anything of, added to a file of
`core.prepare.material` as passages of the kind "written".

    python -m core.prepare.written FILE --prepared FOLDER --seconds 120 --part 1/2 &
    python -m core.prepare.written FILE --prepared FOLDER --seconds 120 --part 2/2

Several processes, each with its part of the texts, keep a GPU busier than one; `CUDA_VISIBLE_DEVICES` gives a process
its GPU.

The reader is asked for a question and its answer (`ASK`), several times a text, at a temperature. Then it answers the
question from the text, greedily. A question is kept when this answer stands in the text, is short, and is the one that
was written, or is certain (round-trip consistency, Alberti et al. 2019, arXiv 1906.05416).
"""

from __future__ import annotations

import argparse
import fcntl
import random
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from core.generate import complete, prefill, run_to_return
from core.learning.preparation import load_prepared
from core.model import load_model
from core.prepare.material import ABOUT, SHORT, Passage, append, load
from core.prepare.questions import QA
from core.prompts import ASK, ReaderFormat
from core.search.words import in_a_row, normalise
from core.squad import f1
from core.types import Completion

MIN_WORDS = 30  # of a text
SAME_ANSWER = 0.8  # F1 of two answers from which they are the same
MIN_CONFIDENCE = 0.6  # of the second answer, where it is the one that was written
MIN_CONFIDENCE_ALONE = 0.9  # ... where it is another one
QUESTION_WORDS = range(3, 25)
ANSWER_WORDS = range(1, SHORT + 1)
LONGEST_DRAFT = 32  # tokens of a question and its answer
LONGEST_ANSWER = 16  # tokens of the second answer; one of so many is cut


def is_kept(text: str, draft: QA, second: Completion) -> bool:
    """Whether a question that was written with an answer, and got another the second time, is trained on."""
    if second.tokens >= LONGEST_ANSWER:  # it is cut
        return False
    answer = second.text
    asked, words = normalise(draft.question), normalise(answer)
    if draft.question in ABOUT or len(asked) not in QUESTION_WORDS or len(words) not in ANSWER_WORDS:
        return False
    if answer not in text or in_a_row(words, asked):
        return False
    is_same = f1(answer, [draft.answer]) >= SAME_ANSWER
    return second.confidence >= (MIN_CONFIDENCE if is_same else MIN_CONFIDENCE_ALONE)


def write_about(reader: Any, tokenizer: Any, texts: Sequence[str], each: int, temperature: float) -> list[list[QA]]:
    """Questions about each text with their answers, at most `each` a text, no two with the same answer."""
    fmt = ReaderFormat(tokenizer)
    prompts = [fmt.in_context(text, ASK) for text in texts]
    prefix = run_to_return(prefill(reader, prompts, fmt.pad_id))
    sampling = fmt.options(LONGEST_DRAFT) | {"temperature": temperature, "prefix": prefix}
    text_of = each * list(range(len(texts)))
    replies = complete(reader, tokenizer, each * prompts, text_of=text_of, **sampling)
    drafts: list[tuple[int, QA]] = []
    asked_again = []
    for number, reply in zip(text_of, replies, strict=True):
        for question, answer in fmt.read_questions(reply.text):
            drafts.append((number, QA(question, answer)))
            asked_again.append(fmt.in_context(texts[number], question))
    text_of = [number for number, _ in drafts]
    answering = fmt.options(LONGEST_ANSWER) | {"prefix": prefix}
    answers = complete(reader, tokenizer, asked_again, text_of=text_of, **answering)
    kept: dict[int, dict[str, QA]] = defaultdict(dict)  # by text and answer
    for (number, draft), reply in zip(drafts, answers, strict=True):
        if is_kept(texts[number], draft, reply):
            kept[number].setdefault(reply.text.lower(), QA(draft.question, reply.text))
    return [list(kept[number].values()) for number in range(len(texts))]


def texts_to_ask(passages: Iterable[Passage], part: int, parts: int) -> list[Passage]:
    """Part 1 to `parts` of the passages that are long enough, shuffled."""
    chosen = [p for p in passages if len(p.text.split()) >= MIN_WORDS]
    random.Random(0).shuffle(chosen)
    return chosen[part - 1 :: parts]


def write_questions(
    reader: Any,
    tokenizer: Any,
    passages: Sequence[Passage],
    *,
    each: int,
    temperature: float,
    at_a_time: int,
    seconds: float,
) -> Iterator[Passage]:
    """Passages of the kind "written", until the passages or the seconds are over. Those of about the same length are
    asked about together."""
    until = time.time() + seconds
    group_size = 16 * at_a_time
    for start in range(0, len(passages), group_size):
        group = sorted(passages[start : start + group_size], key=lambda p: len(p.text))
        for first in range(0, len(group), at_a_time):
            if time.time() > until:
                return
            part = group[first : first + at_a_time]
            written = write_about(reader, tokenizer, [p.text for p in part], each, temperature)
            for passage, questions in zip(part, written, strict=True):
                if questions:
                    yield Passage("written", passage.title, passage.text, questions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("material", type=Path, help="FILE.jsonl.xz or .gz, to which the passages are added")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--prepared", type=Path, required=True, help="folder of the preparation whose reader writes")
    parser.add_argument("--each", type=int, default=4, help="questions tried a text")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--at-a-time", type=int, default=256, help="texts")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--part", default="1/1", help="K/N: part K of N of the articles' passages")
    o = parser.parse_args()
    part, parts = map(int, o.part.split("/"))
    base = load_model(o.model)
    prepared = load_prepared(o.prepared, base.model.config.hidden_size).to(base.device)
    reader = prepared.merged(base.model)
    passages = load(o.material).passages
    chosen = texts_to_ask(chain(passages["rules"], passages.get("lists", [])), part, parts)
    torch.manual_seed(part)
    options = {"each": o.each, "temperature": o.temperature, "at_a_time": o.at_a_time, "seconds": o.seconds}
    written = list(write_questions(reader, base.tokenizer, chosen, **options))
    with o.material.open("rb") as others:
        fcntl.flock(others, fcntl.LOCK_EX)  # until every other part has been added
        append(o.material, written)
    questions = sum(len(p.questions) for p in written)
    print(f"{len(written):,} of {len(chosen):,} passages, {questions:,} questions", flush=True)


if __name__ == "__main__":
    main()
