"""An engine that is no model: it learns by heart, in no time. Everything around it is real.

python -m tests.torture.by_heart COMMAND ...      the command line on it
"""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from core.ports import Ask, Learned
from core.search.parameters import RankingParameters
from core.types import Chunk, Completion, Metrics, Page, Stage, Step

if TYPE_CHECKING:
    from torch import Tensor

WORD = re.compile(r"\w+")


@dataclass
class ByHeart:
    """Implements core.ports.Engine. The weights of a section are its letters as numbers, and the answer is the sentence
    that shares the most words with the question. Without weights it does not know.
    """

    ranking: RankingParameters = field(default_factory=RankingParameters)
    chunk_size: int = 32  # words
    steps_per_chunk: int = 2
    step_seconds: float = 0.0  # in each step of learning
    answer_seconds: float = 0.0  # for a batch
    name: str = "by heart"
    fingerprint: str = "f" * 64
    device: str = "cpu"
    dtype: str = "float32"
    learner: str = "by-heart"

    def chunk(self, pages: Sequence[Page]) -> list[Chunk]:
        words = [(page.number, word) for page in pages for word in page.text.split()]
        runs = [words[at : at + self.chunk_size] for at in range(0, len(words), self.chunk_size)]
        return [
            Chunk(at, " ".join(word for _, word in run), tuple(range(len(run))), run[0][0], run[-1][0])
            for at, run in enumerate(runs)
        ]

    def learn(self, chunks: Sequence[Chunk], *, title: str) -> Generator[Step, None, Learned]:
        total, losses = len(chunks) * self.steps_per_chunk, []
        for done in range(1, total + 1):
            self.work(self.step_seconds)
            losses.append(4.0 / done)
            yield Step(done, total, losses[-1])
        tensors = {f"{at}/memory": to_tensor(chunk.text) for at, chunk in enumerate(chunks)}
        tokens = sum(chunk.token_count for chunk in chunks)
        metrics = Metrics(losses[0], losses[-1], tuple(losses), len(chunks), tokens, 0.1, 1.0)
        return Learned(tensors, tuple(range(len(chunks))), metrics)

    def self_check(self, pages: Sequence[Page]) -> Generator[Step, None, list[tuple[str, str]]]:
        """One: the text's first sentence, whose answer it is."""
        yield Step(1, 1, 0.0, Stage.CHECKING)
        first = best_sentence(pages[0].text, pages[0].text)
        return [(first, first)]

    def answer(self, asks: Sequence[Ask]) -> list[Completion]:
        self.work(self.answer_seconds)
        return [self._complete(ask) for ask in asks]

    def prompt_tokens(self, question: str, context: str = "") -> int:
        return len(question.split()) + len(context.split())

    def prompt(self, question: str, context: str = "") -> str:
        return f"{context} {question}".strip()

    def rewrite_question(self, history: Sequence[str], question: str) -> str:
        return question

    def queries(self, questions: Sequence[str]) -> list[None]:
        return [None] * len(questions)

    def codes(self, chunks: Sequence[Chunk]) -> list[bytes]:
        return [b""] * len(chunks)

    def work(self, seconds: float) -> None:
        time.sleep(seconds)

    def _complete(self, ask: Ask) -> Completion:
        text = best_sentence(to_text(ask.weights["memory"]), ask.question) if ask.weights else "I do not know."
        return Completion(text, len(text.split()), self.answer_seconds, 0.98 if ask.weights else 0.1)


def to_tensor(text: str) -> Tensor:
    import torch

    return torch.tensor(list(text.encode()), dtype=torch.float32)


def to_text(tensor: Tensor) -> str:
    return bytes(int(number) for number in tensor.tolist()).decode()


def best_sentence(text: str, question: str) -> str:
    wanted = set(WORD.findall(question.casefold()))
    sentences = [sentence.strip() for sentence in text.split(".") if sentence.strip()]
    return max(sentences, key=lambda sentence: len(wanted & set(WORD.findall(sentence.casefold()))))


def install(step_seconds: float = 0.05, answer_seconds: float = 0.0) -> None:
    """From now on, this process's engine."""
    import bot.app

    bot.app.load_engine = lambda settings: ByHeart(
        chunk_size=400, steps_per_chunk=10, step_seconds=step_seconds, answer_seconds=answer_seconds
    )


if __name__ == "__main__":
    from bot.cli import main

    install()
    main()
