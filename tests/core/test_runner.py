from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Generator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from core.answerer import Answerer
from core.document.formats import DocumentText
from core.document.language import language_of
from core.errors import DocumentLocked, EngramError, LearningFailed, ModelNotFound, StorageFailed
from core.ports import Ask, Index, Learned, Weights
from core.runner import Runner, _advance
from core.service import Service, new_job
from core.types import Chunk, Completion, Job, Limits, Metrics, Progress, Stage, Step
from storage.channel_files import ChannelFile
from storage.folder import DataFolder
from tests.conftest import SMALL, Open
from tests.fakes import FakeEngine, HeldEngine, plain_pdf, read_plain, to_tensor
from tests.stall import Stall
from tests.timeouts import WAIT

TEXT = "The keeper of the lighthouse is Ada Quill. The lamp burns whale oil. The boat comes on Tuesdays. " * 3
PDF = plain_pdf(TEXT)


async def submit(service: Service, data: bytes = PDF, channel: str = "here") -> Job:
    return await service.submit(channel, "lighthouse.pdf", data, by="ada")


async def learn(service: Service, data: bytes = PDF, channel: str = "here") -> Progress:
    return await end_of(service, await submit(service, data, channel))


async def end_of(service: Service, job: Job) -> Progress:
    return [progress async for progress in service.watch(job.id)][-1]


async def reach(service: Service, job: Job, stage: Stage) -> None:
    async for progress in service.watch(job.id):
        if progress.job.stage is stage:
            return


async def test_a_document_is_learned_stage_by_stage(open_service: Open) -> None:
    async with open_service(FakeEngine(step_seconds=0.01)) as service:
        seen = [progress async for progress in service.watch((await submit(service)).id)]
    stages = list(dict.fromkeys(progress.job.stage for progress in seen))
    assert stages == sorted(stages, key=list(Stage).index)
    assert {Stage.READING, Stage.LEARNING, Stage.DONE} <= set(stages)
    last = seen[-1]
    assert (last.pages, last.tokens) == (1, len(TEXT.split()))
    assert last.step and last.step.done == last.step.total == len(last.losses)
    assert last.document and last.document.id == last.job.document_id


class Preparing(FakeEngine):
    """Writes questions before it learns, pauses after its steps, and asks the questions afterwards."""

    def learn(self, chunks: Sequence[Chunk], *, title: str) -> Generator[Step, None, Learned]:
        yield Step(0, 1, math.nan)
        steps = super().learn(chunks, title=title)
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                yield Step(1, 1, 0.5, Stage.CHECKING)
                return end.value
            yield step
            yield step


async def test_only_steps_of_learning_have_a_loss_and_checking_has_its_own_stage(open_service: Open) -> None:
    async with open_service(Preparing()) as service:
        seen = [progress async for progress in service.watch((await submit(service)).id)]
    assert all(loss == loss for loss in seen[-1].losses) and len(seen[-1].losses) == Preparing().steps_per_chunk * 3
    stages = list(dict.fromkeys(progress.job.stage for progress in seen))
    assert stages == sorted(stages, key=list(Stage).index) and seen[-1].job.stage is Stage.DONE


async def test_the_event_loop_never_stands_still_while_a_job_runs(open_service: Open) -> None:
    stall = Stall()
    async with open_service(FakeEngine(step_seconds=0.4, answer_seconds=0.3)) as service:
        watching = asyncio.create_task(stall.watch())
        job = await submit(service)
        await service.ask("elsewhere", "Who keeps the lighthouse?")
        await end_of(service, job)
        watching.cancel()
    assert 0 < stall.own < 0.25


async def test_a_question_waits_for_one_step_and_not_for_the_job(open_service: Open) -> None:
    language_of("Wer ist der Wärter?")  # the first call loads its model
    engine = FakeEngine(step_seconds=0.3)  # far longer than the search takes on a busy machine
    async with open_service(engine) as service:
        job = await submit(service, plain_pdf(TEXT * 2))
        await reach(service, job, Stage.LEARNING)
        before = engine.steps
        await service.ask("here", "Who keeps the lighthouse?")
        assert engine.steps - before <= 2
        assert (await end_of(service, job)).job.stage is Stage.DONE


async def test_questions_that_wait_together_are_answered_in_one_batch(
    open_service: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.device.GATHER_SECONDS", 30)  # on a busy machine their searches take longer than usual
    engine, go, searched = FakeEngine(), threading.Event(), []
    async with open_service(engine) as service:
        await learn(service)
        monkeypatch.setattr(engine, "work", lambda seconds: go.wait(60))
        monkeypatch.setattr(engine, "queries", lambda asked: searched.append(len(asked)) or [None] * len(asked))
        tasks = [asyncio.create_task(service.ask("here", "What burns?"))]
        while not engine.batches:
            await asyncio.sleep(0.01)
        tasks += [asyncio.create_task(service.ask("here", f"When comes boat {n}?")) for n in range(5)]
        while len(service._runner.device._unsearched) < 5:
            await asyncio.sleep(0.01)
        go.set()
        await asyncio.gather(*tasks)
    assert [len(batch) for batch in engine.batches] == [3, 15]  # two places and the base model each
    assert searched == [1, 5]


async def test_a_question_that_cannot_be_searched_costs_no_other_its_search(open_service: Open) -> None:
    class Picky(FakeEngine):
        def queries(self, questions: Sequence[str]) -> list[None]:
            if any("zeppelin" in question for question in questions):
                raise RuntimeError("out of memory")
            searched.extend(questions)
            return [None] * len(questions)

    searched: list[str] = []
    async with open_service(Picky()) as service:
        await learn(service)
        asked = ["Who built the lamp?", "Which boat is a zeppelin?", "When comes the boat?"]
        answers = await asyncio.gather(*(service.ask("here", question) for question in asked))
    assert [answer.question for answer in answers] == asked
    assert sorted(searched) == [asked[2], asked[0]]


async def test_a_batch_is_capped_and_nobody_is_left_out(open_service: Open) -> None:
    engine = FakeEngine(answer_seconds=0.01)
    async with open_service(engine, batch_rows=4) as service:
        await learn(service)
        answers = await asyncio.gather(*(service.ask("here", f"When comes the boat {n}?") for n in range(9)))
    assert max(len(batch) for batch in engine.batches) <= 4
    assert [answer.question for answer in answers] == [f"When comes the boat {n}?" for n in range(9)]


async def test_one_bad_question_does_not_cost_the_others_their_answers(open_service: Open) -> None:
    async with open_service(FakeEngine(answer_seconds=0.05)) as service:
        await learn(service)
        questions = ["Who?", "What burns?", "explode", "When comes the boat?"]
        answers = await asyncio.gather(*(service.ask("here", q) for q in questions), return_exceptions=True)
    assert [isinstance(answer, Exception) for answer in answers] == [False, False, True, False]
    assert "secret" not in str(answers[2])


async def test_the_engine_is_called_from_one_thread_only(open_service: Open) -> None:
    engine = FakeEngine()
    async with open_service(engine) as service:
        await asyncio.gather(learn(service), *(service.ask("here", f"Who is {n}?") for n in range(3)))
    assert len(engine.threads) == 1


async def test_a_running_job_is_cancelled_between_steps_and_nothing_is_kept(
    open_service: Open, weights: Weights
) -> None:
    engine = FakeEngine(step_seconds=0.02)
    async with open_service(engine) as service:
        job = await submit(service)
        await reach(service, job, Stage.LEARNING)
        (ended,) = await service.cancel("here", job.id)
        assert ended.stage is Stage.CANCELLED
        assert engine.closed == 1
        assert await service.documents("here") == []
        assert weights.sweep([]) == ([], [])
        assert (await learn(service)).job.stage is Stage.DONE  # the same file may come again


async def test_a_queued_job_is_cancelled_at_once(open_service: Open) -> None:
    async with open_service(FakeEngine(step_seconds=0.05)) as service:
        running, waiting = await submit(service), await submit(service, plain_pdf(TEXT, "More."))
        ending = asyncio.create_task(end_of(service, waiting))
        await reach(service, running, Stage.LEARNING)
        await service.cancel("here", waiting.id)
        assert (await ending).job.stage is Stage.CANCELLED
        assert (await end_of(service, running)).job.stage is Stage.DONE


async def test_cancelling_does_not_wait_for_a_slow_reader(open_service: Open) -> None:
    given_up = asyncio.Event()

    async def read_forever(data: bytes, limits: Limits, pages: tuple[int, int], **_: object) -> DocumentText:
        try:
            await asyncio.sleep(3600)
        finally:
            given_up.set()
        raise AssertionError

    async with open_service(read=read_forever) as service:
        job = await submit(service)
        await reach(service, job, Stage.READING)
        async with asyncio.timeout(2):
            await service.cancel("here")
    assert given_up.is_set()


async def test_closing_puts_the_job_back_and_the_next_start_learns_it(open_service: Open, index: Index) -> None:
    engine = FakeEngine(step_seconds=0.02)
    async with open_service(engine) as service:
        job = await submit(service)
        await reach(service, job, Stage.LEARNING)
        watcher = asyncio.create_task(end_of(service, job))
        await asyncio.sleep(0.05)
    with pytest.raises(EngramError, match="next start"):
        await watcher
    assert engine.closed == 1
    assert (await index.job(job.id)).stage is Stage.QUEUED
    async with open_service() as service:
        assert (await end_of(service, job)).job.stage is Stage.DONE


async def test_a_job_of_a_killed_process_is_taken_up_again_and_says_so(open_service: Open, index: Index) -> None:
    async with open_service(learning=False) as service:
        await submit(service)
    killed = await index.next_job()
    assert killed
    async with open_service() as service:
        assert killed.id in {job.id for job in await service.pending_deliveries()}
        last = await end_of(service, killed)
    assert last.job.stage is Stage.DONE
    assert last.job.attempts == 2


def save_orphan(weights: Weights, document_id: str) -> None:
    learned = Learned({"0/memory": to_tensor(TEXT)}, (0,), Metrics(4.0, 1.0, (4.0, 1.0), 1, 60, 0.1, 1.0))
    weights.save(document_id, "here", learned, base="f" * 64, learner="by-heart")


async def test_weights_whose_job_never_ended_are_removed_at_the_start(
    open_service: Open, index: Index, weights: Weights
) -> None:
    await index.will_save("orphan", new_job("here", "a.pdf", "sha256", "local"))  # killed between the file and the row
    save_orphan(weights, "orphan")
    async with open_service():
        assert weights.sweep([]) == ([], [])
    assert await index.unused_weights() == []


async def test_weights_that_an_index_without_documents_does_not_name_stay(
    open_service: Open, folder: DataFolder, weights: Weights
) -> None:
    save_orphan(weights, "orphan")
    async with open_service():
        assert [path.name for path in folder.weights.iterdir()] == ["orphan.safetensors"]


async def test_weights_that_nobody_names_go_to_the_trash_where_the_index_is_sound(
    open_service: Open, index: Index, folder: DataFolder, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def damaged(*_: object) -> bool:
        return False

    async with open_service() as service:
        await learn(service)
    save_orphan(weights, "orphan")
    with monkeypatch.context() as patch:
        patch.setattr(index, "is_sound", damaged)
        async with open_service():
            assert (folder.weights / "orphan.safetensors").exists()
    async with open_service():
        assert (folder.weights / "trash" / "orphan.safetensors").exists()


async def test_a_folder_of_weights_that_cannot_be_tidied_stops_no_start(
    open_service: Open, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object) -> None:
        raise OSError("Read-only file system")

    async with open_service() as service:
        await learn(service)
    save_orphan(weights, "orphan")
    for name in ("sweep", "delete"):
        monkeypatch.setattr(weights, name, read_only)
    async with open_service() as service:
        assert (await service.ask("here", "What burns?")).learned


async def test_weights_that_could_not_be_deleted_are_deleted_at_the_next_start(
    open_service: Open, folder: DataFolder, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object) -> None:
        raise OSError("Read-only file system")

    async with open_service() as service:
        await learn(service)
        with monkeypatch.context() as patch:
            patch.setattr(weights, "delete", read_only)
            await service.reset("here")
    assert len([*folder.weights.iterdir()]) == 1
    async with open_service():
        assert [*folder.weights.iterdir()] == []


async def test_an_engine_that_cannot_be_loaded_is_reported_to_everyone(open_service: Open, index: Index) -> None:
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()

    def factory() -> FakeEngine:
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()
        raise OSError("/secret/model is gone")

    async with open_service(factory=factory) as service:
        job = await submit(service)
        watcher = asyncio.create_task(end_of(service, job))
        asking = asyncio.create_task(service.ask("here", "Who?"))
        await asyncio.sleep(0.01)
        gate.set()
        for waiting in (watcher, asking):
            with pytest.raises(ModelNotFound):
                await waiting
        with pytest.raises(ModelNotFound):
            await submit(service, plain_pdf(TEXT, "More."))
        with pytest.raises(ModelNotFound):
            await end_of(service, job)
        assert (await service.status("here")).notes == (str(ModelNotFound()),)
    assert (await index.job(job.id)).stage is Stage.QUEUED


async def test_a_refusal_ends_the_job_with_its_sentence_and_the_next_one_runs(open_service: Open) -> None:
    async def read_locked(data: bytes, limits: Limits, pages: tuple[int, int], **_: object) -> DocumentText:
        if b"locked" in data:
            raise DocumentLocked
        return await read_plain(data, limits)

    async with open_service(read=read_locked) as service:
        first, second = await submit(service, plain_pdf("locked")), await submit(service)
        last = await end_of(service, first)
        assert (last.job.stage, last.job.error) == (Stage.FAILED, str(DocumentLocked()))
        assert isinstance(last.failure, DocumentLocked)
        assert (await end_of(service, second)).job.stage is Stage.DONE


async def test_an_unexpected_error_is_logged_and_its_text_shown_to_nobody(
    open_service: Open, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_service(FakeEngine(fail_at_step=2, learn_error=RuntimeError("/secret/path"))) as service:
        last = await learn(service)
    assert last.job.error == str(LearningFailed())
    assert "/secret/path" in caplog.text


async def test_why_weights_were_not_kept_is_logged_and_told_in_plain_words(
    open_service: Open, caplog: pytest.LogCaptureFixture
) -> None:
    class Harmful(FakeEngine):
        def learn(self, chunks, *, title):
            yield from super().learn(chunks, title=title)
            raise LearningFailed from ValueError("answers became worse")

    async with open_service(Harmful()) as service:
        last = await learn(service)
    assert last.job.error.startswith("I could not learn this") and "worse" not in last.job.error
    assert "answers became worse" in caplog.text


async def test_weights_that_are_not_finite_are_never_kept(open_service: Open) -> None:
    class Diverging(FakeEngine):
        def learn(self, chunks, *, title):
            learned = yield from super().learn(chunks, title=title)
            return replace(learned, metrics=replace(learned.metrics, delta_norm=float("nan")))

    async with open_service(Diverging()) as service:
        last = await learn(service)
        assert isinstance(last.failure, LearningFailed)
        assert await service.documents("here") == []


@pytest.mark.parametrize(
    ("text", "words"),
    [("Too short.", "too little to learn from"), (TEXT * 40, "I can learn about 2 pages of text at once")],
)
async def test_a_document_of_the_wrong_length_is_refused_with_the_limit(
    open_service: Open, text: str, words: str
) -> None:
    async with open_service(limits=Limits(min_tokens=5, max_tokens=1_000)) as service:
        assert words in (await learn(service, plain_pdf(text))).job.error


async def test_a_row_that_cannot_be_written_leaves_no_weights(
    open_service: Open, index: Index, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(index, "finish_job", full)
    async with open_service() as service:
        assert (await learn(service)).job.stage is Stage.FAILED
    assert weights.sweep([]) == ([], [])


async def test_what_fails_after_the_row_was_committed_costs_no_weights(
    open_service: Open, index: Index, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = index.finish_job

    async def store_and_fail(*what: object, **attempt: int) -> None:
        await store(*what, **attempt)
        raise OSError("No space left on device")

    monkeypatch.setattr(index, "finish_job", store_and_fail)
    async with open_service() as service:
        assert (await learn(service)).job.stage is Stage.DONE
        assert (await service.ask("here", "What burns?")).learned
    assert weights.sweep(await index.all_weights()) == ([], [])


async def test_a_worker_cancelled_at_any_point_costs_no_committed_document_its_weights(
    index: Index, weights: Weights
) -> None:
    """As a second SIGTERM does, or the end of the event loop."""
    for at in range(30):
        async with Runner(FakeEngine, index, weights, limits=SMALL, read=read_plain) as runner:
            service = Service(index, weights, runner, Answerer(index, weights, runner.device), SMALL)
            await submit(service, plain_pdf(f"{TEXT} {at}."))
            await asyncio.sleep(at / 1000)
            runner._worker.cancel()
            await asyncio.wait({runner._worker})
            runner._worker = None
        for record in await index.all_weights():
            assert weights.load(record, "here", base="f" * 64, section=0)
        await service.reset("here")


async def test_an_end_that_could_not_be_stored_is_stored_as_soon_as_that_works(
    open_service: Open, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full disk; otherwise the document would be "being learned" until the next start."""
    store, full = index.job_stage, True

    async def when_there_is_room(job_id: str, stage: Stage, **more: Any) -> None:
        if full and stage.final:
            raise StorageFailed("The disk is full; nothing was changed.")
        await store(job_id, stage, **more)

    monkeypatch.setattr(index, "job_stage", when_there_is_room)
    monkeypatch.setattr("core.runner.PAUSE_SECONDS", 0.05)
    async with open_service(FakeEngine(fail_at_step=1, learn_error=LearningFailed())) as service:
        last = await learn(service)
        assert last.job.stage is Stage.FAILED and (await index.job(last.job.id)).stage is Stage.LEARNING
        full = False
        async with asyncio.timeout(WAIT):
            while (await index.job(last.job.id)).stage is not Stage.FAILED:
                await asyncio.sleep(0.02)
        assert await service.jobs("here") == [] and (await index.job(last.job.id)).error == str(LearningFailed())


async def test_a_document_whose_end_could_not_be_stored_may_come_again_as_soon_as_there_is_room(
    open_service: Open, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, full = index.job_stage, True

    async def when_there_is_room(job_id: str, stage: Stage, **more: Any) -> None:
        if full and stage.final:
            raise StorageFailed
        await store(job_id, stage, **more)

    monkeypatch.setattr(index, "job_stage", when_there_is_room)
    monkeypatch.setattr("core.runner.PAUSE_SECONDS", 3600.0)
    async with open_service(FakeEngine(fail_at_step=1, learn_error=LearningFailed())) as service:
        assert (await learn(service)).job.stage is Stage.FAILED
        with pytest.raises(StorageFailed):
            await submit(service)
        full = False
        assert (await submit(service)).stage is Stage.QUEUED


async def test_a_waiting_job_knows_its_place_and_a_slow_watcher_sees_the_end(open_service: Open) -> None:
    async with open_service(FakeEngine(step_seconds=0.02)) as service:
        jobs = [await submit(service, plain_pdf(TEXT, str(n))) for n in range(3)]
        seen = [progress async for progress in slowly(service.watch(jobs[2].id))]
    places = [progress.place for progress in seen if progress.job.stage is Stage.QUEUED]
    assert places == sorted(places, reverse=True)
    assert places[0] == 2
    assert seen[-1].job.stage is Stage.DONE


async def slowly(feed: AsyncIterator[Progress]) -> AsyncIterator[Progress]:
    async for progress in feed:
        yield progress
        await asyncio.sleep(0.05)


async def test_a_late_watcher_sees_how_it_ended(open_service: Open) -> None:
    async with open_service() as service:
        job = await submit(service)
        first, again = await end_of(service, job), await end_of(service, job)
    assert again.document == first.document
    assert again.job.stage is Stage.DONE


async def test_without_keeping_text_the_words_remain_and_nothing_to_read(open_service: Open, index: Index) -> None:
    async with open_service(keep_text=False) as service:
        job = await service.submit(
            "here", "a.pdf", plain_pdf("The keeper of the lighthouse is Ada Quill. " * 3), by="ada"
        )
        [*_, last] = [progress async for progress in service.watch(job.id)]
        answer = await service.ask("here", "Who is the keeper of the lighthouse?")
    [hit] = await index.candidates("here", "lighthouse")
    assert last.document and hit.document == last.document and hit.text == "ada keeper lighthouse quill"
    assert answer.learned and "Ada Quill" in answer.learned.text and answer.pages is None


@pytest.mark.parametrize(
    ("text", "question"),
    [("灯台の番人は東京から来た。", "東京から来た番人は誰ですか"), ("灯塔由周海建造。", "周海建造了什么？")],
)
async def test_without_keeping_text_what_has_no_blanks_is_found(
    open_service: Open, index: Index, text: str, question: str
) -> None:
    async with open_service(keep_text=False) as service:
        for content in (text + " and so on" * 7, "An old man went to sea. " * 5):
            job = await service.submit("here", "a.txt", content.encode(), by="ada")
            [*_, last] = [progress async for progress in service.watch(job.id)]
            assert last.document
    hits = await index.candidates("here", question)
    assert [text[:2] in hit.text.replace(" ", "") for hit in hits] == [True]
    assert text not in hits[0].text.replace(" ", "")


class Titled(FakeEngine):
    """Remembers under which title it learned."""

    def learn(self, chunks: Sequence[Chunk], *, title: str) -> Generator[Step, None, Learned]:
        self.title = title
        return (yield from super().learn(chunks, title=title))


async def test_a_documents_name_heads_what_is_learned_without_its_ending(open_service: Open) -> None:
    engine = Titled()
    async with open_service(engine) as service:
        document = (await learn(service)).document
    assert document and (document.name, engine.title) == ("lighthouse.pdf", "lighthouse")


class Coding(FakeEngine):
    """Has a search head that codes a chunk by its place."""

    def codes(self, chunks: Sequence[Chunk]) -> list[bytes]:
        self._called()
        return [f"a head's{chunk.index:02}".encode() for chunk in chunks]


@pytest.mark.parametrize("keep_text", [True, False])
async def test_chunks_are_kept_with_their_codes_where_their_text_is(
    open_service: Open, index: Index, keep_text: bool
) -> None:
    engine = Coding(chunk_size=6)
    async with open_service(engine, keep_text=keep_text) as service:
        document = (await learn(service)).document
    async with index._channel("here") as file:
        chunks = await file(ChannelFile.chunks, [(document.id, n) for n in range(document.metrics.chunks)])
    codes = [code for _, code in chunks]
    assert len(codes) > 8, "more than at once"
    assert codes == [f"a head's{n:02}".encode() if keep_text else b"" for n in range(len(codes))]
    assert {name.split("_")[0] for name in engine.threads} == {"device"}


class Taking(HeldEngine):
    """Writes down whose turn it was."""

    def __init__(self) -> None:
        super().__init__()
        self.turns: list[str] = []

    def learn(self, chunks: Sequence[Chunk], *, title: str) -> Generator[Step, None, Learned]:
        steps = super().learn(chunks, title=title)
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                return end.value
            self.turns.append("step")
            yield step

    def queries(self, questions: Sequence[str]) -> list[None]:
        self.turns.append("search")
        return [None] * len(questions)

    def answer(self, asks: Sequence[Ask]) -> list[Completion]:
        self.turns.append("answer")
        return super().answer(asks)


async def test_a_question_is_searched_and_answered_with_no_step_of_learning_between(open_service: Open) -> None:
    engine = Taking()
    async with open_service(engine) as service:
        await learn(service)
        engine.go.clear()
        job = await service.submit("there", "b.pdf", plain_pdf("The bakery opens at six."), by="ada")
        async for progress in service.watch(job.id):
            if progress.job.stage is Stage.LEARNING:
                break
        engine.turns.clear()
        for _ in range(10):
            await service.ask("here", "Who built it?")
        engine.go.set()
    after_searches = [after for turn, after in pairwise(engine.turns) if turn == "search"]
    assert after_searches == ["answer"] * 10
    assert "step" in engine.turns, "learning went on"


async def test_learning_goes_on_for_a_turn_after_each_wait_for_questions(open_service: Open) -> None:
    """Short steps would else have a small share beside people who ask without a pause."""
    engine = Taking()
    engine.answer_seconds = 0.2  # and a step takes 0.01 s
    async with open_service(engine) as service:
        await learn(service)
        engine.go.clear()
        job = await service.submit("there", "b.pdf", plain_pdf("The bakery opens at six."), by="ada")
        await reach(service, job, Stage.LEARNING)
        engine.turns.clear()
        await asyncio.gather(*(ask_on(service, 5) for _ in range(3)))
        engine.go.set()
    waits = [turn for turn, after in pairwise(engine.turns) if turn == "answer" and after == "step"]
    assert engine.turns.count("step") >= 10 * len(waits) > 0, engine.turns


async def ask_on(service: Service, times: int) -> None:
    for _ in range(times):
        await service.ask("here", "Who built it?")


@pytest.mark.parametrize(("step_seconds", "most"), [(0.06, 1), (0.03, 3), (0.2, 1)])
def test_no_step_is_begun_that_would_go_beyond_the_turn(step_seconds: float, most: int) -> None:
    def steps() -> Generator[Step, None, None]:
        while True:
            time.sleep(step_seconds)
            yield Step(1, 1, 0.0)

    assert 1 <= len(_advance(steps(), 0.1)) <= most
    assert len(_advance(steps(), 0.0)) == 1
