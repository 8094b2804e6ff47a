"""Values into words: every sentence that the bot says, as platform-neutral messages, and the means to show them safely.

Messages hold plain text. A platform escapes it (`escape_discord`, `escape_slack`) and cuts it to its limits (`split`,
`clip`).
"""

from __future__ import annotations

import io
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bot.chat import Button, Field, Message, Style, Tone
from core.errors import AlreadyKnown, EngramError, QuotaReached, SetupError
from core.types import Answer, Completion, Document, Job, Metrics, Progress, Stage, Status

if TYPE_CHECKING:
    from bot.commands import Command

LISTED = 12  # documents, so that a list fits one message
EXAMPLES = 3  # questions shown as buttons when a document is learned
OFFERED = 5  # documents shown as buttons: a row on Discord
LABEL = 75  # characters of a button's label or value: Slack's limit, the narrowest

NOTHING_YET = "I know no document here yet"

# Learning ------------------------------------------------------------------------------------------------------------


def received(name: str) -> Message:
    return Message(title=f"Got {name}", text="Fetching it …", tone=Tone.WORKING)


def progress(news: Progress) -> Message:
    """What a learning job is doing now."""
    title = f"Waiting to learn {news.job.name}" if news.job.stage is Stage.QUEUED else f"Learning {news.job.name}"
    facts = " · ".join(_facts(news))
    lines = [_stages(news), _bar(news), facts]
    return Message(
        title=title,
        text="\n".join(line for line in lines if line),
        buttons=(Button("Cancel", "cancel", news.job.id),),
        tone=Tone.WORKING,
    )


def finished(news: Progress, picture: bytes = b"") -> Message:
    """How a learning job ended."""
    job = news.job
    if job.stage is Stage.CANCELLED:
        return Message(title=f"Cancelled: {job.name}", text="Nothing of it was kept.")
    if news.document is None:
        text = job.error or "Learning failed; the model is as it was."
        return Message(title=f"I could not learn {job.name}", text=text, tone=Tone.BAD)
    return _learned(news.document, picture)


def _learned(document: Document, picture: bytes) -> Message:
    metrics = document.metrics
    read = f"{count(document.pages, 'page')}, {document.tokens:,} tokens, learned in {seconds(metrics.seconds)}."
    loss = f"How much its text surprises me (loss): {metrics.initial_loss:.2f} before, {metrics.final_loss:.2f} now."
    check = [_checked(metrics)] if metrics.check_total else []
    notes = [note if note.endswith(".") else f"{note}." for note in metrics.notes]
    questions = document.questions[:EXAMPLES]
    hint = "Try one of these, or ask your own:" if questions else "Ask me anything about it."
    return Message(
        title=f"I know {document.name} now",
        text="\n".join([read, loss, *check, *notes, "", hint]),
        buttons=tuple(
            Button(clip(question, LABEL), "example", f"{document.id}/{number}")
            for number, question in enumerate(questions)
        ),
        footer="Learned into this channel's own weights. Mention me with “docs” to see all, with “forget” to erase.",
        tone=Tone.GOOD,
        picture=picture,
        picture_text=f"Loss per step while learning, from {metrics.initial_loss:.2f} to {metrics.final_loss:.2f}",
    )


def _checked(metrics: Metrics) -> str:
    asked = count(metrics.check_total, "question")
    return f"Self-check: I answer {metrics.check_after} of {asked} about it; before, it was {metrics.check_before}."


def cancelling(names: Sequence[str]) -> Message:
    return Message(text=f"Stopping {', '.join(names)} …")


def waits(name: str, problem: BaseException) -> Message:
    """The job is safe, but this process will not go on with it."""
    return Message(title=f"{name} has to wait", text=error(problem).text, tone=Tone.WORKING)


def ended_below() -> Message:
    return Message(text="This has ended; see my reply to this message.")


def vanished(name: str) -> Message:
    return Message(title=f"{name} is gone", text="This channel was reset before I had learned it.")


STAGES = {Stage.READING: "read", Stage.LEARNING: "learn", Stage.CHECKING: "check", Stage.SAVING: "save"}


def _stages(news: Progress) -> str:
    """✓ read   ▶ learn   ○ check   ○ save"""
    if news.job.stage is Stage.QUEUED:
        ahead = f": {count(news.place, 'document')} ahead of it" if news.place else ": it is next"
        return f"Place {news.place + 1} in the queue{ahead}."
    now = list(STAGES).index(news.job.stage)
    marks = ["✓"] * now + ["▶"] + ["○"] * len(STAGES)
    return "   ".join(f"{mark} {name}" for mark, name in zip(marks, STAGES.values(), strict=False))


def _bar(news: Progress, width: int = 20) -> str:
    if news.step is None or not news.step.total:
        return ""
    share = min(1.0, news.step.done / news.step.total)
    full = round(share * width)
    return f"{'█' * full}{'░' * (width - full)} {share:.0%}"


def _facts(news: Progress) -> Iterable[str]:
    if news.pages:
        yield count(news.pages, "page")
    if news.tokens:
        yield f"{news.tokens:,} tokens"
    if news.losses:
        yield f"loss {news.losses[0]:.2f} → {news.losses[-1]:.2f}"
    if news.job.attempts > 1:
        yield f"try {news.job.attempts}"
    if left := time_left(news):
        yield f"about {in_words(left)} left"


def time_left(news: Progress) -> float:
    """Seconds, by the pace so far; 0 while there is nothing to go by."""
    if news.job.stage is not Stage.LEARNING or news.step is None or not news.step.done:
        return 0.0
    return news.seconds * (news.step.total - news.step.done) / news.step.done


def loss_curve(losses: Sequence[float]) -> bytes:
    """A small PNG of the loss per step; b"" when there is no curve to draw. Call it through a thread. Drawn by hand:
    matplotlib takes the interpreter for itself for a second, and the event loop waits.
    """
    points = [(step, loss) for step, loss in enumerate(losses, start=1) if math.isfinite(loss)]
    if len(points) < 2:
        return b""
    from PIL import Image, ImageDraw, ImageFont

    left, top, right, bottom = 90, 50, 940, 310  # of the plot, in dots; halved at the end, which smooths the line
    low, high = min(loss for _, loss in points), max(loss for _, loss in points)
    wide, tall = (right - left) / (points[-1][0] - 1), (bottom - top) / ((high - low) or 1.0)
    picture = Image.new("RGB", (960, 360), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(22)
    draw.line([(left, top), (left, bottom), (right, bottom)], fill="black", width=2)
    curve = [(left + (step - 1) * wide, bottom - (loss - low) * tall) for step, loss in points]
    draw.line(curve, fill="#5865f2", width=5, joint="curve")
    for place, text, anchor in (
        ((left - 8, top), f"{high:.2f}", "rm"), ((left - 8, bottom), f"{low:.2f}", "rm"),
        ((left, top - 28), "loss (nats a token)", "lm"), ((left, bottom + 24), "step 1", "lm"),
        ((right, bottom + 24), f"{points[-1][0]}", "rm"),
    ):  # fmt: skip
        draw.text(place, text, fill="black", font=font, anchor=anchor)
    with io.BytesIO() as file:
        picture.resize((480, 180), Image.Resampling.LANCZOS).save(file, "PNG")
        return file.getvalue()


# Answers -------------------------------------------------------------------------------------------------------------


def answer(value: Answer, *, private: bool = False, coming: Sequence[Job] = ()) -> Message:
    """The learned answer beside the base model's. `coming`: what the channel is learning."""
    if value.learned is None or value.document is None:
        return _untaught(value, coming)
    name = value.document.name
    buttons = (Button("Helpful", "helpful", value.id), Button("Wrong", "wrong", value.id)) if value.id else ()
    if private and value.id:
        buttons += (Button("Share in channel", "share", value.id, Style.PRIMARY),)
    return Message(
        title=value.question,
        fields=(
            Field("Learned", _said(value.learned), _note(value.learned, *where(value.pages))),
            Field("Base model (untaught)", _said(value.base), _note(value.base)),
        ),
        footer=f"From {name}, by weights alone: 0 document tokens in the prompt" + _left_out(value),
        buttons=buttons,
        tone=Tone.GOOD,
    )


def _left_out(value: Answer) -> str:
    """Documents that could not be asked."""
    return f" · left out, to be learned again: {', '.join(value.unusable)}" if value.unusable else ""


def asked(question: str, by: str) -> Message:
    """Stands in the channel; the answer is in its thread."""
    return Message(text=f"{by} asks: {question}")


def shared(message: Message, by: str) -> Message:
    """A private answer, shown to all."""
    buttons = tuple(button for button in message.buttons if button.action != "share")
    return replace(message, buttons=buttons, footer=f"{message.footer} · shared by {by}" if by else message.footer)


def thanks(helpful: bool) -> Message:
    return Message(text="Thank you, noted as helpful." if helpful else "Thank you, noted as wrong.")


def _untaught(value: Answer, coming: Sequence[Job]) -> Message:
    hint = "I have learned nothing here yet. Attach a PDF and mention me."
    if value.unrelated:
        hint = "Nothing that I learned here seems to be about this. To ask a document all the same, name it."
    elif coming:
        hint = f"I am still learning {coming[0].name}; ask again when I am done."
    return Message(
        title=value.question,
        fields=(Field("Base model (untaught)", _said(value.base), _note(value.base)),),
        footer=hint + _left_out(value),
    )


def where(pages: Sequence[int] | None) -> list[str]:
    """The citation: the pages that support an answer, or that none does; none when there is no text to look in."""
    if pages is None:
        return []
    return [f"p. {', '.join(str(page) for page in pages)}" if pages else "not found in the document"]


def _said(completion: Completion) -> str:
    return completion.text.strip() or "(nothing)"


def _note(completion: Completion, *first: str) -> str:
    return " · ".join((*first, f"confidence {completion.confidence:.0%}", f"{completion.seconds:.1f} s"))


# Managing ------------------------------------------------------------------------------------------------------------


def documents(
    known: Sequence[Document],
    coming: Sequence[Job] = (),
    *,
    names: Mapping[str, str] | None = None,
    now: float | None = None,
) -> Message:
    """What the channel knows and what is on its way. `names`: what to call the users who brought the documents."""
    if not known and not coming:
        return Message(title=NOTHING_YET, text="Attach a PDF to a message that mentions me, and I will learn it.")
    at = time.time() if now is None else now
    by = names or {}
    shown = known[:LISTED]
    lines = [f"• {document.name}\n   {_about(document, by.get(document.learned_by, ''), at)}" for document in shown]
    lines += [f"… and {len(known) - LISTED} more; /forget finds them by name."] if len(known) > LISTED else []
    lines += [f"• {job.name}: {'in the queue' if job.stage is Stage.QUEUED else 'being learned now'}" for job in coming]
    return Message(
        title=f"I know {count(len(known), 'document')} here" if known else NOTHING_YET, text="\n".join(lines)
    )


def _about(document: Document, name: str, now: float) -> str:
    metrics = document.metrics
    facts = (
        count(document.pages, "page"),
        f"{ago(now - document.learned_at)}{f' by {name}' if name else ''}",
        f"loss {metrics.initial_loss:.2f} → {metrics.final_loss:.2f}",
        *([f"self-check {metrics.check_after}/{metrics.check_total}"] if metrics.check_total else ()),
        *metrics.notes,
        f"id {document.id}",
    )
    return " · ".join(facts)


def forgotten(document: Document) -> Message:
    return Message(
        title=f"{document.name} is forgotten",
        text="Its weights, its text and the questions about it are gone, from the disk too.",
    )


def forget_question(documents: Sequence[Document]) -> Message:
    """Which one? The newest as buttons, since not every platform completes names."""
    if not documents:
        return Message(text="There is nothing here that you may make me forget; /docs lists what I know.")
    more = "" if len(documents) <= OFFERED else " For another one, write its name or id after the command."
    return Message(
        title="Which document shall I forget?",
        text=f"Its weights, its text and the questions about it are erased for good.{more}",
        buttons=tuple(
            Button(clip(document.name, LABEL), "forget", document.id, Style.DANGER) for document in documents[:OFFERED]
        ),
        tone=Tone.BAD,
    )


def reset_question(known: int) -> Message:
    return Message(
        title=f"Forget everything? This channel knows {count(known, 'document')}.",
        text="Weights, texts and questions are erased for good, and unfinished learning stops. "
        "Other channels keep theirs.",
        buttons=(Button("Forget everything", "reset", style=Style.DANGER), Button("Keep", "keep")),
        tone=Tone.BAD,
    )


def reset_done(forgot: int) -> Message:
    return Message(
        title=f"Forgot {count(forgot, 'document')}" if forgot else "There was nothing to forget",
        text="In this channel I am the plain base model again.",
    )


def status(value: Status, channel: str) -> Message:
    """The state of the bot, as this channel may see it: what other channels learn is theirs alone."""
    return Message(
        title="Status",
        fields=(
            Field(
                "Model",
                value.model or "not loaded",
                " · ".join(filter(None, (value.device, value.dtype, value.learner))),
            ),
            Field("This channel", f"{count(value.documents, 'document')} learned"),
            Field("Now", _now(value, channel), f"{value.queued} waiting, all channels together"),
            *(Field("Note", note) for note in value.notes),
        ),
    )


def _now(value: Status, channel: str) -> str:
    if value.running is None:
        return "Idle"
    return f"Learning {value.running.name}" if value.running.channel == channel else "Learning for another channel"


def help(commands: Iterable[Command]) -> Message:
    return Message(
        title="I learn your PDFs",
        text="Attach a PDF and mention me, or send it to me directly: I learn it into weights that belong to this "
        "channel alone. Then mention me with a question. You see my answer beside the untaught model's, "
        "and nothing of the document is in the prompt. Go on in the thread of an answer, and I ask its document first.",
        fields=(Field("Commands", "\n".join(f"/{command.name}: {command.description}" for command in commands)),),
        footer="No slash commands where you are? Mention me and write the command's name instead.",
    )


def about(model: str, source: str) -> Message:
    return Message(
        title="About me",
        text="I learn only documents that somebody hands me on purpose. What I learn is a small set of weights that "
        "belongs to one channel; it is never merged into a shared model and never leaves this machine.",
        fields=(
            Field("Model", model or "being loaded"),
            Field("Source and licence", source or "Ask whoever runs me.", "MIT; it reads PDFs with PyMuPDF (AGPL-3.0)"),
            Field(
                "What I keep",
                "Per channel: the learned weights, the document's text, questions with their answers, feedback, "
                "and the user ids of those who taught and asked. The PDF itself goes once it is learned.",
            ),
            Field("How to erase it", "/forget erases one document, /reset everything of a channel, from the disk too."),
        ),
    )


def refused(problem: BaseException, name: str) -> Message:
    """Why a document is not being learned."""
    if isinstance(problem, AlreadyKnown):
        title = f"{name}: I know this one" if problem.document_id else f"{name} is on its way"
        return Message(title=title, text=str(problem))
    if isinstance(problem, QuotaReached):
        return Message(title=f"{name} has to wait", text=str(problem), tone=Tone.BAD)
    return replace(error(problem), title=f"I can't learn {name}")


def error(problem: BaseException) -> Message:
    """A failure in one sentence. Texts of foreign exceptions are never shown."""
    if isinstance(problem, SetupError):
        text = "I am not set up correctly; whoever runs me finds the details in the log."
    elif isinstance(problem, EngramError):
        text = str(problem)
    else:
        text = "Something went wrong on my side. Try again; if it stays, whoever runs me finds the details in the log."
    return Message(text=text, tone=Tone.BAD)


def note(text: str, tone: Tone = Tone.PLAIN) -> Message:
    return Message(text=text, tone=tone)


# Words ---------------------------------------------------------------------------------------------------------------


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def seconds(value: float) -> str:
    """0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def in_words(value: float) -> str:
    """24 seconds, 3 minutes, 2 hours: rounded up, so that trying again then works."""
    for size, noun in ((3600, "hour"), (60, "minute")):
        if value >= size:
            return count(int(-(-value // size)), noun)
    return count(max(1, int(-(-value // 1))), "second")


def ago(value: float) -> str:
    if value < 60:
        return "just now"
    for size, noun in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if value >= size:
            return f"{count(int(value // size), noun)} ago"
    raise AssertionError("unreachable")


# Safety --------------------------------------------------------------------------------------------------------------


FENCE = "```"
_DISCORD_SPECIAL = re.compile(r"([\\*_~|`<>\[\]]|^#|(?<=^-)#|:(?=//))", re.MULTILINE)
_SLACK_SPECIAL = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def escape_discord(text: str) -> str:
    """Plain text -> Discord Markdown that shows exactly it: no formatting, links, time stamps, emoji codes or mentions.
    Fenced code stays code."""
    return _outside_fences(text, lambda part: without_mentions(_DISCORD_SPECIAL.sub(r"\\\1", part)))


def without_mentions(text: str) -> str:
    """A zero-width space after each @: for places that show plain text."""
    return text.replace("@", "@\u200b")


def escape_slack(text: str) -> str:
    """Plain text -> Slack mrkdwn: only & < > have power to mention, link or call; * _ ~ ` are left as written."""
    return re.sub("[&<>]", lambda match: _SLACK_SPECIAL[match[0]], text)


def _outside_fences(text: str, escape: Callable[[str], str]) -> str:
    """Escape all but complete ``` blocks, in which only mentions are broken."""
    parts = re.split(r"(```.*?```)", text, flags=re.DOTALL)
    return "".join(
        without_mentions(part) if part.startswith(FENCE) and len(part) >= 6 else escape(part) for part in parts
    )


def clip(text: str, limit: int) -> str:
    """At most `limit` characters, with an ellipsis where something was cut; an open code fence is closed."""
    return text if len(text) <= limit else split(text, limit - 1)[0].rstrip() + "…"


def split(text: str, limit: int) -> list[str]:
    """Cut a text into parts of at most `limit` (40 or more) characters: between paragraphs, lines or words where
    possible. A code fence that has to be cut is closed and opened again, so that every part stands alone."""
    parts: list[str] = []
    opening = ""  # what the next part begins with when a fence was cut
    rest = text
    while len(opening) + len(rest) > limit:
        cut = _best_cut(rest, limit - len(opening) - len(FENCE) - 1)  # a fence may have to be closed
        part, rest = opening + rest[:cut].rstrip(), rest[cut:]
        opening = _open_fence(part)
        parts.append(f"{part}\n{FENCE}" if opening else part)
    return [*parts, opening + rest]


def _best_cut(text: str, room: int) -> int:
    for gap in ("\n\n", "\n", ". ", " "):
        at = text.rfind(gap, room // 2, room - len(gap))
        if at > 0:
            return at + len(gap)
    fence = re.search(r"`+\w*$", text[:room])  # a fence and its language stay together
    return fence.start() if fence and fence.start() and re.match(r"[`\w]", text[room:]) else room


def _open_fence(text: str) -> str:
    """The line that opens again the fence which is open at the end of a text, or ""."""
    if text.count(FENCE) % 2 == 0:
        return ""
    language = re.match(r"(\w{0,20})\n", text.rpartition(FENCE)[2])
    return f"{FENCE}{language[1] if language else ''}\n"
