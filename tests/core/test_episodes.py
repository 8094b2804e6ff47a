"""Episodes: documents with their questions, in tensors."""

from __future__ import annotations

import random

import pytest
import torch

from core.embedded.corpus import PAD, A, Passage, Q
from core.embedded.questions import QA
from core.embedded.swapped import Words
from core.learning.episodes import (
    Batch,
    Curriculum,
    Episode,
    EpisodeStream,
    Material,
    Reading,
    Shapes,
    make_batch,
    run_of,
    stranger,
    text_beside,
)
from core.learning.fast_weights import IGNORE
from core.prompts import NOT_IN_TEXT


def passages(count: int = 12) -> list[Passage]:
    return [
        Passage(f"Port {n // 4}", f"Berth {n} costs {n} crowns. " * 8, [QA(f"Which {n}?", f"{n}")])
        for n in range(count)
    ]


@pytest.fixture
def encode(tokenizer):
    return lambda text: tokenizer.encode(text, add_special_tokens=False)


@pytest.fixture
def batch(tokenizer, fmt):
    def made(strangers: float):
        episodes = [
            Episode("A", "The port is old. " * 10, [QA("How old?", "old")]),
            Episode("B", "A town.", [QA("What?", "town")]),
        ]
        encode = lambda text: tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
        options = dict(segment=16, limit=100, per_document=3, width=20, rng=random.Random(0), strangers=strangers)
        return make_batch(episodes, encode, fmt, **options)

    return made


def test_a_batch_holds_the_documents_and_only_answers_are_labelled(batch, tokenizer) -> None:
    made = batch(0.0)
    assert made.inputs.shape == made.targets.shape == (2, made.inputs.shape[1], 16)
    assert made.questions.shape == made.labels.shape == (6, 20)
    said = [tokenizer.decode(row[row != IGNORE]) for row in made.labels]
    assert said == [" old<|endoftext|>"] * 3 + [" town<|endoftext|>"] * 3
    assert (made.targets[1, 1:] == IGNORE).all(), "the shorter document is padded with empty segments"
    assert (made.questions[made.labels != IGNORE] == made.labels[made.labels != IGNORE]).all()


def test_a_strangers_question_is_answered_not_in_the_text(batch, tokenizer) -> None:
    made = batch(1.0)
    rows = [
        (tokenizer.decode(q), tokenizer.decode(a[a != IGNORE]))
        for q, a in zip(made.questions, made.labels, strict=True)
    ]
    for own, other in ((rows[:3], "What?"), (rows[3:], "How old?")):
        [stranger] = [q for q, a in own if a == f" {NOT_IN_TEXT}<|endoftext|>"]
        assert other in stranger


def test_the_stranger_is_close_to_the_document_but_not_answered_by_it() -> None:
    port = Episode("Port", "The old harbour of Lund was closed in 1901.", [QA("When was it closed?", "1901")])
    far = Episode("Bees", "Bees make honey.", [QA("What do bees make?", "honey")])
    near = Episode("Oslo", "The new harbour of Oslo has ten berths.", [QA("Which city has the new harbour?", "Oslo")])
    same = Episode("Port", "It was closed in 1901.", [QA("When was the old harbour of Lund closed?", "in 1901")])
    asked = {stranger(port, [port, far, near, same], random.Random(seed)) for seed in range(20)}
    assert asked == {QA("Which city has the new harbour?", NOT_IN_TEXT)}
    assert stranger(port, [port], random.Random(0)) is None
    beyond = port._replace(beyond=[QA("Who closed it?", "Quint"), QA("Which year?", "1901")])
    asked = {stranger(beyond, [port, far], random.Random(seed)) for seed in range(20)}
    assert {q.question for q in asked} == {"Who closed it?", "What do bees make?"}


def test_beyond_a_run_lies_the_rest_of_its_article_and_beyond_swapped_words_the_words_before() -> None:
    for seed in range(20):
        found = run_of(passages(), random.Random(seed), 90, same_title=True)
        places = [int(q.answer) for q in found.questions]
        around = {n for n in (min(places) - 1, max(places) + 1) if n // 4 == places[0] // 4}
        assert {int(q.answer) for q in found.beyond} == around
    assert not run_of(passages(), random.Random(0), 90, same_title=False).beyond
    town = [Passage("nq", "The port was kept by Orla Quint of Lund.", [QA("Where was Orla Quint from?", "Lund")])]
    named = [Passage("Port", "It was built by Hanna Lund near Oslo and kept by Orla Quint.", [])] * 32
    drawn = Material(human=town, passages=named, shares={"human": 1.0}, swap={"human": 1.0}).draw(random.Random(3), 10)
    assert "Orla" not in drawn.text and [q.question for q in drawn.beyond] == ["Where was Orla Quint from?"]


def test_a_run_keeps_to_one_title_and_about_its_length() -> None:
    rng = random.Random(1)
    for _ in range(20):
        found = run_of(passages(), rng, 160, same_title=True)
        assert 40 <= len(found.text.split()) <= 160 / 1.35 * 1.15 and found.questions
    assert all(q.answer in found.text for q in found.questions)


def test_documents_grow_with_the_time_that_has_passed() -> None:
    rng, plan = random.Random(0), Curriculum(shortest=64, first=256, longest=2048, grown_at=0.5)
    early, late = ([plan.draw(rng, done).tokens for _ in range(400)] for done in (0.0, 0.9))
    assert min(early) >= 64 and max(early) <= 256 < 1500 < max(late) <= 2048


def test_material_draws_only_from_what_there_is() -> None:
    assert Material().draw(random.Random(0), 200).questions  # invented facts need no files
    only = Material(written=passages(), shares={"human": 1.0, "written": 1.0})
    assert all("Berth" in only.draw(random.Random(n), 100).text for n in range(5))


def test_of_a_human_context_few_questions_are_taken_and_their_words_may_be_swapped() -> None:
    asked = [QA(f"What is at berth {n}?", "Orla") for n in range(9)]
    human = [Passage("nq", "All nine berths are kept by Orla.", asked)]
    plain = Material(human=human, shares={"human": 1.0}, few=2).draw(random.Random(0), 20)
    assert len(plain.questions) == 2 * plain.text.count("All nine berths") and "Orla" in plain.text
    named = [Passage("Port", "It was built by Hanna Lund near Oslo and kept by Orla Quint.", [])] * 32
    material = Material(human=human, passages=named, shares={"human": 1.0}, swap={"human": 1.0})
    drawn = [material.draw(random.Random(n), 10) for n in range(20)]
    assert all(q.answer in e.text for e in drawn for q in e.questions)
    assert {"Hanna", "Lund"} & {q.answer for e in drawn for q in e.questions}


def test_the_stream_is_endless_and_follows_its_seed(tokenizer, fmt) -> None:
    def first(seed: int):
        lengths = Curriculum(first=96, longest=96, batch=400, per_document=2)
        return next(
            iter(EpisodeStream(Material(), tokenizer, fmt, lengths, segment=32, width=40, seed=seed, strangers=0.4))
        )

    assert first(1).questions.equal(first(1).questions) and len(first(1).inputs) >= 2
    assert not first(1).questions.equal(first(2).questions)


def test_batches_of_given_shapes_lose_nothing_of_a_document(tokenizer, fmt) -> None:
    shapes = Shapes.of("2x3x2,3x2x4", segment=64)
    stream = iter(EpisodeStream(Material(), tokenizer, fmt, shapes, segment=64, width=48, seed=0, strangers=0.0))
    batches = [next(stream) for _ in range(8)]
    assert {(b.inputs.shape[1], len(b.inputs), len(b.questions)) for b in batches} == {(2, 3, 6), (3, 2, 8)}
    for b in batches:  # the last segment of a document is filled to the same length as the others, or empty
        counts = (b.targets != IGNORE).sum(2)
        assert all(c[c > 0].max() - c[c > 0].min() <= 2 + len(c) for c in counts)


def test_rows_to_read_are_full_and_follow_their_generator(encode) -> None:
    material = Material(human=passages(), shares={"human": 1.0})
    made, same, other = (
        Reading(rows=3, length=96, longest=200).draw(material, encode, random.Random(seed)) for seed in (0, 0, 1)
    )
    assert made.shape == (3, 2, 97) and made.equal(same) and not made.equal(other)
    ids, weights = made.unbind(1)
    assert (ids != PAD).all() and set(weights.unique().tolist()) == {0, 2, 4, 10, 40}
    assert not weights[(ids == Q) | (ids == A)].any()
    assert Reading().draw(material, encode, random.Random(0)).shape == (0, 2, 1025)


def test_the_words_to_swap_are_gathered_once(encode, monkeypatch) -> None:
    gathered = []
    monkeypatch.setattr("core.learning.episodes.Words", lambda *args: gathered.append(args) or Words(*args))
    material = Material(human=passages(), shares={"human": 1.0}, swap={"human": 1.0})
    for seed in range(3):
        material.draw(random.Random(seed), 200)
        Reading(rows=2, length=96, longest=200).draw(material, encode, random.Random(seed))
    assert len(gathered) == 1


def test_beside_a_text_only_the_answers_are_labelled(encode, tokenizer) -> None:
    episode = Episode("Port", "The port is old. " * 20, [QA(f"Which {n}?", f"berth {n}") for n in range(6)])
    sizes = set()
    for seed in range(8):
        ids, weights = torch.tensor(text_beside(episode, encode, random.Random(seed), 200))
        asked = tokenizer.decode(ids).split("<|q|>")[1:]
        said = tokenizer.decode(ids[weights > 0]).split("<|endoftext|>")[:-1]
        assert len(ids) == len(weights) == 200 and len(said) == 4 and set(weights.tolist()) == {0, 10}
        assert [a.split("<|a|>")[1].split("<|endoftext|>")[0] for a in asked] == said
        assert {f" {q.answer}" for q in episode.questions} > set(said)
        sizes.add(int((ids != PAD).sum()))
    assert len(sizes) > 1, "not always the whole text"
    assert {len(row) for row in text_beside(episode, encode, random.Random(0), 70)} == {70}


@pytest.mark.parametrize("parts", [1, 2, 3, 9])
def test_a_batch_in_parts_loses_nothing(parts: int) -> None:
    sizes = {"inputs": 5, "targets": 5, "questions": 15, "labels": 15, "beside": 3, "reading": 2}
    whole = Batch(**{k: torch.arange(n)[:, None] for k, n in sizes.items()})
    *pieces, alone = whole.split(parts)
    assert len(pieces) <= parts
    assert all(torch.cat([p[n] for p in pieces]).equal(t) for n, t in enumerate(whole[:-1]))
    assert all(len(p.questions) == 3 * len(p.inputs) and not len(p.reading) for p in pieces)
    assert alone.reading.equal(whole.reading) and not any(len(t) for t in alone[:-1])
    assert len(whole._replace(reading=whole.reading[:0]).split(parts)) == len(pieces)
