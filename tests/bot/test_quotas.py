from __future__ import annotations

import asyncio
import json

import pytest

from bot.quotas import MAX_KEYS, InMemory, QuotaConfig, Quotas
from core.errors import QuotaReached
from storage.keys import Keys
from storage.postgres import PostgresIndex
from tests.storage.conftest import database, keys, server  # noqa: F401


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def quotas(clock: Clock, **caps: int) -> Quotas:
    return Quotas(QuotaConfig(**caps), InMemory(clock))


async def test_a_refusal_says_when_to_try_again_and_then_it_works(clock):
    limited = quotas(clock, user_questions_per_minute=2)
    await limited.question("u", "c")
    clock.now = 20.0
    await limited.question("u", "c")
    with pytest.raises(QuotaReached, match="2 questions a minute; try again in 40 seconds") as refusal:
        await limited.question("u", "c")
    clock.now += refusal.value.retry_after
    await limited.question("u", "c")


@pytest.mark.parametrize("cap", [name for name in vars(QuotaConfig()) if name != "channel_documents"])
async def test_every_refusal_says_when_to_try_again_and_then_it_works(clock, cap):
    limited = quotas(clock, **{cap: 1})

    async def use() -> None:
        await limited.command("u")
        await limited.question("u", "c")
        await limited.upload("u", "c", 0)
        await limited.pages("u", "c", 1)

    await use()
    with pytest.raises(QuotaReached, match=r"try again in \d+ (second|minute|hour)") as refusal:
        await use()
    clock.now += refusal.value.retry_after
    await use()


async def test_one_user_does_not_use_up_anothers(clock):
    limited = quotas(clock, user_questions_per_minute=1)
    await limited.question("u", "c")
    await limited.question("v", "c")


async def test_a_channel_has_a_cap_of_its_own(clock):
    limited = quotas(clock, channel_uploads_per_hour=2)
    await limited.upload("u", "c", 0)
    await limited.upload("v", "c", 0)
    with pytest.raises(QuotaReached, match="A channel"):
        await limited.upload("w", "c", 0)
    await limited.upload("w", "d", 0)


async def test_a_refused_request_costs_nothing(clock):
    limited = quotas(clock, user_uploads_per_hour=1, channel_uploads_per_hour=2)
    await limited.upload("u", "c", 0)
    with pytest.raises(QuotaReached):
        await limited.upload("u", "c", 0)
    await limited.upload("v", "c", 0)


async def test_pages_are_felt_by_the_next_upload(clock):
    limited = quotas(clock, user_pages_per_day=100)
    await limited.upload("u", "c", 0)
    await limited.pages("u", "c", 120)
    with pytest.raises(QuotaReached, match="100 pages a day; try again in 24 hours"):
        await limited.upload("u", "c", 1)


async def test_a_full_channel_must_forget_first(clock):
    with pytest.raises(QuotaReached, match="Forget one first") as refusal:
        await quotas(clock, channel_documents=3).upload("u", "c", 3)
    assert refusal.value.retry_after is None


async def test_nothing_is_remembered_of_the_quiet(clock):
    usage = InMemory(clock)
    for user in range(MAX_KEYS):
        await Quotas(QuotaConfig(), usage).command(f"u{user}")
    clock.now = 61.0
    await Quotas(QuotaConfig(), usage).command("late")
    assert list(usage._used) == ["commands late"]


async def test_front_ends_on_one_database_count_together(database: str, keys: Keys):  # noqa: F811
    async with PostgresIndex(database, keys) as one, PostgresIndex(database, keys) as other:
        front_ends = [Quotas(QuotaConfig(user_questions_per_minute=6), index) for index in (one, other)]
        asking = [front_ends[n % 2].question("u", "c") for n in range(10)]
        refused = [problem for problem in await asyncio.gather(*asking, return_exceptions=True) if problem]
        assert len(refused) == 4 and all(isinstance(problem, QuotaReached) for problem in refused)
        await front_ends[0].question("v", "c")
        with pytest.raises(QuotaReached, match=r"try again in \d+ seconds"):
            await front_ends[1].question("u", "c")
        rows = await one._read("SELECT used FROM usage WHERE key = 'channel questions c'")
        assert len(json.loads(rows[0]["used"])) == 7  # what was refused costs nothing
        await one._execute("UPDATE usage SET until = 1")
        await one.drop_old_usage()
        assert await other._read("SELECT 1 FROM usage") == []


async def test_zero_switches_a_cap_off(clock):
    limited = quotas(clock, user_questions_per_minute=0)
    for _ in range(50):
        await limited.question("u", "c")
