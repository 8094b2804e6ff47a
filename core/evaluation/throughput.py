"""What one worker carries: documents learned a minute, and questions answered a second, by number of channels.

    python -m core.evaluation.throughput [--channels 1 32 256] [--device cuda]

A real Service with its index, weights' files and self-check. Each channel learns a document of 32 invented facts that
no other channel has, all at once; then each asks about its own, all at once, in two rounds: the first reads weights
that nobody asked before.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

from core.engine import Engine, EngineConfig
from core.evaluation.heldout import by_invention
from core.evaluation.served import Served, open_service
from core.squad import Article, Question, exact_match

FACTS = 32  # a document: about 330 words, three sections
QUESTIONS = 4  # of a channel in a round


def invented_documents(count: int) -> list[Article]:
    articles = []
    for title, passages in by_invention(FACTS, count):
        questions = []
        for passage in passages:
            for asked in passage.questions:
                questions.append(Question(asked.question, (asked.answer,), passage.text))
        articles.append(Article(title, tuple(passage.text for passage in passages), tuple(questions)))
    return articles


async def ask(served: Served, channel: int, question: Question) -> tuple[float, float]:
    """Seconds, and exact match."""
    began = time.perf_counter()
    answer = await served.service.ask(f"channel {channel}", question.text)
    return time.perf_counter() - began, exact_match((answer.learned or answer.base).text, question.answers)


async def ask_all(served: Served, articles: Sequence[Article]) -> dict[str, float]:
    """Each channel asks about its own document, all at once."""
    waiting = []
    for channel, article in enumerate(articles):
        for question in article.questions[:QUESTIONS]:
            waiting.append(ask(served, channel, question))
    began = time.perf_counter()
    seconds, right = zip(*await asyncio.gather(*waiting), strict=True)
    return {
        "questions a second": len(waiting) / (time.perf_counter() - began),
        "median seconds": statistics.median(seconds),
        "slowest seconds": max(seconds),
        "exact": 100 * statistics.mean(right),
    }


async def measure(channels: int, device: str, check: bool = True) -> dict[str, Any]:
    articles = invented_documents(channels)
    async with open_service(lambda: Engine.load(EngineConfig(device=device, check=check))) as served:
        await ask(served, -1, Question("Is it on?", ("",), ""))  # warms up
        learning = []
        for number, article in enumerate(articles):
            learning.append(served.learn(f"channel {number}", number, article))
        began = time.perf_counter()
        await asyncio.gather(*learning)
        minutes = (time.perf_counter() - began) / 60
        rounds = [await ask_all(served, articles), await ask_all(served, articles)]
    return {"channels": channels, "documents a minute": channels / minutes, "rounds": rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--no-check", action="store_true", help="learn without the self-check's questions")
    options = parser.parse_args()
    for channels in options.channels:
        figures = asyncio.run(measure(channels, options.device, not options.no_check))
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
