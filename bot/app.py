"""The composition root: the one place that knows every part, and puts them together."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from bot.settings import Settings, limit_kernel_cache
from bot.traces import exporting
from core import ports
from core.answerer import Answerer
from core.document.formats import DocumentText, read_document
from core.errors import DataFolderBusy, SetupError, StorageFailed
from core.inspection import Inspection
from core.model import find_beside_import
from core.ports import Engine, Usage
from core.program import pip_install
from core.runner import Runner, new_id
from core.service import Service
from storage.backup import Manifest
from storage.backup import back_up as back_up_folder
from storage.backup import restore as restore_folder
from storage.check import Contents, check_folder, rebuild_search
from storage.folder import TOKENS_FILE, DataFolder
from storage.index import Index, ReadOnlyIndex
from storage.transfer import Copied, Store, adopt, transfer
from storage.weights import Weights

if TYPE_CHECKING:
    from storage.keys import Keys
    from storage.postgres import PostgresIndex
    from storage.workers import Queues, Worker

__all__ = [
    "App",
    "about_servers",
    "back_up",
    "check_data",
    "load_engine",
    "migrate",
    "open_app",
    "open_for_reading",
    "open_worker",
    "rebuild_search",
    "restore",
]


@dataclass(frozen=True)
class App:
    """What the platforms and the terminal work with."""

    settings: Settings
    service: Service
    runner: ports.Runner
    inspection: Inspection | None  # None where no model is loaded
    alone: Callable[[str], AbstractAsyncContextManager[Any]] = nullcontext  # waits until no other process is in it
    usage: Usage | None = None  # where quotas are counted; None: in this process
    name: str = ""  # of this process among others that share the index; "": there are none


@asynccontextmanager
async def open_app(settings: Settings, *, learning: bool = True, elsewhere: bool = False) -> AsyncIterator[App]:
    """Everything wired and running; closed in reverse order on leaving.

    Args:
        learning: load the model at once and work off the queue; otherwise only answer, list and erase.
        elsewhere: other processes learn and answer; this one loads no model.

    Raises: DataFolderBusy, DataTooNew, SetupError.
    """
    with exporting(settings):
        if settings.database_url:
            async with _open_shared(settings, learning, elsewhere) as app:
                yield app
            return
        with DataFolder(settings.data_dir) as folder:
            folder.require_index()
            async with Index(folder.index) as index:
                weights = _weights(settings, folder, index)
                async with _runner(settings, index, weights, learning=learning) as runner:
                    yield _app(settings, index, weights, runner)


@asynccontextmanager
async def _open_shared(settings: Settings, learning: bool, elsewhere: bool) -> AsyncIterator[App]:
    """On PostgreSQL."""
    async with AsyncExitStack() as stack:
        index, weights, queues = await _enter_shared(stack, settings)
        if not learning:
            runner = await stack.enter_async_context(_runner(settings, index, weights, learning=False, tidy=False))
            yield _app(settings, index, weights, runner)
            return
        own, inspection = None, None
        if not elsewhere:
            own, worker = await _enter_worker(stack, settings, index, weights, queues)
            inspection = Inspection(index, weights, own.device, settings.limits, _reader(settings))
            group = await stack.enter_async_context(asyncio.TaskGroup())
            stack.callback(group.create_task(_run(worker)).cancel)
        from storage.workers import Workers

        workers = await stack.enter_async_context(Workers(queues, index, own))
        service = Service(index, weights, workers, workers, settings.limits)
        yield App(settings, service, workers, inspection, queues.exclusive, index, new_id())


async def _run(worker: Worker) -> None:
    with suppress(SetupError):  # there is no engine: `Runner.ready` says so
        await worker.run()


@asynccontextmanager
async def open_worker(settings: Settings) -> AsyncIterator[Worker]:
    """What learns and answers for front ends, when it is run. Raises: DataTooNew, SetupError."""
    if not settings.database_url:
        raise SetupError("A worker shares a database with front ends; set ENGRAM_DATABASE_URL.")
    with exporting(settings):
        async with AsyncExitStack() as stack:
            shared = await _enter_shared(stack, settings)
            _, worker = await _enter_worker(stack, settings, *shared)
            yield worker


async def _enter_shared(stack: AsyncExitStack, settings: Settings) -> tuple[PostgresIndex, ports.Weights, Queues]:
    index = await stack.enter_async_context(_postgres(settings))
    from storage.workers import Queues

    assert settings.database_url
    queues = await stack.enter_async_context(Queues(settings.database_url.get_secret_value()))
    return index, _weights(settings, DataFolder(settings.data_dir), index), queues


async def _enter_worker(
    stack: AsyncExitStack, settings: Settings, index: PostgresIndex, weights: ports.Weights, queues: Queues
) -> tuple[Runner, Worker]:
    from storage.workers import PublishingFeeds, Worker

    feeds = PublishingFeeds(index)
    runner = _runner(settings, index, weights, learning=False, tidy=False, feeds=feeds)
    await stack.enter_async_context(runner)
    return runner, Worker(queues, index, runner, _answerer(settings, index, weights, runner), feeds)


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
    async with (
        _store(settings) as store,
        _runner(settings, store.index, store.weights, learning=False, tidy=False) as runner,
    ):
        yield _app(settings, store.index, store.weights, runner)


def _postgres(settings: Settings) -> PostgresIndex:
    """Raises: SetupError."""
    if not settings.database_url:
        raise SetupError("Say which database: `--to postgresql://user@host/database`, or ENGRAM_DATABASE_URL.")
    try:
        import storage.workers  # noqa: F401  # of the same extra
        from storage.postgres import PostgresIndex
    except ImportError as error:
        raise SetupError(
            f"ENGRAM_DATABASE_URL is set, and PostgreSQL's client is missing: {pip_install('postgres')}."
        ) from error
    return PostgresIndex(settings.database_url.get_secret_value(), _keys(settings))


def _keys(settings: Settings) -> Keys:
    """Of what is stored on servers. Raises: SetupError."""
    from storage.keys import Keys

    return Keys(settings.keys or settings.data_dir / "keys")


def _weights(settings: Settings, folder: DataFolder, index: Index) -> ports.Weights:
    """Raises: SetupError."""
    if not settings.objects:
        return Weights(folder.weights, index.id)
    try:
        from storage.objects import Objects
    except ImportError as error:
        raise SetupError(f"ENGRAM_OBJECTS is set, and its client is missing: {pip_install('objects')}.") from error
    return Objects(settings.objects, index.id, _keys(settings))


def _reader(settings: Settings) -> Callable[..., Awaitable[DocumentText]]:
    return partial(read_document, ocr=settings.ocr)


def _runner(settings: Settings, index: Index, weights: ports.Weights, **options: Any) -> Runner:
    return Runner(
        partial(load_engine, settings),
        index,
        weights,
        settings.limits,
        read=_reader(settings),
        keep_text=settings.keep_text,
        **options,
    )


def _answerer(settings: Settings, index: Index, weights: ports.Weights, runner: Runner) -> Answerer:
    return Answerer(index, weights, runner.device, floor=settings.min_confidence, ground=settings.ground)


def _app(settings: Settings, index: Index, weights: ports.Weights, runner: Runner) -> App:
    service = Service(index, weights, runner, _answerer(settings, index, weights, runner), settings.limits)
    return App(settings, service, runner, Inspection(index, weights, runner.device, settings.limits, _reader(settings)))


@asynccontextmanager
async def _store(settings: Settings) -> AsyncIterator[Store]:
    """What is stored, beside a bot that may run on it."""
    folder = DataFolder(settings.data_dir)
    async with _postgres(settings) if settings.database_url else ReadOnlyIndex(folder.index) as index:
        yield Store(index, _weights(settings, folder, index))


@asynccontextmanager
async def _store_in(folder: DataFolder) -> AsyncIterator[Store]:
    async with Index(folder.index) as index:
        yield Store(index, Weights(folder.weights, index.id))


async def migrate(settings: Settings, note: Callable[[str], None]) -> Copied:
    """Copy what the data folder holds to the servers that the settings name. The bot must not run; nothing is removed.

    Args:
        note: is given the name of each channel when it is there.

    Raises: DataFolderBusy, DataTooNew, SetupError, StorageFailed.
    """
    there = _postgres(settings)
    with DataFolder(settings.data_dir) as folder:
        folder.require_index()
        async with _store_in(folder) as source, there as index:
            await adopt(source.index, index)  # before its weights are opened, which carry its id
            target = Store(index, _weights(settings, folder, index) if settings.objects else source.weights)
            return await transfer(source, target, note)


async def back_up(settings: Settings, file: Path) -> Manifest:
    """Everything that is stored, wherever it is, as one file; beside a running bot. Raises: NotFound, StorageFailed."""
    if not (settings.database_url or settings.objects):
        return await asyncio.to_thread(back_up_folder, settings.data_dir, file)
    with TemporaryDirectory(prefix=".backup-", dir=file.absolute().parent) as name:
        with DataFolder(Path(name)) as folder:
            for part in (settings.data_dir / "prepared", settings.data_dir / TOKENS_FILE):
                if part.exists():
                    (folder.path / part.name).symlink_to(part.absolute())
            async with _store(settings) as source, Index(folder.index) as index:
                await adopt(source.index, index)
                await transfer(source, Store(index, Weights(folder.weights, index.id)))
        return await asyncio.to_thread(back_up_folder, folder.path, file)


async def restore(settings: Settings, file: Path) -> Manifest:
    """Put back what a backup holds: in place of what the data folder holds, or into an empty database.

    Raises: BackupDamaged, DataTooNew, StorageFailed, DataFolderBusy; SetupError, when the database is not empty.
    """
    if not (settings.database_url or settings.objects):
        return await asyncio.to_thread(restore_folder, settings.data_dir, file)
    with DataFolder(settings.data_dir) as folder, TemporaryDirectory(prefix="restore-", dir=folder.path) as name:
        manifest = await asyncio.to_thread(restore_folder, Path(name), file)
        with DataFolder(Path(name)) as copy:
            target = _postgres(settings) if settings.database_url else Index(folder.index)
            async with _store_in(copy) as source, target as index:
                await adopt(source.index, index)
                await transfer(source, Store(index, _weights(settings, folder, index)))
            for part in ("prepared", TOKENS_FILE):
                if (copy.path / part).exists():
                    shutil.rmtree(folder.path / part, ignore_errors=True)
                    os.replace(copy.path / part, folder.path / part)
    return manifest


def load_engine(settings: Settings) -> Engine:
    """Blocking, and slow: torch is imported here. Raises: ModelNotFound.

    Nothing is collected meanwhile, and what is loaded by then stays: a full collection would look at all of torch's and
    transformers' objects, while the event loop stands still for 0.1 to 0.4 s.
    """
    limit_kernel_cache()
    gc.disable()
    try:
        folder = find_beside_import("core.engine", settings.model, settings.cache_dir)
        from core.engine import Engine

        return Engine.load(settings.engine, folder, light=True)
    finally:
        gc.freeze()
        gc.enable()


async def about_servers(settings: Settings) -> list[tuple[str, list[str], str]]:
    """Of each server that is set: what it is, what is wrong with it, one sentence each, and what it says of itself."""
    answers = []
    if settings.database_url:
        from storage.postgres import about_server

        answers.append(("Database", *await about_server(settings.database_url.get_secret_value())))
    if settings.objects:
        from storage.objects import Objects

        store = Objects(settings.objects, "", _keys(settings))
        answers.append(("Object store", *await asyncio.to_thread(store.about_store)))
    if settings.database_url or settings.objects:
        answers.append(("Keys", *await asyncio.to_thread(_keys(settings).about)))
    return answers


def check_data(folder: Path) -> Contents:
    """What lies in a data folder, and what is wrong with it; blocking. Works beside a running bot.

    Raises: StorageFailed, when the index can't be read at all.
    """
    try:
        return check_folder(folder)
    except sqlite3.Error as error:
        raise StorageFailed from error
