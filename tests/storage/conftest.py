"""Storage on both of its engines: a test that asks for `index` runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator

import pytest

from storage.folder import DataFolder
from storage.index import Index
from storage.postgres import PostgresIndex
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


@pytest.fixture(params=["sqlite", "postgres"])
async def index(request: pytest.FixtureRequest) -> AsyncIterator[Index]:
    if request.param == "sqlite":
        folder: DataFolder = request.getfixturevalue("folder")
        opening = Index(folder.index)
    else:
        opening = PostgresIndex(request.getfixturevalue("database"))
    async with opening as opened:
        yield opened
