"""The playground: learn a document and ask about it in a browser, on the same Service. The one home of Gradio.

A visitor is a channel of its own, named by a token that the browser keeps, so that a reload goes on. It is erased some
time after its last page was closed, and when the process ends.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import pandas
import uvicorn
from fastapi import FastAPI
from gradio.utils import get_upload_folder

from bot.platforms import playground_html as html
from bot.platforms.common import erase_all
from bot.quotas import Quotas
from core.document.formats import pages_in, parse_pages
from core.errors import AlreadyKnown, EngramError, QuotaReached, SetupError
from core.inspection import Preview
from core.service import harmless_name
from core.types import ALL_PAGES, Answer, Job, Progress

if TYPE_CHECKING:
    from bot.app import App
    from bot.settings import Settings

log = logging.getLogger(__name__)

PREFIX = "playground:"  # of the channels
ERASE_AFTER = 120.0  # seconds after the last page of a visitor was closed until its channel is erased
MAX_VISITORS = 200
MAX_STEPS = 10  # steps, at most: names are sorted by their letters
HANDBOOK = Path(__file__).parents[2] / "core" / "evaluation" / "sample" / "sample.pdf"
SAMPLES = {  # label -> file
    "Sample: a ferry, half a page": Path(__file__).parent / "samples" / "ferry.md",
    "Sample: an island's handbook, 11 pages": HANDBOOK,
}
TITLE = "Engram playground"
INTRODUCTION = """
# Engram playground
A small language model learns a document into its weights (test-time training), and then answers about it with
**nothing of the document in the prompt**.
"""
Shown = dict[Any, Any]  # component -> what it shows from now on


async def serve(app: App, settings: Settings, *, host: str, port: int, ready: Callable[[], None]) -> None:
    """Serve the page until cancelled.

    Args:
        ready: called once the page can be opened.

    Raises: SetupError, when the port is taken.
    """
    async with visiting(app, settings) as visits:
        site = gr.mount_gradio_app(
            FastAPI(openapi_url=None),
            build(visits),
            path="/",
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            max_file_size=settings.max_bytes,
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            css=html.CSS,
        )
        config = uvicorn.Config(site, host=host, port=port, log_level="warning", timeout_graceful_shutdown=1)
        server = Server(config)
        serving = asyncio.create_task(_run(server, host, port))
        try:
            while not server.started and not serving.done():
                await asyncio.sleep(0.05)
            if server.started:
                ready()
            await asyncio.shield(serving)
        finally:
            # Pages that are open are cut off, and it tells
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            server.should_exit = True
            with suppress(asyncio.CancelledError):
                await serving


class Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None: the command ends by them, and this with it."""
        yield


async def _run(server: Any, host: str, port: int) -> None:
    try:
        await server.serve()
    except SystemExit:  # uvicorn's way to say that it could not bind
        raise SetupError(f"The playground can't listen on {host}, port {port}; is it in use?") from None


# Visitors ------------------------------------------------------------------------------------------------------------


@dataclass
class Visitor:
    """One browser."""

    token: str
    pages: set[str | None] = field(default_factory=set)  # open ones, by Gradio's session
    file: tuple[str, bytes] | None = None  # what was handed in last
    pages_wanted: str = ""  # of it, as typed
    preview: Preview | None = None  # of these pages; None while they are read, and when they can't be learned
    leaving: asyncio.Task[None] | None = None

    @property
    def channel(self) -> str:
        return PREFIX + self.token


class Visits:
    """Who is there, and what they asked for. Every method that a page calls raises EngramError for what it may show."""

    def __init__(self, app: App, settings: Settings, *, grace: float = ERASE_AFTER) -> None:
        assert app.inspection  # the app was opened with a model
        self.app, self.service, self.inspection = app, app.service, app.inspection
        self.settings, self.quotas, self._grace = settings, Quotas(settings.quotas), grace
        self._visitors: dict[str, Visitor] = {}

    def enter(self, token: str, page: str | None) -> Visitor:
        """A page was opened: the visitor that its browser remembers, or a new one. Raises: QuotaReached."""
        visitor = self._visitors.get(token)
        if visitor is None:
            if len(self._visitors) >= MAX_VISITORS:
                raise QuotaReached("Too many people are here; try again in a few minutes.", retry_after=300)
            visitor = Visitor(secrets.token_urlsafe(16))
            self._visitors[visitor.token] = visitor
        visitor.pages.add(page)
        if visitor.leaving:
            visitor.leaving.cancel()
            visitor.leaving = None
        return visitor

    def leave(self, page: str | None) -> None:
        """A page was closed, or is being loaded again."""
        for visitor in self._visitors.values():
            if page in visitor.pages:
                visitor.pages.remove(page)
                if not visitor.pages:
                    visitor.leaving = asyncio.get_running_loop().create_task(self._forget(visitor))

    async def visitor_of(self, page: str | None) -> Visitor:
        """Whose page it is; a button may be pressed before the page has told. Raises: EngramError."""
        for _ in range(100):
            for visitor in self._visitors.values():
                if page in visitor.pages:
                    return visitor
            await asyncio.sleep(0.1)
        raise EngramError("This session has ended and is erased; load the page again.")

    async def _forget(self, visitor: Visitor) -> None:
        await asyncio.sleep(self._grace)
        self._visitors.pop(visitor.token, None)
        await self.service.reset(visitor.channel)

    async def erase_all(self) -> None:
        """Every channel of a visitor, also of an earlier process."""
        for visitor in self._visitors.values():
            if visitor.leaving:
                visitor.leaving.cancel()
        self._visitors.clear()
        await erase_all(self.service, PREFIX)

    async def learn(self, visitor: Visitor, pages: tuple[int, int]) -> Job:
        """Queue what was handed in. Raises: Refused, AlreadyKnown, QuotaReached, SetupError."""
        if visitor.file is None:
            raise EngramError("Choose a document first.")
        name, data = visitor.file
        await self.quotas.upload(visitor.channel, visitor.channel, len(await self.service.documents(visitor.channel)))
        return await self.service.submit(visitor.channel, name, data, by=visitor.channel, pages=pages)

    async def follow(self, job: Job) -> AsyncIterator[Progress]:
        async for news in self.service.watch(job.id):
            yield news
        await self.service.delivered(job.id)

    async def ask(self, visitor: Visitor, question: str) -> Answer:
        """Raises: Refused, QuotaReached, SetupError ..."""
        await self.quotas.question(visitor.channel, visitor.channel)
        return await self.service.ask(visitor.channel, question, by=visitor.channel)

    async def reset(self, visitor: Visitor) -> None:
        visitor.file = visitor.preview = None
        await self.service.reset(visitor.channel)


@asynccontextmanager
async def visiting(app: App, settings: Settings) -> AsyncIterator[Visits]:
    """Nothing of any visitor is there before, nor after."""
    visits = Visits(app, settings)
    await visits.erase_all()
    try:
        yield visits
    finally:
        await visits.erase_all()


# The page ------------------------------------------------------------------------------------------------------------


class GuardedBlocks(gr.Blocks):
    """Takes files from uploads alone. Gradio would open every file of this user and every public address that a request
    names: its own check is left out where another server mounts the page.
    """

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *more: Any, **options: Any) -> list[Any]:
        require_uploads(inputs)
        return await super().preprocess_data(block_fn, inputs, *more, **options)


def require_uploads(value: Any) -> None:
    """Raises: gr.Error, when something in it names another file."""
    if isinstance(value, dict):
        path = value.get("path")
        if isinstance(path, str) and not Path(path).resolve().is_relative_to(Path(get_upload_folder()).resolve()):
            raise gr.Error("That file was not uploaded here.", print_exception=False)
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            require_uploads(part)


def build(visits: Visits) -> gr.Blocks:
    """The page, from top to bottom, and what its parts do."""
    with GuardedBlocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 600)) as page:
        token = gr.BrowserState("", storage_key="engram-playground")
        gr.Markdown(INTRODUCTION)
        state = gr.HTML()
        notice = gr.HTML(elem_id="notice")

        gr.Markdown("## 1. A document")
        with gr.Row():
            with gr.Column(min_width=280):
                file = gr.File(
                    label="PDF, Word, slides, sheets, EPUB, HTML, Markdown or text", height=190, elem_id="file"
                )
            with gr.Column(min_width=280):
                samples = [gr.Button(label, size="md") for label in SAMPLES]
                part = gr.Textbox(label="Only these pages", placeholder="all, or for example 1-100", elem_id="pages")
        summary = gr.HTML("Upload a document, or click on a sample.", elem_id="summary")
        with gr.Accordion("The text as it will be learned", open=False):
            text = gr.HTML()

        gr.Markdown("## 2. Learn it")
        with gr.Row():
            learn = gr.Button("Learn", variant="primary", interactive=False, elem_id="learn")
            cancel = gr.Button("Cancel", interactive=False, elem_id="cancel")
        progress = gr.HTML(elem_id="progress")
        with gr.Row(visible=False, elem_classes="engram-columns", equal_height=True) as measured:
            losses = gr.LinePlot(x="step", y="loss", title="Loss, nats a token", height=220, elem_id="losses")
            layers = gr.BarPlot(
                x="layer", y="norm", title="Weight change by layer, L2 norm", height=220, elem_id="layers"
            )
            metrics = gr.HTML(elem_id="metrics", min_width=240)

        gr.Markdown("## 3. Ask")
        known = gr.HTML(elem_id="known")
        cleared = gr.HTML(elem_id="cleared")
        with gr.Row(equal_height=True):
            question = gr.Textbox(label="Question", placeholder="Who is the captain?", scale=4, elem_id="question")
            ask = gr.Button("Ask", variant="primary", scale=1, elem_id="ask")
        also = gr.Checkbox(label="Also answer with the section's text in the prompt, to compare", elem_id="also")
        with gr.Row(elem_classes="engram-columns", equal_height=True):
            learned = gr.HTML(elem_id="learned", min_width=240)
            base = gr.HTML(elem_id="base", min_width=240)
            reading = gr.HTML(elem_id="reading", min_width=240, visible=False)
        with gr.Accordion("The prompt, as the model gets it", open=False, elem_id="prompt"):
            prompt = gr.HTML()
        with gr.Accordion("The section that answered", open=False):
            section = gr.HTML()
        reset = gr.Button("Erase everything and begin anew", variant="stop", elem_id="reset")

        # What the parts show

        async def overview(visitor: Any) -> Shown:
            """What is known, and the prompt that a question would have."""
            documents = await visits.service.documents(visitor.channel)
            shown: Shown = {state: html.status(await visits.service.status("")), known: html.known(documents)}
            if documents:
                given = await visits.inspection.prompt("…")
                shown |= {cleared: html.cleared(given), **await measurements(visitor)}
            else:
                shown |= {cleared: "", measured: gr.Row(visible=False)}
            return shown

        async def measurements(visitor: Any) -> Shown:
            """Of the newest document."""
            newest = (await visits.service.documents(visitor.channel))[0]
            norms = await visits.inspection.layer_norms(visitor.channel, newest.id)
            return {
                measured: gr.Row(visible=True),
                losses: curve(newest.metrics.loss_history),
                layers: gr.BarPlot(
                    pandas.DataFrame({"layer": [*map(str, norms)], "norm": [*norms.values()]}), visible=bool(norms)
                ),
                metrics: html.metrics(newest),
            }

        def guarded(handle: Callable[..., AsyncIterator[Shown]]) -> Callable[..., AsyncIterator[Shown]]:
            """A handler whose errors are shown as the bot words them; foreign ones stand in the log."""

            @wraps(handle)
            async def shown(*given: Any) -> AsyncIterator[Shown]:
                try:
                    yield {notice: ""}
                    async for news in handle(*given):
                        yield news
                except Exception as problem:
                    if not isinstance(problem, EngramError):
                        log.exception("the playground failed")
                    yield {notice: html.note(problem)}

            return shown

        # What the parts do

        async def begin(held: str, request: gr.Request) -> AsyncIterator[Shown]:
            visitor = visits.enter(held, request.session_hash)
            yield {token: visitor.token, **await overview(visitor)}
            if visitor.file and visitor.preview:
                yield {part: visitor.pages_wanted, **previewed(visitor.file[0], visitor.preview)}
            for job in await visits.service.jobs(visitor.channel):
                async for news in followed(visitor, job):
                    yield news

        def previewed(name: str, read: Preview) -> Shown:
            return {summary: html.preview(name, read), text: html.sections(read), learn: gr.Button(interactive=True)}

        async def preview(visitor: Visitor, wanted: str) -> AsyncIterator[Shown]:
            """These pages of the file that was handed in last."""
            file, visitor.preview, visitor.pages_wanted = visitor.file, None, wanted
            if file is None:
                return
            yield {summary: "Reading it …", text: ""}
            try:
                read = await visits.inspection.preview(file[1], pages_of(wanted))
            except EngramError:
                yield {summary: "", learn: gr.Button(interactive=False)}
                raise
            if (visitor.file, visitor.pages_wanted) == (file, wanted):  # still
                visitor.preview = read
                yield previewed(file[0], read)

        async def hand_in(visitor: Visitor, name: str, data: bytes, wanted: str) -> AsyncIterator[Shown]:
            visitor.file = name, data
            yield {learn: gr.Button(interactive=False)}
            async for shown in preview(visitor, wanted):
                yield shown

        async def upload(path: str | None, wanted: str, request: gr.Request) -> AsyncIterator[Shown]:
            if path is None:
                return
            data = await asyncio.to_thread(taken, Path(path))
            visitor = await visits.visitor_of(request.session_hash)
            async for shown in hand_in(visitor, harmless_name(Path(path).name), data, wanted):
                yield shown

        async def other_pages(wanted: str, request: gr.Request) -> AsyncIterator[Shown]:
            visitor = await visits.visitor_of(request.session_hash)
            if wanted != visitor.pages_wanted:
                async for shown in preview(visitor, wanted):
                    yield shown

        async def followed(visitor: Visitor, job: Job) -> AsyncIterator[Shown]:
            yield {learn: gr.Button(interactive=False), cancel: gr.Button(interactive=True)}
            async for news in visits.follow(job):
                shown: Shown = {progress: html.progress(news)}
                if news.losses:
                    shown |= {measured: gr.Row(visible=True), losses: curve(news.losses)}
                yield shown
            yield {cancel: gr.Button(interactive=False), **await overview(visitor)}

        def sample(path: Path) -> Callable[[str, gr.Request], AsyncIterator[Shown]]:
            async def click(wanted: str, request: gr.Request) -> AsyncIterator[Shown]:
                data = await asyncio.to_thread(path.read_bytes)
                async for shown in hand_in(await visits.visitor_of(request.session_hash), path.name, data, wanted):
                    yield shown

            return click

        async def start(wanted: str, request: gr.Request) -> AsyncIterator[Shown]:
            visitor = await visits.visitor_of(request.session_hash)
            try:
                job = await visits.learn(visitor, pages_of(wanted))
            except AlreadyKnown as problem:
                yield {progress: "", notice: html.note(problem)}
                return
            async for shown in followed(visitor, job):
                yield shown

        async def stop(request: gr.Request) -> AsyncIterator[Shown]:
            visitor = await visits.visitor_of(request.session_hash)
            await visits.service.cancel(visitor.channel)
            yield {cancel: gr.Button(interactive=False)}

        async def answer(asked: str, compare: bool, request: gr.Request) -> AsyncIterator[Shown]:
            visitor = await visits.visitor_of(request.session_hash)
            waiting = '<div class="engram-answer" aria-busy="true">…</div>'
            yield {learned: waiting, base: waiting, reading: gr.HTML(waiting, visible=compare)}
            try:
                given = await visits.ask(visitor, asked)
            except EngramError:
                yield {learned: "", base: "", reading: gr.HTML("", visible=False)}
                raise
            context = await visits.inspection.section_text(visitor.channel, given)
            used = await visits.inspection.prompt(
                given.understood or given.question, context if given.document_tokens else ""
            )
            yield {
                learned: html.learned(given),
                base: html.base(given),
                cleared: html.cleared(used),
                prompt: html.passage(used.text),
                section: html.passage(context),
            }
            if compare:
                yield {reading: html.reading(await visits.inspection.reading(visitor.channel, given))}

        async def erase(request: gr.Request) -> AsyncIterator[Shown]:
            visitor = await visits.visitor_of(request.session_hash)
            await visits.reset(visitor)
            empty = (summary, text, progress, learned, base, prompt, section)
            yield {
                **dict.fromkeys(empty, ""),
                file: None,
                part: "",
                question: "",
                reading: gr.HTML("", visible=False),
                learn: gr.Button(interactive=False),
                cancel: gr.Button(interactive=False),
                **await overview(visitor),
            }

        def leave(request: gr.Request) -> None:
            loop.call_soon_threadsafe(visits.leave, request.session_hash)

        loop = asyncio.get_running_loop()
        everything = [
            token, state, notice, file, part, summary, text, learn, cancel, progress, measured, losses, layers, metrics,
            known, cleared, question, learned, base, reading, prompt, section,
        ]  # fmt: skip
        options: Shown = {"outputs": everything, "api_visibility": "private", "show_progress": "hidden"}
        page.load(guarded(begin), [token], **options)
        page.unload(leave)
        file.upload(guarded(upload), [file, part], **options)
        for button, path in zip(samples, SAMPLES.values(), strict=True):
            button.click(guarded(sample(path)), [part], **options)
        gr.on([part.blur, part.submit], guarded(other_pages), [part], **options)
        learn.click(guarded(start), [part], **options)
        cancel.click(guarded(stop), **options)
        gr.on([ask.click, question.submit], guarded(answer), [question, also], **options)
        reset.click(guarded(erase), **options)
    return page.queue(default_concurrency_limit=None, api_open=False)


def pages_of(wanted: str) -> tuple[int, int]:
    """ "3-12", "pages 3-12"; all for nothing. Raises: Refused."""
    return (pages_in(wanted) or parse_pages(wanted)) if wanted.strip() else ALL_PAGES


def taken(path: Path) -> bytes:
    """An upload's bytes; Gradio's copy of it is deleted."""
    data = path.read_bytes()
    path.unlink(missing_ok=True)
    return data


def curve(losses: Any) -> Any:
    """Of the loss before the first step, and after each. A few steps have names: an axis of numbers has halves."""
    steps: list[Any] = [*range(len(losses))]
    return pandas.DataFrame({"step": [*map(str, steps)] if len(steps) <= MAX_STEPS else steps, "loss": [*losses]})
