"""Batches that fit into a memory limit, and the presets."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from core.engine import PRESETS, Engine, EngineConfig, read_preset
from core.errors import SetupError
from core.learning.base import LearnConfig
from core.learning.low_rank import merge
from core.memory import MIN_BATCH_TOKENS, bytes_a_token, fit_batch, limit_memory, max_sections, model_bytes
from tests.core.conftest import WIDTH


def test_without_a_limit_nothing_changes(tiny) -> None:
    assert fit_batch(tiny.model, 8192, None) == (8192, False)
    assert fit_batch(tiny.model, 8192, None, recompute=True) == (8192, True)


def test_less_memory_makes_smaller_batches_then_computes_again(tiny) -> None:
    plans = [fit_batch(tiny.model, 8192, megabytes) for megabytes in (100_000, 600, 300, 120, 1)]
    tokens = [t for t, _ in plans]
    assert (
        plans[0] == (8192, False) and tokens == sorted(tokens, reverse=True) and plans[-1] == (MIN_BATCH_TOKENS, True)
    )
    assert any(t < 8192 and not again for t, again in plans)


def test_what_is_promised_fits(tiny) -> None:
    weights = sum(p.numel() * p.element_size() for p in tiny.model.parameters())
    for megabytes in (150, 300, 1000):
        tokens, again = fit_batch(tiny.model, 1 << 20, megabytes)
        assert weights + tokens * bytes_a_token(tiny.model.config, 4, again) <= megabytes * 2**20


def test_computing_again_needs_less(tiny) -> None:
    assert bytes_a_token(tiny.model.config, 4, True) < bytes_a_token(tiny.model.config, 4, False)


def test_on_a_cpu_there_is_no_hard_limit() -> None:
    limit_memory(torch.device("cpu"), 100)


def test_on_a_gpu_without_a_number_the_limit_is_a_share_of_its_memory_and_can_be_lifted(monkeypatch) -> None:
    shares = []
    monkeypatch.setattr(torch.cuda.memory, "_lazy_init", lambda: None)  # no GPU here; the rest is torch's own
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=16 * 2**30))
    monkeypatch.setattr(torch._C, "_cuda_setMemoryFraction", lambda *given: shares.append(given), raising=False)
    for megabytes in (4096, None):
        limit_memory(torch.device("cuda"), megabytes)
    assert shares == [(0.25, 0), (1.0, 0)]


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_is_a_configuration(path) -> None:
    config = EngineConfig.from_preset(path.stem)
    assert config.device in ("cpu", "cuda") and hasattr(torch, config.dtype)
    assert config.effort in ("quick", "standard", "deep") and (config.batch_tokens or config.device == "cpu")


def test_what_is_given_comes_before_the_preset() -> None:
    assert EngineConfig.from_preset("t4", effort="deep").effort == "deep"
    assert EngineConfig.from_preset("", effort="deep") == EngineConfig(effort="deep")


def test_a_preset_that_sets_what_there_is_not_is_refused(tmp_path, monkeypatch) -> None:
    (tmp_path / "odd.yaml").write_text("magic: true\n")
    monkeypatch.setattr("core.engine.PRESETS", tmp_path)
    with pytest.raises(SetupError, match="'odd' sets 'magic'"):
        read_preset("odd")


def test_learning_with_less_memory_gives_the_same_weights(tiny, fmt) -> None:
    from core.learning.adapters.lora import LoraLearner
    from tests.core.conftest import STORY, chunks_of

    def weights(**config):
        steps = LoraLearner(tiny, fmt, LearnConfig("quick", **config)).learn(
            chunks_of(tiny.tokenizer, STORY), title="V"
        )
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value.tensors

    plain, thrifty = weights(), weights(batch_tokens=128, recompute=True)
    assert all((plain[n] - thrifty[n]).norm() < 0.02 * plain[n].norm() + 1e-6 for n in plain)


def test_fast_weights_count_the_deltas_of_each_section(tiny) -> None:
    counts = [max_sections(tiny.model, 3, 640, megabytes) for megabytes in (1, 900, 4000)]
    assert counts[0] == 1 < counts[1] < counts[2] and max_sections(tiny.model, 3, 640, None) is None


def test_within_a_memory_limit_fewer_sections_are_learned_at_once(tiny, fmt) -> None:
    from core.learning.forms.fast_weights import FormLearner
    from tests.core.conftest import STORY, chunks_of

    chunks = chunks_of(tiny.tokenizer, STORY * 4)
    learners = [FormLearner(tiny, fmt, LearnConfig(memory_mb=m)) for m in (None, 10)]
    many, few = (learner._group(chunks, 0, 8192) for learner in learners)
    assert len(many) == len(chunks) > len(few) >= 1


def test_weights_that_models_share_count_once(tiny) -> None:
    second = merge(tiny.model, {"model.layers.0.mlp.down_proj": (torch.ones(1, 128), torch.ones(WIDTH, 1))})
    own = second.model.layers[0].mlp.down_proj.weight
    assert model_bytes(tiny.model, second) == model_bytes(tiny.model) + own.numel() * own.element_size()


def test_the_weights_of_reader_and_search_are_not_left_for_learning() -> None:
    engine = Engine.load(EngineConfig(memory_mb=4000, check=False))
    assert engine._searcher
    copies = model_bytes(engine.base.model, engine.reader.model, engine._searcher.base.model)
    left = engine.course("fast-weights").learning.memory_mb
    assert left == 4000 - (copies - model_bytes(engine.base.model)) // 2**20 < 4000 - 200
