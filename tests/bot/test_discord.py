"""Every flow on Discord, on simcord: discord.py is real, Discord is another project's model of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

import discord
import pytest
import simcord
import yarl
from simcord.builders import ChannelHandle
from simcord.components import COMPONENTS_V2_FLAG, validate_components

from bot.chat import Button, Field, Message, Tone
from bot.commands import Bot
from bot.platforms.common import STALE_AFTER
from bot.platforms.discord.client import Client
from bot.platforms.discord.components import COLOURS, to_arguments
from bot.platforms.discord.replies import Posted
from core.document.formats import read_document
from core.service import Service
from core.types import Completion, Job, Progress
from tests.conftest import SMALL, Open
from tests.fakes import HeldEngine, make_pdf, plain_pdf, read_plain
from tests.timeouts import WAIT

TEXT = "The ferry to Marrow Island leaves at seven. The warden is Ada Quill. The lamp burns whale oil. " * 3
HANDBOOK = ("handbook.pdf", plain_pdf(TEXT))
BAKERY = ("bakery.pdf", plain_pdf("The bakery opens at six. The baker is Tom Reed. Bread costs two crowns. " * 3))
HARBOUR = ("harbour.pdf", plain_pdf("The harbour opens at five. The master is Orla Quint. A berth is free. " * 3))
REAL_HANDBOOK = (
    "handbook.pdf",
    make_pdf(*["The ferry to Marrow Island leaves at seven.\nThe warden is Ada Quill."] * 3),
)
REAL_BAKERY = ("bakery.pdf", make_pdf(*["The bakery opens at six.\nThe baker is Tom Reed."] * 2))
WARDEN = "Who is the warden?"
ABOUT = {"bakery.pdf": "Who is the baker of the bakery?", "harbour.pdf": "Who is the master of the harbour?"}
FOLLOW_UP = "And when does it open?"  # both do
FILE_HOST = yarl.URL("https://cdn.simcord.invalid")
MODERATES = discord.Permissions(manage_channels=True, manage_messages=True)


class DeclaredBot(Bot):
    """simcord wants to know what waits for something outside of Discord: following a job waits for the runner."""

    env: simcord.Env

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return super().spawn(self.env.external_wait(work, reason="the runner"))

    async def end_of(self, job: Job) -> Progress | None:
        return await self.env.external_wait(super().end_of(job), reason="the runner")


class World:
    """A server with a channel, two members, a moderator, and our bot."""

    def __init__(self, env: simcord.Env, service: Service, engine: HeldEngine) -> None:
        self.env, self.service, self.engine = env, service, engine
        self.guild = env.create_guild("harbour")
        self.channel = self.guild.create_text_channel("general")
        self.ada = self.guild.add_member(env.create_user("ada"))
        self.bob = self.guild.add_member(env.create_user("bob"))
        moderator = self.guild.create_role("moderator", permissions=MODERATES)
        self.mod = self.guild.add_member(env.create_user("mod"), roles=[moderator])

    @property
    def key(self) -> str:
        return f"discord:{self.guild.id}:{self.channel.id}"

    @property
    def me(self) -> str:
        return f"<@{self.env.bot.user.id}>"

    async def restart(self) -> None:
        """A new process: new client, new bot, same Discord, same storage."""
        await self.env.bot.bot.__aexit__()
        client = make_client(self.service)
        client.bot.env = self.env
        await self.env.restart_bot(client)

    async def told(self) -> None:
        """Until all jobs have ended and their channels know it."""
        async with asyncio.timeout(WAIT):
            while await self.service.pending_deliveries():
                await asyncio.sleep(0.01)
        await self.env.settle()

    async def learning(self, channel: Any = None) -> discord.Message:
        """Until a job is being learned and the channel sees it; its progress message."""
        async with asyncio.timeout(WAIT):
            while True:
                for message in (channel or self.channel).history():
                    if "█" in shown(message):
                        return message
                await asyncio.sleep(0.01)
                await self.env.advance_time(1)  # the clock by which messages are edited

    async def teach(self, *files: tuple[str, bytes], channel: Any = None) -> None:
        await self.ada.send(channel or self.channel, f"{self.me} learn this", attachments=list(files or [HANDBOOK]))
        await self.told()

    async def ask(self, text: str = WARDEN, channel: Any = None) -> str:
        """Bob mentions the bot; what it says."""
        asked = await self.bob.send(channel or self.channel, f"{self.me} {text}")
        return self.said(channel or self.thread(asked.id) or self.channel)

    async def choose(self, **settings: str) -> None:
        """How the channel wants to be answered."""
        for name, value in settings.items():
            await self.service.change_setting(self.key, name, value)

    def text_of(self, number: int) -> str:
        return next(shown(message) for message in self.channel.history() if message.id == number)

    def transcript(self) -> str:
        """What everybody sees, threads indented."""
        lines = []
        for message in self.channel.history():
            lines += [] if message.is_system() else self._lines(message, "")
            for spoken in thread.history() if (thread := self.thread(message.id)) else ():
                lines += self._lines(spoken, "        ")
        return "\n".join(lines)

    def _lines(self, message: discord.Message, indent: str) -> list[str]:
        files = [f"({file.filename})" for file in message.attachments]
        text = re.sub(r"\\(.)", r"\1", shown(message)).replace(self.me, "@Engram").splitlines()
        name = "Engram" if message.author == self.env.bot.user else message.author.name
        return [f"\n{indent}{name}", *(f"{indent}    {line}" for line in [*files, *text])]

    def thread(self, number: int) -> Any:
        return next((thread for thread in self.channel.threads if thread.id == number), None)

    def said(self, channel: Any = None) -> str:
        """The last message, if it is the bot's."""
        message = (channel or self.channel).last_message
        return shown(message) if message and message.author.id == self.env.bot.user.id else ""


def make_client(service: Service, *, message_content: bool = True) -> Client:
    bot = DeclaredBot(service, limits=SMALL, hears_follow_ups=message_content)
    return Client(bot, message_content=message_content, file_hosts=[FILE_HOST])


def shown(message: discord.Message) -> str:
    """All that a person reads in a message."""
    texts = [message.content]
    for part in parts(message):
        texts.append(f"[{part.label}]" if isinstance(part, discord.Button) else getattr(part, "content", ""))
    return "\n".join(text for text in texts if text)


def labels(message: discord.Message) -> list[str]:
    return [part.label for part in parts(message) if isinstance(part, discord.Button)]


def parts(message: discord.Message) -> Iterator[Any]:
    """Its components, from top to bottom."""
    waiting = list(message.components)
    while waiting:
        part = waiting.pop(0)
        yield part
        beside = [part.accessory] if isinstance(part, discord.SectionComponent) else []
        waiting = [*getattr(part, "children", ()), *beside, *waiting]


def colour(message: discord.Message) -> int | None:
    """Of a message's bar; None where it has none."""
    (frame,) = [part for part in message.components if isinstance(part, discord.Container)]
    return frame.accent_colour.value if frame.accent_colour else None


@pytest.fixture
def message_content() -> bool:
    """Whether the bot has the intent; a test may say no."""
    return True


@pytest.fixture
def engine() -> HeldEngine:
    return HeldEngine()


@pytest.fixture
def read() -> Any:
    """How PDFs are read: not at all, they are plain text."""
    return read_plain


@pytest.fixture
async def service(open_service: Open, engine: HeldEngine, read: Any) -> AsyncIterator[Service]:
    async with open_service(engine, read=read) as service:
        yield service
        engine.go.set()


@pytest.fixture
async def env(service: Service, message_content: bool) -> AsyncIterator[simcord.Env]:
    client = make_client(service, message_content=message_content)
    env = client.bot.env = simcord.Env(client, shard_count=1, settle_timeout=30)
    await env.start()
    await client.tree.sync()
    yield env
    await env.bot.bot.__aexit__()
    await env.shutdown()
    env.raise_errors()


@pytest.fixture
def world(env: simcord.Env, service: Service, engine: HeldEngine) -> World:
    return World(env, service, engine)


# Learning


async def test_a_pdf_with_a_mention_is_learned_and_its_end_told(world):
    await world.teach()
    end = world.channel.last_message
    assert f"### {world.ada.mention} I know handbook.pdf now" in shown(end)
    assert [person.id for person in end.mentions] == [world.ada.id]
    assert sum(message.author == world.env.bot.user for message in world.channel.history()) == 1
    assert (await world.service.documents(world.key))[0].name == "handbook.pdf"


async def test_how_learning_went_is_shown_to_whoever_wants_to_know(world):
    await world.teach()
    result = await world.bob.click(world.channel.last_message, label="Details")
    (details,) = result.followups
    assert details.ephemeral and [file.filename for file in details.message.attachments] == ["loss.png"]


async def test_progress_is_shown_in_one_message_with_a_cancel_button(world):
    world.engine.go.clear()
    await world.ada.send(world.channel, world.me, attachments=[HANDBOOK])
    progress = await world.learning()
    assert "Learning it" in shown(progress) and "█" in shown(progress) and labels(progress) == ["Cancel"]
    world.engine.go.set()
    await world.told()
    assert not [message for message in world.channel.history() if message.id == progress.id]


async def test_the_command_learns(world):
    result = await world.ada.slash(world.channel, "learn", file=HANDBOOK)
    await world.told()
    assert "I know handbook.pdf now" in world.said() and not result.ephemeral


async def test_the_message_menu_learns_what_somebody_else_posted(world):
    posted = await world.bob.send(world.channel, "our handbook", attachments=[HANDBOOK, BAKERY])
    await world.ada.context_menu(world.channel, "Learn this document", posted)
    await world.told()
    ends = [message for message in world.channel.history() if "I know" in shown(message)]
    assert {message.reference.message_id for message in ends} == {posted.id} and len(ends) == 2


async def test_the_message_menu_refuses_privately(world):
    posted = await world.bob.send(world.channel, "hello")
    result = await world.ada.context_menu(world.channel, "Learn this document", posted)
    assert result.response.ephemeral and "no file" in shown(result.response.message)


async def test_the_form_for_files_learns(world):
    asked = await world.bob.send(world.channel, f"{world.me} {WARDEN}")
    offer = next(message for message in world.channel.history() if message.id > asked.id)
    form = await world.bob.click(offer, label="Upload a document")
    await world.bob.submit_modal(form, {"given": [HANDBOOK]})
    await world.told()
    assert "I know handbook.pdf now" in world.said()


async def test_the_command_without_a_file_asks_for_it_and_keeps_the_pages(world):
    form = await world.bob.slash(world.channel, "learn", pages="soon")
    refused = await world.bob.submit_modal(form, {"given": [HANDBOOK]})
    assert refused.response.ephemeral and "1-100" in shown(refused.response.message)
    await world.bob.submit_modal(await world.bob.slash(world.channel, "learn"), {"given": [HANDBOOK]})
    await world.told()
    assert "I know handbook.pdf now" in world.said()


async def test_the_chat_of_a_voice_channel_is_a_channel_like_any_other(world):
    world.channel = world.guild.create_voice_channel("lounge")
    await world.teach()
    assert "Ada Quill" in await world.ask()


async def test_a_reply_to_a_posted_pdf_learns_it(world):
    posted = await world.bob.send(world.channel, "our handbook", attachments=[HANDBOOK])
    await world.ada.send(world.channel, f"{world.me} learn this", reply_to=posted)
    await world.told()
    assert "I know handbook.pdf now" in world.said()


async def test_a_forwarded_pdf_is_learned(world):
    posted = await world.ada.send(world.channel, "our handbook", attachments=[HANDBOOK])
    dm = world.ada.user.dm_channel
    await world.ada.user.send_dm("hello")
    await world.ada.forward(posted, dm)
    await world.told()
    assert "I know handbook.pdf now" in world.said(dm)


async def test_every_attachment_gets_an_answer(world):
    await world.teach(HANDBOOK, ("letter.docx", b"\0\2"), BAKERY, ("scan.pdf", b"\0\1 no"))
    texts = "\n".join(shown(message) for message in world.channel.history())
    assert "I know handbook.pdf now" in texts and "I know bakery.pdf now" in texts
    assert "I can't learn letter.docx" in texts and "I can't learn scan.pdf" in texts


async def test_a_known_document_is_not_learned_again(world):
    await world.teach()
    await world.teach()
    assert "handbook.pdf: I know this one" in world.said()


async def test_a_thread_teaches_its_channel(world):
    thread = await open_thread(world)
    await world.teach(channel=thread)
    assert "I know handbook.pdf now" in world.said(thread)
    assert len(await world.service.documents(world.key)) == 1


async def test_what_a_private_thread_taught_is_known_there_alone_and_goes_with_it(world, env):
    private = world.env.backend.create_thread(world.channel.id, "board", world.ada.id, type=12)
    await env.settle()
    await world.teach(channel=world.thread(private.id))
    key = f"discord:{world.guild.id}:{private.id}"
    assert len(await world.service.documents(key)) == 1
    assert "don't know any documents" in await world.ask()
    env.backend.delete_channel(private.id)
    await env.settle()
    assert await world.service.documents(key) == []


async def test_direct_messages_are_a_channel_of_their_own(world, env):
    dm = world.ada.user.dm_channel
    await world.ada.send_dm("learn this", attachments=env.backend.store_attachments(dm.id, [HANDBOOK]))
    await world.told()
    await world.ada.send_dm(WARDEN)
    assert "Ada Quill" in world.said(dm)
    assert "don't know any documents" in await world.ask()
    assert len(await world.service.documents(f"discord:dm:{world.ada.id}")) == 1


async def test_the_owner_cancels_and_others_cannot(world):
    world.engine.go.clear()
    await world.ada.send(world.channel, world.me, attachments=[HANDBOOK])
    progress = await world.learning()
    refusal = await world.bob.click(progress, label="Cancel")
    assert "manages this channel" in shown(refusal.followups[0].message) and refusal.followups[0].ephemeral
    await world.ada.click(progress, label="Cancel")
    await world.told()
    assert "Nothing of handbook.pdf was kept" in world.said() and not await world.service.documents(world.key)


async def test_a_learning_job_that_outlives_its_message_ends_in_a_new_one(world, env):
    world.engine.go.clear()
    await world.ada.slash(world.channel, "learn", file=HANDBOOK)
    await world.learning()
    await env.advance_time(STALE_AFTER + 60)
    world.engine.go.set()
    await world.told()
    assert f"{world.ada.mention} I know handbook.pdf now" in world.said()


async def test_a_message_that_takes_no_more_edits_is_left_alone(world, env):
    world.engine.go.clear()
    await world.ada.send(world.channel, world.me, attachments=[HANDBOOK])
    progress = await world.learning()
    env.inject_error("PATCH", "/channels/*/messages/*", status=400, code=30046, times=None)
    world.engine.go.set()
    await world.told()
    assert "I know handbook.pdf now" in world.said() and world.channel.last_message.id != progress.id


async def test_a_restart_in_the_middle_is_survived_in_the_same_message(world):
    world.engine.go.clear()
    await world.ada.send(world.channel, world.me, attachments=[HANDBOOK])
    progress = await world.learning()
    await world.restart()
    world.engine.go.set()
    await world.told()
    texts = [shown(message) for message in world.channel.history() if message.author == world.env.bot.user]
    assert len(texts) == 1 and "I know handbook.pdf now" in texts[0] and progress.id


async def test_an_end_that_came_while_the_bot_was_away_is_told(world, env):
    world.engine.go.clear()
    await world.ada.send(world.channel, world.me, attachments=[HANDBOOK])
    await world.learning()
    await env.bot.bot.__aexit__()
    world.engine.go.set()
    while not await world.service.documents(world.key):
        await asyncio.sleep(0.01)
    assert "I know" not in world.said()
    await world.restart()
    await world.told()
    assert "I know handbook.pdf now" in world.said()


async def test_a_message_that_an_earlier_version_posted_is_edited(world, env):
    """It has a text and an embed; components exclude both."""
    channel = env.bot.get_channel(world.channel.id)
    old = await channel.send("Learning", embed=discord.Embed(title="handbook.pdf"), view=discord.ui.View())
    await Posted(env.bot, channel.id, old.id).finish(Message("Learned", "3 pages"))
    message = await channel.fetch_message(old.id)
    assert shown(message) == "### Learned\n3 pages" and not message.embeds and not message.content


async def test_a_deleted_progress_message_is_replaced_at_the_end(world):
    world.engine.go.clear()
    await world.ada.send(world.channel, world.me, attachments=[HANDBOOK])
    await world.mod.delete(await world.learning())
    world.engine.go.set()
    await world.told()
    assert "I know handbook.pdf now" in world.said()


# Asking


async def test_a_mention_is_answered_by_a_reply_with_the_answer_first(world):
    await world.teach()
    asked = await world.bob.send(world.channel, f"{world.me} {WARDEN}")
    answer = world.channel.last_message
    assert shown(answer).splitlines() == [
        "### The warden is Ada Quill",
        "-# likely · handbook.pdf, p. 1",
        "-# Without the document: I do not know.",
        "[👍]",
        "[👎]",
        "[Details]",
    ]
    assert answer.reference.message_id == asked.id and not world.channel.threads


async def test_the_bar_of_an_answer_is_green_only_where_a_page_supports_it(world):
    await world.teach()
    await world.ask()
    likely = world.channel.last_message
    world.engine.says = Completion("Somebody whose name nobody on the whole island remembers any more", 9, 1.0, 0.9)
    await world.ask()
    assert [colour(likely), colour(world.channel.last_message)] == [COLOURS[Tone.GOOD], COLOURS[Tone.UNSURE]]


async def test_the_command_answers_in_the_channel_with_what_was_asked(world):
    await world.teach()
    result = await world.bob.slash(world.channel, "ask", question=WARDEN)
    assert shown(result.response.message).startswith(f"-# bob asked: {WARDEN}\n### The warden is Ada Quill")
    assert not world.channel.threads


async def test_small_talk_gets_a_reaction_or_a_sentence(world):
    await world.teach()
    thanks = await world.bob.send(world.channel, f"{world.me} thanks!")
    assert thanks.id == world.channel.last_message.id and [str(r.emoji) for r in world.channel.last_message.reactions]
    assert await world.ask("hello") == "Hi! Ask me about handbook.pdf."
    assert [type(part) for part in world.channel.last_message.components] == [discord.TextDisplay]  # without a frame


async def test_in_a_thread_the_command_answers_right_there(world):
    await world.teach()
    thread = await open_thread(world)
    await world.bob.slash(thread, "ask", question=WARDEN)
    assert "Ada Quill" in world.said(thread)


async def test_a_private_answer_can_be_shared(world):
    await world.teach()
    result = await world.bob.slash(world.channel, "ask", question=WARDEN, private=True)
    assert result.ephemeral and "Ada Quill" in shown(result.response.message) and not world.channel.threads
    await world.bob.click(result.response.message, label="Share in channel")
    assert "Ada Quill" in world.said() and "bob asked" in world.said()
    shared = world.channel.last_message.id
    again = await world.bob.click(result.response.message, label="Share in channel")
    assert world.channel.last_message.id == shared and "already" in shown(again.followups[0].message)


async def test_an_example_question_is_asked_by_its_button(world):
    world.engine.questions = (WARDEN, "When does the ferry leave?")
    await world.teach()
    await world.bob.click(world.channel.last_message, label=WARDEN)
    assert "Ada Quill" in world.said() and f"bob asked: {WARDEN}" in world.said()


async def test_a_follow_up_opens_a_thread_in_which_no_mention_is_needed(world):
    await world.teach()
    await world.ask()
    asked = await world.bob.send(
        world.channel, f"{world.me} And who burns the lamp?", reply_to=world.channel.last_message
    )
    thread = world.thread(asked.id)
    await world.ada.send(thread, "And when does the ferry leave?")
    assert "seven" in world.said(thread)


async def test_a_reply_to_an_answer_is_heard_without_a_ping_when_it_asks(world):
    await world.teach()
    await world.ask()
    answer = world.channel.last_message
    await world.ada.send(world.channel, "Oh nice, I did not know that one", reply_to=answer)
    assert not world.channel.threads
    asked = await world.ada.send(world.channel, "When does the ferry leave?", reply_to=answer)
    assert "leaves at seven" in world.said(world.thread(asked.id))


async def test_in_a_thread_that_people_open_on_an_answer_no_mention_is_needed(world, env):
    await world.teach()
    await world.ask()
    thread = await thread_on(world, world.channel.last_message)
    await world.ada.send(thread, "And when does the ferry leave?")
    assert "seven" in world.said(thread)


async def test_a_channel_that_wants_threads_gets_one_for_each_question(world):
    await world.teach()
    await world.choose(threads="always")
    assert "Ada Quill" in await world.ask() and [thread.name for thread in world.channel.threads] == [WARDEN]


async def test_two_people_in_one_thread_are_both_answered(world, env):
    await world.teach()
    await world.choose(threads="always")
    await world.ask()
    (thread,) = world.channel.threads
    for person, text in ((world.ada, "When does the ferry leave?"), (world.bob, "What does the lamp burn?")):
        env.backend.create_message(thread.id, person.id, text)
    env._mark_mutation()
    await env.settle()
    assert sum(message.author == env.bot.user for message in thread.history()) == 3


async def thread_on(world: World, message: Any) -> Any:
    """A thread that Ada opens on a message."""
    thread = world.env.backend.create_thread(world.channel.id, "harbour talk", world.ada.id, message_id=message.id)
    await world.env.settle()
    return world.thread(thread.id)


async def begin(world: World, question: str, how: str) -> Any:
    """Bob asks; the thread in which the answer is followed up."""
    if how == "command":
        await world.bob.slash(world.channel, "ask", question=question)
        return await thread_on(world, world.channel.last_message)
    await world.choose(threads="always")
    return world.thread((await world.bob.send(world.channel, f"{world.me} {question}")).id)


@pytest.mark.parametrize("how", ["mention", "command", "restart"])
async def test_a_follow_up_goes_to_the_document_that_answered_in_its_thread(world, how):
    await world.teach(BAKERY, HARBOUR)
    for name, question in ABOUT.items():
        thread = await begin(world, question, how)
        if how == "restart":
            await world.restart()
        before = len(thread.history())
        await world.bob.send(thread, FOLLOW_UP)
        assert f"{name}, " in world.said(thread) and len(thread.history()) == before + 2


async def test_a_command_in_a_thread_goes_to_the_document_that_answered_there(world):
    await world.teach(BAKERY, HARBOUR)
    thread = await open_thread(world)
    for name, question in ABOUT.items():
        for asked in (question, FOLLOW_UP):
            await world.bob.slash(thread, "ask", question=asked)
            assert f"{name}, " in world.said(thread)


async def test_a_follow_up_that_was_noted_before_a_crash_goes_there_too(world):
    await world.teach(BAKERY, HARBOUR)
    for name, question in ABOUT.items():
        thread = await begin(world, question, "mention")
        unheard = await world.ada.send(thread, f"{world.bob.mention} {FOLLOW_UP}")
        await world.service.inbox.receive(f"discord:{thread.id}:{unheard.id}", "noted")
        await world.restart()
        async with asyncio.timeout(WAIT):
            while thread.last_message.id == unheard.id:
                await asyncio.sleep(0.01)
        assert f"{name}, " in world.said(thread)


async def test_direct_messages_and_channels_know_no_thread(world, env):
    dm = world.ada.user.dm_channel
    await world.ada.send_dm("learn", attachments=env.backend.store_attachments(dm.id, [BAKERY, HARBOUR]))
    await world.told()
    names = set()
    for name, question in ABOUT.items():
        await world.ada.send_dm(question)
        assert f"{name}, " in world.said(dm)
        await world.ada.send_dm(FOLLOW_UP)
        names.add(re.search("· (.*), ", world.said(dm))[1])
    assert len(names) == 1


async def test_the_bot_is_silent_when_people_talk_to_each_other(world):
    await world.teach()
    await world.choose(threads="always")
    await world.ask()
    (thread,) = world.channel.threads
    answered = thread.last_message
    await world.ada.send(thread, f"{world.bob.mention} is that right?")
    reply_to = await world.bob.send(thread, "No idea.")
    await world.ada.send(thread, "Me neither.", reply_to=reply_to)
    assert [message.author.name for message in thread.history()[-3:]] == ["ada", "bob", "ada"]
    assert answered.id < reply_to.id
    assert await world.ask("So who is it?", thread)


async def test_other_peoples_threads_and_messages_are_none_of_its_business(world):
    thread = await open_thread(world)
    await world.ada.send(thread, "Who is the warden?")
    await world.ada.send(world.channel, "Who is the warden?", attachments=[HANDBOOK])
    assert not world.said(thread) and not world.said()


async def test_bots_and_webhooks_are_not_answered(world, env):
    webhook = world.guild.create_webhook(world.channel)
    await webhook.send(f"{world.me} {WARDEN}")
    robot = world.guild.add_member(env.create_user("robot", bot=True))
    await robot.send(world.channel, f"{world.me} {WARDEN}")
    assert not world.said() and not world.channel.threads


@pytest.mark.parametrize("message_content", [False])
async def test_mentions_messages_and_commands_work_without_the_content_intent(world):
    await world.teach()
    await world.choose(threads="always")
    assert "Ada Quill" in await world.ask()
    await world.ada.send_dm(WARDEN)
    assert "know any documents" in world.said(world.ada.user.dm_channel)
    (thread,) = world.channel.threads
    before = thread.last_message.id
    await world.ada.send(thread, "And the ferry?")  # comes without its text
    assert thread.history()[-2].id == before


async def test_feedback_buttons_outlive_a_restart(world):
    await world.teach()
    await world.ask()
    await world.restart()
    thanks = await world.ada.click(world.channel.last_message, label="👍")
    assert thanks.followups[0].ephemeral and "Thank you" in shown(thanks.followups[0].message)


async def test_a_correction_is_learned_when_the_owner_agrees_and_undone_by_its_button(world):
    await world.teach()
    await world.ask()
    form = await world.bob.click(world.channel.last_message, label="👎")
    done = await world.bob.submit_modal(form, {"given": "The warden is Tom Reed"})
    assert "I passed it on. Whoever added handbook.pdf decides" in shown(done.followups[0].message)
    assert done.followups[0].ephemeral
    offer = world.channel.last_message
    assert f"{world.ada.mention} bob says this was wrong" in shown(offer)
    assert "Correct answer: The warden is Tom" in shown(offer)
    refused = await world.bob.click(offer, label="Learn it")
    assert refused.response.ephemeral and "Only the person who brought it" in shown(refused.response.message)

    await world.ada.click(offer, label="Learn it")
    await world.told()
    assert "Learned, as part of handbook.pdf" in world.said()
    learned = world.channel.last_message
    assert "Tom Reed" in await world.ask()
    await world.restart()
    await world.ada.click(learned, label="Undo")
    await world.told()
    assert "Ada Quill" in await world.ask()


async def test_what_was_asked_in_private_is_corrected_in_private(world):
    await world.teach()
    answer = (await world.bob.slash(world.channel, "ask", question=WARDEN, private=True)).response.message
    before = world.channel.last_message.id
    form = await world.bob.click(answer, label="👎")
    await world.bob.submit_modal(form, {"given": "The warden is Tom Reed"})
    assert world.channel.last_message.id == before
    listed = (await world.ada.slash(world.channel, "corrections")).response.message
    assert "Correct answer: The warden is Tom Reed" in shown(listed) and labels(listed) == ["Learn it"]


# Managing


async def test_documents_are_listed_privately(world):
    await world.teach()
    result = await world.bob.slash(world.channel, "docs")
    assert result.ephemeral and "handbook.pdf" in shown(result.response.message)
    assert "by ada" in shown(result.response.message)


async def test_a_list_of_documents_lets_their_owner_forget_them_after_a_question(world):
    await world.teach()
    assert not labels((await world.bob.slash(world.channel, "docs")).response.message)
    listed = (await world.ada.slash(world.channel, "docs")).response.message
    asked = await world.ada.click(listed, label="Forget …")
    assert "Forget handbook.pdf?" in shown(asked.followups[0].message) and asked.followups[0].ephemeral
    await world.ada.click(asked.followups[0].message, label="Forget handbook.pdf")
    assert not await world.service.documents(world.key)


async def test_forget_suggests_and_erases_ones_own(world):
    await world.teach()
    ((choice),) = await world.ada.autocomplete(world.channel, "forget", "document", "hand")
    assert choice["name"] == "handbook.pdf"
    refusal = await world.bob.slash(world.channel, "forget", document=choice["value"])
    assert "manages this channel" in shown(refusal.response.message) and refusal.response.ephemeral
    done = await world.ada.slash(world.channel, "forget", document=choice["value"])
    assert "handbook.pdf is forgotten" in shown(done.response.message)
    assert "don't know any documents" in await world.ask()


async def test_reset_is_for_moderators_and_asks_first(world):
    await world.teach()
    assert "reset" not in world.ada.available_commands(world.channel)
    assert "manage this channel" in await world.ask("reset")
    question = await world.mod.slash(world.channel, "reset")
    assert question.ephemeral and "1 document" in shown(question.response.message)
    await world.mod.click(question.response.message, label="Forget everything")
    assert "Forgot 1 document" in shown(question.response.message) and not labels(question.response.message)
    assert await world.service.documents(world.key) == []


async def test_keeping_changes_nothing(world):
    await world.teach()
    question = await world.mod.slash(world.channel, "reset")
    await world.mod.click(question.response.message, label="Keep")
    assert "Kept" in shown(question.response.message) and len(await world.service.documents(world.key)) == 1


@pytest.mark.parametrize(("name", "words"), [("status", "fake"), ("help", "/learn"), ("about", "What I keep")])
async def test_everyone_can_look(world, name, words):
    result = await world.bob.slash(world.channel, name)
    assert result.ephemeral and words in shown(result.response.message)


async def test_a_deleted_channel_and_a_left_server_are_erased(world, env):
    await world.teach()
    await env.bot.get_channel(world.channel.id).delete()
    await env.settle()
    assert await world.service.documents(world.key) == []
    world.channel = world.guild.create_text_channel("another")
    await world.teach()
    await env.bot.guilds[0].leave()
    await env.settle()
    assert await world.service.documents(world.key) == []


# Rights and safety


async def test_without_the_right_to_open_threads_the_answer_is_in_the_channel(world):
    deny(world, create_public_threads=False)
    await world.teach()
    await world.choose(threads="always")
    assert "Ada Quill" in await world.ask() and not world.channel.threads


@pytest.mark.parametrize("code", [160006, 200001, 30033, 50035])
async def test_a_refused_thread_leaves_the_answer_in_the_channel(world, env, code):
    await world.teach()
    await world.choose(threads="always")
    env.inject_error("POST", "/channels/*/messages/*/threads", status=400, code=code, times=None)
    assert "Ada Quill" in await world.ask()


async def test_a_thread_that_is_closed_leaves_the_answer_in_the_channel_once(world, env):
    await world.teach()
    await world.choose(threads="always")
    await world.ask()
    (thread,) = world.channel.threads
    env.inject_error("POST", f"/channels/{thread.id}/messages", status=400, code=50083, times=None)
    await world.bob.send(thread, f"{world.me} When does the ferry leave?")
    assert "bob asked: When does the ferry leave?" in world.said() and "seven" in world.said()
    said = world.channel.last_message.id
    await world.restart()
    await env.settle()
    assert world.channel.last_message.id == said


async def test_what_discord_refuses_for_good_is_not_asked_again(world, env):
    await world.teach()
    env.inject_error("POST", f"/channels/{world.channel.id}/messages", status=400, code=50035, times=None)
    await world.bob.send(world.channel, f"{world.me} {WARDEN}")
    assert not await world.service.inbox.unhandled("discord:")


async def test_refusals_of_commands_are_private(world):
    await world.teach()
    refused = await world.bob.slash(world.channel, "ask", question=WARDEN, document="nothing.pdf")
    assert refused.response.ephemeral and "nothing.pdf" in shown(refused.response.message)


async def test_a_slow_answer_to_a_command_is_announced(world, env):
    await world.teach()
    world.engine.answer_seconds = 1.5
    result = await world.bob.slash(world.channel, "ask", question=WARDEN)
    assert "Ada Quill" in shown(result.response.message) and not result.ephemeral


# What is edited, deleted, or missed


async def test_deleting_the_upload_stops_learning(world):
    world.engine.go.clear()
    upload = await world.ada.send(world.channel, world.me, attachments=[HANDBOOK])
    await world.learning()
    await world.ada.delete(upload)
    world.engine.go.set()
    await world.told()
    assert not await world.service.documents(world.key) and "Nothing of handbook.pdf was kept" in world.said()


async def test_deleting_the_upload_later_offers_to_forget(world):
    upload = await world.ada.send(world.channel, world.me, attachments=[HANDBOOK])
    await world.told()
    await world.ada.delete(upload)
    assert "Shall I forget it, too?" in world.said()
    await world.ada.click(world.channel.last_message, label="Forget it")
    assert not await world.service.documents(world.key)


async def test_a_mention_that_is_added_by_an_edit_is_heard_and_a_second_edit_is_not(world, env):
    await world.teach()
    asked = await world.bob.send(world.channel, WARDEN)
    for text in (f"{world.me} {WARDEN}", f"{world.me} {WARDEN} please"):
        await world.bob.edit(asked, text)
        await env.settle()
    assert "Ada Quill" in world.said() and world.channel.last_message.reference.message_id == asked.id
    assert sum("Ada Quill" in shown(message) for message in world.channel.history()) == 1


@pytest.mark.parametrize("place", ["channel", "thread", "direct messages"])
async def test_what_was_said_while_the_bot_was_away_is_answered_once(world, env, place):
    dm = world.ada.user.dm_channel
    if place == "direct messages":
        await world.ada.send_dm("learn", attachments=env.backend.store_attachments(dm.id, [HANDBOOK]))
        await world.told()
    else:
        await world.teach()
    where = {"channel": world.channel, "thread": await open_thread(world), "direct messages": dm}[place]
    await env.bot.bot.__aexit__()
    await env.bot.close()
    missed = env.backend.create_message(where.id, world.ada.id, f"{world.me} {WARDEN}")
    for _ in range(2):
        client = make_client(world.service)
        client.bot.env = env
        await env.restart_bot(client)
        async with asyncio.timeout(WAIT):
            while "Ada Quill" not in world.said(where) or await world.service.inbox.unhandled("discord:"):
                await asyncio.sleep(0.01)
        await env.bot.bot.__aexit__()
    assert where.last_message.reference.message_id == missed.id
    assert sum("Ada Quill" in shown(message) for message in where.history()) == 1


async def test_a_question_beside_a_pdf_is_answered_when_it_is_known(world):
    await world.ada.send(world.channel, f"{world.me} who is the warden?", attachments=[HANDBOOK])
    await world.told()
    async with asyncio.timeout(WAIT):
        while "Ada Quill" not in world.said():
            await asyncio.sleep(0.01)


async def test_in_a_forum_a_post_is_answered_in_the_post(world, env):
    forum = world.guild.create_forum_channel("help-forum")
    post = ChannelHandle(env, world.guild, env.backend.create_thread(forum.id, "My contract", world.ada.id))
    await world.ada.send(post, f"{world.me} learn this", attachments=[BAKERY])
    await world.told()
    assert "I know bakery.pdf now" in world.said(post)
    await world.bob.send(post, f"{world.me} Who is the baker?")
    assert "Tom Reed" in world.said(post)


@pytest.mark.parametrize("message_content", [False])
async def test_without_the_intent_no_follow_up_is_promised(world, message_content):
    await world.teach()
    help = await world.bob.slash(world.channel, "help")
    assert "mention me again" in shown(help.response.message)
    assert "mention me again" in await world.ask()


async def test_without_the_right_to_attach_files_only_the_picture_is_missing(world):
    deny(world, embed_links=False, attach_files=False, create_public_threads=False)
    await world.teach()
    result = await world.bob.click(world.channel.last_message, label="Details")
    (details,) = result.followups
    assert "### handbook.pdf" in shown(details.message) and not details.message.attachments


async def test_without_the_right_to_write_the_command_says_so(world):
    deny(world, send_messages=False)
    result = await world.ada.slash(world.channel, "learn", file=HANDBOOK)
    assert "I may not write here" in shown(result.response.message)
    assert await world.service.jobs(world.key) == []


async def test_nothing_that_the_bot_sends_can_mention(world, env):
    evil = plain_pdf("The warden is @everyone and <@123> and <@&9> and [a link](http://evil). " * 4)
    await world.teach(("@everyone <@123>.pdf", evil))
    answer = await world.ask(f"{WARDEN} @everyone")
    places = (world.channel, *world.channel.threads)
    texts = [shown(message) for place in places for message in place.history() if message.author == env.bot.user]
    said = [text.replace(world.ada.mention, "") for text in texts]  # who is told of the end
    assert "everyone" in answer and not any(re.search(r"@everyone|<@(?!\u200b)", text) for text in said)
    bodies = [call.json for call in env.http_requests if call.json and "allowed_mentions" in call.json]
    assert bodies and [body["allowed_mentions"]["parse"] for body in bodies] == [[]] * len(bodies)
    called = {person for body in bodies for person in body["allowed_mentions"].get("users", [])}
    assert called == {str(world.ada.id)} or called == {world.ada.id}


async def test_long_answers_keep_discords_limits(world):
    world.engine.says = Completion("*long* " * 2000, 9, 1.0, 0.5)
    await world.teach()
    assert "long" in await world.ask("What? " * 50 + "in handbook.pdf?")


@pytest.mark.parametrize("long", ["", "word " * 2000, "*" * 5000, "```\n" + "x" * 5000, "a\n" * 3000])
@pytest.mark.parametrize(("fields", "buttons"), [(0, 0), (1, 1), (3, 3), (40, 25)])
async def test_any_message_keeps_discords_limits(long, fields, buttons):
    pressed = [Button(f"{number}{long}", "forget", f"{number}{long}") for number in range(buttons)]
    beside = [Field(f"{long}.", long, long, Button("Forget", "forget?", str(number))) for number in range(fields)]
    message = Message(f"{long}.", long, tuple(beside), long, tuple(pressed), asked=long)
    view = to_arguments(message, None)["view"]
    texts = [item.content for item in view.walk_children() if isinstance(item, discord.ui.TextDisplay)]
    assert all(texts) and sum(map(len, texts)) <= 4000
    assert len(list(view.walk_children())) <= 40
    validate_components(view.to_components(), flags=COMPONENTS_V2_FLAG)


def deny(world: World, **rights: bool) -> None:
    """Move to a channel where the bot lacks some rights."""
    overwrites = {world.env.bot.user: discord.PermissionOverwrite(**rights)}
    world.channel = world.guild.create_text_channel("restricted", overwrites=overwrites)


async def open_thread(world: World) -> Any:
    """A thread that Ada opened."""
    thread = world.env.backend.create_thread(world.channel.id, "harbour talk", world.ada.id)
    await world.env.settle()
    return world.thread(thread.id)


# The whole story


@pytest.mark.parametrize("read", [read_document])
async def test_the_whole_story_with_a_restart_in_the_middle(world, env):
    """Two people, two real PDFs, a restart; `pytest -s -k whole_story` prints what they saw."""
    world.engine.go.clear()
    await world.ada.send(
        world.channel, f"{world.me} learn this please", attachments=[REAL_HANDBOOK, ("notes.docx", b"PK")]
    )
    progress = await world.learning()
    await world.bob.slash(world.channel, "learn", file=REAL_BAKERY)
    await world.restart()
    world.engine.go.set()
    await world.told()
    assert progress.id and "I know bakery.pdf now" in world.said()

    assert "The warden is Ada Quill" in await world.ask()
    thread = await thread_on(world, world.channel.last_message)
    await world.ada.send(thread, "And when does the bakery open?")
    assert "The bakery opens at six" in world.said(thread) and "bakery.pdf, " in world.said(thread)
    await world.ada.click(thread.last_message, label="👍")

    await world.ada.slash(world.channel, "forget", document="handbook.pdf")
    assert "Ada Quill" not in await world.ask("Who is the warden of the island?")
    question = await world.mod.slash(world.channel, "reset")
    await world.mod.click(question.response.message, label="Forget everything")
    assert "don't know any documents" in await world.ask("When does the bakery open?")
    print(world.transcript())
