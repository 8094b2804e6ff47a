"""What only weights in an object store have to do: damage there, a store that fails, and little traffic."""

from __future__ import annotations

import asyncio
import json
import random
from datetime import timedelta
from functools import partial
from pathlib import Path

import obstore
import pytest
from obstore.exceptions import GenericError

import storage.objects
from core.answerer import Answerer
from core.errors import SetupError, StorageFailed, WeightsDamaged
from core.runner import Runner
from core.service import Service
from core.types import Stage
from storage.index import Index
from storage.keys import Keys
from storage.objects import Objects
from tests.conftest import Environment
from tests.fakes import read_plain
from tests.objects import unreliable
from tests.storage.samples import make_learned
from tests.storage.test_weights import load, save
from tests.storage.worker import LIMITS
from tests.torture.by_heart import ByHeart


@pytest.fixture
def weights(bucket: str, keys: Keys) -> Objects:
    return Objects(bucket, "index", keys)


def objects_of(weights: Objects) -> dict[str, bytes]:
    return {name: weights.bucket.get(name) for name in weights.bucket.names()}


def test_a_section_is_an_object(weights: Objects) -> None:
    record = save(weights)
    stored = objects_of(weights)
    assert [*stored] == [f"weights/d1/{name}" for name in ("0.safetensors", "1.safetensors", "checksums.json")]
    assert record.bytes == sum(map(len, stored.values())) and record.path == "weights/d1"
    assert [*json.loads(stored["weights/d1/checksums.json"])] == ["0", "1"]


def test_every_changed_byte_is_noticed(weights: Objects) -> None:
    record, chance = save(weights), random.Random(1)
    for name, whole in objects_of(weights).items():
        for _ in range(10):
            at = chance.randrange(len(whole))
            weights.bucket.put(name, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            weights._kept.clear()
            with pytest.raises(WeightsDamaged):
                load(weights, record, section=int("1.safe" in name))
        weights.bucket.put(name, whole)
    assert load(weights, record)


def test_two_documents_that_changed_places_are_refused(weights: Objects) -> None:
    mine, theirs = save(weights, "d1", "here"), save(weights, "d2", "there", 3.0, 4.0)
    stored = objects_of(weights)
    for name, data in stored.items():
        other = name.replace("d1", "d0").replace("d2", "d1").replace("d0", "d2")
        weights.bucket.put(other, data)
    weights._kept.clear()
    for record, channel in [(mine, "here"), (theirs, "there")]:
        with pytest.raises(WeightsDamaged):
            load(weights, record, channel)


def test_what_was_used_last_is_not_fetched_again_and_the_rest_makes_room(weights: Objects, monkeypatch) -> None:
    monkeypatch.setattr(storage.objects, "MAX_KEPT", 1_000)
    records = [save(weights, f"d{at}") for at in range(4)]
    for record in records:
        load(weights, record)
    for name in objects_of(weights):
        weights.bucket.put(name, b"")
    assert load(weights, records[-1])
    with pytest.raises(WeightsDamaged):
        load(weights, records[0])
    weights.delete("d3")
    with pytest.raises(WeightsDamaged):
        load(weights, records[-1])


def test_of_a_large_document_the_sections_around_the_last_one_are_fetched_ahead(weights: Objects, monkeypatch) -> None:
    learned = make_learned(1.0, sections=tuple(range(10)))
    record = weights.save("d1", "here", learned, base="base", learner="lora")
    monkeypatch.setattr(storage.objects, "MAX_PREFETCHED", record.bytes // 3)
    weights.prefetch(record, 5)
    weights.bucket.delete([*objects_of(weights)])
    assert [load(weights, record, section=section)["up.0"] for section in (4, 5, 6)] == [1.0] * 3
    with pytest.raises(WeightsDamaged):
        load(weights, record, section=8)
    weights.prefetch(record, 8)  # what is missing is no error yet


async def test_a_threads_next_question_finds_its_weights_on_this_machine(weights: Objects, tmp_path: Path) -> None:
    keepers = {"tower": "Orla", "oven": "Tam", "pier": "Ida", "gate": "Jon", "mill": "Eva", "lock": "Ben"}
    text = " ".join(f"The keeper of the {place} is {name}." for place, name in keepers.items())
    async with (
        Index(tmp_path / "index") as index,
        Runner(partial(ByHeart, chunk_size=7), index, weights, LIMITS, read=read_plain) as runner,
    ):
        answerer = Answerer(index, weights, runner.device)
        service = Service(index, weights, runner, answerer, LIMITS)
        job = await service.submit("here", "a.txt", text.encode(), by="local")
        assert [progress.job.stage async for progress in service.watch(job.id)][-1] is Stage.DONE
        await service.ask("here", "Who is the keeper of the tower?")
        assert not answerer._fetching
        await service.ask("here", "Who is the keeper of the tower?", thread="1")
        await asyncio.gather(*answerer._fetching)
        weights.bucket.delete([*objects_of(weights)])
        answer = await service.ask("here", "Who is the keeper of the lock?", thread="1")
        assert answer.learned and answer.learned.text == "The keeper of the lock is Ben"


def test_a_store_that_refuses_every_fourth_time_loses_nothing(
    bucket: str, keys: Keys, environment: Environment
) -> None:
    with unreliable(environment["AWS_ENDPOINT_URL"], every=4) as address:
        environment["AWS_ENDPOINT_URL"] = address
        weights = Objects(bucket, "index", keys)
        records = [save(weights, f"d{at}") for at in range(5)]
        weights._kept.clear()
        assert [load(weights, record) for record in records] == [{"up.0": 1.0, "up.1": 2.0}] * 5
        weights.delete("d0")
        assert {name.split("/")[1] for name in objects_of(weights)} == {"d1", "d2", "d3", "d4"}


def test_a_store_that_is_not_there_is_one_sentence(
    bucket: str, keys: Keys, environment: Environment, monkeypatch
) -> None:
    monkeypatch.setattr("storage.bucket.RETRY_TIMEOUT", timedelta(seconds=0.2))
    environment["AWS_ENDPOINT_URL"] = "http://127.0.0.1:9"
    weights = Objects(bucket, "index", keys)
    with pytest.raises(StorageFailed, match="can't be reached"):
        save(weights)
    with pytest.raises(OSError, match="can't be reached"):
        weights.delete("d1")


def test_a_lost_connection_that_the_client_gives_up_at_once_is_tried_again(weights: Objects, monkeypatch) -> None:
    """A connection of its pool that is lost as it is taken; seen once in many thousand requests."""
    record, get, lost = save(weights), obstore.get, []

    def lose(*request: object) -> obstore.GetResult:
        if len(lost) < 3:
            lost.append(request)
            raise GenericError("Error performing GET - HTTP error: error sending request: connection was not ready")
        return get(*request)

    monkeypatch.setattr(obstore, "get", lose)
    assert load(weights, record) == {"up.0": 1.0, "up.1": 2.0} and len(lost) == 3


def test_what_is_no_address_is_said_so(keys: Keys) -> None:
    with pytest.raises(SetupError, match="ENGRAM_OBJECTS"):
        Objects("weights", "index", keys)
