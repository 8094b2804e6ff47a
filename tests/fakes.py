"""Test doubles that implement the ports, and files that look like PDFs. No mocks."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace

from core.document.formats import DocumentText
from core.errors import EngramError
from core.ports import Ask, Learned
from core.types import ALL_PAGES, Chunk, Completion, Limits, Page, Step
from tests.torture.by_heart import ByHeart, to_tensor
from tests.torture.papers import make_pdf

__all__ = ["FakeEngine", "HeldEngine", "burn", "make_pdf", "plain_pdf", "read_plain", "to_tensor"]


@dataclass
class FakeEngine(ByHeart):
    """Learns by heart, counts what it is asked for, and fails on demand."""

    name: str = "fake"
    fail_at_step: int | None = None
    learn_error: Exception | None = None
    questions: tuple[str, ...] = ()  # examples for the document
    batches: list[list[Ask]] = field(default_factory=list)  # what `answer` was asked
    threads: set[str] = field(default_factory=set)  # names of the threads that called
    steps: int = 0
    says: Completion | None = None  # whatever it is asked; None: what it knows
    closed: int = 0  # generators that were closed before their end

    def chunk(self, pages: Sequence[Page]) -> list[Chunk]:
        self._called()
        return super().chunk(pages)

    def learn(self, chunks: Sequence[Chunk], *, title: str) -> Generator[Step, None, Learned]:
        steps = super().learn(chunks, title=title)
        try:
            while True:
                self._called()
                try:
                    step = next(steps)
                except StopIteration as end:
                    return replace(end.value, questions=self.questions)
                self.steps += 1
                if step.done == self.fail_at_step:
                    raise self.learn_error or EngramError
                yield step
        except GeneratorExit:
            self.closed += 1
            raise

    def answer(self, asks: Sequence[Ask]) -> list[Completion]:
        self._called()
        self.batches.append(list(asks))
        return super().answer(asks)

    def work(self, seconds: float) -> None:
        burn(seconds)

    def _complete(self, ask: Ask) -> Completion:
        if self.says is not None:
            return self.says
        if "explode" in ask.question:
            raise RuntimeError("/secret/path exploded")
        return super()._complete(ask)

    def _called(self) -> None:
        self.threads.add(threading.current_thread().name)


class HeldEngine(FakeEngine):
    """Goes on learning until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.go.set()

    def learn(self, chunks: Sequence[Chunk], *, title: str) -> Generator[Step, None, Learned]:
        while not self.go.is_set():
            time.sleep(0.01)
            yield Step(1, 4, 4.0)
        return (yield from super().learn(chunks, title=title))


def burn(seconds: float) -> None:
    """Real work in C, outside the interpreter's lock, as the model's is."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        hashlib.pbkdf2_hmac("sha256", b"burn", b"salt", 20_000)


async def read_plain(data: bytes, limits: Limits, pages: tuple[int, int] = ALL_PAGES, **_: object) -> DocumentText:
    """Reads what `plain_pdf` wrote, without a child process."""
    text = data.decode().removeprefix("%PDF-")
    return DocumentText(tuple(Page(number, page) for number, page in enumerate(text.split("\f"), start=1)))


def plain_pdf(*pages: str) -> bytes:
    """Looks like a PDF to whoever looks at its first bytes only."""
    return b"%PDF-" + "\f".join(pages).encode()
