"""Values into HTML for the playground. Everything that comes from a person or a model is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape

from bot import render
from bot.wording import certainty_label, count, not_found_in, seconds, with_ellipsis
from core.inspection import Preview, Prompt
from core.prompts import NOT_IN_TEXT
from core.types import Answer, Certainty, Completion, Document, Progress, Stage, Status

CSS = """
.gradio-container { max-width: 1100px !important; margin: 0 auto !important; }
.gradio-container .html-container { padding: 0; }
.gradio-container .block:has(> .html-container > .prose:empty) { display: none; }
.gradio-container h2 { margin-top: 1.2rem; }
.engram-note { padding: .6rem .8rem; border-left: 4px solid #b91c1c; background: #fef2f2; color: #7f1d1d; }
.engram-bar { height: .6rem; border-radius: .3rem; background: #d4d4d8; overflow: hidden; margin: .4rem 0; }
.engram-bar div { height: 100%; background: #2f3e9e; transition: width .3s; }
.engram-cleared { padding: .6rem .8rem; border-left: 4px solid #15803d; background: #f0fdf4; color: #14532d; }
.engram-columns .html-container, .engram-columns .prose { height: 100%; }
.engram-answer { padding: .7rem .9rem; border: 1px solid #d4d4d8; border-radius: .5rem; height: 100%; }
.engram-answer h4 { margin: 0 0 .4rem; font-size: .85rem; color: #52525b; font-weight: 600; }
.engram-answer p { margin: 0; font-size: 1.05rem; overflow-wrap: anywhere; }
.engram-answer small { color: #52525b; display: block; margin-top: .4rem; overflow-wrap: anywhere; }
.engram-learned { border-color: #2f3e9e; background: #eef2ff; color: #1e1b4b; }
.engram-text { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; max-height: 20rem; overflow-y: auto; }
.engram-text h5 { margin: .8rem 0 .2rem; color: #52525b; }
.engram-facts { border-collapse: collapse; width: 100%; }
.engram-facts, .engram-facts td, .engram-facts tr { border: 0 !important; }
.engram-facts td { padding: .15rem .6rem .15rem 0; }
.engram-facts td:last-child { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
@media (max-width: 640px) {
  .engram-columns { flex-direction: column !important; }
  .engram-columns > * { flex: none !important; width: 100% !important; contain: inline-size; }
}
.dark .engram-note { background: #450a0a; color: #fecaca; }
.dark .engram-cleared { background: #052e16; color: #bbf7d0; }
.dark .engram-learned { background: #1e1b4b; color: #e0e7ff; }
"""


def note(problem: BaseException | None = None, text: str = "") -> str:
    """What went wrong, as the bot words it; "" for nothing."""
    said = render.error(problem).text if problem else text
    return f'<div class="engram-note" role="alert">{escape(said)}</div>' if said else ""


def status(value: Status) -> str:
    model = (
        f"Model: {render.model_name(value.model)}, on {value.device} in {value.dtype}"
        if value.model
        else " ".join(value.notes)
    )
    waiting = f"{count(value.queued, 'document')} waiting to be learned" if value.queued else ""
    return f"<small>{escape(' · '.join(filter(None, (model, waiting))))}</small>"


def preview(name: str, value: Preview) -> str:
    counts = (count(value.pages, value.place), count(value.tokens, "token"), count(len(value.chunks), "section"))
    notes = "".join(f"<br>{escape(said)}" for said in value.notes)
    return f"<b>{escape(name)}</b>: {', '.join(counts)}.{notes}"


def sections(value: Preview) -> str:
    """The text as it will be learned, section by section."""
    parts = [
        f"<h5>Section {chunk.index + 1} · {_pages(value.place, chunk.start_page, chunk.end_page)} · "
        f"{count(chunk.token_count, 'token')}</h5>{escape(chunk.text)}"
        for chunk in value.chunks
    ]
    return f'<div class="engram-text">{"".join(parts)}</div>'


def progress(news: Progress) -> str:
    """A job on its way, with its place while it waits, or as it ended."""
    if news.job.stage.final:
        message = render.finished(news)
        if news.document is None:
            return note(text=f"{message.title or 'Stopped'}: {message.text}")
        return f'<div aria-live="polite"><b>{escape(message.title)}</b></div>'
    message = render.progress(news)
    share = render.share_done(news) if news.job.stage is not Stage.QUEUED else 0.0
    words = message.text.rpartition("\n")[2]
    step = f" · step {news.step.done} of {news.step.total}" if news.step else ""
    return (
        f'<div aria-live="polite"><b>{escape(message.title)}</b><div class="engram-bar" role="progressbar" '
        f'aria-valuenow="{share:.0%}"><div style="width: {share:.0%}"></div></div>{escape(words)}{step}</div>'
    )


def metrics(document: Document) -> str:
    m = document.metrics
    facts = {
        "loss before, nats a token": f"{m.initial_loss:.3f}",
        "loss after, nats a token": f"{m.final_loss:.3f}",
        "sections": f"{m.chunks:,}",
        "weight deltas": f"{m.chunks + (m.gist is not None):,}",
        "tokens": f"{document.tokens:,}",
        "time": seconds(m.seconds),
        "L2 norm of the weight change": f"{m.delta_norm:.2f}",
        "weights on disk": f"{document.weights.bytes / 2**20:.1f} MB",
    }
    if m.check_total:
        facts["self-check, right before and after"] = f"{m.check_before} and {m.check_after} of {m.check_total}"
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in facts.items())
    notes = "".join(f"<p>{escape(said)}</p>" for said in m.notes)
    return f'<table class="engram-facts">{rows}</table>{notes}'


def known(documents: Sequence[Document]) -> str:
    """What the session knows."""
    if not documents:
        return "Nothing is learned in this session yet."
    names = ", ".join(f"{d.name} ({render.parts(d)})" for d in documents)
    return f"Learned in this session: <b>{escape(names)}</b>."


def cleared(prompt: Prompt) -> str:
    """The proof that no text of the document is in the prompt."""
    place = f"of {count(prompt.tokens, 'token')}"
    state = "Context cleared" if prompt.document_tokens == 0 else "The prompt holds text of the document"
    return (
        f'<div class="engram-cleared"><b>{state}.</b> Tokens of the document in the prompt: '
        f"<b>{prompt.document_tokens}</b> {place}.</div>"
    )


def passage(text: str) -> str:
    return f'<div class="engram-text">{escape(text)}</div>' if text else ""


def learned(value: Answer) -> str:
    if value.learned is None or value.document is None:
        return _card("From the weights", "Nothing learned here seems to be about that.", "", "engram-learned")
    absent = value.certainty is Certainty.ABSENT
    text = not_found_in(value.document.name, value.closest) if absent else value.learned.text
    guess = f"a guess: {value.learned.text}" if absent and value.learned.text != NOT_IN_TEXT else ""
    section = f"section {value.section + 1}" if value.section is not None else ""
    facts = [
        certainty_label(value.certainty),
        guess,
        value.document.name,
        *([] if absent else render.where(value)),
        section,
        _probability(value.learned),
        seconds(value.learned.seconds),
    ]
    left_out = [f"{name} has to be learned again" for name in value.unusable]
    return _card("From the weights", text, " · ".join(filter(None, [*facts, *left_out])), "engram-learned")


def base(value: Answer) -> str:
    said = replace(value.base, text=with_ellipsis(value.base.text))
    return _completion("Without the document", said)


def reading(value: tuple[Completion, Prompt] | None) -> str:
    if value is None:
        return _card("With the section in the prompt", "There is no text to read.", "")
    completion, prompt = value
    tokens = f"{prompt.document_tokens} of {prompt.tokens} tokens in the prompt are the document's"
    return _completion("With the section in the prompt", completion, tokens)


def _completion(title: str, value: Completion, *more: str) -> str:
    facts = [_probability(value), seconds(value.seconds), *more]
    return _card(title, value.text or "(nothing)", " · ".join(facts))


def _probability(value: Completion) -> str:
    return f"mean token probability {value.confidence:.0%}"


def _card(title: str, text: str, small: str, kind: str = "") -> str:
    below = f"<small>{escape(small)}</small>" if small else ""
    return f'<div class="engram-answer {kind}"><h4>{escape(title)}</h4><p>{escape(text)}</p>{below}</div>'


def _pages(place: str, first: int, last: int) -> str:
    return f"{place} {first}" if first == last else f"{place}s {first} to {last}"
