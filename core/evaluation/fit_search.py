"""Fit the numbers of the search to a model's preparation, on question sets in SQuAD's format.

    python -m core.evaluation.fit_search --squad FILE... [--general FILE] [--write FOLDER --entry HEADING]

A real Service learns every document, alone in a channel and all in one. What each section that any of the numbers tried
could ask answers is recorded once; then one number after the other is tried on the recorded answers, on the even
questions, until none gains. The odd questions judge the result. What `--write` leaves in a preparation's folder is read
when the model is loaded (`core.search.parameters`). The numbers that decide what a question costs are not fitted.

Questions about none of the documents (`--general`) are to stay with the base model, which answers in sentences that no
F1 can judge: the gate's bar is put where weights answer no more of them than `MAX_STRAY`. A set's questions without an
answer (SQuAD 2.0) count in how far an answer can be trusted. With `--answers FILE` each answer is written down as it
comes, and a run that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from operator import itemgetter
from pathlib import Path
from statistics import mean
from typing import Any

from core.device import BATCH_ROWS
from core.engine import Engine, EngineConfig
from core.evaluation.bench import BATCH, EMPTY_CHANNEL, SHARED_CHANNEL, channel_of
from core.evaluation.journal import Journal, RecordedReply
from core.evaluation.question_sets import asked_articles, read_questions
from core.evaluation.report import RIGHT_F1
from core.evaluation.served import Served, open_service
from core.ports import Ask
from core.search.closeness import Closeness, closeness
from core.search.parameters import RANKING, RankingParameters
from core.search.ranking import (
    ChunkKey,
    Hit,
    SectionAnswer,
    by_closeness,
    certainty,
    choose_answer,
    distinct,
    evidence_on,
    groups_to_ask,
    is_closest,
    relevance,
    support_of,
)
from core.squad import Article, Question, f1
from core.types import Certainty, Completion

# What is tried for each number. The widest of each decide which sections are recorded.
CHOICE: dict[str, Sequence[float]] = {
    "closeness_weight": (0.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0),
    "score_margin": (1.5, 2.0, 3.0, 4.0, 5.0),
    "thread_margin": (2.0, 3.0, 4.0, 5.0, 6.0, 8.0),
    "score_weight": (0.1, 0.2, 0.3, 0.4, 0.6, 0.8),
    "support_weight": (0.0, 0.5, 1.0, 1.5, 2.0, 3.0),
    "gate_share": (-0.3, -0.2, -0.1, 0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4),
    "gate_doubt": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    "gate_size": (0.0, 0.01, 0.02, 0.03, 0.05),
    "gate_support": (0.0, 0.1, 0.2, 0.3, 0.5, 9.0),
    "gate_odds": (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4),
}
TRUST: dict[str, Sequence[float]] = {
    "min_evidence": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
    "likely_confidence": (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9),
    "absent_confidence": (0.5, 0.6, 0.7, 0.8, 0.9),
    "absent_words": (8, 12, 16),
}
WRONG_COST = 4  # right likely answers that one wrong likely answer costs: a likely answer is to be right in 80 %
MIN_GAIN = 0.05  # percent; a new number that gains less is noise
MAX_ROUNDS = 4
MAX_STRAY = {"general, alone": 0.03, "general, together": 0.05}  # of questions about no document, that weights answer
Situations = Sequence[tuple[str, str, int | None]]  # name, channel, number of the document that answered in the thread


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What a section answered to a question. None of it depends on the numbers."""

    completion: Completion
    pages: tuple[int, ...] | None  # that support it
    evidence: float | None  # share of what is asked that stands beside it
    f1: float  # percent


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A question in one setting, with everything that the numbers could make of it."""

    setting: str  # alone | together | conversation | other thread | not answered | general, alone | general, together
    question: str
    is_fitted: bool  # on; the others judge
    channel: Sequence[Hit]  # by words
    close: Sequence[Closeness] | None  # of these
    thread: Sequence[Hit]  # within the document that answered in the thread last
    recorded: Mapping[ChunkKey, Recorded]
    base_f1: float  # percent, of the base model's answer
    document: str | None  # id of the one that holds the answer; None: none does


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a person would be shown."""

    f1: float  # percent
    document: str | None  # that answers; None: the base model alone does
    certainty: Certainty


@cache
def asked_sections(case: Case, parameters: RankingParameters) -> list[list[Hit]]:
    return groups_to_ask(by_closeness(case.channel, case.close, parameters), case.thread, parameters)


def search_numbers(parameters: RankingParameters) -> RankingParameters:
    """Those that decide which sections are asked; the others have their defaults."""
    p = parameters
    return RankingParameters(
        closeness_weight=p.closeness_weight,
        considered_chunks=p.considered_chunks,
        score_margin=p.score_margin,
        max_sections=p.max_sections,
        thread_margin=p.thread_margin,
    )


def answer_given(case: Case, parameters: RankingParameters) -> SectionAnswer | None:
    """The learned answer that the service gives with these numbers; None: the base model's alone."""
    answered = []
    for group in asked_sections(case, search_numbers(parameters)):
        answers = []
        for hit in group:
            recorded = case.recorded[hit.key]
            answers.append(SectionAnswer(hit=hit, completion=recorded.completion, pages=recorded.pages))
        answered.append(answers)
    return choose_answer(answered, parameters)


def replay(case: Case, parameters: RankingParameters) -> Outcome:
    """What the service answers with these numbers."""
    best = answer_given(case, parameters)
    if best is None:
        return Outcome(f1=case.base_f1, document=None, certainty=Certainty.UNSURE)
    recorded = case.recorded[best.hit.key]
    closest = is_closest(best.hit, distinct(asked_sections(case, search_numbers(parameters))).values())
    judged = certainty(case.question, recorded.completion, recorded.evidence, parameters, closest=closest)
    return Outcome(f1=recorded.f1, document=best.hit.document.id, certainty=judged)


# Record


@dataclass
class Recorder:
    """Asks a service's engine what the numbers could make it ask."""

    served: Served
    articles: Sequence[Article]
    tried: Sequence[RankingParameters]  # whose sections are recorded
    journal: Journal  # of answers, by article, chunk and question: channels share them

    @classmethod
    async def learn_all(cls, served: Served, articles: Sequence[Article], journal: Journal) -> Recorder:
        """Learn the articles, each in a channel of its own and all in one."""
        for n, article in enumerate(articles):
            await served.learn(channel_of(n), n, article)
            await served.learn(SHARED_CHANNEL, n, article)
        return cls(served, articles, widest(await served.runner.device.ranking()), journal)

    async def cases(self, n: int, question: Question, number: int) -> list[Case]:
        """A question about an article, in every setting. number: of the question, by which its half is chosen."""
        if not question.answers:
            return await self._cases([("not answered", channel_of(n), None)], question, number, None)
        settings = [
            ("alone", channel_of(n), None),
            ("together", SHARED_CHANNEL, None),
            ("conversation", SHARED_CHANNEL, n),
        ]
        before = (n - 1) % len(self.articles)
        if before != n:
            settings.append(("other thread", SHARED_CHANNEL, before))
        return await self._cases(settings, question, number, n)

    async def general(self, question: Question, number: int) -> list[Case]:
        """A question about none of the articles."""
        alone = channel_of(number % len(self.articles))
        settings = [("general, alone", alone, None), ("general, together", SHARED_CHANNEL, None)]
        return await self._cases(settings, question, number, None)

    async def _cases(self, settings: Situations, question: Question, number: int, n: int | None) -> list[Case]:
        cases = []
        for name, channel, thread in settings:
            cases.append(await self._case(name, channel, question, number, n, thread))
        return cases

    async def _case(
        self, setting: str, channel: str, question: Question, number: int, n: int | None, thread: int | None
    ) -> Case:
        served, text, documents = self.served, question.text, self.served.documents
        widest_search = self.tried[0]
        hits = await served.index.candidates(channel, text, limit=widest_search.reranked_chunks)
        query = await served.runner.device.query(text)
        close = closeness(query, [hit.code for hit in hits]) if query else None
        in_thread: list[Hit] = []
        if thread is not None:
            id, limit = documents[SHARED_CHANNEL, thread].id, widest_search.considered_chunks
            in_thread = await served.index.candidates(SHARED_CHANNEL, text, document_id=id, limit=limit)
        wanted: list[list[Hit]] = []
        for parameters in self.tried:
            wanted += groups_to_ask(by_closeness(hits, close, parameters), in_thread, parameters)
        return Case(
            setting=setting,
            question=text,
            is_fitted=number % 2 == 0,
            channel=hits,
            close=close,
            thread=in_thread,
            recorded=await self._record(channel, question, distinct(wanted)),
            base_f1=100 * f1((await self._base(text)).text, question.answers),
            document=documents[channel, n].id if n is not None else None,
        )

    async def _base(self, question: str) -> Completion:
        key = f"base/{question}"
        if key not in self.journal.replies:
            self._write_down(key, (await self.served.service.ask(EMPTY_CHANNEL, question)).base)
        return self._written(key)

    async def _record(
        self, channel: str, question: Question, wanted: Mapping[ChunkKey, Hit]
    ) -> dict[ChunkKey, Recorded]:
        served, text = self.served, question.text
        completions = await self._answers(channel, text, wanted)
        pages = {}
        for document, _ in wanted:
            if document not in pages:
                pages[document] = await served.index.pages(document)
        support = support_of(text, completions, pages)
        recorded = {}
        for key, completion in completions.items():
            document, _ = key
            recorded[key] = Recorded(
                completion=completion,
                pages=support[key],
                evidence=evidence_on(pages[document], support[key], text, completion.text),
                f1=100 * f1(completion.text, question.answers),
            )
        return recorded

    async def _answers(self, channel: str, question: str, wanted: Mapping[ChunkKey, Hit]) -> dict[ChunkKey, Completion]:
        """What these sections answer; each article's section is asked once, whatever its channel."""
        keys = {}
        for document, chunk in wanted:
            keys[document, chunk] = f"{self.served.number(channel, document)}/{chunk}/{question}"
        new = [hit for key, hit in wanted.items() if keys[key] not in self.journal.replies]
        if new:
            rows = [await self._row(channel, question, hit) for hit in new]
            completions, _ = await self.served.runner.device.answer(rows)
            for hit, completion in zip(new, completions, strict=True):
                self._write_down(keys[hit.key], completion)
        return {key: self._written(shared) for key, shared in keys.items()}

    def _write_down(self, key: str, given: Completion) -> None:
        self.journal.add(key, RecordedReply(given.text, given.seconds, 0, given.confidence))

    def _written(self, key: str) -> Completion:
        reply = self.journal.replies[key]
        return Completion(reply.text, 0, reply.seconds, reply.confidence)

    async def _row(self, channel: str, question: str, hit: Hit) -> Ask:
        record, base = hit.document.weights, self.served.engine.fingerprint
        load = self.served.weights.load
        weights = await asyncio.to_thread(load, record, channel, base=base, section=hit.section)
        return Ask(question, weights=weights, learner=record.learner)


def widest(now: RankingParameters) -> list[RankingParameters]:
    """The numbers of now, and such that every section is asked that any of those tried asks. A smaller margin may ask a
    section that a wider one leaves out for another document's."""
    stays = replace(now, thread_margin=max(CHOICE["thread_margin"]))
    tried = [now]
    for weight in (*CHOICE["closeness_weight"], now.closeness_weight):
        for margin in (*CHOICE["score_margin"], now.score_margin):
            tried.append(replace(stays, closeness_weight=weight, score_margin=margin))
    return tried


async def record(
    served: Served,
    articles: Sequence[Article],
    general: Sequence[Question] = (),
    batch: int = BATCH,
    journal: Journal | None = None,
) -> list[Case]:
    """Every question in every setting, so many at once. journal: of answers that are there already."""
    recorder = await Recorder.learn_all(served, articles, journal or Journal(None, {}))
    jobs: list[Callable[[], Awaitable[list[Case]]]] = []
    for n, article in enumerate(articles):
        for question in article.questions:
            jobs.append(partial(recorder.cases, n, question, len(jobs)))
    for number, question in enumerate(general):
        jobs.append(partial(recorder.general, question, number))
    cases: list[Case] = []
    for start in range(0, len(jobs), batch):
        for recorded in await asyncio.gather(*(job() for job in jobs[start : start + batch])):
            cases += recorded
        print(f"recorded {min(start + batch, len(jobs))} of {len(jobs)} questions", flush=True)
    return cases


# Fit


def shown_f1(cases: Iterable[Case], parameters: RankingParameters) -> float:
    """F1 of what is shown first to questions about the documents, percent: the mean of the settings' means, so that
    none outweighs another."""
    scores: dict[str, list[float]] = {}
    for case in cases:
        if case.document is not None:
            best = answer_given(case, parameters)
            score = case.recorded[best.hit.key].f1 if best else case.base_f1
            scores.setdefault(case.setting, []).append(score)
    return mean(map(mean, scores.values()))


def without_strays(cases: Iterable[Case], parameters: RankingParameters) -> RankingParameters:
    """These numbers with the lowest bar of the gate that keeps to `MAX_STRAY`; as they are where no question is about
    none of the documents."""
    relevances: dict[str, list[float]] = {}
    for case in cases:
        if case.setting in MAX_STRAY:
            best = answer_given(case, replace(parameters, gate_share=-math.inf))
            relevances.setdefault(case.setting, []).append(relevance(best, parameters) if best else -math.inf)
    bars = []
    for setting, values in relevances.items():
        first_out = sorted(values, reverse=True)[int(MAX_STRAY[setting] * len(values))]
        bars.append(math.floor(1000 * first_out + 1) / 1000)
    return replace(parameters, gate_share=max(bars)) if bars else parameters


def trust(cases: Sequence[Case], parameters: RankingParameters) -> float:
    """What is gained by saying how far an answer can be trusted, percent of all answers: a right likely answer and a
    wrong one that is called absent gain one, their opposites cost `WRONG_COST`."""
    worth = 0
    for case in cases:
        outcome = replay(case, parameters)
        is_right = outcome.f1 >= RIGHT_F1
        if outcome.document is not None and outcome.certainty is Certainty.LIKELY:
            worth += 1 if is_right else -WRONG_COST
        elif outcome.document is not None and outcome.certainty is Certainty.ABSENT:
            worth += -WRONG_COST if is_right else 1
    return 100 * worth / len(cases)


def fit(
    cases: Sequence[Case],
    start: RankingParameters,
    grid: Mapping[str, Sequence[float]],
    score: Callable[[Sequence[Case], RankingParameters], float],
    settle: Callable[[Sequence[Case], RankingParameters], RankingParameters] = lambda cases, parameters: parameters,
) -> RankingParameters:
    """Coordinate ascent: each number in turn takes the value that scores best, until none gains. settle: what follows
    from the other numbers."""
    best = settle(cases, start)
    reached = score(cases, best)
    for _ in range(MAX_ROUNDS):
        before = best
        for name, values in grid.items():
            tried = []
            for value in values:
                parameters = settle(cases, changed(best, name, value))
                tried.append((score(cases, parameters), parameters))
            top, parameters = max(tried, key=itemgetter(0))
            if top > reached + MIN_GAIN:
                best, reached = parameters, top
        if best == before:
            break
    return best


def changed(parameters: RankingParameters, name: str, value: Any) -> RankingParameters:
    return replace(parameters, **{name: value})


def fit_all(cases: Sequence[Case], start: RankingParameters, only: Collection[str] = ()) -> RankingParameters:
    """First which answer is given, then how far it is trusted; on the cases that are there to fit on.

    Args:
        only: names of the numbers that may move; all where there are none.
    """
    fitted_on = [case for case in cases if case.is_fitted]
    chosen = fit(fitted_on, start, _grid(CHOICE, only), shown_f1, without_strays)
    return fit(fitted_on, chosen, _grid(TRUST, only), trust)


def _grid(values: Mapping[str, Sequence[float]], only: Collection[str]) -> dict[str, Sequence[float]]:
    return {name: tried for name, tried in values.items() if name in only or not only}


def table(cases: Sequence[Case], before: RankingParameters, after: RankingParameters) -> str:
    """Markdown: each setting on both halves, before -> after."""
    lines = [
        "| setting | questions | F1 | right document, % | likely, % of all | of these right, % |",
        "|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(case.setting for case in cases):
        for is_fitted, half in ((True, "fitted on"), (False, "judged by")):
            part = [case for case in cases if case.setting == name and case.is_fitted is is_fitted]
            if part:
                pairs = zip(figures(part, before), figures(part, after), strict=True)
                cells = " | ".join(f"{old:.1f} -> {new:.1f}" for old, new in pairs)
                lines.append(f"| {name} | {len(part)}, {half} | {cells} |")
    return "\n".join(lines)


def figures(cases: Sequence[Case], parameters: RankingParameters) -> tuple[float, float, float, float]:
    """F1, share with the right document (for a general question: none), share called likely, share of these right."""
    f1s = []
    right_documents = likely = likely_and_right = 0
    for case in cases:
        outcome = replay(case, parameters)
        f1s.append(outcome.f1)
        right_documents += outcome.document == case.document
        if outcome.document is not None and outcome.certainty is Certainty.LIKELY:
            likely += 1
            likely_and_right += outcome.f1 >= RIGHT_F1
    count = len(cases)
    return mean(f1s), 100 * right_documents / count, 100 * likely / count, 100 * likely_and_right / max(1, likely)


def changes(before: RankingParameters, after: RankingParameters) -> dict[str, tuple[float, float]]:
    """The numbers that moved, by name: from, to."""
    new = asdict(after)
    moved = {}
    for name, value in asdict(before).items():
        if value != new[name]:
            moved[name] = value, new[name]
    return moved


async def run(
    engine: Engine,
    articles: Sequence[Article],
    general: Sequence[Question] = (),
    batch: int = BATCH,
    answers_file: Path | None = None,
    only: Collection[str] = (),
) -> tuple[RankingParameters, list[Case]]:
    """The fitted numbers, and what they were fitted on and judged by. only: as for `fit_all`.

    Raises: Refused, where the answers are of other sets or of another model.
    """
    sets = hashlib.sha256(repr((articles, general)).encode()).hexdigest()
    about = {"sets": sets, "model": engine.fingerprint}
    async with open_service(lambda: engine, batch_rows=max(BATCH_ROWS, batch)) as served:
        with Journal(answers_file, about, resume=True) as journal:
            cases = await record(served, articles, general, batch, journal)
    return fit_all(cases, engine.ranking, only), cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--squad", nargs="+", type=Path, required=True)
    parser.add_argument("--general", type=Path, help="questions about none of the documents")
    parser.add_argument("--answers", type=Path, metavar="FILE", help="where answers are kept for a run that goes on")
    parser.add_argument("--documents", type=int, help="of each file")
    parser.add_argument("--only", nargs="+", default=[], choices=[*CHOICE, *TRUST], help="numbers that may move")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--prepared", type=Path, help="folder of what `bot prepare` left: data/prepared")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=BATCH, help="questions at once")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="of the preparation; its ranking.json is written")
    parser.add_argument("--entry", default="", metavar="HEADING", help="of the entry in core/evaluation/LOG.md")
    o = parser.parse_args()
    engine = Engine.load(EngineConfig(model=o.model, device=o.device, prepared=o.prepared, check=False))
    articles: list[Article] = []
    for path in o.squad:
        articles += asked_articles(path, o.documents, unanswered=True)
    general = read_questions(o.general) if o.general else []
    before = engine.ranking
    after, cases = asyncio.run(run(engine, articles, general, o.batch, o.answers, o.only))
    print(table(cases, before, after))
    print(json.dumps(changes(before, after)))
    if o.write:
        sets = [path.name for path in (*o.squad, o.general) if path]
        save_parameters(after, o.write, entry=o.entry, sets=sets, questions=sum(case.is_fitted for case in cases))


def save_parameters(parameters: RankingParameters, folder: Path, **fitted_on: Any) -> None:
    """`ranking.json` in a preparation's folder. fitted_on: what a reader wants to know of the fit."""
    text = json.dumps({"fitted_on": fitted_on, "parameters": asdict(parameters)}, indent=1)
    (folder / RANKING).write_text(text + "\n")


if __name__ == "__main__":
    main()
