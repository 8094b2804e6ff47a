"""Follow-ups: which they are, and when what the model made of one may stand for it."""

from __future__ import annotations

import pytest

from core.search.followup import is_same_question, needs_history

FOLLOWUPS = ("When did he die?", "where is it", "And the ferry?", "Who leads them?", "why?", "What about children?")
ALONE = ("Who built the lighthouse?", "Is there a library?", "What is the ferry called?", "How many bells are there?")


@pytest.mark.parametrize("question", FOLLOWUPS)
def test_a_question_that_refers_needs_the_ones_before_it(question: str) -> None:
    assert needs_history(question)


@pytest.mark.parametrize("question", ALONE[:3])
def test_a_question_that_names_everything_does_not(question: str) -> None:
    assert not needs_history(question)


def test_what_the_model_wrote_may_bring_no_name_of_its_own() -> None:
    history = ["Who built the Vantle lighthouse?"]
    assert is_same_question("When was the Vantle lighthouse built?", "when was it built", history)
    assert not is_same_question("When was the Eiffel Tower built?", "when was it built", history)
    assert not is_same_question("When was it built in 1874?", "when was it built", history)
    assert not is_same_question("", "when was it built", history)
    assert not is_same_question("when " * 40, "when was it built", history)
