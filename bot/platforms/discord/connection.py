"""The client of discord.py as replies and payloads need it; `client.Client` handles its events."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Any

import discord
import yarl
from aiolimiter import AsyncLimiter

log = logging.getLogger(__name__)

FILE_HOSTS = frozenset({yarl.URL("https://cdn.discordapp.com"), yarl.URL("https://media.discordapp.net")})
EDITS_PER_SECOND = 4  # progress edits of all channels together


class Connection(discord.AutoShardedClient):
    """Without the message content intent it sees mentions, direct messages and commands.

    Args:
        file_hosts: where Discord keeps files; they are fetched from nowhere else.
    """

    def __init__(
        self, *, message_content: bool = False, file_hosts: Collection[yarl.URL] = FILE_HOSTS, **options: Any
    ) -> None:
        intents = discord.Intents(guilds=True, guild_messages=True, dm_messages=True, message_content=message_content)
        super().__init__(
            intents=intents,
            allowed_mentions=discord.AllowedMentions.none(),
            max_messages=None,
            max_ratelimit_timeout=30.0,  # seconds; longer waits raise RateLimited
            **options,
        )
        self.file_hosts = file_hosts
        self.edits = AsyncLimiter(EDITS_PER_SECOND, 1)
        _guard_parsers(self)

    def receives_guild(self, guild: int) -> bool:
        """Whether Discord tells this connection of a server, 0: of direct messages; an app may have several."""
        return not (self.shard_ids and self.shard_count) or (guild >> 22) % self.shard_count in self.shard_ids

    @property
    def own_id(self) -> int:
        assert self.user is not None  # logged in before any event comes
        return self.user.id


def _guard_parsers(client: discord.Client) -> None:
    """discord.py lets the connection die of one malformed event; here it is logged and skipped."""

    def guarded(name: str, parse: Callable[[Any], None]) -> Callable[[Any], None]:
        def parse_or_skip(data: Any) -> None:
            try:
                parse(data)
            except Exception:
                log.exception("a malformed %s event was skipped", name)

        return parse_or_skip

    parsers = client._connection.parsers
    parsers.update({name: guarded(name, parse) for name, parse in parsers.items()})
