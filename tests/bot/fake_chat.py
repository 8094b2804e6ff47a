"""A chat platform in memory: what was said to whom, and troubles on demand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from bot.chat import Attachment, Message, Request, Undelivered


@dataclass
class FakeLive:
    """One message that is edited."""

    address: str
    shown: list[Message] = field(default_factory=list)
    ended: list[Message] = field(default_factory=list)
    troubles: list[Exception] = field(default_factory=list)  # of the next tries to finish

    async def edit(self, message: Message) -> None:
        self.shown.append(message)

    async def finish(self, message: Message) -> None:
        if self.troubles:
            raise self.troubles.pop(0)
        self.ended.append(message)


@dataclass
class FakeReply:
    said: list[Message] = field(default_factory=list)
    private: list[Message] = field(default_factory=list)  # those of `said` that only the asker sees
    replaced: list[Message] = field(default_factory=list)
    threads: list[str] = field(default_factory=list)
    thread: str = ""  # that the answers stand in
    reactions: list[str] = field(default_factory=list)
    shows_question: bool = True
    takes_forms: bool = False
    lives: list[FakeLive] = field(default_factory=list)
    troubles: list[Exception] = field(default_factory=list)  # of the next tries to say something

    async def say(
        self, message: Message, *, private: bool = False, thread: str | None = None, replace: bool = False
    ) -> None:
        if self.troubles:
            raise self.troubles.pop(0)
        self.said.append(message)
        if private:
            self.private.append(message)
        if replace:
            self.replaced.append(message)
        if thread:
            self.threads.append(thread)

    async def post(self, message: Message) -> FakeLive:
        self.lives.append(FakeLive(f"fake:{len(self.lives)}", [message]))
        return self.lives[-1]

    async def react(self, emoji: str) -> None:
        self.reactions.append(emoji)

    @asynccontextmanager
    async def thinking(self) -> AsyncIterator[None]:
        yield

    async def name_of(self, user: str) -> str:
        return user.rpartition(":")[2].title()

    @property
    def text(self) -> str:
        """All that was said, as one text."""
        return "\n".join(str(message) for message in self.said)


def request(text: str = "", *files: Attachment, **changes: object) -> Request:
    given = {"channel": "fake:1", "user": "fake:ada", "user_name": "Ada", "text": text, "attachments": files}
    return Request(**{**given, **changes})


def attachment(data: bytes, name: str = "handbook.pdf", content_type: str = "application/pdf") -> Attachment:
    async def read() -> bytes:
        return data

    return Attachment(name, len(data), content_type, read)


def undelivered(times: int) -> list[Exception]:
    return [Undelivered() for _ in range(times)]
