"""The inner loop: gradients, memory, the rules, attaching and detaching."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.learning.fast_weights import (
    IGNORE,
    FastWeightsConfig,
    Prepared,
    attached,
    direction,
    inner_steps,
    load_prepared,
    orthogonalise,
    save_prepared,
    second_order,
    segments,
    target_modules,
    token_losses,
)

WIDTH = 64


@pytest.fixture
def model(tiny):
    return tiny.model


@pytest.fixture
def texts() -> tuple[torch.Tensor, torch.Tensor]:
    """Two documents of three segments of 12 tokens; the second document's last segment is empty."""
    inputs = torch.randint(6, 16384, (2, 3, 12), generator=torch.Generator().manual_seed(1))
    targets = torch.cat([inputs[:, :, 1:], torch.full((2, 3, 1), IGNORE)], 2)
    targets[1, 2] = IGNORE
    return inputs, targets


def prepared(**options) -> Prepared:
    torch.manual_seed(2)
    made = Prepared(FastWeightsConfig(**{"layers": 2, "rate": 3e-3, **options}), WIDTH)
    if made.weigh is not None:
        torch.nn.init.normal_(made.weigh[2].weight, 0, 0.3)  # tokens weigh differently, as after training
    return made


def run(model, texts, with_, **options) -> tuple[list[float], dict[str, torch.Tensor]]:
    pairs = list(inner_steps(model, *texts, with_, **options))
    return [float(torch.as_tensor(loss).detach()) for loss, _ in pairs], pairs[-1][1]


def loss_with(model, texts, deltas) -> torch.Tensor:
    """Summed over documents: the mean loss of each."""
    inputs, targets = texts
    with torch.no_grad(), attached(target_modules(model, 2), deltas, [inputs.shape[1]] * len(inputs)):
        hidden = model.model(input_ids=inputs.flatten(0, 1)).last_hidden_state
    each = token_losses(model, hidden, targets.flatten(0, 1)).double().view(len(inputs), -1).sum(1)
    return (each / (targets != IGNORE).flatten(1).sum(1)).sum()


def logits(model) -> torch.Tensor:
    return model(input_ids=torch.arange(10, 50).view(4, 10)).logits


def test_the_gradient_is_that_of_finite_differences(model, texts) -> None:
    _, deltas = run(model, texts, prepared(steps=1, rule="sgd", rate=1.0, token_weights=False))
    for name, step in deltas.items():  # rule sgd, rate 1: the delta is minus the gradient
        way = step / step.norm()
        at = [loss_with(model, texts, {name: s * way}) for s in (0.05, -0.05)]
        assert float(at[0] - at[1]) / 0.1 == pytest.approx(-float(step.norm()), rel=0.01)


@pytest.mark.parametrize("rule", ["rms", "muon", "sgd"])
def test_the_differentiable_path_gives_the_same_deltas(model, texts, rule: str) -> None:
    with_ = prepared(rule=rule)
    losses, plain = run(model, texts, with_)
    with second_order():
        same, graph = run(model, texts, with_, differentiable=True)
    assert same == pytest.approx(losses, rel=1e-5)
    for name, delta in plain.items():
        assert torch.allclose(graph[name], delta, rtol=1e-3, atol=1e-5)
        assert graph[name].requires_grad and not delta.requires_grad


def test_the_gradient_through_the_inner_loop_is_that_of_finite_differences(model, texts) -> None:
    with_ = prepared(rule="rms")

    def outer() -> torch.Tensor:
        with second_order():
            *_, (_, deltas) = inner_steps(model, *texts, with_, differentiable=True)
        return sum(delta.tril().square().sum() for delta in deltas.values())

    outer().backward()
    found = float(with_.log_rates.grad[0, 1])
    with_.log_rates.data[0, 1] += 0.05
    more = float(outer().detach())
    with_.log_rates.data[0, 1] -= 0.1
    less = float(outer().detach())
    assert found == pytest.approx((more - less) / 0.1, rel=0.05)
    assert float(with_.weigh[2].weight.grad.norm()) > 0


def test_small_parts_give_the_same_deltas(model, texts) -> None:
    one = tuple(t[:1] for t in texts)
    losses, whole = run(model, one, prepared(), measure=True)
    same, parts = run(model, one, prepared(), measure=True, micro_rows=2)
    assert same == pytest.approx(losses, rel=1e-5)
    assert all(torch.allclose(parts[n], d, rtol=1e-3, atol=1e-6) for n, d in whole.items())


def test_it_learns_where_the_caller_has_switched_gradients_off(model, texts) -> None:
    _, deltas = run(model, texts, prepared())
    with torch.no_grad():
        _, same = run(model, texts, prepared())
    assert all(torch.equal(same[n], d) for n, d in deltas.items())


def test_small_parts_need_one_document_at_a_time(model, texts) -> None:
    with pytest.raises(ValueError, match="one document"):
        run(model, texts, prepared(), micro_rows=2)


def test_documents_in_one_batch_learn_as_each_alone(model, texts) -> None:
    _, both = run(model, texts, prepared())
    for n in range(2):
        _, alone = run(model, tuple(t[n : n + 1] for t in texts), prepared())
        assert all(torch.allclose(both[name][n], d[0], rtol=1e-3, atol=1e-5) for name, d in alone.items())


@pytest.mark.parametrize("rule", ["rms", "muon"])
def test_learning_lowers_the_loss_on_the_text(model, texts, rule: str) -> None:
    losses, _ = run(model, texts, prepared(steps=3, rule=rule), measure=True)
    assert len(losses) == 4 and losses == sorted(losses, reverse=True)
    assert losses[0] - losses[-1] > 0.01


def test_rate_zero_leaves_the_model_exactly_itself(model, texts) -> None:
    with_ = prepared()
    torch.nn.init.constant_(with_.log_rates, -math.inf)
    _, deltas = run(model, texts, with_)
    before = logits(model)
    assert not any(d.any() for d in deltas.values())
    with attached(target_modules(model, 2), deltas, [2, 2]):
        assert torch.equal(logits(model), before)


def random_deltas(model, documents: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    return {n: torch.randn(documents, *m.weight.shape, generator=g) for n, m in target_modules(model, 2).items()}


def test_detached_the_logits_are_bit_identical_also_after_an_exception(model) -> None:
    before, deltas = logits(model), random_deltas(model, 2)
    with pytest.raises(KeyError), attached(target_modules(model, 2), deltas, [2, 2]):
        assert not torch.equal(logits(model), before)
        raise KeyError
    assert torch.equal(logits(model), before)
    assert not any(m._forward_hooks for m in model.modules())


def test_an_exception_in_the_inner_loop_leaves_the_model_whole(model, texts) -> None:
    before = logits(model)
    with pytest.raises(IndexError):
        run(model, (texts[0], texts[1] + 20_000), prepared())
    assert torch.equal(logits(model), before)
    assert len(model.model.layers) == model.config.num_hidden_layers == 3


@pytest.mark.parametrize("rows", [[2, 2], [1, 3], [1, 2], [1, 1]])
def test_each_row_answers_with_its_own_documents_delta_and_rows_beyond_as_the_base(model, rows: list[int]) -> None:
    base, deltas, modules = logits(model), random_deltas(model, 2), target_modules(model, 2)
    with attached(modules, deltas, rows):
        found = logits(model)
    at = 0
    for n, count in enumerate(rows):
        with attached(modules, {k: d[n : n + 1] for k, d in deltas.items()}, [4]):
            alone = logits(model)
        assert torch.allclose(found[at : at + count], alone[at : at + count], rtol=1e-3, atol=1e-3)
        assert not torch.allclose(found[at : at + count], base[at : at + count], atol=0.1)
        at += count
    assert torch.equal(found[at:], base[at:])


@given(st.lists(st.integers(6, 99), max_size=60), st.lists(st.integers(100, 120), max_size=12), st.integers(4, 16))
def test_segments_lose_nothing(ids: list[int], heading: list[int], length: int) -> None:
    inputs, targets = segments(ids, heading, length, pad=1)
    assert all(len(row) == length for row in [*inputs, *targets])
    assert [t for row in inputs for t in row if 6 <= t < 100] == ids
    for row, goal in zip(inputs, targets, strict=True):
        assert all(g in (IGNORE, following) for g, following in zip(goal, [*row[1:], None], strict=True))
    if heading:  # with a heading before it, every token is predicted
        assert [t for row in targets for t in row if t != IGNORE] == ids


def test_newton_schulz_gives_singular_values_near_one() -> None:
    g = torch.randn(3, 64, 128, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(g))
    assert float(values.min()) > 0.8 and float(values.max()) < 1.2
    assert not orthogonalise(torch.zeros(1, 8, 16)).any()


def test_rms_has_unit_root_mean_square_whatever_the_gradients_size() -> None:
    g = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-4, 1e3])[:, None, None]
    assert direction(g, "rms").square().mean((1, 2)).tolist() == pytest.approx([1, 1], rel=1e-3)
    assert not direction(torch.zeros(1, 8, 16), "rms").any()
    assert torch.equal(direction(g, "sgd"), g)


def test_token_weights_are_one_before_training() -> None:
    hidden = torch.randn(2, 5, WIDTH)
    for on in (True, False):
        fresh = Prepared(FastWeightsConfig(token_weights=on), WIDTH)
        assert torch.allclose(fresh.token_weights(hidden), torch.ones(2, 5))


def test_what_was_prepared_is_loaded_as_it_was_saved(tmp_path) -> None:
    made = prepared(rule="muon", steps=3)
    save_prepared(made, tmp_path)
    loaded = load_prepared(tmp_path, WIDTH)
    assert loaded.config == made.config
    assert all(torch.equal(v, made.state_dict()[k]) for k, v in loaded.state_dict().items())
    assert not any(p.requires_grad for p in loaded.parameters())
