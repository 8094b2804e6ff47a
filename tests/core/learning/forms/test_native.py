"""A native memory: what it changes and what it leaves, whose it is, what trains it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from core.evaluation.forms.native import Native, NativeConfig
from core.learning.segments import IGNORE
from core.prepare.episodes import Batch, Episode, Shape, make_batch
from core.prepare.outer import run_outer
from core.prepare.step import HookStep, step_losses
from tests.core.conftest import WIDTH
from tests.core.prepare.test_outer import CONFIG, DOCUMENTS, MATERIAL, ready

RULES = ("lact", "ttt-linear", "ttt-mlp")
PAIRS = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 128, "vocab_size": 64,
    "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture(params=RULES)
def native(request, tiny) -> Native:
    torch.manual_seed(0)
    return Native(NativeConfig(request.param, layers=2, heads=3, segment=32, chunk=16), tiny.model)


@pytest.fixture
def batch(tokenizer, fmt) -> Batch:
    """Documents of one and of two segments."""
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
    options = dict(segment=32, rng=random.Random(0), strangers=0.0)
    some = [Episode(p.title, p.text[: 200 if i % 2 else 30], p.questions) for i, p in enumerate(DOCUMENTS)]
    return make_batch(some, encode, fmt, Shape(3, 6, 2, 48), beside=0.5, **options)


def logits(model, rows: torch.Tensor) -> torch.Tensor:
    return model(input_ids=rows, use_cache=False).logits


def test_the_model_is_changed_only_inside_and_only_by_an_open_gate(tiny, native, batch) -> None:
    rows = batch.questions[:6]
    plain = logits(tiny.model, rows)
    with torch.no_grad():
        losses, memories = native.learn(tiny.model, batch.inputs, batch.targets)
        assert len(losses) == 1 and all(len(m) == 6 for m in memories.values())
        two = {k: m[:2] for k, m in memories.items()}
        with native.fast_weights_attached(tiny.model, two, [2, 2]):
            changed = logits(tiny.model, rows)
        assert (changed[:4] - plain[:4]).abs().max() > 1e-3
        torch.testing.assert_close(changed[4:], plain[4:])
        with native.fast_weights_attached(tiny.model, two, [1, 3]):  # rows two and three belong to the second now
            other = logits(tiny.model, rows)
        torch.testing.assert_close(other[[0, 2, 3]], changed[[0, 2, 3]], rtol=1e-4, atol=1e-4)
        assert (other[1] - changed[1]).abs().max() > 1e-4
        with native.fast_weights_attached(tiny.model, {}, [2, 2]):
            assert torch.equal(logits(tiny.model, rows), plain)
        native.gate.zero_()
        with native.fast_weights_attached(tiny.model, two, [2, 2]):
            torch.testing.assert_close(logits(tiny.model, rows), plain)
    assert torch.equal(logits(tiny.model, rows), plain)


def test_a_document_knows_nothing_of_its_neighbours_and_of_empty_segments(tiny, native, batch) -> None:
    _, memories = native.learn(tiny.model, batch.inputs, batch.targets)
    _, alone = native.learn(tiny.model, batch.inputs[:1, :1], batch.targets[:1, :1])
    assert (batch.targets[0, 1:] == IGNORE).all() and (batch.targets[1, 1:] != IGNORE).any()
    other = batch.inputs.clone()
    other[1] = other[1].flip(-1)
    _, beside = native.learn(tiny.model, other, batch.targets)
    for name, m in memories.items():
        torch.testing.assert_close(m[:1], alone[name], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(beside[name][0], m[0])
        assert not torch.allclose(beside[name][1], m[1])


def test_what_does_not_count_is_not_written(tiny, native, batch) -> None:
    """Nothing counts: the memory is the slow one. Tokens behind the end: no difference."""
    x = torch.randn(2, batch.inputs[0].numel() // 32, 32, WIDTH)
    none = native.write(x, torch.full_like(batch.targets[:1], IGNORE))
    for m, first in zip(none.values(), native.first, strict=True):
        torch.testing.assert_close(m[0], first[:, 0], rtol=1e-3, atol=1e-4)
    targets = batch.targets[1:2].clone()
    targets[:, :, 20:] = IGNORE
    changed = x.clone()
    changed[:, :, 21:] += 1
    for a, b in zip(native.write(x, targets).values(), native.write(changed, targets).values(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_answer_loss_reaches_every_slow_weight(tiny, native, batch) -> None:
    found = step_losses(HookStep(tiny.model, native), ready(batch), CONFIG)
    assert {"answer", "before", "beside"} < set(found)
    found["answer"].backward()
    for name, p in native.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name
        assert p.grad.abs().max() > 0, name


def test_the_outer_loop_trains_it_and_lowers_the_answer_loss(tiny, native, batch) -> None:
    start = float(step_losses(HookStep(tiny.model, native), ready(batch), CONFIG)["answer"].detach())
    before = {name: p.detach().clone() for name, p in native.named_parameters()}
    reports: list[dict] = []
    config = replace(
        CONFIG, weigh_lr=1e-2, max_steps=20
    )  # the memory alone: less is gained than where the model trains along
    run_outer(tiny.model, tiny.tokenizer, native, MATERIAL, config, report=reports.append)
    end = float(step_losses(HookStep(tiny.model, native), ready(batch), CONFIG)["answer"].detach())
    assert end < start - 0.5 and len(reports[-1]["rates"]) == 2
    assert not any(torch.equal(p, before[name]) for name, p in native.named_parameters())


@pytest.mark.parametrize("rule", RULES)
def test_only_the_memory_can_answer_and_it_does(rule: str) -> None:
    """Fresh pairs of tokens each step. Right: by the document's own memory; wrong: by its neighbour's."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**PAIRS))
    native = Native(NativeConfig(rule, layers=1, heads=2, segment=16, chunk=16), model)
    optimiser = torch.optim.AdamW([*model.parameters(), *native.parameters()], 2e-3)
    for _ in range(40):
        keys = torch.stack([torch.randperm(20)[:8] for _ in range(16)]) + 4
        values = torch.randint(30, 46, keys.shape)
        inputs = torch.stack([keys, values], -1).flatten(1)[:, None]
        targets = torch.nn.functional.pad(inputs[..., 1:], (0, 1), value=IGNORE)
        _, own = native.learn(model, inputs, targets, differentiable=True)
        answers = []
        for memories in (own, {name: m.roll(1, 0) for name, m in own.items()}):
            with native.fast_weights_attached(model, memories, [8] * 16):
                answers.append(logits(model, keys.view(-1, 1))[:, -1])
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(answers[0], values.flatten()).backward()
        optimiser.step()
    right, wrong = ((a.argmax(-1) == values.flatten()).float().mean() for a in answers)
    assert right > 0.9 and wrong < 0.3


def test_a_value_is_its_own_token_s_or_the_next_one_s(tiny, batch) -> None:
    """One pair (i, i + 1) counts: with `ahead` both tokens are in the memory, without it the second alone is."""
    targets = torch.full_like(batch.targets[:1], IGNORE)
    targets[0, 0, 4] = 7
    for ahead in (True, False):
        native = Native(NativeConfig(layers=2, heads=3, segment=32, ahead=ahead), tiny.model)
        x = torch.randn(2, targets[0].numel() // 32, 32, WIDTH)
        matters = []
        for at in range(3, 7):
            changed = x.clone()
            changed[:, 0, at] += torch.randn(WIDTH)
            pairs = zip(native.write(x, targets).values(), native.write(changed, targets).values(), strict=True)
            matters.append(not all(torch.allclose(a, b) for a, b in pairs))
        assert matters == [False, ahead, True, False]


def test_a_segment_is_whole_mini_batches(tiny) -> None:
    with pytest.raises(ValueError, match="whole"):
        Native(NativeConfig("ttt-mlp", chunk=24), tiny.model)
