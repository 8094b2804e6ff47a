"""Questions that the reader writes itself about texts nobody has asked anything of, added to a file of
`core.prepare.material` as passages of the kind "written".

    python -m core.prepare.written FILE --prepared FOLDER --seconds 120
    torchrun --nproc-per-node N -m core.prepare.written FILE ...         a GPU each

The reader is asked for a question and its answer (`ASK`), several times a text, at a temperature. Then it answers the
question from the text, greedily. A question is kept when this answer stands in the text, is short, and is the one that
was written, or is certain (round-trip consistency, Alberti et al. 2019, arXiv 1906.05416).
"""

from __future__ import annotations

import argparse
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from core.generate import at_once, complete, reading
from core.learning.preparation import load_prepared
from core.model import load_model
from core.prepare.material import ABOUT, SHORT, Passage, append, load
from core.prepare.questions import QA
from core.prompts import ASK, ReaderFormat
from core.search.words import normalise
from core.squad import f1

ASKED = ("rules", "people")  # kinds of passages whose texts are asked about
FEWEST_WORDS = 30  # of a text
SAME_ANSWER = 0.8  # F1 of two answers from which they are the same
CERTAIN = 0.9  # confidence from which an answer needs no second one
LEAST = 0.6  # confidence of any answer that is kept
QUESTION_WORDS = range(3, 25)
ANSWER_WORDS = range(1, SHORT + 1)


def is_kept(text: str, draft: QA, answer: str, confidence: float) -> bool:
    """Whether a question that was written with an answer, and got this `answer` the second time, is trained on."""
    asked, words = normalise(draft.question), normalise(answer)
    if draft.question in ABOUT or len(asked) not in QUESTION_WORDS or len(words) not in ANSWER_WORDS:
        return False
    repeats_the_question = f" {' '.join(words)} " in f" {' '.join(asked)} "
    if answer not in text or repeats_the_question:
        return False
    return confidence >= CERTAIN or (confidence >= LEAST and f1(answer, [draft.answer]) >= SAME_ANSWER)


def write_about(reader: Any, tokenizer: Any, texts: Sequence[str], each: int, temperature: float) -> list[list[QA]]:
    """Questions about each text with their answers, at most `each` a text, no two with the same answer."""
    fmt = ReaderFormat(tokenizer)
    options: dict[str, Any] = {"stop_ids": fmt.stop_ids, "pad_id": fmt.pad_id}
    prompts = [fmt.in_context(text, ASK) for text in texts]
    prefix = at_once(reading(reader, prompts, fmt.pad_id))
    sampling = options | {"max_new": 40, "temperature": temperature, "prefix": prefix}
    text_of = each * list(range(len(texts)))
    replies = complete(reader, tokenizer, each * prompts, text_of=text_of, **sampling)
    drafts: list[tuple[int, QA]] = []
    asked_again = []
    for number, reply in zip(text_of, replies, strict=True):
        for question, answer in fmt.read_questions(reply.text):
            drafts.append((number, QA(question, answer)))
            asked_again.append(fmt.in_context(texts[number], question))
    text_of = [number for number, _ in drafts]
    answers = complete(reader, tokenizer, asked_again, max_new=20, prefix=prefix, text_of=text_of, **options)
    kept: dict[int, dict[str, QA]] = defaultdict(dict)  # by text and answer
    for (number, draft), reply in zip(drafts, answers, strict=True):
        if is_kept(texts[number], draft, reply.text, reply.confidence):
            kept[number].setdefault(reply.text.lower(), QA(draft.question, reply.text))
    return [list(kept[number].values()) for number in range(len(texts))]


def texts_to_ask(passages: Sequence[Passage], rank: int, world: int) -> list[Passage]:
    """This process' share of the passages that are long enough, shuffled."""
    chosen = [p for p in passages if len(p.text.split()) >= FEWEST_WORDS]
    random.Random(0).shuffle(chosen)
    return chosen[rank::world]


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
    several = 16 * at_a_time
    for start in range(0, len(passages), several):
        group = sorted(passages[start : start + several], key=lambda p: len(p.text))
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
    parser.add_argument("--at-a-time", type=int, default=512, help="texts")
    parser.add_argument("--seconds", type=float, default=120)
    o = parser.parse_args()
    state = PartialState(cpu=not torch.cuda.is_available())
    base = load_model(o.model, device=str(state.device))
    prepared = load_prepared(o.prepared, base.model.config.hidden_size).to(base.device)
    reader = prepared.merged(base.model)
    material = load(o.material)
    passages = list(chain.from_iterable(material.passages.get(kind, ()) for kind in ASKED))
    chosen = texts_to_ask(passages, state.process_index, state.num_processes)
    torch.manual_seed(state.process_index)
    options = {"each": o.each, "temperature": o.temperature, "at_a_time": o.at_a_time, "seconds": o.seconds}
    written = gather_object(list(write_questions(reader, base.tokenizer, chosen, **options)))
    if state.is_main_process:
        append(o.material, written)
        questions = sum(len(p.questions) for p in written)
        print(f"{len(written):,} of {len(passages):,} passages, {questions:,} questions", flush=True)
    state.destroy_process_group()


if __name__ == "__main__":
    main()
