from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from bot import platforms
from bot.app import App, open_app
from bot.settings import Settings, load_settings
from core.errors import ModelNotFound, SetupError
from tests.fakes import FakeEngine


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Two platforms, one of them without its token; lists what happened."""
    seen: list[str] = []

    async def serve(app: App, settings: Settings) -> None:
        seen.append("began")
        try:
            if settings.discord_token.get_secret_value() == "wrong":
                raise SetupError("The token is wrong.")
            await asyncio.Event().wait()
        finally:
            seen.append("ended")

    module = ModuleType("fake_platform")
    module.serve = serve
    monkeypatch.setitem(sys.modules, "fake_platform", module)
    rows = {"one": ("fake_platform", lambda _: ("discord_token",)), "two": ("nowhere", lambda _: ("slack_bot_token",))}
    monkeypatch.setattr(platforms, "PLATFORMS", rows)
    monkeypatch.setattr("bot.app.load_engine", lambda settings: FakeEngine())
    return seen


def settings(tmp_path: Path, token: str) -> Settings:
    return load_settings(data_dir=tmp_path / "data", discord_token=token)


async def test_configured_platforms_are_served_until_cancelled(served: list[str], tmp_path: Path) -> None:
    chosen = settings(tmp_path, "right")
    async with open_app(chosen) as app:
        serving = asyncio.create_task(platforms.serve_all(app, chosen))
        await asyncio.sleep(0.05)
        assert served == ["began"]
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
    assert served == ["began", "ended"]


async def test_a_platform_that_fails_for_good_ends_all_with_its_sentence(served: list[str], tmp_path: Path) -> None:
    chosen = settings(tmp_path, "wrong")
    async with open_app(chosen) as app:
        with pytest.raises(SetupError, match="token is wrong"):
            await platforms.serve_all(app, chosen)


async def test_without_an_engine_nothing_is_served(
    served: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(settings: Settings) -> FakeEngine:
        raise ModelNotFound

    monkeypatch.setattr("bot.app.load_engine", missing)
    chosen = settings(tmp_path, "right")
    async with open_app(chosen) as app:
        with pytest.raises(ModelNotFound):
            await platforms.serve_all(app, chosen)
    assert served == ["began", "ended"]


async def test_a_platform_that_is_configured_by_half_is_an_error_at_once(tmp_path: Path) -> None:
    chosen = load_settings(data_dir=tmp_path / "data", slack_bot_token="xoxb")
    with pytest.raises(SetupError, match="Slack is configured by half: set ENGRAM_SLACK_APP_TOKEN"):
        await platforms.serve_all(None, chosen)


def test_what_is_missing_is_named(served: list[str], tmp_path: Path) -> None:
    assert platforms.wanted(settings(tmp_path, "right")) == ["one"]
    assert "ENGRAM_SLACK_BOT_TOKEN" in platforms.how_to_configure(settings(tmp_path, "right"))


@pytest.mark.parametrize(
    ("given", "lacks"),
    [
        ({"slack_bot_token": "xoxb"}, ["ENGRAM_SLACK_APP_TOKEN"]),
        ({"slack_bot_token": "xoxb", "slack_app_token": "xapp"}, []),
        ({"slack_bot_token": "xoxb", "slack_app_token": "xapp", "slack_http_port": 9}, ["ENGRAM_SLACK_SIGNING_SECRET"]),
        ({"slack_client_id": "1", "slack_http_port": 9, "slack_signing_secret": "s"}, ["ENGRAM_SLACK_CLIENT_SECRET"]),
    ],
)
def test_slack_needs_what_its_way_to_connect_needs(given: dict[str, object], lacks: list[str]) -> None:
    chosen = load_settings(**given)
    assert platforms.missing("slack", chosen) == lacks and "slack" in platforms.wanted(chosen)
