"""Recorded passes answer as the plain ones do. On a CPU the same functions run unrecorded."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from core.engine import EngineConfig
from core.generate import generate
from core.learning import blocks, graphs
from core.learning.graphs import Graphs, Shape
from core.learning.hooks import attached, down_projections

PROMPTS = [[7, 8, 9], list(range(20, 40)), [11], list(range(50, 62)), [5, 6]]
PLAIN = {"stop_ids": frozenset({0}), "pad_id": 1, "max_new": 8}
OF = [0, 0, 2, 1]  # whose weights; the last prompt has none
Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def modules(tiny) -> dict:
    return down_projections(tiny.model, range(1, 3))


def deltas(modules, seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {n: torch.randn(3, *m.weight.shape, generator=draw) * 0.05 for n, m in modules.items()}


def both(tiny, modules, recordings: Graphs, prompts, seed: int = 0, of=tuple(OF), **options) -> None:
    """The same tokens and confidences, plain and recorded."""
    weights = {n: d.to(tiny.model.device) for n, d in deltas(modules, seed).items()}
    mine = {n: d[list(of)] for n, d in weights.items()} if of else {}
    with attached(modules, mine, [1] * len(of)):
        plain, sure = generate(tiny.model, prompts, **PLAIN | options)
    passes = recordings.passes(prompts, 1, 8)
    passes.attach(weights if of else {}, of)
    found, found_sure = generate(tiny.model, prompts, **PLAIN | options, passes=passes)
    assert found == plain
    assert found_sure == pytest.approx(sure, rel=1e-3)


def test_answers_are_those_of_the_plain_passes(tiny, modules) -> None:
    both(tiny, modules, Graphs(tiny.model, modules), PROMPTS)


def test_nothing_of_an_answer_is_left_in_the_next_one(tiny, modules) -> None:
    recordings = Graphs(tiny.model, modules)
    for seed in range(3):
        both(tiny, modules, recordings, PROMPTS, seed)
    both(tiny, modules, recordings, [p[::-1] for p in PROMPTS], 4, of=())  # the base model's rows alone
    both(tiny, modules, recordings, PROMPTS[:1] * 5, 5, of=(1, 0))
    assert len(recordings.kept) == 1


def test_prompts_of_another_length_or_number_have_recordings_of_their_own(tiny, modules) -> None:
    recordings = Graphs(tiny.model, modules)
    both(tiny, modules, recordings, PROMPTS[:2], of=(0, 1))
    both(tiny, modules, recordings, [list(range(2, 42)), [4]], of=(0, 1))
    assert list(recordings.kept) == [Shape(2, 32, True), Shape(2, 64, True)]


def test_a_long_prompt_is_read_as_ever_and_continued_from_the_recording(tiny, modules, monkeypatch) -> None:
    monkeypatch.setattr(graphs, "PROMPTS", (8,))
    monkeypatch.setattr(graphs, "PROMPT_STEP", 16)
    recordings = Graphs(tiny.model, modules)
    both(tiny, modules, recordings, PROMPTS)
    both(tiny, modules, recordings, [p[:17] for p in PROMPTS], 1)  # shorter, in the same buffers
    both(tiny, modules, recordings, PROMPTS[1:2], of=(1,))
    assert list(recordings.kept) == [Shape(8, 32, False), Shape(1, 32, False)]


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[1:2], [list(range(2, 300)), *PROMPTS]], ids=len)
def test_a_model_with_nothing_to_attach_answers_as_by_the_plain_passes(tiny, prompts) -> None:
    recordings = Graphs(tiny.model, {})
    for some in (prompts, [p[::-1] for p in prompts]):  # the second time in the same buffers
        plain, sure = generate(tiny.model, some, **PLAIN)
        found, found_sure = generate(tiny.model, some, **PLAIN, passes=recordings.passes(some, 1, 8))
        assert found == plain and found_sure == pytest.approx(sure, rel=1e-3)
    assert len(recordings.kept) == 1


def test_heads_that_share_keys(tiny) -> None:
    shape = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.3}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(**tiny.model.config.to_dict() | shape)
        model = LlamaForCausalLM(config).eval().requires_grad_(False)
    modules = down_projections(model, range(1, 2))
    both(replace(tiny, model=model), modules, Graphs(model, modules), PROMPTS)


def test_weights_that_lie_side_by_side_are_what_they_were_and_stay_there(tiny) -> None:
    before = {name: w.clone() for name, w in tiny.model.state_dict().items()}
    Graphs(tiny.model, {})
    layer = tiny.model.model.layers[0]
    place = layer.self_attn.k_proj.weight.data_ptr()
    assert torch.equal(
        blocks.fused_weight(*blocks.qkv(layer))[: layer.self_attn.q_proj.out_features], before[f"{Q}.weight"]
    )
    Graphs(tiny.model, {})
    assert layer.self_attn.k_proj.weight.data_ptr() == place
    assert all(torch.equal(w, before[name]) for name, w in tiny.model.state_dict().items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="records on a GPU only")
def test_on_a_gpu_recordings_are_replayed(tiny) -> None:
    model = copy.deepcopy(tiny.model).cuda()
    here, modules = replace(tiny, model=model), down_projections(model, range(1, 3))
    recordings = Graphs(model, modules)
    for seed in range(3):
        both(here, modules, recordings, PROMPTS, seed)
    both(here, modules, recordings, [list(range(2, 300)), *PROMPTS], 3)


def test_without_room_there_is_no_recording_and_the_longest_unused_goes_first(tiny, modules) -> None:
    recordings = Graphs(tiny.model, modules)
    small, large = PROMPTS[:1], [list(range(2, 42))]
    recordings.room = sum(recordings._bytes(Shape.fitting(rows, 1)) for rows in (1, 2))
    for prompts in (small, large, small, PROMPTS[:2]):
        assert recordings.passes(prompts, 1, 8)
    assert Shape(1, 64, True) not in recordings.kept and Shape(1, 32, True) in recordings.kept
    recordings.room = 1
    assert recordings.passes(small, 1, 8) is None


def test_what_no_recording_can_do_is_left_to_the_plain_passes(tiny, modules) -> None:
    recordings = Graphs(tiny.model, modules)
    assert recordings.passes([], 1, 8) is None
    assert recordings.passes(PROMPTS[:1] * 129, 1, 8) is None
    assert recordings.passes(PROMPTS, 1, graphs.MAX_NEW_TOKENS + 1) is None


def test_an_answer_of_the_usual_length_comes_from_a_recording(tiny, modules) -> None:
    assert Graphs(tiny.model, modules).passes(PROMPTS, 1, EngineConfig().max_answer_tokens)


def test_only_llama_s_architecture_is_recorded(tiny, monkeypatch) -> None:
    assert blocks.can_run(tiny.model)
    for name, other in (
        ("model_type", "mistral"),
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("rope_parameters", {"rope_type": "dynamic"}),
    ):
        with monkeypatch.context() as m:
            m.setattr(tiny.model.config, name, other)
            assert not blocks.can_run(tiny.model)
