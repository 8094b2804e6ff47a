"""Questions about a whole document, as people type them."""

from __future__ import annotations

import pytest

from core.document.gist import without_frame
from core.search.whole import asks_about_whole, summed_up
from core.types import Certainty, Completion, Page

BEFORE = """
    What is this document about? | what is this about | What's it about? | whats this pdf about | Summarise it | TLDR?
    summarize this document please | tl;dr | what's in this? | What does the document say? | Give me a summary.
    can you summarize this for me? | Give me a short overview of the document | What is the main topic? | main points?
    what is the topic of this document | Tell me about this document | what are the key points | sum it up
    Please sum up the report. | Hi! What is this file about? Thanks | what does it cover? | explain this document
    Describe the document | Summary of the paper | What is the purpose of this document? | WHAT IS THIS ABOUT???
    give me the gist | In a nutshell? | So what is it all about | what is that paper about, in one sentence
"""  # written before the table
AFTER = """
    I uploaded a file, what is it about? | what's the gist of it | can u sum this up | what is in that pdf | summarise
    give me the main points please | Write a short summary of the text | What does this paper talk about? | contents?
    in one sentence, what is this document about | so... what's this then | what are the main ideas here
    whats in the doc | What is the article about exactly? | tell me what it says | what subject is this
    what's the point of this text | Could you briefly describe the content? | I need a summary of the report, please
    What's the document's topic? | Explain it to me | what is this thing | what does my upload say
    please give us an overview of what is in it | what's this story about 🙂 | What does it deal with?
    Hey engram, tl;dr please! | what is the text mainly about
"""
OTHERS = """
    What is this lighthouse about? | What is the fine for a late book? | What does the document say about dogs?
    What is the main topic of the second chapter? | Tell me about the keeper | Summarise the rules for boats | why
    what is it | what is it made of | What does it cost? | Who wrote the summary? | What is in the box? | Where is it?
    What is it for? | What is the point of the festival? | what did you learn about the ferry
    What is the document number? | is it good?
    How long is the document? | What does he say? | overview of ferry prices | What is the story of the lighthouse?
    What about the ferry? | what is it called | What are the contents of the chest | who is it about | What can you do?
    What is the name of this document | What is that? | what do you know | summarise the rules of the harbour
"""


def listed(block: str) -> list[str]:
    return [phrase.strip() for line in block.strip().splitlines() for phrase in line.split("|")]


@pytest.mark.parametrize("phrase", [*listed(BEFORE), *listed(AFTER)])
def test_a_question_about_the_whole_is_known(phrase: str) -> None:
    assert asks_about_whole(phrase)


@pytest.mark.parametrize("phrase", listed(OTHERS))
def test_a_question_about_something_in_it_is_none(phrase: str) -> None:
    assert not asks_about_whole(phrase)


@pytest.mark.parametrize(
    ("text", "sure", "pages", "told"),
    [
        ("the harbour of Vessin", 0.9, ["Rules.", "The harbour of Vessin opens at six."], (Certainty.LIKELY, (2,))),
        ("the harbour of Vessin", 0.3, ["The harbour of Vessin."], (Certainty.UNSURE, (1,))),
        ("the moon", 0.9, ["The harbour of Vessin."], (Certainty.ABSENT, ())),
        ("not in the text", 0.9, ["This is not in the text."], (Certainty.ABSENT, ())),
        ("the harbour of Vessin", 0.9, [], (Certainty.UNSURE, None)),
        ("sea rules", 0.9, ["The harbour of Vessin."], (Certainty.LIKELY, ())),  # as the file is called
    ],
)
def test_what_the_text_does_not_hold_is_not_told(text: str, sure: float, pages: list[str], told: object) -> None:
    numbered = [Page(n, page) for n, page in enumerate(pages, 1)]
    assert summed_up(Completion(text, 4, 0.1, sure), numbered, "sea_rules.pdf") == told


@pytest.mark.parametrize(
    ("answer", "subject"),
    [
        ("The main subject is Putnam County.", "Putnam County"),
        ("This document is about the St. Elmo light", "the St. Elmo light"),
        ("Putnam County", "Putnam County"),
        ("This document", "This document"),
    ],
)
def test_an_answer_in_the_learned_sentence_is_its_subject(answer: str, subject: str) -> None:
    assert without_frame(answer) == subject
