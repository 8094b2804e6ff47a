"""The terminal's commands where the index is on PostgreSQL and the weights are in an object store."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import psycopg
import pytest
from safetensors import safe_open

from bot.app import about_servers, back_up, migrate, open_app, restore
from bot.doctor import servers
from bot.settings import Settings, load_settings
from core.errors import SetupError
from storage.folder import DataFolder
from storage.index import Index
from storage.weights import Weights
from tests.storage.conftest import bucket, database, server, store  # noqa: F401
from tests.storage.samples import learn, make_answer, make_learned


async def fill(folder: Path) -> None:
    with DataFolder(folder) as opened:
        (folder / "prepared" / "0").mkdir(parents=True)
        (folder / "prepared" / "0" / "prepared.json").write_text("{}")
        async with Index(opened.index) as index:
            for channel in ("local", "there"):
                weights = Weights(opened.weights, index.id)
                record = weights.save(channel, channel, make_learned(1.0), base="base", learner="lora")
                document = await learn(index, channel, ["The harbour opened.", "In May."], channel, weights=record)
                await index.add_answer(channel, make_answer(document), asked_by="ada")


async def known(settings: Settings) -> list[str]:
    async with open_app(settings, learning=False) as app:
        return [document.id for channel in ("local", "there") for document in await app.service.documents(channel)]


@pytest.mark.parametrize("objects", [True, False])
async def test_a_bot_moves_is_backed_up_and_put_back(
    tmp_path: Path,
    database: str,  # noqa: F811
    bucket: str,  # noqa: F811
    server,  # noqa: F811
    objects: bool,
) -> None:
    await fill(tmp_path / "data")
    on_servers = load_settings(data_dir=tmp_path / "data", database_url=database, objects=bucket if objects else None)
    here: list[str] = []
    assert (await migrate(on_servers, here.append)).documents == 2 and here == ["local", "there"]
    assert await known(on_servers) == ["local", "there"]
    assert (await back_up(on_servers, tmp_path / "backup")).documents == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup", "data"]

    server.sql("CREATE SCHEMA second")
    second = database.partition("&options")[0] + "&options=-csearch_path%3Dsecond"
    place = {"data_dir": tmp_path / "new", "database_url": second, "objects": f"{bucket}/new" if objects else None}
    try:
        assert (await restore(load_settings(**place), tmp_path / "backup")).documents == 2
        assert await known(load_settings(**place)) == ["local", "there"]
        assert json.loads((tmp_path / "new" / "prepared" / "0" / "prepared.json").read_text()) == {}
    finally:
        server.sql("DROP SCHEMA second CASCADE")

    assert (await restore(load_settings(data_dir=tmp_path / "folder"), tmp_path / "backup")).documents == 2
    assert await known(load_settings(data_dir=tmp_path / "folder")) == ["local", "there"]
    async with Index(tmp_path / "folder" / "engram.db") as index:
        for file in (tmp_path / "folder" / "weights").iterdir():
            with safe_open(file, "pt") as weights:
                assert weights.metadata()["index"] == index.id, "no sweep would know it as its own"


async def test_the_doctor_tells_of_servers_that_lose_commits_or_are_not_there(
    tmp_path: Path,
    database: str,  # noqa: F811
    bucket: str,  # noqa: F811
) -> None:
    good = await servers(load_settings(data_dir=tmp_path, database_url=database, objects=bucket))
    states = {check["name"]: check["state"] for check in good}
    assert states == {"Database": "error", "Object store": "ok", "Keys": "ok"}
    assert "keeps versions" in good[1]["detail"] and not any((tmp_path / "keys").iterdir())
    assert "may lose" in good[0]["detail"]  # the tests' server does not wait for its disk
    absent = {"database_url": f"postgresql://u:SECRET@/x?host={tmp_path}", "objects": bucket.replace("engram", "no")}
    checks = await servers(load_settings(data_dir=tmp_path, **absent, keys=bucket))
    assert [check["state"] for check in checks] == ["error"] * 3 and "SECRET" not in str(checks[0])
    assert "versions" in checks[2]["detail"]
    assert await servers(load_settings()) == []


def test_the_doctor_says_where_the_lag_of_replicas_is_hidden(
    database: str,  # noqa: F811
    server,  # noqa: F811
) -> None:
    def said_to(user: str) -> str:
        url = database.replace("//postgres@", f"//{user}@")
        [answer] = asyncio.run(about_servers(load_settings(database_url=url)))[:1]
        return answer[2]

    server.sql("DROP ROLE IF EXISTS plain")
    server.sql("CREATE ROLE plain LOGIN")
    with psycopg.connect(f"{server.url()}&replication=true", autocommit=True):  # as a replica does
        assert "grant it pg_monitor" in said_to("plain") and "pg_monitor" not in said_to("postgres")
    assert "pg_monitor" not in said_to("plain")


async def test_where_to_migrate_has_to_be_said(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="--to"):
        await migrate(load_settings(data_dir=tmp_path), print)
