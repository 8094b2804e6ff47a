"""What adapters are trained on: each loss against its plain definition."""

from __future__ import annotations

import pytest
import torch

from core.errors import SetupError
from core.generate import read
from core.learning.adapters.adapter import recomputed
from core.learning.adapters.objectives import (
    TOP,
    Lessons,
    Sample,
    Teacher,
    answer_sample,
    distance,
    divergence,
    masked,
    pack,
    sum_loss,
    teach,
)
from core.learning.adapters.study import Exercise
from core.learning.base import Objectives
from core.learning.segments import IGNORE
from core.prompts import ChatFormat, ReaderFormat
from tests.core.conftest import STORY

ASKED = [
    Exercise(0, STORY[:90], "Who keeps the boats?", "Orla Quint"),
    Exercise(0, STORY[:90], "How many boats?", "nineteen"),
    Exercise(1, STORY[90:], "Who built it?", "Tam Odrey"),
]


def lessons(tiny, fmt, **weights: float) -> Lessons:
    return Lessons(tiny, fmt, Objectives(**weights), 256)


def taught(tiny, fmt, *, of=ASKED, **weights: float) -> list[Sample]:
    return lessons(tiny, fmt, **weights).of(of, fmt.heading("Vessin"), 64)


def loss(tiny, samples: list[Sample]) -> torch.Tensor:
    with torch.no_grad():
        return sum_loss(tiny.model, pack(samples, 64, 1))


def test_only_the_answer_is_learned(tiny, fmt) -> None:
    [sample, *_] = taught(tiny, fmt)
    answer = fmt.answer("Orla Quint")
    assert [t for t in sample.targets if t != IGNORE] == answer
    assert [*sample.ids, answer[-1]] == [*fmt.closed_book("Who keeps the boats?"), *answer]
    assert sample.teacher is None and len(sample.ids) == len(sample.targets)


def test_a_text_in_other_words_is_learned_as_text(tiny, fmt) -> None:
    samples = taught(tiny, fmt, of=[Exercise(0, STORY, "", STORY)], text=0.5)
    told = [t for s in samples for t in s.targets if t != IGNORE]
    assert told == tiny.tokenizer.encode(STORY, add_special_tokens=False)
    assert all(s.weight == 0.5 and list(s.ids[:3]) == fmt.heading("Vessin")[:3] for s in samples)


def test_the_weights_mix_the_losses(tiny, fmt) -> None:
    plain = float(loss(tiny, taught(tiny, fmt, answers=1.0)))
    assert float(loss(tiny, taught(tiny, fmt, answers=0.25))) == pytest.approx(plain / 4, rel=1e-5)
    kl = float(loss(tiny, taught(tiny, fmt, answers=0.0, distil=1.0)))
    far = float(loss(tiny, taught(tiny, fmt, answers=0.0, layers=1.0)))
    both = float(loss(tiny, taught(tiny, fmt, answers=1.0, distil=2.0, layers=3.0)))
    assert kl > 0 < far and both == pytest.approx(plain + 2 * kl + 3 * far, rel=1e-4)


@pytest.mark.parametrize("kind", [ReaderFormat, ChatFormat])
def test_a_teacher_is_the_model_with_the_passage_in_context(tiny, tokenizer, kind) -> None:
    fmt = kind(tokenizer)
    samples = taught(tiny, fmt, distil=1.0)
    for e, sample in zip(ASKED, samples, strict=True):
        prompt, answer = fmt.in_context(e.passage, e.question), fmt.answer(e.answer)
        with torch.no_grad():
            logits = tiny.model(input_ids=torch.tensor([[*prompt, *answer[:-1]]])).logits[0, -len(answer) :]
        best = logits.softmax(-1).topk(TOP)
        assert torch.equal(sample.teacher.top, best.indices)
        torch.testing.assert_close(sample.teacher.chance, best.values, rtol=1e-3, atol=1e-6)


def test_who_says_what_the_teacher_says_has_nothing_to_learn(tiny, fmt) -> None:
    prompt, answer = fmt.closed_book("Who?"), fmt.answer("Orla Quint")
    [teacher] = teach(tiny.model, [prompt], [answer], 1, deep=True)
    own = answer_sample(prompt, answer, 0.0, Teacher(teacher.top, teacher.chance, teacher.hidden, 1.0, 1.0))
    assert float(loss(tiny, [own])) == pytest.approx(0.0, abs=1e-2)  # hidden states are kept in half precision


def test_a_teacher_with_a_cached_passage_is_the_same(tiny, fmt) -> None:
    prompt, answer = fmt.in_context(STORY, "Who?"), fmt.answer("Orla Quint")
    prefix = read(tiny.model, [fmt.in_context(STORY, "?")], 1)
    [plain] = teach(tiny.model, [prompt], [answer], 1)
    [cached] = teach(tiny.model, [prompt], [answer], 1, prefix, [0])
    assert torch.equal(plain.top, cached.top)
    torch.testing.assert_close(plain.chance, cached.chance, rtol=1e-3, atol=1e-6)


def test_the_divergence_over_all_tokens_is_the_textbook_s() -> None:
    torch.manual_seed(0)
    teacher, mine = torch.randn(3, 8).log_softmax(-1), torch.randn(3, 8)
    best = teacher.exp().topk(8)
    exact = (teacher.exp() * (teacher - mine.log_softmax(-1))).sum(-1)
    torch.testing.assert_close(divergence(best.indices, best.values, mine), exact, rtol=1e-4, atol=1e-4)
    few = teacher.exp().topk(3)
    less = divergence(few.indices, few.values, mine)
    assert (less >= 0).all() and (less <= exact + 1e-5).all()  # what is lumped together can't differ


def test_the_distance_is_relative() -> None:
    t = torch.randn(2, 3, 5)
    assert distance(t, t).abs().max() == 0
    torch.testing.assert_close(distance(t, 3 * t), torch.full((2,), 2.0))


def test_masking_hides_tokens_but_no_target_and_no_heading(tiny, fmt) -> None:
    ids = tiny.tokenizer.encode(STORY * 4, add_special_tokens=False)
    plain = [Sample([5, *ids[:-1]], [IGNORE, *ids[1:]])]
    [hidden] = masked(plain, 1, 0.5)
    assert hidden.targets == plain[0].targets and hidden.ids[0] == 5 and hidden.weight == 0.5
    share = sum(i == 1 for i in hidden.ids) / len(ids)
    assert 0.05 < share < 0.3 and masked(plain, 1, 0.5)[0].ids == hidden.ids


def test_unrelated_questions_are_to_be_answered_as_before(tiny, fmt) -> None:
    assert lessons(tiny, fmt, keep=0.0).unrelated() == []
    samples = lessons(tiny, fmt, keep=0.5).unrelated()
    assert len(samples) > 8 and all(s.weight == 0 and s.teacher.weight == 0.5 for s in samples)
    assert float(loss(tiny, samples)) == pytest.approx(0.0, abs=1e-3)  # nothing is attached: nothing moved


def test_packing_keeps_each_token_with_its_teacher(tiny, fmt) -> None:
    text = [Sample(list(range(20, 50)), list(range(21, 51)))]
    samples = taught(tiny, fmt, distil=1.0)
    together = float(loss(tiny, [*samples, *text]))
    assert together == pytest.approx(sum(float(loss(tiny, [s])) for s in [*samples, *text]), rel=1e-4)
    parts = pack([*samples, *text], 16, 1).split(1, tiny.device)
    with torch.no_grad():
        assert sum(float(sum_loss(tiny.model, part)) for part in parts) == pytest.approx(together, rel=1e-4)


def test_recomputing_changes_no_gradient_and_is_undone(tiny, fmt) -> None:
    weight = tiny.model.model.layers[1].mlp.up_proj.weight.requires_grad_(True)
    packed = pack(taught(tiny, fmt, distil=1.0), 64, 1)
    [plain] = torch.autograd.grad(sum_loss(tiny.model, packed), [weight])
    calls = []
    hook = tiny.model.model.layers[0].mlp.register_forward_hook(lambda *_: calls.append(1))
    with recomputed(tiny.model):
        [again] = torch.autograd.grad(sum_loss(tiny.model, packed), [weight])
    hook.remove()
    torch.testing.assert_close(plain, again, rtol=1e-4, atol=1e-6)
    assert not tiny.model.is_gradient_checkpointing and not any(m.training for m in tiny.model.modules())


def test_an_unknown_objective_is_a_setup_error() -> None:
    assert Objectives.of({"distil": 0.5}) == Objectives(distil=0.5)
    with pytest.raises(SetupError, match="no objective 'magic'"):
        Objectives.of({"magic": 1.0})
