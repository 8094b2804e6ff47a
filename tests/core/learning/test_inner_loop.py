"""The inner loop: gradients, memory, attaching and detaching."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.learning.hooks import attached, down_projections
from core.learning.muon import Factors, muon, orthogonalise, orthogonalise_factors
from core.learning.preparation import FastWeightsConfig
from core.learning.segments import IGNORE, segments
from core.learning.text_gradient import second_order, states_below, text_gradient
from tests.core.learning.toy import FORMS, UPPER, loss_with, prepared, run


def logits(model) -> torch.Tensor:
    return model(input_ids=torch.arange(10, 50).view(4, 10)).logits


def test_the_uppermost_layers_can_go_without_a_delta(model, texts) -> None:
    losses, deltas = run(model, texts, prepared(layers=1, skip=1), measure=True)
    below = len(model.model.layers) - 2
    assert list(deltas) == [f"model.layers.{below}.mlp.down_proj"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("config", "blocks"),
    [({}, [0, 1, 2]), ({"layers": 1, "skip": 1}, [1]), ({"layers": 2, "stride": 2}, [0, 2]),
     ({"layers": 5, "skip": 1, "stride": 2}, [1]), ({"layers": 5, "stride": 2}, [0, 2])],
    ids=str,
)  # fmt: skip
def test_blocks_are_counted_from_above_and_a_small_model_has_fewer(model, config: dict, blocks: list[int]) -> None:
    assert list(FastWeightsConfig(**config).blocks_of(model)) == blocks


def test_the_gradient_is_that_of_finite_differences(model, texts) -> None:
    inputs, targets = texts
    text = states_below(model, inputs, targets, UPPER, None, False)
    counts = (targets != IGNORE).flatten(1).sum(1)
    zero = {n: torch.zeros(2, *m.weight.shape) for n, m in down_projections(model, UPPER).items()}
    ones = lambda hidden: hidden.new_ones(hidden.shape[:-1])  # noqa: E731
    _, gradients = text_gradient(model, text, counts, UPPER, zero, ones, False)
    for name, factors in gradients.items():
        gradient = factors.matrix()
        way = gradient / gradient.norm()
        above, below = (float(loss_with(model, texts, {name: s * way})) for s in (0.05, -0.05))
        assert (above - below) / 0.1 == pytest.approx(float(gradient.norm()), rel=0.01)


def test_a_step_goes_along_the_orthogonalised_gradient_at_its_own_rate(model, texts) -> None:
    inputs, targets = texts
    slow = prepared(steps=1)
    torch.nn.init.uniform_(slow.log_rates, -6, -5)
    _, fast = run(model, texts, slow)
    text = states_below(model, inputs, targets, UPPER, None, False)
    counts = (targets != IGNORE).flatten(1).sum(1)
    zero = {n: torch.zeros_like(w) for n, w in fast.items()}
    _, gradients = text_gradient(model, text, counts, UPPER, zero, slow.token_weights, False)
    for eta, name in zip(slow.rates()[0].tolist(), fast, strict=True):
        assert torch.allclose(fast[name], -eta * muon(gradients[name]), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("form", [{}, {"rule": "rms"}, {"rule": "sgd"}, *FORMS.values()], ids=str)
def test_the_differentiable_path_gives_the_same_deltas(model, texts, form: dict) -> None:
    with_ = prepared(**form)
    losses, plain = run(model, texts, with_)
    with second_order():
        same, graph = run(model, texts, with_, differentiable=True)
    assert same == pytest.approx(losses, rel=1e-5)
    for name, delta in plain.items():
        assert torch.allclose(graph[name], delta, rtol=2e-3, atol=2e-5)
        assert graph[name].requires_grad and not delta.requires_grad


@pytest.mark.parametrize("form", [{}, {"rule": "rms"}, *FORMS.values()], ids=str)
def test_the_gradient_through_the_inner_loop_is_that_of_finite_differences(model, texts, form: dict) -> None:
    with_ = prepared(**form)

    def outer() -> torch.Tensor:
        with second_order():
            *_, (_, deltas) = with_.inner_loop(model, *texts, differentiable=True)
        return sum(delta.tril().square().sum() for delta in deltas.values())

    outer().backward()
    for learned in (with_.log_rates, *list(getattr(with_, "basis", []))[:1]):
        way = learned.grad / learned.grad.norm()
        at = []
        for s in (0.02, -0.04):
            learned.data += s * way
            at.append(float(outer().detach()))
        learned.data += 0.02 * way
        assert float(learned.grad.norm()) == pytest.approx((at[0] - at[1]) / 0.04, rel=0.05)
    assert float(with_.weigh[2].weight.grad.norm()) > 0


@pytest.mark.parametrize("form", [{}, *FORMS.values()], ids=str)
def test_small_parts_give_the_same_deltas(model, texts, form: dict) -> None:
    one = tuple(t[:1] for t in texts)
    losses, whole = run(model, one, prepared(**form), measure=True)
    same, parts = run(model, one, prepared(**form), measure=True, micro_rows=2)
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


@pytest.mark.parametrize("form", [{}, *FORMS.values(), {"momentum": 0.9, "order": "chunks"}], ids=str)
def test_documents_in_one_batch_learn_as_each_alone(model, texts, form: dict) -> None:
    _, both = run(model, texts, prepared(**form))
    for n in range(2):
        _, alone = run(model, tuple(t[n : n + 1] for t in texts), prepared(**form))
        assert all(torch.allclose(both[name][n], d[0], rtol=1e-3, atol=1e-5) for name, d in alone.items())


@pytest.mark.parametrize("form", [{}, {"rule": "rms"}], ids=str)
def test_learning_lowers_the_loss_on_the_text(model, texts, form: dict) -> None:
    losses, _ = run(model, texts, prepared(steps=3, **form), measure=True)
    assert len(losses) == 4 and losses == sorted(losses, reverse=True)
    assert losses[0] - losses[-1] > 0.01


def test_rate_zero_leaves_the_model_exactly_itself(model, texts) -> None:
    with_ = prepared()
    torch.nn.init.constant_(with_.log_rates, -math.inf)
    _, deltas = run(model, texts, with_)
    before = logits(model)
    assert not any(d.any() for d in deltas.values())
    with attached(down_projections(model, UPPER), deltas, [2, 2]):
        assert torch.equal(logits(model), before)


def random_deltas(model, documents: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    return {n: torch.randn(documents, *m.weight.shape, generator=g) for n, m in down_projections(model, UPPER).items()}


def test_detached_the_logits_are_bit_identical_also_after_an_exception(model) -> None:
    before, deltas = logits(model), random_deltas(model, 2)
    with pytest.raises(KeyError), attached(down_projections(model, UPPER), deltas, [2, 2]):
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
    base, deltas, modules = logits(model), random_deltas(model, 2), down_projections(model, UPPER)
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


@pytest.mark.parametrize("tokens", [1, 40, 64])
def test_a_gradient_in_factors_gives_the_same_step(tokens: int) -> None:
    draw = torch.Generator().manual_seed(0)
    sizes = 10 ** torch.linspace(-6, -3, tokens)[:, None]  # of tokens' gradients, some of them a thousandth of others
    factors = Factors(torch.randn(2, tokens, 64, generator=draw) * sizes, torch.randn(2, tokens, 128, generator=draw))
    whole = orthogonalise(factors.matrix().double())
    assert torch.allclose(orthogonalise_factors(factors).double(), whole, atol=2e-5)
    near = orthogonalise_factors(factors, torch.bfloat16).double()
    assert float((near - whole).norm() / whole.norm()) < 0.02
    assert torch.equal(muon(factors), orthogonalise_factors(factors) * 128**0.5)


def test_a_gradient_of_more_tokens_than_outputs_is_taken_whole() -> None:
    factors = Factors(torch.randn(1, 65, 64), torch.randn(1, 65, 128))
    assert torch.equal(muon(factors), muon(factors.matrix()))


def test_no_gradient_gives_no_step() -> None:
    assert not muon(Factors(torch.zeros(1, 8, 16), torch.ones(1, 8, 32))).any()
