"""What adapters are trained on: each loss against its plain definition."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from core.errors import SetupError
from core.learning.adapters.adapter import recomputed
from core.learning.adapters.objectives import (
    TOP_LOGITS,
    Sample,
    SampleMaker,
    divergence,
    masked,
    pack_samples,
    sum_loss,
    teach,
)
from core.learning.adapters.study import Exercise
from core.learning.base import Objectives
from core.learning.segments import IGNORE
from tests.core.conftest import STORY

ASKED = [
    Exercise(0, STORY[:90], "Who keeps the boats?", "Orla Quint"),
    Exercise(0, STORY[:90], "How many boats?", "nineteen"),
    Exercise(1, STORY[90:], "Who built it?", "Tam Odrey"),
]


def maker(tiny, fmt, **weights: float) -> SampleMaker:
    return SampleMaker(tiny, fmt, Objectives(**weights))


def made(tiny, fmt, exercises=ASKED, **weights: float) -> list[Sample]:
    return maker(tiny, fmt, **weights).from_exercises(exercises, fmt.heading("Vessin"), 64)


def loss(tiny, samples: list[Sample]) -> torch.Tensor:
    with torch.no_grad():
        return sum_loss(tiny.model, pack_samples(samples, 64, 1))


def test_only_the_answer_is_learned(tiny, fmt) -> None:
    [sample, *_] = made(tiny, fmt)
    answer = fmt.answer("Orla Quint")
    assert [t for t in sample.targets if t != IGNORE] == answer
    assert [*sample.ids, answer[-1]] == [*fmt.closed_book("Who keeps the boats?"), *answer]
    assert sample.teacher is None and len(sample.ids) == len(sample.targets)


def test_a_text_in_other_words_is_learned_as_text(tiny, fmt) -> None:
    samples = made(tiny, fmt, [Exercise(0, STORY, "", STORY)], text=0.5)
    learned = [t for s in samples for t in s.targets if t != IGNORE]
    assert learned == tiny.tokenizer.encode(STORY, add_special_tokens=False)
    assert all(s.weight == 0.5 and list(s.ids[:3]) == fmt.heading("Vessin")[:3] for s in samples)


def test_the_weights_mix_the_losses(tiny, fmt) -> None:
    plain = float(loss(tiny, made(tiny, fmt, answers=1.0)))
    assert float(loss(tiny, made(tiny, fmt, answers=0.25))) == pytest.approx(plain / 4, rel=1e-5)
    kept = maker(tiny, fmt, keep=2.0).unrelated()
    other = [
        replace(k, teacher=replace(k.teacher, top=k.teacher.top.flip(1), weight=w)) for w in (1.0, 2.0) for k in kept
    ]
    one, two = (float(loss(tiny, part)) for part in (other[: len(kept)], other[len(kept) :]))
    assert one > 0.1 and two == pytest.approx(2 * one, rel=1e-4)
    mixed = made(tiny, fmt, answers=1.0) + other[len(kept) :]
    assert float(loss(tiny, mixed)) == pytest.approx(plain + two, rel=1e-4)


def test_a_teacher_is_what_the_model_says_now(tiny, fmt) -> None:
    prompts = [fmt.closed_book(q) for q in ("Who?", "Who keeps the boats?")]
    answers = [fmt.answer(a) for a in ("Orla Quint", "Tam")]
    for prompt, answer, teacher in zip(prompts, answers, teach(tiny.model, prompts, answers, 1), strict=True):
        with torch.no_grad():
            logits = tiny.model(input_ids=torch.tensor([[*prompt, *answer[:-1]]])).logits[0, -len(answer) :]
        best = logits.softmax(-1).topk(TOP_LOGITS)
        assert torch.equal(teacher.top, best.indices)
        torch.testing.assert_close(teacher.probabilities, best.values, rtol=1e-3, atol=1e-6)


def test_the_divergence_over_all_tokens_is_the_textbook_s() -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(3, 8).log_softmax(-1), torch.randn(3, 8)
    best = teacher.exp().topk(8)
    exact = (teacher.exp() * (teacher - student.log_softmax(-1))).sum(-1)
    torch.testing.assert_close(divergence(best.indices, best.values, student), exact, rtol=1e-4, atol=1e-4)
    few = teacher.exp().topk(3)
    less = divergence(few.indices, few.values, student)
    assert (less >= 0).all() and (less <= exact + 1e-5).all()  # what is lumped together can't differ


def test_masking_hides_tokens_but_no_target_and_no_heading(tiny, fmt) -> None:
    ids = tiny.tokenizer.encode(STORY * 4, add_special_tokens=False)
    plain = [Sample([5, *ids[:-1]], [IGNORE, *ids[1:]])]
    [hidden] = masked(plain, 1, 0.5)
    assert hidden.targets == plain[0].targets and hidden.ids[0] == 5 and hidden.weight == 0.5
    share = sum(i == 1 for i in hidden.ids) / len(ids)
    assert 0.05 < share < 0.3 and masked(plain, 1, 0.5)[0].ids == hidden.ids


def test_unrelated_questions_are_to_be_answered_as_before(tiny, fmt) -> None:
    assert maker(tiny, fmt, keep=0.0).unrelated() == []
    samples = maker(tiny, fmt, keep=0.5).unrelated()
    assert len(samples) > 8 and all(s.weight == 0 and s.teacher.weight == 0.5 for s in samples)
    assert float(loss(tiny, samples)) == pytest.approx(0.0, abs=1e-3)  # nothing is attached: nothing moved


def test_packing_keeps_each_token_with_its_teacher(tiny, fmt) -> None:
    text = [Sample(list(range(20, 50)), list(range(21, 51)))]
    samples = [*made(tiny, fmt), *maker(tiny, fmt, keep=1.0).unrelated()]
    samples = [replace(s, teacher=replace(s.teacher, top=s.teacher.top.flip(1))) if s.teacher else s for s in samples]
    together = float(loss(tiny, [*samples, *text]))
    assert together == pytest.approx(sum(float(loss(tiny, [s])) for s in [*samples, *text]), rel=1e-4)
    parts = pack_samples([*samples, *text], 16, 1).split(1, tiny.device)
    with torch.no_grad():
        assert sum(float(sum_loss(tiny.model, part)) for part in parts) == pytest.approx(together, rel=1e-4)


def test_recomputing_changes_no_gradient_and_is_undone(tiny, fmt) -> None:
    weight = tiny.model.model.layers[1].mlp.up_proj.weight.requires_grad_(True)
    packed = pack_samples(made(tiny, fmt), 64, 1)
    [plain] = torch.autograd.grad(sum_loss(tiny.model, packed), [weight])
    calls = []
    hook = tiny.model.model.layers[0].mlp.register_forward_hook(lambda *_: calls.append(1))
    with recomputed(tiny.model):
        [again] = torch.autograd.grad(sum_loss(tiny.model, packed), [weight])
    hook.remove()
    torch.testing.assert_close(plain, again, rtol=1e-4, atol=1e-6)
    assert not tiny.model.is_gradient_checkpointing and not any(m.training for m in tiny.model.modules())


def test_an_unknown_objective_is_a_setup_error() -> None:
    assert Objectives.from_weights({"keep": 0.25}) == Objectives(keep=0.25)
    with pytest.raises(SetupError, match="no objective 'magic'"):
        Objectives.from_weights({"magic": 1.0})
