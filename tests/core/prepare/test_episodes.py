"""Episodes: documents with their questions, in tensors."""

from __future__ import annotations

import random

import pytest
import torch

from core.errors import Refused
from core.learning.segments import IGNORE
from core.prepare.episodes import (
    MIXED,
    Batch,
    Episode,
    EpisodeBatches,
    Reading,
    Shape,
    compose_document,
    draw,
    excerpt,
    make_batch,
    read_shares,
    reading_rows,
    stranger,
    text_beside,
)
from core.prepare.material import FollowUp, Material, Passage
from core.prepare.questions import QA
from core.prepare.typed import as_typed
from core.prompts import COMPLETE, NOT_IN_TEXT

END = "<|im_end|>"


def passages(count: int = 12) -> list[Passage]:
    return [
        Passage("rules", f"Port {n // 4}", f"Berth {n} costs {n} crowns. " * 8, [QA(f"Which {n}?", f"{n}")])
        for n in range(count)
    ]


@pytest.fixture
def encode(tokenizer):
    return lambda text: tokenizer.encode(text, add_special_tokens=False)


@pytest.fixture
def batch(tokenizer, fmt, encode):
    def made(strangers: float) -> Batch:
        episodes = [
            Episode("A", "The port is old. " * 3, [QA("How old?", "old")]),
            Episode("B", "A town.", [QA("What?", "town")]),
        ]
        shape = Shape(2, 2, 3, 40)
        return make_batch(episodes, encode, fmt, shape, segment=16, rng=random.Random(0), strangers=strangers)

    return made


def test_a_batch_holds_the_documents_and_only_answers_are_labelled(batch, tokenizer) -> None:
    made = batch(0.0)
    assert made.inputs.shape == made.targets.shape == (2, 2, 16)
    assert made.questions.shape == made.labels.shape == (6, 40)
    answers = [tokenizer.decode(row[row != IGNORE]) for row in made.labels]
    assert answers == [f"old{END}"] * 3 + [f"town{END}"] * 3
    assert (made.targets[1, 1:] == IGNORE).all(), "the shorter document is padded with empty segments"
    assert (made.questions[made.labels != IGNORE] == made.labels[made.labels != IGNORE]).all()


def test_a_strangers_question_is_answered_not_in_the_text(batch, tokenizer) -> None:
    made = batch(1.0)
    pairs = zip(made.questions, made.labels, strict=True)
    rows = [(tokenizer.decode(q), tokenizer.decode(a[a != IGNORE])) for q, a in pairs]
    for own, other in ((rows[:3], "What?"), (rows[3:], "How old?")):
        [strange] = [q for q, a in own if a == f"{NOT_IN_TEXT}{END}"]
        assert other in strange


def test_the_stranger_is_close_to_the_document_but_not_answered_by_it() -> None:
    port = Episode("Port", "The old harbour of Lund was closed in 1901.", [QA("When was it closed?", "1901")])
    far = Episode("Bees", "Bees make honey.", [QA("What do bees make?", "honey")])
    near = Episode("Oslo", "The new harbour of Oslo has ten berths.", [QA("Which city has the new harbour?", "Oslo")])
    same = Episode("Port", "It was closed in 1901.", [QA("When was the old harbour of Lund closed?", "in 1901")])
    asked = {stranger(port, [port, far, near, same], random.Random(seed)) for seed in range(20)}
    assert asked == {QA("Which city has the new harbour?", NOT_IN_TEXT)}
    assert stranger(port, [port], random.Random(0)) is None
    beyond = port._replace(beyond=[QA("Who closed it?", NOT_IN_TEXT)])
    asked = {stranger(beyond, [port, far], random.Random(seed)).question for seed in range(20)}
    assert asked == {"Who closed it?", "What do bees make?"}


def test_an_excerpt_of_a_table_has_whole_lines() -> None:
    lines = [f"Berth {n}: Crowns {n + 10}, Boats {n + 50}." for n in range(9)]
    table = Passage("tables", "", "\n".join(lines), [QA("What does berth 4 cost?", "14")])
    for seed in range(9):
        part = excerpt(table, random.Random(seed), 20)
        assert 1 < len(part.text.splitlines()) < 9 and set(part.text.splitlines()) <= set(lines)
        assert bool(part.questions) == (lines[4] in part.text.splitlines())


def test_an_excerpt_asks_what_it_answers_and_what_the_rest_answers_is_beyond_it() -> None:
    text = "Orla keeps the harbour of Vessin. Tam built the tall lighthouse. Edda sells old ropes there."
    whole = Passage("people", "", text, [QA("Who keeps it?", "Orla"), QA("Who built it?", "Tam"), QA("Why?", "rain")])
    assert excerpt(whole, random.Random(0), 100) == whole
    for seed in range(9):
        part = excerpt(whole, random.Random(seed), 7)
        assert len(part.text.split()) <= 7 and part.text in text
        assert all(q.answer in part.text for q in part.questions)
        assert all(q.answer == NOT_IN_TEXT for q in part.beyond)
        assert len(part.questions) + len(part.beyond) == 2


def test_passages_of_an_article_stay_with_it() -> None:
    for seed in range(20):
        episode = compose_document(passages(), random.Random(seed), 160)
        places = {int(q.answer) // 4 for q in episode.questions}
        assert len(places) == 1 and len(episode.text.split()) <= 160


def test_most_documents_are_made_of_parts_of_several_passages() -> None:
    long = [
        Passage(
            "people", "", " ".join(f"Fact {m} of text {n} is known here." for m in range(40)), [QA("Who?", "known")]
        )
        for n in range(30)
    ]
    drawn = [compose_document(long, random.Random(seed), 120) for seed in range(300)]
    parts = [len({line.split(" is ")[0].split()[-1] for line in e.text.splitlines()}) for e in drawn]
    several = sum(count > 1 for count in parts) / len(parts)
    assert abs(several - MIXED) < 0.1, several
    assert all(len(e.text.split()) <= 120 for e in drawn)


def test_material_draws_only_from_what_there_is() -> None:
    assert draw(Material(), random.Random(0), 100, {"people": 1.0, "invented": 1.0}).questions
    only = Material({"rules": passages()})
    assert all("Berth" in draw(only, random.Random(n), 80, {"people": 1.0, "rules": 1.0}).text for n in range(5))


def test_the_question_before_words_were_swapped_is_beyond_the_text_after_it() -> None:
    named = Passage(
        "rules", "Port", "It was built by Hanna Lund near Oslo and kept by Orla Quint.", [QA("Who?", "Oslo")]
    )
    kept = Passage("people", "", "The port was kept by Orla Quint of Lund.", [QA("Where was Orla Quint from?", "Lund")])
    material = Material({"people": [kept], "rules": [named] * 32})
    drawn = [draw(material, random.Random(seed), 10, {"people": 1.0}) for seed in range(30)]
    changed = [e for e in drawn if "Orla" not in e.text]
    assert changed and all(q.answer in e.text for e in drawn for q in e.questions)
    assert all([q.answer for q in e.beyond] == [NOT_IN_TEXT] for e in changed if e.beyond)


def test_batches_are_endless_follow_their_seed_and_lose_nothing_of_a_document(tokenizer) -> None:
    shapes = Shape.read("2x3x2x96,3x2x4x96")

    def batches(seed: str) -> EpisodeBatches:
        return EpisodeBatches(Material(), tokenizer, shapes, segment=64, seed=seed, strangers=0.4)

    assert batches("1")[0].batch.questions.equal(batches("1")[0].batch.questions)
    assert not batches("1")[0].batch.questions.equal(batches("2")[0].batch.questions)
    made = [batches("0")[n].batch for n in range(4)]
    assert [(b.inputs.shape[1], len(b.inputs), len(b.questions)) for b in made] == [(2, 3, 6), (3, 2, 8)] * 2
    assert all((b.labels != IGNORE).any(1).all() for b in made), "every question has an answer to learn"


def test_rows_to_read_are_full_and_follow_their_generator(fmt) -> None:
    material = Material({"rules": passages()}, [FollowUp(["Who is Orla?"], "Where is she?", "Where is Orla?")])
    config = Reading(rows=3, length=600, longest=60)
    made, same, other = (reading_rows(material, fmt, random.Random(seed), config) for seed in (0, 0, 1))
    assert made.shape == (3, 2, 601) and made.equal(same) and not made.equal(other)
    assert {4, 40} <= set(made[:, 1].unique().tolist()) <= {0, 4, 40}
    assert reading_rows(material, fmt, random.Random(0), Reading()).shape == (0, 2, 1025)


def test_a_follow_up_is_made_whole(fmt, tokenizer) -> None:
    material = Material({"rules": passages()}, [FollowUp(["Who is Orla?"], "Where is she?", "Where is Orla?")])
    ids, weights = reading_rows(material, fmt, random.Random(0), Reading(rows=1, length=80, complete=1.0))[0]
    assert f"Who is Orla?\nWhere is she?\n\n{COMPLETE}{END}" in tokenizer.decode(ids)
    assert tokenizer.decode(ids[weights == 40]).startswith(f"Where is Orla?{END}")


def test_beside_a_text_only_the_answers_are_labelled(tokenizer, fmt) -> None:
    text = "The port is old. It has nine berths. Orla keeps them all. " * 3
    episode = Episode("Port", text, [QA(f"Which {n}?", f"berth {n}") for n in range(6)])
    lengths = set()
    for seed in range(8):
        ids, weights = torch.tensor(text_beside(episode, fmt, random.Random(seed), 300))
        answers = tokenizer.decode(ids[weights > 0]).split(END)[:-1]
        assert len(ids) == len(weights) == 300 and len(answers) == 4 and set(weights.tolist()) == {0, 10}
        assert {q.answer for q in episode.questions} > set(answers)
        lengths.add(int((weights > 0).nonzero()[-1]))
    assert len(lengths) > 1, "not always the whole text"
    assert {len(row) for row in text_beside(episode, fmt, random.Random(0), 70)} == {70}


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


def test_a_question_as_typed_keeps_its_words() -> None:
    typed = {as_typed("Who built the lighthouse of Vessin?", random.Random(seed)) for seed in range(60)}
    assert len(typed) > 20 and "who built the lighthouse of vessin?" in typed
    assert all("built" in t.lower() and t.strip() for t in typed)


def test_shares_by_kind_are_read_and_an_unknown_kind_refused() -> None:
    assert read_shares("people=0.5,rules=0.27") == {"people": 0.5, "rules": 0.27} and read_shares("") == {}
    for wrong in ("cats=0.5", "people", "people=much"):
        with pytest.raises(Refused, match="no kind with its share"):
            read_shares(wrong)
