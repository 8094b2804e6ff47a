"""Study material: questions with answers, rewrites and summaries that the model writes with a passage in context.

Text alone lowers the loss and answers nothing; what a model is asked about a text is what it learns to answer (SEAL,
arXiv 2506.10943; Active Reading, 2508.09494). A question is kept only when the model, asked with the passage in
context, gives the same answer again (round trip, Alberti et al. 2019), when its names and numbers stand in the
passage, and when nothing like it is there yet. What is dropped is counted. Nothing is stored: material lives while a
document is learned.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import torch

from core.errors import LearningFailed
from core.generate import Prefix, generation, prefill, yield_at_each_step
from core.learning.adapters.remote import RemoteWriter
from core.model import LoadedModel
from core.prompts import BEGINNINGS, REWRITE, SUMMARISE, ChatFormat
from core.search.words import in_a_row, normalise, supports
from core.squad import f1
from core.types import Chunk

SENTENCE_BREAK = re.compile(r"(?<=[.!?][\"'”’)])\s+|(?<=[.!?])\s+|\n{2,}")
NAME_OR_NUMBER = re.compile(r"\d[\d.,:/]*\d|\d|\b[A-Z]\w+")
COUNTS = "one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty hundred thousand no"
TIMES = """
    january february march april may june july august september october november december monday tuesday wednesday
    thursday friday saturday sunday spring summer autumn winter day night morning evening noon midnight week month year
    century o'clock before after during until every
    """
ANSWER_KINDS = [  # English questions that can be answered by one kind of thing only, and what has to be in the answer
    (re.compile(asks), re.compile(rf"\d|\b(?:{'|'.join(words.split())})", re.IGNORECASE))
    for asks, words in (
        ("How many ", COUNTS),
        ("When ", TIMES),
        ("What year ", COUNTS),
        ("In (?:what|which) year ", COUNTS),
    )
] + [
    (re.compile("Who "), re.compile(r"\b(?!(?:The|A|An|In|At|On|It)\b)[A-Z]")),
    (re.compile("Where "), re.compile(r"[^\W\d]{3}")),
]
COPIED = re.compile(r"\S (?:The|A|An|This|These|It|In|At|On) \w")  # a sentence of the passage, with a question word
DRAFTS = 2  # questions written for a check, a passage
CHECK_CONFIDENCE = 0.9  # confidence that a check needs
ANSWER_TOKENS = 12
ANSWER_WORDS = 8  # at most
QUESTION_TOKENS = 24  # with its answer, where the model writes both
SENT_AT_ONCE = 4  # passages, to a larger model
T = TypeVar("T")
Excerpt = tuple[int, str]  # number of its chunk, text
Asked = tuple[int, str, str]  # number of the passage, question, answer ("": not written yet)
Pauses = Generator[list["Exercise"], None, T]  # nothing is written yet; the device is free


@dataclass(frozen=True)
class StudyConfig:
    passage: int = 64  # tokens in context while writing; a small model reads long passages badly
    questions: int = 8  # asked for, a passage
    reverse: bool = True  # also questions that have another question's answer in them: the other direction
    rewrites: int = 1  # a passage, where the model can follow the instruction
    summaries: int = 1
    temperature: float = 0.9  # of what is written a second time; the first is greedy
    agree: float = 0.6  # F1 of the round trip, at least
    similar: float = 0.75  # two questions about one chunk share this much of their words: one is dropped


@dataclass(frozen=True)
class Exercise:
    """Something to learn about a chunk: a question and its answer; or, without a question, a text in other words."""

    chunk: int
    passage: str  # what was in context
    question: str
    answer: str
    confidence: float = 0.0  # confidence of the round trip's answer, 0..1


@dataclass
class Tutor:
    """Writes about one document. `dropped` counts what was not kept, and why."""

    base: LoadedModel
    fmt: ChatFormat
    batch_tokens: int  # in context at once
    config: StudyConfig = field(default_factory=StudyConfig)
    writer: RemoteWriter | None = None
    dropped: Counter[str] = field(default_factory=Counter)
    kept: defaultdict[int, list[set[str]]] = field(default_factory=lambda: defaultdict(list))  # words of questions

    def exercises(self, chunks: Sequence[Chunk]) -> Iterator[list[Exercise]]:
        """All study material of a document, a batch of passages at a time; nothing while a larger model writes."""
        c = self.config
        for passages in self._batches(self._passages(chunks), c.questions):
            exercises = self._new((yield from self._questions(passages, c.questions)))
            if c.reverse:
                exercises += self._new((yield from self._reverse(exercises)))
            texts = yield from self._texts(passages, [REWRITE] * c.rewrites + [SUMMARISE] * c.summaries)
            yield exercises + texts

    def checks(self, chunks: Sequence[Chunk], each: int, most: int) -> Iterator[list[Exercise]]:
        """At most `each` questions a chunk, plain and sure; of a long document `most` in all, of evenly chosen chunks.
        Short ones first, and such as ask for one thing: the others are mostly the passage's own words."""
        passages: list[Excerpt] = []
        for chunk in evenly_chosen(chunks, max(1, most // each)):
            passages += evenly_chosen(self._passages([chunk]), each + 1)
        for batch in self._batches(passages, DRAFTS):
            drafts = yield from self._questions(batch, DRAFTS)
            sure = [e for e in drafts if e.confidence >= CHECK_CONFIDENCE]
            sure.sort(key=lambda e: (e.question.startswith("What"), len(e.question)))
            yield self._new(sure, each)

    def _passages(self, chunks: Sequence[Chunk]) -> list[Excerpt]:
        """(chunk, text): whole sentences, of at most `config.passage` tokens together."""
        encode = partial(self.base.tokenizer.encode, add_special_tokens=False)
        passages = []
        for chunk in chunks:
            sentences = list(filter(None, map(str.strip, SENTENCE_BREAK.split(chunk.text))))
            sizes = list(map(len, map(encode, sentences)))
            for text in gather(sentences, sizes, self.config.passage):
                if len(text.split()) >= 12:
                    passages.append((chunk.index, text))
        return passages

    def _batches(self, passages: Sequence[Excerpt], count: int) -> Iterator[list[Excerpt]]:
        """Where `count` questions are written about each, every prompt with the passage before it in the cache."""
        rows = len(self.fmt.write_questions("", count))
        size = max(1, 2 * self.batch_tokens // (self.config.passage * rows))
        for start in range(0, len(passages), size):
            yield list(passages[start : start + size])

    def _questions(self, passages: Sequence[Excerpt], count: int) -> Pauses[list[Exercise]]:
        """Sound ones, about each passage; some may be alike."""
        if not self.writer:
            wanted = [(number, count, "") for number in range(len(passages))]
            return (yield from self._written(passages, wanted))
        asked = yield from self._sent(self.writer, passages, count)
        return (yield from self._answered(passages, asked, None))

    def _sent(self, writer: RemoteWriter, passages: Sequence[Excerpt], count: int) -> Pauses[list[Asked]]:
        """What a larger model writes. Raises: LearningFailed when it writes nothing."""
        pool = ThreadPoolExecutor(SENT_AT_ONCE, thread_name_prefix="writer")
        try:
            replies = [pool.submit(writer.write, text, count) for _, text in passages]
            while wait(replies, timeout=0.2).not_done:
                yield []
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        failed = [reply for reply in replies if isinstance(reply.exception(), LearningFailed)]
        if len(failed) == len(replies):
            failed[0].result()
        self.dropped["passages without a reply"] += len(failed)
        asked = []
        for n, reply in enumerate(replies):
            if reply not in failed:
                asked += [(n, *pair) for pair in reply.result()]
        return asked

    def _reverse(self, exercises: Sequence[Exercise]) -> Pauses[list[Exercise]]:
        """Questions that have the answer of one of these in them, where it is a name or a number."""
        passages: list[Excerpt] = []
        wanted: list[tuple[int, int, str]] = []
        for e in exercises:
            if not NAME_OR_NUMBER.search(e.answer):
                continue
            if (e.chunk, e.passage) not in passages:
                passages.append((e.chunk, e.passage))
            wanted.append((passages.index((e.chunk, e.passage)), 1, e.answer))
        return (yield from self._written(passages, list(dict.fromkeys(wanted)))) if wanted else []

    def _written(self, passages: Sequence[Excerpt], wanted: Sequence[tuple[int, int, str]]) -> Pauses[list[Exercise]]:
        """wanted: (number of a passage, how many questions, what they should have in them), some for each passage."""
        rows: list[tuple[int, str, list[int], float]] = []  # passage, what is begun, prompt, temperature
        first: dict[int, list[int]] = {}  # prompt of each passage
        for n, count, about in wanted:
            for i, (prompt, begin) in enumerate(self.fmt.write_questions(passages[n][1], count, about)):
                first.setdefault(n, prompt)
                rows.append((n, begin, prompt, self.config.temperature * (i >= len(BEGINNINGS))))
        texts = [first[n] for n in range(len(passages))]
        prefix = yield from yield_at_each_step([], prefill(self.base.model, texts, self.fmt.pad_id))
        numbers, begun, prompts, temperatures = zip(*rows, strict=True)
        longest = QUESTION_TOKENS * max(count for _, count, _ in wanted) * len(wanted) // len(rows)
        stops = self.fmt.write_stops
        written, _ = yield from self._generate(prompts, prefix, numbers, longest, temperatures, stops=stops)
        asked = []
        for n, begin, ids in zip(numbers, begun, written, strict=True):
            text = begin + self.base.tokenizer.decode(ids, skip_special_tokens=True)
            pairs = self.fmt.read_questions(text)
            self.dropped["malformed"] += not pairs
            asked += [(n, *pair) for pair in pairs]
        return (yield from self._answered(passages, asked, prefix))

    def _answered(
        self, passages: Sequence[Excerpt], asked: Sequence[Asked], prefix: Prefix | None
    ) -> Pauses[list[Exercise]]:
        """What is sound, unlike what is kept already, and answered in the same way once more."""
        sound: list[Asked] = []
        unanswered = []
        for n, question, answer in asked:
            chunk, text = passages[n]
            if self._sound(flaw(question, text)) and self._sound(self._seen(chunk, question)):
                sound.append((n, question, answer))
                if not answer:
                    unanswered.append((n, question))
        written = iter((yield from self._answers(passages, unanswered, prefix, self.fmt.write_answer)))
        answered: list[Asked] = []
        for n, question, answer in sound:
            answer = answer or next(written)[0]
            if self._sound(answer_flaw(question, answer, passages[n][1])):
                answered.append((n, question, answer))
        asked_again = [(n, question) for n, question, _ in answered]
        again = yield from self._answers(passages, asked_again, prefix, self.fmt.in_context)
        exercises = []
        for (n, question, answer), (second, confidence) in zip(answered, again, strict=True):
            if self._sound("" if f1(second, [answer]) >= self.config.agree else "round trip"):
                exercises.append(Exercise(*passages[n], question, answer, confidence))
        return exercises

    def _answers(
        self, passages: Sequence[Excerpt], asked: Sequence[tuple[int, str]], prefix: Prefix | None,
        prompt: Callable[[str, str], list[int]],
    ) -> Pauses[list[tuple[str, float]]]:  # fmt: skip
        """Answers in context, and how sure they are."""
        if not asked:
            return []
        prompts = [prompt(passages[n][1], question) for n, question in asked]
        numbers = [n for n, _ in asked]
        if prefix is None or 2 * sum(prefix.shared(prompts, numbers)) < sum(map(len, prompts)):
            order = sorted(set(numbers))
            texts = [prompts[numbers.index(n)] for n in order]
            prefix = yield from yield_at_each_step([], prefill(self.base.model, texts, self.fmt.pad_id))
            numbers = [order.index(n) for n in numbers]
        rows, confidences = yield from self._generate(prompts, prefix, numbers, ANSWER_TOKENS, 0.0)
        return list(zip(map(self._text, rows), confidences, strict=True))

    def _text(self, ids: Sequence[int]) -> str:
        return self.base.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def _sound(self, fault: str) -> bool:
        self.dropped[fault] += bool(fault)
        return not fault

    def _texts(self, passages: Sequence[Excerpt], tasks: Sequence[str]) -> Pauses[list[Exercise]]:
        """Each passage in other words, where the model follows such a task."""
        exercises = []
        for number, task in enumerate(tasks):
            prompts = []
            for _, text in passages:
                prompt = self.fmt.write_text(text, task)
                if prompt is None:
                    return []
                prompts.append(prompt)
            temperature = self.config.temperature if number else 0.0
            rows, _ = yield from self._generate(prompts, None, (), 2 * self.config.passage, temperature)
            for (n, passage), text in zip(passages, map(self._text, rows), strict=True):
                fault = "" if grounded(text, passage) else "not in the passage"
                if self._sound("malformed" if len(text.split()) < 8 else fault):
                    exercises.append(Exercise(n, passage, "", text))
        return exercises

    def _new(self, exercises: Sequence[Exercise], each: int | None = None) -> list[Exercise]:
        """Those unlike any that is kept, at most `each` a chunk; they are kept from now on, so that no question of the
        self-check is studied."""
        new: list[Exercise] = []
        counts: Counter[int] = Counter()
        for e in exercises:
            if counts[e.chunk] != each and self._sound(self._seen(e.chunk, e.question)):
                self.kept[e.chunk].append(set(normalise(e.question)))
                counts[e.chunk] += 1
                new.append(e)
        return new

    def _seen(self, chunk: int, question: str) -> str:
        """Why a question is not kept: one like it is. "" otherwise."""
        words = set(normalise(question))
        for other in self.kept[chunk]:
            if len(words & other) >= self.config.similar * len(words | other):
                return "seen before"
        return ""

    def _generate(
        self, prompts: Sequence[Sequence[int]], prefix: Prefix | None, texts: Sequence[int], most: int,
        temperature: float | Sequence[float], stops: frozenset[int] | None = None,
    ) -> Pauses[tuple[list[list[int]], list[float]]]:  # fmt: skip
        """The same for the same document: the seed is fixed. A pause after each token."""
        steps = generation(
            self.base.model, prompts, stop_ids=stops or self.fmt.stop_ids, pad_id=self.fmt.pad_id, max_new=most,
            temperature=temperature, prefix=prefix, text_of=texts,
            random=torch.Generator(self.base.device).manual_seed(0), in_parts=True,
        )  # fmt: skip
        return (yield from yield_at_each_step([], steps))


def flaw(question: str, passage: str) -> str:
    """Why a question is not kept; "" when nothing speaks against it."""
    words = question.split()
    if not question.endswith("?") or not 4 <= len(words) <= 20 or COPIED.search(question):
        return "malformed"
    return "" if grounded(question, passage) else "not in the passage"


def answer_flaw(question: str, answer: str, passage: str) -> str:
    """Why an answer is not kept; "" when nothing speaks against it."""
    words = normalise(answer)
    if not 1 <= len(answer.split()) <= ANSWER_WORDS or not words or len(set(words)) < len(words):
        return "malformed"
    if in_a_row(words, normalise(question)):
        return "answer in the question"
    if any(asks.match(question) and not given.search(answer) for asks, given in ANSWER_KINDS):
        return "another kind of answer"
    return "" if supports(passage, answer) else "not in the passage"


def grounded(text: str, passage: str) -> bool:
    """Whether its numbers and names stand in the passage. A sentence's first word is not taken for a name."""
    names_and_numbers: list[str] = []
    for sentence in SENTENCE_BREAK.split(text):
        names_and_numbers += NAME_OR_NUMBER.findall(sentence[:1].lower() + sentence[1:])
    return set(normalise(" ".join(names_and_numbers))) <= set(normalise(passage))


def gather(sentences: Sequence[str], sizes: Sequence[int], most: int) -> list[str]:
    """Neighbours joined, as many as fit into `most` tokens; a longer sentence stands alone."""
    groups: list[list[str]] = []
    room = 0
    for sentence, size in zip(sentences, sizes, strict=True):
        if not groups or size > room:
            groups.append([])
            room = most
        groups[-1].append(sentence)
        room -= size
    return [" ".join(group) for group in groups]


def evenly_chosen(items: Sequence, most: int) -> list:
    """At most so many, evenly chosen."""
    count = min(most, len(items))
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]


def for_chat(config: StudyConfig, fmt: ChatFormat) -> StudyConfig:
    """Models that follow instructions read longer passages, and write several questions about one at once."""
    follows = fmt.write_text("", REWRITE) is not None
    return replace(config, passage=384, questions=3 * config.questions) if follows else config


def summary(dropped: Mapping[str, int]) -> str:
    """For the log: what was dropped, and why."""
    return ", ".join(f"{count} {why}" for why, count in sorted(dropped.items()) if why and count)
