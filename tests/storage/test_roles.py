"""`engram worker`, `engram serve` and `serve --with-worker` on PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bot.app import open_app, open_worker
from bot.settings import Settings, load_settings
from core.errors import ModelNotFound, SetupError
from core.types import Stage
from tests.torture.by_heart import ByHeart

TEXT = "The lighthouse of Vessin was built in 1874. Its keeper is Orla Quint. A berth costs forty crowns a night."
FRONT_END = """
import asyncio, json, sys
from bot.app import open_app
from bot.settings import load_settings

async def main():
    async with open_app(load_settings(), elsewhere=True) as app:
        await app.runner.ready()
        job = await app.service.submit("here", "a.txt", sys.stdin.buffer.read(), by="local")
        stages = [progress.job.stage async for progress in app.service.watch(job.id)]
        answer = await app.service.ask("here", "Who is the keeper?")
        status = await app.service.status("here")
    heavy = sorted({"torch", "transformers"} & set(sys.modules))
    print(json.dumps([stages[-1], answer.learned.text, status.learner, heavy]))

asyncio.run(main())
"""


@pytest.fixture
def settings(database: str, tmp_path: Path) -> Settings:
    return load_settings(data_dir=tmp_path / "data", database_url=database, min_tokens=5)


async def test_a_front_end_without_torch_works_with_a_worker(settings: Settings) -> None:
    variables = os.environ | {
        "ENGRAM_DATABASE_URL": settings.database_url.get_secret_value(),
        "ENGRAM_DATA_DIR": str(settings.data_dir),
        "ENGRAM_MIN_TOKENS": "5",
    }
    worker = subprocess.Popen([sys.executable, "-m", "tests.torture.by_heart", "worker"], env=variables)
    try:
        front_end = [sys.executable, "-c", FRONT_END]
        done = await asyncio.to_thread(
            subprocess.run, front_end, env=variables, input=TEXT.encode(), capture_output=True
        )
        assert json.loads(done.stdout) == ["done", "Its keeper is Orla Quint", "by-heart", []], done.stderr.decode()
    finally:
        worker.terminate()
        assert await asyncio.to_thread(worker.wait, 30) == 0


async def test_one_process_may_be_both(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.app.load_engine", lambda settings: ByHeart(step_seconds=0.01))
    async with open_app(settings) as app:
        await app.runner.ready()
        job = await app.service.submit("here", "a.txt", TEXT.encode(), by="local")
        assert [progress.job.stage async for progress in app.service.watch(job.id)][-1] is Stage.DONE
        answer = await app.service.ask("here", "Who is the keeper?")
        assert answer.learned and answer.learned.text == "Its keeper is Orla Quint"
        assert (await app.service.status("here")).learner == "by-heart" and app.inspection


async def test_a_process_without_an_engine_says_so(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(settings: Settings) -> ByHeart:
        raise ModelNotFound

    monkeypatch.setattr("bot.app.load_engine", missing)
    async with open_app(settings) as app:
        with pytest.raises(ModelNotFound):
            await app.runner.ready()
        with pytest.raises(ModelNotFound):
            await app.service.submit("here", "a.txt", TEXT.encode(), by="local")
    async with open_worker(settings) as worker:
        with pytest.raises(ModelNotFound):
            await worker.run()


async def test_a_worker_needs_a_database(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="ENGRAM_DATABASE_URL"):
        async with open_worker(load_settings(data_dir=tmp_path)):
            pass
