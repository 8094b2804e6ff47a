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
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from core.errors import Refused
from core.evaluation.journal import Journal, RecordedReply
from core.evaluation.question_sets import asked_articles, read_questions
from core.evaluation.report import RIGHT_F1, f1_scores, mean, report, share_lost
from core.evaluation.served import Served, article_pages, open_service
from core.evaluation.statistics import interval
from core.ports import Ask, Engine, Learned
from core.squad import Article, Question
from core.types import Answer, Chunk, Document, count_tokens

CONDITIONS = (
    "base", "learned", "wrong_document", "elsewhere", "in_context", "document", "retrieval", "both", "unrelated",
)  # fmt: skip
UNLEARNED = ("base", "in_context", "document")  # these learn nothing
OTHER_DOCUMENT = ("wrong_document", "elsewhere", "unrelated")  # these learn the document before
BATCH = 16  # questions at once
SHARED_CHANNEL = "together"  # knows all documents
EMPTY_CHANNEL = "nobody"  # knows none
CONTEXT_TOKENS = 2048  # tokens of a prompt; readers are trained with half of it
QUESTION_TOKENS = 128  # of these, kept for the question
ReportProgress = Callable[[str, int, int], None]  # stage, done, total
QuestionKey = tuple[int, int]  # number of a document, number of its question
Asks = Mapping[str, Callable[[], Awaitable[RecordedReply]]]  # by key in the journal
AskNumber = Callable[[int], Awaitable[RecordedReply]]  # number of a question


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
        progress: ReportProgress,
        *,
        retrieved: int = 1,
        batch: int = BATCH,
    ) -> None:
        self.served, self.journal, self.progress = served, journal, progress
        self.count = len(articles)
        self.articles = [*articles, _invented()] if len(articles) == 1 else [*articles]
        self.retrieved, self.batch = retrieved, batch
        self.conditions: dict[str, Callable[[int, Question], Awaitable[RecordedReply]]] = {
            "base": self._base,
            "learned": self._learned,
            "weights": self._weights,
            "wrong_document": lambda n, question: self._weights(self._other(n), question),
            "elsewhere": lambda n, question: self._learned(self._other(n), question),
            "in_context": lambda n, question: self._in_prompt(question, question.context),
            "document": lambda n, question: self._in_prompt(question, "\n".join(self.articles[n].text)),
            "retrieval": self._retrieval,
            "both": self._both,
            "unrelated": self._unrelated,
        }

    # One document, one condition

    async def ask(self, n: int, condition: str) -> list[RecordedReply]:
        """Every question of a document under a condition."""
        return (await self._ask([n], condition))[0]

    async def ask_all(self, condition: str) -> list[list[RecordedReply]]:
        """The same of every document, in batches that know no document."""
        return await self._ask(range(self.count), condition)

    async def _ask(self, documents: Sequence[int], condition: str) -> list[list[RecordedReply]]:
        """A row of replies for each of the documents."""
        ask_one = self.conditions[condition]
        asks: dict[str, Callable[[], Awaitable[RecordedReply]]] = {}
        keys: list[list[str]] = []
        for n in documents:
            keys.append([])
            for i, question in enumerate(self.articles[n].questions):
                key = f"{n}/{condition}/{i}"
                keys[-1].append(key)
                asks[key] = partial(ask_one, n, question)
            if not self.journal.replies.keys() >= set(keys[-1]):
                await self._prepare(n, condition)

        def tick(done: int) -> None:
            self._tell(condition, documents[0], done * len(documents), max(1, len(asks)))

        await self._answer(asks, tick)
        return list(map(self._replies, keys))

    def _replies(self, keys: Iterable[str]) -> list[RecordedReply]:
        return [self.journal.replies[key] for key in keys]

    async def _prepare(self, n: int, condition: str) -> None:
        """Learn what a condition needs, so that its answers' time does not hold it."""
        if condition in OTHER_DOCUMENT:
            await self.learn(self._other(n))
        elif condition not in UNLEARNED:
            await self.learn(n)

    async def learn(self, n: int) -> Document:
        """A document in a channel of its own; learned now, unless it was."""
        tick = partial(self._tell, "learning", n)
        document = await self.served.learn(channel_of(n), n, self.articles[n], tick)
        if str(n) not in self.journal.learned and self.articles[n].questions:
            self.journal.add_learned(str(n), _learning_figures(document))
        return document

    def _other(self, n: int) -> int:
        """The document before this one."""
        return (n - 1) % len(self.articles)

    async def _base(self, n: int, question: Question) -> RecordedReply:
        return await self._served(EMPTY_CHANNEL, question)

    async def _learned(self, n: int, question: Question) -> RecordedReply:
        await self.learn(n)
        return await self._served(channel_of(n), question)

    async def _weights(self, n: int, question: Question) -> RecordedReply:
        document = await self.learn(n)
        return await self._served(channel_of(n), question, document=document.id)

    async def _both(self, n: int, question: Question) -> RecordedReply:
        document = await self.learn(n)
        answer = await self.served.grounded.ask(channel_of(n), question.text, document=document.id)
        return self._reply(channel_of(n), answer)

    async def _served(self, channel: str, question: Question, **where: str) -> RecordedReply:
        """where: `document` and `thread` of Service.ask."""
        answer = await self.served.service.ask(channel, question.text, **where)
        return self._reply(channel, answer)

    def _reply(self, channel: str, answer: Answer) -> RecordedReply:
        """What a person reads first: the learned answer, else the base model's."""
        shown = answer.learned or answer.base
        number = self.served.number(channel, answer.document.id) if answer.document else None
        return RecordedReply(shown.text, 0.0, answer.prompt_tokens, shown.confidence, number)

    async def _in_prompt(self, question: Question, text: str, **attached: Any) -> RecordedReply:
        """A text beside the question. attached: the weights of a section, if any, and their learner."""
        ask = Ask(question.text, context=self.shorten(text), **attached)
        (completion,), (tokens,) = await self.served.runner.device.answer([ask])
        return RecordedReply(completion.text, 0.0, tokens.total, completion.confidence)

    async def _retrieval(self, n: int, question: Question) -> RecordedReply:
        await self.learn(n)
        hits = await self.served.index.candidates(channel_of(n), question.text, limit=self.retrieved)
        in_order = sorted(hits, key=lambda hit: hit.chunk)
        return await self._in_prompt(question, "\n".join(hit.text for hit in in_order))

    async def _unrelated(self, n: int, question: Question) -> RecordedReply:
        other = self._other(n)
        channel = channel_of(other)
        record = (await self.learn(other)).weights
        [hit] = await self.served.index.candidates(channel, question.text, limit=1)
        base = self.served.engine.fingerprint
        weights = self.served.weights.load(record, channel, base=base, section=hit.section)
        return await self._in_prompt(question, question.context, weights=weights, learner=record.learner)

    def shorten(self, text: str) -> str:
        """As much of a context as the model's window takes."""
        base = self.served.engine.base
        room = min(base.model.config.max_position_embeddings, CONTEXT_TOKENS) - QUESTION_TOKENS
        ids = base.tokenizer.encode(text, add_special_tokens=False)
        return text if len(ids) <= room else base.tokenizer.decode(ids[:room])

    async def _answer(self, asks: Asks, tick: Callable[[int], None] = lambda done: None) -> None:
        """Ask what was not answered yet, a batch at a time, and write it down."""
        new = [key for key in asks if key not in self.journal.replies]
        for start in range(0, len(new), self.batch):
            keys = new[start : start + self.batch]
            await self._write_down({key: asks[key] for key in keys})
            tick(len(asks) - len(new) + start + len(keys))

    async def _write_down(self, asks: Asks) -> None:
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
        sizes = [size for size in (1, 2, 5, 10, 20, 50, 100) if size < self.count]
        sizes.append(self.count)
        retention: list[list[float]] = []
        for size in sizes:
            chosen = await self._in_channel(size)
            retention.append([mean([scores]) for scores in self._scores(chosen)])
            self.progress(SHARED_CHANNEL, 100 * size, 100 * self.count)
        alone = mean(self._all_scores(await self.ask_all("learned")))
        return {
            **self._shares(chosen, alone),
            "alone_f1": alone,
            "retention": {"documents": sizes, "f1": retention},  # a row for each size of the channel
            "conversation": self._shares(await self._conversation(), alone),
            "other_thread": self._shares(await self._other_thread(), alone),
        }

    def _questions(self, size: int) -> dict[QuestionKey, Question]:
        """Every question of the first so many documents."""
        questions = {}
        for n in range(min(size, self.count)):
            for i, question in enumerate(self.articles[n].questions):
                questions[n, i] = question
        return questions

    async def _grow(self, size: int) -> None:
        """The channel comes to know the first so many documents."""
        for n in range(size):
            await self.learn(n)
            await self.served.learn(SHARED_CHANNEL, n, self.articles[n])

    def _recorded(self, setting: str, questions: Iterable[QuestionKey]) -> dict[QuestionKey, RecordedReply]:
        """Those that were answered in a setting."""
        replies = {}
        for n, i in questions:
            reply = self.journal.replies.get(f"{setting}/{n}/{i}")
            if reply is not None:
                replies[n, i] = reply
        return replies

    async def _in_channel(self, size: int) -> dict[QuestionKey, RecordedReply]:
        setting, questions = f"together/{size}", self._questions(size)
        if missing := questions.keys() - self._recorded(setting, questions):
            await self._grow(size)
            asks = {}
            for n, i in missing:
                asks[f"{setting}/{n}/{i}"] = partial(self._served, SHARED_CHANNEL, questions[n, i])
            await self._answer(asks)
        return self._recorded(setting, questions)

    async def _turns(
        self, setting: str, ask: Callable[[int, int], Awaitable[RecordedReply]], documents: Collection[int]
    ) -> dict[QuestionKey, RecordedReply]:
        """The questions of these documents one after another, those of all documents at once."""
        questions = self._questions(self.count)
        for turn in range(1 + max(i for _, i in questions)):
            asks = {}
            for n in documents:
                if (n, turn) in questions:
                    asks[f"{setting}/{n}/{turn}"] = partial(ask, n, turn)
            if asks:
                await self._write_down(asks)
            self.progress(setting, sum(i <= turn for _, i in questions), len(questions))
        return self._recorded(setting, questions)

    async def _unfinished(self, setting: str) -> list[int]:
        """Documents with questions that were not answered; they begin anew, for their threads are gone."""
        questions = self._questions(self.count)
        documents = sorted({n for n, _ in questions.keys() - self._recorded(setting, questions)})
        if documents:
            await self._grow(self.count)
        return documents

    async def _conversation(self) -> dict[QuestionKey, RecordedReply]:
        """Each document's questions one after another, in a thread of its own, all threads at once."""

        async def ask(n: int, i: int) -> RecordedReply:
            question = self.articles[n].questions[i]
            return await self._served(SHARED_CHANNEL, question, thread=f"conversation {n}")

        return await self._turns("conversation", ask, await self._unfinished("conversation"))

    async def _other_thread(self) -> dict[QuestionKey, RecordedReply]:
        """Each question in a thread where the document before its own answered last."""
        documents = await self._unfinished("other thread")
        service, last_answers = self.served.service, {}
        for n in documents:
            before = (n - 1) % self.count
            document = self.served.documents[SHARED_CHANNEL, before].id
            question = self.articles[before].questions[0].text
            last_answers[n] = (await service.ask(SHARED_CHANNEL, question, document=document)).id

        async def ask(n: int, i: int) -> RecordedReply:
            thread = f"other thread {n} {i}"
            await service.placed(SHARED_CHANNEL, last_answers[n], thread)
            return await self._served(SHARED_CHANNEL, self.articles[n].questions[i], thread=thread)

        return await self._turns("other thread", ask, documents)  # in turns: an answer stands in one thread at a time

    def _shares(self, replies: Mapping[QuestionKey, RecordedReply], alone: float) -> dict[str, Any]:
        """Whose weights answered, in percent, and what is left of the F1 that the documents have alone."""
        scores = self._scores(replies)
        right = sum(reply.document == n for (n, _), reply in replies.items())
        none = sum(reply.document is None for reply in replies.values())
        return {
            "right_document": round(100 * right / max(1, len(replies)), 2),
            "no_document": round(100 * none / max(1, len(replies)), 2),  # the base model answered
            "f1": mean(scores),
            "f1_interval": interval(scores),
            "fall": round(100 * (1 - mean(scores) / alone), 2) if alone else 0.0,  # percent of what it is alone
        }

    def _scores(self, replies: Mapping[QuestionKey, RecordedReply]) -> list[list[float]]:
        """F1 of each document's questions, in percent."""
        by_document: defaultdict[int, list[RecordedReply]] = defaultdict(list)
        for (n, _), reply in replies.items():
            by_document[n].append(reply)
        return self._all_scores([by_document[n] for n in range(1 + max(by_document))])

    def _all_scores(self, replies: Sequence[Sequence[RecordedReply]]) -> list[list[float]]:
        return list(map(f1_scores, replies, self.articles))

    # Questions about none of the documents

    async def general(self, questions: Sequence[Question], *, together: bool) -> dict[str, float]:
        """Of the questions that the base model has right, the percentage that is lost where one of the documents is
        known, each in turn, and `together`, where all are."""

        async def scores(name: str, ask: AskNumber, numbers: Sequence[int]) -> list[float]:
            """F1 of the questions of these numbers, percent."""
            asks = {f"general/{name}/{i}": partial(ask, i) for i in numbers}
            await self._answer(asks, lambda done: self.progress("general", done, len(questions)))
            return f1_scores(self._replies(asks), Article("", (), tuple(questions[i] for i in numbers)))

        base = await scores("base", lambda i: self._served(EMPTY_CHANNEL, questions[i]), range(len(questions)))
        right = [i for i, f1 in enumerate(base) if f1 >= RIGHT_F1]
        before = [[base[i] for i in right]]
        for n in range(min(self.count, len(right))):
            await self.learn(n)
        alone = await scores("alone", lambda i: self._learned(i % self.count, questions[i]), right)
        figures = share_lost(before, [alone])
        if together:
            await self._grow(self.count)
            after = await scores("together", lambda i: self._served(SHARED_CHANNEL, questions[i]), right)
            figures["lost_together"] = share_lost(before, [after])["lost"]
        return figures


def channel_of(n: int) -> str:
    """The channel that knows this document alone."""
    return f"document {n}"


async def run(
    load: Callable[[], Engine],
    squad_path: Path,
    documents: int | None = None,
    progress: ReportProgress = lambda stage, done, total: None,
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
    articles = asked_articles(squad_path, documents)
    if not articles:
        raise Refused(f"'{squad_path.name}' holds no questions with answers.")
    general_questions = read_questions(general) if general else []
    began = time.time()
    async with open_service(load) as served:
        engine = served.engine
        settings = {
            "squad": _sha256(squad_path.read_bytes()),
            "documents": len(articles),
            "model": engine.fingerprint,
            "engine": _sha256(str(engine.config).encode()),  # there may be a key in it
            "retrieved": retrieved,
        }
        if general:
            settings["general"] = _sha256(general.read_bytes())
        replies: dict[str, list[list[RecordedReply]]] = {condition: [] for condition in conditions}
        shared: dict[str, Any] = {}
        with Journal(answers_file, settings, resume=resume) as journal:
            bench = Bench(served, articles, journal, progress, retrieved=retrieved)
            for n in range(len(articles)):
                for condition in conditions:
                    replies[condition].append(await bench.ask(n, condition))
            if together:
                shared["together"] = await bench.together()
            if general:
                shared["general"] = await bench.general(general_questions, together=together)
        return {
            **_sizes(engine, articles),
            "model": engine.name,
            "learner": engine.learner,
            "chunk_size": engine.chunk_size,
            "retrieved": retrieved,
            **report(articles, replies),
            **shared,
            "seconds": time.time() - began,
            **learning_totals(journal.learning_figures()),
            "peak_memory_mb": peak_memory_mb(engine),
            "answers": answers_side_by_side(articles, replies),
        }


def _sizes(engine: Engine, articles: Sequence[Article]) -> dict[str, int]:
    questions = tokens = 0
    for article in articles:
        questions += len(article.questions)
        tokens += count_tokens(engine.chunk(article_pages(article)))
    return {"documents": len(articles), "questions": questions, "tokens": tokens}


def learning_totals(learning: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What learning all documents took. learning: figures of each."""
    seconds, losses, megabytes = 0.0, [], 0.0
    for figures in learning:
        seconds += figures["seconds"]
        losses.append(figures["loss"])
        megabytes += figures["megabytes"]
    return {"learning_seconds": seconds, "loss": losses, "megabytes": megabytes / max(1, len(learning))}


def answers_side_by_side(
    articles: Sequence[Article], replies: Mapping[str, Sequence[Sequence[RecordedReply]]]
) -> list[dict[str, Any]]:
    """Each question with its gold answers and what was answered under each condition."""
    answers = []
    for n, article in enumerate(articles):
        for i, question in enumerate(article.questions):
            row: dict[str, Any] = {"question": question.text, "gold": list(question.answers)}
            for condition, by_document in replies.items():
                row[condition] = by_document[n][i].text
            answers.append(row)
    return answers


def learn_chunks(
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

    document = invented_document(random.Random(3), 30)
    return Article(document.title, (" ".join(document.sentences),), ())


def peak_memory_mb(engine: Any) -> float:
    """Of the GPU's allocator, or of this process."""
    import resource

    import torch

    if engine.base.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
