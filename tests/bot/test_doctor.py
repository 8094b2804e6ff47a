"""The doctor asks the platforms; here they are the small ones on loopback."""

# ruff: noqa: F401, F811  # fixtures are imported by name
from __future__ import annotations

import asyncio
import resource
import sqlite3
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from bot.doctor import dependencies, examine, model, platform, recognition
from bot.platforms import PLATFORMS
from bot.platforms.discord import app as discord_platform
from bot.settings import Settings, load_settings
from core.convert import fetch_command
from storage.channel_files import path_in
from storage.folder import DataFolder
from storage.index import Index
from storage.weights import Weights
from tests.bot.fake_discord import FakeDiscord
from tests.bot.slack_fake import SECRET, FakeSlack
from tests.bot.test_discord_wire import TOKEN, discord
from tests.bot.test_slack import settings, slack
from tests.conftest import Environment
from tests.storage.samples import learn, make_document, make_job, make_learned


async def states(chosen: Settings, name: str) -> dict[str, tuple[str, str]]:
    """Name -> (state, detail and what to do), of the checks of one platform, or of one name."""
    is_platform = name.lower() in PLATFORMS
    checks = await (platform(name.lower(), chosen) if is_platform else examine(chosen))
    about = [check for check in checks if check["name"].startswith(name)]
    return {check["name"]: (check["state"], f"{check['detail']} {check['fix']}") for check in about}


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


@pytest.mark.parametrize(("servers", "expected"), [(0, "warning"), (3, "ok")])
async def test_the_invitation_is_always_shown(discord: FakeDiscord, servers: int, expected: str) -> None:
    discord.servers = servers
    state, words = (await states(Settings(_env_file=None, discord_token=TOKEN), "Discord"))["Discord invitation"]
    assert state == expected and "https://discord.com/oauth2/authorize?client_id=100" in words


async def test_a_platform_that_is_not_wanted_is_no_warning_and_none_at_all_is_one(slack: FakeSlack) -> None:
    state, words = (await states(settings(slack), "Discord"))["Discord"]
    assert state == "ok" and "to use it, set ENGRAM_DISCORD_TOKEN" in words
    assert await states(settings(slack), "Platforms") == {}
    nothing = Settings(_env_file=None)
    assert (await states(nothing, "Platforms"))["Platforms"][0] == "warning"
    assert {state for name in ("Discord", "Slack") for state, _ in (await states(nothing, name)).values()} == {"ok"}


async def test_a_wrong_discord_token_is_named(discord: FakeDiscord) -> None:
    discord.fault("GET", "users/@me", 401, times=99)
    state, words = (await states(Settings(_env_file=None, discord_token="wrong"), "Discord"))["Discord"]
    assert state == "error" and "ENGRAM_DISCORD_TOKEN" in words


async def checked(folder: Path) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in await examine(Settings(_env_file=None, data_dir=folder))}


async def test_a_damaged_search_table_is_rebuilt_and_finds_again(tmp_path: Path) -> None:
    with DataFolder(tmp_path) as folder:
        async with Index(folder.index) as index:
            weights = Weights(folder.weights).save("d1", "here", make_learned(1.0), base="b", learner="lora")
            await learn(index, "d1", ["The harbour opened."], weights=weights)
    assert (await checked(tmp_path))["Stored data"]["state"] == "ok"
    with closing(sqlite3.connect(path_in(tmp_path / "channels", "here"))) as file:
        file.executescript("DELETE FROM chunk_words_data WHERE id > 10; DELETE FROM chunk_words_docsize")
    found = (await checked(tmp_path))["Stored data"]
    assert found["state"] == "warning" and "rebuilt" in found["detail"]
    async with Index(folder.index) as index:
        assert [hit.chunk for hit in await index.candidates("here", "harbour")] == [0]
    assert (await checked(tmp_path))["Stored data"]["state"] == "ok"


@pytest.mark.parametrize("name", ["engram.db", "channels", "weights/d1.safetensors"])
async def test_what_is_damaged_for_good_is_named_and_a_restore_advised(tmp_path: Path, name: str) -> None:
    with DataFolder(tmp_path) as folder:
        async with Index(folder.index) as index:
            weights = Weights(folder.weights).save("d1", "here", make_learned(1.0), base="b", learner="lora")
            await learn(index, "d1", ["The harbour opened."] * 50, weights=weights)
    path = path_in(tmp_path / "channels", "here") if name == "channels" else tmp_path / name
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) * 2 // 3] = b"x" * (len(data) * 2 // 3 - len(data) // 3)
    path.write_bytes(data)
    found = (await checked(tmp_path))["Stored data"]
    assert found["state"] == "error" and "restore FILE" in found["fix"]
    assert {"engram.db": "index", "channels": path.name}.get(name, "document d1") in found["detail"]


def test_packages_are_compared_with_the_ranges() -> None:
    def state(*lines: str) -> tuple[str, str]:
        found = dependencies([Requirement(line) for line in lines])
        return found["state"], found["detail"]

    assert state("pydantic>=2,<3", "rich>1")[0] == "ok"
    assert state("pydantic>=2,<3", "rich<1") == ("warning", f"not the tested releases: rich {version('rich')}")
    assert state("rich>1", "no-such-package>=1") == ("error", "missing: no-such-package")


async def test_variables_and_the_kernel_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, environment: Environment, tmp_path: Path
) -> None:
    environment["ENGRAM_MAX_PAGE"] = "7"
    monkeypatch.setattr("core.sandbox.landlock_version", lambda: 0)
    found = await checked(tmp_path)
    assert found["Settings"]["state"] == "warning" and "ENGRAM_MAX_PAGES" in found["Settings"]["detail"]
    assert found["PDF reader"]["state"] == "warning" and "Landlock" in found["PDF reader"]["detail"]


async def test_a_file_that_cannot_be_written_and_a_full_quota_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "engram.lock").write_bytes(b"")
    monkeypatch.setattr("bot.doctor.os.access", lambda path, mode: Path(path).name != "engram.lock")
    found = (await checked(tmp_path))["Data folder"]
    assert found["state"] == "error" and "engram.lock" in found["detail"] and "chown -R" in found["fix"]
    monkeypatch.undo()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        found = (await checked(tmp_path))["Data folder"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found["state"] == "error" and "too large" in found["detail"]


def test_text_recognition_is_looked_for_with_its_languages(environment: Environment, tmp_path: Path) -> None:
    def said(**chosen: Any) -> tuple[str, str]:
        found = recognition(Settings(data_dir=tmp_path, **chosen))
        return found["state"], f"{found['detail']} {found['fix']}"

    environment["PATH"] = str(tmp_path)
    state, words = said()
    assert state == "warning" and "`apt install tesseract-ocr`" in words and "`--build-arg OCR=eng`" in words
    program = tmp_path / "tesseract"
    program.write_text("#!/bin/sh\nprintf 'List of available languages (2):\\neng\\nosd\\n'\n")
    program.chmod(0o755)
    assert said()[0] == "ok"
    state, words = said(ocr_languages="eng+chi_sim")
    assert state == "error" and "`apt install tesseract-ocr-chi-sim`" in words
    assert said(ocr_pages=0) == ("ok", "switched off: scans and pictures are refused ")


async def test_discord_is_asked_through_the_proxy(environment: Environment) -> None:
    asked: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as proxy:
        environment["HTTPS_PROXY"] = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        await states(Settings(_env_file=None, discord_token=TOKEN), "Discord")
    assert asked and set(asked) == {b"CONNECT discord.com:443 HTTP/1.1\r\n"}


async def test_a_full_disk_and_a_missing_model_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("bot.doctor.MIN_FREE_BYTES", 2**62)
    chosen = Settings(_env_file=None, model=str(tmp_path / "nowhere"), data_dir=tmp_path)
    found = {check["name"]: check for check in await examine(chosen)}
    assert found["Disk"]["state"] == "warning" and found["Model"]["state"] == "error"
    assert found["Device"]["state"] == "ok"


async def test_a_default_model_is_there_or_to_be_converted_or_to_be_fetched(monkeypatch, tmp_path: Path) -> None:
    name = "embedded"
    assert model(name, load_settings().cache_dir)["state"] == "ok"
    assert model(name, tmp_path)["state"] == "warning" and fetch_command() in model(name, tmp_path)["fix"]
    monkeypatch.setattr("core.convert.PACKAGE", "a_package_that_nobody_has")
    assert model(name, tmp_path)["state"] == "error" and fetch_command() in model(name, tmp_path)["fix"]
