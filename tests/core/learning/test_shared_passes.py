"""Passes that share what prompts have in common answer as the plain ones do."""

from __future__ import annotations

import pytest
import torch

from core.generate import generate
from core.learning.hooks import attached, down_projections
from core.learning.shared_passes import MAX_DRAFT, MAX_PROMPT, SPARE, DraftedPasses, Shared

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
    assert passes.used == 32 and passes.seen.shape[1] == 27 + 64 + SPARE
    assert passes.next(torch.tensor([7] * len(PROMPTS))).p.isfinite().all()


@pytest.fixture
def long_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.learning.shared_passes.FEW_COLUMNS", len(PROMPTS) * (1 + MAX_DRAFT))


@pytest.mark.parametrize("known", ["answer", "half", "wrong", "nothing", "one of them"])
def test_a_draft_changes_no_answer(tiny, known, long_drafts) -> None:
    modules = down_projections(tiny.model, range(3))
    weights = deltas(modules)
    shared = Shared(tiny.model, modules, OPENING)
    plain, sure = generate(tiny.model, PROMPTS, **PLAIN, passes=shared.passes(PROMPTS, 1, 8, weights, OF))

    def draft(row: int, said: list[int]) -> list[int]:
        answer = plain[row]
        assert answer[: len(said)] == said[: len(answer)]
        following = answer[len(said) :]
        if known == "nothing" or (known == "one of them" and row != 2):
            return []
        return {"half": [*following[:2], 90], "wrong": [90, *following]}.get(known, following)[:MAX_DRAFT]

    passes = DraftedPasses(shared.passes(PROMPTS, 1, 8, weights, OF), draft, PLAIN["stop_ids"], 8)
    answers, their_sure = generate(tiny.model, PROMPTS, **PLAIN, passes=passes)
    assert answers == plain and their_sure == pytest.approx(sure, rel=1e-3)
    if known != "half":
        assert passes.reads == (1 if known == "answer" else 7)
    if known == "one of them":
        assert passes.passes.column == 27 + 7 + 6  # row 2 has seven of them, the others the first and the last six


@pytest.mark.parametrize(("columns", "reads"), [(40, 1), (39, 7)])
def test_of_many_rows_nothing_is_read_ahead(tiny, monkeypatch, columns: int, reads: int) -> None:
    monkeypatch.setattr("core.learning.shared_passes.FEW_COLUMNS", columns)
    shared = Shared(tiny.model, {}, OPENING)
    plain, _ = generate(tiny.model, PROMPTS, **PLAIN, passes=shared.passes(PROMPTS, 1, 8))
    passes = DraftedPasses(
        shared.passes(PROMPTS, 1, 8), lambda row, said: plain[row][len(said) :][:MAX_DRAFT], PLAIN["stop_ids"], 8
    )
    assert generate(tiny.model, PROMPTS, **PLAIN, passes=passes)[0] == plain
    assert passes.reads == reads


def test_a_row_that_is_done_is_read_no_further(tiny) -> None:
    modules = down_projections(tiny.model, range(3))
    shared, weights = Shared(tiny.model, modules, OPENING), deltas(modules)
    plain, _ = generate(tiny.model, PROMPTS, **PLAIN, passes=shared.passes(PROMPTS, 1, 8, weights, OF))
    stop = next(token for token in plain[1] if token not in plain[0])
    lengths = [1 + answer.index(stop) if stop in answer else 8 for answer in plain]
    options = {**PLAIN, "stop_ids": frozenset({stop})}
    passes = DraftedPasses(shared.passes(PROMPTS, 1, 8, weights, OF), lambda *_: [], options["stop_ids"], 8)
    answers, _ = generate(tiny.model, PROMPTS, **options, passes=passes)
    assert [len(row.said) for row in passes.rows] == lengths and lengths[1] < lengths[0] == 8
    assert answers == [answer[: answer.index(stop)] if stop in answer else answer for answer in plain]


def test_drafts_end_where_columns_would_not_last_for_the_slowest_row(tiny, monkeypatch) -> None:
    monkeypatch.setattr("core.learning.shared_passes.SPARE", 8)
    options = {**PLAIN, "max_new": 40}
    plain, _ = generate(tiny.model, PROMPTS[:4], **options)
    passes = Shared(tiny.model, {}, OPENING).passes(PROMPTS[:4], 1, 40)
    drafted = DraftedPasses(passes, lambda row, said: [] if row else plain[0][len(said) :][:MAX_DRAFT], frozenset(), 40)
    assert generate(tiny.model, PROMPTS[:4], **options, passes=drafted)[0] == plain
    assert passes.free >= 0


def test_a_long_prompt_is_read_as_ever(tiny) -> None:
    assert Shared(tiny.model, {}, OPENING).passes([[5] * (MAX_PROMPT + 1)], 1, 8) is None
