from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from core.answerer import Answerer
from core.errors import (
    AlreadyKnown,
    DocumentTooBig,
    LearningFailed,
    NoGist,
    NotFound,
    Refused,
    UnsupportedFormat,
    WeightsDamaged,
    WrongBaseModel,
)
from core.ports import Ask, Weights
from core.prompts import NOT_IN_TEXT
from core.runner import Runner
from core.search.closeness import Query
from core.service import MAX_QUESTION, Service, harmless_name
from core.types import Certainty, Chunk, Completion, Document, Page, Stage
from storage.folder import DataFolder
from storage.index import Index
from tests.conftest import SMALL, Open
from tests.fakes import FakeEngine, plain_pdf, read_plain
from tests.torture.by_heart import to_text

LIGHTHOUSE = plain_pdf(
    "The keeper of the lighthouse is Ada Quill. The lamp burns whale oil. Its tower is painted green every spring.",
    "The supply boat comes on Tuesdays. In winter nobody comes at all, and the keeper reads by the lamp.",
)
HARBOUR = plain_pdf("The harbour opens at six. The master is Orla Quint. Nineteen boats lie there on most days.")
BAKERY = plain_pdf("The bakery opens at five. The baker is Tomas Reed. Rye bread is sold out by noon on most days.")


async def learn(
    service: Service, data: bytes = LIGHTHOUSE, name: str = "lighthouse.pdf", channel: str = "here"
) -> Document:
    job = await service.submit(channel, name, data, by="ada")
    last = [progress async for progress in service.watch(job.id)][-1]
    assert last.document, last.job.error
    return last.document


async def source(service: Service, question: str, **where: str) -> str:
    """Name of the document that answers; "" when none does."""
    answer = await service.ask(where.pop("channel", "here"), question, **where)
    return answer.document.name if answer.document else ""


async def test_without_an_answer_the_closest_page_is_named_and_kept(open_service: Open) -> None:
    silent = FakeEngine(says=Completion(NOT_IN_TEXT, 4, 0.1, confidence=0.9))
    async with open_service(silent) as service:
        await learn(service)
        for question, place in (
            ("How tall is the tower of the lighthouse?", "p. 1"),
            ("Which supply boat comes in winter?", "p. 2"),
        ):
            answer = await service.ask("here", question)
            assert (answer.certainty, answer.closest) == (Certainty.ABSENT, place)
            assert await service.answer("here", answer.id) == answer


async def test_what_is_no_document_is_refused_before_anything_is_stored(open_service: Open) -> None:
    async with open_service(learning=False) as service:
        with pytest.raises(UnsupportedFormat):
            await service.submit("here", "page.rtf", b"{\\rtf1 hello}", by="ada")
        assert await service.jobs("here") == []


async def test_a_file_over_the_limit_is_refused(open_service: Open) -> None:
    async with open_service(learning=False) as service:
        with pytest.raises(DocumentTooBig, match="limit"):
            await service.submit("here", "big.pdf", b"%PDF-" + bytes(10_000), by="ada")


async def test_a_job_is_durable_when_submit_returns(open_service: Open) -> None:
    async with open_service(learning=False) as service:
        job = await service.submit("here", "lighthouse.pdf", LIGHTHOUSE, by="ada", reply_to="message 7")
    async with open_service(learning=False) as service:
        (stored,) = await service.pending_deliveries()
    assert (stored.id, stored.reply_to, stored.stage) == (job.id, "message 7", Stage.QUEUED)


async def test_the_same_file_sent_twenty_times_at_once_is_one_job(open_service: Open) -> None:
    async with open_service(learning=False) as service:
        sent = (service.submit("here", f"{n}.pdf", LIGHTHOUSE, by="ada") for n in range(20))
        results = await asyncio.gather(*sent, return_exceptions=True)
        assert sum(isinstance(result, AlreadyKnown) for result in results) == 19
        assert len(await service.jobs("here")) == 1


async def test_without_a_document_only_the_base_model_answers(open_service: Open) -> None:
    async with open_service() as service:
        answer = await service.ask("here", "Who keeps the lighthouse?")
    assert answer.learned is None
    assert answer.document is None
    assert answer.base.text
    assert answer.id


async def test_a_question_is_answered_by_the_document_that_it_is_about(open_service: Open) -> None:
    engine = FakeEngine()
    async with open_service(engine) as service:
        await learn(service, BAKERY, "bakery.pdf")
        lighthouse = await learn(service)
        answer = await service.ask("here", "Who is the keeper of the lighthouse?")
    assert answer.document and answer.document.id == lighthouse.id
    assert answer.learned and answer.learned.text == "The keeper of the lighthouse is Ada Quill"
    assert answer.base.text != answer.learned.text
    assert answer.pages == (1,)
    assert answer.prompt_tokens == 7
    rows = [ask.weights is None for ask in engine.batches[-1]]
    assert rows == [False, False, True]  # the places that hold its words, then the base model


async def test_a_document_named_by_the_asker_answers_whatever_the_question(open_service: Open) -> None:
    async with open_service() as service:
        bakery = await learn(service, BAKERY, "bakery.pdf")
        await learn(service)
        answer = await service.ask("here", "Who is the keeper of the lighthouse?", document="bakery")
        assert answer.document and answer.document.id == bakery.id
        with pytest.raises(NotFound):
            await service.ask("here", "Who?", document="harbour")


async def test_where_nothing_is_about_the_question_the_base_model_answers_alone(open_service: Open) -> None:
    async with open_service() as service:
        await learn(service)
        answer = await service.ask("here", "Which uranium fuels the reactor?")
        assert answer.unrelated and (answer.learned, answer.document) == (None, None) and answer.base.text
        named = await service.ask("here", "Which uranium fuels the reactor?", document="lighthouse.pdf")
    assert named.learned and not named.unrelated


class Asking(FakeEngine):
    """Has a search head, and notes for which questions it is used. All of a text about ovens is close to warmth."""

    def __init__(self) -> None:
        super().__init__(chunk_size=8)
        self.asked: list[str] = []

    def queries(self, questions: Sequence[str]) -> list[Query]:
        self.asked += questions
        query = Query(b"a head's", np.full((1, 8), 8**-0.5), np.array([3.0]), slope=9.0, offset=-4.0)
        return [query] * len(questions)

    def codes(self, chunks: Sequence[Chunk]) -> list[bytes]:
        return [b"a head's" + (b"\xff" if "oven" in chunk.text else b"\x00") for chunk in chunks]


async def test_closeness_chooses_the_document_and_opens_the_gate_to_other_words(open_service: Open) -> None:
    engine, question = Asking(), "What is warm at six?"
    reworded = "Which hearth crackles early inside that cottage, or house, every winter?"
    async with open_service() as service:
        await learn(service, plain_pdf("The oven of the house is lit at six by the baker. " * 2), "oven.pdf")
        assert await source(service, reworded) == "", "its words alone do not"
        await service.reset("here")
    async with open_service(engine) as service:
        assert (await service.ask("here", question)).learned is None and not engine.asked, "there is nothing to find"
        await learn(service, plain_pdf("The oven of the house is lit at six by the baker. " * 2), "oven.pdf")
        assert await source(service, reworded) == "oven.pdf"
        await learn(service, plain_pdf("The tower is never warm at six in the morning. " * 2), "tower.pdf")
        assert await source(service, question) == "oven.pdf" and engine.asked == [reworded, question]
        answer = await service.ask("here", question, document="tower")
        assert answer.document and answer.document.name == "tower.pdf" and len(engine.asked) == 2


async def test_a_question_in_a_thread_that_clearly_points_at_another_document_goes_there(open_service: Open) -> None:
    async with open_service(Asking()) as service:
        await learn(service, plain_pdf("The tower is never warm at six in the morning. " * 2), "tower.pdf")
        assert await source(service, "What is warm at six?", thread="1") == "tower.pdf"
        await learn(service, plain_pdf("The oven of the house is lit at six by the baker. " * 2), "oven.pdf")
        assert await source(service, "What is lit at six?", thread="1") == "oven.pdf"
        assert await source(service, "What is it at six?", thread="1") == "oven.pdf"


class Failing(FakeEngine):
    def queries(self, questions: Sequence[str]) -> list[None]:
        raise RuntimeError("out of memory")


async def test_where_the_model_fails_the_search_words_find_the_document(open_taught: Open) -> None:
    async with open_taught(Failing()) as service:
        assert await source(service, ABOUT["bakery.pdf"]) == "bakery.pdf"


@pytest.fixture
def open_taught(open_service: Open) -> Open:
    """A service whose channel knows the bakery and the harbour; both open."""

    @asynccontextmanager
    async def opened(engine: FakeEngine | None = None) -> AsyncIterator[Service]:
        async with open_service(engine) as service:
            await learn(service, BAKERY, "bakery.pdf")
            await learn(service, HARBOUR, "harbour.pdf")
            yield service

    return opened


ABOUT = {"bakery.pdf": "Who is the baker of the bakery?", "harbour.pdf": "Who is the master of the harbour?"}
FOLLOW_UP = "When does it open?"


async def test_a_follow_up_is_put_to_the_document_that_answered_in_its_thread_last(open_taught: Open) -> None:
    async with open_taught() as service:
        for name, question in ABOUT.items():
            assert await source(service, question, thread="1") == name
            assert await source(service, FOLLOW_UP, thread="1") == name
        assert len({await source(service, FOLLOW_UP), await source(service, FOLLOW_UP, thread="2")}) == 1


async def test_outside_of_threads_the_last_answer_has_no_influence(open_taught: Open) -> None:
    async with open_taught() as service:
        names = [(await source(service, question), await source(service, FOLLOW_UP)) for question in ABOUT.values()]
    assert [first for first, _ in names] == list(ABOUT) and names[0][1] == names[1][1]


@pytest.mark.parametrize("question", [FOLLOW_UP, "How many boats lie there?", "Which uranium fuels it?"])
async def test_a_question_in_a_thread_is_one_batch_whichever_document_answers(open_taught: Open, question: str) -> None:
    engine = FakeEngine()
    async with open_taught(engine) as service:
        await service.ask("here", ABOUT["bakery.pdf"], thread="1")
        engine.batches.clear()
        await service.ask("here", question, thread="1")
        [batch] = engine.batches
        assert len(batch) == 3, "each section once, though it is the thread's and the channel's, and the base model"


class Counting(Index):
    """Notes whose pages are read."""

    async def pages(self, document_id: str) -> list[Page]:
        self.read.append(document_id)
        return await super().pages(document_id)


@pytest.mark.parametrize("ground", [False, True])
async def test_a_question_reads_each_documents_text_once(folder: DataFolder, weights: Weights, ground: bool) -> None:
    async with (
        Counting(folder.index) as index,
        Runner(FakeEngine, index, weights, SMALL, read=read_plain) as runner,
    ):
        service = Service(index, weights, runner, Answerer(index, weights, runner.device, ground=ground), SMALL)
        documents = [await learn(service, BAKERY, "bakery.pdf"), await learn(service, HARBOUR, "harbour.pdf")]
        index.read = []
        answer = await service.ask("here", "Who is the master on most days?")
        assert answer.pages == (1,) and sorted(index.read) == sorted(document.id for document in documents)


async def test_what_the_threads_document_is_not_about_goes_to_the_channel(open_taught: Open) -> None:
    async with open_taught() as service:
        assert await source(service, ABOUT["bakery.pdf"], thread="1") == "bakery.pdf"
        assert await source(service, "How many boats lie there?", thread="1") == "harbour.pdf"
        answer = await service.ask("here", "Which uranium fuels the reactor?", thread="1")
        assert answer.unrelated and answer.document is None
        assert await source(service, FOLLOW_UP, thread="1") == "harbour.pdf", "the base model's answer changes nothing"


async def test_what_the_threads_document_does_not_know_goes_to_the_channel(open_taught: Open) -> None:
    class Modest(FakeEngine):
        """Says of some questions that their answer is not in the text."""

        def _complete(self, ask: Ask) -> Completion:
            given = super()._complete(ask)
            unknown = "opens at five" in given.text or "nobody" in ask.question
            return replace(given, text="not in the text") if unknown else given

    async with open_taught(Modest()) as service:
        await service.ask("here", ABOUT["bakery.pdf"], thread="1")
        assert await source(service, FOLLOW_UP, thread="1") == "harbour.pdf"
        answer = await service.ask("here", "Is nobody in the bakery?", thread="1")
        assert answer.document and answer.learned and answer.learned.text == "not in the text"
        assert await source(service, FOLLOW_UP, thread="1") == "harbour.pdf", "who knows nothing does not change it"


async def test_a_document_named_by_the_asker_answers_in_any_thread(open_taught: Open) -> None:
    async with open_taught() as service:
        await service.ask("here", ABOUT["bakery.pdf"], thread="1")
        assert await source(service, FOLLOW_UP, thread="1", document="harbour") == "harbour.pdf"
        assert await source(service, FOLLOW_UP, thread="1") == "harbour.pdf"


async def test_an_answer_steers_the_thread_that_it_opened(open_taught: Open) -> None:
    async with open_taught() as service:
        for name, question in ABOUT.items():
            answer = await service.ask("here", question)
            await service.placed("here", answer.id, name)
            assert await source(service, FOLLOW_UP, thread=name) == name


async def test_what_was_forgotten_steers_no_thread(open_taught: Open) -> None:
    async with open_taught() as service:
        for question in ABOUT.values():
            await service.ask("here", question, thread="1")
        await service.forget("here", "harbour.pdf")
        assert await source(service, FOLLOW_UP, thread="1") == "bakery.pdf"
        await service.reset("here")
        assert await source(service, FOLLOW_UP, thread="1") == ""


async def test_another_channels_thread_of_the_same_name_has_no_influence(open_taught: Open) -> None:
    async with open_taught() as service:
        await learn(service, BAKERY, "bakery.pdf", "there")
        await learn(service, HARBOUR, "harbour.pdf", "there")
        for question in ABOUT.values():
            answer = await service.ask("there", question, thread="1")
            await service.placed("here", answer.id, "2")  # not its own
        assert len({await source(service, FOLLOW_UP, thread=thread) for thread in ("", "1", "2")}) == 1
        assert await source(service, FOLLOW_UP, thread="1", channel="there") == "harbour.pdf"


async def test_a_thread_keeps_its_document_across_a_restart(open_taught: Open, open_service: Open) -> None:
    async with open_taught() as service:
        for name, question in ABOUT.items():
            await service.ask("here", question, thread=name)
    async with open_service() as service:
        assert [await source(service, FOLLOW_UP, thread=name) for name in ABOUT] == list(ABOUT)


async def test_a_channel_knows_nothing_of_another_channels_documents(open_service: Open) -> None:
    async with open_service() as service:
        document = await learn(service, channel="here")
        assert (await service.ask("there", "Who is the keeper of the lighthouse?")).learned is None
        assert await service.documents("there") == []
        with pytest.raises(NotFound):
            await service.forget("there", document.id)
        with pytest.raises(NotFound):
            await service.ask("there", "Who?", document=document.id)


@pytest.mark.parametrize("question", ["", "   \n", "w" * (MAX_QUESTION + 1)])
async def test_an_empty_or_endless_question_is_refused(open_service: Open, question: str) -> None:
    async with open_service(learning=False) as service:
        with pytest.raises(Refused):
            await service.ask("here", question)


async def test_forgetting_one_document_leaves_the_other(open_service: Open, weights: Weights) -> None:
    async with open_service() as service:
        lighthouse, bakery = await learn(service), await learn(service, BAKERY, "bakery.pdf")
        forgotten = await service.forget("here", "lighthouse.pdf")
        assert forgotten.id == lighthouse.id
        assert [document.id for document in await service.documents("here")] == [bakery.id]
        answer = await service.ask("here", "Who is the baker?")
        assert answer.learned and "Tomas Reed" in answer.learned.text
        assert weights.sweep([bakery.weights]) == ([], [])


async def test_a_reset_erases_one_channel_and_ends_its_jobs(open_service: Open, weights: Weights) -> None:
    async with open_service(FakeEngine(step_seconds=0.02)) as service:
        await learn(service)
        kept = await learn(service, channel="there")
        running = await service.submit("here", "bakery.pdf", BAKERY * 10, by="ada")
        watching = asyncio.create_task(end(service, running.id))
        await asyncio.sleep(0.05)
        assert await service.reset("here") == 1
        assert await watching is Stage.CANCELLED
        assert (await service.documents("here"), await service.jobs("here")) == ([], [])
        assert [document.id for document in await service.documents("there")] == [kept.id]
        assert weights.sweep([kept.weights]) == ([], [])
        assert (await service.ask("here", "Who is the keeper?")).learned is None


async def relearned(service: Service) -> list[str]:
    """Names of what was learned again."""
    jobs = await service.relearn("here")
    for job in jobs:
        assert await end(service, job.id) is Stage.DONE
    return [job.name for job in jobs]


def damage(folder: DataFolder, document: Document) -> None:
    path = folder.path / document.weights.path
    path.write_bytes(path.read_bytes()[:-1])


async def test_a_damaged_document_fails_no_question_that_another_can_answer_and_is_named(
    open_service: Open, folder: DataFolder
) -> None:
    async with open_service() as service:
        lighthouse, _ = await learn(service), await learn(service, HARBOUR, "harbour.pdf")
        damage(folder, lighthouse)
        answer = await service.ask("here", "Who is the master, and who is the keeper of the harbour?")
        assert answer.document and answer.document.name == "harbour.pdf" and answer.unusable == ("lighthouse.pdf",)
        with pytest.raises(WeightsDamaged, match=r"lighthouse\.pdf: "):
            await service.ask("here", "Who is the keeper of the lighthouse?", document="lighthouse.pdf")


async def test_a_document_that_is_forgotten_meanwhile_fails_no_question_that_another_can_answer(
    open_service: Open, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_service() as service:
        lighthouse, harbour = await learn(service), await learn(service, HARBOUR, "harbour.pdf")
        forgotten = [lighthouse, harbour]
        search = index.candidates

        async def search_and_forget(*args: Any, **options: Any) -> Any:
            hits = await search(*args, **options)
            await service.forget("here", forgotten.pop(0).id)
            return hits

        monkeypatch.setattr(index, "candidates", search_and_forget)
        answer = await service.ask("here", "Who is the master, and who is the keeper of the harbour?")
        assert answer.document and answer.document.name == "harbour.pdf" and not answer.unusable
        with pytest.raises(NotFound, match="forgotten while it was asked"):
            await service.ask("here", "Who is the keeper of the harbour?")


async def test_what_is_damaged_is_learned_again_in_its_place_from_the_kept_text(
    open_service: Open, folder: DataFolder, index: Index
) -> None:
    async with open_service() as service:
        old, kept = await learn(service), await learn(service, HARBOUR, "harbour.pdf")
        asked = await service.ask("here", "Who is the keeper of the lighthouse?", thread="1")
        damage(folder, old)
        assert await relearned(service) == ["lighthouse.pdf"] and await relearned(service) == []
        assert "Ada Quill" in (await service.ask("here", "Who is the keeper of the lighthouse?")).learned.text
        new, other = await service.documents("here")
        assert (new.name, new.sha256, new.learned_by, other) == (old.name, old.sha256, old.learned_by, kept)
        assert (
            await index.thread_document("here", "1") == new.id
            and (await service.answer("here", asked.id)).question == asked.question
        )
        assert {path.stem for path in folder.weights.iterdir()} == {new.id, kept.id}
        await service.forget("here", new.id)
    assert b"Ada Quill" not in b"".join(path.read_bytes() for path in folder.path.rglob("*") if path.is_file())


async def test_for_another_base_model_everything_is_learned_again(open_service: Open) -> None:
    async with open_service() as service:
        await learn(service)
    async with open_service(FakeEngine(fingerprint="e" * 64)) as service:
        with pytest.raises(WrongBaseModel):
            await service.ask("here", "Who is the keeper of the lighthouse?")
        assert await relearned(service) == ["lighthouse.pdf"]
        assert "Ada Quill" in (await service.ask("here", "Who is the keeper of the lighthouse?")).learned.text


async def test_the_same_pdf_again_mends_what_is_damaged(open_service: Open, folder: DataFolder) -> None:
    async with open_service() as service:
        damage(folder, await learn(service))
        mended = await learn(service)
        assert await service.documents("here") == [mended]
        assert "Ada Quill" in (await service.ask("here", "Who is the keeper of the lighthouse?")).learned.text
        with pytest.raises(AlreadyKnown):
            await learn(service)


async def test_without_text_the_pdf_is_asked_for(open_service: Open, folder: DataFolder) -> None:
    async with open_service(keep_text=False) as service:
        damage(folder, await learn(service))
        with pytest.raises(Refused, match=r"lighthouse\.pdf is not kept; hand it in again"):
            await service.relearn("here")


async def test_what_failed_to_be_learned_again_leaves_the_old_document(open_service: Open, folder: DataFolder) -> None:
    async with open_service() as service:
        old = await learn(service)
    damage(folder, old)
    async with open_service(FakeEngine(fail_at_step=1, learn_error=LearningFailed())) as service:
        (job,) = await service.relearn("here")
        assert await end(service, job.id) is Stage.FAILED and await service.documents("here") == [old]


async def end(service: Service, job_id: str) -> Stage:
    return [progress.job.stage async for progress in service.watch(job_id)][-1]


async def test_cancelling_what_is_not_there_says_so(open_service: Open) -> None:
    async with open_service() as service:
        with pytest.raises(NotFound):
            await service.cancel("here", "nothing")
        assert await service.cancel("here") == []


async def test_the_status_tells_the_model_the_queue_and_the_documents(open_service: Open) -> None:
    async with open_service(FakeEngine(step_seconds=0.05)) as service:
        await learn(service)
        jobs = [await service.submit("there", name, plain_pdf(name * 9 + BAKERY.decode()), by="ada") for name in "ab"]
        async for progress in service.watch(jobs[0].id):
            if progress.job.stage is Stage.LEARNING:
                break
        status = await service.status("here")
    assert (status.model, status.documents, status.queued) == ("fake", 1, 1)
    assert status.running and status.running.id == jobs[0].id
    assert status.data_bytes > 0


async def test_an_end_is_to_be_delivered_until_it_was(open_service: Open) -> None:
    async with open_service() as service:
        await learn(service)
        (job,) = await service.pending_deliveries()
        assert job.stage is Stage.DONE
        await service.delivered(job.id)
        assert await service.pending_deliveries() == []


async def test_feedback_is_taken_for_answers_of_the_channel_only(open_service: Open, index: Index) -> None:
    async with open_service() as service:
        answer = await service.ask("here", "Who?")
        await service.feedback("here", answer.id, by="ada", helpful=True)
        with pytest.raises(NotFound):
            await service.feedback("there", answer.id, by="eve", helpful=False)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("../../x.pdf", "x.pdf"),
        ("/etc/passwd", "passwd"),
        ("C:\\x.pdf", "x.pdf"),
        ("a\x00b\nc.pdf", "ab c.pdf"),
        ("fdp\u202egpj.pdf", "fdpgpj.pdf"),
        ("", "document.pdf"),
        ("...", "document.pdf"),
        ("' OR 1=1--.pdf", "' OR 1=1--.pdf"),
        ("n" * 300 + ".pdf", "n" * 116 + ".pdf"),
        ("Übersicht 🗼.pdf", "Übersicht 🗼.pdf"),
    ],
)
def test_a_file_name_is_made_harmless(given: str, shown: str) -> None:
    assert harmless_name(given) == shown


async def test_an_answer_below_the_floor_is_not_given(open_service: Open, index: Index, weights: Weights) -> None:
    async with open_service() as service:
        await learn(service)
        strict = Service(index, weights, service._runner, Answerer(index, weights, service._runner.device, floor=0.99))
        answer = await strict.ask("here", "Who is the keeper of the lighthouse?")
    assert answer.learned and answer.learned.text == "not in the text" and answer.pages == ()


@pytest.mark.parametrize("ground", [False, True])
async def test_the_text_stands_in_the_prompt_only_where_the_operator_wants_it(open_service, ground: bool) -> None:
    engine = FakeEngine()
    async with open_service(engine, ground=ground) as service:
        await learn(service, plain_pdf("The warden of the harbour is Orla Quint."), "here")
        answer = await service.ask("here", "Who is the warden of the harbour?")
        [asks] = [batch for batch in engine.batches if any(ask.weights for ask in batch)]
        assert any("Orla Quint" in ask.context for ask in asks) is ground
        assert all(ask.context == "" for ask in asks if ask.weights is None)
        assert (answer.document_tokens > 0) is ground


async def test_a_follow_up_is_understood_from_the_questions_of_its_thread(open_service) -> None:
    class Completing(FakeEngine):
        def rewrite_question(self, history: Sequence[str], question: str) -> str:
            return f"{question.rstrip('?')} of {history[-1].split()[-1]}" if history else question

    async with open_service(Completing()) as service:
        await learn(service)
        await service.ask("here", "Who is the keeper of the lighthouse?", thread="1")
        first = await service.ask("here", "What is its colour?", thread="1")
        assert (first.question, first.understood) == ("What is its colour?", "What is its colour of lighthouse?")
        alone = await service.ask("here", "What is its colour?", thread="2")
        assert alone.understood == ""
        questions = await service._index.thread_questions("here", "1", 3)
        assert questions == ["Who is the keeper of the lighthouse?", "What is its colour of lighthouse?"]


async def test_a_question_about_the_whole_is_put_to_weights_of_its_own(open_service: Open) -> None:
    engine = FakeEngine()
    async with open_service(engine) as service:
        document = await learn(service)
        engine.says = Completion("the lighthouse", 2, 0.0, 0.9)
        answer = await service.ask("here", "Hi! Can you sum it up?")
    ask, base = engine.batches[-1]
    assert document.metrics.gist == max(document.weights.sections) + 1
    assert to_text(ask.weights["memory"]).startswith("The main subject is keeper of the lighthouse.")
    assert (ask.context, base.weights, base.question) == ("", None, "Hi! Can you sum it up?")
    assert (answer.section, answer.pages, answer.certainty) == (document.metrics.gist, (1,), Certainty.LIKELY)
    assert answer.document_tokens == 0


async def test_the_document_that_is_meant_is_the_named_one_the_threads_or_the_newest(open_service: Open) -> None:
    engine = FakeEngine()
    async with open_service(engine) as service:
        await learn(service)
        await learn(service, HARBOUR, "harbour.pdf")
        await service.ask("here", "Who is the keeper of the lighthouse?", thread="1")
        engine.says = Completion("six", 1, 0.0, 0.9)
        assert await source(service, "What is this about?") == "harbour.pdf"
        engine.says = Completion("the lighthouse", 2, 0.0, 0.9)
        assert await source(service, "What is this about?", thread="1") == "lighthouse.pdf"
        assert await source(service, "summary please", document="lighthouse.pdf") == "lighthouse.pdf"


async def test_what_the_text_does_not_hold_is_never_a_summary(open_service: Open) -> None:
    engine = FakeEngine()
    async with open_service(engine) as service:
        await learn(service)
        engine.says = Completion("a trip to the moon", 5, 0.0, 0.9)
        with pytest.raises(NoGist, match="can't sum it up"):
            await service.ask("here", "Summarise it.")
