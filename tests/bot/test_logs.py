"""What the operator reads, and what must never be there."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from structlog.contextvars import bound_contextvars

from bot.logs import configure_logging

SECRET = "xoxb-very-secret"


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back afterwards."""
    logger = logging.getLogger()
    before = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:], level = before
    logger.setLevel(level)


def fail(token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    raise OSError(f"no answer after {len(headers)} tries")


@pytest.mark.parametrize("format", ["console", "json"])
def test_a_traceback_shows_no_values_of_variables(root, capsys, format):
    configure_logging("info", format)
    try:
        fail(SECRET)
    except OSError:
        logging.getLogger("bot").exception("it broke")
    said = capsys.readouterr().err
    assert "it broke" in said and "no answer after 1 tries" in said and "fail" in said  # the function's name
    assert SECRET not in said


def test_machines_read_server_channel_and_job(root, capsys):
    configure_logging("info", "json")
    with bound_contextvars(guild="discord:300", channel="discord:300:400", job="j1"):
        logging.getLogger("bot").info("learning")
    line = json.loads(capsys.readouterr().err)
    assert (line["guild"], line["channel"], line["job"]) == ("discord:300", "discord:300:400", "j1")
    assert line["event"] == "learning" and line["level"] == "info"


def test_a_network_that_is_not_there_is_one_line_a_minute(root, capsys):
    configure_logging("info", "console")
    for problem in [aiohttp.ClientConnectionError("no"), ConnectionRefusedError("no"), TimeoutError()] * 20:
        try:
            try:
                raise problem
            except Exception as cause:
                raise RuntimeError("the client broke") from cause
        except RuntimeError:
            logging.getLogger("slack_bolt").exception("trying again")
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "trying again: no network" in said and "Traceback" not in said


def test_a_disk_that_fails_is_told_in_full(root, capsys):
    configure_logging("info", "console")
    for _ in range(2):
        try:
            Path("/nowhere/at/all").read_text()
        except OSError:
            logging.getLogger("bot").exception("it broke")
    assert capsys.readouterr().err.count("Traceback") == 2
