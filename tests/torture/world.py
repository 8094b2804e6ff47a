"""A bot in a process of its own, that the harness talks to through pipes, and kills.

    python -m tests.torture.world DATA_FOLDER QUOTAS ROLE      with the configured model; QUOTAS: 0 or 1
    python -m tests.torture.world nursery                 a process that has loaded everything, and forks one when asked

The child serves a platform of one pipe: an order a line comes in on stdin, what the bot says goes out on stdout. All
between them is the bot itself: commands, service, runner, storage. With the fast engine it is forked, since to start
Python and import torch is most of the work of starting, and hundreds of starts are wanted.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

from bot.chat import Attachment, Live, Message, Reply, Request
from tests.stall import Stall

MANY = 4 << 20  # bytes of one line
NO_QUOTAS = dict.fromkeys(
    (
        "user_uploads_per_hour", "channel_uploads_per_hour", "user_pages_per_day", "channel_pages_per_day",
        "user_questions_per_minute", "channel_questions_per_minute", "channel_documents", "user_commands_per_minute",
    ),
    0,
)  # fmt: skip


# The harness' side


class Nursery:
    """`async with Nursery() as nursery`. Forks processes that have the fast engine; loads it for the first of them."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Nursery:
        self._folder = Path(tempfile.mkdtemp(prefix="engram-nursery-"))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        shutil.rmtree(self._folder)

    async def _start(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.torture.world", "nursery",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def fork(
        self, folder: Path, quotas: bool, role: str, log: Path | None, pace: dict[str, float]
    ) -> tuple[int, Any, Any]:
        """Process id, the file to write orders to, and the file to read events from."""
        self._process = self._process or await self._start()
        pipes = [self._folder / secrets.token_hex(4) for _ in range(2)]
        for pipe in pipes:
            os.mkfifo(pipe)
        order = {"folder": str(folder), "quotas": quotas, "role": role, "pace": pace}
        order |= {"pipes": [*map(str, pipes)], "log": str(log or os.devnull)}
        assert self._process.stdin and self._process.stdout  # both are pipes
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        pid = int(await self._process.stdout.readline())
        files = [await asyncio.to_thread(pipe.open, mode, 0) for pipe, mode in zip(pipes, ("wb", "rb"), strict=True)]
        for pipe in pipes:
            pipe.unlink()
        return pid, files[0], files[1]


@dataclass
class World:
    """One process. `async with World(folder) as world`: leaving kills it."""

    folder: Path
    nursery: Nursery | None = None  # to fork it; None: a new Python, with the configured model
    quotas: bool = False
    role: str = "bot"  # or "worker", or the name of a front end
    events: list[dict[str, Any]] = field(default_factory=list)  # all that it said
    answers: dict[int, dict[str, Any]] = field(default_factory=dict)  # by order: the first that ended it
    log: Path | None = None  # its stderr is appended to this file
    pace: dict[str, float] = field(default_factory=dict)  # of the fast engine, as `by_heart.install` has it

    async def __aenter__(self) -> World:
        self.began = time.monotonic()
        if self.nursery:
            self.pid, self._orders, events = await self.nursery.fork(
                self.folder, self.quotas, self.role, self.log, self.pace
            )
            self._said = asyncio.StreamReader(limit=MANY)
            await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(self._said), events)
        else:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.torture.world", str(self.folder), str(int(self.quotas)), self.role,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=MANY,
                stderr=self.log.open("ab") if self.log else asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            assert process.stdin and process.stdout  # both are pipes
            self.pid, self._orders, self._said = process.pid, process.stdin, process.stdout
        self._changed = asyncio.Event()
        self._reading = asyncio.create_task(self._read())
        self._reading.add_done_callback(lambda _: self._tell())  # who still waits learns that it ended
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        await self.gone()
        self._orders.close()

    @property
    def has_ended(self) -> bool:
        return self._reading.done()

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, how)

    async def gone(self) -> None:
        """Wait for its end, and for all that it said."""
        await self._reading
        with contextlib.suppress(ProcessLookupError):
            while True:  # its files are closed one after another: the lock after stdout
                os.kill(self.pid, 0)
                await asyncio.sleep(0.005)

    def send(self, number: int, do: str, **order: Any) -> None:
        """Give an order; what comes of it carries its number."""
        with contextlib.suppress(BrokenPipeError):  # it has ended; who waits for an answer is told
            self._orders.write(json.dumps({"number": number, "do": do, **order}).encode() + b"\n")

    async def until(self, happened: Callable[[dict[str, Any]], bool], seconds: float = 60.0) -> dict[str, Any]:
        """The first event like this, also an earlier one. Raises: TimeoutError; EOFError, when the process ended."""
        at = 0
        async with asyncio.timeout(seconds):
            while True:
                changed = self._changed
                for event in self.events[at:]:
                    if happened(event):
                        return event
                at = len(self.events)
                await self._next(changed)

    async def ready(self, seconds: float = 600.0) -> float:
        """Seconds from its start until it serves."""
        await self.until(lambda event: event["event"] == "ready", seconds)
        return time.monotonic() - self.began

    async def answer(self, number: int, seconds: float = 60.0) -> dict[str, Any]:
        """What ended an order: a job's end, or the answer. Raises: TimeoutError, EOFError."""
        async with asyncio.timeout(seconds):
            while number not in self.answers:
                await self._next(self._changed)
        return self.answers[number]

    async def _next(self, changed: asyncio.Event) -> None:
        if self.has_ended:
            raise EOFError
        await changed.wait()

    async def stats(self, number: int) -> dict[str, Any]:
        self.send(number, "stats")
        return await self.until(lambda event: event["event"] == "stats" and event["number"] == number)

    async def _read(self) -> None:
        with contextlib.suppress(ValueError):  # half a line, when it was killed
            while line := await self._said.readline():
                event = json.loads(line) | {"at": time.monotonic()}
                self.events.append(event)
                if event["event"] in ("finish", "say"):
                    self.answers.setdefault(event["number"], event)
                self._tell()
        await self._said.read()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


# The child's side


def emit(event: str, **what: Any) -> None:
    os.write(1, json.dumps({"event": event, **what}).encode() + b"\n")


def shown(message: Message) -> dict[str, Any]:
    texts = [message.title, message.text, message.footer, *(part for f in message.fields for part in (f.name, f.text))]
    return {
        "tone": message.tone,
        "text": "\n".join(text for text in texts if text),
        "buttons": [[button.action, button.value] for button in message.buttons],
    }


class PipeReply(Reply):
    """What is said goes out with the number of the order."""

    shows_question = True
    takes_forms = False

    def __init__(self, number: int, thread: str) -> None:
        self._number = number
        self.thread = thread

    async def say(
        self, message: Message, *, private: bool = False, thread: str | None = None, replace: bool = False
    ) -> None:
        emit("say", number=self._number, **shown(message))

    async def post(self, message: Message) -> Live:
        emit("post", number=self._number, **shown(message))
        return PipeLive(f"pipe:{self._number}")

    async def react(self, emoji: str) -> None:
        emit("say", number=self._number, **shown(Message(text=emoji)))

    def thinking(self) -> contextlib.AbstractAsyncContextManager[None]:
        return contextlib.nullcontext()

    async def name_of(self, user: str) -> str:
        return ""


class PipeLive(Live):
    def __init__(self, address: str) -> None:
        self.address = address
        self._number = int(address.partition(":")[2])

    async def edit(self, message: Message) -> None:
        emit("edit", number=self._number, **shown(message))

    async def finish(self, message: Message) -> None:
        emit("finish", number=self._number, **shown(message))


async def reopen(address: str) -> Live | None:
    return PipeLive(address) if address.startswith("pipe:") else None


def attachment(file: dict[str, Any]) -> Attachment:
    """A file that takes its time."""

    async def read() -> bytes:
        await asyncio.sleep(file.get("seconds", 0.0))
        return await asyncio.to_thread(Path(file["path"]).read_bytes)

    return Attachment(file["name"], file.get("size", 1), "application/pdf", read)


def measures(stall: Stall) -> dict[str, Any]:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "rss": pages * os.sysconf("SC_PAGE_SIZE"),
        "fds": len(os.listdir("/proc/self/fd")),
        "tasks": len(asyncio.all_tasks()),
        "stall": stall.longest,
        "own_stall": stall.own,
    }


async def serve(folder: Path, quotas: bool, role: str) -> None:
    from bot.app import open_app, open_worker
    from bot.commands import Bot
    from bot.settings import load_settings

    import_module("torch")  # as `bot serve` does
    settings = load_settings(data_dir=folder, **({} if quotas else {"quotas": NO_QUOTAS}))
    if role == "worker":
        async with open_worker(settings) as worker:
            emit("ready")
            await worker.run()
    stall = Stall()
    async with open_app(settings, elsewhere=role != "bot") as app:
        await app.runner.ready()
        gc.freeze()  # the fast engine's loading does not
        options: dict[str, Any] = {
            "name": app.name,
            "limits": settings.limits,
            "quotas": settings.quotas,
            "usage": app.usage,
        }
        async with Bot(app.service, **options) as bot:
            emit("ready")
            bot.spawn(stall.watch())
            await bot.resume(reopen)
            for _, body in await app.service.inbox.unhandled(f"pipe:{role}:"):
                bot.spawn(obey(bot, json.loads(body), role))
            async for order in orders():
                if order["do"] == "stats":
                    emit("stats", number=order["number"], **measures(stall))
                else:
                    bot.spawn(receive(bot, order, role))


async def receive(bot: Any, order: dict[str, Any], role: str) -> None:
    """Handed over until it is taken, as platforms do."""
    from core.errors import StorageFailed

    new = False
    while True:
        try:
            new |= await bot.service.inbox.receive(key_of(order, role), json.dumps(order))
        except StorageFailed:  # it may be there all the same: the connection was lost before the reply
            new = True
            await asyncio.sleep(1)
        else:
            break
    if new:
        emit("received", number=order["number"])  # from here on it may not be lost
        await obey(bot, order, role)


async def obey(bot: Any, order: dict[str, Any], role: str) -> None:
    request = Request(
        channel=order["channel"],
        user=order.get("user", "ada"),
        thread=order.get("thread", ""),
        text=order.get("text", ""),
        arguments=order.get("arguments", {}),
        attachments=tuple(map(attachment, order.get("files", []))),
        is_manager=True,
    )
    reply = PipeReply(order["number"], request.thread)
    if order["do"] == "hear":
        await bot.hear(request, reply)
    elif order["do"] == "press":
        await bot.press(order["action"], order.get("value", ""), request, reply)
    else:
        await bot.run(order["do"], request, reply)
    await bot.service.inbox.handled(key_of(order, role))


def key_of(order: dict[str, Any], role: str) -> str:
    """Each front end looks after its own."""
    return f"pipe:{role}:{order['number']}"


async def orders() -> AsyncIterator[dict[str, Any]]:
    reader = asyncio.StreamReader(limit=MANY)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield json.loads(line)


async def main(folder: Path, quotas: bool, role: str) -> None:
    task = asyncio.current_task()
    assert task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await serve(folder, quotas, role)


def raise_children() -> None:
    """Fork a process for each line that comes in, until there are no more."""
    from tests.torture.by_heart import install

    for name in ("torch", "safetensors.torch", "PIL.ImageFont", "bot.app", "bot.commands", "bot.settings"):
        import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    for line in sys.stdin:
        order = json.loads(line)
        if pid := os.fork():
            print(pid, flush=True)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        flags = (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for number, (path, flag) in enumerate(zip((*order["pipes"], order["log"]), flags, strict=True)):
            os.dup2(os.open(path, flag, 0o600), number)
        install(**order["pace"])
        live_out(Path(order["folder"]), order["quotas"], order["role"])


def live_out(folder: Path, quotas: bool, role: str) -> None:
    import logging

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    asyncio.run(main(folder, quotas, role))
    os._exit(0)  # as bot.cli.main does


if __name__ == "__main__":
    if sys.argv[1] == "nursery":
        raise_children()
    else:
        live_out(Path(sys.argv[1]), sys.argv[2] == "1", sys.argv[3])
