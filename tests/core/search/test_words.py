"""What to search for, and when a page bears an answer out."""

from __future__ import annotations

import math

import pytest

from core.search.words import (
    bm25_scores,
    frequency,
    search_words,
    spaced,
    spellings,
    supporting_pages,
    unspaced,
    word_shares,
)

PAGE = "Mara Oduya's harbour opened in 1887. It cost 1,200 crowns, 3.5 per stone, and 42 ships came."


@pytest.mark.parametrize(
    "answer",
    [
        "Mara Oduya",
        "the MARA ODUYA.",
        "1887",
        "In 1887.",
        "1,200 crowns",
        "1200",
        "3.5",
        "42",
        "harbour",
        "The harbour cost crowns",
        "Oduya, Mara",
    ],
)
def test_what_stands_on_the_page_is_borne_out(answer: str) -> None:
    assert supporting_pages([PAGE], [answer]) == [[0]]


NOT_ON_PAGE = ["", "?!", "the", "It", "yes", "no", "I do not know.", "I don't know", "Not found in the document."]
NOT_ON_PAGE += ["188", "1888", "18", "4", "200", "3", "35", "5", "harbours", "arbour", "It was the harbour", "42 men"]


@pytest.mark.parametrize("answer", NOT_ON_PAGE)
def test_what_does_not_stand_on_the_page_is_not(answer: str) -> None:
    assert supporting_pages([PAGE], [answer]) == [[]]


def test_stop_words_are_searched_only_when_there_is_nothing_else() -> None:
    assert search_words("Who was the captain of the Velarium?") == ["captain", "Velarium"]
    assert search_words("Who are you?") == ["Who", "are", "you"]


def test_what_is_said_around_a_question_is_not_searched() -> None:
    assert search_words("hi! what colour is the bus pls, thx") == ["colour", "bus"]


def test_a_word_may_be_meant_as_one_with_letters_swapped_doubled_or_left_out() -> None:
    for typed, meant in (("musuem", "museum"), ("lighthosue", "lighthouse"), ("captian", "captain")):
        assert meant in spellings(typed)
    assert "harbour" in spellings("harbuor") and "harbour" in spellings("harrbour") and "harbour" in spellings("habour")
    assert "bride" not in spellings("bridge") and "range" not in spellings("orange"), "which are words"
    assert spellings("cat") == spellings("12345") == spellings("x" * 20_000) == spellings("東京都庁前") == []
    assert "between" not in spellings("betwene"), "stop words are not looked for"


def test_a_words_score_is_its_rarity_among_those_that_are_searched() -> None:
    found = {"captain": {1: 1.0, 2: 0.5}, "velarium": {2: 1.0}, "zebra": {}}
    score = bm25_scores(found, 8)
    assert score[1] == pytest.approx(math.log(1 + 6.5 / 2.5)) and score[2] == pytest.approx(
        score[1] / 2 + math.log(1 + 7.5 / 1.5)
    )
    assert 0 < bm25_scores(found, 2)[1] < 0.2, "a word that stands everywhere says little"
    assert frequency(-3.0 * math.log(7.5 / 1.5), 1, 8) == pytest.approx(3.0) and bm25_scores({}, 8) == {}


def test_a_rare_word_counts_more_in_a_sections_share() -> None:
    share = word_shares({"captain": [1, 2, 3], "velarium": [2], "zebra": []}, 4)
    assert share[2] > 0.5 > share[1] == share[3] > 0.2 and 0 not in share
    assert word_shares({"captain": [1]}, 4) == {1: 1.0} and word_shares({}, 4) == {}


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("¿Qué quema la lámpara?", "la lámpara quema aceite de arenque"),
        ("¿Cuánto pagan los visitantes?", "los visitantes pagan dos coronas"),
        ("Quem construiu o farol?", "Orla construiu o farol"),
    ],
)
def test_what_says_nothing_in_a_questions_own_language_need_not_stand_beside_the_answer(
    question: str, answer: str
) -> None:
    page = f"En otoño llega un barco. Se dice que {answer}. Nadie lo sabe."
    assert supporting_pages([page], [answer], question) == [[0]]


@pytest.mark.parametrize(("asked", "written"), [("leave", "leaves"), ("open", "opens"), ("houses", "house")])
def test_a_word_of_the_question_may_end_otherwise_in_the_text(asked: str, written: str) -> None:
    page = f"The ferry {written} at seven. The ferry is old. The ferry burns oil. The ferry has a bell."
    assert supporting_pages([page], ["seven"], f"When does the ferry {asked}?") == [[0]]


def test_a_chance_find_is_not_cited() -> None:
    pages = [
        "The mill burned in 1874. Nobody was hurt.",
        "Ada Quill keeps the lighthouse. It was built in 1874 by Tam.",
    ]
    assert supporting_pages(pages, ["1874"]) == [[0, 1]]
    assert supporting_pages(pages, ["1874"], "When was the lighthouse built?") == [[1]]
    assert supporting_pages(pages, ["1874"], "When did the mill burn?") == [[0]]
    assert supporting_pages(pages, ["Tam"], "Who owns the bakery and its ovens?") == [[]]
    assert supporting_pages(pages, ["1874", "Tam", "1874"], "When did the mill burn?") == [[0], [], [0]]


def test_an_answer_far_from_what_was_asked_is_not_cited() -> None:
    page = "The lighthouse stands alone. " + "Gulls cry. " * 5 + "The bakery opened in 1874."
    assert supporting_pages([page], ["1874"], "When was the lighthouse built?") == [[]]
    assert supporting_pages([page], ["1874"], "When was the bakery opened?") == [[0]]


def test_a_questions_own_languages_stop_words_are_left_out() -> None:
    assert search_words("Wer war der Hafenmeister, und was kostet die Fähre?") == ["Hafenmeister", "kostet", "Fähre"]
    assert search_words("Who was the harbour master?") == ["harbour", "master"]
    assert search_words("Wer war das?") == ["Wer", "war", "das"]


def test_where_words_are_not_parted_each_two_characters_are_looked_for() -> None:
    assert search_words("港町は何年？") == ["港 町", "町 は", "は 何", "何 年"]
    assert spaced("港町に3隻, two ships") == "港 町 に3隻, two ships"
    assert unspaced(spaced("港町に3隻, two ships")) == "港町に3隻, two ships"


def test_what_stands_within_text_without_blanks_is_borne_out() -> None:
    page = "東京は日本の首都であり、世界でも最大級の都市のひとつである。"
    assert supporting_pages([page], ["日本の首都", "大阪"]) == [[0], []]
