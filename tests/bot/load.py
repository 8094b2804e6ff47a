"""A hundred questions at once, in twenty channels, against one runner with the embedded model:

    .venv/bin/python -m tests.bot.load [QUESTIONS] [CHANNELS]

Each channel knows a document of its own. An answer is lost when it does not come, and crossed when it comes from
another channel's document, or is not what the same question gets when it is asked alone.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from bot.chat import Message
from bot.commands import Bot
from core.answerer import Answerer
from core.engine import Engine, EngineConfig
from core.prepare.invented import invented_document
from core.runner import Runner
from core.service import Service
from core.types import Limits
from storage.folder import DataFolder
from storage.index import Index
from storage.weights import Weights
from tests.bot.fake_chat import FakeReply, attachment, request
from tests.fakes import plain_pdf, read_plain

LIMITS = Limits(min_tokens=20)


async def main(questions: int = 100, channels: int = 20) -> None:
    documents = [invented_document(random.Random(seed), 4) for seed in range(channels)]
    asked = [(n % channels, documents[n % channels].questions[n // channels % 4][0].question) for n in range(questions)]
    with tempfile.TemporaryDirectory() as path, DataFolder(Path(path) / "data") as folder:
        weights = Weights(folder.weights)
        load = partial(Engine.load, EngineConfig())
        async with (
            Index(folder.index) as index,
            Runner(load, index, weights, LIMITS, read=read_plain) as runner,
            Bot(Service(index, weights, runner, Answerer(index, weights, runner.device), LIMITS), limits=LIMITS) as bot,
        ):
            for channel, document in enumerate(documents):
                pdf = attachment(plain_pdf(" ".join(document.sentences)), f"{channel}.pdf")
                await bot.hear(request("learn", pdf, channel=f"load:{channel}", user=f"load:{channel}"), FakeReply())
            await asyncio.gather(*bot._tasks)
            alone = {pair: (await ask(bot, *pair, by="alone"))[0] for pair in dict.fromkeys(asked)}
            began = time.perf_counter()
            answers = await asyncio.gather(*(ask(bot, *pair, by=str(n)) for n, pair in enumerate(asked)))
            whole = time.perf_counter() - began
    report(asked, alone, answers, whole)


async def ask(bot: Bot, channel: int, question: str, *, by: str) -> tuple[Message | None, float]:
    """The answer, if one came, and the seconds until then."""
    reply, began = FakeReply(), time.perf_counter()
    await bot.hear(request(question, channel=f"load:{channel}", user=f"load:{by}:{channel}"), reply)
    return (reply.said[0] if len(reply.said) == 1 and reply.said[0].fields else None), time.perf_counter() - began


def report(
    asked: list[tuple[int, str]],
    alone: dict[tuple[int, str], Message | None],
    answers: list[tuple[Message | None, float]],
    whole: float,
) -> None:
    pairs = [(place, answer) for place, (answer, _) in zip(asked, answers, strict=True)]
    lost = sum(answer is None for _, answer in pairs)
    foreign = sum(f"From {place[0]}.pdf," not in answer.footer for place, answer in pairs if answer)
    other = sum(said(answer) != said(alone[place]) for place, answer in pairs if answer)
    seconds = sorted(seconds for _, seconds in answers)
    p50, p95 = statistics.median(seconds), seconds[int(len(seconds) * 0.95) - 1]
    print(f"{len(answers)} questions in {len({place[0] for place in asked})} channels, {whole:.1f} s in all")
    print(f"lost {lost}, from another channel's document {foreign}, not as when asked alone {other}")
    print(f"p50 {p50:.1f} s, p95 {p95:.1f} s, slowest {seconds[-1]:.1f} s")
    sys.exit(lost + foreign + other > 0)


def said(message: Message | None) -> list[str]:
    return [field.text for field in message.fields] if message else []


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
