"""Connections to PostgreSQL over a network that may be cut without a word.

Whoever waits for a server that says nothing is told after a while that the connection is lost; and the server ends the
transaction of a client that says nothing, so that its locks are free.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from contextlib import suppress
from typing import Any

from psycopg import AsyncConnection, OperationalError
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

CONNECT_TIMEOUT = 10  # seconds for a new connection
REPLY_TIMEOUT = 45.0  # seconds that a statement may take, also behind the lock of a client that is lost
CHECK_TIMEOUT = 3.0  # seconds for a sign of life, before a connection is used
POOL_TIMEOUT = 30.0  # seconds for a connection, also while the server restarts
# What is given up here is given up there before: else it would wait on for a lock, and hold up others
SESSION = b"""
SET statement_timeout = '40s';
SET idle_in_transaction_session_timeout = '30s';
SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
SET tcp_user_timeout = '30s';
"""


class Connection(AsyncConnection[DictRow]):
    """Rows know their columns by name. A server that does not answer in time is as one that has closed."""

    reply_timeout = REPLY_TIMEOUT  # seconds

    @classmethod
    async def connect(cls, conninfo: str = "", **options: Any) -> Connection:
        defaults: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT, "row_factory": dict_row}
        return await super().connect(conninfo, **(defaults | options))

    async def wait(self, *arguments: Any, **options: Any) -> Any:
        """Of psycopg, for each reply."""
        self._set_clock()
        try:
            return await super().wait(*arguments, **options)
        finally:
            self._clock.cancel()

    def _set_clock(self) -> None:
        self._clock = asyncio.get_running_loop().call_later(self.reply_timeout, self._hang_up)

    async def check(self, timeout: float = CHECK_TIMEOUT) -> None:
        """Whether it is still there. Raises: psycopg.OperationalError."""
        self.reply_timeout = timeout
        try:
            await self.execute("SELECT 1")
        finally:
            self.reply_timeout = REPLY_TIMEOUT

    def _hang_up(self) -> None:
        """libpq, which waits for the socket, sees its end. To cancel the statement would be to ask the server."""
        if self._has_reply():  # the event loop was late, not the server
            self._set_clock()
            return
        with suppress(OSError), socket.socket(fileno=os.dup(self.fileno())) as own:
            own.shutdown(socket.SHUT_RDWR)

    def _has_reply(self) -> bool:
        waiting = select.poll()
        waiting.register(self.fileno(), select.POLLIN)
        return bool(waiting.poll(0))


def pool(url: str, size: int) -> AsyncConnectionPool[Connection]:
    """Not open yet. A statement outside of a transaction commits by itself."""

    async def check(connection: Connection) -> None:
        try:
            await connection.check()
        except OperationalError:
            await connections.drain()  # those that wait were lost with it
            raise

    connections = AsyncConnectionPool(
        url,
        connection_class=Connection,
        configure=_configure,
        min_size=1,
        max_size=size,
        timeout=POOL_TIMEOUT,
        check=check,
        open=False,
    )
    return connections


async def _configure(connection: Connection) -> None:
    await connection.set_autocommit(True)
    await connection.execute(SESSION)
