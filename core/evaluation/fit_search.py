"""Fit the numbers of the search to a model's preparation, on question sets in SQuAD's format.

    python -m core.evaluation.fit_search --squad FILE... [--general FILE] [--write FOLDER --entry HEADING]

A real Service learns every document, alone in a channel and all in one. What each section that any of the numbers tried
could ask answers is recorded once; then one number after the other is tried on the recorded answers, on the even
questions, until none gains. The odd questions judge the result. What `--write` leaves in a preparation's folder is read
when the model is loaded (`core.search.parameters`). The numbers that decide what a question costs are not fitted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from statistics import mean
from typing import Any

from core.device import BATCH_ROWS
from core.engine import Engine, EngineConfig
from core.evaluation.bench import BATCH, EMPTY_CHANNEL, SHARED_CHANNEL, channel_of
from core.evaluation.report import RIGHT_F1
from core.evaluation.served import Served, open_service
from core.ports import Ask
from core.search.closeness import Closeness, closeness
from core.search.parameters import RankingParameters, save_parameters
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
    support_of,
)
from core.squad import Article, Question, asked_articles, f1, read_questions
from core.types import Certainty, Completion

# What is tried for each number. The widest of each decide which sections are recorded.
CHOICE: dict[str, Sequence[float]] = {
    "closeness_weight": (0.0, 1.5, 2.0, 3.0, 4.0, 5.0),
    "score_margin": (1.5, 2.0, 3.0, 4.0, 5.0),
    "thread_margin": (2.0, 3.0, 4.0, 5.0, 6.0, 8.0),
    "score_weight": (0.1, 0.2, 0.3, 0.4, 0.6, 0.8),
    "support_weight": (0.0, 0.5, 1.0, 1.5, 2.0, 3.0),
    "gate_share": (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4),
    "gate_doubt": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5),
    "gate_size": (0.0, 0.01, 0.02, 0.03, 0.05),
    "gate_odds": (0.0, 0.1, 0.2, 0.3, 0.4),
    "gate_usual_odds": (-2.0, -1.5, -1.0, -0.6, -0.3, 0.0),
}
TRUST: dict[str, Sequence[float]] = {
    "min_evidence": (0.3, 0.4, 0.5, 0.6, 0.7),
    "likely_confidence": (0.5, 0.6, 0.7, 0.8, 0.9),
    "absent_confidence": (0.5, 0.6, 0.7, 0.8, 0.9),
    "absent_words": (8, 12, 16),
}
WRONG_COST = 4  # right likely answers that one wrong likely answer costs: a likely answer is to be right in 80 %
MIN_GAIN = 0.05  # percent; a new number that gains less is noise
MAX_ROUNDS = 4
Situations = Sequence[tuple[str, str, int | None]]  # name, channel, number of the document that answered in the thread


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What a section answered to a question. None of it depends on the numbers."""

    completion: Completion
    pages: tuple[int, ...] | None  # that support it
    evidence: float | None  # share of what is asked that stands beside it
    f1: float  # percent


@dataclass(frozen=True, kw_only=True)
class Case:
    """A question in one setting, with everything that the numbers could make of it."""

    setting: str  # alone | together | conversation | other thread | general, alone | general, together
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


def replay(case: Case, parameters: RankingParameters) -> Outcome:
    """What the service answers with these numbers."""
    ranked = by_closeness(case.channel, case.close, parameters)
    answered = []
    for group in groups_to_ask(ranked, case.thread, parameters):
        answers = []
        for hit in group:
            recorded = case.recorded[hit.key]
            answers.append(SectionAnswer(hit=hit, completion=recorded.completion, pages=recorded.pages))
        answered.append(answers)
    best = choose_answer(answered, parameters)
    if best is None:
        return Outcome(f1=case.base_f1, document=None, certainty=Certainty.UNSURE)
    recorded = case.recorded[best.hit.key]
    judged = certainty(case.question, recorded.completion, recorded.evidence, parameters)
    return Outcome(f1=recorded.f1, document=best.hit.document.id, certainty=judged)


# Record


@dataclass
class Recorder:
    """Asks a service's engine what the numbers could make it ask."""

    served: Served
    articles: Sequence[Article]
    tried: Sequence[RankingParameters]  # whose sections are recorded
    answers: dict[tuple[int, int, str], Completion]  # by article, chunk and question: channels share them

    @classmethod
    async def learn_all(cls, served: Served, articles: Sequence[Article]) -> Recorder:
        """Learn the articles, each in a channel of its own and all in one."""
        for n, article in enumerate(articles):
            await served.learn(channel_of(n), n, article)
            await served.learn(SHARED_CHANNEL, n, article)
        return cls(served, articles, widest(await served.runner.device.ranking()), {})

    async def cases(self, n: int, question: Question, number: int) -> list[Case]:
        """A question about an article, in every setting. number: of the question, by which its half is chosen."""
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
        query = await served.runner.device.query(text) if channel == SHARED_CHANNEL and len(self.articles) > 1 else None
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
        key = (-1, -1, question)
        if key not in self.answers:
            self.answers[key] = (await self.served.service.ask(EMPTY_CHANNEL, question)).base
        return self.answers[key]

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
            keys[document, chunk] = self.served.number(channel, document), chunk, question
        new = [hit for key, hit in wanted.items() if keys[key] not in self.answers]
        if new:
            rows = [await self._row(channel, question, hit) for hit in new]
            completions, _ = await self.served.runner.device.answer(rows)
            for hit, completion in zip(new, completions, strict=True):
                self.answers[keys[hit.key]] = completion
        return {key: self.answers[shared] for key, shared in keys.items()}

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
    served: Served, articles: Sequence[Article], general: Sequence[Question] = (), batch: int = BATCH
) -> list[Case]:
    """Every question in every setting, so many at once."""
    recorder = await Recorder.learn_all(served, articles)
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
    """F1 of what is shown first, percent: the mean of the settings' means, so that none outweighs another."""
    scores: dict[str, list[float]] = {}
    for case in cases:
        scores.setdefault(case.setting, []).append(replay(case, parameters).f1)
    return mean(map(mean, scores.values()))


def trust(cases: Sequence[Case], parameters: RankingParameters) -> float:
    """What is gained by saying how far an answer can be trusted, percent of all answers: a right likely answer and a
    wrong one that is called absent gain one, their opposites cost `WRONG`."""
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
) -> RankingParameters:
    """Coordinate ascent: each number in turn takes the value that scores best, until none gains."""
    best, reached = start, score(cases, start)
    for _ in range(MAX_ROUNDS):
        before = best
        for name, values in grid.items():
            tried = []
            for value in values:
                parameters = changed(best, name, value)
                tried.append((score(cases, parameters), parameters))
            top, parameters = max(tried, key=itemgetter(0))
            if top > reached + MIN_GAIN:
                best, reached = parameters, top
        if best == before:
            break
    return best


def changed(parameters: RankingParameters, name: str, value: Any) -> RankingParameters:
    return replace(parameters, **{name: value})


def fit_all(cases: Sequence[Case], start: RankingParameters) -> RankingParameters:
    """First which answer is given, then how far it is trusted; on the cases that are there to fit on."""
    fitted_on = [case for case in cases if case.is_fitted]
    return fit(fitted_on, fit(fitted_on, start, CHOICE, shown_f1), TRUST, trust)


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
    engine: Engine, articles: Sequence[Article], general: Sequence[Question] = (), batch: int = BATCH
) -> tuple[RankingParameters, list[Case]]:
    """The fitted numbers, and what they were fitted on and judged by."""
    async with open_service(lambda: engine, batch_rows=max(BATCH_ROWS, batch)) as served:
        cases = await record(served, articles, general, batch)
    return fit_all(cases, engine.base.ranking), cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--squad", nargs="+", type=Path, required=True)
    parser.add_argument("--general", type=Path, help="questions about none of the documents")
    parser.add_argument("--documents", type=int, help="of each file")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--prepared", type=Path, help="folder of what `bot prepare` left: data/prepared")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=BATCH, help="questions at once")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="of the preparation; its ranking.json is written")
    parser.add_argument("--entry", default="", metavar="HEADING", help="of the entry in core/evaluation/LOG.md")
    o = parser.parse_args()
    engine = Engine.load(EngineConfig(model=o.model, device=o.device, prepared=o.prepared, check=False))
    articles = [article for path in o.squad for article in asked_articles(path, o.documents)]
    general = read_questions(o.general) if o.general else []
    before = engine.base.ranking
    after, cases = asyncio.run(run(engine, articles, general, o.batch))
    print(table(cases, before, after))
    print(json.dumps(changes(before, after)))
    if o.write:
        sets = [path.name for path in [*o.squad, *filter(None, [o.general])]]
        save_parameters(after, o.write, entry=o.entry, sets=sets, questions=sum(case.is_fitted for case in cases))


if __name__ == "__main__":
    main()
