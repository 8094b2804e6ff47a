"""The table of learners: every row learns, is attached and answers; forms and budgets are chosen by what is set."""

from __future__ import annotations

import pytest
import torch

from core.errors import SetupError
from core.learning.base import LearnConfig
from core.learning.learners import LEARNERS, make_learner
from tests.core.conftest import STORY, chunks_of
from tests.core.learning.test_fast_learner import finish


@pytest.mark.parametrize("name", LEARNERS)
def test_every_row_learns_a_document_and_is_attached_to_its_rows(tiny, fmt, name: str) -> None:
    learner = make_learner(name, tiny, fmt, LearnConfig(effort="quick", batch_tokens=512))
    chunks = chunks_of(tiny.tokenizer, STORY)
    steps, learned = finish(learner.learn(chunks, title="Vessin"))
    assert learner.name == name and steps[-1].done == steps[-1].total
    assert learned.metrics.final_loss < learned.metrics.initial_loss
    ids = torch.tensor([chunks[0].token_ids] * 2)
    with torch.no_grad():
        plain = tiny.model(input_ids=ids).logits
        with learner.attach([(learned.section(0), 1)]):
            attached = tiny.model(input_ids=ids).logits
    assert not torch.allclose(attached[0], plain[0], atol=1e-2)
    torch.testing.assert_close(attached[1], plain[1])


def test_a_learner_that_there_is_not_is_a_setup_error(tiny, fmt) -> None:
    with pytest.raises(SetupError, match="choose one of fast-weights, lora, ttt-linear, ttt-mlp"):
        make_learner("magic", tiny, fmt, LearnConfig())
