"""The instrument: the same questions under every condition, on documents in SQuAD's format.

A real Service answers, on a temporary folder with the real index and weights; only the conditions that put a text into
the prompt, as if somebody knew where to look, ask the engine themselves.

base            the model as it is, closed book: a channel that knows nothing
learned         a channel that knows the document; the base model's answer where no section is about the question
weights         the same, with the document named by the asker: its weights answer whatever the question
wrong_document  another document, named by the asker: what a gain would be worth without its document
elsewhere       a channel that knows only another document: what learning spoils
in_context      the gold paragraph (else as much of it as fits) in the prompt: as if somebody knew where to look
document        the document in the prompt, as much of it as fits
retrieval       the best chunks by BM25 in the prompt
both            as with ENGRAM_GROUND=true: the sections' text in the prompt and their weights attached, document named
unrelated       the gold paragraph in the prompt and another document's weights attached: what those spoil
together        (on demand) all documents in one channel; and a conversation, in which each document's questions follow
                one another in a thread of its own
general         (on demand) questions about none of the documents that the base model has right: what learning loses

Every answer is written down as it comes, so that a run that was stopped can be resumed.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from core.errors import Refused
from core.evaluation.journal import Journal, Reply
from core.evaluation.report import RIGHT, f1_scores, mean, report, share_lost
from core.evaluation.served import Served, pages_of, serve
from core.evaluation.statistics import bootstrap
from core.ports import Ask, Engine, Learned
from core.squad import Article, Question, read_squad
from core.types import Answer, Chunk, Document

CONDITIONS = (
    "base", "learned", "wrong_document", "elsewhere", "in_context", "document", "retrieval", "both", "unrelated",
)  # fmt: skip
UNLEARNED = ("base", "in_context", "document")  # these learn nothing
STRANGER = ("wrong_document", "elsewhere", "unrelated")  # these learn the document before
BATCH = 16  # questions at once
TOGETHER = "together"  # the channel that knows all documents
NOBODY = "nobody"  # the channel that knows none
Progress = Callable[[str, int, int], None]
Place = tuple[int, int]  # a document, or -1 for none; which of its questions


class Bench:
    """Articles, a service that learns and is asked about them, and the journal of answers.

    Args:
        retrieved: chunks in the prompt of `retrieval`.
        batch: questions at once.
    """

    def __init__(
        self,
        served: Served,
        articles: Sequence[Article],
        journal: Journal,
        progress: Progress,
        *,
        retrieved: int = 1,
        batch: int = BATCH,
    ) -> None:
        self.served, self.journal, self.progress = served, journal, progress
        self.count = len(articles)
        self.articles = [*articles, _invented()] if len(articles) == 1 else [*articles]
        self.retrieved, self.batch = retrieved, batch
        self.conditions: dict[str, Callable[[int, Question], Awaitable[Reply]]] = {
            "base": self._base,
            "learned": self._learned,
            "weights": self._weights,
            "wrong_document": lambda n, question: self._weights(self._stranger(n), question),
            "elsewhere": lambda n, question: self._learned(self._stranger(n), question),
            "in_context": lambda n, question: self._in_prompt(question, question.context),
            "document": lambda n, question: self._in_prompt(question, "\n".join(self.articles[n].text)),
            "retrieval": self._retrieval,
            "both": self._both,
            "unrelated": self._unrelated,
        }

    # One document, one condition

    async def ask(self, n: int, condition: str) -> list[Reply]:
        """Every question of a document under a condition."""
        return (await self._ask([n], condition))[0]

    async def ask_all(self, condition: str) -> list[list[Reply]]:
        """The same of every document, in batches that know no document."""
        return await self._ask(range(self.count), condition)

    async def _ask(self, documents: Sequence[int], condition: str) -> list[list[Reply]]:
        """A row of replies for each of the documents."""
        one = self.conditions[condition]
        asks: dict[str, Callable[[], Awaitable[Reply]]] = {}
        for n in documents:
            of_document = {
                f"{n}/{condition}/{i}": partial(one, n, question)
                for i, question in enumerate(self.articles[n].questions)
            }
            if not of_document.keys() <= self.journal.replies.keys():
                await self._prepare(n, condition)
            asks |= of_document
        await self._answer(
            asks, lambda done: self._tell(condition, documents[0], done * len(documents), max(1, len(asks)))
        )
        return [
            [self.journal.replies[f"{n}/{condition}/{i}"] for i in range(len(self.articles[n].questions))]
            for n in documents
        ]

    async def _prepare(self, n: int, condition: str) -> None:
        """Learn what a condition needs, so that its answers' time does not hold it."""
        if condition in STRANGER:
            await self.learn(self._stranger(n))
        elif condition not in UNLEARNED:
            await self.learn(n)

    async def learn(self, n: int) -> Document:
        """A document in a channel of its own; learned now, unless it was."""
        document = await self.served.learn(
            own(n), n, self.articles[n], lambda done, total: self._tell("learning", n, done, total)
        )
        if str(n) not in self.journal.learned and self.articles[n].questions:
            self.journal.add_learned(str(n), _learning_figures(document))
        return document

    def _stranger(self, n: int) -> int:
        """The document before this one."""
        return (n - 1) % len(self.articles)

    async def _base(self, n: int, question: Question) -> Reply:
        return await self._served(NOBODY, question)

    async def _learned(self, n: int, question: Question) -> Reply:
        await self.learn(n)
        return await self._served(own(n), question)

    async def _weights(self, n: int, question: Question) -> Reply:
        return await self._served(own(n), question, document=(await self.learn(n)).id)

    async def _both(self, n: int, question: Question) -> Reply:
        document = await self.learn(n)
        answer = await self.served.grounded.ask(own(n), question.text, document=document.id)
        return self._reply(own(n), answer)

    async def _served(self, channel: str, question: Question, **where: str) -> Reply:
        """where: `document` and `thread` of Service.ask."""
        answer = await self.served.service.ask(channel, question.text, **where)
        return self._reply(channel, answer)

    def _reply(self, channel: str, answer: Answer) -> Reply:
        """What a person reads first: the learned answer, else the base model's."""
        shown = answer.learned or answer.base
        number = self.served.number(channel, answer.document.id) if answer.document else None
        return Reply(shown.text, 0.0, answer.prompt_tokens, shown.confidence, number)

    async def _in_prompt(self, question: Question, text: str, **attached: Any) -> Reply:
        """A text beside the question. attached: the weights of a section, if any, and their learner."""
        ask = Ask(question.text, context=self.shorten(text), **attached)
        (completion,), (tokens,) = await self.served.runner.device.answer([ask])
        return Reply(completion.text, 0.0, tokens.whole, completion.confidence)

    async def _retrieval(self, n: int, question: Question) -> Reply:
        await self.learn(n)
        hits = await self.served.index.candidates(own(n), question.text, limit=self.retrieved)
        in_order = sorted(hits, key=lambda hit: hit.chunk)
        return await self._in_prompt(question, "\n".join(hit.text for hit in in_order))

    async def _unrelated(self, n: int, question: Question) -> Reply:
        other = self._stranger(n)
        record = (await self.learn(other)).weights
        [hit] = await self.served.index.candidates(own(other), question.text, limit=1)
        engine = self.served.engine
        weights = self.served.weights.load(record, own(other), base=engine.fingerprint, section=hit.section)
        return await self._in_prompt(question, question.context, weights=weights, learner=record.learner)

    def shorten(self, text: str) -> str:
        """As much of a context as the model's window takes."""
        tokenizer, room = self.served.engine.base.tokenizer, self.served.engine.context_tokens
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return text if len(ids) <= room else tokenizer.decode(ids[:room])

    async def _answer(
        self, asks: Mapping[str, Callable[[], Awaitable[Reply]]], tick: Callable[[int], None] = lambda done: None
    ) -> None:
        """Ask what was not answered yet, a batch at a time, and write it down."""
        new = [key for key in asks if key not in self.journal.replies]
        for start in range(0, len(new), self.batch):
            keys = new[start : start + self.batch]
            await self._write_down({key: asks[key] for key in keys})
            tick(len(asks) - len(new) + start + len(keys))

    async def _write_down(self, asks: Mapping[str, Callable[[], Awaitable[Reply]]]) -> None:
        """Ask these at once; each gets an equal share of the time."""
        began = time.perf_counter()
        replies = await asyncio.gather(*(ask() for ask in asks.values()))
        seconds = (time.perf_counter() - began) / len(asks)
        for key, reply in zip(asks, replies, strict=True):
            self.journal.add(key, replace(reply, seconds=seconds))

    def _tell(self, stage: str, n: int, done: int, total: int) -> None:
        whole = 100 * self.count
        self.progress(stage, min(whole, n * 100 + 100 * done // max(1, total)), whole)

    # All documents in one channel

    async def together(self) -> dict[str, Any]:
        """Whose weights answered, what that costs in F1, and how each document's F1 holds as the channel grows; the
        same in a conversation, and where another document answered last."""
        sizes = sorted({n for n in (1, 2, 5, 10, 20, 50, 100) if n < self.count} | {self.count})
        retention: list[list[float]] = []
        for size in sizes:
            chosen = await self._in_channel(size)
            retention.append([mean([scores]) for scores in self._scores(chosen)])
            self.progress(TOGETHER, 100 * size, 100 * self.count)
        alone = mean(self._all_scores(await self.ask_all("learned")))
        return {
            **self._shares(chosen, alone),
            "alone_f1": alone,
            "retention": {"documents": sizes, "f1": retention},  # a row for each size of the channel
            "conversation": self._shares(await self._conversation(), alone),
            "other_thread": self._shares(await self._other_thread(), alone),
        }

    def _places(self, size: int) -> dict[Place, Question]:
        """Every question of the first so many documents."""
        articles = self.articles[: min(size, self.count)]
        return {(n, i): question for n, article in enumerate(articles) for i, question in enumerate(article.questions)}

    async def _grow(self, size: int) -> None:
        """The channel comes to know the first so many documents."""
        for n in range(size):
            await self.learn(n)
            await self.served.learn(TOGETHER, n, self.articles[n])

    async def _in_channel(self, size: int) -> dict[Place, Reply]:
        places = self._places(size)
        keys = {place: f"together/{size}/{place[0]}/{place[1]}" for place in places}
        if missing := {place for place, key in keys.items() if key not in self.journal.replies}:
            await self._grow(size)
            await self._answer({keys[place]: partial(self._served, TOGETHER, places[place]) for place in missing})
        return {place: self.journal.replies[key] for place, key in keys.items()}

    async def _conversation(self) -> dict[Place, Reply]:
        """Each document's questions one after another, in a thread of its own, all threads at once."""
        places = self._places(self.count)
        keys = {place: f"conversation/{place[0]}/{place[1]}" for place in places}
        stopped = {
            n for (n, _), key in keys.items() if key not in self.journal.replies
        }  # begun anew: the thread is gone
        if stopped:
            await self._grow(self.count)
        for turn in range(1 + max(i for _, i in places)):
            now = [(n, i) for n, i in places if i == turn and n in stopped]
            if now:
                await self._write_down(
                    {
                        keys[n, i]: partial(self._served, TOGETHER, places[n, i], thread=f"conversation {n}")
                        for n, i in now
                    }
                )
            self.progress("conversation", sum(i <= turn for _, i in places), len(places))
        return {place: self.journal.replies[key] for place, key in keys.items()}

    async def _other_thread(self) -> dict[Place, Reply]:
        """Each question in a thread where the document before its own answered last."""
        places = self._places(self.count)
        keys = {place: f"other thread/{place[0]}/{place[1]}" for place in places}
        stopped = {n for (n, _), key in keys.items() if key not in self.journal.replies}
        if stopped:
            await self._grow(self.count)
        service, last = self.served.service, {}
        for n in stopped:
            before = (n - 1) % self.count
            named = self.served.documents[TOGETHER, before].id
            question = self.articles[before].questions[0].text
            last[n] = (await service.ask(TOGETHER, question, document=named)).id

        async def after_another(n: int, i: int) -> Reply:
            thread = f"other thread {n} {i}"
            await service.placed(TOGETHER, last[n], thread)
            return await self._served(TOGETHER, places[n, i], thread=thread)

        for turn in range(1 + max(i for _, i in places)):  # one question of each document: its `last` is in one thread
            if now := [(n, i) for n, i in places if i == turn and n in stopped]:
                await self._write_down({keys[n, i]: partial(after_another, n, i) for n, i in now})
        return {place: self.journal.replies[key] for place, key in keys.items()}

    def _shares(self, chosen: Mapping[Place, Reply], alone: float) -> dict[str, Any]:
        """Whose weights answered, in percent, and what is left of the F1 that the documents have alone."""
        scores = self._scores(chosen)
        return {
            "right_document": mean([[100.0 * (reply.document == n) for (n, _), reply in chosen.items()]]),
            "no_document": mean([[100.0 * (reply.document is None) for reply in chosen.values()]]),  # the base model
            "f1": mean(scores),
            "f1_interval": [round(v, 2) for v in bootstrap(scores)],
            "fall": round(100 * (1 - mean(scores) / alone), 2) if alone else 0.0,  # percent of what it is alone
        }

    def _scores(self, chosen: Mapping[Place, Reply]) -> list[list[float]]:
        """F1 of each document's questions, in percent."""
        size = 1 + max(n for n, _ in chosen)
        return self._all_scores(
            [[chosen[n, i] for i in range(len(a.questions))] for n, a in enumerate(self.articles[:size])]
        )

    def _all_scores(self, replies: Sequence[Sequence[Reply]]) -> list[list[float]]:
        return [f1_scores(given, article) for given, article in zip(replies, self.articles, strict=False)]

    # Questions about none of the documents

    async def general(self, questions: Sequence[Question], *, together: bool) -> dict[str, float]:
        """Of the questions that the base model has right, the percentage that is lost where one of the documents is
        known, each in turn, and `together`, where all are."""
        tick = lambda done: self.progress("general", done, len(questions))  # noqa: E731
        keys = [f"general/base/{i}" for i in range(len(questions))]
        await self._answer(
            {key: partial(self._served, NOBODY, q) for key, q in zip(keys, questions, strict=True)}, tick
        )
        before = f1_scores([self.journal.replies[key] for key in keys], Article("", (), tuple(questions)))
        right = [i for i, score in enumerate(before) if score >= RIGHT]

        async def lost(name: str, one: Callable[[int], Awaitable[Reply]]) -> dict[str, float]:
            keys = {i: f"general/{name}/{i}" for i in right}
            await self._answer({key: partial(one, i) for i, key in keys.items()}, tick)
            asked = Article("", (), tuple(questions[i] for i in right))
            after = f1_scores([self.journal.replies[key] for key in keys.values()], asked)
            return share_lost([[before[i] for i in right]], [after])

        for n in range(min(self.count, len(right))):
            await self.learn(n)
        figures = await lost("alone", lambda i: self._learned(i % self.count, questions[i]))
        if together:
            await self._grow(self.count)
            figures["lost_together"] = (await lost(TOGETHER, lambda i: self._served(TOGETHER, questions[i])))["lost"]
        return figures


def own(n: int) -> str:
    """The channel that knows this document alone."""
    return f"document {n}"


async def run(
    load: Callable[[], Engine],
    squad_path: Path,
    documents: int | None = None,
    progress: Progress = lambda stage, done, total: None,
    *,
    conditions: Sequence[str] = CONDITIONS,
    retrieved: int = 1,
    together: bool = False,
    general: Path | None = None,
    answers_file: Path | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Figures in percent for each condition, with 95 % bootstrap intervals clustered by document, and what was gained
    and lost against the base model; seconds to learn, seconds a question, megabytes of weights, prompt tokens.

    Args:
        load: gives the engine; called once, in the device's thread.
        retrieved: chunks in the prompt of `retrieval`.
        together: also all documents in one channel.
        general: questions about none of the documents; also what is lost of those that the base model has right.
        answers_file: where answers are written down as they come; with `resume` those found there are not asked again.

    Raises: Refused, SetupError.
    """
    if unknown := set(conditions) - set(CONDITIONS):
        raise Refused(f"There is no condition '{min(unknown)}'; choose from {', '.join(CONDITIONS)}.")
    articles = [a for a in read_squad(squad_path) if a.questions][:documents]
    if not articles:
        raise Refused(f"'{squad_path.name}' holds no questions with answers.")
    strange = [q for a in read_squad(general) for q in a.questions] if general else []
    began = time.time()
    async with serve(load) as served:
        engine = served.engine
        settings = {
            "squad": _sha256(squad_path.read_bytes()),
            "documents": len(articles),
            "model": engine.fingerprint,
            "engine": _sha256(str(engine.config).encode()),  # there may be a key in it
            "retrieved": retrieved,
            **({"general": _sha256(general.read_bytes())} if general else {}),
        }
        with Journal(answers_file, settings, resume=resume) as journal:
            bench = Bench(served, articles, journal, progress, retrieved=retrieved)
            by_document = [{c: await bench.ask(n, c) for c in conditions} for n in range(len(articles))]
            channel = {"together": await bench.together()} if together else {}
            lost = {"general": await bench.general(strange, together=together)} if general else {}
        learning = [journal.learned[n] for n in sorted(journal.learned, key=int)]
        return {
            "documents": len(articles),
            "questions": sum(len(a.questions) for a in articles),
            "tokens": sum(chunk.token_count for a in articles for chunk in engine.chunk(pages_of(a))),
            "model": engine.name,
            "learner": engine.learner,
            "chunk_size": engine.chunk_size,
            "retrieved": retrieved,
            **report(articles, {c: [given[c] for given in by_document] for c in conditions}),
            **channel,
            **lost,
            "seconds": time.time() - began,
            "learning_seconds": sum(x["seconds"] for x in learning),
            "loss": [x["loss"] for x in learning],
            "megabytes": sum(x["megabytes"] for x in learning) / max(1, len(learning)),
            "peak_memory_mb": peak_memory_mb(engine),
            "answers": [
                {"question": q.text, "gold": list(q.answers), **{c: given[c][i].text for c in conditions}}
                for a, given in zip(articles, by_document, strict=True)
                for i, q in enumerate(a.questions)
            ],
        }


def learn(
    engine: Engine, chunks: Sequence[Chunk], title: str, tick: Callable[[int, int], None] = lambda done, total: None
) -> tuple[Learned, float]:
    """What was learned, and how many seconds it took."""
    began = time.perf_counter()
    steps = engine.learn(chunks, title=title)
    while True:
        try:
            step = next(steps)
            tick(step.done, step.total)
        except StopIteration as end:
            return end.value, time.perf_counter() - began


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _learning_figures(document: Document) -> dict[str, Any]:
    return {
        "seconds": document.metrics.seconds,
        "loss": [document.metrics.initial_loss, document.metrics.final_loss],
        "megabytes": document.weights.bytes / 2**20,
    }


def _invented() -> Article:
    """A document of invented facts, when the set has only one document."""
    import random

    from core.prepare.invented import invented_document

    made = invented_document(random.Random(3), 30)
    return Article(made.title, (" ".join(made.sentences),), ())


def peak_memory_mb(engine: Any) -> float:
    """Of the GPU's allocator, or of this process."""
    import resource

    import torch

    if engine.base.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
