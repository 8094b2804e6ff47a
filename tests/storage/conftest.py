"""Storage on both of its engines: a test that asks for `index` runs on SQLite and on PostgreSQL, one that
asks for `weights` on files and on an object store."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from core.ports import Weights
from storage.folder import DataFolder
from storage.index import Index
from storage.keys import Keys
from storage.objects import Objects
from storage.postgres import PostgresIndex
from storage.weights import Weights as Files
from tests import objects
from tests.conftest import Environment
from tests.postgres import Server, running


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture
def database(server: Server) -> str:
    """The URL of an empty schema: quicker than a database."""
    name = f"test_{secrets.token_hex(8)}"
    server.sql(f"CREATE SCHEMA {name}")
    return f"{server.url()}&options=-csearch_path%3D{name}"


@pytest.fixture(scope="session")
def store() -> Iterator[dict[str, str]]:
    """The variables of an S3 server."""
    with objects.running() as variables:
        yield variables


@pytest.fixture
def bucket(store: dict[str, str], environment: Environment) -> str:
    """The URL of an empty prefix."""
    environment.update(store)
    return f"s3://{objects.BUCKET}/{secrets.token_hex(8)}"


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


@pytest.fixture(params=["files", "objects"])
def weights(request: pytest.FixtureRequest) -> Weights:
    if request.param == "objects":
        return Objects(request.getfixturevalue("bucket"), "index", request.getfixturevalue("keys"))
    return Files(request.getfixturevalue("folder").weights, "index")


@pytest.fixture(params=["sqlite", "postgres"])
async def index(request: pytest.FixtureRequest) -> AsyncIterator[Index]:
    if request.param == "sqlite":
        folder: DataFolder = request.getfixturevalue("folder")
        opening = Index(folder.index)
    else:
        opening = PostgresIndex(request.getfixturevalue("database"), request.getfixturevalue("keys"))
    async with opening as opened:
        yield opened
