"""Small jobs, documents and weights, and the way from one to the next."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from itertools import zip_longest

from core.ports import Learned
from core.types import Answer, Chunk, Completion, Document, DocumentRef, Job, Metrics, Page, Stage, WeightsRecord
from storage.index import Index

METRICS = Metrics(4.0, 1.5, (4.0, 2.5, 1.5), chunks=1, tokens=9, seconds=0.5, delta_norm=0.1, notes=("rolled back",))


def make_job(id: str, channel: str = "here", *, data: bytes = b"", **changes) -> Job:
    """A job with a file of its own, unless `data` says which."""
    sha256 = hashlib.sha256(data or id.encode(errors="replace")).hexdigest()
    values = {"name": f"{id}.pdf", "requested_by": "ada", "reply_to": "7", "created_at": 1.0, "sha256": sha256}
    return Job(id=id, channel=channel, **values | changes)


def make_document(id: str, job: Job, weights: WeightsRecord | None = None, **changes) -> Document:
    values = {"name": job.name, "pages": 1, "tokens": 9, "learned_at": 2.0, "learned_by": "ada", "metrics": METRICS}
    record = weights or WeightsRecord(id, f"weights/{id}.safetensors", 10, "0" * 64, "base", "lora", (0, 0, 1))
    return Document(id=id, channel=job.channel, sha256=job.sha256, weights=record, **values | changes)


def make_chunks(*texts: str, codes: Sequence[bytes] = ()) -> list[Chunk]:
    pairs = zip_longest(texts, codes, fillvalue=b"")
    return [Chunk(at, str(text), (1, 2, 3), at + 1, at + 1, bytes(code)) for at, (text, code) in enumerate(pairs)]


def make_answer(document: Document | None, question: str = "Who?", learned: str = "Ada.") -> Answer:
    said = Completion(learned, 2, 0.1) if document else None
    ref = DocumentRef(document.id, document.name) if document else None
    return Answer(question, base=Completion("Nobody.", 2, 0.1), learned=said, document=ref, prompt_tokens=3)


def make_learned(*values: float, sections: tuple[int, ...] = (0, 1)) -> Learned:
    import torch

    tensors = {
        f"{section}/up.{at}": torch.tensor([value]) for section in {*sections} for at, value in enumerate(values)
    }
    return Learned(tensors=tensors, sections=sections, metrics=METRICS)


async def learn(
    index: Index,
    id: str,
    texts: Sequence[str],
    channel: str = "here",
    codes: Sequence[bytes] = (),
    weights: WeightsRecord | None = None,
    **changes,
) -> Document:
    """Through the queue, as the runner does it; a page and a chunk for each text."""
    job = await index.add_job(
        make_job(f"job-{channel}-{id}", channel, **changes), b"%PDF- " + " ".join(texts).encode(errors="replace")
    )
    document = make_document(id, job, weights, learned_at=2.0 + len(await index.all_weights()))
    pages = [Page(number, text) for number, text in enumerate(texts, start=1)]
    await index.finish_job(job.id, document, pages, make_chunks(*texts, codes=codes))
    return document


async def claim(index: Index, *stages: Stage) -> str:
    """Claim the next job and move it on; returns its id."""
    job = await index.next_job()
    assert job
    for stage in stages:
        await index.job_stage(job.id, stage)
    return job.id


def canaries(name: str) -> list[str]:
    """Words that occur nowhere else."""
    chance = random.Random(name)
    return [chance.randbytes(10).hex() for _ in range(100)]


async def plant(index: Index, name: str, channel: str = "here") -> list[str]:
    """A document with a code, a failed job, an answer and feedback, 100 canaries in them."""
    words = canaries(name)
    texts = [f"{word} " + "filling " * (at * 8) for at, word in enumerate(words[:94])]
    await index.add_job(make_job(f"failed-{name}", channel, name=words[95], data=name.encode()), words[95].encode())
    await index.job_stage(f"failed-{name}", Stage.FAILED, error=words[95])
    given = {"name": words[96], "requested_by": words[97], "data": name.encode()}
    document = await learn(index, name, texts, channel, codes=[words[94].encode()], **given)
    answer = await index.add_answer(channel, make_answer(document, words[98], words[99]), asked_by=words[97])
    await index.place_answer(channel, answer, words[97])
    await index.feedback(channel, answer, by=words[97], helpful=True)
    return words
