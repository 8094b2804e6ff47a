"""Episodes for learning to learn: a document of a section's length, and questions that only it answers.

Documents come from question sets, encyclopedia articles and invented facts, with words swapped in many of them, so that
nothing can be answered by heart. A few questions of every batch are not answered by their document, though that is hard
to tell: they are about the same text with other names, were written to be unanswerable, or are those of another
document with many of the same words. Their answer is NOT_IN_TEXT.

Shapes: D documents of S segments of T tokens, n questions each of Q tokens; B of the documents with their text beside
the delta, in W tokens; R rows of L tokens to read.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import chain, filterfalse
from typing import Any, NamedTuple

import torch
from torch import Tensor

from core.errors import Refused
from core.learning.segments import IGNORE, segments, stack_segments
from core.prepare.invented import MANUAL, RELATIONS, invented_document
from core.prepare.lists import stands_in
from core.prepare.material import Material, Passage
from core.prepare.questions import QA, sentences
from core.prepare.swapped import swapped
from core.prepare.typed import as_typed
from core.prompts import ASK, COMPLETE, NOT_IN_TEXT, ChatFormat, format_for, section_text
from core.search.words import STOP_WORDS, normalise

OTHERS = 24  # other documents' questions, of which the closest is asked
TELLING = 3  # words; "Who led?" has too few to say which document it is about
MIXED = 0.6  # share of the documents made of shorter parts, as a section of many paragraphs is
PART = 0.3, 0.8  # of such a document's words that a part has, at most
SIZE = 0.5, 1.0  # of a section's tokens that a document has: it ends with a paragraph
TITLES = ("Notes", "Document", "Report", "Handbook", "Text", "report.pdf", "notes.pdf", "Guide", "document (3).pdf")
TOKENS_OF_A_WORD = 1.35
LONG = 100  # tokens of question and answer from which a shape is for long answers
KINDS = {
    "people": 0.5,
    "written": 0.1,
    "tables": 0.05,
    "rules": 0.15,
    "lists": 0.07,
    "invented": 0.15,
    "manuals": 0.08,
    "gist": 0.05,
}
MADE = {"invented": RELATIONS, "manuals": MANUAL}  # kinds of documents that are made up when they are drawn
LONG_KINDS = {"long": 0.75, "gist": 0.25}
READ_KINDS = {
    "people": 0.35,
    "written": 0.25,
    "long": 0.17,
    "tables": 0.1,
    "rules": 0.1,
    "lists": 0.05,
    "invented": 0.02,
    "manuals": 0.03,
    "gist": 0.04,
    "other-languages": 0.05,
}
SWAPPED = {"people": 0.4, "written": 0.3, "rules": 0.3, "lists": 0.3, "tables": 0.4}

Encode = Callable[[str], list[int]]


class Episode(NamedTuple):
    title: str
    text: str
    questions: list[QA]
    beyond: Sequence[QA] = ()  # close to them, but not answered here


class Batch(NamedTuple):
    inputs: Tensor  # [D, S, T] document segments
    targets: Tensor  # [D, S, T]
    questions: Tensor  # [D n, Q] prompt and answer
    labels: Tensor  # [D n, Q] the answer's tokens, IGNORE elsewhere
    beside: Tensor  # [B, 2, W] of the first B documents text, questions and answers; and the weight of each token
    reading: Tensor  # [R, 2, L + 1] the same of other documents, packed: for rows without a delta

    def split(self, parts: int) -> list[Batch]:
        """At most so many batches of about as many documents each; the reading, if any, is one of its own."""
        each = -(-len(self.inputs) // parts) if len(self.inputs) else 1
        n = len(self.questions) // max(1, len(self.inputs))
        none = self.reading[:0]
        documents = []
        for start in range(0, len(self.inputs), each):
            part, asked = slice(start, start + each), slice(start * n, (start + each) * n)
            documents.append(
                Batch(
                    self.inputs[part],
                    self.targets[part],
                    self.questions[asked],
                    self.labels[asked],
                    self.beside[part],
                    none,
                )
            )
        alone = Batch(
            self.inputs[:0], self.targets[:0], self.questions[:0], self.labels[:0], self.beside[:0], self.reading
        )
        return [*documents, alone] if len(self.reading) else documents


class Shape(NamedTuple):
    """Of a batch."""

    segments: int  # a document
    documents: int
    questions: int  # a document
    width: int  # tokens of a question and its answer

    @classmethod
    def read(cls, text: str) -> list[Shape]:
        """ "1x64x4x72,1x64x2x144" -> two shapes."""
        return [cls(*map(int, part.split("x"))) for part in text.split(",") if part]


@dataclass(frozen=True)
class Reading:
    """Rows without a delta."""

    rows: int = 0
    length: int = 1024
    shortest: int = 40  # words of a text, log-uniform up to `longest`
    longest: int = 420
    ask: float = 0.08  # share of the texts whose reader has to ask
    complete: float = 0.05  # share of follow-up questions to be made whole
    unanswerable: float = 0.25  # chance that one of a text's questions is not answered by it
    typed: float = 0.2  # share of the questions written as people type
    context: int = 4  # weight of a token of the text, in tenths
    answer: int = 40
    kinds: Mapping[str, float] = field(default_factory=lambda: READ_KINDS)
    swaps: Mapping[str, float] = field(default_factory=lambda: SWAPPED)


def read_shares(text: str) -> dict[str, float]:
    """ "people=0.5,rules=0.27" -> by kind. Raises: Refused."""
    shares = {}
    for part in filter(None, text.split(",")):
        kind, _, share = part.partition("=")
        if kind not in READ_KINDS or not share.replace(".", "", 1).isdigit():
            raise Refused(f"'{part}' is no kind with its share; kinds are {', '.join(READ_KINDS)}.")
        shares[kind] = float(share)
    return shares


# -- drawing a document ------------------------------------------------------------------------------------------------


def draw(
    material: Material,
    rng: random.Random,
    words: int,
    kinds: Mapping[str, float],
    swaps: Mapping[str, float] = SWAPPED,
) -> Episode:
    """A document of at most about so many words, with at least one question; of some kinds a share has its words
    swapped."""
    shares = {kind: share for kind, share in kinds.items() if kind in MADE or material.passages.get(kind)}
    while True:
        kind = rng.choices(list(shares), list(shares.values()))[0]
        if kind in MADE:
            made = invented_document(rng, max(1, round(words * TOKENS_OF_A_WORD) // 22), MADE[kind])
            glue = rng.choice((" ", " ", "\n", "\n\n"))
            episode = Episode(made.title, glue.join(made.sentences), list(chain.from_iterable(made.questions)))
        else:
            episode = compose_document(material.passages[kind], rng, words)
        if episode.questions:
            break
    if rng.random() >= swaps.get(kind, 0.0):
        return episode
    other = Episode(*swapped(*episode[:3], material.words, rng, things=0.1))
    pairs = zip(episode.questions, other.questions, strict=True)
    about_others = [QA(before.question, NOT_IN_TEXT) for before, after in pairs if before.question != after.question]
    return other._replace(beyond=about_others)


def compose_document(passages: Sequence[Passage], rng: random.Random, words: int) -> Episode:
    """A passage, or a part of it, and as many others as there is room for: neighbours or any. Passages of an article
    stay with it."""
    longest = max(1, int(words * rng.uniform(*PART))) if rng.random() < MIXED else words  # a part
    place = rng.randrange(len(passages))
    first = excerpt(passages[place], rng, longest)
    parts = [first]
    size = len(first.text.split())
    while words - size > 20 and rng.random() < 0.9:
        neighbour = rng.random() < 0.5 or first.title
        place = (place + 1) % len(passages) if neighbour else rng.randrange(len(passages))
        if passages[place].title != first.title:
            break
        more = excerpt(passages[place], rng, min(words - size, longest))
        parts.append(more)
        size += max(1, len(more.text.split()))
    if rng.random() < 0.3:
        rng.shuffle(parts)
    title = first.title if first.title and rng.random() < 0.8 else rng.choice(TITLES)
    questions: list[QA] = []
    beyond: list[QA] = []
    for part in parts:
        questions += rng.sample(part.questions, min(8, len(part.questions)))
        beyond += part.beyond
    return Episode(title, "\n".join(filter(None, (part.text for part in parts))), questions, beyond)


def excerpt(passage: Passage, rng: random.Random, words: int) -> Passage:
    """The passage, or neighbouring sentences, of a table lines, of at most so many words with the questions whose
    answers stand there."""
    if len(passage.text.split()) <= words:
        return passage
    between = "\n" if passage.kind == "tables" else " "
    split = passage.text.splitlines() if passage.kind == "tables" else sentences(passage.text)
    sizes = [len(s.split()) for s in split]
    first = rng.randrange(len(split))
    stop = first
    while stop < len(split) and sum(sizes[first : stop + 1]) <= words:
        stop += 1
    while first > 0 and sum(sizes[first - 1 : stop]) <= words:
        first -= 1
    text = between.join(split[first:stop])
    around = between.join([*split[:first], *split[stop:]])
    inside, outside = [], []
    for q in passage.questions:
        if stands_in(q.answer, text):
            inside.append(q)
        elif stands_in(q.answer, around):
            outside.append(QA(q.question, NOT_IN_TEXT))
    return passage._replace(text=text, questions=inside, beyond=outside)


def stranger(episode: Episode, others: Sequence[Episode], rng: random.Random) -> QA | None:
    """A question that an episode does not answer: one beyond it, or of some other episodes' the one that has most words
    in common with its text."""
    if episode.beyond and rng.random() < 0.6:
        return rng.choice(list(episode.beyond))
    words = normalise(episode.text)
    text, known = f" {' '.join(words)} ", set(words)
    best, closest = -1.0, None
    for other in rng.sample(others, min(OTHERS, len(others))):
        if other is episode:
            continue
        q = rng.choice(other.questions)
        wanted = list(filterfalse(STOP_WORDS.__contains__, normalise(q.question)))
        share = sum(map(known.__contains__, wanted)) / max(len(wanted), TELLING)
        answered = f" {' '.join(normalise(q.answer))} " in text
        if share > best and not answered:
            best, closest = share, QA(q.question, NOT_IN_TEXT)
    return closest


# -- tensors -----------------------------------------------------------------------------------------------------------


def encode_document(
    episode: Episode, encode: Encode, fmt: ChatFormat, segment: int, limit: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Inputs and targets of at most `limit` tokens, in segments."""
    return segments(encode(section_text(episode.text))[:limit], fmt.heading(episode.title), segment, fmt.pad_id)


def conversation(text: str, asked: Sequence[QA], fmt: ChatFormat, weigh: Reading) -> tuple[list[int], list[int]]:
    """A text and questions about it with their answers, as one conversation: tokens and their weights, in tenths. What
    stands before the first answer counts as the text; the marks between do not count."""
    ids: list[int] = []
    weights: list[int] = []
    for turn, q in enumerate(asked):
        prompt = fmt.next_question(q.question) if turn else fmt.in_context(text, q.question)
        answer = fmt.answer(q.answer)
        ids += [*prompt, *answer]
        weights += [0 if turn else weigh.context] * len(prompt) + [weigh.answer] * len(answer)
    return ids, weights


def make_batch(
    episodes: Sequence[Episode],
    encode: Encode,
    fmt: ChatFormat,
    shape: Shape,
    *,
    segment: int,
    rng: random.Random,
    strangers: float,
    typed: float = 0.0,
    beside: float = 0.0,
    reading: Tensor | None = None,
) -> Batch:
    """Tensors of a batch; documents and questions are cut or padded to the shape. `beside`: share of the documents
    whose text is read beside their delta, too."""
    most = shape.segments
    documents, rows, labels = [], [], []
    for e in episodes:
        documents.append(encode_document(e, encode, fmt, segment, most * segment))
        fits = len(e.questions) >= shape.questions
        asked = rng.sample(e.questions, shape.questions) if fits else rng.choices(e.questions, k=shape.questions)
        if rng.random() < strangers and (unanswered := stranger(e, episodes, rng)):
            asked[rng.randrange(len(asked))] = unanswered
        for q in asked:
            question = as_typed(q.question, rng) if rng.random() < typed else q.question
            prompt, answer = fmt.closed_book(question), fmt.answer(q.answer)
            room = shape.width - len(prompt)
            row = (prompt + answer)[: shape.width]
            rows.append(row + [fmt.pad_id] * (shape.width - len(row)))
            goal = ([IGNORE] * len(prompt) + answer)[: shape.width] if room > 0 else [IGNORE] * shape.width
            labels.append(goal + [IGNORE] * (shape.width - len(goal)))
    width = most * segment + 2 * shape.width
    both = [text_beside(e, fmt, rng, width) for e in episodes[: round(beside * len(episodes))]]
    return Batch(
        *stack_segments(documents, segment, fmt.pad_id, most),
        torch.tensor(rows),
        torch.tensor(labels),
        torch.tensor(both, dtype=torch.long).view(len(both), 2, width),
        torch.zeros(0, 2, 2, dtype=torch.long) if reading is None else reading,
    )


def text_beside(episode: Episode, fmt: ChatFormat, rng: random.Random, width: int) -> list[list[int]]:
    """[2, width]: the document, or most of it, and some questions whose answers may stand in the missing part; and
    what each token weighs, in tenths."""
    split = sentences(episode.text)
    if len(split) > 2 and rng.random() < 0.4:
        size = max(1, round(len(split) * rng.uniform(0.4, 0.9)))
        first = rng.randint(0, len(split) - size)
        split = split[first : first + size]
    asked = rng.sample(episode.questions, min(4, len(episode.questions)))
    weigh = Reading(context=0, answer=10)
    while True:
        ids, weights = conversation(" ".join(split), asked, fmt, weigh)
        if len(ids) <= width or len(asked) == 1:
            break
        asked = asked[:-1]
    ids, weights = ids[:width], weights[:width]
    pad = width - len(ids)
    return [ids + [fmt.pad_id] * pad, weights + [0] * pad]


def reading_rows(material: Material, fmt: ChatFormat, rng: random.Random, config: Reading) -> Tensor:
    """[R, 2, L + 1] tokens and weights in tenths, drawn anew each time and filled to the end."""
    rows = []
    for _ in range(config.rows):
        ids: list[int] = []
        weights: list[int] = []
        while len(ids) <= config.length:
            more_ids, more_weights = reading_example(material, fmt, rng, config)
            ids, weights = ids + more_ids, weights + more_weights
        rows.append([ids[: config.length + 1], weights[: config.length + 1]])
    return torch.tensor(rows, dtype=torch.long).view(config.rows, 2, config.length + 1)


def reading_example(
    material: Material, fmt: ChatFormat, rng: random.Random, config: Reading
) -> tuple[list[int], list[int]]:
    """One text with questions to answer, a text to ask about, or a follow-up to be made whole."""
    if material.follow_ups and rng.random() < config.complete:
        follow_up = rng.choice(material.follow_ups)
        history = "\n".join([*follow_up.history, follow_up.question])
        return conversation(history, [QA(COMPLETE, follow_up.rewrite)], fmt, config)
    words = int(config.shortest * (config.longest / config.shortest) ** rng.random())
    episode = draw(material, rng, words, config.kinds, config.swaps)
    text = f"{episode.title}\n\n{episode.text}" if rng.random() < 0.3 else episode.text
    if rng.random() < config.ask:
        q = rng.choice(episode.questions)
        if "?" in q.question:
            return conversation(text, [QA(ASK, f"{q.question} {q.answer}")], fmt, config)
    asked = rng.sample(episode.questions, min(len(episode.questions), rng.choice((1, 2, 4, 6))))
    if episode.beyond and rng.random() < config.unanswerable:
        asked.insert(rng.randint(0, len(asked)), rng.choice(list(episode.beyond)))
    for n, q in enumerate(asked):
        if rng.random() < config.typed:
            asked[n] = QA(as_typed(q.question, rng), q.answer)
    return conversation(text, asked, fmt, config)


class Drawn(NamedTuple):
    batch: Batch
    seconds: float  # that drawing it took


@dataclass
class EpisodeBatches(torch.utils.data.Dataset[Drawn]):
    """Batches by number, without end: the n-th is the same whoever draws it, and after which other ones."""

    material: Material
    tokenizer: Any
    shapes: Sequence[Shape]  # in turn; without any a batch holds nothing but rows to read
    segment: int  # tokens
    seed: str  # of this stream
    kinds: Mapping[str, float] = field(default_factory=lambda: KINDS)  # of documents
    swaps: Mapping[str, float] = field(default_factory=lambda: SWAPPED)  # share of a kind with its words swapped
    strangers: float = 0.0
    typed: float = 0.0
    beside: float = 0.0
    reading: Reading = Reading()

    @cached_property
    def fmt(self) -> ChatFormat:
        return format_for(self.tokenizer, prepared=True)

    def __getitem__(self, number: int) -> Drawn:
        began = time.perf_counter()
        rng = random.Random(f"{self.seed} {number}")
        encode = lru_cache(1024)(lambda text: self.tokenizer.encode(text, add_special_tokens=False))
        reading = reading_rows(self.material, self.fmt, rng, self.reading)
        if self.shapes:
            shape = self.shapes[number % len(self.shapes)]
            batch = make_batch(
                [self._document(rng, shape, encode) for _ in range(shape.documents)],
                encode,
                self.fmt,
                shape,
                segment=self.segment,
                rng=rng,
                strangers=self.strangers,
                typed=self.typed,
                beside=self.beside,
                reading=reading,
            )
        else:
            no_document, no_question = (torch.zeros(shape, dtype=torch.long) for shape in ((0, 1, 1), (0, 1)))
            batch = Batch(no_document, no_document, no_question, no_question, reading[:0], reading)
        return Drawn(batch, time.perf_counter() - began)

    def _document(self, rng: random.Random, shape: Shape, encode: Encode) -> Episode:
        """A document that fits into the shape's segments, so that no question asks for what was cut."""
        has_long = any(self.material.passages.get(kind) for kind in LONG_KINDS)
        kinds = LONG_KINDS if shape.width >= LONG and has_long else self.kinds
        while True:
            tokens = shape.segments * (self.segment - 16) * rng.uniform(*SIZE)
            episode = draw(self.material, rng, max(8, int(tokens / TOKENS_OF_A_WORD)), kinds, self.swaps)
            room = self.segment - len(self.fmt.heading(episode.title))
            if len(encode(section_text(episode.text))) <= shape.segments * room:
                return episode
