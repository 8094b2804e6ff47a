from __future__ import annotations

import pytest

from bot.quotas import MANY_KEYS, QuotaConfig, Quotas, Window
from core.errors import QuotaReached


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def quotas(clock: Clock, **caps: int) -> Quotas:
    return Quotas(QuotaConfig(**caps), clock)


def test_a_refusal_says_when_to_try_again_and_then_it_works(clock):
    limited = quotas(clock, user_questions_per_minute=2)
    limited.question("u", "c")
    clock.now = 20.0
    limited.question("u", "c")
    with pytest.raises(QuotaReached, match="2 questions a minute; try again in 40 seconds") as refusal:
        limited.question("u", "c")
    clock.now += refusal.value.retry_after
    limited.question("u", "c")


@pytest.mark.parametrize("cap", [name for name in vars(QuotaConfig()) if name != "channel_documents"])
def test_every_refusal_says_when_to_try_again_and_then_it_works(clock, cap):
    limited = quotas(clock, **{cap: 1})

    def use() -> None:
        limited.command("u")
        limited.question("u", "c")
        limited.upload("u", "c", 0)
        limited.pages("u", "c", 1)

    use()
    with pytest.raises(QuotaReached, match=r"try again in \d+ (second|minute|hour)") as refusal:
        use()
    clock.now += refusal.value.retry_after
    use()


def test_one_user_does_not_use_up_anothers(clock):
    limited = quotas(clock, user_questions_per_minute=1)
    limited.question("u", "c")
    limited.question("v", "c")


def test_a_channel_has_a_cap_of_its_own(clock):
    limited = quotas(clock, channel_uploads_per_hour=2)
    limited.upload("u", "c", 0)
    limited.upload("v", "c", 0)
    with pytest.raises(QuotaReached, match="A channel"):
        limited.upload("w", "c", 0)
    limited.upload("w", "d", 0)


def test_a_refused_request_costs_nothing(clock):
    limited = quotas(clock, user_uploads_per_hour=1, channel_uploads_per_hour=2)
    limited.upload("u", "c", 0)
    with pytest.raises(QuotaReached):
        limited.upload("u", "c", 0)
    limited.upload("v", "c", 0)


def test_pages_are_felt_by_the_next_upload(clock):
    limited = quotas(clock, user_pages_per_day=100)
    limited.upload("u", "c", 0)
    limited.pages("u", "c", 120)
    with pytest.raises(QuotaReached, match="100 pages a day; try again in 24 hours"):
        limited.upload("u", "c", 1)


def test_a_full_channel_must_forget_first(clock):
    with pytest.raises(QuotaReached, match="/forget") as refusal:
        quotas(clock, channel_documents=3).upload("u", "c", 3)
    assert refusal.value.retry_after is None


def test_nothing_is_remembered_of_the_quiet(clock):
    window = Window(1, 60.0, "", clock)
    for user in range(MANY_KEYS):
        window.take(f"u{user}")
    clock.now = 61.0
    window.take("late")
    assert list(window._taken) == ["late"]


def test_zero_switches_a_cap_off(clock):
    limited = quotas(clock, user_questions_per_minute=0)
    for _ in range(50):
        limited.question("u", "c")
