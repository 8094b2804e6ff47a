"""Fixtures that more than one test file needs."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from core.answerer import Answerer
from core.ports import Engine
from core.runner import Runner
from core.service import Service
from core.types import Limits
from storage.folder import DataFolder
from storage.index import Index
from storage.weights import Weights
from tests.fakes import FakeEngine, read_plain

settings.register_profile("any machine", deadline=None)  # a busy one is slow, not wrong
settings.load_profile("any machine")

SMALL = Limits(min_tokens=5, max_tokens=1_000, max_bytes=10_000)
Open = Callable[..., AbstractAsyncContextManager[Service]]
Environment = MutableMapping[str, str]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--drops", type=int, default=9, help="how often Discord's gateway drops the bot in learning")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[DataFolder]:
    with DataFolder(tmp_path / "data") as opened:
        yield opened


@pytest.fixture
def environment() -> Iterator[Environment]:
    """The process' own variables; put back afterwards."""
    before = dict(os.environ)
    yield os.environ
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
async def index(folder: DataFolder) -> AsyncIterator[Index]:
    async with Index(folder.index) as opened:
        yield opened


@pytest.fixture
def weights(folder: DataFolder) -> Weights:
    return Weights(folder.weights, "index")


@pytest.fixture
def open_service(index: Index, weights: Weights) -> Open:
    """A service with its runner, on real storage and a fake engine: `async with open_service(engine) as service`."""

    @asynccontextmanager
    async def opened(engine: Engine | None = None, **options: Any) -> AsyncIterator[Service]:
        options = {"read": read_plain, "limits": SMALL, **options}
        factory = options.pop("factory", lambda: engine or FakeEngine())
        ground = options.pop("ground", False)
        async with Runner(factory, index, weights, **options) as runner:
            yield Service(
                index, weights, runner, Answerer(index, weights, runner.device, ground=ground), options["limits"]
            )

    return opened
