"""Passes that share what prompts have in common answer as the plain ones do."""

from __future__ import annotations

import pytest
import torch

from core.generate import generate
from core.learning.hooks import attached, down_projections
from core.learning.shared_passes import MAX_PROMPT, DraftedPasses, Shared

OPENING = [3, 4, 5]
PROMPTS = [[*OPENING, *rest] for rest in ([7, 8, 9], [7, 8, 9], [7, 8, 9], range(20, 40), [11])]
PLAIN = {"stop_ids": frozenset({0}), "pad_id": 1, "max_new": 8}
OF = [0, 1, 2, 1]  # whose weights; the last prompt has none


def deltas(modules) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {n: torch.randn(3, *m.weight.shape, generator=draw) * 0.05 for n, m in modules.items()}


@pytest.mark.parametrize("opening", [OPENING, [], [99]], ids=["shared", "none", "another"])
@pytest.mark.parametrize("lowest", [0, 1, 2])
def test_answers_are_those_of_the_plain_passes(tiny, opening, lowest) -> None:
    modules = down_projections(tiny.model, range(lowest, 3))
    weights = deltas(modules)
    with attached(modules, {n: d[OF] for n, d in weights.items()}, [1] * len(OF)):
        plain, sure = generate(tiny.model, PROMPTS, **PLAIN)
    shared = Shared(tiny.model, modules, opening)
    for _ in range(2):  # nothing of an answer is left in the next one
        found, found_sure = generate(
            tiny.model, PROMPTS, **PLAIN, passes=shared.passes(PROMPTS, 1, PLAIN["max_new"], weights, OF)
        )
        assert found == plain and found_sure == pytest.approx(sure, rel=1e-3)


def test_what_sections_are_asked_alike_is_read_once(tiny) -> None:
    passes = Shared(tiny.model, down_projections(tiny.model, range(2, 3)), OPENING).passes(PROMPTS, 1, 4)
    assert passes.ids.tolist() == [[1] * 21 + [7, 8, 9], [1] * 4 + [*range(20, 40)], [1] * 23 + [11]]
    assert passes.row_of.tolist() == [0, 0, 0, 1, 2]


def test_room_that_is_not_filled_yet_is_not_looked_at(tiny) -> None:
    passes = Shared(tiny.model, down_projections(tiny.model, range(2, 3)), OPENING).passes(PROMPTS, 1, 64)
    passes.first()
    passes.cache[:, :, passes.used :] = torch.nan
    assert passes.used == 32 and passes.seen.shape[1] == 27 + 64
    assert passes.next(torch.tensor([7] * len(PROMPTS))).p.isfinite().all()


@pytest.mark.parametrize("known", ["answer", "half", "wrong", "nothing"])
def test_a_draft_changes_no_answer(tiny, known) -> None:
    plain, sure = generate(tiny.model, PROMPTS[:1], **PLAIN)
    [answer] = plain
    drafts = {"answer": answer, "half": [*answer[:4], 90], "wrong": [answer[0], 90, 91, answer[3], 92], "nothing": []}
    shared = Shared(tiny.model, {}, OPENING).passes(PROMPTS[:1], 1, 8)
    passes = DraftedPasses(shared, drafts[known], key=int)
    found, found_sure = generate(tiny.model, PROMPTS[:1], **PLAIN, passes=passes)
    assert found == plain and found_sure == pytest.approx(sure, rel=1e-3)
    if known in ("answer", "nothing"):
        assert passes.reads == (1 if known == "answer" else 7)


def test_a_long_prompt_is_read_as_ever(tiny) -> None:
    assert Shared(tiny.model, {}, OPENING).passes([[5] * (MAX_PROMPT + 1)], 1, 8) is None
