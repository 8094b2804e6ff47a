"""Values into words: every sentence that the bot says, as platform-neutral messages.

Messages hold plain text. A platform makes it safe and cuts it to its limits with `bot.escape`.
"""

from __future__ import annotations

import io
import math
import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from bot.chat import Button, Field, Message, Style, Tone
from bot.escape import clip
from bot.wording import ago, count, in_words, not_found_in, seconds, with_ellipsis
from core.convert import DEFAULT, MODEL
from core.document.formats import place_of
from core.document.text import one_line
from core.errors import AlreadyKnown, EngramError, QuotaReached, SetupError
from core.prompts import NOT_IN_TEXT
from core.search.words import STOP_WORDS
from core.types import Answer, Certainty, Completion, Correction, Document, Job, JobKind, Progress, Stage, Status

LISTED, COMING = 12, 3  # documents, of them on their way, so that a list fits one message
MIN_CHECK_QUESTIONS = 5  # questions of a self-check that tell something
MAX_EXAMPLES = 3  # questions shown as buttons when a document is learned
MAX_OFFERED = 5  # documents shown as buttons: a row on Discord
MAX_LABEL = 75  # characters of a button's label or value: Slack's limit, the narrowest
MAX_ANSWER = 300  # characters of an answer, and
MAX_ANSWER_LINES = 3  # its lines; the rest is behind "Details"
MAX_HEADLINE = 100  # characters up to which a likely answer is shown in bold
MAX_BASE_ANSWER = 140  # characters of the base model's answer on its line
MAX_CITED = 3  # pages
BAR = 16  # characters of a bar of progress

NOTHING_YET = "I don't know any documents here yet"

# Learning ------------------------------------------------------------------------------------------------------------

STAGES = {
    Stage.READING: "Reading it …",
    Stage.LEARNING: "Learning it …",
    Stage.CHECKING: "Asking myself about it …",
    Stage.SAVING: "Nearly there …",
}
PACE = {Stage.READING: 0.1, Stage.LEARNING: 0.6, Stage.CHECKING: 0.27, Stage.SAVING: 0.03}  # shares of the time


def received(name: str) -> Message:
    return Message(title=f"Learning {name}", text=f"{_bar(0.0)}\nFetching it …", tone=Tone.WORKING)


def progress(news: Progress, pace: Mapping[Stage, float] = PACE) -> Message:
    """What a learning job is doing now. `pace`: the share of the time that each stage takes."""
    cancel = (Button("Cancel", "cancel", news.job.id),)
    if news.job.stage is Stage.QUEUED:
        before = f"{count(news.place, 'document')} before it." if news.place else "It is next."
        return Message(f"{news.job.name} is waiting", before, buttons=cancel, tone=Tone.WORKING)
    share = share_done(news, pace)
    left = time_left(news.seconds, share)
    stage = STAGES[news.job.stage]
    if news.job.stage is Stage.READING and news.step:
        stage = f"It is a scan: I recognise its text, {news.step.done} of {count(news.step.total, 'page')} done."
    text = f"{_bar(share)}\n{f'{stage} About {in_words(left)} left.' if left else stage}"
    begins = "Correcting" if news.job.kind is JobKind.CORRECT else "Learning"
    return Message(f"{begins} {news.job.name}", text, buttons=cancel, tone=Tone.WORKING)


def share_done(news: Progress, pace: Mapping[Stage, float] = PACE) -> float:
    """How much of a job is done, 0..1. A stage that does not count its steps approaches its end, so that it moves."""
    stages = list(STAGES)
    now = stages.index(news.job.stage)
    step = news.step
    within = 0.3 * (1 - math.exp(-news.seconds / 20))
    if step and step.stage is news.job.stage and step.total > 1 and step.done:
        within = step.done / step.total
    before = sum(pace[stage] for stage in stages[:now])
    return (before + min(1.0, within) * pace[news.job.stage]) / sum(pace.values())


def time_left(seconds: float, share: float) -> float:
    """Seconds, by the pace so far; 0 while that tells too little."""
    return seconds * (1 - share) / share if share >= 0.15 and seconds >= 3 else 0.0


def _bar(share: float) -> str:
    full = round(share * BAR)
    return f"{'█' * full}{'░' * (BAR - full)} {share:.0%}"


def finished(news: Progress, older: Document | None = None, examples: Sequence[tuple[int, str]] = ()) -> Message:
    """How a learning job ended.

    Args:
        older: a document of the same name that the channel knew before.
        examples: questions to try, each with its number.
    """
    job = news.job
    if job.stage is Stage.CANCELLED:
        return Message(text=f"Stopped. Nothing of {job.name} was kept.")
    if news.document is None:
        text = job.error or "Learning failed; nothing was changed."
        return Message(f"I could not learn {job.name}", text, tone=Tone.BAD, notify=job.requested_by)
    return replace(_learned(news.document, older, examples), notify=job.requested_by)


def _learned(document: Document, older: Document | None, examples: Sequence[tuple[int, str]]) -> Message:
    metrics = document.metrics
    notes = []
    for note in metrics.notes:
        if not MACHINE_TERMS.search(note):
            notes.append(f"{note.removesuffix('.')}.")
    if metrics.check_total >= MIN_CHECK_QUESTIONS and metrics.check_after < metrics.check_total / 2:
        asked = count(metrics.check_total, "question")
        notes.append(f"I got {metrics.check_after} of my own {asked} about it right, so look at the pages I give.")
    hint = "Try one of these, or ask your own:" if examples else "Ask me who, what, when, where or how many."
    buttons = [Button(question, "example", f"{document.id}/{number}") for number, question in examples]
    if older:
        notes.append(f"I still know the older {older.name}, too.")
        buttons.append(Button("Forget the older one", "forget", older.id, Style.DANGER))
    return Message(
        title=f"I know {document.name} now",
        text=" ".join([f"{parts(document)}.", *notes, hint]),
        buttons=(*buttons, Button("Details", "learning", document.id)),
        tone=Tone.GOOD,
    )


MACHINE_TERMS = re.compile(r"\b(?:rate|loss|steps?|weights?|tokens?|gradients?|layers?|delta|budget)\b", re.IGNORECASE)
ASKS = re.compile(r"(?:Who|What|When|Where|Why|Which|How)\b")
DANGLING = re.compile(
    r"\b(?:a|an|the|and|or|of|in|on|at|by|to|for|from|with|as|than|that|which|who|is|are|was|were|its|their)\?$"
    r"|\bin \d{4} by\b|\b(\w+) \1\b|[“”\"()|_]|\b[A-Z]\?$",
    re.IGNORECASE,
)


def reads_well(question: str) -> bool:
    """Whether a question that a program wrote looks like one that a person would ask."""
    words = question.split()
    return (
        4 <= len(words) <= 14
        and len(question) <= MAX_LABEL
        and bool(ASKS.match(question))
        and question.endswith("?")
        and question.count("?") == 1
        and not DANGLING.search(question)
    )


def parts(document: Document) -> str:
    """ "3 pages", "12 slides", "2 sheets" """
    return count(document.pages, place_of(document.name))


def learning_details(document: Document, picture: bytes) -> Message:
    """How learning a document went, for those who want to know."""
    metrics = document.metrics
    checked = f"{metrics.check_after} of {metrics.check_total} right; before learning, {metrics.check_before}"
    fields = [
        Field("Read", f"{parts(document)}, {document.tokens:,} tokens in {count(metrics.chunks, 'part')}"),
        Field("Learned", f"in {seconds(metrics.seconds)}"),
        Field("Surprise at its text (loss)", f"{metrics.initial_loss:.2f} before, {metrics.final_loss:.2f} after"),
    ]
    if metrics.check_total:
        fields.append(Field("Questions to myself", checked))
    fields += [Field("Note", note) for note in metrics.notes]
    return Message(
        title=document.name,
        fields=tuple(fields),
        footer=f"Kept as weights that belong to this channel alone · {document.id}",
        picture=picture,
        picture_text=f"Loss per step while learning, from {metrics.initial_loss:.2f} to {metrics.final_loss:.2f}",
    )


def cancelling(names: Sequence[str]) -> Message:
    return Message(text=f"Stopping {', '.join(names)} …")


def waits(name: str, problem: BaseException) -> Message:
    """The job is safe, but this process will not go on with it."""
    text = f"{error(problem).text} I will go on with it by myself as soon as I can."
    return Message(title=f"{name} has to wait", text=text, tone=Tone.WORKING)


def vanished(name: str) -> Message:
    return Message(text=f"{name} is gone: this channel was reset before I had learned it.")


def upload_deleted(document: Document) -> Message:
    """Somebody removed the message that brought a document."""
    return Message(
        text=f"The message with {document.name} is gone. I still know what was in it. Shall I forget it, too?",
        buttons=(Button("Forget it", "forget", document.id, Style.DANGER), Button("Keep it", "keep")),
    )


def loss_curve(losses: Sequence[float]) -> bytes:
    """A small PNG of the loss per step; b"" when there is no curve to draw. Call it through a thread. Drawn by hand:
    matplotlib takes the interpreter for itself for a second, and the event loop waits.
    """
    points = [(step, loss) for step, loss in enumerate(losses, start=1) if math.isfinite(loss)]
    if len(points) < 2:
        return b""
    from PIL import Image, ImageDraw, ImageFont

    left, top, right, bottom = 90, 50, 940, 310  # of the plot, in dots; halved at the end, which smooths the line
    finite = [loss for _, loss in points]
    low, high = min(finite), max(finite)
    wide = (right - left) / (points[-1][0] - 1)  # dots a step
    tall = (bottom - top) / ((high - low) or 1.0)  # dots a nat
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


def answer(
    value: Answer,
    *,
    compare: str = "line",
    private: bool = False,
    asked: str = "",
    coming: Sequence[Job] = (),
    hint: str = "",
) -> Message:
    """The answer first; below it, small, how sure it is, where it stands, and what the model says without the document.

    Args:
        compare: "line", "full" or "off": how much of the base model's answer is shown.
        asked: the question with who asked it, where nothing else shows it.
        coming: what the channel is learning.
        hint: a last line of small print.
    """
    buttons: tuple[Button, ...] = (Button("Details", "details", value.id),) if value.id else ()
    if private and value.id:
        buttons += (Button("Share in channel", "share", value.id, Style.PRIMARY),)
    footer = "\n".join([*_left_out(value), hint]).strip()
    if value.learned is None or value.document is None:
        later = f" I am still learning {coming[0].name}; ask again when I know it." if coming else ""
        text = f"Nothing I have learned here seems to be about that.{later}"
        return Message(text=text, asked=asked, footer=footer, buttons=buttons, tone=Tone.ABSENT)
    name = value.document.name
    judge = (Button("👍", "helpful", value.id), Button("👎", "wrong", value.id)) if value.id else ()
    if value.certainty is Certainty.ABSENT:
        text = not_found_in(name, value.closest)
        return Message(text=text, asked=asked, footer=footer, buttons=(*judge, *buttons), tone=Tone.ABSENT)
    text, base = _short(value.learned.text), _base(value)
    read = " · read from its text, too" if value.document_tokens else ""
    lines = [f"{value.certainty} · {', '.join((name, *where(value)))}{read}"]
    lines += [f"Without the document: {clip(base, MAX_BASE_ANSWER)}"] if compare == "line" else []
    fields = (Field("Without the document", clip(base, MAX_ANSWER)),) if compare == "full" else ()
    is_headline = value.certainty is Certainty.LIKELY and len(text) <= MAX_HEADLINE and "\n" not in text
    return Message(
        title=text if is_headline else "",
        text="" if is_headline else text,
        fields=fields,
        footer="\n".join(filter(None, [*lines, footer])),
        asked=asked,
        buttons=(*judge, *buttons),
        tone=Tone.GOOD if value.certainty is Certainty.LIKELY and value.pages else Tone.UNSURE,
    )


def _left_out(value: Answer) -> list[str]:
    """Documents that could not be asked."""
    them = "it" if len(value.unusable) == 1 else "them"
    return [f"I skipped {', '.join(value.unusable)}: send {them} to me again."] if value.unusable else []


def _short(text: str) -> str:
    """Two or three lines of an answer."""
    lines = list(filter(None, map(str.strip, text.splitlines()))) or ["(nothing)"]
    more = " …" if len(lines) > MAX_ANSWER_LINES else ""
    return _with_capital(clip("\n".join(lines[:MAX_ANSWER_LINES]) + more, MAX_ANSWER))


def _with_capital(text: str) -> str:
    """With a capital letter where it reads like a sentence. What may be a key, a command or a file is left as it is in
    the document: u is another key than U."""
    words = text.lower().split()
    first = words[0].rstrip(",.")
    is_prose = len(words) > 1 and not STOP_WORDS.isdisjoint(words)
    if first in ("yes", "no") or (is_prose and len(first) > 1 and first.isalpha()):
        return text[0].upper() + text[1:]
    return text


def _base(value: Answer) -> str:
    """What the base model says, on one line."""
    text = one_line(value.base.text)
    return "I don't know." if text in ("", NOT_IN_TEXT) else with_ellipsis(text)


def asked_by(name: str, question: str) -> str:
    return f"{name or 'Somebody'} asked: {question}"


def answer_details(value: Answer) -> Message:
    """All that is known of an answer."""
    learned = (
        (Field(f"With {value.document.name}", _said(value.learned), _note(value.learned, *where(value))),)
        if value.learned and value.document
        else ()
    )
    return Message(
        title=value.question,
        text=f"Understood as: {value.understood}" if value.understood else "",
        fields=(*learned, Field("Without the document", with_ellipsis(_said(value.base)), _note(value.base))),
        footer=_prompt_note(value),
    )


def _prompt_note(value: Answer) -> str:
    """What stood in the prompt."""
    said = f"The prompt had {count(value.prompt_tokens, 'token')}: the question and one line of instruction"
    if not value.document_tokens:
        return f"{said}. None came from a document."
    pages = ", ".join(where(value))
    return f"{said}, and {value.document_tokens} from the document{f' ({pages})' if pages else ''}."


def thanks() -> Message:
    return Message(text="Thank you!")


def noted(given: Correction | None = None, *, may_learn: bool = False, passed_on: bool = False) -> Message:
    """That an answer was wrong; and what is right, where somebody said it about a document.

    Args:
        passed_on: the channel is told; else who may decide finds it by `corrections`.
    """
    if given is None:
        return Message(text="Thank you, I noted that it was wrong. Whoever runs me can see it.")
    if may_learn:
        return Message(text="Thank you! Shall I learn it?", buttons=(_decide(given),))
    if passed_on:
        return Message(text=f"Thank you! I passed it on. Whoever added {given.document} decides whether I learn it.")
    return Message(
        text=f"Thank you! I kept it. Whoever added {given.document} sees it under “corrections” and decides whether I "
        "learn it."
    )


# Corrections ---------------------------------------------------------------------------------------------------------


def _decide(given: Correction) -> Button:
    """Learns a correction or undoes that."""
    order, style = ("undo", Style.DANGER) if given.learned else ("learn", Style.PRIMARY)
    return Button({"learn": "Learn it", "undo": "Undo"}[order], "correction", f"{order}/{given.id}", style)


def correction_offered(given: Correction, document: Document, name: str) -> Message:
    """To whoever brought the document."""
    return Message(
        title=f"{clip(name, 40)} says this was wrong",
        text=f"{clip(given.question, MAX_ANSWER)}\n{_compared(given)}",
        footer=f"Shall I add this to what I know from {document.name}? Whoever added it, or a channel manager, can "
        "decide.",
        buttons=(_decide(given),),
        notify=document.learned_by,
    )


def _compared(given: Correction) -> str:
    said = clip(one_line(given.answer), MAX_BASE_ANSWER)
    return f"I said: {said}\nCorrect answer: {clip(given.correction, MAX_ANSWER)}"


def corrections(given: Sequence[Correction]) -> Message:
    """Those that one may decide on, the newest first."""
    if not given:
        return Message(text="There is no correction here for you to decide on.")
    fields = []
    for one in given[:MAX_OFFERED]:
        note = f"{one.document} · learned" if one.learned else one.document
        fields.append(Field(clip(one.question, MAX_ANSWER), _compared(one), note, _decide(one)))
    more = f"The newest {MAX_OFFERED} of {len(given)}." if len(given) > MAX_OFFERED else ""
    return Message(title="What people say is right", fields=tuple(fields), footer=more)


def correcting(name: str) -> Message:
    return Message(title=f"Correcting {name}", text=f"{_bar(0.0)}\nOne moment …", tone=Tone.WORKING)


def corrected(news: Progress, given: Correction | None) -> Message:
    """How learning a correction, or taking it out again, ended. given: None, when it was erased meanwhile."""
    job = news.job
    if job.stage is Stage.CANCELLED:
        return Message(text=f"Stopped. {job.name} is as it was.")
    if news.document is None:
        title = "I could not undo that" if given and given.learned else "I did not learn that correction"
        return Message(title=title, text=job.error or "Learning failed; nothing was changed.", tone=Tone.BAD)
    if given is None:
        return Message(text=f"{job.name} is changed.")
    if not given.learned:
        return Message(text="Undone. I answer as before.", footer=given.question, buttons=(_decide(given),))
    return Message(
        title=clip(given.correction, MAX_HEADLINE),
        footer=f"Learned, as part of {given.document}. Question: {given.question}",
        buttons=(_decide(given),),
        tone=Tone.GOOD,
    )


def nothing_known(coming: Sequence[Job], *, is_dm: bool, upload: bool = False) -> Message:
    """There is no document to answer from."""
    if coming:
        return Message(text=f"I am still learning {coming[0].name}. I will answer as soon as I know it.")
    buttons = (Button("Upload a document", "upload", style=Style.PRIMARY),) if upload else ()
    return Message(text=f"{NOTHING_YET}. {_how_to_teach(is_dm)}", buttons=buttons)


def not_learned_after_all(name: str) -> Message:
    return Message(text=f"I could not learn {name}, so I have no answer to that.")


def where(value: Answer) -> list[str]:
    """The citation: the places that support an answer, or that none does and which is closest; none when there is no
    text to look in, or when the document has no places."""
    if value.pages is None:
        return []
    if not value.pages:
        return ["no page found", *([f"closest {value.closest}"] if value.closest else [])]
    pages = [f"p. {page}" for page in value.pages]
    places = [*filter(None, value.places or pages)]
    more = " …" if len(places) > MAX_CITED else ""
    if places == pages:
        return [f"p. {', '.join(map(str, value.pages[:MAX_CITED]))}{more}"]
    return [f"{'; '.join(places[:MAX_CITED])}{more}"] if places else []


def _said(completion: Completion) -> str:
    return completion.text.strip() or "(nothing)"


def _note(completion: Completion, *first: str) -> str:
    return " · ".join((*first, f"{completion.seconds:.1f} s"))


THINKING = "is thinking …"  # beside the bot's name
LOADING = (  # what takes turns with it
    "Looking for the right section …",
    "Putting the question to what I learned …",
    "Asking myself without the document …",
)


# Small talk ----------------------------------------------------------------------------------------------------------

# Never asked of the model, and free of quotas
REACTIONS = {"thanks": "❤️", "approval": "👍", "remark": "👀", "goodbye": "👋"}
SMALL_TALK = {
    "greeting": "Hi!",
    "introduction": "I learn documents by heart. Give me one, and everybody here can ask me about it.",
    "complaint": "Sorry! I can be wrong. If there is a 👎 under the answer, press it and tell me what is right.",
    "chatter": "I am only good at documents.",
    "forget me": "I keep your user id with the documents you gave me, your questions and your remarks on answers. "
    "Whoever runs me can erase questions and remarks. Forgetting a document erases those about it.",
}


def small_talk(name: str, known: Sequence[Document], coming: Sequence[Job], *, is_dm: bool) -> Message:
    """A short sentence, and where it helps, what one can ask about."""
    first = SMALL_TALK[name]
    return Message(text=f"{first} {_what_to_ask(known, coming, is_dm)}" if name in ("greeting", "chatter") else first)


def not_understood(known: Sequence[Document]) -> Message:
    """What was said is neither a question by its form nor has it a good answer."""
    return Message(text=f"I did not get that. {_what_to_ask(known, [], False)}")


def _what_to_ask(known: Sequence[Document], coming: Sequence[Job], is_dm: bool) -> str:
    if known:
        more = f" and {len(known) - 1} more" if len(known) > 1 else ""
        return f"Ask me about {known[0].name}{more}."
    return f"I am still learning {coming[0].name}; ask me in a moment." if coming else _how_to_teach(is_dm)


def _how_to_teach(is_dm: bool) -> str:
    return (
        "Send me a document, and I will learn it."
        if is_dm
        else "Attach a document and mention me, and I will learn it."
    )


# Managing ------------------------------------------------------------------------------------------------------------


def documents(
    known: Sequence[Document],
    coming: Sequence[Job] = (),
    *,
    names: Mapping[str, str] | None = None,
    now: float | None = None,
    is_dm: bool = False,
    own: Collection[str] = (),
) -> Message:
    """What the channel knows and what is on its way.

    Args:
        names: what to call the users who brought the documents.
        own: ids of the documents that the asker may have forgotten.
    """
    if not known and not coming:
        return Message(text=f"{NOTHING_YET}. {_how_to_teach(is_dm)}")
    by = names or {}
    fields = []
    shown, learning = known[: LISTED - len(coming[:COMING])], coming[:COMING]
    for document in shown:
        button = Button("Forget …", "forget?", document.id) if document.id in own else None
        fields.append(Field(document.name, "", about_document(document, by.get(document.learned_by, ""), now), button))
    for job in learning:
        fields.append(Field(job.name, "", "waiting" if job.stage is Stage.QUEUED else "being learned now"))
    more = []
    if len(known) > len(shown):
        more.append(f"… and {len(known) - len(shown)} more. Write “forget” and a name to find one.")
    more += [f"… and {len(coming) - COMING} more are waiting."] if len(coming) > COMING else []
    title = f"I know {count(len(known), 'document')} here" if known else NOTHING_YET
    return Message(title=title, fields=tuple(fields), footer="\n".join(more))


def about_document(document: Document, name: str = "", now: float | None = None) -> str:
    """`name`: of whoever brought it."""
    by = f" by {name}" if name else ""
    return f"{parts(document)} · {ago((time.time() if now is None else now) - document.learned_at)}{by}"


DISCLAIMER = "I am a small language model: what I say can be wrong. Look at the page that I name."
HOME = "I learn documents by heart. Here is what I know in your channels."
HOME_OWN = "Our direct messages"
FORGET_WARNING = "It is erased for good, with its text and the questions about it."


def forgotten(document: Document) -> Message:
    return Message(text=f"{document.name} is forgotten, with its text and the questions about it.")


def forget_question(documents: Sequence[Document], key: str = "") -> Message:
    """Which one? As buttons, the newest first. `key`: what was asked for, and is no document's whole name."""
    if not documents:
        return Message(text="You have given me no documents here. Write “docs” to me to see what I know.")
    more = "" if len(documents) <= MAX_OFFERED else " For another one, write its whole name after the command."
    is_certain = len(documents) == 1 and key
    buttons = []
    for document, name in zip(documents[:MAX_OFFERED], _distinct_names(documents[:MAX_OFFERED]), strict=True):
        buttons.append(Button(clip(f"Forget {name}", MAX_LABEL), "forget", document.id, Style.DANGER))
    return Message(
        title=f"Forget {documents[0].name}?" if is_certain else "Which document shall I forget?",
        text=f"{FORGET_WARNING}{more}",
        buttons=(*buttons, Button("Keep", "keep")),
        tone=Tone.BAD,
    )


def _distinct_names(documents: Sequence[Document]) -> list[str]:
    """Names; those that stand there twice with their pages and age."""
    names, now = [document.name for document in documents], time.time()
    apart = []
    for document in documents:
        is_alone = names.count(document.name) == 1
        about = f"{document.name} ({parts(document)}, {ago(now - document.learned_at)})"
        apart.append(document.name if is_alone else about)
    return apart


def reset_question(known: int) -> Message:
    return Message(
        title="Forget everything?" + (f" This channel knows {count(known, 'document')}." if known else ""),
        text="Documents, questions and this channel's settings are erased for good, and unfinished learning stops. "
        "Other channels keep theirs.",
        buttons=(Button("Forget everything", "reset", style=Style.DANGER), Button("Keep", "keep")),
        tone=Tone.BAD,
    )


def reset_done(forgot: int) -> Message:
    return Message(
        text=f"Forgot {count(forgot, 'document')}. I know nothing here any more."
        if forgot
        else "There was nothing to forget."
    )


def status(value: Status, channel: str) -> Message:
    """The state of the bot, as this channel may see it: what other channels learn is theirs alone."""
    waiting = f"{count(value.queued, 'document')} waiting in all channels" if value.queued else ""
    return Message(
        title="Status",
        fields=(
            Field("Now", _now(value, channel), waiting),
            Field("This channel", f"{count(value.documents, 'document')} learned"),
            Field("Model", model_name(value.model) or "not loaded", value.device),
            *(Field("Note", note) for note in value.notes),
        ),
    )


def _now(value: Status, channel: str) -> str:
    if value.running is None:
        return "Nothing to learn right now."
    return f"Learning {value.running.name}" if value.running.channel == channel else "Learning for another channel"


def model_name(name: str) -> str:
    """The model's public name, where `name` is the setting's default."""
    return MODEL if name == DEFAULT else name


def help(commands: Mapping[str, str], *, hears_follow_ups: bool = True) -> Message:
    """What people can do.

    Args:
        commands: name -> description.
        hears_follow_ups: without a mention, in threads; what can't be heard is not promised.
    """
    follow_up = (
        "To go on, reply to my answer, or just write in its thread."
        if hears_follow_ups
        else "To go on, mention me again or reply to my answer."
    )
    return Message(
        title="I learn your documents",
        text="1. Attach a document and mention me. I tell you when I know it.\n"
        f"2. Mention me with a question. {follow_up}\n\n"
        "Under an answer you see the page, and how sure I am. “likely”: the page supports it. “unsure”: check it "
        f"yourself. Below is what I would have said without the document. {DISCLAIMER}",
        fields=(Field("Commands", "\n".join(f"/{name}: {about}" for name, about in commands.items())),),
        footer="No slash commands where you are? Mention me and write the command's name instead.",
    )


COMPARE = {"line": "Comparison: one line", "full": "Comparison: in full", "off": "No comparison"}
THREADS = {"follow-ups": "Threads: for follow-ups", "always": "Threads: always", "never": "No threads"}


def settings(current: Mapping[str, str]) -> Message:
    """How the bot answers in a channel. current: `compare` and `threads`."""
    rows = {"compare": COMPARE, "threads": THREADS}
    buttons = []
    for name, labels in rows.items():
        for value, label in labels.items():
            style = Style.PRIMARY if current[name] == value else Style.PLAIN
            buttons.append(Button(label, "set", f"{name}={value}", style))
    return Message(
        title="How I answer in this channel",
        text="Comparison: what I would have said without the document. Threads: when I answer a mention in a thread.",
        buttons=tuple(buttons),
    )


def about(model: str, source: str) -> Message:
    return Message(
        title="About me",
        text="I learn documents that somebody hands me on purpose, and corrections that their owner accepts; no other "
        "messages. What I learn is a small set of weights that belongs to one channel; it is never merged into a "
        "shared model, and no other channel can use it.",
        fields=(
            Field("Model", model_name(model) or "being loaded"),
            Field("Source and licence", source or "Ask whoever runs me.", "MIT; it reads PDFs with PyMuPDF (AGPL-3.0)"),
            Field(
                "What I keep",
                "Per channel: the learned weights, the document's text, questions with their answers, feedback, "
                "and the user ids of those who taught and asked. The file itself goes once it is learned.",
            ),
            Field(
                "How to erase it",
                "“forget” erases one document, “reset” everything in this channel, from the disk too. Older backups "
                "keep theirs.",
            ),
        ),
    )


def refused(problem: BaseException, name: str) -> Message:
    """Why a document is not being learned."""
    if isinstance(problem, AlreadyKnown):
        title = f"{name}: I know this one" if problem.document_id else f"{name} is on its way"
        return Message(title=title, text=str(problem))
    if isinstance(problem, QuotaReached):
        again = "" if problem.retry_after else " Then send it again."
        return Message(title=f"I did not take {name}", text=f"{problem}{again}", tone=Tone.BAD)
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
