"""The doctor asks the platforms; here they are the small ones on loopback."""

# ruff: noqa: F401, F811  # fixtures are imported by name
from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from bot.doctor import examine
from bot.platforms import discord as discord_platform
from bot.settings import Settings
from tests.bot.fake_discord import FakeDiscord
from tests.bot.slack_fake import SECRET, FakeSlack
from tests.bot.test_discord_wire import TOKEN, discord
from tests.bot.test_slack import settings, slack


async def states(chosen: Settings, platform: str) -> dict[str, tuple[str, str]]:
    """Name -> (state, detail and what to do), of the checks of one platform."""
    found = [check for check in await examine(chosen) if check["name"].startswith(platform)]
    return {check["name"]: (check["state"], f"{check['detail']} {check['fix']}") for check in found}


async def test_slack_that_is_right_is_all_ok(slack: FakeSlack) -> None:
    found = await states(settings(slack), "Slack")
    assert set(found) == {"Slack bot token", "Slack scopes", "Slack app token"}
    assert {state for state, _ in found.values()} == {"ok"}
    assert "engram, in the workspace harbour" in found["Slack bot token"][1]


async def test_a_bot_token_alone_is_not_enough_for_slack(slack: FakeSlack) -> None:
    state, words = (await states(settings(slack, slack_app_token=None), "Slack"))["Slack"]
    assert state == "error" and "ENGRAM_SLACK_APP_TOKEN" in words and not slack.calls


async def test_a_missing_scope_is_named(slack: FakeSlack) -> None:
    slack.scopes = slack.scopes.replace(",files:read", "")
    state, words = (await states(settings(slack), "Slack"))["Slack scopes"]
    assert state == "error" and "files:read" in words and "install it again" in words


async def test_a_clock_that_is_off_is_said(slack: FakeSlack) -> None:
    slack.ahead = 400.0
    state, words = (await states(settings(slack), "Slack"))["Slack clock"]
    assert state == "error" and "seconds off Slack's" in words


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"slack_bot_token": "xoxb-wrong"}, "does not accept ENGRAM_SLACK_BOT_TOKEN"),
        ({"slack_app_token": "xapp-wrong"}, "does not accept ENGRAM_SLACK_APP_TOKEN"),
    ],
)
async def test_a_wrong_token_is_named(slack: FakeSlack, given: dict[str, Any], words: str) -> None:
    state, said = (await states(settings(slack, **given), "Slack"))["Slack"]
    assert state == "error" and words in said


async def test_over_http_no_app_token_is_needed(slack: FakeSlack) -> None:
    chosen = settings(slack, slack_app_token=None, slack_http_port=9, slack_signing_secret=SECRET)
    assert (await states(chosen, "Slack"))["Slack requests"][0] == "ok"


async def test_a_platform_that_cannot_be_reached_is_a_warning() -> None:
    chosen = Settings(
        _env_file=None, slack_bot_token="xoxb", slack_app_token="xapp", slack_base_url="http://127.0.0.1:9"
    )
    assert (await states(chosen, "Slack"))["Slack"][0] == "warning"


async def test_discord_says_who_the_bot_is_and_which_commands_are_missing(discord: FakeDiscord) -> None:
    chosen = Settings(_env_file=None, discord_token=TOKEN)
    found = await states(chosen, "Discord")
    assert found["Discord token"][0] == "ok" and found["Discord intent"][0] == "ok"
    assert found["Discord commands"][0] == "warning" and "bot sync" in found["Discord commands"][1]
    await discord_platform.sync(chosen)
    assert (await states(chosen, "Discord"))["Discord commands"][0] == "ok"


async def test_an_intent_that_is_wanted_and_not_granted_is_an_error(discord: FakeDiscord) -> None:
    chosen = Settings(_env_file=None, discord_token=TOKEN, discord_message_content=True)
    state, words = (await states(chosen, "Discord"))["Discord intent"]
    assert state == "error" and "developer portal" in words
    discord.flags = 1 << 19
    assert (await states(chosen, "Discord"))["Discord intent"][0] == "ok"


async def test_a_bot_without_a_server_gets_its_invitation(discord: FakeDiscord) -> None:
    discord.servers = 0
    _, words = (await states(Settings(_env_file=None, discord_token=TOKEN), "Discord"))["Discord servers"]
    assert "https://discord.com/oauth2/authorize?client_id=100" in words


async def test_a_wrong_discord_token_is_named(discord: FakeDiscord) -> None:
    discord.fault("GET", "users/@me", 401, times=99)
    state, words = (await states(Settings(_env_file=None, discord_token="wrong"), "Discord"))["Discord"]
    assert state == "error" and "ENGRAM_DISCORD_TOKEN" in words


async def test_discord_is_asked_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        await states(Settings(_env_file=None, discord_token=TOKEN), "Discord")
    assert asked and set(asked) == {b"CONNECT discord.com:443 HTTP/1.1\r\n"}


async def test_a_full_disk_and_a_missing_model_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("bot.doctor.ROOM", 2**62)
    chosen = Settings(_env_file=None, model=str(tmp_path / "nowhere"), data_dir=tmp_path)
    found = {check["name"]: check for check in await examine(chosen)}
    assert found["Disk"]["state"] == "warning" and found["Model"]["state"] == "error"
    assert found["Device"]["state"] == "ok"
