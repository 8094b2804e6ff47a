"""What Prometheus reads, over HTTP."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from pathlib import Path

import aiohttp
import pytest
import yaml

from bot import metrics
from bot.commands import Bot
from bot.settings import Settings
from core.errors import SetupError
from tests.bot.fake_chat import FakeReply, attachment, request
from tests.bot.test_commands import settled
from tests.conftest import SMALL, Open
from tests.fakes import FakeEngine, plain_pdf
from tests.timeouts import WAIT

ROOT = Path(__file__).parents[2]
PDF = plain_pdf("The ferry to Marrow Island leaves at seven. The warden is Ada Quill. " * 3)


async def read(port: int) -> dict[str, float]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = re.findall(r"^(engram_\S+) (\S+)$", await answer.text(), re.MULTILINE)
    return {name: float(value) for name, value in lines}


async def test_jobs_questions_seconds_queue_errors_and_lag_are_counted(
    open_service: Open, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "SAMPLE_EVERY", 0.01)
    monkeypatch.setattr(metrics, "BEAT_EVERY", 0.01)
    chosen = Settings(_env_file=None, metrics_port=unused_tcp_port)
    engine = FakeEngine(step_seconds=0.3)
    async with (
        open_service(engine) as service,
        Bot(service, limits=SMALL) as bot,
        metrics.serving(service, chosen),
    ):
        before = await read(unused_tcp_port)
        await bot.hear(request("", attachment(PDF), attachment(PDF + b" Bread is sold.", "b.pdf")), FakeReply())
        async with asyncio.timeout(WAIT):  # one of them waits while the other is learned
            while (await read(unused_tcp_port))["engram_queue_length"] != 1:
                await asyncio.sleep(0.01)
        await settled(bot)
        for question in ("Who is the warden?", "explode"):
            await bot.hear(request(question), FakeReply())
        logging.getLogger("bot.commands").error("for the count")
        after = await read(unused_tcp_port)
    grown = {name: value - before.get(name, 0.0) for name, value in after.items()}
    assert grown['engram_jobs_total{stage="done"}'] == 2 and grown["engram_learning_seconds_count"] == 2
    assert grown['engram_questions_total{outcome="answered"}'] == 1 and grown["engram_answer_seconds_count"] == 1
    assert grown['engram_questions_total{outcome="refused"}'] == 1
    assert grown['engram_errors_total{logger="bot.commands"}'] >= 1 and grown["engram_loop_lag_seconds_count"] > 0


async def test_the_compose_file_knows_whether_the_bot_is_well(open_service: Open, unused_tcp_port: int) -> None:
    engram = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["engram"]
    _, _, *arguments = [
        part.replace(engram["environment"]["ENGRAM_METRICS_PORT"], str(unused_tcp_port))
        for part in engram["healthcheck"]["test"]
    ]

    async def status() -> int:
        process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stderr=asyncio.subprocess.DEVNULL)
        return await process.wait()

    async with (
        open_service(FakeEngine()) as service,
        metrics.serving(service, Settings(_env_file=None, metrics_port=unused_tcp_port)),
    ):
        assert await status() == 0
    assert await status() == 1


async def test_without_a_port_nothing_is_opened(open_service: Open) -> None:
    before = asyncio.all_tasks()
    async with metrics.serving(None, Settings(_env_file=None)):
        assert asyncio.all_tasks() == before


async def test_a_port_that_is_taken_is_one_clear_sentence(open_service: Open, unused_tcp_port: int) -> None:
    chosen = Settings(_env_file=None, metrics_port=unused_tcp_port)
    async with open_service() as service, metrics.serving(service, chosen):
        with pytest.raises(SetupError, match="ENGRAM_METRICS_PORT"):
            async with metrics.serving(service, chosen):
                pass
