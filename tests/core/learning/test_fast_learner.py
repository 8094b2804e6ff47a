"""The learner `fast-weights`: chunks to deltas, cancelling, failing, memory."""

from __future__ import annotations

import math
import random
from functools import partial

import pytest
import torch

from core.document.chunks import encoder, make_chunks
from core.engine import Engine, EngineConfig
from core.errors import LearningFailed
from core.learning.base import LearnConfig
from core.learning.fast_learner import FastWeightsLearner
from core.learning.guard import Guard
from core.learning.packing import SCALE, unpack
from core.ports import Ask, Learned
from core.prepare.episodes import Episode, encode_document
from core.prepare.invented import invented_document
from core.squad import exact_match
from core.types import Page, Step
from tests.core.conftest import STORY, WIDTH, chunks_of


def finish(steps) -> tuple[list[Step], Learned]:
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            return seen, end.value


def learn(learner: FastWeightsLearner, text: str = STORY * 3) -> tuple[list[Step], Learned]:
    return finish(learner.learn(chunks_of(learner.base.tokenizer, text), title="Vessin"))


def section(learned: Learned, n: int) -> dict[str, torch.Tensor]:
    return {k.partition("/")[2]: v for k, v in learned.tensors.items() if k.startswith(f"{n}/")}


def test_a_section_is_learned_as_prepare_practised_it(learner) -> None:
    text = "The harbour of Vessin is old.\n\nIt was built by the council."
    [chunk] = make_chunks([Page(1, text)], encoder(learner.base.tokenizer), 64)
    inputs, targets = learner.tensors([chunk], learner.fmt.heading("Vessin"))
    encode = partial(learner.base.tokenizer.encode, add_special_tokens=False)
    practised = Episode("Vessin", text.replace("\n\n", "\n"), [])
    expected = encode_document(practised, encode, learner.fmt, learner.prepared.config.segment, 64)
    assert (inputs[0].tolist(), targets[0].tolist()) == expected


def logits(learner: FastWeightsLearner, rows: int = 4) -> torch.Tensor:
    ids = torch.tensor(learner.base.tokenizer.encode(STORY)[:24])
    return learner.base.model(input_ids=ids.repeat(rows, 1)).logits


def test_each_chunk_becomes_a_section_of_two_bit_deltas(learner) -> None:
    chunks = chunks_of(learner.base.tokenizer, STORY * 3)
    seen, learned = learn(learner)
    assert learned.sections == tuple(range(len(chunks))) and len(chunks) > 1
    matrices = [v for v in learned.tensors.values() if v.dtype == torch.uint8]
    assert len(matrices) == 3 * len(chunks)  # three layers
    assert all(v.any() and v.shape == (WIDTH, 128 // 4) for v in matrices)
    *steps, pause = seen
    assert [s.done for s in steps] == [len(chunks) * n for n in range(1, 5)] and steps[-1].done == steps[-1].total
    assert pause == steps[-1]
    assert learned.metrics.final_loss < learned.metrics.initial_loss - 0.05
    assert learned.metrics.tokens == sum(c.token_count for c in chunks)
    assert math.isfinite(learned.metrics.delta_norm) and learned.metrics.delta_norm > 0


def test_sections_of_a_former_release_answer_beside_new_ones(learner) -> None:
    new = section(learn(learner)[1], 0)
    former = {name: t.repeat(1, 2) if name.endswith(SCALE) else t for name, t in new.items()}  # a scale for 64 weights
    weights = learner._unpack_batch([new, former, {}])  # as on a GPU, where all are unpacked at once
    assert torch.equal(weights[:, 0], weights[:, 1]) and not weights[:, 2].any()
    with torch.no_grad(), learner.attach([(new, 1), (former, 1)]):
        first, second = logits(learner, rows=2)
    assert torch.equal(first, second)


def test_between_steps_and_after_closing_half_way_the_model_is_exactly_the_base(learner) -> None:
    before = logits(learner)
    steps = learner.learn(chunks_of(learner.base.tokenizer, STORY * 3), title="Vessin")
    for _ in range(2):
        next(steps)
        assert torch.equal(logits(learner), before)
    steps.close()
    assert torch.equal(logits(learner), before)
    assert not any(m._forward_hooks for m in learner.base.model.modules())


def test_several_sections_in_one_batch_answer_as_each_alone(learner) -> None:
    _, learned = learn(learner)
    one, two, before = section(learned, 0), section(learned, 1), logits(learner)
    with learner.attach([(one, 2), (two, 1)]):
        found = logits(learner)
    with learner.attach([(one, 4)]):
        assert torch.allclose(found[:2], logits(learner)[:2], rtol=1e-3, atol=1e-3)
    with learner.attach([(two, 4)]):
        assert torch.allclose(found[2], logits(learner)[2], rtol=1e-3, atol=1e-3)
    assert torch.equal(found[3], before[3]) and not torch.allclose(found[:3], before[:3], atol=1e-2)
    assert torch.equal(logits(learner), before)


def test_small_batches_learn_the_same(learner) -> None:
    _, whole = learn(learner)
    learner.config = LearnConfig(batch_tokens=64)
    seen, parts = learn(learner)
    assert seen[-1].done == seen[-1].total
    again, deltas = unpack(parts.tensors, 128), unpack(whole.tensors, 128)
    same = [torch.isclose(again[name], delta, rtol=0.02).float().mean() for name, delta in deltas.items()]
    assert min(same) > 0.95  # a weight on the edge of two levels may fall to either side


def test_on_a_cpu_one_section_is_learned_at_once_unless_the_operator_wants_more(learner) -> None:
    chunks = chunks_of(learner.base.tokenizer, STORY * 3)
    counts = []
    for chosen in ({}, {"batch_tokens": 1024}):
        engine = Engine(learner.base, EngineConfig(device="cpu", **chosen))
        counts.append(len(engine.course("fast-weights").learner._group(chunks, 0, 1024)))
    assert counts == [1, len(chunks)]
    _, whole = learn(learner)
    learner.config = LearnConfig(sections=1)
    seen, parts = learn(learner)
    assert len(seen) == (4 + 1) * len(chunks) and seen[-1].done == seen[-1].total
    again, deltas = unpack(parts.tensors, 128), unpack(whole.tensors, 128)
    same = [torch.isclose(again[name], delta, rtol=0.02).float().mean() for name, delta in deltas.items()]
    assert min(same) > 0.95


def test_what_the_guard_sees_is_the_same_by_shared_passes(learner, fmt) -> None:
    _, learned = learn(learner)
    groups = [(section(learned, 0), 8)]
    seen = []
    for passes in (learner.answer_passes, lambda *_: None):
        learner.answer_passes = passes
        guard = Guard(learner.base, fmt)
        seen += [
            (guard._first_tokens(learner, []), guard._first_tokens(learner, groups), guard.shift(learned, learner))
        ]
    (base, with_weights, shift), (plain_base, plain_weights, plain_shift) = seen
    assert torch.allclose(base, plain_base, atol=1e-3) and torch.allclose(with_weights, plain_weights, atol=1e-3)
    assert not torch.allclose(base, with_weights, atol=1e-2)
    assert shift == pytest.approx(plain_shift, rel=1e-2) and shift > 0


def test_a_loss_that_is_not_finite_is_a_failure_and_the_model_stays(learner) -> None:
    before = logits(learner)
    torch.nn.init.constant_(learner.prepared.log_rates, math.inf)
    with pytest.raises(LearningFailed, match="kept nothing of it"):
        learn(learner)
    assert torch.equal(logits(learner), before)


def out_of_memory_above(learner: FastWeightsLearner, rows: int) -> None:
    """A device on which more rows than that do not fit."""

    def check(_module, args) -> None:
        if args[0].shape[0] > rows:
            raise torch.OutOfMemoryError("out of memory")

    learner.base.model.model.layers[0].register_forward_pre_hook(check)


def test_when_memory_runs_out_the_batch_is_halved_and_no_step_is_counted_twice(learner) -> None:
    _, whole = learn(learner)
    out_of_memory_above(learner, rows=2)
    seen, parts = learn(learner)
    steps = list(dict.fromkeys(seen))  # without the pauses
    assert [s.done for s in steps] == sorted({s.done for s in steps}) and seen[-1].done == seen[-1].total
    assert parts.tensors.keys() == whole.tensors.keys()


def test_when_even_small_parts_do_not_fit_the_sentence_says_so(learner) -> None:
    out_of_memory_above(learner, rows=0)
    with pytest.raises(LearningFailed, match="not enough memory"):
        learn(learner)


@pytest.fixture(scope="module")
def embedded() -> Engine:
    return Engine.load(EngineConfig(device="cpu", dtype="float32", max_answer_tokens=12, check=False, guard=False))


def test_the_embedded_model_learns_ten_invented_facts(embedded) -> None:
    mine, other = (invented_document(random.Random(seed), 10) for seed in (1, 2))
    pages = [Page(1, " ".join(d.sentences)) for d in (mine, other)]
    weights = []
    for page in pages:
        _, learned = finish(embedded.learn(embedded.chunk([page]), title="Notes"))
        weights.append(section(learned, 0))
    asked = [qs[0] for qs in mine.questions[:6]]
    answers = embedded.answer([Ask(q.question, w) for w in (*weights, None) for q in asked])
    right = [exact_match(a.text, [q.answer]) for a, q in zip(answers, asked * 3, strict=True)]
    n = len(asked)
    assert sum(right[:n]) >= n / 2
    assert sum(right[n : 2 * n]) <= 1, "another document's weights must not help"
    assert sum(right[2 * n :]) == 0, "the base model can't know"
