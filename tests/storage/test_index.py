"""The index: jobs, documents and questions, in SQLite and in PostgreSQL."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from dataclasses import replace

import pytest

import storage.index
from core.errors import AlreadyKnown, Cancelled, NotFound, StorageFailed
from core.ports import Index as Port
from core.search.ranking import Hit
from core.types import ALL_PAGES, Document, Stage
from storage.channel_files import ChannelFile
from storage.index import Index
from tests.stall import Stall
from tests.storage.samples import claim, learn, make_answer, make_chunks, make_document, make_job

HOSTILE = [
    "'; DROP TABLE documents; --",
    "' OR 1=1--",
    '"); DROP TABLE jobs',
    '"',
    "'",
    '""',
    "*",
    "^",
    "a*",
    "NEAR(",
    "NEAR(a b, 2)",
    "AND",
    "OR",
    "NOT",
    "a AND",
    "-a",
    "+",
    "text:",
    "{a b}:c",
    "(",
    ")",
    "\\",
    "%",
    "_",
    "?1",
    ":id",
    "\x00",
    "a\x00b",
    "\ud800",
    "🙂",
    "x" * 20_000,
    "a b " * 5_000,
]


# The file


def test_the_index_has_every_method_of_the_port() -> None:
    assert [name for name in vars(Port) if not name.startswith("_") and not hasattr(Index, name)] == []


def test_importing_it_does_not_import_torch() -> None:
    code = "import sys, storage.index, storage.weights, storage.folder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


async def test_a_claim_belongs_to_the_first_who_makes_it(index: Index) -> None:
    assert [await index.claim("slack:file:F1", owner) for owner in "aba"] == [True, False, True]
    assert await index.claim("slack:file:F1", "b", seconds=-1.0) and not await index.claim("slack:file:F1", "a")


async def test_what_was_worked_off_is_forgotten_after_a_day_and_what_was_not_is_kept(index: Index, monkeypatch) -> None:
    monkeypatch.setattr(storage.index, "INBOX_SECONDS", -1.0)
    await index.receive("slack:event:1", "one")
    await index.receive("slack:event:2", "two")
    await index.handled("slack:event:1")
    assert await index.receive("slack:event:1", "one") and not await index.receive("slack:event:2", "two")


async def test_a_cancelled_writer_blocks_nobody_and_leaves_nothing_half_done(index: Index) -> None:
    for at in range(20):
        writing = asyncio.create_task(index.add_job(make_job(f"job{at}"), b"%PDF-"))
        await asyncio.sleep(at / 10_000)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    await index.add_job(make_job("last"), b"%PDF-")
    jobs = await index.jobs()
    assert jobs[-1].id == "last" and [await index.job_file(job.id) for job in jobs] == [(b"%PDF-", ALL_PAGES)] * len(
        jobs
    )


async def test_eight_writers_at_once_never_see_a_locked_file(index: Index) -> None:
    document = await learn(index, "d1", ["The harbour opened."])

    async def write(writer: int) -> None:
        for at in range(25):
            await index.add_job(make_job(f"{writer}-{at}", f"channel {writer}"), b"%PDF-")
            answer = await index.add_answer("here", make_answer(document), asked_by="ada")
            await index.feedback("here", answer, by="bob", helpful=True)
            await index.jobs()

    await asyncio.gather(*(write(writer) for writer in range(8)))
    assert len(await index.jobs()) == 200
    assert len({job.id for job in [await index.next_job() for _ in range(200)] if job}) == 200


async def test_a_file_of_50_mb_does_not_hold_up_the_event_loop(index: Index) -> None:
    stall = Stall()
    data = bytes(50 * 2**20)
    watching, began = asyncio.create_task(stall.watch()), time.perf_counter()
    await index.add_job(make_job("big"), data)
    assert len((await index.job_file("big"))[0]) == 50 * 2**20
    await index.job_stage("big", Stage.CANCELLED)
    watching.cancel()
    assert 0 < stall.own < max(0.25, (time.perf_counter() - began) / 4)  # SQLite copies the file within Python's lock


# Jobs


async def test_a_job_comes_back_as_it_went_in(index: Index) -> None:
    job = make_job("job1", reply_to="C1/2.3")
    assert await index.add_job(job, b"%PDF-1.4") == job
    assert await index.job("job1") == job
    assert await index.jobs(channel="here") == [job] and await index.jobs(channel="there") == []
    assert await index.job_file("job1") == (b"%PDF-1.4", ALL_PAGES)


async def test_a_job_that_is_not_there_is_not_found(index: Index) -> None:
    for call in (index.job, index.job_file):
        with pytest.raises(NotFound):
            await call("nothing")


async def test_the_same_file_twenty_times_at_once_is_one_job(index: Index) -> None:
    jobs = [make_job(f"job{at}", data=b"same") for at in range(20)]
    results = await asyncio.gather(*(index.add_job(job, b"same") for job in jobs), return_exceptions=True)
    assert sum(isinstance(result, AlreadyKnown) for result in results) == 19
    assert len(await index.jobs()) == 1


async def test_a_learned_file_is_already_known_and_named_but_only_in_its_channel(index: Index) -> None:
    await learn(index, "d1", ["The harbour opened."], data=b"same")
    with pytest.raises(AlreadyKnown) as refusal:
        await index.add_job(make_job("again", data=b"same"), b"same")
    assert refusal.value.document_id == "d1"
    await index.add_job(make_job("elsewhere", "there", data=b"same"), b"same")


@pytest.mark.parametrize("end", [Stage.FAILED, Stage.CANCELLED])
async def test_a_file_may_be_tried_again_after_it_failed(index: Index, end: Stage) -> None:
    await index.add_job(make_job("first", data=b"same"), b"same")
    await index.job_stage("first", end)
    await index.add_job(make_job("second", data=b"same"), b"same")


async def test_a_claimed_job_is_read_and_its_attempt_counted(index: Index) -> None:
    await index.add_job(make_job("job1"), b"%PDF-")
    claimed = await index.next_job()
    assert claimed == replace(make_job("job1"), stage=Stage.READING, attempts=1) == await index.job("job1")
    assert await index.next_job() is None


async def test_a_flood_in_one_channel_delays_another_by_one_job_at_most(index: Index) -> None:
    for at in range(50):
        await index.add_job(make_job(f"flood{at}", "flood"), b"%PDF-")
    assert await claim(index, Stage.CANCELLED) == "flood0"
    for at in range(3):
        await index.add_job(make_job(f"calm{at}", "calm"), b"%PDF-")
    order = [await claim(index, Stage.CANCELLED) for _ in range(6)]
    assert order == ["calm0", "flood1", "calm1", "flood2", "calm2", "flood3"]


async def test_the_list_of_jobs_is_the_order_in_which_they_are_begun(index: Index) -> None:
    for channel, count in {"a": 4, "b": 1, "c": 2}.items():
        for at in range(count):
            await index.add_job(make_job(f"{channel}{at}", channel), b"%PDF-")
    await claim(index)
    running, *queued = [job.id for job in await index.jobs()]
    assert (running, queued) == ("a0", [await claim(index) for _ in range(6)])
    assert queued == ["b0", "c0", "a1", "c1", "a2", "a3"]


async def test_a_job_that_has_ended_stays_as_it_ended(index: Index) -> None:
    job = await index.add_job(make_job("job1"), b"%PDF-")
    await index.job_stage("job1", Stage.CANCELLED)
    await index.job_stage("job1", Stage.FAILED, error="Too late.")
    with pytest.raises(Cancelled):
        await index.job_stage("job1", Stage.LEARNING)
    with pytest.raises(Cancelled):
        await index.finish_job("job1", make_document("d1", job), [], make_chunks("x"))
    assert await index.job("job1") == replace(job, stage=Stage.CANCELLED)
    assert await index.documents("here") == [] and await index.all_weights() == []


async def test_an_attempt_whose_job_was_begun_again_changes_nothing(index: Index) -> None:
    await index.add_job(make_job("job1"), b"%PDF-")
    first = await index.next_job()
    await index.requeue_interrupted()
    second = None
    for _ in range(2):  # while the job is queued; while it is in its second attempt
        await index.job_stage("job1", Stage.FAILED, error="Too late.", attempt=first.attempts)
        with pytest.raises(Cancelled):
            await index.job_stage("job1", Stage.LEARNING, attempt=first.attempts)
        with pytest.raises(Cancelled):
            await index.finish_job("job1", make_document("d1", first), [], make_chunks("x"), attempt=first.attempts)
        second = await index.next_job() or second
    assert second.attempts == 2 and await index.documents("here") == []
    await index.job_stage("job1", Stage.LEARNING, attempt=2)
    await index.finish_job("job1", make_document("d1", second), [], make_chunks("x"), attempt=2)
    assert (await index.job("job1")).stage is Stage.DONE


async def test_a_retry_has_a_number_of_its_own_and_is_no_interruption(index: Index) -> None:
    await index.add_job(make_job("job1"), b"%PDF-")
    for attempt in (1, 2, 3):
        job = await index.next_job()
        await index.job_stage("job1", Stage.SAVING, attempt=attempt)
        await index.job_stage("job1", Stage.QUEUED, attempt=attempt, retry=True)
        assert (job.attempts, job.retries) == (attempt, attempt - 1)
    late = await index.job("job1")
    for attempt in (4, 5, 6):
        await claim(index)
        with pytest.raises(Cancelled):
            await index.finish_job("job1", make_document("d1", late), [], make_chunks("x"), attempt=attempt - 1)
        [job] = await index.requeue_interrupted()
        assert (job.attempts, job.stage) == (attempt, Stage.QUEUED if attempt < 6 else Stage.FAILED)
    assert await index.documents("here") == []


async def test_the_index_and_the_stages_agree_on_what_is_final(index: Index) -> None:
    for stage in Stage:
        await index.add_job(make_job(stage), b"%PDF-")
        await index.job_stage(stage, stage)
    assert {job.stage for job in await index.jobs()} == {stage for stage in Stage if not stage.final}
    assert {job.stage for job in await index.jobs(unfinished=False)} == set(Stage)


async def test_an_interrupted_job_is_queued_again_twice_and_then_given_up(index: Index) -> None:
    await index.add_job(make_job("job1"), b"%PDF-")
    for attempt in (1, 2, 3):
        await claim(index, Stage.LEARNING)
        [job] = await index.requeue_interrupted()
        assert (job.attempts, job.stage) == (attempt, Stage.QUEUED if attempt < 3 else Stage.FAILED)
    assert "3 times" in job.error and await index.next_job() is None
    with pytest.raises(NotFound):
        await index.job_file("job1")
    assert await index.undelivered() == [job]


async def test_a_queued_job_is_not_interrupted(index: Index) -> None:
    await index.add_job(make_job("job1"), b"%PDF-")
    assert await index.requeue_interrupted() == []


async def test_an_attempt_that_was_given_back_does_not_count(index: Index) -> None:
    await index.add_job(make_job("job1"), b"%PDF-")
    for _ in range(5):
        await claim(index, Stage.LEARNING, Stage.QUEUED)
    assert (await index.job("job1")).attempts == 0


async def test_an_end_is_undelivered_until_the_channel_was_told(index: Index) -> None:
    await learn(index, "d1", ["The harbour opened."])
    [job] = await index.undelivered()
    assert (job.stage, job.document_id, job.delivered) == (Stage.DONE, "d1", False)
    await index.mark_delivered(job.id)
    assert await index.undelivered() == [] and (await index.job(job.id)).delivered


# Documents


async def test_a_document_comes_back_as_it_went_in(index: Index) -> None:
    job = await index.add_job(make_job("job1"), b"%PDF-")
    document = make_document("d1", job, questions=("Who?", "When?"))
    await index.finish_job("job1", document, [], make_chunks("One.", "Two."))
    assert await index.documents("here") == [document]
    assert await index.all_weights() == [document.weights]
    async with index._channel("here") as content:
        chunks = await content(ChannelFile.chunks, [("d1", 1), ("d1", 0), ("d1", 2)])
    assert chunks == [("Two.", b""), ("One.", b""), ("", b"")]


async def test_a_document_is_stored_whole_or_not_at_all(index: Index) -> None:
    job = await index.add_job(make_job("job1"), b"%PDF-")
    with pytest.raises(StorageFailed):
        await index.finish_job("job1", make_document("d1", job), [], [*make_chunks("One."), *make_chunks("One.")])
    assert await index.documents("here") == [] and await index.candidates("here", "One") == []
    assert (await index.job("job1")).stage is Stage.QUEUED and await index.job_file("job1") == (b"%PDF-", ALL_PAGES)


async def test_documents_are_listed_newest_first_and_by_channel(index: Index) -> None:
    for id, channel in [("d1", "here"), ("d2", "here"), ("d3", "there")]:
        await learn(index, id, ["The harbour opened."], channel)
    assert [document.id for document in await index.documents("here")] == ["d2", "d1"]


async def test_a_document_is_found_by_id_name_or_the_beginning_of_either(index: Index) -> None:
    await learn(index, "k3x9", ["x"], name="Harbour Report.pdf")
    await learn(index, "m7", ["x"], name="harbour report 2.pdf")
    for key in ("k3x9", "K3", "harbour report.pdf", " Harbour Report.PDF "):
        assert (await index.find_document("here", key)).id == "k3x9"
    assert (await index.find_document("here", "harbour report 2")).id == "m7"


@pytest.mark.parametrize("key", ["", " ", "harbour", "none", "%", "*"])
async def test_what_names_no_document_or_several_is_not_found(index: Index, key: str) -> None:
    await learn(index, "k3x9", ["x"], name="Harbour Report.pdf")
    await learn(index, "m7", ["x"], name="harbour report 2.pdf")
    with pytest.raises(NotFound):
        await index.find_document("here", key)


async def test_an_empty_key_does_not_name_the_only_document(index: Index) -> None:
    await learn(index, "d1", ["x"])
    with pytest.raises(NotFound):
        await index.find_document("here", " ")


async def test_another_channels_document_is_not_found(index: Index) -> None:
    await learn(index, "d1", ["x"])
    for call in (index.find_document, index.forget):
        with pytest.raises(NotFound):
            await call("there", "d1")
    assert len(await index.documents("here")) == 1


# Questions


async def test_a_question_is_led_to_the_chunk_that_shares_its_rare_words(index: Index) -> None:
    await learn(index, "ships", ["The ships sail at dawn.", "Captain Mara commands the Velarium."])
    await learn(index, "food", ["The ship's cook bakes bread.", "The captain eats fish."])
    hits = await index.candidates("here", "Who is the captain of the Velarium?")
    assert [(hit.document.id, hit.chunk) for hit in hits] == [("ships", 1), ("food", 1)]
    assert hits[0].score > hits[1].score > 0


async def test_a_misspelt_word_is_found_as_what_it_is_meant_to_be(index: Index) -> None:
    await learn(index, "ships", ["The ships sail at dawn.", "Captain Mara commands the Velarium."])
    [plain] = await index.candidates("here", "Who commands the Velarium?")
    for asked in ("who commands the Velraium", "who comands the velarium", "who commmands teh velarium?"):
        [hit] = await index.candidates("here", asked)
        assert (hit.chunk, hit.score) == (plain.chunk, pytest.approx(plain.score)), asked
    [hit] = await index.candidates("here", "Who owns a zebra?")
    assert (hit.score, hit.share) == (0.0, 0.0)


async def test_a_hit_tells_how_much_of_the_question_stands_in_it_rare_words_first(index: Index) -> None:
    await learn(index, "ships", ["The ships sail at dawn.", "Captain Mara commands the Velarium."])
    await learn(index, "food", ["The ship's cook bakes bread.", "The captain eats fish."])
    await learn(index, "other", ["The Velarium sank with all zebras."], "there")
    asked = "Who is the captain of the Velarium?"
    assert await shares(index, asked) == [1.0, pytest.approx(0.435, abs=0.01)]
    assert await shares(index, asked, document_id="food") == [pytest.approx(0.39, abs=0.01)]
    assert await shares(index, "Has the captain any zebras?") == [pytest.approx(0.34, abs=0.01)] * 2
    assert await shares(index, "zebra") == [0.0]


async def test_a_hit_tells_among_how_many_chunks_it_was_found(index: Index) -> None:
    await learn(index, "ships", ["The ships sail at dawn.", "Captain Mara commands the Velarium."])
    await learn(index, "food", ["The ship's cook bakes bread."])
    await learn(index, "other", ["The Velarium sank."], "there")

    async def among(question: str, **scope: str) -> set[int]:
        return {hit.searched for hit in await index.candidates("here", question, **scope)}

    assert await among("Which ships sail?") == {3}
    assert await among("Which ships sail?", document_id="ships") == {2}
    assert await among("zebra") == {1}  # nothing was found


async def shares(index: Index, question: str, **scope: str) -> list[float]:
    return [hit.share for hit in await index.candidates("here", question, **scope)]


TEXTS = [
    "The ships of the harbour sail at dawn, and ships return at night.",
    "Captain Mara of the harbour commands the Velarium.",
    "The harbour feeds a cook who bakes bread for ships.",
]


ASKED = ["Who is the captain of the harbour?", "Which ships of the harbour sail?", "bread", "Velarium ships"]


async def test_other_channels_words_change_no_hit(index: Index) -> None:
    await learn(index, "d1", TEXTS)
    before = [await index.candidates("here", question) for question in ASKED]
    await learn(index, "other", [f"The captain sails {n} ships without bread." for n in range(40)], "there")
    for question, hits in zip(ASKED, before, strict=True):
        again = await index.candidates("here", question)
        assert [hit.chunk for hit in again] == [hit.chunk for hit in hits]
        assert [hit.score for hit in again] == pytest.approx([hit.score for hit in hits], rel=0.2)  # mean lengths
        assert [(hit.share, hit.searched) for hit in again] == [(hit.share, hit.searched) for hit in hits]


async def test_another_channels_upload_shifts_no_score(index: Index) -> None:
    await learn(index, "d1", ["The harbour opened in May.", "The harbour has a crane and a long pier."])
    before = [(hit.chunk, hit.score, hit.share) for hit in await index.candidates("here", "When did the harbour open?")]
    await learn(index, "d2", ["harbour " * 5_000, "open " * 5_000], "there")
    after = [(hit.chunk, hit.score, hit.share) for hit in await index.candidates("here", "When did the harbour open?")]
    assert after == before and before


async def test_a_candidate_comes_with_its_text_and_code(index: Index) -> None:
    await learn(index, "d1", ["The captain sails.", "No word of it."], codes=[b"first", b"second"])
    [hit] = await index.candidates("here", "captain")
    assert (hit.text, hit.code) == ("The captain sails.", b"first")
    [newest] = await index.candidates("here", "zebra")
    assert (newest.text, newest.code) == ("The captain sails.", b""), "what no word found is compared with nothing"


async def test_another_form_of_a_word_is_found(index: Index) -> None:
    await learn(index, "d1", ["Nothing here.", "The café was FOUNDED by harbours."])
    await learn(index, "d2", ["Of no use."])
    for question in ("founding?", "cafe", "Harbour"):
        assert [(hit.document.id, hit.chunk) for hit in await index.candidates("here", question)] == [("d1", 1)]


async def test_stop_words_lead_nowhere_unless_there_is_nothing_else(index: Index) -> None:
    await learn(index, "d1", ["Who is who: the list."])
    await learn(index, "d2", ["Captain Mara."])
    assert (await index.candidates("here", "Who is the captain?"))[0].document.id == "d2"
    assert (await index.candidates("here", "Who is who?"))[0].document.id == "d1"


async def test_without_a_matching_word_the_newest_document_is_asked(index: Index) -> None:
    assert await index.candidates("here", "anything") == []
    await learn(index, "d1", ["One.", "Two."])
    newest = await learn(index, "d2", ["Three.", "Four."])
    for question in ("zebra", "", "?!", "_"):
        assert await index.candidates("here", question) == [without_words(newest, "Three.")]


async def test_a_question_may_be_for_one_document(index: Index) -> None:
    first = await learn(index, "d1", ["The captain.", "The cook."])
    await learn(index, "d2", ["The cook."])
    [hit] = await index.candidates("here", "cook", document_id="d1")
    assert (hit.document, hit.chunk, hit.share, hit.searched) == (first, 1, 1.0, 2) and hit.score > 0
    assert await index.candidates("here", "zebra", document_id="d1") == [without_words(first, "The captain.")]
    assert await index.candidates("there", "cook", document_id="d1") == []


async def test_a_question_never_leaves_its_channel(index: Index) -> None:
    await learn(index, "secret", ["The code of the vault is velarium."], "there")
    mine = await learn(index, "mine", ["Nothing."])
    assert await index.candidates("here", "velarium") == [without_words(mine, "Nothing.")]


def without_words(document: Document, text: str) -> Hit:
    """The first chunk of a document in which no word of a question stands."""
    return Hit(document=document, chunk=0, score=0.0, share=0.0, searched=1, text=text)


async def test_no_more_hits_than_asked_for(index: Index) -> None:
    await learn(index, "d1", [f"captain number {at}" for at in range(12)])
    assert len(await index.candidates("here", "captain")) == 10
    assert len(await index.candidates("here", "captain", limit=2)) == 2


@pytest.mark.parametrize("text", HOSTILE)
async def test_hostile_text_is_text(index: Index, text: str) -> None:
    document = await learn(index, "d1", [text, "The harbour."], text, name=text, requested_by=text, reply_to=text)
    await index.candidates(text, text, document_id=text)
    answer = await index.add_answer(text, make_answer(document, text, text), asked_by=text, thread=text)
    await index.feedback(text, answer, by=text, helpful=True)
    for call in (index.find_document, index.forget):
        with pytest.raises(NotFound):
            await call("other " + text, text)
    assert [document.id for document in await index.documents(text)] == ["d1"]
    await index.reset(text)
    assert await index.documents(text) == []


async def test_the_document_of_a_thread_is_the_one_that_answered_there_last(index: Index) -> None:
    first, second = await learn(index, "d1", ["x"]), await learn(index, "d2", ["y"])
    assert await index.thread_document("here", "1") is None
    for document in (first, second):
        await index.add_answer("here", make_answer(document), asked_by="ada", thread="1")
        assert await index.thread_document("here", "1") == document.id
    for nothing in (make_answer(None), make_answer(first, learned="not in the text")):
        await index.add_answer("here", nothing, asked_by="ada", thread="1")
    assert await index.thread_document("here", "1") == "d2"
    assert [await index.thread_document(*place) for place in (("there", "1"), ("here", "2"))] == [None, None]
    await index.forget("here", "d2")
    assert await index.thread_document("here", "1") == "d1"


async def test_an_answer_moves_to_the_thread_that_it_opened(index: Index) -> None:
    answer = await index.add_answer("here", make_answer(await learn(index, "d1", ["x"])), asked_by="ada", thread="1")
    await index.place_answer("there", answer, "2")
    assert await index.thread_document("here", "1") == "d1"
    await index.place_answer("here", answer, "2")
    assert [await index.thread_document("here", thread) for thread in "12"] == [None, "d1"]
    await index.reset("here")
    await index.place_answer("here", answer, "3")
    assert await index.thread_document("here", "3") is None


async def test_feedback_on_another_channels_answer_is_refused(index: Index) -> None:
    answer = await index.add_answer("here", make_answer(None), asked_by="ada")
    with pytest.raises(NotFound):
        await index.feedback("there", answer, by="bob", helpful=True)


async def test_an_answer_from_a_document_that_was_forgotten_meanwhile_is_not_kept(index: Index) -> None:
    document = await learn(index, "d1", ["x"])
    await index.forget("here", "d1")
    with pytest.raises(NotFound):
        await index.add_answer("here", make_answer(document), asked_by="ada")


async def test_a_job_that_was_erased_while_it_ran_stores_nothing(index: Index) -> None:
    job = await index.add_job(make_job("job1"), b"%PDF-")
    await claim(index, Stage.LEARNING)
    await index.reset("here")
    with pytest.raises(Cancelled):
        await index.job_stage("job1", Stage.CHECKING)
    with pytest.raises(Cancelled):
        await index.finish_job("job1", make_document("d1", job), [], make_chunks("x"))
    await index.job_stage("job1", Stage.CANCELLED)
    assert await index.all_weights() == []
