"""Slack's requests over HTTP: only signed ones come in, and nobody can use up the process by opening connections."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from slack_sdk.signature import SignatureVerifier

from bot.platforms.recent import Recent
from core.errors import SetupError

log = logging.getLogger(__name__)

INSTALL = ("/slack/install", "/slack/oauth_redirect")
MAX_CONNECTIONS = 256  # at once; one more closes the oldest
CONNECTION_TIMEOUT = 30.0  # seconds of a connection; Slack waits for 3
BODY_TIMEOUT = 5.0  # seconds in which a request has to be there
MAX_CLOCK_DIFFERENCE = 300  # seconds that Slack's clock and ours may be apart
REMEMBERED_FOR = 600  # seconds; older requests are refused by their time stamp
LOG_EVERY = 60.0  # seconds between two lines of the log about the same kind of trouble


@asynccontextmanager
async def listening(app: web.Application, host: str, port: int, secret: str) -> AsyncIterator[None]:
    """Raises: SetupError, when the port can't be listened on."""
    app.middlewares.append(only_from_slack(secret))
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=CONNECTION_TIMEOUT)
    await runner.setup()
    try:
        assert runner.server is not None  # after setup
        bounded = Bounded(runner.server)
        try:
            server = await asyncio.get_running_loop().create_server(bounded, host, port)
        except OSError:
            raise SetupError(f"ENGRAM_SLACK_HTTP_PORT: {host}, port {port}, can't be listened on.") from None
        try:
            yield
        finally:
            server.close()
    finally:
        await runner.cleanup()


class Bounded:
    """Makes connections' protocols: few at once, each for a short time, whatever was sent on it."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._open: list[tuple[float, Any]] = []  # since when, the oldest first

    def __call__(self) -> asyncio.Protocol:
        loop = asyncio.get_running_loop()
        for since, protocol in [*self._open]:
            is_new = since > loop.time() - 1  # its transport is not there yet
            if not (protocol.transport or is_new):
                self._open.remove((since, protocol))
        if len(self._open) >= MAX_CONNECTIONS:
            _, oldest = self._open.pop(0)
            _end(oldest)
        protocol = self._make()
        self._open.append((loop.time(), protocol))
        loop.call_later(CONNECTION_TIMEOUT, _end, protocol)
        return protocol


def _end(protocol: Any) -> None:
    if protocol.transport:  # None when it was closed
        protocol.transport.abort()


def only_from_slack(secret: str) -> Any:
    """Middleware of the HTTP server: 401 for what is not signed, too old, or a copy of what was there already."""
    verifier, seen, logged = SignatureVerifier(secret), Recent(REMEMBERED_FOR), Recent(LOG_EVERY)

    def refuse(status: int, reason: str) -> web.Response:
        if logged.first(reason):
            log.warning("requests to Slack's address are refused: %s", reason)
        return web.Response(status=status, text="invalid request", headers={"Connection": "close"})

    @web.middleware
    async def check(request: web.Request, handler: Any) -> web.StreamResponse:
        if request.method == "GET" and request.path in INSTALL:  # people's browsers; OAuth has a check of its own
            return await handler(request)
        if request.headers.get("Content-Encoding"):
            return refuse(415, "they are packed, as Slack's are not")
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                body = await request.read()
        except TimeoutError:
            return refuse(408, "their text does not come")
        timestamp = request.headers.get("X-Slack-Request-Timestamp", "")
        signature = request.headers.get("X-Slack-Signature", "")
        try:
            late = abs(time.time() - int(timestamp)) > MAX_CLOCK_DIFFERENCE
            genuine = verifier.is_valid(body, timestamp, signature)
        except (ValueError, TypeError, OverflowError):  # no number, one of 400 digits, no UTF-8, no ASCII
            late = genuine = False
        if late:
            off = f"more than {MAX_CLOCK_DIFFERENCE} seconds off"
            return refuse(401, f"their time is {off}; compare this machine's clock")
        if not genuine:
            return refuse(401, "they are not signed with ENGRAM_SLACK_SIGNING_SECRET; compare it with the app's")
        if not seen.first(signature):
            return web.Response(status=401, text="invalid request")
        return await handler(request)

    return check
