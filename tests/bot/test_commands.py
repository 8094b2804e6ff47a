from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from structlog.contextvars import get_contextvars

from bot import links, render
from bot.chat import Attachment, Request, Style, Unfinished, Unreachable
from bot.commands import ACTIONS, COMMANDS, MAX_FETCHES, Bot, Permission, edit_interval
from bot.commands.following import follow
from bot.quotas import QuotaConfig
from core.errors import EngramError, StorageFailed
from core.service import Service
from core.types import Completion
from tests.bot.fake_chat import FakeLive, FakeReply, attachment, request, undelivered
from tests.conftest import SMALL, Open
from tests.fakes import FakeEngine, HeldEngine, plain_pdf
from tests.timeouts import WAIT

TEXT = "The ferry to Marrow Island leaves at seven. The warden is Ada Quill. The lamp burns whale oil. " * 3
PDF = plain_pdf(TEXT)
OTHER_PDF = plain_pdf("The bakery opens at six. The baker is Tom Reed. Bread costs two crowns. " * 3)
BOB = {"user": "fake:bob", "user_name": "Bob"}
MANAGER = {"is_manager": True}


@pytest.fixture
async def bot(open_service: Open) -> AsyncIterator[Bot]:
    async with open_service() as service, Bot(service, limits=SMALL) as bot:
        yield bot


@pytest.fixture
async def taught(bot: Bot) -> Bot:
    """Ada has taught the channel handbook.pdf."""
    await teach(bot)
    return bot


async def teach(bot: Bot, *files: Attachment, **changes: object) -> FakeReply:
    """Hand in and wait for all ends."""
    reply = FakeReply()
    await bot.hear(request("learn", *(files or (attachment(PDF),)), **changes), reply)
    await settled(bot)
    return reply


async def settled(bot: Bot) -> None:
    async with asyncio.timeout(WAIT):
        while bot._tasks:
            done, _ = await asyncio.wait(bot._tasks)
            for task in done:
                assert task.cancelled() or task.exception() is None


async def run(bot: Bot, name: str, **changes: object) -> FakeReply:
    reply = FakeReply()
    await bot.run(name, request(**changes), reply)
    return reply


async def ask(bot: Bot, question: str = "Who is the warden?", *, opens: str = "", **changes: object) -> FakeReply:
    """`opens`: the thread that the answer opens."""
    reply = FakeReply(thread=opens)
    await bot.hear(request(question, **changes), reply)
    return reply


async def press(bot: Bot, action: str, value: str = "", text: str = "", **changes: object) -> FakeReply:
    reply = FakeReply()
    await bot.press(action, value, request(text, **changes), reply)
    return reply


# Learning


async def test_a_pdf_is_learned_and_its_end_is_told(bot):
    (live,) = (await teach(bot)).lives
    assert live.shown[0].title == "Learning handbook.pdf"
    assert live.ended[0].title == "I know handbook.pdf now" and live.ended[0].notify == "fake:ada"
    assert await bot.service.pending_deliveries() == []


async def test_several_pdfs_are_several_jobs(bot):
    reply = await teach(bot, attachment(PDF), attachment(OTHER_PDF, "bakery.pdf"))
    assert [live.ended[0].title for live in reply.lives] == ["I know handbook.pdf now", "I know bakery.pdf now"]


async def test_the_same_pdf_twenty_times_is_one_job_and_twenty_answers(bot):
    replies = [FakeReply() for _ in range(20)]
    await asyncio.gather(*(bot.hear(request("", attachment(PDF), user=f"fake:{n}"), r) for n, r in enumerate(replies)))
    await settled(bot)
    titles = [reply.lives[0].ended[0].title for reply in replies]
    known = ("handbook.pdf: I know this one", "handbook.pdf is on its way")
    assert titles.count("I know handbook.pdf now") == 1 and sum(title in known for title in titles) == 19


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (attachment(b"ID3", "song.mp3", "audio/mpeg"), "can't read such a file"),
        (attachment(rb"{\rtf1 hello}", "page.pdf"), "This is an RTF file"),
        (attachment(b"%PDF-" + b"x" * 20_000), "20,005 bytes; the limit is"),
        (attachment(plain_pdf("Too short.")), "too little to learn from"),
    ],
)
async def test_a_document_that_cannot_be_learned_is_refused_with_the_reason(bot, file, words):
    reply = await teach(bot, file)
    assert words in f"{reply.text} {[live.ended for live in reply.lives]}"
    assert file.name in f"{reply.text} {[live.ended for live in reply.lives]}"


async def test_a_size_that_the_platform_understates_is_noticed(bot):
    reply = await teach(bot, replace(attachment(b"%PDF-" + b"x" * 20_000), size=10))
    assert "the limit is" in reply.lives[0].ended[0].text


async def test_a_file_that_cannot_be_fetched_is_refused(bot):
    async def read() -> bytes:
        raise OSError("/secret/path")

    reply = await teach(bot, Attachment("handbook.pdf", 10, "application/pdf", read))
    assert reply.lives[0].ended[0].text == "I could not download it; please send it again."


async def test_learning_without_a_file_says_what_to_do(bot):
    assert "Attach a document" in (await run(bot, "learn")).text


async def test_a_flood_is_answered_one_by_one(open_service):
    async with open_service() as service, Bot(service, quotas=QuotaConfig(user_uploads_per_hour=3)) as bot:
        files = [attachment(plain_pdf(f"Document {n}. {TEXT}"), f"{n}.pdf") for n in range(200)]
        reply = await teach(bot, *files)
        assert len(reply.lives) == 3
        assert sum("not take" in message.title and "try again in" in message.text for message in reply.said) == 197
        assert len((await teach(bot, *files[5:6], **BOB)).lives) == 1


async def test_of_one_persons_files_one_at_a_time_is_in_memory(bot):
    now, most = 0, 0

    async def read() -> bytes:
        nonlocal now, most
        now, most = now + 1, max(most, now + 1)
        await asyncio.sleep(0.01)
        now -= 1
        return plain_pdf(TEXT)

    files = [replace(attachment(b"x"), read=read) for _ in range(10)]
    await asyncio.gather(*(bot.hear(request("", file), FakeReply()) for file in files))
    assert most == 1
    await asyncio.gather(*(bot.hear(request("", file, user=f"fake:{n}"), FakeReply()) for n, file in enumerate(files)))
    assert most <= MAX_FETCHES


async def test_a_flood_in_one_channel_delays_another_by_at_most_one_job(open_service):
    engine = HeldEngine()
    engine.go.clear()
    async with open_service(engine) as service, Bot(service) as bot:
        files = [attachment(plain_pdf(f"Document {n}. {TEXT}"), f"{n}.pdf") for n in range(8)]
        await bot.hear(request("", *files), FakeReply())
        await bot.hear(request("", attachment(OTHER_PDF), channel="fake:2", **BOB), FakeReply())
        engine.go.set()
        await settled(bot)
        learned = [*await service.documents("fake:1"), *await service.documents("fake:2")]
    order = [document.channel for document in sorted(learned, key=lambda document: document.learned_at)]
    assert len(order) == 9 and "fake:2" in order[:2]


async def test_pages_count_against_the_quota(open_service):
    async with open_service() as service, Bot(service, quotas=QuotaConfig(user_pages_per_day=2)) as bot:
        await teach(bot, attachment(plain_pdf(TEXT, TEXT, TEXT)))
        assert "2 pages a day" in (await teach(bot, attachment(OTHER_PDF, "bakery.pdf"))).text


async def test_edits_become_rarer_with_age():
    assert [edit_interval(age) for age in (0, 60, 600, 7200)] == [3.0, 3.0, 30.0, 60.0]


# Ends that must be told


async def test_an_end_that_is_not_taken_is_tried_again(bot):
    bot.retry_after = (0, 0, 0)
    reply = FakeReply()
    await bot.hear(request("", attachment(PDF)), reply)
    reply.lives[0].troubles = undelivered(3)
    await settled(bot)
    assert reply.lives[0].ended and not await bot.service.pending_deliveries()


async def test_an_end_that_was_never_told_is_told_after_the_restart(bot):
    bot.retry_after = ()
    reply, again = FakeReply(), FakeLive("fake:0")
    await bot.hear(request("", attachment(PDF)), reply)
    reply.lives[0].troubles = undelivered(1)
    await settled(bot)

    async def reopen(address: str) -> FakeLive:
        assert address == "fake:0"
        return again

    await bot.resume(reopen)
    await settled(bot)
    assert [message.title for message in again.ended] == ["I know handbook.pdf now"]
    await bot.resume(reopen)
    await settled(bot)
    assert len(again.ended) == 1


async def test_an_end_that_was_told_stays_as_it_was_told_when_this_cannot_be_stored(bot, monkeypatch):
    async def full(job_id: str) -> None:
        raise StorageFailed

    monkeypatch.setattr(bot.service, "delivered", full)
    (live,) = (await teach(bot)).lives
    assert [message.title for message in live.ended] == ["I know handbook.pdf now"]
    assert render.waits("handbook.pdf", StorageFailed()) not in live.shown


async def test_a_job_that_was_interrupted_is_followed_after_the_restart(open_service):
    live = FakeLive("fake:0")

    async def reopen(address: str) -> FakeLive:
        return live

    async with open_service(FakeEngine(step_seconds=0.2)) as service, Bot(service) as bot:
        await bot.hear(request("", attachment(PDF)), FakeReply())
    async with open_service() as service, Bot(service) as bot:
        await bot.resume(reopen)
        await settled(bot)
    assert [message.title for message in live.ended] == ["I know handbook.pdf now"]


async def test_one_of_two_front_ends_tells_the_end(open_service):
    async with open_service(FakeEngine(step_seconds=0.05)) as service:
        async with Bot(service, name="one") as one, Bot(service, name="two") as two:
            job = await service.submit("fake:1", "a.pdf", PDF, by="fake:ada", reply_to="fake:0")
            lives = [FakeLive("fake:0"), FakeLive("fake:0")]
            for bot, live in zip((one, two), lives, strict=True):
                follow(bot, job, live)
                await settled(bot)
        assert sum(len(live.ended) for live in lives) == 1


async def test_an_end_that_another_front_end_did_not_live_to_tell_is_told(open_service, monkeypatch):
    monkeypatch.setattr("bot.commands.following.LATE_SECONDS", 0.1)
    live = FakeLive("fake:0")

    async def reopen(address: str) -> FakeLive:
        return live

    async with open_service() as service, Bot(service, name="two") as bot:
        await bot.resume(reopen)
        await service.submit("fake:1", "a.pdf", PDF, by="fake:ada", reply_to="fake:0")  # by one that is gone
        async with asyncio.timeout(WAIT):
            while not live.ended:
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        assert [message.title for message in live.ended] == ["I know a.pdf now"]


async def test_a_channel_that_is_gone_is_not_tried_for_ever(bot):
    reply = FakeReply()
    await bot.hear(request("", attachment(PDF)), reply)
    reply.lives[0].troubles = [Unreachable()]
    await settled(bot)
    assert await bot.service.pending_deliveries() == []


async def test_other_platforms_jobs_are_left_alone(bot):
    async def reopen(address: str) -> None:
        return None

    await bot.service.submit("slack:T:C", "a.pdf", PDF, by="slack:T:U", reply_to="slack:C:1")
    await bot.resume(reopen)
    assert not bot._tasks


async def test_insisting_ends_with_the_last_trouble(bot):
    bot.retry_after = (0, 0, 0)
    with pytest.raises(Unreachable):
        await bot.send(FakeReply(troubles=[*undelivered(1), Unreachable()]).say, "anything")


# Asking


async def test_the_answer_comes_first_and_the_base_answer_on_a_small_line(taught):
    (message,) = (await ask(taught)).said
    assert message.title == "The warden is Ada Quill"
    assert message.footer == "likely · handbook.pdf, p. 1\nWithout the document: I do not know."
    assert [button.label for button in message.buttons] == ["👍", "👎", "Details"]
    assert "Who is the warden?" not in str(message) and "%" not in str(message)


async def test_all_that_is_known_of_an_answer_stands_behind_details(taught):
    (message,) = (await ask(taught)).said
    (details,) = (await press(taught, "details", message.buttons[-1].value, **BOB)).private
    assert "%" not in str(details) and "None came from a document" in details.footer
    await run(taught, "forget", arguments={"document": "handbook.pdf"})
    assert "not stored any more" in (await press(taught, "details", message.buttons[-1].value)).text


async def test_how_learning_went_stands_behind_details(taught):
    (document,) = await taught.service.documents("fake:1")
    (details,) = (await press(taught, "learning", document.id)).private
    assert details.picture.startswith(b"\x89PNG") and "loss" in str(details.fields)


async def test_an_answer_that_no_page_supports_is_never_likely(taught):
    (message,) = (await ask(taught, "What burns brightly on the moon?")).said
    assert "likely" not in message.footer


async def test_a_channel_shows_as_much_of_the_base_answer_as_it_wants(taught):
    shown = {}
    for value in ("full", "line", "off"):
        await press(taught, "set", f"compare={value}", **MANAGER)
        (message,) = (await ask(taught)).said
        shown[value] = (len(message.fields), "Without the document" in message.footer)
    assert shown == {"full": (1, False), "line": (0, True), "off": (0, False)}
    assert "manage this channel" in (await press(taught, "set", "compare=off")).text
    assert "no longer works" in (await press(taught, "set", "compare=loud", **MANAGER)).text


@pytest.mark.parametrize(
    ("threads", "asked_in", "opens"),
    [("always", "", True), ("never", "7", False), ("follow-ups", "", False), ("follow-ups", "7", True)],
)
async def test_a_channel_chooses_when_an_answer_opens_a_thread(taught, threads, asked_in, opens):
    await press(taught, "set", f"threads={threads}", **MANAGER)
    assert bool((await ask(taught, thread=asked_in)).threads) == opens


async def test_the_settings_show_what_is_chosen(bot):
    (message,) = (await run(bot, "settings", **MANAGER)).private
    chosen = [button.value for button in message.buttons if button.style is Style.PRIMARY]
    assert chosen == ["compare=line", "threads=follow-ups"]
    assert "manage this channel" in (await run(bot, "settings")).text


# Small talk, and nothing known


async def test_small_talk_asks_no_model_and_takes_no_quota(open_service):
    engine = FakeEngine()
    async with open_service(engine) as service, Bot(service, quotas=QuotaConfig(user_questions_per_minute=1)) as bot:
        await teach(bot)
        engine.batches.clear()
        for text in ("hello", "", "who are you?", "tell me a joke", "that's wrong", "how are you?", "good morning all"):
            assert len((await ask(bot, text)).said) == 1
        for text in ("thanks!", "👍", "lol", "ok cool", "bye"):
            reply = await ask(bot, text)
            assert len(reply.reactions) == 1 and not reply.said
        assert not engine.batches
        assert "Ada Quill" in (await ask(bot)).text


async def test_words_that_are_no_question_get_a_good_answer_or_none(taught):
    assert "Ada Quill" in (await ask(taught, "the warden please")).said[0].title
    for text in ("top of the morning to all of you", "I bought new shoes"):
        assert (await ask(taught, text)).said[0].text == "I did not get that. Ask me about handbook.pdf."


async def test_a_greeting_says_what_one_can_ask_about(bot):
    assert "Attach a document" in (await ask(bot, "hi")).text
    assert "Send me a document" in (await ask(bot, "hi", is_dm=True)).text
    await teach(bot)
    assert "Ask me about handbook.pdf." in (await ask(bot, "hi")).text


@pytest.mark.parametrize(
    "text", ["Me neither.", "lol", "hello", "I think so", "this one", "stop it", "", "I'm lost", "forget the meeting"]
)
async def test_what_people_say_to_each_other_in_its_thread_is_left_alone(taught, text):
    reply = await ask(taught, text, is_addressed=False)
    assert not reply.said and not reply.reactions and not reply.lives


@pytest.mark.parametrize(
    "text",
    ["Who is the warden?", "tell me about the ferry", "when does it leave", "docs", "forget the handbook", "tl;dr?"],
)
async def test_a_question_in_its_thread_needs_no_mention(taught, text):
    assert len((await ask(taught, text, is_addressed=False)).said) == 1


async def test_a_channel_without_documents_says_so_and_asks_no_model(open_service):
    engine = FakeEngine()
    async with open_service(engine) as service, Bot(service) as bot:
        (message,) = (await ask(bot, "Who is the warden?")).said
        assert message.text.startswith("I don't know any documents here yet.") and not engine.batches


async def test_a_question_that_comes_while_the_document_is_learned_is_answered_afterwards(open_service):
    async with open_service(FakeEngine(step_seconds=0.05)) as service, Bot(service) as bot:
        await bot.hear(request("", attachment(PDF)), FakeReply())
        first, second = (await ask(bot, "Who is the warden?", **BOB)).said
        assert "still learning handbook.pdf" in first.text and "Ada Quill" in second.title


async def test_a_question_beside_a_pdf_is_answered_when_it_is_known(bot):
    reply = FakeReply()
    await bot.hear(request("who is the warden?", attachment(PDF)), reply)
    assert "Ada Quill" in reply.said[-1].title


async def test_a_question_beside_another_file_is_answered(taught):
    reply = FakeReply()
    await taught.hear(request("Who is the warden?", attachment(b"JPEG", "cat.jpg", "image/jpeg")), reply)
    assert "Ada Quill" in reply.text


async def test_a_picture_between_people_is_left_alone(taught):
    reply = FakeReply()
    await taught.hear(request("", attachment(b"JPEG", "cat.jpg", "image/jpeg"), is_addressed=False), reply)
    assert not reply.said


async def test_a_question_that_waits_for_a_document_is_left_to_the_next_process(open_service):
    async with open_service(FakeEngine(step_seconds=0.2)) as service, Bot(service) as bot:
        await bot.hear(request("", attachment(PDF)), FakeReply())
        waiting = asyncio.create_task(ask(bot, "Who is the warden?"))
        await asyncio.sleep(0.1)
    with pytest.raises(Unfinished):
        await waiting


async def test_a_document_that_is_named_in_the_question_is_asked(taught):
    await teach(taught, attachment(OTHER_PDF, "bakery.pdf"))
    for text in ("Who is the warden in bakery.pdf?", "bakery: who is the warden?"):
        assert "bakery.pdf" in (await ask(taught, text)).text
    assert "know a document called cellar.pdf" in (await ask(taught, "Who is it in cellar.pdf?")).text


@pytest.mark.parametrize(
    "text", ["learn https://a.org/b.pdf", "https://a.org/b.pdf", "please learn this: https://a.org/b"]
)
async def test_a_link_is_not_opened_unless_that_is_allowed(bot, text):
    reply = FakeReply()
    await bot.hear(request(text), reply)
    assert "I do not open links here" in reply.text


async def test_a_link_is_learned_where_that_is_allowed(open_service, monkeypatch):
    async def fetch(link: str, most: int) -> bytes:
        return PDF

    monkeypatch.setattr(links, "fetch", fetch)
    async with open_service() as service, Bot(service, limits=SMALL, opens_links=True) as bot:
        reply = FakeReply()
        await bot.hear(request("learn https://a.org/handbook.pdf"), reply)
        await settled(bot)
        assert [document.name for document in await service.documents(request().channel)] == ["handbook.pdf"]
        assert "Who" not in (await ask(bot, "Who is the warden in https://a.org/handbook.pdf?")).text


async def test_a_question_in_another_language_is_told_once_what_is_read_best(taught):
    said = [(await ask(taught, question)).text for question in ("Wer ist der Wärter?", "Was kostet die Fähre?")]
    assert ["I read English best." in text for text in said] == [True, False]
    assert "I read English best." not in (await ask(taught)).text


async def test_the_first_answer_says_when_a_follow_up_can_not_be_heard(open_service):
    async with open_service() as service, Bot(service, hears_follow_ups=False) as bot:
        await teach(bot)
        assert ["mention me again" in (await ask(bot)).text for _ in range(2)] == [True, False]
        assert "mention me again" in (await run(bot, "help")).text


async def test_another_channel_knows_nothing_of_it(taught):
    reply = await ask(taught, channel="fake:2")
    assert "Ada Quill" not in reply.text and "don't know any documents" in reply.text


async def test_one_document_can_be_asked(taught):
    await teach(taught, attachment(OTHER_PDF, "bakery.pdf"))
    arguments = {"question": "Who is the warden?", "document": "bakery.pdf"}
    assert "bakery.pdf" in (await run(taught, "ask", arguments=arguments)).text


async def test_a_private_answer_is_shared_once_by_the_one_who_asked(taught):
    private = await run(taught, "ask", arguments={"question": "Who is the warden?", "private": True})
    (message,) = private.private
    share = message.buttons[-1]
    assert "ask again" in (await press(taught, "share", share.value, **BOB)).text
    shared = await press(taught, "share", share.value)
    assert "Ada Quill" in shared.text and shared.said[0].asked == "Ada asked: Who is the warden?"
    assert "share" not in [button.action for button in shared.said[0].buttons]
    assert "already" in (await press(taught, "share", share.value)).text


async def test_what_was_forgotten_is_not_shared(taught):
    (message,) = (await run(taught, "ask", arguments={"question": "Who is the warden?", "private": True})).private
    await run(taught, "forget", arguments={"document": "handbook.pdf"})
    assert "ask again" in (await press(taught, "share", message.buttons[-1].value)).text


async def test_an_erased_answer_is_not_shared_nor_one_from_another_channel(taught):
    private = await run(taught, "ask", arguments={"question": "Who is the warden?", "private": True})
    share = private.private[0].buttons[-1]
    assert "ask again" in (await press(taught, "share", share.value, channel="fake:2")).text
    await press(taught, "reset", "", is_manager=True)
    shared = await press(taught, "share", share.value)
    assert "ask again" in shared.text and "Ada Quill" not in shared.text


@pytest.mark.parametrize("who", [{}, {"is_guest": True}, {"is_dm": True, "is_guest": True}])
async def test_every_command_and_button_counts_for_guests_too(open_service, who):
    async with open_service() as service, Bot(service, quotas=QuotaConfig(user_commands_per_minute=3)) as bot:
        for _ in range(3):
            assert "commands a minute" not in (await run(bot, "docs", **who)).text
        assert "3 commands a minute" in (await run(bot, "status", **who)).text
        assert "3 commands a minute" in (await press(bot, "keep", "", **who)).text
        assert "commands a minute" not in (await run(bot, "docs", **BOB)).text


async def steered(bot: Bot, *threads: str) -> list[bool]:
    """Whether the next question in each thread is put to the handbook first."""
    (handbook,) = await bot.service.documents("fake:1")
    return [await bot.service._index.thread_document("fake:1", thread) == handbook.id for thread in threads]


async def test_an_answer_stands_in_the_thread_that_it_opened_or_was_asked_in(taught):
    await ask(taught, opens="1")
    await ask(taught, thread="2", opens="2")
    assert await steered(taught, "1", "2", "3") == [True, True, False]


async def test_a_private_answer_stands_where_it_was_asked_until_it_is_shared(taught):
    arguments = {"question": "Who is the warden?", "private": True}
    await run(taught, "ask", arguments=arguments, thread="1")
    (message,) = (await run(taught, "ask", arguments=arguments)).private
    assert await steered(taught, "1", "2") == [True, False]
    await taught.press("share", message.buttons[-1].value, request(), FakeReply(thread="2"))
    assert await steered(taught, "1", "2") == [True, True]


async def test_an_answer_is_given_also_when_its_thread_cannot_be_stored(taught, monkeypatch):
    async def full(*_: object) -> None:
        raise StorageFailed

    monkeypatch.setattr(taught.service, "placed", full)
    assert len((await ask(taught, opens="1")).said) == 1


async def test_too_many_questions_have_to_wait(open_service):
    async with open_service() as service, Bot(service, quotas=QuotaConfig(user_questions_per_minute=1)) as bot:
        await teach(bot)
        await ask(bot)
        assert "try again in" in (await ask(bot)).text
        assert "try again in" not in (await ask(bot, **BOB)).text


async def test_feedback_is_stored(taught):
    helpful, wrong, _ = (await ask(taught)).said[0].buttons
    assert "Thank you!" in (await press(taught, helpful.action, helpful.value, **BOB)).text
    assert "that it was wrong" in (await press(taught, wrong.action, wrong.value)).text
    assert "Shall I learn it?" in (await press(taught, wrong.action, wrong.value, text=" It is Tom. ")).text
    (correction,) = await taught.service.corrections("fake:1")
    assert (correction.document, correction.question) == ("handbook.pdf", "Who is the warden?")
    assert (correction.answer, correction.correction) == ("The warden is Ada Quill", "It is Tom.")
    assert await taught.service.corrections("fake:2") == []


async def correct(bot: Bot, right: str = "The warden is Tom Reed", **who: object) -> FakeReply:
    """Somebody says what is right instead of an answer."""
    _, wrong, _ = (await ask(bot)).said[0].buttons
    return await press(bot, wrong.action, wrong.value, text=right, **who)


async def test_the_owner_of_a_document_lets_a_correction_be_learned_and_undoes_it(taught):
    said = await correct(taught, **BOB)
    private, offered = said.said
    assert said.private == [private] and not private.buttons and "decides whether I learn it" in private.text
    assert offered.notify == "fake:ada" and "Tom Reed" in offered.text and "Bob" in offered.title
    (learn,) = offered.buttons
    refused = await press(taught, learn.action, learn.value, **BOB)
    assert "Only the person who brought it" in refused.text and refused.lives == []
    guest = await press(taught, learn.action, learn.value, is_guest=True)
    assert "Guests" in guest.text

    (live,) = (await press(taught, learn.action, learn.value)).lives
    await settled(taught)
    (learned,) = live.ended
    assert learned.title == "The warden is Tom Reed" and [button.label for button in learned.buttons] == ["Undo"]
    assert "Tom Reed" in (await ask(taught)).text
    assert "already" in (await press(taught, learn.action, learn.value)).text
    (undo,) = learned.buttons
    (live,) = (await press(taught, undo.action, undo.value)).lives
    await settled(taught)
    assert live.ended[0].text.startswith("Undone") and live.ended[0].buttons[0].label == "Learn it"
    assert "Ada Quill" in (await ask(taught)).text


async def test_who_owns_a_document_is_asked_at_once_and_nobody_else_hears_of_it(taught):
    said = await correct(taught)
    assert said.said == said.private and said.said[0].buttons[0].action == "correction"
    by_manager = await correct(taught, **BOB, **MANAGER)
    assert by_manager.said == by_manager.private and by_manager.said[0].buttons


async def test_what_was_asked_in_private_is_not_told_to_the_owner_in_public(taught):
    said = await correct(taught, is_whispered=True, **BOB)
    assert said.said == said.private
    (listed,) = (await run(taught, "corrections")).private
    (field,) = listed.fields
    assert "Tom Reed" in field.text and field.button.label == "Learn it"
    assert "for you to decide on" in (await run(taught, "corrections", **BOB)).text


async def test_a_correction_that_harms_is_left_out_and_said(taught):
    said = await correct(taught)
    engine = taught.service._runner.device.engine
    engine.says = Completion("Something else", 2, 0.1, 0.9)
    (live,) = (await press(taught, said.said[0].buttons[0].action, said.said[0].buttons[0].value)).lives
    await settled(taught)
    (message,) = live.ended
    assert message.title == "I did not learn that correction"
    assert "still don't answer" in message.text and not message.buttons


async def test_a_correction_of_what_is_forgotten_since_is_only_told_so(taught):
    (learn,) = (await correct(taught)).said[0].buttons
    await run(taught, "forget", arguments={"document": "handbook.pdf"})
    said = await press(taught, learn.action, learn.value)
    assert "not stored any more" in said.text and said.lives == []


async def test_an_example_question_is_asked_by_its_button(open_service):
    questions = ("Who is the club founded by?", "What does the moon burn?", "Who is the warden?")
    async with open_service(FakeEngine(questions=questions)) as service, Bot(service) as bot:
        (live,) = (await teach(bot)).lives
        example, _ = live.ended[0].buttons
        assert example.label == "Who is the warden?"
        assert "Ada Quill" in (await press(bot, example.action, example.value)).text
        await run(bot, "forget", arguments={"document": "handbook.pdf"})
        assert "no longer know" in (await press(bot, example.action, example.value)).text


# Managing


async def test_documents_are_listed_with_who_brought_them(taught):
    reply = await run(taught, "docs")
    assert "handbook.pdf" in reply.text and "by Ada" in reply.text and reply.private


async def test_ones_own_document_can_be_forgotten(taught):
    assert "forgotten" in (await run(taught, "forget", arguments={"document": "handbook.pdf"})).text
    assert await taught.service.documents("fake:1") == []


@pytest.mark.parametrize("text", ["forget h", "/forget hand", "please delete the handbook", "forget me"])
async def test_forget_never_guesses(taught, text):
    await ask(taught, text)
    assert len(await taught.service.documents("fake:1")) == 1


async def test_a_part_of_a_name_is_asked_about(taught):
    (message,) = (await run(taught, "forget", arguments={"document": "hand"})).private
    assert message.title == "Forget handbook.pdf?"
    assert "manages this channel" in (await run(taught, "forget", arguments={"document": "hand"}, **BOB)).text
    assert "handbook.pdf is forgotten" in (await press(taught, "forget", message.buttons[0].value)).text


async def test_without_a_name_buttons_show_what_can_be_forgotten(taught):
    assert "given me no documents here" in (await run(taught, "forget", **BOB)).text
    (message,) = (await run(taught, "forget")).private
    button, keep = message.buttons
    assert "manages this channel" in (await press(taught, button.action, button.value, **BOB)).text
    assert "Kept" in (await press(taught, keep.action)).text
    assert "handbook.pdf is forgotten" in (await press(taught, button.action, button.value)).text


async def test_a_file_that_is_named_like_anothers_id_blocks_nothing(taught):
    (document,) = await taught.service.documents("fake:1")
    await teach(taught, attachment(OTHER_PDF, document.id, "application/pdf"))
    (message,) = (await run(taught, "forget", arguments={"document": document.id})).private
    assert {button.value for button in message.buttons[:2]} == {d.id for d in await taught.service.documents("fake:1")}
    await press(taught, "forget", document.id)
    assert [d.name for d in await taught.service.documents("fake:1")] == [document.id]


async def test_a_new_version_offers_to_forget_the_older_one(taught):
    (older,) = await taught.service.documents("fake:1")
    (live,) = (await teach(taught, attachment(OTHER_PDF))).lives
    assert ("forget", older.id) in [(button.action, button.value) for button in live.ended[0].buttons]
    assert (
        "Tom Reed"
        in (await run(taught, "ask", arguments={"question": "Who is the baker?", "document": "handbook"})).text
    )


async def test_anothers_document_only_by_a_manager(taught):
    forget = {"arguments": {"document": "handbook.pdf"}}
    assert "manages this channel" in (await run(taught, "forget", **forget, **BOB)).text
    assert len(await taught.service.documents("fake:1")) == 1
    assert "forgotten" in (await run(taught, "forget", **forget, **BOB, **MANAGER)).text


async def test_an_unknown_document_is_named(taught):
    assert "called nothing.pdf" in (await run(taught, "forget", arguments={"document": "nothing.pdf"})).text


async def test_two_documents_of_one_name_are_told_apart_by_buttons(taught):
    await teach(taught, attachment(OTHER_PDF))
    (message,) = (await run(taught, "forget", arguments={"document": "handbook.pdf"})).private
    assert [button.action for button in message.buttons] == ["forget", "forget", "keep"]


async def test_reset_asks_first_and_only_managers(taught):
    assert "manage this channel" in (await run(taught, "reset")).text
    question = (await run(taught, "reset", **MANAGER)).said[0]
    assert [button.action for button in question.buttons] == ["reset", "keep"]
    assert len(await taught.service.documents("fake:1")) == 1


async def test_the_reset_button_checks_the_right_again(taught):
    assert "manage this channel" in (await press(taught, "reset")).text
    assert "Forgot 1 document" in (await press(taught, "reset", **MANAGER)).replaced[0].text
    assert await taught.service.documents("fake:1") == []


async def test_in_a_direct_message_everyone_manages_their_own(taught):
    assert "Forgot" in (await press(taught, "reset", is_dm=True)).text


async def test_names_are_suggested(taught):
    option = COMMANDS["forget"].options[0]
    ((name, value),) = await taught.suggest(option, request(), "BOOK")
    assert name == "handbook.pdf" and value == (await taught.service.documents("fake:1"))[0].id
    assert await taught.suggest(option, request(channel="fake:2"), "") == []


async def test_a_job_is_cancelled_by_its_owner_or_a_manager(open_service):
    async with open_service(FakeEngine(step_seconds=0.05)) as service, Bot(service) as bot:
        reply = FakeReply()
        await bot.hear(request("", attachment(PDF)), reply)
        (job,) = await service.jobs("fake:1")
        assert "manages this channel" in (await press(bot, "cancel", job.id, **BOB)).text
        assert "Stopping" in (await press(bot, "cancel", job.id)).text
        await settled(bot)
        assert reply.lives[0].ended[0].text == "Stopped. Nothing of handbook.pdf was kept."
        assert "already over" in (await press(bot, "cancel", job.id)).text


async def test_a_reset_ends_what_is_being_learned(open_service):
    async with open_service(FakeEngine(step_seconds=0.05)) as service, Bot(service) as bot:
        reply = FakeReply()
        await bot.hear(request("", attachment(PDF)), reply)
        await press(bot, "reset", **MANAGER)
        await settled(bot)
        assert len(reply.lives[0].ended) == 1


@pytest.mark.parametrize("name", ["status", "help", "about"])
async def test_everyone_can_look(bot, name):
    assert (await run(bot, name, is_guest=True)).private


# The table


@pytest.mark.parametrize("name", COMMANDS)
async def test_guests_change_nothing(taught, name):
    reply = await run(taught, name, is_guest=True, arguments={"document": "handbook.pdf", "question": "Who?"})
    refused = "Guests can ask" in reply.text or "manage this channel" in reply.text
    assert refused == (COMMANDS[name].permission is not Permission.EVERYONE)
    assert len(await taught.service.documents("fake:1")) == 1


def test_forms_keep_both_platforms_limits():
    forms = [row.form for row in ACTIONS.values() if row.form]
    assert forms and all(len(form.title) <= 24 and len(form.label) <= 45 for form in forms)


async def test_nothing_can_be_pressed_that_is_not_in_the_table(bot):
    assert "no longer works" in (await press(bot, "launch")).text
    assert all(row.permission is Permission.MANAGER for name, row in ACTIONS.items() if name == "reset")


async def test_the_log_knows_server_and_channel(bot):
    class Noting(FakeReply):
        async def say(self, *_: object, **__: object) -> None:
            seen.update(get_contextvars())

    seen: dict[str, object] = {}
    await bot.run("help", request(channel="discord:300:400"), Noting())
    assert seen == {"guild": "discord:300", "channel": "discord:300:400"}


async def test_foreign_errors_are_not_shown(bot):
    await teach(bot)
    reply = await ask(bot, "explode")
    assert "Something went wrong" in reply.text and "/secret" not in reply.text


async def test_a_reply_that_cannot_be_delivered_breaks_nothing(bot):
    bot.retry_after = ()
    await bot.run("help", request(), FakeReply(troubles=undelivered(5)))


async def test_a_failing_suggestion_is_an_empty_one(bot):
    async def broken(bot: Bot, request: Request, typed: str) -> list[tuple[str, str]]:
        raise EngramError

    assert await bot.suggest(replace(COMMANDS["forget"].options[0], suggest=broken), request(), "") == []


def test_the_service_is_all_that_a_command_needs(bot):
    assert isinstance(bot.service, Service)


async def test_a_hundred_questions_at_once_get_their_own_channels_answers(open_service):
    async with open_service(FakeEngine(answer_seconds=0.01)) as service, Bot(service) as bot:
        for channel in range(20):
            pdf = plain_pdf(f"The code of this channel is number{channel}. The lamp burns whale oil. " * 3)
            await teach(bot, attachment(pdf), channel=f"fake:{channel}", user=f"fake:{channel}")
        asked = [n % 20 for n in range(100)]
        places = ({"channel": f"fake:{channel}", "user": f"fake:{n}"} for n, channel in enumerate(asked))
        replies = await asyncio.gather(*(ask(bot, "What is the code of this channel?", **place) for place in places))
    for channel, reply in zip(asked, replies, strict=True):
        (message,) = reply.said
        assert message.title == f"The code of this channel is number{channel}"
