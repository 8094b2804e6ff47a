"""Episodes for learning to learn: a document, and questions that only it answers.

Documents come from invented facts, from runs of passages of one article, and from human question sets; their length
follows a curriculum. A few questions of every batch are not answered by their document, though that is hard to tell:
they are about the rest of the article, about other names, or of a document with many of the same words. Their answer is
NOT_IN_TEXT: of the sections that are asked together, all but one have to know that it is not theirs.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from core.embedded.corpus import END, PAD, A, Passage, Q, Weights, example
from core.embedded.invented import invented_document
from core.embedded.questions import QA
from core.embedded.swapped import Words, swapped
from core.learning.fast_weights import IGNORE, segments
from core.prompts import NOT_IN_TEXT, PromptFormat
from core.words import normalise, search_words

OTHERS = 100  # other documents' questions, of which the closest is asked
TELLING = 3  # words; "Who led?" has too few to say which document it is about


class Episode(NamedTuple):
    title: str
    text: str
    questions: list[QA]
    beyond: Sequence[QA] = ()  # close to them, but not answered here


class Batch(NamedTuple):
    inputs: Tensor  # [D, S, T] document segments
    targets: Tensor  # [D, S, T]
    questions: Tensor  # [D * n, Q] prompt and answer
    labels: Tensor  # [D * n, Q] the answer's tokens, IGNORE elsewhere
    beside: Tensor  # [B <= D, 2, W] of the first B documents text, questions and answers, and the weight of each token
    reading: Tensor  # [R, 2, L + 1] the same of other documents, packed: for rows without a delta

    def split(self, parts: int) -> list[Batch]:
        """At most so many batches of about as many documents each; the reading, if any, is one of its own."""
        each = -(-len(self.inputs) // parts)
        n = len(self.questions) // len(self.inputs)
        none = self.reading[:0]
        documents = [
            Batch(
                self.inputs[at : at + each],
                self.targets[at : at + each],
                self.questions[at * n : (at + each) * n],
                self.labels[at * n : (at + each) * n],
                self.beside[at : at + each],
                none,
            )
            for at in range(0, len(self.inputs), each)
        ]
        alone = Batch(*(t[:0] for t in self[:-1]), self.reading)
        return [*documents, alone] if len(self.reading) else documents


@dataclass
class Material:
    """Where documents come from; shares are relative."""

    human: Sequence[Passage] = ()
    passages: Sequence[Passage] = ()  # of one article next to each other
    written: Sequence[Passage] = ()
    shares: dict[str, float] = field(
        default_factory=lambda: {"invented": 0.3, "human": 0.25, "passages": 0.2, "written": 0.25}
    )
    swap: Mapping[str, float] = field(default_factory=dict)  # of these documents so many have their words swapped
    few: int | None = None  # people's questions of one context, at most

    @cached_property
    def words(self) -> Words:
        """To swap with: names of the passages, words of people's answers."""
        return Words((p.text for p in self.passages[::32]), (q.answer for p in self.human for q in p.questions))

    def draw(self, rng: random.Random, tokens: int, shares: Mapping[str, float] | None = None) -> Episode:
        """A document of about so many tokens; `shares` for once instead of its own."""
        shares = shares or self.shares
        kinds = [k for k in shares if k == "invented" or len(getattr(self, k))]
        kind = rng.choices(kinds, [shares[k] for k in kinds])[0]
        if kind == "invented":
            made = invented_document(rng, max(1, tokens // 22))
            glue = rng.choice((" ", " ", "\n", "\n\n"))
            return Episode(made.title, glue.join(made.sentences), [q for qs in made.questions for q in qs])
        episode = run_of(
            getattr(self, kind),
            rng,
            tokens,
            same_title=kind == "passages" or (kind == "written" and rng.random() < 0.5),
            few=self.few if kind == "human" else None,
        )
        if rng.random() >= self.swap.get(kind, 0.0):
            return episode
        made = Episode(*swapped(*episode[:3], self.words, rng))
        pairs = zip(episode.questions, made.questions, strict=True)
        about_others = [before for before, after in pairs if before.question != after.question]
        return made._replace(beyond=[*about_others, *episode.beyond])


def run_of(
    passages: Sequence[Passage], rng: random.Random, tokens: int, *, same_title: bool, few: int | None = None
) -> Episode:
    """Consecutive passages of one title, or random ones, until the length is reached (1.3 tokens a word assumed), with
    all questions, or `few` of each passage. Beyond it are those of the passages before and after, of the same title."""
    words = tokens / 1.35
    for _ in range(20):  # a first passage that fits
        at = rng.randrange(len(passages))
        if passages[at].questions and len(passages[at].text.split()) <= words * 1.15:
            break
    chosen, first = [passages[at]], at
    size = len(passages[at].text.split())
    while size < words * 0.9:
        at = at + 1 if same_title else rng.randrange(len(passages))
        if at >= len(passages) or (same_title and passages[at].title != chosen[0].title):
            if same_title and size > words * 0.5:
                break
            at = rng.randrange(len(passages))
            same_title = False
        more = len(passages[at].text.split())
        if size + more > words * 1.15:
            break
        chosen.append(passages[at])
        size += more
    title = (
        chosen[0].title
        if rng.random() < 0.8 and chosen[0].title not in ("qamr", "nq", "fairy")
        else rng.choice(("Notes", "Document", "Report", "Handbook", "Text"))
    )
    asked = (p.questions if few is None else rng.sample(p.questions, min(few, len(p.questions))) for p in chosen)
    around = [passages[n] for n in (first - 1, first + len(chosen)) if same_title and 0 <= n < len(passages)]
    beyond = [q for p in around if p.title == chosen[0].title for q in p.questions]
    return Episode(title, "\n".join(p.text for p in chosen), [q for some in asked for q in some], beyond)


def encode_document(
    episode: Episode, encode: Callable[[str], list[int]], fmt: PromptFormat, segment: int, limit: int
) -> tuple[list[list[int]], list[list[int]]]:
    return segments(encode(" " + episode.text)[:limit], fmt.heading(episode.title), segment, fmt.pad_id)


def make_batch(
    episodes: Sequence[Episode],
    encode: Callable[[str], list[int]],
    fmt: PromptFormat,
    *,
    segment: int,
    limit: int,
    per_document: int,
    width: int,
    rng: random.Random,
    strangers: float,
    most: int | None = None,
    beside: float = 0.0,
    reading: Tensor | None = None,
) -> Batch:
    """Tensors of a batch; documents are padded with empty segments to the longest, or cut or padded to `most`,
    questions to `width` tokens. `beside`: share of the documents whose text is read beside their delta, too."""
    documents = [encode_document(e, encode, fmt, segment, limit) for e in episodes]
    documents = [(i[:most], t[:most]) for i, t in documents]
    most = most or max(len(i) for i, _ in documents)
    inputs = [i + [[fmt.pad_id] * segment] * (most - len(i)) for i, _ in documents]
    targets = [t + [[IGNORE] * segment] * (most - len(t)) for _, t in documents]
    rows, labels = [], []
    for e in episodes:
        asked = (
            [rng.choice(e.questions) for _ in range(per_document)]
            if len(e.questions) < per_document
            else rng.sample(e.questions, per_document)
        )
        if rng.random() < strangers and (found := stranger(e, episodes, rng)):
            asked[rng.randrange(len(asked))] = found
        for q in asked:
            prompt, answer = fmt.closed_book(q.question), fmt.answer(q.answer)
            row = (prompt + answer)[:width]
            goal = ([IGNORE] * len(prompt) + answer)[:width]
            rows.append(row + [fmt.pad_id] * (width - len(row)))
            labels.append(goal + [IGNORE] * (width - len(goal)))
    both = [text_beside(e, encode, rng, most * segment + 64) for e in episodes[: round(beside * len(episodes))]]
    return Batch(
        torch.tensor(inputs),
        torch.tensor(targets),
        torch.tensor(rows),
        torch.tensor(labels),
        torch.tensor(both, dtype=torch.long).view(len(both), 2, most * segment + 64),
        torch.zeros(0, 2, 2, dtype=torch.long) if reading is None else reading,
    )


def stranger(episode: Episode, others: Sequence[Episode], rng: random.Random) -> QA | None:
    """A question that an episode does not answer: one beyond it, or of some other episodes' the one that has most words
    in common with its text."""
    text = normalise(episode.text)
    said, words = f" {' '.join(text)} ", set(text)
    fits = lambda q: f" {' '.join(normalise(q.answer))} " not in said  # noqa: E731
    beyond = [q for q in episode.beyond if fits(q)]
    if beyond and rng.random() < 0.5:
        return QA(rng.choice(beyond).question, NOT_IN_TEXT)
    best, found = -1.0, None
    for other in rng.sample(others, min(OTHERS, len(others))):
        if other is not episode:
            q = rng.choice(other.questions)
            wanted = [word.casefold() for word in search_words(q.question)]
            share = sum(word in words for word in wanted) / max(len(wanted), TELLING)
            if share > best and fits(q):
                best, found = share, QA(q.question, NOT_IN_TEXT)
    return found


def text_beside(
    episode: Episode, encode: Callable[[str], list[int]], rng: random.Random, width: int
) -> list[list[int]]:
    """[2, width]: a part of the document, or all of it, and some questions, whose answers may stand in another part;
    and what each token weighs, in tenths."""
    ids = encode(episode.text)
    size = round(len(ids) * rng.uniform(0.4, 1.0)) if rng.random() < 0.5 else len(ids)
    at = rng.randint(0, len(ids) - size)
    ids = ids[at : at + size][: width - 64]
    weights = [0] * len(ids)
    for q in rng.sample(episode.questions, min(4, len(episode.questions))):
        asked, answer = [Q, *encode(" " + q.question), A], [*encode(" " + q.answer), END]
        if len(ids) + len(asked) + len(answer) > width:
            break
        ids, weights = ids + asked + answer, weights + [0] * len(asked) + [10] * len(answer)
    pad = [0] * (width - len(ids))
    return [ids + [PAD] * len(pad), weights + pad]


class Plan(NamedTuple):
    """What a batch is made of."""

    documents: int
    tokens: int  # of a document, about
    per_document: int  # questions
    segments: int | None = None  # exactly so many a document, the last ones empty; None: as many as needed


@dataclass(frozen=True)
class Curriculum:
    """Document length in tokens, log-uniform between `shortest` and a maximum that grows with the fraction done."""

    shortest: int = 64
    first: int = 256
    longest: int = 2048
    grown_at: float = 0.5  # fraction of the time at which `longest` is reached
    batch: int = 24_000  # tokens of all documents
    per_document: int = 8

    def draw(self, rng: random.Random, done: float, nth: int = 0) -> Plan:
        top = self.first * (self.longest / self.first) ** min(1.0, done / max(self.grown_at, 1e-6))
        length = int(self.shortest * (top / self.shortest) ** rng.random())
        count = max(2, min(self.batch // length, self.batch // (self.per_document * 40)))
        return Plan(count, length, self.per_document)


@dataclass(frozen=True)
class Shapes:
    """A few shapes of a batch in turn, for code that is compiled for each; all ranks have the same at the same time."""

    shapes: Sequence[tuple[int, int, int]]  # (segments, documents, questions a document)
    segment: int

    @classmethod
    def of(cls, text: str, segment: int) -> Shapes:
        """ "2x96x8,5x38x20" -> two shapes."""
        return cls([(s, d, n) for s, d, n in (map(int, part.split("x")) for part in text.split(","))], segment)

    def draw(self, rng: random.Random, done: float, nth: int) -> Plan:
        """The plan of a worker's `nth` batch."""
        segments, documents, questions = self.shapes[nth % len(self.shapes)]
        tokens = int(segments * (self.segment - 16) * rng.uniform(0.6, 0.97))
        return Plan(documents, tokens, questions, segments)


@dataclass(frozen=True)
class Reading:
    """Rows without a delta, in each batch: what the model must not unlearn."""

    rows: int = 0
    length: int = 1024
    shortest: int = 48  # tokens of a document, log-uniform up to `longest`
    longest: int = 800
    write: float = 0.1  # share of the documents whose reader has to ask, too
    unanswerable: float = 0.1
    weights: Weights = field(default_factory=lambda: Weights(context=4, question=2, answer=40))
    shares: Mapping[str, float] = field(
        default_factory=lambda: {"invented": 0.1, "human": 0.4, "passages": 0.45, "written": 0.05}
    )

    def draw(self, material: Material, encode: Callable[[str], list[int]], rng: random.Random) -> Tensor:
        """[rows, 2, length + 1] tokens and weights in tenths, drawn anew each time and filled to the end."""
        found, strangers = [], []
        for _ in range(self.rows):
            ids, weights = [], []
            while len(ids) <= self.length:
                tokens = int(self.shortest * (self.longest / self.shortest) ** rng.random())
                episode = material.draw(rng, tokens, self.shares)
                if not episode.questions:
                    continue
                kind = "write" if rng.random() < self.write else "read"
                passage = Passage(*episode[:3])
                more = example(passage, strangers, encode, rng, self.weights, kind, self.unanswerable)
                ids, weights, strangers = ids + more[0], weights + more[1], episode.questions
            found.append([ids[: self.length + 1], weights[: self.length + 1]])
        return torch.tensor(found, dtype=torch.long).view(self.rows, 2, self.length + 1)


class EpisodeStream(torch.utils.data.IterableDataset):
    """Endless batches for one rank; each worker draws its own. `done` is shared memory, set by the training loop."""

    def __init__(
        self,
        material: Material,
        tokenizer,
        fmt: PromptFormat,
        curriculum: Curriculum | Shapes,
        *,
        segment: int,
        width: int,
        seed: int,
        strangers: float,
        beside: float = 0.0,
        reading: Reading = Reading(),
    ) -> None:
        self.material, self.tokenizer, self.fmt, self.curriculum = material, tokenizer, fmt, curriculum
        self.segment, self.width, self.seed, self.strangers = segment, width, seed, strangers
        self.beside, self.reading = beside, reading
        self.done = torch.zeros(1).share_memory_()

    def __iter__(self) -> Iterator[Batch]:
        info = torch.utils.data.get_worker_info()
        rng = random.Random(self.seed * 1000 + (info.id if info else 0))
        encode = lambda text: self.tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
        for nth in itertools.count():
            plan = self.curriculum.draw(rng, float(self.done), nth)
            yield make_batch(
                [self._fitting(rng, plan, encode) for _ in range(plan.documents)],
                encode,
                self.fmt,
                segment=self.segment,
                limit=int(plan.tokens * 1.25) + 16,
                per_document=plan.per_document,
                width=self.width,
                rng=rng,
                strangers=self.strangers,
                most=plan.segments,
                beside=self.beside,
                reading=self.reading.draw(self.material, encode, rng),
            )

    def _fitting(self, rng: random.Random, plan: Plan, encode: Callable[[str], list[int]]) -> Episode:
        """A document with questions that fits into the plan's segments, so that no question asks for what was cut."""
        while True:
            episode = self.material.draw(rng, plan.tokens)
            if not episode.questions:
                continue
            room = self.segment - len(self.fmt.heading(episode.title))
            if plan.segments is None or len(encode(" " + episode.text)) <= plan.segments * room:
                return episode
