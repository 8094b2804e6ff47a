"""Keys: made durable, found again by another process, gone when they are destroyed."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from core.errors import KeyLost, SetupError, StorageFailed
from storage.keys import Keys
from storage.postgres import PostgresIndex
from tests.conftest import Environment
from tests.storage.samples import learn


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "folder":
        yield str(tmp_path / "keys")
        return
    variables: dict[str, str] = request.getfixturevalue("store")
    environment: Environment = request.getfixturevalue("environment")
    environment.update(variables)
    client = boto3.client("s3", endpoint_url=variables["AWS_ENDPOINT_URL"], region_name=variables["AWS_REGION"])
    client.create_bucket(Bucket="without-versions")
    yield "s3://without-versions/keys"


def test_another_process_opens_what_was_sealed_until_the_key_is_destroyed(place: str) -> None:
    here, there = Keys(place), Keys(place)
    key, other = here.make(), here.make()
    sealed, kept = [one.seal_value(text) for one, text in ((key, "Mara, 港口"), (other, b"\x00code"))]
    assert (there.open_value(sealed), there.open_value(kept)) == ("Mara, 港口", b"\x00code")
    here.destroy([key.id, key.id])
    for keys in (here, Keys(place)):
        with pytest.raises(KeyLost):
            keys.open_value(sealed)
        assert keys.open_value(kept) == b"\x00code"


def test_what_was_changed_is_not_opened(place: str) -> None:
    keys = Keys(place)
    sealed = keys.make().seal_value("Mara")
    for at in range(16, len(sealed)):
        with pytest.raises(StorageFailed):
            keys.open_value(sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :])


def test_the_same_text_is_sealed_otherwise_each_time_and_a_word_has_one_hash_for_each_key(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    one, other = keys.make(), keys.make()
    assert one.seal(b"harbour") != one.seal(b"harbour")
    assert one.hash("harbour") == one.hash("harbour") != other.hash("harbour")


def test_a_destroyed_key_is_overwritten_before_its_file_is_deleted(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    key = keys.make()
    file = tmp_path / "keys" / key.id
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and file.read_bytes() == key.secret
    (tmp_path / "same file").hardlink_to(file)
    keys.destroy([key.id])
    assert not file.exists() and (tmp_path / "same file").read_bytes() == bytes(32)


def test_a_bucket_that_keeps_versions_is_refused(bucket: str) -> None:
    with pytest.raises(SetupError, match="versions"):
        Keys(bucket).make()


async def test_a_database_is_not_opened_with_another_ones_keys(database: str, keys: Keys, tmp_path: Path) -> None:
    async with PostgresIndex(database, keys) as index:
        await learn(index, "d1", ["The harbour opened."])
    with pytest.raises(SetupError, match="ENGRAM_KEYS"):
        async with PostgresIndex(database, Keys(tmp_path / "elsewhere")):
            pass
    async with PostgresIndex(database, Keys(tmp_path / "keys")) as index:
        assert [page.text for page in await index.pages("d1")] == ["The harbour opened."]


async def test_an_erase_whose_keys_could_not_be_destroyed_is_finished_at_the_next_start(
    database: str, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(ids: object) -> None:
        raise StorageFailed

    async with PostgresIndex(database, keys) as index:
        await learn(index, "d1", ["The harbour opened."])
        monkeypatch.setattr(keys, "destroy", refuse)
        await index.reset("here")
        assert await index.documents("here") == [] and len([*(tmp_path / "keys").iterdir()]) == 1
    async with PostgresIndex(database, Keys(tmp_path / "keys")):
        assert [*(tmp_path / "keys").iterdir()] == []
