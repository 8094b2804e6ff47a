"""All documents of a channel as one."""

from __future__ import annotations

import pytest

from core.consolidate import join_documents, merge_chunks, sections_of_chunks
from core.errors import Refused
from core.types import Chunk, JobKind, Page
from storage.index import Index
from tests.conftest import Open
from tests.core.test_service import BAKERY, LIGHTHOUSE, learn


def test_pages_are_counted_on_and_a_note_says_whose_they_are() -> None:
    text = join_documents([("a.pdf", [Page(1, "One."), Page(2, "Two.")]), ("b.pdf", [Page(7, "Three.")])])
    assert [(p.number, p.text) for p in text.pages] == [(1, "One."), (2, "Two."), (3, "Three.")]
    assert text.notes == ("Pages 1 to 2 are a.pdf.", "Pages 3 to 3 are b.pdf.")
    assert join_documents([("b.pdf", [Page(7, "Three.")])]).pages == (Page(7, "Three."),)


def test_neighbouring_chunks_become_one_and_nothing_is_lost() -> None:
    chunks = [Chunk(n, f"{n} ", (n, n), n, n + 1) for n in range(5)]
    found = merge_chunks(chunks, 2)
    assert [c.text for c in found] == ["0 1 ", "2 3 ", "4 "] and [c.index for c in found] == [0, 1, 2]
    assert (found[1].token_ids, found[1].start_page, found[1].end_page) == ((2, 2, 3, 3), 2, 4)
    assert sections_of_chunks([10, 11, 12], 5, 2) == (10, 10, 11, 11, 12)
    assert merge_chunks(chunks, 1) == chunks


async def test_the_documents_answer_from_fewer_sections(open_service: Open) -> None:
    async with open_service() as service:
        first = [await learn(service, LIGHTHOUSE * 3), await learn(service, BAKERY * 3, "bakery.pdf")]
        job, before = await service.consolidate("here", by="ada", share=2)
        [*_, last] = [progress async for progress in service.watch(job.id)]
        assert last.document and {d.id for d in before} == {d.id for d in first}
        for old in before:
            await service.forget("here", old.id)
        sections = last.document.weights.sections
        assert len(set(sections)) == -(-len(sections) // 2) < sum(len(d.weights.sections) for d in first)
        for question, words in (("Who is the keeper of the lighthouse?", "Ada Quill"), ("Who is the baker?", "Tomas")):
            answer = await service.ask("here", question)
            assert answer.learned and words in answer.learned.text


async def test_one_document_or_one_without_text_is_refused(open_service: Open) -> None:
    async with open_service(keep_text=False) as service:
        await learn(service)
        with pytest.raises(Refused, match="no two documents"):
            await service.consolidate("here", by="ada", share=2)
        await learn(service, BAKERY, "bakery.pdf")
        with pytest.raises(Refused, match="not kept"):
            await service.consolidate("here", by="ada", share=2)


async def test_a_document_that_is_forgotten_meanwhile_is_in_no_consolidation(open_service: Open, index: Index) -> None:
    async with open_service() as service:
        first = await learn(service)
        await learn(service, BAKERY, "bakery.pdf")
    async with open_service(learning=False) as service:
        job, _ = await service.consolidate("here", by="ada", share=2)
        assert (job.kind, job.share, len(job.sources)) == (JobKind.CONSOLIDATE, 2, 2)
        assert (await index.job(job.id)) == job
        await service.forget("here", first.id)
        assert await service.jobs("here") == []


async def test_a_text_that_begins_as_older_versions_marked_their_own_is_only_a_text(open_service: Open) -> None:
    """No bytes of an upload are an order."""
    async with open_service(learning=False) as service:
        job = await service.submit("here", "a.txt", b"engram: documents as one\n" + b"words " * 99, by="eve")
        assert job.kind is JobKind.LEARN
