"""Held-out documents: their length, their questions, and that training never saw them."""

from __future__ import annotations

import gzip
import json

import pytest

from core.evaluation.heldout import (
    ARTICLE_QUESTIONS,
    MAX_WORDS,
    MIN_WORDS,
    by_invention,
    by_people,
    by_rule,
    by_table,
    general,
    main,
    squad_format,
    squad_passages,
)
from core.prepare.material import Passage, is_development, is_development_article
from core.prepare.questions import QA
from core.squad import read_squad

PARAGRAPH = (
    "Orla Quint was born in Vessin in 1874. She became the master of the harbour in 1901. The lighthouse was built by "
    "Tam Odrey in 1850. It has nineteen rooms and was moved to Lorn in 1920. "
)


def test_articles_are_held_out_and_of_the_right_length() -> None:
    articles = [(f"Harbour {n}", "\n".join([PARAGRAPH * 2] * (n % 20))) for n in range(2000)]
    found = by_rule(articles, 5)
    assert len(found) == 5 and by_rule(articles, 5) == found
    for title, passages in found:
        assert is_development_article(title) and MIN_WORDS <= sum(len(p.text.split()) for p in passages) <= MAX_WORDS
        assert sum(len(p.questions) for p in passages) >= ARTICLE_QUESTIONS


def test_paragraphs_are_joined_with_their_own_questions(tmp_path) -> None:
    paragraphs = [Passage("nq", "", f"{n} {PARAGRAPH}", [QA(f"Who is {n}?", str(n))] * 5) for n in range(50)]
    found = by_people(paragraphs, 3)
    (tmp_path / "people.json").write_text(json.dumps(squad_format(found)))
    articles = read_squad(tmp_path / "people.json")
    assert len(articles) == 3 and all(len(" ".join(a.text).split()) >= MIN_WORDS for a in articles)
    assert all(q.answers[0] in q.context and q.text == f"Who is {q.answers[0]}?" for a in articles for q in a.questions)


def test_squad_gives_also_questions_that_a_paragraph_does_not_answer(tmp_path) -> None:
    held_out = [text for n in range(900) if is_development(text := f"{n} {PARAGRAPH}".strip())]
    rows = [
        {"source": source, "context": text, "question": f"Who is {n}?", "answer": answer}
        for n, text in enumerate([*held_out, f"training {PARAGRAPH}"])
        for source, answer in (("squad-v1.1-train", "Orla Quint"), ("squad-v2-train-unanswerable", ""))
    ]
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    passages = squad_passages(tmp_path / "rows.jsonl.gz")
    assert {p.text for p in passages} == set(held_out)
    (tmp_path / "squad.json").write_text(json.dumps(squad_format(by_people(passages, 2))))
    questions = [q for a in read_squad(tmp_path / "squad.json", unanswered=True) for q in a.questions]
    assert {q.answers for q in questions} == {("Orla Quint",), ()}
    assert all(q.answers for a in read_squad(tmp_path / "squad.json") for q in a.questions)


def test_documents_that_are_skipped_are_those_that_a_smaller_set_has(tmp_path, monkeypatch) -> None:
    def made(*options: str) -> list[str]:
        monkeypatch.setattr("sys.argv", ["heldout", "--facts", "25", "--out", str(tmp_path / "facts.json"), *options])
        main()
        return [a.title for a in read_squad(tmp_path / "facts.json")]

    assert made("--count", "3") == [*made("--count", "2"), *made("--count", "1", "--skip", "2")]


def test_general_questions_are_one_of_each_paragraph_of_natural_questions() -> None:
    found = [Passage("nq", "", f"{n} {PARAGRAPH}", [QA(f"Who is {n}?", str(n)), QA("Who?", "x")]) for n in range(9)]
    [(_, paragraphs)] = general([*found, Passage("qamr", "", PARAGRAPH, [QA("What?", "y")])], 5)
    assert len(paragraphs) == 5 and all(len(p.questions) == 1 and p.questions[0].question != "Who?" for p in paragraphs)


def test_invented_documents_have_a_question_for_nearly_every_fact() -> None:
    (title, paragraphs), other = by_invention(25, 2)
    assert [len(p.questions) for p in paragraphs][:2] == pytest.approx([10, 10], abs=1) and len(paragraphs) == 3
    assert title and other[1][0].text != paragraphs[0].text and by_invention(25, 2)[0] == (title, paragraphs)


def test_a_tables_questions_are_answered_by_one_of_its_cells_however_it_is_laid_out() -> None:
    head = "Name | Of | Built\n"
    tables = [f"{head}Pier | wood | 19{n}\nTower {n} | stone | 1874\nMill | wood | 1850" for n in range(100, 400)]
    rows = []
    for context in tables:
        asked = {"source": "wikitablequestions-train (table)", "context": context}
        rows += [
            asked | {"question": q, "answer": a}
            for q, a in (("what is of stone?", context.split("\n")[2][:9]), ("of?", "wood"))
        ]
    documents = by_table(rows, "product", 3)
    assert [d[0] for d in documents] == ["Table"] * 3 and by_table(rows, "product", 3) == documents
    for _, [passage] in documents:
        original = next(context for context in tables if passage.questions[0].answer in context)
        assert is_development(original)
        assert passage.text.startswith("Name Of Built\nPier wood 19") and "\n\nPier, wood: Built 19" in passage.text
        assert passage.questions[0].question == "what is of stone?"
        for question in passage.questions[1:]:
            assert question.question.startswith("What is the ") and original.count(question.answer) == 1
    [(_, [bare])] = by_table(rows, "rows", 1)
    assert "Built 19" not in bare.text and bare.questions == documents[0][1][0].questions
