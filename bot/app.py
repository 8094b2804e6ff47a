"""The composition root: the one place that knows every part, and puts them together."""

from __future__ import annotations

import gc
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bot.settings import Settings
from bot.traces import exporting
from core.answerer import Answerer
from core.document.formats import read_document
from core.errors import DataFolderBusy, SetupError, StorageFailed
from core.inspection import Inspection
from core.ports import Engine
from core.runner import Runner
from core.service import Service
from storage.backup import back_up, restore
from storage.check import Contents, check_folder, rebuild_search
from storage.folder import DataFolder
from storage.index import Index, ReadOnlyIndex
from storage.weights import Weights

__all__ = ["App", "back_up", "check_data", "load_engine", "open_app", "open_for_reading", "rebuild_search", "restore"]


@dataclass(frozen=True)
class App:
    """What the platforms and the terminal work with."""

    settings: Settings
    service: Service
    runner: Runner
    inspection: Inspection


@asynccontextmanager
async def open_app(settings: Settings, *, learning: bool = True) -> AsyncIterator[App]:
    """Everything wired and running; closed in reverse order on leaving.

    Args:
        learning: load the model at once and work off the queue; otherwise only answer, list and erase.

    Raises: DataFolderBusy, DataTooNew, SetupError.
    """
    with exporting(settings), DataFolder(settings.data_dir) as folder:
        async with _index(settings, folder) as index:
            weights = Weights(folder.weights, index.id)
            runner = Runner(
                partial(load_engine, settings),
                index,
                weights,
                settings.limits,
                read=partial(read_document, ocr=settings.ocr),
                learning=learning,
                keep_text=settings.keep_text,
            )
            async with runner:
                yield _app(settings, index, weights, runner)


@asynccontextmanager
async def open_for_reading(settings: Settings, note: Callable[[str], None]) -> AsyncIterator[App]:
    """To ask and to list: as `open_app`, or, where a bot runs on the data folder, beside it, storing nothing.

    Raises: DataTooNew, SetupError, StorageFailed.
    """
    async with AsyncExitStack() as stack:
        try:
            app = await stack.enter_async_context(open_app(settings, learning=False))
        except DataFolderBusy:
            note("A bot runs on this data folder; this looks into it and stores nothing.")
            app = await stack.enter_async_context(_open_beside_running_bot(settings))
        yield app


@asynccontextmanager
async def _open_beside_running_bot(settings: Settings) -> AsyncIterator[App]:
    folder = DataFolder(settings.data_dir)
    async with ReadOnlyIndex(folder.index) as index:
        weights = Weights(folder.weights, index.id)
        runner = Runner(partial(load_engine, settings), index, weights, settings.limits, learning=False, tidy=False)
        async with runner:
            yield _app(settings, index, weights, runner)


def _index(settings: Settings, folder: DataFolder) -> Index:
    """Raises: SetupError."""
    if not settings.database_url:
        folder.require_index()
        return Index(folder.index)
    try:
        from storage.postgres import PostgresIndex
    except ImportError as error:
        raise SetupError(
            "ENGRAM_DATABASE_URL is set, and PostgreSQL's client is missing: install engram[postgres]."
        ) from error
    return PostgresIndex(settings.database_url.get_secret_value())


def _app(settings: Settings, index: Index, weights: Weights, runner: Runner) -> App:
    answerer = Answerer(index, weights, runner.device, floor=settings.min_confidence, ground=settings.ground)
    service = Service(index, weights, runner, answerer, settings.limits)
    return App(settings, service, runner, Inspection(index, weights, runner.device, settings.limits))


def load_engine(settings: Settings) -> Engine:
    """Blocking, and slow: torch is imported here. Raises: ModelNotFound.

    Nothing is collected meanwhile, and what is loaded by then stays: a full collection would look at all of torch's and
    transformers' objects, while the event loop stands still for 0.1 to 0.4 s.
    """
    gc.disable()
    try:
        from core.engine import Engine

        return Engine.load(settings.engine)
    finally:
        gc.freeze()
        gc.enable()


def check_data(folder: Path) -> Contents:
    """What lies in a data folder, and what is wrong with it; blocking. Works beside a running bot.

    Raises: StorageFailed, when the index can't be read at all.
    """
    try:
        return check_folder(folder)
    except sqlite3.Error as error:
        raise StorageFailed from error
