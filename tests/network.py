"""A network that can be cut: a TCP proxy on this machine, between a client and a server."""

from __future__ import annotations

import asyncio
import socket
import struct
from asyncio import StreamReader, StreamWriter
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum

AT_ONCE = 1 << 16  # bytes
KEEPALIVE = 30.0  # seconds until a server's TCP finds that a client is lost


class Cut(StrEnum):
    RESET = "reset"  # connections are reset, new ones, too
    STALLED = "stalled"  # nothing gets through and nobody is told; when it is over, it arrives
    LOST = "lost"  # as stalled, and what was open then stays silent for good; the server is told late, its client never


@dataclass(eq=False)
class Link:
    """One connection of a client, and its connection to the server."""

    writers: list[StreamWriter] = field(default_factory=list)
    pumping: asyncio.Task[None] = field(init=False)

    def reset(self) -> None:
        for writer in self.writers:
            with suppress(OSError):  # closed before
                now = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
            writer.transport.abort()


class Network:
    """`async with Network(server) as network`: what is sent to network.port arrives there."""

    def __init__(self, server: str | tuple[str, int]) -> None:
        """server: the path of its socket, or host and port."""
        self._server = server
        self._links: set[Link] = set()
        self._silent: list[Link] = []  # lost ones
        self._flows = asyncio.Event()
        self._flows.set()
        self._refuses = False

    async def __aenter__(self) -> Network:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=AT_ONCE)
        self.port: int = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        links = [*self._links, *self._silent]
        for link in links:
            link.pumping.cancel()
            link.reset()
        await asyncio.gather(*(link.pumping for link in links), return_exceptions=True)

    async def cut(self, how: Cut, seconds: float) -> None:
        self._refuses = how is Cut.RESET
        if self._refuses:
            for link in self._links:
                link.reset()
        else:
            self._flows.clear()
        await asyncio.sleep(seconds)
        if how is Cut.LOST:
            self._lose()
        self._refuses = False
        self._flows.set()

    def _lose(self) -> None:
        for link in self._links:
            link.pumping.cancel()
        asyncio.get_running_loop().call_later(KEEPALIVE, self._tell_server, [*self._links])
        self._silent += self._links
        self._links = set()

    def _tell_server(self, lost: list[Link]) -> None:
        for link in lost:
            Link(link.writers[1:]).reset()

    async def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        link = Link([writer])
        if self._refuses:
            link.reset()
            return
        self._links.add(link)
        link.pumping = asyncio.create_task(self._pump(link, reader))
        await asyncio.gather(link.pumping, return_exceptions=True)
        if link in self._links:
            self._links.discard(link)
            link.reset()

    async def _pump(self, link: Link, from_client: StreamReader) -> None:
        await self._flows.wait()
        if isinstance(self._server, str):
            from_server, to_server = await asyncio.open_unix_connection(self._server, limit=AT_ONCE)
        else:
            from_server, to_server = await asyncio.open_connection(*self._server, limit=AT_ONCE)
        to_client = link.writers[0]
        link.writers.append(to_server)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._copy(from_client, to_server))
            group.create_task(self._copy(from_server, to_client))

    async def _copy(self, reader: StreamReader, writer: StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(AT_ONCE):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
            await self._flows.wait()
            writer.write_eof()
