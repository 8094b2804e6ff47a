"""Test doubles that implement the ports, and small PDFs written by hand. No mocks."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from core.errors import EngramError
from core.pdf import PdfText
from core.ports import Ask, Learned
from core.types import Chunk, Completion, Limits, Metrics, Page, Step

WORD = re.compile(r"\w+")


@dataclass
class FakeEngine:
    """Learns by heart: the weights of a section are its letters as numbers, and the answer is the sentence that shares
    the most words with the question. Without weights it does not know.
    """

    chunk_size: int = 32  # words
    step_seconds: float = 0.0  # of real work outside the interpreter's lock, in each step of learning
    answer_seconds: float = 0.0  # of the same, for a batch
    steps_per_chunk: int = 2
    fail_at_step: int | None = None
    learn_error: Exception | None = None
    name: str = "fake"
    fingerprint: str = "f" * 64
    device: str = "cpu"
    dtype: str = "float32"
    learner: str = "by-heart"
    batches: list[list[Ask]] = field(default_factory=list)  # what `answer` was asked
    threads: set[str] = field(default_factory=set)  # names of the threads that called
    steps: int = 0
    closed: int = 0  # generators that were closed before their end

    def chunk(self, pages: Sequence[Page]) -> list[Chunk]:
        self._called()
        words = [(page.number, word) for page in pages for word in page.text.split()]
        runs = [words[at : at + self.chunk_size] for at in range(0, len(words), self.chunk_size)]
        return [
            Chunk(at, " ".join(word for _, word in run), tuple(range(len(run))), run[0][0], run[-1][0])
            for at, run in enumerate(runs)
        ]

    def learn(self, chunks: Sequence[Chunk], *, title: str) -> Generator[Step, None, Learned]:
        total, losses = len(chunks) * self.steps_per_chunk, []
        try:
            for done in range(1, total + 1):
                self._called()
                burn(self.step_seconds)
                self.steps += 1
                if done == self.fail_at_step:
                    raise self.learn_error or EngramError
                losses.append(4.0 / done)
                yield Step(done, total, losses[-1])
        except GeneratorExit:
            self.closed += 1
            raise
        tensors = {f"{at}/memory": to_tensor(chunk.text) for at, chunk in enumerate(chunks)}
        tokens = sum(chunk.token_count for chunk in chunks)
        metrics = Metrics(losses[0], losses[-1], tuple(losses), len(chunks), tokens, 0.1, 1.0)
        return Learned(tensors, tuple(range(len(chunks))), metrics)

    def answer(self, asks: Sequence[Ask]) -> list[Completion]:
        self._called()
        self.batches.append(list(asks))
        burn(self.answer_seconds)
        return [self._complete(ask) for ask in asks]

    def prompt_tokens(self, question: str) -> int:
        return len(question.split())

    def _complete(self, ask: Ask) -> Completion:
        if "explode" in ask.question:
            raise RuntimeError("/secret/path exploded")
        text = best_sentence(to_text(ask.weights["memory"]), ask.question) if ask.weights else "I do not know."
        return Completion(text, len(text.split()), self.answer_seconds, 0.9 if ask.weights else 0.1)

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


def to_tensor(text: str):  # -> torch.Tensor; torch is slow to import, and most tests need none
    import torch

    return torch.tensor(list(text.encode()), dtype=torch.float32)


def to_text(tensor) -> str:
    return bytes(int(number) for number in tensor.tolist()).decode()


def best_sentence(text: str, question: str) -> str:
    wanted = set(WORD.findall(question.casefold()))
    sentences = [sentence.strip() for sentence in text.split(".") if sentence.strip()]
    return max(sentences, key=lambda sentence: len(wanted & set(WORD.findall(sentence.casefold()))))


async def read_plain(data: bytes, limits: Limits) -> PdfText:
    """Reads what `plain_pdf` wrote, without a child process."""
    text = data.decode().removeprefix("%PDF-")
    return PdfText(tuple(Page(number, page) for number, page in enumerate(text.split("\f"), start=1)))


def plain_pdf(*pages: str) -> bytes:
    """Looks like a PDF to whoever looks at its first bytes only."""
    return b"%PDF-" + "\f".join(pages).encode()


def make_pdf(*pages: str) -> bytes:
    """A PDF of plain ASCII text, a page for each argument, lines as they come."""
    count = len(pages)
    kids = " ".join(f"{3 + 2 * at} 0 R" for at in range(count))
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", f"<< /Type /Pages /Kids [{kids}] /Count {count} >>"]
    font = f"{3 + 2 * count} 0 R"
    for at, text in enumerate(pages):
        lines = [line.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)") for line in text.splitlines()]
        stream = "BT /F1 11 Tf 14 TL 60 780 Td " + " ".join(f"({line}) Tj T*" for line in lines) + " ET"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents {4 + 2 * at} 0 R "
            f"/Resources << /Font << /F1 {font} >> >> >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    objects.append("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    body, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n".encode()
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    end = (
        f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\n"
    )
    return body + f"{end}startxref\n{len(body)}\n%%EOF\n".encode()
