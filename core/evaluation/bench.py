"""The instrument: the same questions under every condition, on documents in SQuAD's format.

base            the model as it is, closed book
learned         as the service answers: the document's weights attached, closed book; the router picks the section,
                never the prompt; the base model's answer where the section is not about the question
wrong_document  another document's weights, whatever they are about: what a gain would be worth without its document
elsewhere       as the service answers where only another document is known: what learning spoils
in_context      the gold paragraph (else as much of it as fits) in the prompt: as if somebody knew where to look
document        the document in the prompt, as much of it as fits
retrieval       the best chunks by BM25 in the prompt
both            the best chunks in the prompt and the document's weights attached
unrelated       the gold paragraph in the prompt and another document's weights attached: what those spoil
together        (on demand) all documents in one channel: the router picks whose weights answer, as the service does;
                and a conversation, in which each document's questions follow one another in a thread of its own
general         (on demand) questions about none of the documents that the base model has right: what learning loses

Every answer is written down as it comes, so that a run that was stopped can be resumed.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from core.closeness import COMPARED, Query, closest_first
from core.errors import Refused
from core.evaluation.journal import Journal, Reply
from core.evaluation.report import RIGHT, f1_scores, mean, report, share_lost
from core.evaluation.statistics import bootstrap
from core.ports import Ask, Engine, Learned
from core.service import HITS, ROUTED, best_of, best_of_sections, is_about, is_answer, points_elsewhere
from core.squad import Article, Question, read_squad
from core.types import Chunk, Page
from core.words import frequency, scores, search_words, shares, spaced, supporting

if TYPE_CHECKING:
    from torch import Tensor

CONDITIONS = (
    "base", "learned", "wrong_document", "elsewhere", "in_context", "document", "retrieval", "both", "unrelated",
)  # fmt: skip
SERVED = {"learned": ("weights", 0), "elsewhere": ("wrong_document", -1)}  # whose answers, of which document from here
ENCODED = 64  # chunks at once
BATCH = 16  # questions at once
Progress = Callable[[str, int, int], None]
Place = tuple[int, int]  # a document, or -1 for none; which of its questions


class Found(NamedTuple):
    """A section, or a chunk, that a question points at; as core.ports.Hit."""

    document: int
    section: int
    score: float
    share: float
    among: int
    odds: float | None = None


class Served(NamedTuple):
    """What the service answers, and whose weights did; -1 for none."""

    owner: int
    reply: Reply

    @property
    def keeps(self) -> bool:
        """Whether a thread stays with these weights."""
        return self.owner >= 0 and is_answer(self.reply.text)


class Row(NamedTuple):
    """Of a batch: what is asked of the base model, or of a section's weights."""

    ask: Ask
    found: Found | None = None
    of: Studied | None = None  # whose weights


class Search:
    """The service's search, over the chunks of some documents. first: number of the first of them."""

    def __init__(self, documents: Sequence[Sequence[Chunk]], first: int = 0) -> None:
        chunks = [(n, chunk) for n, of in enumerate(documents, first) for chunk in of]
        self.many = len(documents) > 1
        self.places = [(n, chunk.index) for n, chunk in chunks]
        self.codes = [chunk.code for _, chunk in chunks]
        self.rows = sqlite3.connect(":memory:")
        self.rows.execute(
            "CREATE VIRTUAL TABLE chunk USING fts5(text, tokenize = 'porter unicode61 remove_diacritics 2')"
        )
        self.rows.executemany(
            "INSERT INTO chunk(rowid, text) VALUES (?, ?)",
            ((at, spaced(chunk.text)) for at, (_, chunk) in enumerate(chunks)),
        )

    def __call__(self, question: str, limit: int, query: Query | None = None) -> list[Found]:
        """The chunks that the question points at, best first; the first chunk when none of its words is found."""
        found, total = {word: self._find(word) for word in search_words(question)}, len(self.places)
        score, share = scores(found, total), shares(found, total)
        best = sorted(score, key=lambda row: (-score[row], row))[: max(COMPARED, limit) if query else limit]
        places = [Found(*self.places[row], score[row], share[row], total) for row in best]
        places = closest_first(places, [self.codes[row] for row in best], query)
        return places[:limit] or [Found(*self.places[0], 0.0, 0.0, 1)]

    def _find(self, word: str) -> dict[int, float]:
        """The chunks in which a word stands, and how often, as BM25 counts it."""
        rows = self.rows.execute("SELECT rowid, bm25(chunk) FROM chunk WHERE chunk MATCH ?", (f'"{word}"',)).fetchall()
        return {row: frequency(score, len(rows), len(self.places)) for row, score in rows}


@dataclass
class Studied:
    """A document that was cut into chunks and, where weights are needed, learned."""

    article: Article
    chunks: list[Chunk]
    search: Search
    learned: Learned | None = None
    by_section: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    shortened: str = ""  # as much of the text as the model's window takes, once it was asked for

    def routed(self, question: str, limit: int) -> list[int]:
        """Chunks that the question's words point at, best first."""
        return [found.section for found in self.search(question, limit)]

    def serve(self, question: str, given: Reply, base: Reply, hit: Found | None = None) -> Reply:
        """What the service answers: what its weights say, or what the base model does. hit: the section that answered,
        when others than its own document's were searched."""
        hit = hit or Found(0, 0, 0.0, given.share or 0.0, len(self.chunks))
        about = is_about(hit, given.confidence, self.support(question, [given.text])[0])
        return given if about else replace(base, seconds=given.seconds)

    def support(self, question: str, answers: Sequence[str]) -> list[list[int]]:
        """For each answer the places of its pages that bear it out."""
        return supporting(self.article.text, answers, question)

    def weights(self, section: int) -> Mapping[str, Tensor]:
        if section not in self.by_section:
            self.by_section[section] = self.learned.section(section)  # type: ignore[union-attr]
        return self.by_section[section]


class Bench:
    """One run: an engine, articles, and the journal of answers."""

    def __init__(
        self,
        engine: Any,
        articles: Sequence[Article],
        journal: Journal,
        progress: Progress,
        *,
        routed: int,
        retrieved: int,
        batch: int = BATCH,
    ) -> None:
        self.engine, self.articles, self.journal, self.progress = engine, articles, journal, progress
        self.routed, self.retrieved = routed, retrieved  # sections that may answer; chunks in a prompt
        self.batch = batch  # questions at once
        if len(articles) == 1:
            articles = [*articles, _invented()]
        self.documents = [self._cut(n, a) for n, a in enumerate(articles)]  # the one before a document is its stranger
        self.queries: dict[str, Query | None] = {}  # by question

    def _cut(self, n: int, article: Article) -> Studied:
        chunks = self.engine.chunk([Page(i + 1, text) for i, text in enumerate(article.text)])
        return Studied(article, chunks, Search([chunks], first=n))

    def learn(self, n: int) -> Studied:
        """A document with its weights; learned now, as the product does, unless it was."""
        mine, key = self.documents[n], str(n % len(self.documents))
        if mine.learned is None:
            share = lambda done, total: self._tell("learning", int(key), done, total)  # noqa: E731
            mine.learned, seconds = learn(self.engine, mine.chunks, mine.article.title, share)
            if key not in self.journal.learned and mine.article.questions:
                self.journal.add_learned(key, _learning_figures(mine.learned, seconds))
        return mine

    def ask(self, n: int, condition: str) -> list[Reply]:
        """Every question of a document under a condition; with several rows, the surest answers."""
        return self._ask([n], condition)[0]

    def ask_all(self, condition: str) -> list[list[Reply]]:
        """The same of every document, in batches that know no document."""
        return self._ask(range(len(self.articles)), condition)

    def _ask(self, documents: Sequence[int], condition: str) -> list[list[Reply]]:
        if condition in SERVED:
            return self._serve(documents, condition)
        questions = {n: self.documents[n].article.questions for n in documents}
        places = [(n, i) for n, asked in questions.items() for i in range(len(asked))]
        keys = [f"{n}/{condition}/{i}" for n, i in places]

        def rows(at: int) -> list[Row]:
            n, i = places[at]
            return self.rows(n, condition, questions[n][i])

        self._answer(keys, rows, lambda done: self._tell(condition, documents[0], done * len(documents), len(keys)))
        replies = self.journal.replies
        return [[replies[f"{n}/{condition}/{i}"] for i in range(len(asked))] for n, asked in questions.items()]

    def _serve(self, documents: Sequence[int], condition: str) -> list[list[Reply]]:
        """As the service: the base model's answers where those of the weights are not about the question."""
        name, other = SERVED[condition]
        served = []
        for n, given, base in zip(documents, self._ask(documents, name), self._ask(documents, "base"), strict=True):
            asked = zip(self.documents[n].article.questions, given, base, strict=True)
            served.append([self.documents[n + other].serve(q.text, g, b) for q, g, b in asked])
        return served

    def rows(self, n: int, condition: str, q: Question) -> list[Row]:
        """How a question becomes rows of a batch."""
        if condition == "base":
            return [Row(Ask(q.text))]
        if condition == "weights":
            return self._by_weights(n, q, self.routed)
        if condition == "wrong_document":
            return self._by_weights(n - 1, q, self.routed)
        if condition == "in_context":
            return [Row(Ask(q.text, context=self.shorten(q.context)))]
        if condition == "document":
            return [Row(Ask(q.text, context=self._whole(n)))]
        if condition == "unrelated":
            return self._by_weights(n - 1, q, 1, self.shorten(q.context))
        chunks = sorted(self.documents[n].routed(q.text, self.retrieved))
        context = self.shorten("\n".join(self.documents[n].chunks[c].text for c in chunks))
        return self._by_weights(n, q, 1, context) if condition == "both" else [Row(Ask(q.text, context=context))]

    def _by_weights(self, n: int, q: Question, limit: int, context: str = "") -> list[Row]:
        """Rows of a document's sections that the question points at, best first."""
        of = self.learn(n)
        best = best_of_sections(in_sections(of.search(q.text, HITS), lambda _: of.learned.sections), limit)
        return [Row(Ask(q.text, of.weights(f.section), context, self.engine.learner), f, of) for f in best]

    def _whole(self, n: int) -> str:
        """A document's text, shortened once for all its questions."""
        mine = self.documents[n]
        mine.shortened = mine.shortened or self.shorten("\n".join(mine.article.text))
        return mine.shortened

    def shorten(self, text: str) -> str:
        """As much of a context as the model's window takes."""
        tokenizer, room = self.engine.base.tokenizer, self.engine.context_tokens
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return text if len(ids) <= room else tokenizer.decode(ids[:room])

    def _answer(self, keys: Sequence[str], rows: Callable[[int], list[Row]], tick: Callable[[int], None]) -> None:
        """Answer what was not answered yet, and write it down."""
        new = [i for i, key in enumerate(keys) if key not in self.journal.replies]
        for at in range(0, len(new), self.batch):
            batch = new[at : at + self.batch]
            asks = [rows(i) for i in batch]  # may learn: not in the answers' time
            began = time.perf_counter()
            flat = self.engine.answer([row.ask for group in asks for row in group])
            seconds = (time.perf_counter() - began) / len(batch)
            for i, group in zip(batch, asks, strict=True):
                mine, flat = flat[: len(group)], flat[len(group) :]
                tokens = self.engine.prompt_tokens(group[0].ask.question, group[0].ask.context)
                scores = [row.found.score if row.found else 0.0 for row in group]
                of = group[0].of  # all rows have the same document's weights
                pages = of.support(group[0].ask.question, [c.text for c in mine]) if of and len(mine) > 1 else ()
                which = best_of(mine, scores, pages)
                share = found.share if (found := group[which].found) else None
                self.journal.add(keys[i], Reply(mine[which].text, seconds, tokens, mine[which].confidence, share))
            tick(len(keys) - len(new) + at + len(batch))

    def _tell(self, stage: str, n: int, done: int, total: int) -> None:
        whole = 100 * len(self.articles)
        self.progress(stage, min(whole, n * 100 + 100 * done // max(1, total)), whole)

    # All documents in one channel

    def together(self) -> dict[str, Any]:
        """Whose weights answered, what that costs in F1, and how each document's F1 holds as the channel grows; the
        same in a conversation, and where another document answered last."""
        count = len(self.articles)
        sizes = sorted({n for n in (1, 2, 5, 10, 20, 50, 100) if n < count} | {count})
        retention: list[list[float]] = []
        for size in sizes:
            search = self._channel(size)
            asked = {(n, i): q for n, a in enumerate(self.articles[:size]) for i, q in enumerate(a.questions)}
            given = self._ask(range(size), "base")
            base = {(n, i): given[n][i] for n, i in asked}
            chosen = self._in_channel(dict.fromkeys(asked, search), asked, base)
            retention.append([mean([d]) for d in self._scores(chosen)])
            self.progress("together", 100 * size, 100 * count)
        alone = mean([f1_scores(r, a) for r, a in zip(self.ask_all("learned"), self.articles, strict=True)])
        talk = self._conversation(search, asked, base, chosen)
        changed = self._in_thread(search, {(n, i): (n - 1) % count for n, i in asked}, asked, base, chosen)
        return {
            **self._shares(chosen, alone),
            "alone_f1": alone,
            "retention": {"documents": sizes, "f1": retention},  # a row for each size of the channel
            "conversation": self._shares(talk, alone),
            "other_thread": self._shares(changed, alone),  # each question where the document before its own answered
        }

    def _shares(self, chosen: Mapping[Place, Served], alone: float) -> dict[str, Any]:
        """Whose weights answered, in percent, and what is left of the F1 that the documents have alone."""
        scores = self._scores(chosen)
        return {
            "right_document": mean([[100.0 * (owner == n) for (n, _), (owner, _) in chosen.items()]]),
            "no_document": mean([[100.0 * (owner < 0) for owner, _ in chosen.values()]]),  # the base model answered
            "f1": mean(scores),
            "f1_interval": [round(v, 2) for v in bootstrap(scores)],
            "fall": round(100 * (1 - mean(scores) / alone), 2) if alone else 0.0,  # percent of what it is alone
        }

    def _scores(self, chosen: Mapping[Place, Served]) -> list[list[float]]:
        """F1 of each document's questions, in percent."""
        asked = [(n, a) for n, a in enumerate(self.articles) if (n, 0) in chosen]
        return [f1_scores([chosen[n, i].reply for i in range(len(a.questions))], a) for n, a in asked]

    def _conversation(
        self,
        search: Search,
        asked: Mapping[Place, Question],
        base: Mapping[Place, Reply],
        channel: Mapping[Place, Served],
    ) -> dict[Place, Served]:
        """Each document's questions one after another, in a thread of its own. channel: as if each was the first."""
        said: dict[Place, Served] = {}
        last: dict[int, int] = {}  # by thread, whose answer came last
        for turn in range(1 + max(i for _, i in asked)):
            now = {(n, i): q for (n, i), q in asked.items() if i == turn}
            said |= self._in_thread(search, {(n, i): last[n] for n, i in now if n in last}, now, base, channel)
            last |= {n: said[n, i].owner for n, i in now if said[n, i].keeps}
            self.progress("conversation", len(said), len(asked))
        return said

    def _in_thread(
        self,
        search: Search,
        last: Mapping[Place, int],
        asked: Mapping[Place, Question],
        base: Mapping[Place, Reply],
        channel: Mapping[Place, Served],
    ) -> dict[Place, Served]:
        """As the service in a thread: first the document that answered last there, where one did, unless the question
        clearly points at another one; then the channel."""
        stays = {at: n for at, n in last.items() if not self._elsewhere(search, asked[at].text, n)}
        first = self._in_channel({at: self.documents[n].search for at, n in stays.items()}, asked, base)
        return {at: first[at] if at in first and first[at].keeps else channel[at] for at in asked}

    def general(self, questions: Sequence[Question], *, together: bool) -> dict[str, float]:
        """Of the questions that the base model has right, the percentage that is lost where one of the documents is
        known, each in turn, and `together`, where all are."""
        count = len(self.articles)
        tick = lambda done: self.progress("general", done, len(questions))  # noqa: E731
        keys = [f"general/base/{i}" for i in range(len(questions))]
        self._answer(keys, lambda i: [Row(Ask(questions[i].text))], tick)
        base = [self.journal.replies[key] for key in keys]
        before = f1_scores(base, Article("", (), tuple(questions)))
        right = [i for i, score in enumerate(before) if score >= RIGHT]
        asked = Article("", (), tuple(questions[i] for i in right))
        keys = [f"general/{i % count}/{i}" for i in right]
        self._answer(keys, lambda at: self._by_weights(right[at] % count, questions[right[at]], self.routed), tick)
        served = [
            self.documents[i % count].serve(questions[i].text, self.journal.replies[key], base[i])
            for i, key in zip(right, keys, strict=True)
        ]
        lost = lambda replies: share_lost([[before[i] for i in right]], [f1_scores(replies, asked)])  # noqa: E731
        figures = lost(served)
        if together:
            search = self._channel(count)
            places = {(-1, i): questions[i] for i in right}
            chosen = self._in_channel(dict.fromkeys(places, search), places, {(-1, i): base[i] for i in right})
            figures["lost_together"] = lost([reply for _, reply in chosen.values()])["lost"]
        return figures

    def _in_channel(
        self, searches: Mapping[Place, Search], asked: Mapping[Place, Question], base: Mapping[Place, Reply]
    ) -> dict[Place, Served]:
        """What the service answers where it knows the documents of a search. searches: by question."""
        places = {at: self._places(search, asked[at].text) for at, search in searches.items()}
        wanted = sorted({(n, f.document, f.section, i) for (n, i), found in places.items() for f in found})
        keys = [f"{n}/{d}:{s}/{i}" for n, d, s, i in wanted]

        def rows(at: int) -> list[Row]:
            n, d, s, i = wanted[at]
            return [Row(Ask(asked[n, i].text, self.learn(d).weights(s), learner=self.engine.learner))]

        self._answer(keys, rows, lambda done: None)
        given = dict(zip(wanted, (self.journal.replies[key] for key in keys), strict=True))
        chosen: dict[Place, Served] = {}
        for (n, i), found in places.items():
            question = asked[n, i].text
            answers = [given[n, f.document, f.section, i] for f in found]
            pages = [
                self.documents[f.document].support(question, [r.text])[0] for f, r in zip(found, answers, strict=True)
            ]
            which = best_of(answers, [f.score for f in found], pages)
            owner = found[which].document
            served = self.documents[owner].serve(question, answers[which], base[n, i], found[which])
            chosen[n, i] = Served(owner if served is answers[which] else -1, served)
        return chosen

    def _places(self, search: Search, question: str) -> list[Found]:
        """Sections that may answer, best first; as in the service."""
        return best_of_sections(in_sections(self._found(search, question)[:HITS], self._sections), self.routed)

    def _elsewhere(self, search: Search, question: str, n: int) -> bool:
        """Whether a question points at other documents of the channel than this one, by far."""
        return points_elsewhere(self._found(search, question), lambda found: found.document == n)

    def _found(self, search: Search, question: str) -> list[Found]:
        if search.many and question not in self.queries:
            self.queries[question] = self.engine.query(question)
        return search(question, COMPARED, self.queries[question] if search.many else None)

    def _channel(self, count: int) -> Search:
        """A channel that knows the first so many documents."""
        for mine in self.documents[:count]:
            for at in range(0, len(mine.chunks), ENCODED):
                some = [chunk for chunk in mine.chunks[at : at + ENCODED] if not chunk.code]
                for chunk, code in zip(some, self.engine.codes(some) if some else [], strict=True):
                    mine.chunks[chunk.index] = replace(chunk, code=code)
        return Search([mine.chunks for mine in self.documents[:count]])

    def _sections(self, n: int) -> Sequence[int]:
        if str(n) not in self.journal.learned:
            self.learn(n)
        return self.journal.learned[str(n)]["sections"]


def in_sections(chunks: Iterable[Found], sections: Callable[[int], Sequence[int]]) -> list[Found]:
    """Found chunks, as the sections whose weights learned them. sections: of a document, for each chunk."""
    return [found._replace(section=sections(found.document)[found.section]) for found in chunks]


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


def run(
    engine: Any,
    squad_path: Path,
    documents: int | None = None,
    progress: Progress = lambda stage, done, total: None,
    *,
    conditions: Sequence[str] = CONDITIONS,
    routed: int = ROUTED,
    retrieved: int = 1,
    together: bool = False,
    general: Path | None = None,
    partial: Path | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Figures in percent for each condition, with 95 % bootstrap intervals clustered by document, and what was gained
    and lost against the base model; seconds to learn, seconds a question, megabytes of weights, prompt tokens.

    Args:
        routed: sections that may answer.
        retrieved: chunks in the prompt of `retrieval` and `both`.
        together: also all documents in one channel.
        general: questions about none of the documents; also what is lost of those that the base model has right.
        partial: where answers are written down as they come; with `resume` those found there are not asked again.

    Raises: Refused.
    """
    if unknown := set(conditions) - set(CONDITIONS):
        raise Refused(f"There is no condition '{min(unknown)}'; choose from {', '.join(CONDITIONS)}.")
    articles = [a for a in read_squad(squad_path) if a.questions][:documents]
    if not articles:
        raise Refused(f"'{squad_path.name}' holds no questions with answers.")
    strange = [q for a in read_squad(general) for q in a.questions] if general else []
    began = time.time()
    settings = {
        "squad": _sha256(squad_path.read_bytes()),
        "documents": len(articles),
        "model": engine.fingerprint,
        "engine": _sha256(str(engine.config).encode()),  # there may be a key in it
        "routed": routed,
        "retrieved": retrieved,
        **({"general": _sha256(general.read_bytes())} if general else {}),
    }
    with Journal(partial, settings, resume=resume) as journal:
        bench = Bench(engine, articles, journal, progress, routed=routed, retrieved=retrieved)
        by_document = [{c: bench.ask(n, c) for c in conditions} for n in range(len(articles))]
        channel = {"together": bench.together()} if together else {}
        lost = {"general": bench.general(strange, together=together)} if general else {}
    learning = [journal.learned[n] for n in sorted(journal.learned, key=int)]
    return {
        "documents": len(articles),
        "questions": sum(len(a.questions) for a in articles),
        "tokens": sum(c.token_count for d in bench.documents[: len(articles)] for c in d.chunks),
        "model": engine.name,
        "learner": engine.learner,
        "chunk_size": engine.chunk_size,
        "routed": routed,
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


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _learning_figures(learned: Learned, seconds: float) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "loss": [learned.metrics.initial_loss, learned.metrics.final_loss],
        "megabytes": sum(v.numel() * v.element_size() for v in learned.tensors.values()) / 2**20,
        "sections": learned.sections,
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
