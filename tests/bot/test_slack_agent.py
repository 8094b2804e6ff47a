"""Slack's features for agents: feedback buttons, task cards, status, suggested prompts, the Home tab, corrections."""

# ruff: noqa: F401, F811  # fixtures are imported by name
from __future__ import annotations

from bot import render
from bot.platforms.slack.manifest import EVENTS, SCOPES, manifest
from tests.bot.slack_fake import CHANNEL, MENTION, TEAM, FakeSlack, buttons, shown
from tests.bot.test_slack import BAKERY, HANDBOOK, KEY, LEARN, WARDEN, World, engine, read, slack, world

RIGHT = "The warden is Tom Reed"


def kinds(message: dict) -> list[str]:
    return [block["type"] for block in message["blocks"]]


async def home(slack: FakeSlack, world: World, by: str = "UADA") -> str:
    """Somebody opens the Home tab; what stands there."""
    slack.homes.pop(by, None)
    await slack.event({"type": "app_home_opened", "user": by, "channel": "D1", "tab": "home"})
    return shown(await world.until(lambda: slack.homes.get(by)))


# Answers


async def test_an_answer_is_judged_by_slacks_own_buttons(world, slack):
    await world.teach()
    answer = await world.ask()
    assert kinds(answer) == ["section", "context", "context_actions", "actions"]
    await slack.click(answer, "👍", by="UBOB")
    await world.whispered("Thank you!")


async def test_a_workspace_without_blocks_for_agents_gets_plain_ones(world, slack):
    slack.takes_blocks_for_agents = False
    await world.teach()
    answer = await world.ask()
    assert kinds(answer) == ["section", "context", "actions"]
    assert [button["text"]["text"] for button in buttons(answer)] == ["👍", "👎", "Details"]
    await slack.click(answer, "👍")
    await world.whispered("Thank you!")
    assert sum(call.answer.get("error") == "invalid_blocks" for call in slack.calls) == 1  # tried once, not each time


async def test_what_only_one_person_sees_has_plain_buttons(world, slack):
    await world.teach()
    await slack.slash("engram", f"ask --private {WARDEN}")
    answer = await world.whispered("Ada Quill")
    assert "context_actions" not in kinds(answer)
    assert [button["text"]["text"] for button in buttons(answer)][:2] == ["👍", "👎"]


async def test_the_status_tells_what_is_being_done(world, slack):
    await world.teach()
    answer = await world.ask()
    status = slack.sent("assistant.threads.setStatus")[0]
    assert (status["status"], status["thread_ts"]) == ("is thinking …", answer["thread_ts"])
    assert 0 < len(status["loading_messages"]) <= 10 and all(len(text) < 50 for text in status["loading_messages"])


async def test_the_status_goes_when_the_answer_stands_in_the_channel(world, slack):
    await world.teach()
    await world.service.change_setting(KEY, "threads", "never")
    asked = await slack.say(f"{MENTION} {WARDEN}", by="UBOB")
    await world.said("Ada Quill")
    last = await world.until(lambda: [s for s in slack.sent("assistant.threads.setStatus") if not s["status"]])
    assert last[-1]["thread_ts"] == asked["ts"]


async def test_learning_is_shown_as_a_task(world, slack):
    world.engine.go.clear()
    await slack.say(LEARN, HANDBOOK)
    card = await world.said("Learning handbook.pdf")
    assert kinds(card)[:2] == ["task_card", "section"] and card["blocks"][0]["status"] == "in_progress"
    await slack.click(await world.until(lambda: next(iter(buttons(card) and [card]), None)), "Cancel")
    world.engine.go.set()
    await world.said("Stopped. Nothing of handbook.pdf was kept.")


# Opening the app


async def test_the_greeting_suggests_a_question_about_each_document(world, slack):
    for file, questions in ((HANDBOOK, (WARDEN, "When does the ferry leave?")), (BAKERY, ("Who is the baker?",))):
        world.engine.questions = questions
        await slack.say("learn this", file, channel="D1")
        await world.said(f"I know {file[0]} now", "D1")
    await slack.event({"type": "app_home_opened", "user": "UADA", "channel": "D1", "tab": "messages"})
    (greeting,) = await world.until(lambda: slack.sent("assistant.threads.setSuggestedPrompts"))
    assert greeting["title"].startswith("Hi! Ask me about bakery.pdf") and "thread_ts" not in greeting
    assert [p["title"] for p in greeting["prompts"]] == ["Who is the baker?", WARDEN, "When does the ferry leave?"]


async def test_an_app_of_the_older_kind_is_greeted_in_its_thread(world, slack):
    opened = {"user_id": "UADA", "channel_id": "D1", "thread_ts": "17.5", "context": {"channel_id": CHANNEL}}
    await slack.event({"type": "assistant_thread_context_changed", "assistant_thread": opened})
    await slack.event({"type": "assistant_thread_started", "assistant_thread": opened})
    (greeting,) = await world.until(lambda: slack.sent("assistant.threads.setSuggestedPrompts"))
    assert greeting["thread_ts"] == "17.5" and [p["message"] for p in greeting["prompts"]] == ["help", "docs"]
    await slack.say("What do you know?", channel="D1", thread_ts="17.5")
    assert (await world.said("I don't know any documents", "D1"))["thread_ts"] == "17.5"


async def test_the_home_tab_shows_what_ones_channels_know_and_whose_it_is(world, slack):
    slack.members.add("C2")
    slack.joined["C2"] = {"UBOB"}
    await world.teach()
    await world.teach(BAKERY, channel="C2", by="UBOB")
    text = await home(slack, world)
    assert "handbook.pdf" in text and "<@UADA>" in text and f"<#{CHANNEL}>" in text
    assert "bakery.pdf" not in text and "<#C2>" not in text  # of a channel that she is not in
    assert render.DISCLAIMER in text
    text = await home(slack, world, "UBOB")
    assert "bakery.pdf" in text and "handbook.pdf" in text
    forget = [block for block in slack.homes["UBOB"]["blocks"] if block.get("accessory")]
    assert ["bakery.pdf" in block["text"]["text"] for block in forget] == [True]  # his own alone
    assert forget[0]["accessory"]["confirm"]["title"]["text"] == "Forget bakery.pdf?"


async def test_a_document_is_forgotten_from_the_home_tab(world, slack):
    await world.teach()
    await slack.say("learn this", BAKERY, channel="D1")
    await world.said("I know bakery.pdf now", "D1")
    assert "Our direct messages" in await home(slack, world)
    await slack.press_at_home("Forget", number=1)
    text = await world.until(lambda: "is forgotten" in shown(slack.homes["UADA"]) and shown(slack.homes["UADA"]))
    assert text.startswith("handbook.pdf is forgotten") and "bakery.pdf" in text
    assert await world.service.documents(KEY) == []
    await slack.press_at_home("Forget")
    await world.until(lambda: "bakery.pdf is forgotten" in shown(slack.homes["UADA"]))
    assert await world.service.documents(f"slack:{TEAM}:dm:UADA") == []


async def test_an_old_home_tab_forgets_nothing_of_others(world, slack):
    await world.teach()
    await home(slack, world, "UMOD")
    slack.homes["UBOB"] = slack.homes["UMOD"]
    await slack.press_at_home("Forget", by="UBOB")
    await world.until(lambda: "Only the person who brought it" in shown(slack.homes["UBOB"]))
    assert len(await world.service.documents(KEY)) == 1


async def test_the_home_tab_shows_ones_own_when_slack_does_not_tell_the_channels(world, slack):
    await world.teach()
    slack.fault("users.conversations", "missing_scope", times=9)
    assert "handbook.pdf" not in await home(slack, world)


# Corrections


async def test_a_correction_is_learned_when_the_owner_agrees_and_undone_by_the_same_button(world, slack):
    await world.teach()
    answer = await world.ask()
    await slack.click(answer, "👎", by="UBOB")
    (view,) = await world.until(lambda: slack.views)
    await slack.submit(view, RIGHT, by="UBOB")
    offer = await world.said("Bob says this was wrong")
    assert "<@UADA>" in shown(offer) and offer["thread_ts"] == answer["thread_ts"]
    await slack.click(offer, "Learn it", by="UBOB")
    await world.whispered("Only the person who brought it")
    await slack.click(offer, "Learn it", by="UADA")
    learned = await world.said("Learned, as part of")
    assert learned["thread_ts"] == answer["thread_ts"] and shown(learned).startswith(RIGHT)
    assert RIGHT in shown(await world.ask("Who is the warden now?"))
    await slack.click(learned, "Undo", by="UADA")
    undone = await world.said("Undone. I answer as before.")
    assert "Ada Quill" in shown(await world.ask())
    await slack.click(undone, "Learn it", by="UADA")
    await world.until(lambda: len(slack.said("Learned, as part of")) == 2)


async def test_the_correction_of_a_private_answer_stays_private(world, slack):
    await world.teach()
    await slack.slash("engram", f"ask --private {WARDEN}", by="UBOB")
    answer = await world.whispered("Ada Quill")
    slack.whispers.append(answer)
    await slack.click(answer, "👎", by="UBOB")
    (view,) = await world.until(lambda: slack.views)
    await slack.submit(view, RIGHT, by="UBOB")
    await world.whispered("I kept it")
    await world.quiet()
    assert not slack.said("Tom Reed") and not slack.said("says this was wrong")
    await slack.slash("engram", "corrections", by="UADA")
    listed = await world.whispered("What people say is right")
    assert RIGHT in shown(listed) and [button["text"]["text"] for button in buttons(listed)] == ["Learn it"]


# The manifest


def test_the_manifest_is_an_agents():
    features = manifest()["features"]
    assert features["app_home"]["home_tab_enabled"] and "assistant:write" in SCOPES and "app_home_opened" in EVENTS
    assert render.DISCLAIMER in features["agent_view"]["agent_description"]
    assert 174 <= len(manifest()["display_information"]["long_description"]) <= 4000
