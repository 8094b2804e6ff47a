"""Adapters that learn a document: `lora` with peft, `ttt-linear` and `ttt-mlp` as branches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from core.engine import Engine, EngineConfig
from core.errors import LearningFailed
from core.learning.adapters.adapter import AdapterLearner
from core.learning.adapters.lora import LoraLearner, LoraSettings, default_settings, make_layers
from core.learning.adapters.objectives import Sample, pack_samples, sum_loss, text_samples
from core.learning.base import LearnConfig
from core.learning.blocks import fuse_projections
from core.learning.forms.branches import TTTLinearLearner, TTTMLPLearner
from core.learning.preparation import FastWeightsConfig, Prepared, save_prepared
from core.learning.segments import IGNORE
from core.model import LoadedModel
from core.ports import Ask, Learned
from core.prompts import ReaderFormat
from core.types import Chunk
from tests.core.conftest import STORY, WIDTH, chunks_of

ALL = [LoraLearner, TTTLinearLearner, TTTMLPLearner]
QUICK = LearnConfig("quick")
LEARNED: dict[str, Learned] = {}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """At toy size more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=ALL, ids=lambda kind: kind.name)
def learner(request: pytest.FixtureRequest, tiny: LoadedModel, fmt: ReaderFormat) -> Iterator[AdapterLearner]:
    fuse_projections(tiny.model)  # as an engine on a CPU does; in place, and only once
    learner = request.param(tiny, fmt, QUICK)
    before, known = logits(learner.base), facts(learner.base.model)
    yield learner
    assert torch.equal(logits(learner.base), before), "the base model must be what it was"
    assert facts(learner.base.model) == known


def test_on_a_prepared_model_it_adapts_the_layers_that_were_prepared(tiny: LoadedModel, tmp_path: Path) -> None:
    assert default_settings(tiny) == LoraSettings()
    save_prepared(Prepared(FastWeightsConfig(layers=1, skip=1), WIDTH), tmp_path)
    assert default_settings(replace(tiny, folder=tmp_path)).targets == ("model.layers.1.mlp.down_proj",)


def document(learner: AdapterLearner) -> list[Chunk]:
    return chunks_of(learner.base.tokenizer, STORY * 3)


@torch.no_grad()
def logits(base: LoadedModel, rows: int = 4) -> torch.Tensor:
    """[rows, 24, V], the same tokens in every row."""
    ids = torch.tensor(base.tokenizer.encode(STORY, add_special_tokens=False)[:24])
    return base.model(input_ids=ids.repeat(rows, 1), use_cache=False).logits


def facts(model: torch.nn.Module) -> list[Any]:
    """All that learning might leave behind in a model."""
    return [
        [(name, type(m), len(m._forward_hooks), sorted(vars(m))) for name, m in model.named_modules()],
        [(name, p.requires_grad, p.data_ptr()) for name, p in model.named_parameters()],
    ]  # fmt: skip


def run(learner: AdapterLearner, **options: Any) -> Learned:
    """The return value of a finished learning run."""
    steps = learner.learn(document(learner), title="Vessin", **options)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def learned_by(learner: AdapterLearner) -> Learned:
    """What it learns of the document, the first time for all tests: learning is deterministic."""
    if learner.name not in LEARNED:
        LEARNED[learner.name] = run(learner)
    return LEARNED[learner.name]


def section(learned: Learned) -> dict[str, torch.Tensor]:
    return {name.removeprefix("0/"): tensor for name, tensor in learned.tensors.items()}


def test_the_loss_falls(learner: AdapterLearner) -> None:
    learned = learned_by(learner)
    metrics = learned.metrics
    assert metrics.final_loss < metrics.initial_loss - 0.05
    assert (metrics.chunks, learned.sections) == (len(document(learner)), (0,) * len(document(learner)))
    assert metrics.tokens == sum(c.token_count for c in document(learner))
    assert metrics.delta_norm > 0 and len(metrics.loss_history) > 0
    assert all(t.dtype == torch.float32 for t in learned.tensors.values())


def test_between_steps_the_model_is_the_base_model(learner: AdapterLearner) -> None:
    before = logits(learner.base)
    for n, step in enumerate(learner.learn(document(learner), title="Vessin"), 1):
        assert torch.equal(logits(learner.base), before)
        assert step.done == n <= step.total


def test_closing_it_cancels(learner: AdapterLearner) -> None:
    steps = learner.learn(document(learner), title="Vessin")
    next(steps)
    steps.close()
    again = run(learner).metrics
    assert again.loss_history == pytest.approx(learned_by(learner).metrics.loss_history)


def test_a_loss_that_is_no_number_fails(learner: AdapterLearner) -> None:
    weight = learner.base.model.model.layers[1].mlp.gate_proj.weight
    kept = weight[0, 0].clone()
    steps = learner.learn(document(learner), title="Vessin")
    next(steps)
    weight[0, 0] = torch.nan
    with pytest.raises(LearningFailed):
        list(steps)
    weight[0, 0] = kept


def test_what_was_learned_is_what_is_attached(learner: AdapterLearner) -> None:
    learned = learned_by(learner)
    samples = text_samples(document(learner), learner.fmt.heading("Vessin"), learner.segment)
    packed = pack_samples(samples, learner.segment, learner.fmt.pad_id)
    with learner.attach([(section(learned), len(packed.ids))]), torch.no_grad():
        attached = sum_loss(learner.base.model, packed) / packed.count
    assert float(attached) == pytest.approx(learned.metrics.final_loss, rel=1e-4)


def test_float16_on_disk_changes_no_answer(learner: AdapterLearner) -> None:
    weights = section(learned_by(learner))
    with learner.attach([(weights, 4)]):
        full = logits(learner.base)
    with learner.attach([({name: t.half() for name, t in weights.items()}, 4)]):
        stored = logits(learner.base)
    assert (full - stored).abs().max() < 0.02 * (full - logits(learner.base)).abs().max()
    assert torch.equal(full.argmax(-1), stored.argmax(-1))


def test_documents_share_a_batch(learner: AdapterLearner) -> None:
    weights = section(learned_by(learner))
    other = {name: -2 * t for name, t in weights.items()}
    plain = logits(learner.base, 1)[0]
    with learner.attach([(weights, 1)]):
        one = logits(learner.base, 1)[0]
    with learner.attach([(weights, 2), (other, 1)]):
        rows = logits(learner.base, 4)
    torch.testing.assert_close(rows[:2], one.expand(2, -1, -1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rows[3], plain, rtol=1e-5, atol=1e-5)
    assert (one - plain).abs().max() > 1e-2 and (rows[2] - one).abs().max() > 1e-2


def test_an_exception_while_attached_leaves_the_base(learner: AdapterLearner) -> None:
    weights = section(learned_by(learner))
    with pytest.raises(RuntimeError), learner.attach([(weights, 4)]):
        raise RuntimeError


def test_before_the_first_step_an_adapter_changes_nothing(learner: AdapterLearner) -> None:
    before = logits(learner.base)
    with learner.start().on():
        assert torch.equal(logits(learner.base), before)


def test_without_a_rate_nothing_is_learned(learner: AdapterLearner) -> None:
    before, learned = logits(learner.base), run(learner.with_rate(0.0))
    with learner.attach([(section(learned), 4)]):
        assert torch.equal(logits(learner.base), before) and learned.metrics.delta_norm == 0


def test_extra_sequences_are_learned_too(learner: AdapterLearner) -> None:
    prompt, answer = learner.fmt.closed_book("Who keeps the boats?"), learner.fmt.answer("Orla Quint")
    ids = [*prompt, *answer]
    extra = [Sample(ids[:-1], [*[IGNORE] * (len(prompt) - 1), *answer])]

    def loss(learned: Learned) -> float:
        with learner.attach([(section(learned), 1)]), torch.no_grad():
            return float(sum_loss(learner.base.model, pack_samples(extra, 8, learner.fmt.pad_id)))

    assert loss(run(learner, extra=extra * 8)) < loss(learned_by(learner))


def test_small_parts_give_the_same_weights(learner: AdapterLearner) -> None:
    whole = section(learned_by(learner))
    learner.config = LearnConfig("quick", batch_tokens=learner.segment)
    parts = section(run(learner))
    assert all((whole[n] - parts[n]).norm() < 0.02 * whole[n].norm() + 1e-6 for n in whole)


def test_memory_that_runs_out_halves_the_parts(learner: AdapterLearner) -> None:
    whole, model, rows = learned_by(learner), learner.base.model.model, []

    def crowded(_module: Any, _args: Any, options: dict[str, Any]) -> None:
        rows.append(len(options["input_ids"]))
        if rows[-1] > 1:
            raise torch.OutOfMemoryError

    with model.register_forward_pre_hook(crowded, with_kwargs=True):
        learned = run(learner)
    assert rows[0] > 1 and set(rows[2:]) == {1}
    assert learned.metrics.final_loss == pytest.approx(whole.metrics.final_loss, rel=1e-3)


def test_packed_sequences_do_not_see_each_other(tiny: LoadedModel, fmt: ReaderFormat) -> None:
    ids = tiny.tokenizer.encode(STORY, add_special_tokens=False)
    samples = [Sample(ids[a:b], ids[a + 1 : b + 1]) for a, b in ((0, 20), (5, 12), (20, 36), (3, 30))]
    packed = pack_samples(samples, 48, fmt.pad_id)
    alone = sum(sum_loss(tiny.model, pack_samples([s], 1, fmt.pad_id)) for s in samples)
    assert packed.ids.shape == (2, 47)  # 27 + 20, 16 + 7
    torch.testing.assert_close(sum_loss(tiny.model, packed), alone, rtol=1e-5, atol=1e-4)


def test_every_token_of_the_document_is_learned_once(tiny: LoadedModel, fmt: ReaderFormat) -> None:
    heading, chunks = fmt.heading("Vessin"), chunks_of(tiny.tokenizer, STORY * 3)
    samples = text_samples(chunks, heading, 40)
    targets = [t for s in samples for t in s.targets if t != IGNORE]
    assert targets == [i for c in chunks for i in c.token_ids]
    assert all(len(s.ids) == len(s.targets) < 40 and list(s.ids[: len(heading)]) == heading for s in samples)


def test_peft_scales_by_the_root_of_the_rank(tiny: LoadedModel, fmt: ReaderFormat) -> None:
    learner = LoraLearner(tiny, fmt, QUICK)
    layers = make_layers(learner.base.model, learner.settings)
    assert len(layers) == 9
    scale = learner.settings.alpha / learner.settings.rank**0.5
    assert {layer.scaling["default"] for layer in layers.values()} == {scale}


def test_the_engine_has_a_row_for_it(learner: AdapterLearner) -> None:
    engine = Engine(learner.base, EngineConfig(learner=learner.name, effort="quick", max_answer_tokens=4))
    weights = section(learned_by(learner))
    asks = [Ask("Who?"), Ask("Who?", weights), Ask("Who?", {name: 20 * t for name, t in weights.items()})]
    base, learned, much = engine.answer(asks)
    assert type(engine.course(learner.name).learner) is type(learner)
    assert base.tokens and learned.tokens and much.text != base.text
