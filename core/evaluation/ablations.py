"""Every ingredient with and without, on the same documents and questions: one row a setting.

    python -m core.evaluation.ablations --squad FILE... --output FILE.json [--only NAME,...] [--part 0/2] [--seconds N]
    python -m core.evaluation.ablations --show FILE.json...

Rows stand in the order of their worth. Each is written down as it ends, a run that is started again goes on with the
rows that are missing, and after `--seconds` the unfinished row is given up. What is asked and how is `bench`'s affair.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.device import BATCH_ROWS
from core.engine import Engine, EngineConfig
from core.evaluation import speed
from core.evaluation.bench import BATCH, Bench, learning_totals, peak_memory_mb
from core.evaluation.budgets import lessons_of, policy_scores
from core.evaluation.journal import Journal, RecordedReply
from core.evaluation.question_sets import asked_articles
from core.evaluation.report import f1_scores, mean, report
from core.evaluation.served import open_service
from core.evaluation.statistics import bootstrap, interval, paired_differences
from core.learning.adapters.study import Exercise
from core.learning.guard import Guard
from core.model import LoadedModel, load_model
from core.prepare.outer import OuterConfig
from core.prompts import NOT_IN_TEXT
from core.squad import Article

log = logging.getLogger(__name__)

WIDE = 256  # questions at once, on a GPU
SHIFTED = 8  # documents whose effect on unrelated answers is measured
LEARNED_CONDITIONS = ("weights", "learned", "wrong_document", "elsewhere", "unrelated")


class OutOfTime(Exception):
    """`--seconds` are over."""


@dataclass
class Lab:
    """What all rows share: a model, documents with questions, what it answers without having learned."""

    base: LoadedModel
    sets: Mapping[str, Sequence[Article]]  # by the name of their file
    batch: int  # questions at once
    end: float = float("inf")  # of the time, by time.monotonic
    written: dict[str, list[Exercise]] = field(default_factory=dict)  # study material is written once

    @cached_property
    def articles(self) -> list[Article]:
        return list(chain.from_iterable(self.sets.values()))

    def engine(self, **settings: Any) -> Engine:
        plain = {"check": False, "guard": False, "max_answer_tokens": 32}
        engine = Engine(self.base, EngineConfig(**plain | settings))
        engine.course(engine.learner).written = self.written
        return engine

    @asynccontextmanager
    async def bench(self, engine: Engine, sections: int | None = None) -> AsyncIterator[Bench]:
        """sections: that are asked at most, where not as many as the model's own numbers say."""
        ranking = replace(engine.ranking, max_sections=sections) if sections else None
        async with open_service(lambda: engine, ranking=ranking, batch_rows=max(BATCH_ROWS, self.batch)) as served:
            yield Bench(served, self.articles, Journal(None, {}), self.tick, batch=self.batch)

    def replies(self, *conditions: str) -> dict[str, list[list[RecordedReply]]]:
        """Under conditions that attach no weights."""

        async def ask() -> dict[str, list[list[RecordedReply]]]:
            async with self.bench(self.engine()) as bench:
                return {condition: await bench.ask_all(condition) for condition in conditions}

        return asyncio.run(ask())

    def tick(self, stage: str, done: int, total: int) -> None:
        if time.monotonic() > self.end:
            raise OutOfTime

    @cached_property
    def plain(self) -> dict[str, list[list[RecordedReply]]]:
        """Replies of the base model, closed book and with the gold paragraph in the prompt."""
        return self.replies("base", "in_context")


@dataclass(frozen=True)
class Row:
    """Settings of an engine, and under which conditions its questions are asked."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    conditions: Sequence[str] = LEARNED_CONDITIONS
    sections: int | None = None  # that are asked at most
    against: str = "fast-weights"  # the row that it is compared with
    measure: Callable[[Lab, Row], dict[str, Any]] | None = None  # None: `quality`


def quality(lab: Lab, row: Row) -> dict[str, Any]:
    """Learn every document, ask every question."""
    plain = lab.plain  # first: it warms the device up
    return asyncio.run(_quality(lab, row, plain))


async def _quality(lab: Lab, row: Row, plain: Mapping[str, list[list[RecordedReply]]]) -> dict[str, Any]:
    engine = lab.engine(**row.settings)
    async with lab.bench(engine, row.sections) as bench:
        costs = await learning_costs(lab, bench)
        replies = dict(plain)
        for condition in row.conditions:
            replies[condition] = await bench.ask_all(condition)
        moved = shift(lab, engine, bench)
    return {
        **report(lab.articles, replies),
        "by_set": by_set(lab, replies),
        "abstained": {condition: abstained(rows) for condition, rows in replies.items()},
        "f1_by_document": f1_by_document(lab.articles, replies["weights"]),
        "shift": moved,
        **costs,
    }


async def learning_costs(lab: Lab, bench: Bench) -> dict[str, Any]:
    """Learn every document; what that takes. The peak is a GPU's: that of a process never falls."""
    if on_gpu := lab.base.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    tokens = 0
    for number in range(len(lab.articles)):
        tokens += (await bench.learn(number)).tokens
    totals = learning_totals(bench.journal.learning_figures())
    loss = np.mean(totals["loss"], axis=0).tolist()
    peak = peak_memory_mb(bench.served.engine) if on_gpu else None
    return totals | {"tokens": tokens, "loss": loss, "peak_memory_mb": peak}


def by_set(lab: Lab, replies: Mapping[str, Sequence[Sequence[RecordedReply]]]) -> dict[str, dict[str, Any]]:
    """F1 and its interval under each condition, for each file of questions."""
    figures: dict[str, dict[str, Any]] = {}
    start = 0
    for name, articles in lab.sets.items():
        stop = start + len(articles)
        figures[name] = {}
        for condition, rows in replies.items():
            f1s = f1_by_document(articles, rows[start:stop])
            figures[name][condition] = {"f1": mean(f1s), "interval": interval(f1s)}
        start = stop
    return figures


def f1_by_document(articles: Sequence[Article], replies: Sequence[Sequence[RecordedReply]]) -> list[list[float]]:
    """F1 of each document's questions, percent."""
    by_document = []
    for rows, article in zip(replies, articles, strict=True):
        by_document.append([round(f1, 2) for f1 in f1_scores(rows, article)])
    return by_document


def abstained(replies: Sequence[Sequence[RecordedReply]]) -> float:
    """Percent of the replies that say "not in the text"."""
    texts = [reply.text for reply in chain.from_iterable(replies)]
    return round(100 * texts.count(NOT_IN_TEXT) / max(1, len(texts)), 2)


def shift(lab: Lab, engine: Engine, bench: Bench) -> float:
    """Mean KL(base || learned) of the first token of unrelated answers, nats; as the guard measures it."""
    guard, learner = Guard(lab.base, engine.format), engine.course(engine.learner).learner
    shifts = [guard.shift(bench.served.learned(article), learner) for article in lab.articles[:SHIFTED]]
    return sum(shifts) / len(shifts)


def together(lab: Lab, row: Row) -> dict[str, Any]:
    async def measure() -> dict[str, Any]:
        async with lab.bench(lab.engine(**row.settings), row.sections) as bench:
            return await bench.together()

    return asyncio.run(measure())


def budgets(lab: Lab, row: Row) -> dict[str, Any]:
    """Quality against compute of every policy (`core.evaluation.budgets`)."""
    lessons, base = lessons_of(lab.engine(**row.settings), lab.articles, lab.batch)
    lab.tick("budgets", 0, 1)
    policies = policy_scores(lessons, base, [len(article.questions) for article in lab.articles])
    return {"policies": [asdict(policy) for policy in policies]}


def unlearned(lab: Lab, row: Row) -> dict[str, Any]:
    replies = lab.plain | lab.replies("retrieval")
    return report(lab.articles, replies) | {"by_set": by_set(lab, replies)}


LORA = {"learner": "lora"}
STUDY = LORA | {"study": True}


def lora(settings: Mapping[str, Any], **objectives: float) -> Row:
    """LoRA, against what it is without its last ingredient."""
    against = "lora"
    if settings == LORA and not objectives:
        against = "fast-weights"
    elif "study" in settings and objectives:
        against = "lora+study"
    return Row({**settings, "objectives": objectives}, against=against)


ROWS: dict[str, Row] = {
    "fast-weights": Row(conditions=(*LEARNED_CONDITIONS, "both", "retrieval")),
    "base": Row(measure=unlearned),
    "lora": lora(LORA),
    "lora+study": lora(STUDY),
    "ttt-linear": Row({"learner": "ttt-linear"}),
    "ttt-mlp": Row({"learner": "ttt-mlp"}),
    "together": Row(measure=together),
    "budgets": Row(measure=budgets),
    "routed-1": Row(sections=1),
    "votes-3": Row({"votes": 3}, ("weights", "learned")),
    "votes-5": Row({"votes": 5}, ("weights", "learned")),
    "sections-256": Row({"chunk_size": 256}),
    "sections-1024": Row({"chunk_size": 1024}),
    "fixed-1": Row({"budget": "fixed:1"}),
    "fixed-2": Row({"budget": "fixed:2"}),
    "fixed-4": Row({"budget": "fixed:4"}),
    "threshold-4": Row({"budget": "threshold:4"}),
    "abstain-0.5": Row({"abstain": 0.5}, ("weights", "learned", "wrong_document")),
    "abstain-0.9": Row({"abstain": 0.9}, ("weights", "learned", "wrong_document")),
    "lora+study-text": lora(STUDY, text=0.0),
    "lora+study-keep": lora(STUDY, keep=0.0),
    "lora-keep": lora(LORA, keep=0.0),
    "lora+masked": lora(LORA, masked=1.0),
    "lora-quick": lora(LORA | {"effort": "quick"}),
    "lora-deep": lora(LORA | {"effort": "deep"}),
    "learn-embedded": Row(measure=lambda lab, row: speed.learning(lab.base, "fast-weights")),
    "ask-embedded": Row(measure=lambda lab, row: speed.asking(lab.base, "fast-weights")),
    "learn-1.1B": Row(measure=lambda lab, row: speed.learning_large(lab.base, "fast-weights")),
    "learn-1.1B-lora": Row(measure=lambda lab, row: speed.learning_large(lab.base, "lora")),
    "prepare-1.1B": Row(measure=lambda lab, row: speed.preparing(speed.large(lab.base), OuterConfig(seconds=40))),
    "ask-1.1B": Row(measure=lambda lab, row: speed.asking(speed.large(lab.base), "fast-weights")),
}


class Results:
    """The rows so far, in a file.

    Raises: ValueError, when the file holds rows of another model or other questions.
    """

    def __init__(self, path: Path, run: Mapping[str, Any]) -> None:
        self.path, self.run = path, dict(run)
        self.rows: dict[str, Any] = {}
        if path.exists():
            written = json.loads(path.read_text())
            if written["run"] != self.run:
                raise ValueError(f"'{path.name}' holds rows of another model or other questions; delete it.")
            self.rows = written["rows"]

    def add(self, name: str, figures: Mapping[str, Any]) -> None:
        self.rows[name] = figures
        whole = self.path.with_suffix(".new")
        whole.write_text(json.dumps({"run": self.run, "rows": self.rows}, indent=1))
        whole.replace(self.path)


def run(lab: Lab, names: Sequence[str], results: Results) -> None:
    """Measure the rows that are missing, until the time is over."""

    def figures(name: str) -> dict[str, Any]:
        lab.tick(name, 0, 1)
        return (ROWS[name].measure or quality)(lab, ROWS[name])

    measure_missing(results, names, figures, lambda name, row: f"{name:32} {on_one_line(row)}")


def measure_missing(
    results: Results,
    names: Sequence[str],
    measure: Callable[[str], dict[str, Any]],
    line: Callable[[str, Mapping[str, Any]], str],
) -> None:
    """Measure each row that is missing, write it down, print its line; end early on OutOfTime. A row that fails is
    written down as failed, and tried again by the next run."""
    for name in names:
        if "error" not in results.rows.get(name, {"error": ""}):
            continue
        began = time.perf_counter()
        try:
            figures = measure(name)
        except OutOfTime:
            break
        except Exception as error:  # the other rows are worth having
            log.exception("row '%s'", name)
            figures = {"error": f"{type(error).__name__}: {error}"}
        seconds = time.perf_counter() - began
        results.add(name, figures | {"seconds": seconds})
        print(f"{line(name, figures)}  ({seconds:.0f} s)", flush=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def on_one_line(figures: Mapping[str, Any]) -> str:
    if "conditions" in figures:
        conditions = figures["conditions"]
        return "  ".join(f"{condition} {em_and_f1(conditions, condition)}" for condition in conditions)
    if "policies" in figures:
        template = "{policy} {budget:g}: {cost:.2f} -> {f1:.1f}"
        return "; ".join(template.format(**policy) for policy in figures["policies"])
    return json.dumps({name: figure for name, figure in figures.items() if name != "retention"})


COLUMNS = (
    "", "weights", "F1 against", "as served", "wrong document", "gained / lost",
    "unrelated lost, %: closed book / in context",
    "shift, nats", "learning, s", "s a question", "peak MB", "MB",
)  # fmt: skip


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown of the rows that learned, each against its row without; the other ones on a line each."""
    lines = [table_line(COLUMNS), "|---" * len(COLUMNS) + "|"]
    others = []
    for name, row in rows.items():
        if "weights" in row.get("conditions", {}):
            lines.append(table_line(cells(name, row, rows.get(ROWS[name].against))))
        else:
            others.append(f"{name}: {on_one_line(row)}")
    return "\n".join(lines + others)


def table_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def cells(name: str, row: Mapping[str, Any], other: Mapping[str, Any] | None) -> list[str]:
    conditions = row["conditions"]
    weights = conditions["weights"]
    return [
        name,
        em_and_f1(conditions, "weights"),
        "-" if other in (None, row) else difference(name, row, other),
        em_and_f1(conditions, "learned"),
        em_and_f1(conditions, "wrong_document"),
        f"{weights['gained']} / {weights['lost']}",
        f"{percent_lost(row, 'closed_book')} / {percent_lost(row, 'in_context')}",
        f"{row['shift']:.2f}",
        f"{row['learning_seconds']:.1f}",
        f"{weights['seconds_a_question']:.3f}",
        f"{row['peak_memory_mb'] or 0:.0f}",
        f"{row['megabytes']:.2f}",
    ]


def em_and_f1(conditions: Mapping[str, Any], name: str) -> str:
    return "{em:.1f} / {f1:.1f}".format(**conditions[name]) if name in conditions else "-"


def percent_lost(row: Mapping[str, Any], how: str) -> str:
    return str(row["unrelated"].get(how, {}).get("lost", "-"))


def difference(name: str, row: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """In F1, with its 95 % interval, documents resampled."""
    apart = paired_differences(row["f1_by_document"], other["f1_by_document"])
    low, high = bootstrap(apart)
    return f"{mean(apart):+.1f} ({low:+.1f} to {high:+.1f}) {ROWS[name].against}"


def show(paths: Sequence[Path]) -> str:
    """A table for each set of questions."""
    by_questions: dict[str, dict[str, Any]] = {}
    for path in paths:
        results = json.loads(path.read_text())
        asked = {}
        for name, counts in results["run"]["questions"].items():
            asked[name] = f"{len(counts)} documents, {sum(counts)} questions"
        by_questions.setdefault(json.dumps(asked), {}).update(results["rows"])
    return "\n\n".join(f"{asked}\n\n{table(rows)}" for asked, rows in by_questions.items())


def chosen(rows: Iterable[str], only: str, part: str) -> list[str]:
    """Names of rows: those asked for, else all; of them every n-th from the i-th on for the part "i/n"."""
    rows = list(rows)
    names = list(map(str.strip, only.split(","))) if only else rows
    if unknown := set(names) - set(rows):
        raise SystemExit(f"There is no row '{min(unknown)}'; choose from: {', '.join(rows)}")
    i, n = map(int, part.split("/"))
    return names[i::n]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--squad", nargs="+", type=Path, default=[])
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--documents", type=int, help="of each file")
    parser.add_argument("--only", default="", metavar="NAME,...", help=", ".join(ROWS))
    parser.add_argument("--part", default="0/1", metavar="I/N")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--batch", type=int, help="questions at once")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--show", nargs="+", type=Path, metavar="FILE", help="print a table of what was measured")
    o = parser.parse_args()
    if o.show:
        return print(show(o.show))
    end = time.monotonic() + o.seconds
    base = load_model(o.model, device=o.device, dtype=o.dtype)
    sets, questions = {}, {}
    for path in o.squad:
        articles = asked_articles(path, o.documents)
        sets[path.name] = articles
        questions[path.name] = [len(article.questions) for article in articles]
    batch = o.batch or (WIDE if base.device.type == "cuda" else BATCH)
    results = Results(o.output, {"model": base.fingerprint, "device": device_name(base), "questions": questions})
    run(Lab(base, sets, batch, end), chosen(ROWS, o.only, o.part), results)


def device_name(base: LoadedModel) -> str:
    return torch.cuda.get_device_name(base.device) if base.device.type == "cuda" else str(base.device)


if __name__ == "__main__":
    main()
