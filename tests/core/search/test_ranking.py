"""Which sections are asked, which answer is given, and how far it can be trusted."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from core import evaluation
from core.evaluation.fit_search import save_parameters
from core.model import SHIPPED
from core.prompts import NOT_IN_TEXT
from core.search.closeness import Query, closeness
from core.search.parameters import RANKING, RankingParameters, load_parameters
from core.search.ranking import (
    Hit,
    SectionAnswer,
    WordMatch,
    best_answer,
    by_closeness,
    by_words,
    certainty,
    choose_answer,
    distinct,
    groups_to_ask,
    is_about,
    judge,
    leaves_thread,
    sections_to_ask,
    support_of,
)
from core.types import Certainty, Completion, Document, Metrics, Page, WeightsRecord

NUMBERS = RankingParameters()
HEAD = b"a head's"
SIGNS = np.unpackbits(np.full((1, 16), 0xF0, np.uint8), axis=1) * 2.0 - 1
QUERY = Query(HEAD, SIGNS / 128**0.5, np.array([2.0]), slope=10.0, offset=-4.0)


def document(id: str = "a", section_of: tuple[int, ...] = tuple(range(9)), learned_at: float = 0.0) -> Document:
    weights = WeightsRecord(
        document_id=id, path="", bytes=0, sha256="", base="", learner="fast-weights", sections=section_of
    )
    metrics = Metrics(initial_loss=1, final_loss=1, loss_history=(), chunks=9, tokens=9, seconds=1, delta_norm=1)
    return Document(
        id=id, channel="here", name=id, sha256=id, pages=1, tokens=9, learned_at=learned_at, learned_by="ada",
        metrics=metrics, weights=weights,
    )  # fmt: skip


def hit(id: str = "a", chunk: int = 0, score: float = 9.0, **given: float | bytes | None) -> Hit:
    return Hit(**{"document": document(id), "chunk": chunk, "score": score, "share": 0.5, "searched": 9} | given)


def answered(
    text: str = "Ada", sure: float = 0.9, pages: tuple[int, ...] | None = (), **given: float | str | None
) -> SectionAnswer:
    completion = Completion(text=text, tokens=1, seconds=0.1, confidence=sure)
    return SectionAnswer(hit=hit(**given), completion=completion, pages=pages)


# Down


def test_chunks_come_in_the_order_of_their_words_the_newer_document_first() -> None:
    found = [("boat", "a", 0), ("boat", "b", 1), ("boat", "b", 0), ("mast", "a", 2), ("boat", "a", 2)]
    matches = [WordMatch(word, id, at, bm25=-0.5, containing=4, rows=50, searched=20) for word, id, at in found]
    known = {"b": document("b", learned_at=2.0), "a": document("a", learned_at=1.0)}
    hits = by_words(matches, ["boat", "mast", "oar"], known, 3)
    assert [hit.key for hit in hits] == [("a", 2), ("b", 0), ("b", 1)]
    assert hits[0].score > hits[1].score == hits[2].score > 0 and {hit.searched for hit in hits} == {20}
    assert 0 < hits[1].share < hits[0].share < 1
    [newest] = by_words([], ["boat"], known, 3)
    assert (newest.key, newest.score, newest.share, newest.searched) == (("b", 0), 0.0, 0.0, 1)
    assert by_words([], ["boat"], {}, 3) == []


def test_closeness_counts_beside_words() -> None:
    codes = [HEAD + bytes([byte] * 16) for byte in (0x0F, 0xF1, 0xF0)]
    hits = [hit(chunk=n, score=9.0 - n, code=code) for n, code in enumerate(codes)]
    ranked = by_closeness(hits, closeness(QUERY, codes), NUMBERS)
    assert [h.chunk for h in ranked] == [2, 1, 0]
    cosines = [1.0, 0.75, -1.0]
    assert [h.score for h in ranked] == pytest.approx(
        [9.0 - h.chunk + NUMBERS.closeness_weight * 2 * cosine for h, cosine in zip(ranked, cosines, strict=True)]
    )
    assert [h.odds for h in ranked] == pytest.approx([10 * cosine - 4 for cosine in cosines])
    assert by_closeness(hits, closeness(QUERY, [*codes[:2], b""]), NUMBERS) == hits, "one has no code"


def test_sections_that_the_question_hardly_points_at_are_not_asked() -> None:
    one = document(section_of=(0, 0, 1))
    hits = [hit(chunk=n, score=score, document=one) for n, score in ((0, 9.0), (1, 8.0), (2, 6.5), (2, 5.0))]
    assert sections_to_ask(hits, NUMBERS) == [hits[0], hits[2]]
    assert sections_to_ask([hits[0], hits[3]], NUMBERS) == hits[:1]
    assert sections_to_ask(hits, replace(NUMBERS, max_sections=1)) == hits[:1] and sections_to_ask([], NUMBERS) == []
    assert sections_to_ask(hits, replace(NUMBERS, considered_chunks=2)) == hits[:1]


def test_a_document_that_would_take_all_places_leaves_one_to_another() -> None:
    hits = [hit(chunk=n, score=9.0 - n / 2) for n in range(4)]
    other, poor = hit("b", score=6.5), hit("b", 1, score=5.0)
    assert sections_to_ask([*hits, other], NUMBERS) == [*hits[:2], other]
    assert sections_to_ask([*hits, poor], NUMBERS) == hits[:3]
    assert sections_to_ask([*hits, other], replace(NUMBERS, max_sections=1)) == hits[:1]
    assert sections_to_ask([hits[0], other, *hits[1:]], NUMBERS) == [hits[0], other, hits[1]]


@pytest.mark.parametrize(
    ("scores", "leaves"),
    [({}, False), ({"a": 9.0, "b": 4.0}, False), ({"b": 9.0, "a": 5.1}, False), ({"b": 9.0, "a": 4.9}, True),
     ({"b": 9.0, "c": 5.1}, False), ({"b": 9.0, "c": 4.9}, True)],
)  # fmt: skip
def test_a_thread_is_left_for_a_document_that_is_far_ahead(scores: dict[str, float], leaves: bool) -> None:
    hits = [hit(id, score=score) for id, score in scores.items()]
    assert leaves_thread(hits, "a", NUMBERS) is leaves


def test_a_threads_document_comes_first_unless_the_question_leaves_it() -> None:
    near, far, own = [hit("b", score=6.0)], [hit("b", score=14.0)], [hit("a", 3, score=5.0)]
    assert groups_to_ask([*near, *own], own, NUMBERS) == [own, [*near, *own]]
    assert groups_to_ask([*far, *own], own, NUMBERS) == [far] and groups_to_ask(near, [], NUMBERS) == [near]


def test_what_stands_in_several_groups_is_asked_once() -> None:
    first, second, third = hit(), hit(chunk=1), hit("b")
    several = [[second], [first, replace(second, score=1.0), third]]
    assert distinct(several) == {("a", 1): second, ("a", 0): first, ("b", 0): third}


# Up


def test_the_section_that_the_words_point_at_answers_unless_another_is_much_surer() -> None:
    def chosen(scores: tuple[float, float], sure: float = 0.9, text: str = "Ada") -> str:
        said = [answered("Bo", 0.4, score=scores[0]), answered(text, sure, score=scores[1])]
        return best_answer(said, NUMBERS).completion.text

    assert (chosen((9.0, 6.0)), chosen((9.0, 8.5)), chosen((9.0, 8.5), sure=0.3)) == ("Bo", "Ada", "Bo")
    assert chosen((6.0, 9.0), text=NOT_IN_TEXT) == "Bo"


def test_a_section_whose_answer_the_text_supports_answers_before_a_surer_one() -> None:
    def chosen(bo: tuple[int, ...] | None, ada: tuple[int, ...] | None, text: str = "Bo") -> str:
        return best_answer([answered(text, 0.4, bo), answered("Ada", 0.9, ada)], NUMBERS).completion.text

    assert [chosen((), ()), chosen(None, None), chosen((3,), ()), chosen((3,), (4,)), chosen((), (4,))] == [
        "Ada", "Ada", "Bo", "Ada", "Ada",
    ]  # fmt: skip
    assert chosen((3,), (), text=NOT_IN_TEXT) == "Ada"


@pytest.mark.parametrize(("share", "pages", "about"), [(0.6, (), True), (0.1, (3,), True), (0.1, (), False)])
def test_a_section_is_about_what_its_words_or_its_pages_show(share: float, pages: tuple, about: bool) -> None:
    assert is_about(answered(sure=0.8, pages=pages, share=share, searched=3), NUMBERS) is about
    assert is_about(answered(sure=0.8, pages=None, share=share, searched=3), NUMBERS) is (share > 0.5)


def passes(share: float, sure: float = 0.9, searched: int = 3, odds: float | None = None) -> bool:
    return is_about(answered(sure=sure, share=share, searched=searched, odds=odds), NUMBERS)


def test_the_best_of_many_sections_needs_more_of_the_words() -> None:
    about = [passes(0.31, searched=searched) for searched in (1, 3, 9, 100, 1000)]
    assert about == [True, True, True, False, False]
    assert not passes(0.0, 1.0, 1) and passes(0.8, 0.0, 100_000)


def test_an_answer_that_is_not_sure_needs_more_of_the_words() -> None:
    assert [passes(0.33, sure) for sure in (1.0, 0.8, 0.5, 0.1)] == [True, True, False, False]


def test_a_close_section_needs_fewer_of_the_words_and_a_strange_one_more() -> None:
    assert [passes(0.2, 0.8, odds=odds) for odds in (None, -1.0, 1.0)] == [False, False, True]
    assert passes(0.4, 0.8) and not passes(0.4, 0.8, odds=-3.0)


def test_the_first_group_that_has_an_answer_gives_it() -> None:
    known, silent, strange = answered("Ada"), answered(NOT_IN_TEXT), answered("Bo", share=0.0)
    channel = answered("Cy", id="b")
    assert choose_answer([[known], [channel]], NUMBERS) == known
    assert choose_answer([[silent], [channel]], NUMBERS) == choose_answer([[strange], [channel]], NUMBERS) == channel
    assert choose_answer([[known], [channel]], NUMBERS, floor=0.95) == channel
    assert (
        choose_answer([[known], [strange]], NUMBERS) == known and choose_answer([[silent], [strange]], NUMBERS) is None
    )
    assert choose_answer([[strange]], NUMBERS) is None and choose_answer([[strange]], NUMBERS, gate=False) == strange
    assert choose_answer([[], [silent]], NUMBERS) == choose_answer([[silent], []], NUMBERS) == silent
    assert choose_answer([[]], NUMBERS) is choose_answer([], NUMBERS) is None


def test_support_names_the_pages_on_which_an_answer_stands() -> None:
    pages = {"a": [Page(1, "Captain Mara sails."), Page(2, "The cook is Bo."), Page(3, "Mara the captain is 42.")]}

    def support(text: str, question: str = "", id: str = "a") -> tuple[int, ...] | None:
        completion = Completion(text=text, tokens=1, seconds=0.1)
        [found] = support_of(question, {(id, 0): completion}, pages | {"none": []}).values()
        return found

    assert support("Captain Mara") == (1, 3) and support("42") == (3,) and support("Mara and Bo") == ()
    assert support("42", "How old is Captain Mara?") == (3,)
    assert support("42", "How many islands has the lagoon?") == ()
    assert support("Mara", id="none") is None  # no text to look in


def test_an_answer_is_judged_by_the_text_of_its_own_document() -> None:
    pages = {"a": [Page(4, "The lighthouse was built in 1874.")], "b": [Page(1, "The lighthouse is green.")]}
    said = {("a", 0): Completion("in 1874", 2, 0.1, 0.9), ("b", 0): Completion("in 1874", 2, 0.1, 0.95)}
    question, asked = "When was the lighthouse built?", [[hit("b"), hit("a"), hit("c")]]
    best, certain = judge(question, asked, said, pages, NUMBERS)
    assert best and (best.hit.key, best.pages, certain) == (("a", 0), (4,), Certainty.LIKELY)
    best, certain = judge(question, asked, said, pages, NUMBERS, floor=0.96)
    assert best and (best.completion.text, best.pages, certain) == (NOT_IN_TEXT, (), Certainty.ABSENT)
    assert judge(question, [[]], {}, {}, NUMBERS) == (None, Certainty.UNSURE)


def test_an_answer_is_not_likely_where_another_documents_section_is_closer_to_the_question() -> None:
    pages = {id: [Page(1, "The lighthouse was built in 1874.")] for id in "ab"}
    said = {(id, 0): Completion("in 1874", 2, 0.1, sure) for id, sure in (("a", 0.95), ("b", 0.5))}

    def judged(*asked: Hit) -> tuple[str, Certainty]:
        best, certain = judge("When was the lighthouse built?", [asked], said, pages, NUMBERS)
        assert best
        return best.hit.document.id, certain

    assert judged(hit("a", odds=1.0), hit("b", odds=0.9)) == ("a", Certainty.LIKELY)
    assert judged(hit("a", odds=1.0), hit("b", odds=1.1)) == ("a", Certainty.UNSURE)
    assert judged(hit("a", odds=1.0), hit("a", chunk=1, odds=1.1)) == ("a", Certainty.LIKELY), "the same document"
    assert judged(hit("a"), hit("b", odds=1.1)) == ("a", Certainty.LIKELY), "its closeness is not known"


def test_an_answer_is_likely_only_with_a_sentence_that_supports_it_and_of_the_wanted_kind() -> None:
    def judged(question: str, text: str, sure: float, evidence: float | None) -> Certainty:
        completion = Completion(text=text, tokens=2, seconds=0.1, confidence=sure)
        return certainty(question, completion, evidence, NUMBERS)

    when = "When was the lighthouse built?"
    assert judged(when, "in 1874", 0.9, 0.8) is Certainty.LIKELY
    assert judged(when, "in the spring of 1874", 0.9, 0.8) is Certainty.UNSURE, "any of its words may be wrong"
    assert judged(when, "in the spring of 1874", 0.95, 0.8) is Certainty.LIKELY
    assert judged("Wann wurde der Leuchtturm gebaut?", "in 1874", 0.9, 0.8) is Certainty.UNSURE
    assert judged(when, "in 1874", 0.9, 0.2) is judged(when, "in 1874", 0.9, None) is Certainty.UNSURE
    assert judged("How many berths are there?", "Orla", 0.99, 1.0) is Certainty.UNSURE
    assert judged(when, "in 1874", 0.3, 0.0) is Certainty.ABSENT
    explained = "because the rocks were dangerous and many ships had sunk there in the storms"
    assert judged("Why was the lighthouse built?", explained, 0.3, 0.0) is Certainty.UNSURE
    assert judged(when, NOT_IN_TEXT, 0.9, 1.0) is Certainty.ABSENT


# Numbers


def test_every_number_names_its_entry_in_the_log() -> None:
    log = (Path(evaluation.__file__).parent / "LOG.md").read_text()
    headings = set(re.findall(r"^## (.+)$", log, re.M))
    assert {field.metadata["entry"] for field in fields(RankingParameters)} <= headings
    assert json.loads((SHIPPED / RANKING).read_text())["fitted_on"]["entry"] in headings


def test_numbers_are_stored_with_the_preparation_they_were_fitted_to(tmp_path: Path) -> None:
    assert load_parameters(None) == load_parameters(tmp_path) == NUMBERS
    other = replace(NUMBERS, gate_share=0.125, max_sections=5)
    save_parameters(other, tmp_path, entry="2026-11-26")
    assert load_parameters(tmp_path) == other
    (tmp_path / RANKING).write_text(json.dumps({"parameters": {"luck": 1}}))
    with pytest.raises(ValueError, match="'luck'"):
        load_parameters(tmp_path)


def test_what_somebody_said_is_right_is_given_before_the_text_that_it_corrects() -> None:
    wrong, right = "The master of the harbour is Orla Quint.", "Who is the master of the harbour? Tom Reed."
    pages = {"a": [Page(1, wrong), Page(2, right, correction="c1")]}
    said = {("a", 0): Completion("Orla Quint", 2, 0.1, 0.99), ("a", 1): Completion("Tom Reed", 2, 0.1, 0.6)}
    asked = [[hit(text=wrong, score=12.0), hit(chunk=1, text=right)]]

    def answer(question: str) -> str:
        best, _ = judge(question, asked, said, pages, NUMBERS)
        return best.completion.text if best else ""

    assert answer("who is the harbour master?") == "Orla Quint"  # other words
    assert answer("Who is the master of the harbour?") == answer("who is the master of the harbour") == "Tom Reed"
    assert answer("Where is the master of the harbour?") == "Orla Quint"
    said["a", 1] = Completion(NOT_IN_TEXT, 2, 0.1, 0.9)
    assert answer("Who is the master of the harbour?") == "Orla Quint"
