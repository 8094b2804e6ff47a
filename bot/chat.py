"""The contract between a chat platform and the bot: what comes in, what goes out, and nothing of any SDK.

A platform turns an event into a `Request` and offers a `Reply`; `bot.commands` does the rest. All text in a `Message`
is plain: the platform escapes it for its own markup (`bot.escape.escape_discord`, `escape_slack`) and cuts it to its
limits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class Undelivered(Exception):
    """The platform did not take a message (network, 5xx, rate limit); worth trying again."""


class Unreachable(Undelivered):
    """The channel is gone or closed to the bot; trying again is no use."""


class Unfinished(Exception):
    """This process stops before a request is handled; the next one begins it again."""


# In ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attachment:
    """A file that somebody handed in. The platform fetches it with its own client; nobody else follows its address."""

    name: str  # as given; make it harmless before showing it
    size: int  # bytes, as the platform says
    content_type: str
    read: Callable[[], Awaitable[bytes]]


@dataclass(frozen=True)
class Request:
    """One person asking for one thing in one channel."""

    channel: str  # "discord:GUILD:CHANNEL", "discord:dm:USER", "slack:TEAM:CHANNEL": a thread is its parent's channel
    user: str  # "discord:USER", "slack:TEAM:USER"
    user_name: str = ""
    thread: str = ""  # the platform's id of the thread, or of the bot's message, that it goes on with; "": of none
    text: str = ""  # what was written, without the mention of the bot
    arguments: Mapping[str, object] = field(default_factory=dict)  # by option name
    attachments: tuple[Attachment, ...] = ()
    is_manager: bool = False  # may manage the channel on the platform; true in a direct message
    is_dm: bool = False
    is_guest: bool = False  # from another workspace, or a restricted account
    is_unknown: bool = False  # the platform does not say at the moment who that is
    is_whispered: bool = False  # a button of a message that nobody else sees
    is_addressed: bool = True  # by mention, command or direct message; False: said in a conversation with the bot


# Out -----------------------------------------------------------------------------------------------------------------


class Tone(StrEnum):
    """How a message feels; a platform may show it as a colour."""

    PLAIN = "plain"
    WORKING = "working"
    GOOD = "good"
    UNSURE = "unsure"
    ABSENT = "absent"
    BAD = "bad"


class Style(StrEnum):
    """How a button looks."""

    PLAIN = "plain"
    PRIMARY = "primary"
    DANGER = "danger"


@dataclass(frozen=True)
class Button:
    """Data, so that it outlives a restart: `action` names a row of `bot.commands.ACTIONS`, `value` is all it needs."""

    label: str  # at most 75 characters
    action: str
    value: str = ""  # at most 75 characters
    style: Style = Style.PLAIN


@dataclass(frozen=True)
class Field:
    """A named piece of a message; neighbours stand side by side where the platform can."""

    name: str
    text: str
    note: str = ""  # small print under the text
    button: Button | None = None  # beside it


@dataclass(frozen=True)
class Message:
    """What the bot says, before a platform dresses it. Plain text everywhere.

    With a title and a text, with fields, or with the tone of an answer it is a card; else it is said without a frame.
    """

    title: str = ""
    text: str = ""
    fields: tuple[Field, ...] = ()
    footer: str = ""  # small print, one or several lines
    buttons: tuple[Button, ...] = ()
    tone: Tone = Tone.PLAIN
    picture: bytes = b""  # PNG
    picture_text: str = ""  # says what the picture shows to those who cannot see it
    asked: str = ""  # small print before all else: the question, where nothing else in the channel shows it
    notify: str = ""  # the `Request.user` whom the platform is to call beside the title


class Live(Protocol):
    """A posted message that can be edited later, also by the next process."""

    address: str  # durable; the platform can open it again after a restart

    async def edit(self, message: Message) -> None:
        """Show news; may drop it silently when the platform takes no more edits."""
        ...

    async def finish(self, message: Message) -> None:
        """Show the end: in place, or as a new message where somebody is to be called or the old one takes no more
        edits; the old one then goes. Raises: Undelivered."""
        ...


class Reply(Protocol):
    """The way back to the person who asked."""

    thread: str  # once something was said: the thread that it stands in, or that can begin with it; "": none
    shows_question: bool  # everybody who sees the answer sees what was asked
    takes_forms: bool = True  # buttons may open a form

    async def say(
        self, message: Message, *, private: bool = False, thread: str | None = None, replace: bool = False
    ) -> None:
        """Answer. `private`: only the asker sees it, where the platform can. `thread`: the name of the thread to open
        for it, where one can be opened; "": in the channel; None: as is usual on the platform. `replace`: instead of
        the message whose button was pressed.

        Raises: Undelivered.
        """
        ...

    async def react(self, emoji: str) -> None:
        """Answer a message with no more than an emoji. Never fails."""
        ...

    async def post(self, message: Message) -> Live:
        """A public message that will be edited. Raises: Undelivered."""
        ...

    def thinking(self) -> AbstractAsyncContextManager[None]:
        """Show that an answer is being made, while inside. Never fails."""
        ...

    async def name_of(self, user: str) -> str:
        """What to call a `Request.user`; "" when the platform does not know. Never fails."""
        ...
