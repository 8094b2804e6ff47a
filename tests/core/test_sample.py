"""The document that ships for the demonstration."""

from __future__ import annotations

import asyncio
import json
import re
from functools import cache
from pathlib import Path

from core.document.chunks import join_pages
from core.document.formats import DocumentText, read_document
from core.evaluation.sample import make
from core.types import Limits

FOLDER = Path(make.__file__).parent


@cache
def read() -> DocumentText:
    return asyncio.run(read_document((FOLDER / "sample.pdf").read_bytes(), Limits()))


@cache
def paragraphs() -> list[dict]:
    (article,) = json.loads((FOLDER / "sample.squad.json").read_text())["data"]
    return article["paragraphs"]


def test_the_sample_is_made_of_its_source() -> None:
    sections = make.parse((FOLDER / "handbook.md").read_text())
    assert make.squad(sections) == json.loads((FOLDER / "sample.squad.json").read_text())
    assert make.typeset(sections) == (FOLDER / "sample.pdf").read_bytes()


def test_the_sample_has_eleven_pages_of_about_three_thousand_words() -> None:
    assert (len(read().pages), read().notes) == (11, ())
    assert 2900 < len(join_pages(read().pages).split()) < 4500


def test_every_section_is_read_word_for_word() -> None:
    text = " ".join(join_pages(read().pages).split())
    assert [part["context"] for part in paragraphs() if " ".join(part["context"].split()) not in text] == []


def test_the_sample_has_running_heads_and_broken_words_to_mend() -> None:
    raw = "".join(page.get_text() for page in make.pymupdf.open(FOLDER / "sample.pdf"))
    assert raw.count(make.EDITION) == 10
    assert len(re.findall(r"[a-z]-\n", raw)) >= 8


def test_running_heads_and_page_numbers_are_not_read() -> None:
    later = [page.text for page in read().pages[1:]]
    assert not [text for text in later if make.EDITION in text or make.TITLE in text or re.search(r"^\d+$", text, re.M)]


def test_every_answer_stands_where_its_question_says() -> None:
    questions = [(part["context"], qa) for part in paragraphs() for qa in part["qas"]]
    assert len(questions) >= 60
    for context, qa in questions:
        (answer,) = qa["answers"]
        assert context[answer["answer_start"] :].startswith(answer["text"])
        assert 1 <= len(answer["text"].split()) <= 4


def test_questions_are_unique_and_six_are_the_demonstrations() -> None:
    questions = [qa for part in paragraphs() for qa in part["qas"]]
    assert len({qa["id"] for qa in questions}) == len({qa["question"] for qa in questions}) == len(questions)
    demo = sorted(qa["id"] for qa in questions if qa["id"].startswith("demo-"))
    assert demo == [f"demo-{number}" for number in range(1, 7)]
