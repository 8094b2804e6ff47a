"""How the terminal shows things: rich text for people, or one JSON object, on stdout. Diagnostics go to stderr."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from bot.wording import certainty_label, count, not_found_in, with_ellipsis
from core.document.formats import place_of
from core.document.text import visible
from core.program import this_program
from core.prompts import NOT_IN_TEXT
from core.types import Answer, Certainty, Document, Page, Progress, Stage, Status

STAGE_WORDS = {
    Stage.QUEUED: "Waiting",
    Stage.READING: "Reading",
    Stage.LEARNING: "Learning",
    Stage.CHECKING: "Checking",
    Stage.SAVING: "Saving",
}


def plain(text: str) -> str:
    """Text that others wrote, so that neither rich nor the terminal reads orders in it."""
    return escape(visible(text))


class Screen:
    """One command's way of telling what happens."""

    def __init__(self, *, json: bool) -> None:
        self.json = json
        self.terminated = False  # by SIGTERM, not by Ctrl-C
        self.out = Console(quiet=json, highlight=False)
        self.err = Console(stderr=True, highlight=False)

    @property
    def live(self) -> Console:
        """For what moves while people wait."""
        return self.err if self.json else self.out

    def say(self, *things: Any, soft_wrap: bool = False) -> None:
        """For people; text is rich markup: `plain` what others wrote."""
        self.out.print(*things, soft_wrap=soft_wrap)

    def note(self, text: str) -> None:
        """A plain line on stderr."""
        self.err.print(text, markup=False, soft_wrap=True)

    def result(self, value: Mapping[str, Any]) -> None:
        """The JSON object, when it was asked for."""
        if not self.json:
            return
        try:
            print(json.dumps(value, ensure_ascii=False), flush=True)
        except BrokenPipeError:  # whoever reads it, `head` for example, has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def error(self, kind: str, message: str) -> None:
        self.result({"error": {"kind": kind, "message": message}})
        self.note(message)

    def recognised(self, done: int, total: int) -> None:
        """Text recognition takes seconds for a page."""
        self.note(f"recognised the text of page {done} of {total}")

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        if not self.live.is_terminal:
            yield
            return
        with self.live.status(text):
            yield

    @contextmanager
    def counting(self) -> Iterator[Callable[[str, int, int], None]]:
        """A bar for (what, done, total)."""
        with Bars(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=self.live) as bars:
            line = bars.add_task("Loading the model", total=None)
            yield lambda what, done, total: bars.update(line, description=what, completed=done, total=total)


def training_line(figures: Mapping[str, Any]) -> str:
    """What `prepare` reports: a stage's name, then its numbers; seconds of the phases of a step in brackets."""
    parts = []
    for name, value in figures.items():
        if isinstance(value, Mapping):
            parts.append("(" + ", ".join(f"{phase} {seconds:.3f} s" for phase, seconds in value.items()) + ")")
        elif isinstance(value, float):
            parts.append(f"{name} {value:,.0f}" if abs(value) >= 100 else f"{name} {value:.3f}")
        elif name != "stage":
            parts.append(f"{name} {value}")
    return f"{figures['stage']}: {', '.join(parts)}"


class StepsColumn(BarColumn):
    """A bar for stages that have steps."""

    def render(self, task: Task) -> ProgressBar | Text:  # type: ignore[override]
        return super().render(task) if task.fields.get("steps") else Text()


class JobView:
    """A learning job: a line a stage, with a bar for the steps."""

    def __init__(self, console: Console) -> None:
        self._bars = Bars(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description:<8}"),
            TextColumn("{task.fields[text]}"),
            StepsColumn(bar_width=24),
            console=console,
        )
        self._stage: Stage | None = None
        self._line: TaskID | None = None

    def __enter__(self) -> JobView:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, progress: Progress) -> None:
        stage = progress.job.stage
        if stage is Stage.QUEUED and not progress.place:
            return  # its turn comes at once
        if stage is not self._stage:
            if self._line is not None and progress.job.stage not in (Stage.FAILED, Stage.CANCELLED):
                text = job_text(progress, self._stage)  # of the stage before
                self._bars.update(self._line, total=1, completed=1, text=text)
            self._stage = stage
            self._line = self._bars.add_task(STAGE_WORDS[stage], total=None, text="") if stage in STAGE_WORDS else None
        if self._line is not None:
            steps = progress.step if stage is Stage.LEARNING else None
            bar: dict[str, Any] = {"total": steps.total, "completed": steps.done, "steps": True} if steps else {}
            self._bars.update(self._line, text=job_text(progress, stage), **bar)


def learned_text(document: Document) -> str:
    """What came of it, and what a person should know."""
    size, metrics = megabytes(document.weights.bytes), document.metrics
    text = (
        f"Learned {plain(document.name)} ({document.id}): {size} of weights in {metrics.seconds:.1f} s, "
        f"loss {metrics.initial_loss:.2f} → {metrics.final_loss:.2f}."
    )
    return "\n".join([text, *(f"[yellow]{plain(note)}[/]" for note in document.metrics.notes)])


def job_text(progress: Progress, stage: Stage | None) -> str:
    """What is known about a stage, on one line."""
    job, step = progress.job, progress.step
    if stage is Stage.QUEUED and progress.place:
        return f"{progress.place} ahead"
    if stage is Stage.READING:
        counts = f": {count(progress.pages, place_of(job.name))}, {progress.tokens:,} tokens" if progress.tokens else ""
        again = f", attempt {job.attempts}" if job.attempts > 1 else ""
        return plain(job.name) + again + counts
    if stage is Stage.LEARNING and step:
        steps = f"{step.done}/{step.total}, " if step.stage is stage else ""  # else the next stage's
        return f"{steps}{progress.seconds:.0f} s"
    return ""


def page_rule(page: Page, place: str) -> Rule:
    sure = "" if page.confidence is None else f", by text recognition (OCR), {page.confidence:.0%} sure"
    return Rule(f"{place} {page.number}{sure}", align="left", style="dim")


def answers_table(answer: Answer) -> Table:
    """Base and learned answer in two columns, and below them where the learned one comes from."""
    table = Table(box=box.ROUNDED, expand=True)
    table.add_column("Base model", ratio=1, header_style="dim")
    table.add_column("Learned", ratio=1, header_style="bold green")
    if answer.learned and answer.document and answer.certainty is Certainty.ABSENT:
        guess = "" if answer.learned.text == NOT_IN_TEXT else f"\n[dim]A guess: {plain(answer.learned.text)}[/]"
        learned = not_found_in(plain(answer.document.name), plain(answer.closest)) + guess
    elif answer.learned:
        learned = plain(answer.learned.text)
    elif answer.unrelated:
        learned = "[dim]nothing learned here seems to be about that; add --document NAME to ask one all the same[/]"
    else:
        learned = f"[dim]no document is learned here yet; first: {this_program()} learn FILE[/]"
    table.add_row(f"[dim]{plain(with_ellipsis(answer.base.text))}[/]", learned)
    return table


def source_line(answer: Answer) -> str:
    """document · page · how sure it is · seconds · the promise about the prompt"""
    seconds = max(c.seconds for c in (answer.base, answer.learned) if c)
    prompt = f"{count(answer.prompt_tokens, 'token')} in the prompt, {answer.document_tokens or 'none'} from a document"
    parts = [f"{seconds:.1f} s", prompt]
    if answer.learned and answer.document:
        places = [] if answer.certainty is Certainty.ABSENT else supported_places(answer)
        parts = [plain(answer.document.name), *places, certainty_label(answer.certainty), *parts]
    parts += [f"left out, to be learned again: {plain(name)}" for name in answer.unusable]
    return f"[dim]{' · '.join(parts)}[/]"


def supported_places(answer: Answer) -> list[str]:
    """The places where the text supports an answer, or that none does and which is closest; none when no text is kept,
    or the document has no places."""
    if answer.pages is None:
        return []
    if not answer.pages:
        closest = [f"closest: {plain(answer.closest)}"] if answer.closest else []
        return ["not found in the document's text", *closest]
    if not answer.places or answer.places == tuple(f"p. {page}" for page in answer.pages):
        return [f"page{'s' * (len(answer.pages) > 1)} {', '.join(map(str, answer.pages))}"]
    return [plain("; ".join(answer.places))] if any(answer.places) else []


def documents_table(documents: Sequence[Document]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("Id", no_wrap=True)
    table.add_column("Name", overflow="fold", min_width=16)
    for name in ("Pages", "Tokens", "Weights"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("Learned", no_wrap=True)
    table.add_column("By", overflow="fold")
    for d in documents:
        when = time.strftime("%Y-%m-%d", time.localtime(d.learned_at))
        size = megabytes(d.weights.bytes)
        table.add_row(d.id, plain(d.name), str(d.pages), f"{d.tokens:,}", size, when, plain(d.learned_by))
    return table


def status_table(status: Status, channel: str) -> Table:
    running = f"{status.running.name}, {status.running.stage}" if status.running else "nothing"
    facts = {
        "Model": f"{status.model} ({status.fingerprint[:12]})" if status.model else "not loaded",
        "Device": f"{status.device}, {status.dtype}" if status.device else "",
        "Learner": status.learner,
        "Channel": f"{channel}: {count(status.documents, 'document')}, {megabytes(status.data_bytes)} of weights",
        "Queue": f"{status.queued} waiting, learning {running}",
        "Note": " ".join(status.notes),
    }
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        if value:
            table.add_row(f"[dim]{name}[/]", plain(value))
    return table


def bench_table(result: Mapping[str, Any]) -> Table:
    title = f"{result['documents']} documents, {result['questions']} questions, {result['seconds']:.0f} s"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", caption_justify="left")
    table.add_column("Condition")
    for name in ("Exact, %", "F1, %", "95 %", "Gained", "Lost", "Seconds", "Prompt"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, c in result["conditions"].items():
        low, high = c["f1_interval"]
        changed = [str(c.get(key, "")) for key in ("gained", "lost")]
        costs = [f"{c['seconds_a_question']:.2f}", f"{c['prompt_tokens']:.0f}"]
        table.add_row(
            name.replace("_", " "), f"{c['em']:.1f}", f"{c['f1']:.1f}", f"{low:.0f}-{high:.0f}", *changed, *costs
        )
    table.caption = bench_notes(result)
    return table


def bench_notes(result: Mapping[str, Any]) -> str:
    """What the table has no column for."""
    lines = [
        f"{result['learning_seconds']:.0f} s to learn {result['tokens']:,} tokens, {result['megabytes']:.1f} MB of "
        f"weights a document, {result['peak_memory_mb']:,.0f} MB of memory at most"
    ]
    for name, unrelated in result["unrelated"].items():
        lines.append(f"unrelated, {name.replace('_', ' ')}: {unrelated['lost']:.1f} % of {unrelated['right']} lost")
    if general := result.get("general"):
        among = f", {general['lost_together']:.1f} % in one channel" if "lost_together" in general else ""
        lines.append(f"general questions: {general['lost']:.1f} % of {general['right']} lost{among}")
    if channel := result.get("together"):
        lines.append(
            f"in one channel: the right document answers {channel['right_document']:.1f} %, F1 {channel['f1']:.1f} "
            f"({channel['alone_f1']:.1f} alone, {channel['fall']:.1f} % less)"
        )
        talk, changed = channel["conversation"], channel["other_thread"]
        lines.append(
            f"one question after another in a thread: {talk['right_document']:.1f} %, F1 {talk['f1']:.1f} "
            f"({talk['fall']:.1f} % less); after another document's answer: {changed['right_document']:.1f} %"
        )
    return "\n".join(lines)


def checks_table(checks: Sequence[Mapping[str, Any]]) -> Table:
    """The doctor's: what was looked at, how it is, what to do."""
    marks = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "error": "[red]✗[/]"}
    table = Table.grid(padding=(0, 2))
    for check in checks:
        table.add_row(marks[check["state"]], check["name"], plain(check["detail"]))
        if check["fix"]:
            table.add_row("", "", f"[yellow]→ {plain(check['fix'])}[/]")
    return table


def megabytes(number: float) -> str:
    return f"{number / 2**20:,.1f} MB"


# JSON


def document_json(document: Document) -> dict[str, Any]:
    return {key: getattr(document, key) for key in ("id", "name", "pages", "tokens", "sha256")}


def learned_json(document: Document, data_dir: Path) -> dict[str, Any]:
    weights, path = document.weights, str(data_dir / document.weights.path)
    return {
        "channel": document.channel,
        "document": document_json(document),
        "metrics": asdict(document.metrics),
        "delta": {"path": path, "bytes": weights.bytes, "sha256": weights.sha256, "learner": weights.learner},
    }


def listed_json(document: Document) -> dict[str, Any]:
    return {**document_json(document), "learned_at": document.learned_at, "learned_by": document.learned_by}


def answer_json(answer: Answer) -> dict[str, Any]:
    values = asdict(answer)
    shown = ("id", "question", "learned", "base", "document", "pages", "places", "prompt_tokens")
    return {key: values[key] for key in shown}
