"""A day of conversation by script: 500 messages, a third of them not meant for the bot."""

# ruff: noqa: F401, F811  # fixtures are imported by name
from __future__ import annotations

import random
from collections import Counter

from bot.commands import Bot
from bot.intents import is_question
from bot.quotas import QuotaConfig, Quotas
from tests.bot.fake_chat import FakeReply, attachment, request
from tests.bot.slack_fake import BOT, CHANNEL, MENTION, FakeSlack, shown
from tests.bot.test_commands import BOB, PDF, press, run, settled, teach
from tests.bot.test_intents import SAID, SAID_LATER
from tests.bot.test_slack import World, engine, read, slack, world
from tests.conftest import SMALL, Open
from tests.fakes import FakeEngine

MESSAGES = 500
ON_SLACK = 40  # 500, run by hand, gave the same: nothing unanswered, nothing between people
FREE = QuotaConfig(user_questions_per_minute=0, channel_questions_per_minute=0, user_commands_per_minute=0)
QUESTIONS = [
    "Who is the warden?",
    "When does the ferry leave?",
    "What does the lamp burn?",
    "who is the warden",
    "ferry times",
]
BETWEEN_PEOPLE = [
    "Me neither.", "see you at lunch", "I think so too", "lol", "nice picture!", "haha", "the meeting is at three",
    "I'll bring the cake", "that was fun yesterday", "ok", "good morning", "no idea, sorry", "👍", "brb", "same here",
    "we should fix the printer", "Tom is ill today", "it works now", "great game last night", "done",
]  # fmt: skip
SOCIAL = ["greeting", "introduction", "thanks", "approval", "goodbye", "complaint", "chatter", "forget me"]


REFUSED = [  # what Bob, who brought nothing and manages nothing, may not do
    ("run", "reset", {}),
    ("run", "settings", {}),
    ("run", "forget", {"document": "handbook.pdf"}),
    ("run", "forget", {"document": "nothing.pdf"}),
    ("run", "ask", {"question": "Who is the warden?", "document": "nothing.pdf"}),
    ("run", "learn", {}),
    ("run", "cancel", {}),
    ("press", "reset", ""),
    ("press", "cancel", "gone"),
    ("press", "share", "gone"),
    ("press", "learning", "gone"),
    ("press", "a-button-of-an-older-version", ""),
]


async def test_a_day_of_talk_brings_no_nonsense_and_leaves_no_question_unanswered(open_service: Open) -> None:
    chance, engine, came_of, characters = random.Random(7), FakeEngine(), Counter(), 0
    async with open_service(engine) as service, Bot(service, limits=SMALL, quotas=FREE) as bot:
        await teach(bot, attachment(PDF))
        for _ in range(MESSAGES):
            (kind,) = chance.choices(("people", "social", "question", "refused"), (0.34, 0.24, 0.36, 0.06))
            asked_before = len(engine.batches)
            text, reply = await _happens(bot, kind, chance)
            asked_model = len(engine.batches) - asked_before
            said = len(reply.said) + len(reply.reactions)
            assert asked_model == (kind == "question"), text
            assert said == (kind != "people"), text
            assert (reply.said == reply.private) == (kind in ("people", "refused") or not reply.said), text
            came_of[kind] += 1
            if kind == "question":
                (message,) = reply.said
                characters += len(message.title + message.text + message.footer)
        assert len(await service.documents("fake:1")) == 1
    print(f"{dict(came_of)}; {characters / came_of['question']:.0f} characters an answer, one message each")


async def _happens(bot: Bot, kind: str, chance: random.Random) -> tuple[str, FakeReply]:
    """Something of a kind; what it is, and what came of it."""
    if kind == "refused":
        how, name, given = chance.choice(REFUSED)
        done = run(bot, name, arguments=given, **BOB) if how == "run" else press(bot, name, given, **BOB)
        return f"{how} {name} {given}", await done
    text = chance.choice({"people": BETWEEN_PEOPLE, "question": QUESTIONS}.get(kind) or _social(chance))
    reply = FakeReply()
    await bot.hear(request(text, is_addressed=kind != "people"), reply)
    return text, reply


async def test_a_day_on_slack_brings_one_message_a_question_and_none_between_people(
    world: World, slack: FakeSlack
) -> None:
    """Half of what is said stands in a thread of the bot's."""
    chance, came_of, characters = random.Random(7), Counter(), 0
    await world.teach()
    thread = (await world.ask())["thread_ts"]
    await settled(world.bot)
    world.bot.quotas = Quotas(FREE)
    for _ in range(ON_SLACK):
        kind = chance.choices(("people", "social", "question"), (0.34, 0.26, 0.4))[0]
        text = chance.choice({"people": BETWEEN_PEOPLE, "question": QUESTIONS}.get(kind) or _social(chance))
        before = _said_by_the_bot(slack)
        text = text if kind == "people" else f"{MENTION} {text}"
        where = chance.choice([{}, {"thread_ts": thread}])
        message = await slack.say(text, by=chance.choice(("UADA", "UBOB")), **where)
        await settled(world.bot)
        said = _said_by_the_bot(slack)[len(before) :]
        assert len(said) + len(message.get("reactions", [])) == (kind != "people"), text
        came_of[kind] += 1
        if kind == "question":
            assert "Without the document" in said[0] or not is_question(text), text
            characters += len(said[0])
    assert not slack.whispers and not slack.responses
    print(f"{dict(came_of)}; {characters / came_of['question']:.0f} characters an answer, one message each")


def _said_by_the_bot(slack: FakeSlack) -> list[str]:
    return [shown(message) for message in slack.messages[CHANNEL] if message["user"] == BOT]


def _social(chance: random.Random) -> list[str]:
    name = chance.choice(SOCIAL)
    later = SAID_LATER.get(name, "").split("|")
    return [*SAID[name], *(text.strip() for text in later if text.strip())]
