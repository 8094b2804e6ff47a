"""Every flow on Slack: slack_bolt and slack_sdk are real, Slack is `FakeSlack` on loopback, in Socket Mode."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest

from bot.chat import Button, Field, Message
from bot.commands import COMMANDS, Bot
from bot.platforms import common
from bot.platforms.slack import workspace
from bot.platforms.slack.app import Client
from bot.platforms.slack.blocks import to_blocks
from bot.platforms.slack.manifest import commands, manifest
from bot.settings import Settings
from core.document.formats import read_document
from core.service import Service
from core.types import Completion
from tests.bot.slack_fake import (
    APP_TOKEN,
    BOT,
    BOT_TOKEN,
    CHANNEL,
    MENTION,
    TEAM,
    FakeSlack,
    File,
    buttons,
    check_blocks,
    shown,
    texts,
    user,
)
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
LEARN = f"{MENTION} learn this"
KEY = f"slack:{TEAM}:{CHANNEL}"


class World:
    """A workspace with a channel, two members, an admin, and our bot."""

    def __init__(self, slack: FakeSlack, service: Service, engine: HeldEngine) -> None:
        self.slack, self.service, self.engine = slack, service, engine

    async def start(self) -> None:
        self.bot = Bot(self.service, limits=SMALL, commands=commands(), edit_every=lambda age: 0.1)
        self.client = Client(self.bot, settings(self.slack), edits=(100, 1.0))
        self._task = asyncio.create_task(self._serve())
        connected = asyncio.create_task(self.slack.connected.wait())
        await asyncio.wait({self._task, connected}, return_when="FIRST_COMPLETED")

    async def _serve(self) -> None:
        async with self.client, self.bot:
            await self.client.run()

    async def stop(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self.slack.connected.clear()

    async def restart(self) -> None:
        """A new process: new client, new bot, same Slack, same storage."""
        await self.stop()
        await self.start()

    async def until(self, found: Callable[[], Any], seconds: float = WAIT) -> Any:
        async with asyncio.timeout(seconds):
            while not (value := found()):
                await asyncio.sleep(0.01)
        return value

    async def told(self) -> None:
        """Until all jobs have ended and their channels know it."""
        async with asyncio.timeout(WAIT):
            while await self.service.pending_deliveries():
                await asyncio.sleep(0.01)

    async def quiet(self, seconds: float = 0.3) -> None:
        """Long enough for whatever might still be said."""
        await asyncio.sleep(seconds)

    async def teach(self, *files: tuple[str, bytes | File], **where: Any) -> dict[str, Any]:
        """Ada hands in files; the message that she wrote."""
        given = list(files or [HANDBOOK])
        message = await self.slack.say(LEARN, *given, **where)
        pdfs = [name for name, _ in given if name.endswith(".pdf")]
        await self.until(lambda: sum(is_end(said) for said in self.handled(message)) >= len(pdfs))
        await self.told()
        return message

    def handled(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        """What the bot said about a message, without pictures."""
        channel = self.slack.messages[message["channel"]]
        thread = message.get("thread_ts", message["ts"])
        mine = [m for m in channel if m["user"] == BOT and m["ts"] > message["ts"] and not m.get("files")]
        return [m for m in mine if m.get("thread_ts") in (thread, None)]

    async def ask(self, text: str = WARDEN, by: str = "UBOB", **where: Any) -> dict[str, Any]:
        """Bob mentions the bot; the answer."""
        asked = await self.slack.say(f"{MENTION} {text}", by=by, **where)
        await self.until(lambda: self.handled(asked))
        return self.handled(asked)[-1]

    async def placed(self, thread: str) -> None:
        """Until it is stored that an answer stands in this thread, which is a moment after it was said."""
        async with asyncio.timeout(WAIT):
            while not await self.service._index.thread_document(KEY, thread):
                await asyncio.sleep(0.01)

    async def learning(self) -> dict[str, Any]:
        """Until a job is being learned and the channel sees it; its progress message."""
        return (await self.until(lambda: self.slack.said("█")))[0]

    async def said(self, words: str, channel: str = CHANNEL) -> dict[str, Any]:
        return (await self.until(lambda: self.slack.said(words, channel)))[-1]

    async def whispered(self, words: str) -> dict[str, Any]:
        return (await self.until(lambda: self.slack.whispered(words)))[-1]


def is_end(message: dict[str, Any]) -> bool:
    return not re.search("is waiting|Learning ", shown(message))


def settings(slack: FakeSlack, **given: Any) -> Settings:
    tokens = {"slack_bot_token": BOT_TOKEN, "slack_app_token": APP_TOKEN}
    return Settings(_env_file=None, slack_base_url=f"{slack.url}/api/", **{**tokens, **given})


@pytest.fixture
def engine() -> HeldEngine:
    return HeldEngine()


@pytest.fixture
def read() -> Any:
    """How PDFs are read: not at all, they are plain text."""
    return read_plain


@pytest.fixture
async def slack() -> AsyncIterator[FakeSlack]:
    async with FakeSlack() as server:
        yield server


@pytest.fixture
async def world(slack: FakeSlack, open_service: Open, engine: HeldEngine, read: Any) -> AsyncIterator[World]:
    async with open_service(engine, read=read) as service:
        world = World(slack, service, engine)
        await world.start()
        yield world
        engine.go.set()
        await world.stop()


# Learning


async def test_a_pdf_with_a_mention_is_learned_and_its_end_calls_whoever_asked(world, slack):
    message = await world.teach()
    (end,) = slack.said("I know handbook.pdf now")
    assert end["thread_ts"] == message["ts"] and len(world.handled(message)) == 1
    assert end["blocks"][0]["text"]["text"] == "<@UADA> *I know handbook.pdf now*"
    assert [document.name for document in await world.service.documents(KEY)] == ["handbook.pdf"]


async def test_how_learning_went_is_shown_to_whoever_wants_to_know(world, slack):
    message = await world.teach()
    (end,) = slack.said("I know handbook.pdf now")
    await slack.click(end, "Details", by="UBOB")
    await world.whispered("loss")
    (picture,) = await world.until(lambda: slack.uploads)
    assert picture["thread_ts"] == message["ts"] and picture["channel_id"] == CHANNEL
    assert slack.files[picture["files"][0]["id"]].data.startswith(b"\x89PNG")


async def test_progress_is_shown_in_one_message_with_a_cancel_button(world, slack):
    world.engine.go.clear()
    await slack.say(LEARN, HANDBOOK)
    progress = await world.learning()
    assert "Learning it" in shown(progress) and [b["text"]["text"] for b in buttons(progress)] == ["Cancel"]
    world.engine.go.set()
    await world.told()
    assert slack.said("I know handbook.pdf now") and progress not in slack.messages[CHANNEL]


@pytest.mark.parametrize(
    ("sends", "carry"), [(("message", "app_mention"), False), (("app_mention",), False), (("app_mention",), True)]
)
async def test_a_mention_is_handled_once_whichever_of_its_events_come_and_whatever_they_carry(
    world, slack, sends, carry
):
    slack.sends, slack.mentions_carry_files = sends, carry
    message = await world.teach()
    await world.quiet()
    assert len(world.handled(message)) == 1 and len(await world.service.documents(KEY)) == 1


async def test_a_mention_in_a_thread_learns_the_file_that_began_it(world, slack):
    posted = await slack.say("our handbook", HANDBOOK, by="UBOB")
    await slack.say(LEARN, thread_ts=posted["ts"])
    await world.said("I know handbook.pdf now")


async def test_the_message_menu_learns_what_somebody_else_posted(world, slack):
    posted = await slack.say("two files", HANDBOOK, BAKERY, by="UBOB")
    await slack.choose(posted)
    await world.said("I know handbook.pdf now")
    await world.said("I know bakery.pdf now")


async def test_every_attachment_gets_an_answer(world, slack):
    await world.teach(HANDBOOK, ("song.mp3", File(b"\0\2", "audio/mpeg")), BAKERY, ("scan.pdf", b"\0\1 no"))
    for words in ("I know handbook.pdf now", "I know bakery.pdf now", "I can't learn scan.pdf"):
        assert slack.said(words)
    await world.whispered("can't read such a file")


async def test_a_known_document_is_not_learned_again(world, slack):
    await world.teach()
    await world.teach()
    await world.said("handbook.pdf: I know this one")


async def test_a_thread_teaches_its_channel(world, slack):
    talk = await slack.say("about the harbour", by="UBOB")
    await world.teach(thread_ts=talk["ts"])
    (end,) = slack.said("I know handbook.pdf now")
    assert end["thread_ts"] == talk["ts"] and len(await world.service.documents(KEY)) == 1


async def test_direct_messages_are_a_channel_of_their_own(world, slack):
    await slack.say("learn this", HANDBOOK, channel="D1")
    await world.said("I know handbook.pdf now", "D1")
    await slack.say(WARDEN, channel="D1")
    answer = await world.said("Ada Quill", "D1")
    await world.quiet()
    status = slack.sent("assistant.threads.setStatus")[-1]
    assert status["thread_ts"] == answer["thread_ts"]  # where the person asked
    assert "don't know any documents" in shown(await world.ask())
    assert len(await world.service.documents(f"slack:{TEAM}:dm:UADA")) == 1


async def test_in_direct_messages_everyone_manages_their_own(world, slack):
    await slack.say("learn this", HANDBOOK, channel="D1")
    await world.said("I know handbook.pdf now", "D1")
    await slack.say("reset", channel="D1")
    await slack.click(await world.said("1 document", "D1"), "Forget everything")
    assert (await world.whispered("Forgot 1 document"))["replace_original"] and not slack.whispers


async def test_a_file_that_only_the_later_event_carries_is_learned(world, slack):
    slack.sends = ("app_mention",)
    slack.mentions_carry_files = False
    slack.fault("conversations.replies", "missing_scope", times=9)
    message = await slack.say(LEARN, HANDBOOK)
    await world.whispered("I see no file there")
    await slack.event({**message, "channel_type": "channel"})
    await world.said("I know handbook.pdf now")


async def test_the_learn_command_says_where_to_put_the_file(world, slack):
    await slack.slash("learn")
    assert "mentions me" in shown(await world.whispered("Slack gives slash commands no files"))


async def test_the_owner_cancels_and_others_cannot(world, slack):
    world.engine.go.clear()
    await slack.say(LEARN, HANDBOOK)
    progress = await world.learning()
    await slack.click(progress, "Cancel", by="UBOB")
    await world.whispered("manages this channel")
    await slack.click(progress, "Cancel")
    await world.said("Nothing of handbook.pdf was kept")
    assert not await world.service.documents(KEY)


@pytest.mark.parametrize("age", [0.0, common.STALE_AFTER])
async def test_the_end_of_a_long_job_is_posted_anew(world, slack, age):
    """Of one that calls nobody; a young message is edited."""
    slack.behind = age
    world.engine.go.clear()
    message = await slack.say(LEARN, HANDBOOK)
    progress = await world.learning()
    await slack.click(await world.until(lambda: buttons(progress) and progress), "Cancel")
    world.engine.go.set()
    end = await world.said("Stopped. Nothing of handbook.pdf was kept.")
    assert (end is progress) == (age == 0) and end["thread_ts"] == message["ts"]
    await world.until(lambda: end is progress or progress not in slack.messages[CHANNEL])


async def test_a_deleted_progress_message_is_replaced_at_the_end(world, slack):
    world.engine.go.clear()
    await slack.say(LEARN, HANDBOOK)
    slack.delete(await world.learning())
    world.engine.go.set()
    await world.said("I know handbook.pdf now")


async def test_a_restart_in_the_middle_is_survived_in_the_same_message(world, slack):
    world.engine.go.clear()
    message = await slack.say(LEARN, HANDBOOK)
    progress = await world.learning()
    await world.restart()
    world.engine.go.set()
    await world.told()
    assert slack.said("I know handbook.pdf now") and progress and len(world.handled(message)) == 1


async def test_an_end_that_came_while_the_bot_was_away_is_told_once(world, slack, monkeypatch):
    """Even when the process dies between telling it and noting that it was told."""
    world.engine.go.clear()
    await slack.say(LEARN, HANDBOOK)
    await world.learning()
    await world.stop()
    world.engine.go.set()
    await world.until(lambda: world.engine.steps)
    with monkeypatch.context() as patch:

        async def dies(job_id: str) -> None:
            raise OSError

        patch.setattr(world.service, "delivered", dies)
        await world.start()
        await world.said("I know handbook.pdf now")
        await world.quiet()
    await world.restart()
    await world.told()
    assert len(slack.said("I know handbook.pdf now")) == 1


# Asking


async def test_a_mention_is_answered_in_its_thread_with_the_answer_first(world, slack):
    await world.teach()
    answer = await world.ask()
    first, small = answer["blocks"][:2]
    assert first["text"]["text"] == "*The warden is Ada Quill*" and "Ada Quill" in answer["text"]
    (line,) = small["elements"]
    assert line["text"] == "likely · handbook.pdf, p. 1\nWithout the document: I do not know."
    assert [button["text"]["text"] for button in buttons(answer)] == ["👍", "👎", "Details"]
    assert slack.message(answer["thread_ts"])["user"] == "UBOB"
    assert slack.sent("assistant.threads.setStatus")[0]["thread_ts"] == answer["thread_ts"]


async def test_an_answer_needs_no_status(world, slack):
    slack.fault("assistant.threads.setStatus", "not_allowed", times=9)
    await world.teach()
    assert "Ada Quill" in shown(await world.ask())


@pytest.mark.parametrize("threads", ["follow-ups", "never"])
async def test_a_channel_may_want_answers_in_the_channel_itself(world, slack, threads):
    await world.teach()
    await world.service.change_setting(KEY, "threads", threads)
    answer = await world.ask()
    assert "Ada Quill" in shown(answer) and not answer.get("thread_ts")
    await slack.say("And when does the ferry leave?", thread_ts=answer["ts"])
    assert (await world.said("leaves at seven"))["thread_ts"] == answer["ts"]


async def test_a_thread_that_is_closed_leaves_the_answer_in_the_channel(world, slack):
    await world.teach()
    slack.fault("chat.postMessage", "cannot_reply_to_message")
    answer = await world.ask()
    assert "Ada Quill" in shown(answer) and not answer.get("thread_ts")


async def test_the_command_answers_in_the_channel_with_what_was_asked(world, slack):
    await world.teach()
    await slack.slash("ask", WARDEN, by="UBOB")
    answer = await world.said("Ada Quill")
    assert shown(answer).startswith(f"Bob asked: {WARDEN}") and not answer.get("thread_ts")


async def test_small_talk_gets_a_reaction_or_a_sentence(world, slack):
    await world.teach()
    thanks = await slack.say(f"{MENTION} thanks!", by="UBOB")
    await world.until(lambda: slack.message(thanks["ts"]).get("reactions") == ["heart"])
    await slack.say(f"{MENTION} hello", by="UBOB")
    await world.said("Hi! Ask me about handbook.pdf.")
    assert not world.handled(thanks)[:-1]


async def test_a_refused_question_leaves_nothing_in_the_channel(world, slack):
    await world.teach()
    await slack.slash("ask", f"--document nothing.pdf {WARDEN}")
    await world.whispered("know a document called nothing.pdf")
    assert not slack.said("asked")


@pytest.mark.parametrize(
    "text", ["--private {}", "-private {}", "--Private {}", "—private {}", "{} --private", "private: {}"]
)
async def test_private_is_private_however_it_is_written(world, slack, text):
    await world.teach()
    await slack.slash("ask", text.format(WARDEN))
    assert "You asked: Who is the warden?" in shown(await world.whispered("Ada Quill"))
    await world.quiet()
    assert not slack.said("Ada Quill")


async def test_two_people_in_one_thread_are_both_answered(world, slack):
    await world.teach()
    thread = (await world.ask())["thread_ts"]
    await slack.say("When does the ferry leave?", thread_ts=thread)
    await slack.say("What does the lamp burn?", thread_ts=thread, by="UBOB")
    await world.said("leaves at seven")
    await world.said("burns whale oil")


# What is edited, deleted, or removed


async def test_deleting_the_upload_stops_learning(world, slack):
    world.engine.go.clear()
    upload = await slack.say(LEARN, HANDBOOK)
    await world.learning()
    await slack.remove(upload)
    await world.said("Nothing of handbook.pdf was kept")
    assert not await world.service.documents(KEY)


async def test_deleting_the_upload_later_offers_to_forget(world, slack):
    await slack.remove(await world.teach())
    await slack.click(await world.said("Shall I forget it, too?"), "Forget it")
    await world.said("handbook.pdf is forgotten")
    assert not await world.service.documents(KEY)


async def test_a_mention_that_is_added_by_an_edit_is_heard_once(world, slack):
    await world.teach()
    asked = await slack.say(WARDEN, by="UBOB")
    for text in (f"{MENTION} {WARDEN}", f"{MENTION} {WARDEN} please"):
        await slack.change(asked, text)
    await world.said("Ada Quill")
    await world.quiet()
    assert len(slack.said("Ada Quill")) == 1


async def test_who_asked_while_the_bot_was_away_is_answered_once(world, slack):
    await world.teach()
    await world.ask()
    await world.stop()
    asked = slack.miss(f"{MENTION} {WARDEN}", by="UBOB")
    slack.miss("see you at lunch")
    await world.start()
    answer = await world.until(lambda: slack.said("Ada Quill")[1:])
    assert answer[0]["thread_ts"] == asked["ts"]
    await world.restart()
    await world.quiet()
    assert len(slack.said("Ada Quill")) == 2


async def test_a_document_is_called_what_its_sender_calls_it(world, slack):
    await slack.say(LEARN, ("a8f3.pdf", File(plain_pdf(TEXT), title="Harbour Rules 2026")))
    await world.said("I know Harbour Rules 2026.pdf now")


@pytest.mark.parametrize(
    "event",
    [
        {"type": "app_uninstalled"},
        {"type": "tokens_revoked", "tokens": {"bot": [BOT], "oauth": []}},
        {"type": "member_left_channel", "user": BOT, "channel": CHANNEL, "channel_type": "C", "team": TEAM},
    ],
)
async def test_where_the_bot_is_thrown_out_what_it_learned_is_erased(world, slack, event):
    await world.teach()
    await slack.event(event)
    async with asyncio.timeout(WAIT):
        while await world.service.documents(KEY):
            await asyncio.sleep(0.01)
    assert {event["type"]} <= set(manifest()["settings"]["event_subscriptions"]["bot_events"])


async def test_a_file_that_is_shared_from_elsewhere_is_learned(world, slack):
    posted = await slack.say("our handbook", HANDBOOK, by="UBOB")
    await slack.say(LEARN, attachments=[{"is_share": True, "files": posted["files"]}])
    await world.said("I know handbook.pdf now")


async def test_who_opens_the_bots_messages_sees_what_to_ask(world, slack):
    world.engine.questions = (WARDEN,)
    await slack.say("learn this", HANDBOOK, channel="D1")
    await world.said("I know handbook.pdf now", "D1")
    await slack.event({"type": "app_home_opened", "user": "UADA", "channel": "D1", "tab": "messages"})
    (prompts,) = await world.until(lambda: slack.sent("assistant.threads.setSuggestedPrompts"))
    assert prompts["prompts"] == [{"title": WARDEN, "message": WARDEN}]


async def test_a_private_answer_can_be_shared(world, slack):
    await world.teach()
    await slack.slash("ask", f"--private {WARDEN}", by="UBOB")
    answer = await world.whispered("Ada Quill")
    assert answer["response_type"] == "ephemeral" and not slack.said("Ada Quill")
    slack.whispers.append(answer)
    await slack.click(answer, "Share in channel", by="UBOB")
    assert "Bob asked" in shown(await world.said("Ada Quill"))
    await world.whispered("Shared.")
    await slack.click(answer, "Share in channel", by="UBOB")
    await world.whispered("already")
    assert len(slack.said("Ada Quill")) == 1


async def test_a_document_can_be_chosen(world, slack):
    await world.teach(HANDBOOK)
    await world.teach(BAKERY)
    await slack.slash("ask", f"—document “bakery.pdf” {WARDEN}", by="UBOB")
    await world.said("bakery.pdf, ")


async def test_where_the_bot_is_no_member_commands_are_answered_privately(world, slack):
    await slack.slash("ask", WARDEN, channel="C9")
    await world.whispered("don't know any documents")
    posted = await slack.say("look", HANDBOOK, channel="C9")
    await slack.choose(posted)
    await world.whispered("Invite me")
    assert not await world.service.jobs(f"slack:{TEAM}:C9")


async def test_an_example_question_is_asked_by_its_button(world, slack):
    world.engine.questions = (WARDEN, "When does the ferry leave?")
    message = await world.teach()
    (end,) = slack.said("I know handbook.pdf now")
    await slack.click(end, WARDEN, by="UBOB")
    assert (await world.said("Ada Quill"))["thread_ts"] == message["ts"]


@pytest.mark.parametrize("remembered", [True, False])
async def test_follow_ups_in_the_bots_threads_need_no_mention(world, slack, remembered):
    await world.teach()
    answer = await world.ask()
    if not remembered:
        await world.restart()
    await slack.say("And when does the ferry leave?", thread_ts=answer["thread_ts"])
    await world.said("leaves at seven")


async def test_follow_ups_under_a_command_need_no_mention(world, slack):
    await world.teach()
    await slack.slash("ask", WARDEN, by="UBOB")
    answer = await world.said("Ada Quill")
    await slack.say("And when does the ferry leave?", thread_ts=answer["ts"])
    await world.said("leaves at seven")


@pytest.mark.parametrize("how", ["mention", "command", "restart"])
async def test_a_follow_up_goes_to_the_document_that_answered_in_its_thread(world, slack, how):
    await world.teach(BAKERY, HARBOUR)
    for name, question in ABOUT.items():
        await (slack.slash("ask", question) if how == "command" else slack.say(f"{MENTION} {question}"))
        answer = await world.said(f"{name}, p.")
        thread = answer.get("thread_ts") or answer["ts"]
        if how == "restart":
            await world.placed(thread)
            await world.restart()
        await slack.say(FOLLOW_UP, thread_ts=thread)
        assert await source(world, thread, int(how != "command")) == name


async def source(world: World, thread: str | None, at: int, channel: str = CHANNEL) -> str:
    """Whose answer is the one `at` this place among those in a thread."""

    def answers() -> list[dict[str, Any]]:
        return [m for m in world.slack.said("Without the document", channel) if m.get("thread_ts") == thread]

    return re.search("· (.*), ", shown((await world.until(lambda: answers()[at:]))[0]))[1]


async def test_a_follow_up_that_was_received_before_a_crash_goes_there_too(world, slack):
    await world.teach(BAKERY, HARBOUR)
    for number, (name, question) in enumerate(ABOUT.items()):
        thread = (await world.ask(question))["thread_ts"]
        await world.placed(thread)
        await world.stop()
        event = {"type": "message", "user": "UADA", "text": FOLLOW_UP, "ts": slack.ts(), "channel": CHANNEL}
        kept = {"team_id": TEAM, "event_id": f"EvX{number}", "event": event | {"thread_ts": thread}}
        await world.service.inbox.receive(f"slack:event:EvX{number}", json.dumps(kept))
        await world.start()
        assert await source(world, thread, 1) == name


async def test_in_direct_messages_a_thread_goes_on_with_its_document(world, slack):
    await slack.say("learn these", BAKERY, HARBOUR, channel="D1")
    await world.said("I know harbour.pdf now", "D1")
    await world.said("I know bakery.pdf now", "D1")
    for name, question in ABOUT.items():
        asked = await slack.say(question, channel="D1")
        await world.said(f"{name}, p.", "D1")
        await slack.say(FOLLOW_UP, channel="D1", thread_ts=asked["ts"])
        assert await source(world, asked["ts"], 1, "D1") == name


async def test_a_shared_answer_steers_the_thread_below_it(world, slack):
    await world.teach(BAKERY, HARBOUR)
    for name, question in ABOUT.items():
        await slack.slash("ask", f"--private {question}")
        answer = await world.whispered(f"{name}, p.")
        slack.whispers.append(answer)
        await slack.click(answer, "Share in channel")
        thread = (await world.said(f"{name}, p."))["ts"]
        await slack.say(FOLLOW_UP, thread_ts=thread)
        assert await source(world, thread, 0) == name


async def test_the_bot_is_silent_when_people_talk_to_each_other(world, slack):
    await world.teach()
    answer = await world.ask()
    thread = {"thread_ts": answer["thread_ts"]}
    await slack.say("<@UBOB> is that right?", **thread)
    await slack.say("No idea.", by="UBOB", **thread)
    await slack.say("Me neither.", **thread)
    await slack.say("<!here> anyone?", **thread)
    await world.quiet()
    assert len(slack.said("Without the document")) == 1
    await world.ask("So who is it?", **thread)


async def test_other_peoples_threads_and_messages_are_none_of_its_business(world, slack):
    talk = await slack.say("harbour talk", by="UBOB")
    await world.ask("What is that?", thread_ts=talk["ts"])
    await slack.say("Who is the warden?", thread_ts=talk["ts"], by="UBOB")
    await slack.say("Who is the warden?", HANDBOOK)
    await world.quiet()
    assert len([m for m in slack.messages[CHANNEL] if m["user"] == BOT]) == 1


async def test_bots_edits_and_joins_are_not_answered(world, slack):
    for more in ({"bot_id": "B9"}, {"subtype": "message_changed"}, {"subtype": "channel_join"}):
        await slack.say(f"{MENTION} {WARDEN}", channel="D1", **more)
    await world.quiet()
    assert not [m for m in slack.messages["D1"] if m["user"] == BOT]


async def test_what_was_written_reaches_the_model_as_plain_text(world, slack):
    await world.teach()
    answer = await world.ask("is <@UADA> or <https://a.example|this> &lt;here&gt; in <#C2|harbour>?")
    await slack.click(answer, "Details")
    await world.whispered("is @Ada or this <here> in #harbour?")


async def test_feedback_buttons_outlive_a_restart(world, slack):
    await world.teach()
    answer = await world.ask()
    await world.restart()
    await slack.click(answer, "👍")
    await world.whispered("Thank you")


async def test_a_wrong_answer_can_be_corrected(world, slack):
    await world.teach()
    await slack.click(await world.ask(), "👎", by="UBOB")
    (view,) = await world.until(lambda: slack.views)
    await slack.submit(view, "It is Tom.", by="UBOB")
    await world.whispered("I passed it on")
    assert [one.correction for one in await world.service.corrections(KEY)] == ["It is Tom."]


async def test_a_form_that_slack_does_not_open_costs_only_the_correction(world, slack):
    await world.teach()
    slack.fault("views.open", "expired_trigger_id", times=9)
    await slack.click(await world.ask(), "👎", by="UBOB")
    await world.whispered("I noted that it was wrong")


@pytest.mark.parametrize("name", ["handbook.pdf", "handbook.docx", "handbook.md", "handbook.csv", "scan.png"])
async def test_the_form_for_files_learns(world, slack, name):
    offer = await world.ask()
    await slack.click(offer, "Upload a document")
    (view,) = await world.until(lambda: slack.views)
    await slack.submit(view, "", (name, HANDBOOK[1]))
    assert (await world.said(f"I know {name} now"))["thread_ts"] == offer["thread_ts"]


# Managing


async def test_documents_are_listed_privately(world, slack):
    await world.teach()
    await slack.slash("docs", by="UBOB")
    listed = await world.whispered("handbook.pdf")
    assert "by Ada" in shown(listed) and listed["response_type"] == "ephemeral"


async def test_in_threads_the_mention_does_what_commands_cannot(world, slack):
    await world.teach()
    talk = await slack.say("harbour talk", by="UBOB")
    await slack.say(f"{MENTION} docs", by="UBOB", thread_ts=talk["ts"])
    listed = await world.whispered("handbook.pdf")
    assert (listed["user"], listed["thread_ts"]) == ("UBOB", talk["ts"])
    await slack.say(f"{MENTION} forget handbook.pdf", thread_ts=talk["ts"])
    await world.said("handbook.pdf is forgotten")


async def test_forget_is_for_ones_own(world, slack):
    await world.teach()
    await slack.slash("forget", "handbook.pdf", by="UBOB")
    await world.whispered("manages this channel")
    await slack.slash("forget", "handbook.pdf")
    await world.said("handbook.pdf is forgotten")
    assert "know any documents" in shown(await world.ask())


@pytest.mark.parametrize("manager", ["UMOD", "UBOB"])
async def test_reset_is_for_admins_and_the_channels_creator_and_asks_first(world, slack, manager):
    slack.creators[CHANNEL] = "UBOB"
    await world.teach()
    await slack.slash("reset")
    await world.whispered("manage this channel")
    await slack.slash("reset", by=manager)
    question = await world.whispered("1 document")
    slack.whispers.append(question)
    await slack.click(question, "Forget everything", by=manager)
    done = await world.whispered("Forgot 1 document")
    assert done["replace_original"] and not buttons(done)
    assert await world.service.documents(KEY) == []


async def test_keeping_changes_nothing(world, slack):
    await world.teach()
    await slack.say(f"{MENTION} reset", by="UMOD")
    question = await world.whispered("1 document")
    await slack.click(question, "Keep", by="UMOD")
    assert (await world.whispered("Kept"))["replace_original"]
    assert len(await world.service.documents(KEY)) == 1


GUESTS = {
    "restricted": {"is_restricted": True},
    "single channel": {"is_ultra_restricted": True, "is_restricted": True},
    "another workspace": {"team_id": "T2", "is_admin": True},
    "stranger": {"is_stranger": True},
}


@pytest.mark.parametrize("kind", GUESTS)
async def test_guests_may_ask_but_not_teach_or_erase(world, slack, kind):
    slack.users["UGUEST"] = user("UGUEST", **GUESTS[kind])
    slack.creators[CHANNEL] = "UGUEST"
    await slack.say(LEARN, HANDBOOK, by="UGUEST")
    await world.whispered("Guests can ask")
    await slack.slash("reset", by="UGUEST")
    await world.until(lambda: len(slack.whispered("Guests can ask")) == 2)
    assert not await world.service.jobs(KEY)
    assert "know any documents" in shown(await world.ask(by="UGUEST"))


async def test_somebody_unknown_is_no_guest_and_may_try_again(world, slack, monkeypatch):
    monkeypatch.setattr(workspace, "UNKNOWN_FOR", 0.2)
    await world.restart()
    slack.fault("users.info", "internal_error", times=1)
    await slack.say(LEARN, HANDBOOK, by="UMOD")
    await world.whispered("try again in a minute")
    await asyncio.sleep(0.2)
    await slack.say(LEARN, HANDBOOK, by="UMOD")
    await world.said("I know handbook.pdf now")


async def test_thousands_of_mentions_are_not_looked_up(world, slack):
    names = " ".join(f"<@U{number:05}>" for number in range(3_000))
    await slack.say(f"{MENTION} who are {names}", by="UBOB")
    await world.until(lambda: world.client._listeners[TEAM].workspace._unknown.get("U00001"))
    await world.quiet()
    assert len(slack.sent("users.info")) <= workspace.MAX_MENTIONS + 1


async def test_admins_of_the_other_side_of_a_shared_channel_cancel_nothing(world, slack, engine):
    engine.go.clear()
    await slack.say(LEARN, HANDBOOK)
    progress = await world.learning()
    slack.users["UOTHER"] = user("UOTHER", team_id="T2", is_admin=True, is_owner=True)
    slack.creators[CHANNEL] = "UOTHER"
    await slack.click(progress, "Cancel", by="UOTHER")
    await world.whispered("Only the person who brought it")
    assert len(await world.service.jobs(KEY)) == 1


async def test_answers_are_sent_to_slack_alone(world, slack):
    from bot.platforms.slack.payloads import Place
    from bot.platforms.slack.replies import SlackReply

    workspace = (await world.client.listener(TEAM)).workspace
    for url in ("https://evil.example/x", "http://hooks.slack.com/x", "https://hooks.slack.com.evil.example/", "", "x"):
        assert SlackReply(workspace, Place(CHANNEL, "UADA"), url)._url == ""
    for url in ("https://hooks.slack.com/actions/1", slack.response_url()):
        assert SlackReply(workspace, Place(CHANNEL, "UADA"), url)._url == url


@pytest.mark.parametrize(
    ("name", "words"),
    [("engram-status", "fake"), ("help", "/engram status:"), ("about", "What I keep"), ("cancel", "nothing")],
)
async def test_everyone_can_look(world, slack, name, words):
    await slack.slash(name, by="UBOB")
    await world.whispered(words)


async def test_a_deleted_channel_is_erased(world, slack):
    await world.teach()
    await slack.event({"type": "channel_deleted", "channel": CHANNEL})
    async with asyncio.timeout(WAIT):
        while await world.service.documents(KEY):
            await asyncio.sleep(0.01)


# Safety


async def test_nothing_that_the_bot_sends_can_mention_link_or_unfurl(world, slack):
    evil = plain_pdf("The warden is <!channel> and <@U123> & <#C1> <http://evil|safe> @everyone. " * 4)
    await world.teach(("<!channel> <@U1>&.pdf", evil))
    await world.ask(f"{WARDEN} &lt;!here&gt; &lt;@U1&gt;")
    await slack.slash("forget", "&lt;!channel&gt; &lt;@U1&gt;&amp;.pdf")
    await world.said("is forgotten")
    mine = [message for message in slack.messages[CHANNEL] if message["user"] == BOT]
    said = [text for message in [*mine, *slack.whispers, *slack.responses] for text in texts(message)]
    assert any("channel" in text for text in said)
    said = [text.replace("<@UADA>", "") for text in said]  # who is told of the end
    assert not [text for text in said if re.search(r"<|>|&(?!amp;|lt;|gt;)", text)]
    calls = slack.sent("chat.postMessage")
    assert all(call["unfurl_links"] is call["unfurl_media"] is False for call in calls)
    assert not [call for call in slack.calls if "link_names" in call.body or "parse" in call.body]
    assert all(text["verbatim"] for text in mrkdwn([*calls, *slack.sent("chat.update"), *slack.responses]))


def mrkdwn(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        found = [value] if value.get("type") == "mrkdwn" else []
        return found + mrkdwn(list(value.values()))
    return [text for part in value for text in mrkdwn(part)] if isinstance(value, list) else []


async def test_long_answers_keep_slacks_limits(world, slack):
    world.engine.says = Completion("<&> long " * 4000, 9, 1.0, 0.5)
    await world.teach()
    assert "long" in shown(await world.ask("What? " * 100 + "in handbook.pdf?"))


@pytest.mark.parametrize("text", ["x" * 50_000, "& " * 20_000, "```py\n" + "<a>\n" * 9_000 + "```", "a\n\nb" * 9000])
def test_any_message_keeps_slacks_limits(text):
    many = tuple(Button(text[:75], "ask", text[:75]) for _ in range(5))
    for fields in ((), (Field("A", text, text),), (Field("A", text), Field("B", text)), (Field("A", "short"),) * 4):
        dressed = to_blocks(Message(text, text, fields, text, many))
        check_blocks(dressed["blocks"])
        assert len(dressed["text"]) <= 4000
        for part in texts(dressed):
            assert part.count("```") % 2 == 0 or part.startswith("```py\n‹")  # a button's label


def test_the_manifest_has_the_command_scopes_and_events():
    made = manifest()
    assert [command["command"] for command in made["features"]["slash_commands"]] == ["/engram"]
    assert made["settings"]["socket_mode_enabled"] and made["features"]["agent_view"]["agent_description"]
    assert "request_url" not in json.dumps(made)
    over_http = manifest("https://bot.example/slack/events", short_commands=True)
    assert not over_http["settings"]["socket_mode_enabled"]
    all_commands = over_http["features"]["slash_commands"]
    short = [f"/{'engram-' * (name in ('status', 'settings'))}{name}" for name in COMMANDS]
    assert [command["command"] for command in all_commands] == ["/engram", *short]
    assert {command["url"] for command in all_commands} == {"https://bot.example/slack/events"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"ask --private {WARDEN}", "Ada Quill"),
        (f"private: {WARDEN}", "Ada Quill"),
        ("docs", "I know 1 document here"),
        ("what do you know?", "I know 1 document here"),
        ("", "/engram ask:"),
        ("hello", "/engram ask:"),
        ("forget hand", "Forget handbook.pdf?"),
    ],
)
async def test_one_command_does_all(world, slack, text, words):
    await world.teach()
    await slack.slash("engram", text)
    await world.whispered(words)


# The whole story


@pytest.mark.parametrize("read", [read_document])
async def test_the_whole_story_with_a_restart_in_the_middle(world, slack):
    """Two people, two real PDFs, a restart; `pytest -s -k whole_story` prints what they saw."""
    world.engine.go.clear()
    begun = await slack.say(
        f"{MENTION} learn this please", REAL_HANDBOOK, ("notes.docx", File(b"PK", "application/msword"))
    )
    progress = await world.learning()
    await slack.say(f"{MENTION} and this", REAL_BAKERY, by="UBOB")
    await world.said("bakery.pdf is waiting")
    await slack.slash("docs", by="UBOB")
    await world.whispered("waiting")
    print(slack.transcript(), "\n\n======== the bot is started anew ========")
    await world.restart()
    world.engine.go.set()
    await world.told()
    assert progress and slack.said("I know handbook.pdf now") and slack.said("I know bakery.pdf now")

    asked = await world.ask()
    assert "The warden is Ada Quill" in shown(asked)
    await slack.say("And when does the bakery open?", thread_ts=asked["thread_ts"])
    follow_up = await world.said("The bakery opens at six")
    assert "bakery.pdf, " in shown(follow_up) and follow_up["thread_ts"] == asked["thread_ts"]
    await slack.click(follow_up, "👍")
    await world.whispered("Thank you")

    await slack.say(f"{MENTION} forget handbook.pdf", thread_ts=begun["ts"])
    await world.said("handbook.pdf is forgotten")
    assert "Ada Quill" not in shown(await world.ask("Who is the warden of the island?"))
    await slack.say(f"{MENTION} reset", by="UMOD")
    await slack.click(await world.whispered("1 document"), "Forget everything", by="UMOD")
    await world.whispered("Forgot 1 document")
    assert "know any documents" in shown(await world.ask("When does the bakery open?"))
    print(slack.transcript())
    print("\nOnly one person sees:\n", *(shown(message) for message in slack.responses), sep="\n--\n")
