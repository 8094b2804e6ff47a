"""What somebody says is right, as a section of its document."""

from __future__ import annotations

import pytest

from core.correction import alike
from core.errors import AlreadyKnown, NotFound, Refused
from core.service import Service
from core.types import Completion, Correction, Document, Job, JobKind, Page, Progress, Stage
from storage.index import Index
from storage.weights import Weights
from tests.conftest import Open
from tests.core.test_service import BAKERY, LIGHTHOUSE, learn
from tests.fakes import FakeEngine, plain_pdf

KEEPER = "Who is the keeper of the lighthouse today?"
TOM = "The keeper of the lighthouse today is Tom Reed"


async def corrected(service: Service, question: str = KEEPER, right: str = TOM) -> Correction:
    """Ada asks, Bob says what is right."""
    answer = await service.ask("here", question, by="ada", thread="7")
    await service.feedback("here", answer.id, by="bob", helpful=False, correction=right)
    return (await service.corrections("here"))[-1]


async def end(service: Service, job: Job) -> Progress:
    *_, last = [news async for news in service.watch(job.id)]
    return last


async def said(service: Service, question: str = KEEPER) -> str:
    answer = await service.ask("here", question)
    return answer.learned.text if answer.learned else ""


async def test_a_correction_becomes_a_section_and_the_others_stay_as_they_are(
    open_service: Open, index: Index, weights: Weights
) -> None:
    async with open_service() as service:
        before = await learn(service, LIGHTHOUSE)
        sections = {s: weights.load(before.weights, "here", base="f" * 64, section=s) for s in before.weights.sections}
        given = await corrected(service)
        assert (given.answer != TOM, given.correction, given.given_by, given.learned) == (True, TOM, "bob", False)
        job = await service.learn_correction("here", given.id, by="ada", reply_to="fake:1")
        last = await end(service, job)
        assert last.job.stage is Stage.DONE and last.document
        assert TOM in await said(service)
        answer = await service.ask("here", KEEPER)
        assert answer.places == ("a correction",)
        [after] = await service.documents("here")
        assert (after.learned_by, after.learned_at, after.pages) == (before.learned_by, before.learned_at, before.pages)
        assert after.weights.sections[:-1] == before.weights.sections and after.tokens > before.tokens
        for section, tensors in sections.items():
            now = weights.load(after.weights, "here", base="f" * 64, section=section)
            assert all(now[name].equal(tensor) for name, tensor in tensors.items())
        assert [one.learned for one in await service.corrections("here")] == [True]
        assert await index.unused_weights() == [] and not weights._path(before.id).exists()


async def test_it_is_undone_to_what_was_there_before(open_service: Open, index: Index) -> None:
    async with open_service() as service:
        before = await learn(service, LIGHTHOUSE)
        pages, chunks = await index.pages(before.id), await index.chunks(before.id)
        given = await corrected(service)
        await end(service, await service.learn_correction("here", given.id, by="ada"))
        with pytest.raises(Refused, match="already"):
            await service.learn_correction("here", given.id, by="ada")
        await end(service, await service.learn_correction("here", given.id, by="ada", undo=True))
        assert await said(service) == given.answer
        [after] = await service.documents("here")
        assert (await index.pages(after.id), await index.chunks(after.id)) == (pages, chunks)
        assert (after.tokens, after.weights.sections) == (before.tokens, before.weights.sections)
        with pytest.raises(Refused, match="don't know"):
            await service.learn_correction("here", given.id, by="ada", undo=True)
        await end(service, await service.learn_correction("here", given.id, by="ada"))
        assert TOM in await said(service)


async def test_what_makes_the_documents_own_answers_worse_is_left_out(open_service: Open, index: Index) -> None:
    class Asked(FakeEngine):
        def self_check(self, pages):  # one whose words the correction takes away
            yield from ()
            return [("Who writes the weather report on the door?", "Ada Quill writes the weather report")]

    text = "Ada Quill writes the weather report. The door is red. The inn is old. The lamp burns oil. "
    async with open_service(Asked()) as service:
        before = await learn(service, plain_pdf(text))
        given = await corrected(service, "What is red?", "The weather report on the door is red, who writes")
        last = await end(service, await service.learn_correction("here", given.id, by="ada"))
        assert last.job.stage is Stage.FAILED and "0 of my own 1 questions" in last.job.error
        assert [d.id for d in await service.documents("here")] == [before.id]
        assert await index.unused_weights() in ([], [before.id]) and not given.learned
        assert [one.learned for one in await service.corrections("here")] == [False]


async def test_what_is_not_answered_after_all_is_left_out(open_service: Open) -> None:
    engine = FakeEngine()
    async with open_service(engine) as service:
        await learn(service, LIGHTHOUSE)
        given = await corrected(service)
        engine.says = Completion("Ada Quill", 2, 0.1, 0.9)  # whatever it learns
        last = await end(service, await service.learn_correction("here", given.id, by="ada"))
        assert last.job.stage is Stage.FAILED and "still don't answer" in last.job.error


async def test_old_messages_still_name_the_document(open_service: Open, index: Index) -> None:
    async with open_service() as service:
        before = await learn(service, LIGHTHOUSE)
        [first] = await service.jobs("here", unfinished=False)
        given = await corrected(service)
        await end(service, await service.learn_correction("here", given.id, by="ada"))
        [after] = await service.documents("here")
        assert after.id != before.id and after.formerly == (before.id,)
        assert await index.find_document("here", before.id) == after
        assert (await index.job(first.id)).document_id == after.id  # whoever removes the upload is asked about it
        assert await index.thread_document("here", "7") == after.id


async def test_a_restart_in_the_middle_learns_it_all_the_same(open_service: Open) -> None:
    async with open_service() as service:
        await learn(service, LIGHTHOUSE)
        given = await corrected(service)
    async with open_service(learning=False) as service:
        job = await service.learn_correction("here", given.id, by="ada")
        assert (job.kind, job.sources[1]) == (JobKind.CORRECT, given.id)
        with pytest.raises(AlreadyKnown):
            await service.learn_correction("here", given.id, by="ada")
    async with open_service() as service:
        assert (await end(service, job)).job.stage is Stage.DONE
        assert TOM in await said(service)


async def test_it_stays_when_the_document_is_learned_again(open_service: Open, index: Index) -> None:
    async with open_service() as service:
        document = await learn(service, LIGHTHOUSE)
        given = await corrected(service)
        await end(service, await service.learn_correction("here", given.id, by="ada"))
        [document] = await service.documents("here")
        wanted = await index.chunks(document.id)
    async with open_service(FakeEngine(fingerprint="e" * 64)) as service:
        [job] = await service.relearn("here")
        await end(service, job)
        [again] = await service.documents("here")
        assert await index.chunks(again.id) == wanted and again.pages == document.pages
        assert [one.learned for one in await service.corrections("here")] == [True]


async def test_it_goes_with_its_document_its_channel_and_its_person(open_service: Open, index: Index) -> None:
    async def bytes_of() -> bytes:
        return b"".join(path.read_bytes() for path in index._path.parent.rglob("*") if path.is_file())

    async with open_service() as service:
        for erase in ("forget", "person", "reset"):
            document = await learn(service, LIGHTHOUSE)
            given = await corrected(service)
            await end(service, await service.learn_correction("here", given.id, by="ada"))
            assert b"Tom Reed" in await bytes_of()
            if erase == "forget":
                await service.forget("here", document.id)
            elif erase == "person":
                assert await service.forget_person("bob") == 1
                assert await service.corrections("here") == [] and b"bob" not in await bytes_of()
                assert await service.forget_person("bob") == 0
                assert TOM in await said(service)  # what was learned is the channel's
                await service.forget("here", document.id)
            else:
                await service.reset("here")
            assert await service.corrections("here") == [] and b"Tom Reed" not in await bytes_of()


async def test_what_can_not_be_learned_is_refused_at_once(open_service: Open) -> None:
    async with open_service() as service:
        await learn(service, LIGHTHOUSE)
        answer = await service.ask("here", KEEPER)
        await service.feedback("here", answer.id, by="bob", helpful=False)
        [bare] = await service.corrections("here")
        with pytest.raises(Refused, match="Nobody said"):
            await service.learn_correction("here", bare.id, by="ada")
        with pytest.raises(NotFound):
            await service.learn_correction("here", "nonsense", by="ada")
        with pytest.raises(NotFound):
            await service.learn_correction("elsewhere", bare.id, by="ada")
    async with open_service(keep_text=False) as service:
        await learn(service, BAKERY, "bakery.pdf")
        given = await corrected(service, "Who is the baker?", "The baker is Tom")
        with pytest.raises(Refused, match="not kept"):
            await service.learn_correction("here", given.id, by="ada")


async def test_two_corrections_of_one_document_stand_beside_each_other(open_service: Open, index: Index) -> None:
    async with open_service() as service:
        document: Document = await learn(service, LIGHTHOUSE)
        pages = {"first": KEEPER, "second": "What burns in the lamp?"}
        right = {"first": TOM, "second": "In the lamp burns sunflower oil now"}
        ids = {}
        for name, question in pages.items():
            given = await corrected(service, question, right[name])
            ids[name] = given.id
            await end(service, await service.learn_correction("here", given.id, by="ada"))
        await end(service, await service.learn_correction("here", ids["first"], by="ada", undo=True))
        assert TOM not in await said(service) and "sunflower" in await said(service, pages["second"])
        [document] = await service.documents("here")
        kept: list[Page] = [page for page in await index.pages(document.id) if page.correction]
        assert [page.correction for page in kept] == [ids["second"]] and len(document.formerly) == 3


def test_questions_are_alike_by_their_words() -> None:
    assert alike("Who is the harbour master?", "who is the harbour master today?")
    assert not alike("Who is the harbour master?", "Who is the lighthouse keeper?")
