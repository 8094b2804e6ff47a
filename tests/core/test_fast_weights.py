"""The inner loop: gradients, memory, the rules, attaching and detaching."""

from __future__ import annotations

import json
import math
from dataclasses import replace

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
from core.learning.packing import as_stored, unpack
from core.prepare.compiled import OuterStep
from tests.core.conftest import STORY, WIDTH, chunks_of
from tests.core.test_fast_learner import finish

FORMS = {
    "momentum": {"momentum": 0.9},
    "rank": {"rank": 8},
    "chunks": {"order": "chunks"},
    "shared rate": {"shared_rate": True},
    "all": {"momentum": 0.9, "rank": 8, "order": "chunks", "shared_rate": True, "rule": "muon"},
}


@pytest.fixture
def model(tiny):
    return tiny.model


@pytest.fixture
def texts() -> tuple[torch.Tensor, torch.Tensor]:
    """Two documents of three segments of 12 tokens; the second document's last segment is empty."""
    inputs = torch.randint(6, 800, (2, 3, 12), generator=torch.Generator().manual_seed(1))
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


def test_the_uppermost_layers_can_go_without_a_delta(model, texts) -> None:
    losses, deltas = run(model, texts, prepared(layers=1, skip=1), measure=True)
    below = len(model.model.layers) - 2
    assert list(deltas) == [f"model.layers.{below}.mlp.down_proj"]
    assert losses[-1] < losses[0]


def test_the_gradient_is_that_of_finite_differences(model, texts) -> None:
    _, deltas = run(model, texts, prepared(steps=1, rule="sgd", rate=1.0, token_weights=False))
    for name, step in deltas.items():  # rule sgd, rate 1: the delta is minus the gradient
        way = step / step.norm()
        at = [loss_with(model, texts, {name: s * way}) for s in (0.05, -0.05)]
        assert float(at[0] - at[1]) / 0.1 == pytest.approx(-float(step.norm()), rel=0.01)


@pytest.mark.parametrize("form", [{"rule": "rms"}, {"rule": "muon"}, {"rule": "sgd"}, *FORMS.values()], ids=str)
def test_the_differentiable_path_gives_the_same_deltas(model, texts, form: dict) -> None:
    with_ = prepared(**form)
    losses, plain = run(model, texts, with_)
    with second_order():
        same, graph = run(model, texts, with_, differentiable=True)
    assert same == pytest.approx(losses, rel=1e-5)
    for name, delta in plain.items():
        assert torch.allclose(graph[name], delta, rtol=2e-3, atol=2e-5)
        assert graph[name].requires_grad and not delta.requires_grad


@pytest.mark.parametrize("form", [{"rule": "rms"}, *FORMS.values()], ids=str)
def test_the_gradient_through_the_inner_loop_is_that_of_finite_differences(model, texts, form: dict) -> None:
    with_ = prepared(**form)

    def outer() -> torch.Tensor:
        with second_order():
            *_, (_, deltas) = inner_steps(model, *texts, with_, differentiable=True)
        return sum(delta.tril().square().sum() for delta in deltas.values())

    outer().backward()
    for learned in (with_.log_rates, *with_.basis[:1]):
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


@pytest.mark.parametrize("rule", ["rms", "muon"])
def test_learning_lowers_the_loss_on_the_text(model, texts, rule: str) -> None:
    losses, _ = run(model, texts, prepared(steps=3, rule=rule), measure=True)
    assert len(losses) == 4 and losses == sorted(losses, reverse=True)
    assert losses[0] - losses[-1] > 0.01


def test_momentum_goes_along_the_running_sum_and_zero_is_the_plain_step(model, texts) -> None:
    steps = {"rule": "sgd", "rate": 1.0}
    (_, one), (_, two) = inner_steps(model, *texts, prepared(**steps))
    (_, same), (_, more) = inner_steps(model, *texts, prepared(**steps, momentum=0.9))
    plain, zero = (run(model, texts, prepared(**options))[1] for options in ({}, {"momentum": 0.0}))
    for n, first in one.items():
        assert torch.equal(plain[n], zero[n]) and torch.equal(same[n], first)
        assert torch.allclose(more[n], two[n] + 0.9 * first, rtol=1e-4, atol=1e-6)


def test_a_delta_has_the_rank_and_the_basis_it_was_given(model, texts) -> None:
    with_ = prepared(rank=8)
    for basis, delta in zip(with_.basis, run(model, texts, with_)[1].values(), strict=True):
        basis = basis.detach()
        assert torch.allclose(basis.T @ basis, torch.eye(8), atol=1e-5)
        assert torch.linalg.matrix_rank(delta, rtol=1e-4).tolist() == [8, 8]
        assert torch.allclose(basis @ basis.T @ delta, delta, atol=1e-5)


def test_with_a_square_basis_a_plain_step_is_that_of_the_full_rank(model, texts) -> None:
    options = {"steps": 1, "rule": "sgd", "rate": 1.0, "token_weights": False}
    _, full = run(model, texts, prepared(**options))
    _, turned = run(model, texts, prepared(**options, rank=WIDTH))
    assert all((turned[n] - d).norm() < 1e-4 * d.norm() for n, d in full.items())


def test_a_later_chunk_is_learned_with_what_the_earlier_ones_left(model, texts) -> None:
    options = {"steps": 1, "rule": "sgd", "rate": 1.0, "token_weights": False}
    losses, found = run(model, texts, prepared(**options, order="chunks"))
    modules, counted = target_modules(model, 2), (texts[1] != IGNORE).flatten(1).sum(1)
    deltas = {n: torch.zeros(2, *m.weight.shape, requires_grad=True) for n, m in modules.items()}
    total = 0.0
    for ids, goal in zip(texts[0].unbind(1), texts[1].unbind(1), strict=True):
        with attached(modules, deltas, [1, 1]):
            each = token_losses(model, model.model(input_ids=ids).last_hidden_state, goal)
        total += float(each.detach().sum())
        grads = torch.autograd.grad((each.sum(1) / counted).sum(), list(deltas.values()))
        moved = zip(deltas.items(), grads, strict=True)
        deltas = {n: (d - g).detach().requires_grad_() for (n, d), g in moved}
    assert losses == pytest.approx([total / int(counted.sum())], rel=1e-5)
    assert all(torch.allclose(found[n], d, rtol=1e-3, atol=1e-5) for n, d in deltas.items())
    _, at_once = run(model, texts, prepared(**options))
    assert all((at_once[n] - d).norm() > 1e-4 * d.norm() for n, d in found.items())


def test_one_chunk_is_the_whole_document(model, texts) -> None:
    one = tuple(t[:, :1] for t in texts)
    losses, whole = run(model, one, prepared(), measure=True)
    same, chunks = run(model, one, prepared(order="chunks"), measure=True)
    assert same == losses and all(torch.equal(chunks[n], d) for n, d in whole.items())


def test_a_shared_rate_is_one_number_that_begins_as_the_others(model, texts) -> None:
    with_ = prepared(shared_rate=True)
    assert with_.log_rates.numel() == 1 and torch.equal(with_.rates(), prepared().rates())
    _, deltas = run(model, texts, with_)
    assert all(torch.equal(deltas[n], d) for n, d in run(model, texts, prepared())[1].items())


@pytest.mark.parametrize("form", FORMS.values(), ids=str)
def test_the_compiled_outer_step_leaves_other_forms_to_the_plain_one(model, form: dict) -> None:
    assert OuterStep.can(model, prepared()) and not OuterStep.can(model, prepared(**form))


@pytest.mark.parametrize("form", FORMS.values(), ids=str)
def test_the_product_learns_in_every_form(learner, form: dict) -> None:
    learner.prepared = prepared(**form, segment=32).requires_grad_(False)
    learner.modules = target_modules(learner.base.model, 2)
    learner.config = replace(learner.config, batch_tokens=64)  # in parts
    chunks = chunks_of(learner.base.tokenizer, STORY * 2)
    steps, learned = finish(learner.learn(chunks, title="Vessin"))
    assert steps[-1].done == steps[-1].total
    batch = learner._tensors(chunks[:1], learner.fmt.heading("Vessin"))
    with second_order():
        _, deltas = run(learner.base.model, batch, learner.prepared, differentiable=True)
    kept = unpack({n.removeprefix("0/"): t for n, t in learned.tensors.items() if n.startswith("0/")}, learner.f)
    for n, stored in as_stored(deltas).items():
        assert (kept[n] - stored[0]).norm() < 0.05 * stored.norm()
    assert learner.at(2.0).prepared.rates() == pytest.approx(2 * learner.prepared.rates())


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


def test_what_was_prepared_before_a_field_existed_has_its_default(tmp_path) -> None:
    save_prepared(prepared(), tmp_path)
    known = json.loads((tmp_path / "prepared.json").read_text())
    old = {k: v for k, v in known.items() if k not in ("momentum", "rank", "order", "shared_rate")}
    (tmp_path / "prepared.json").write_text(json.dumps(old))
    assert load_prepared(tmp_path, WIDTH).config == prepared().config


def test_what_was_prepared_is_loaded_as_it_was_saved(tmp_path) -> None:
    made = prepared(rule="muon", steps=3, rank=4)
    save_prepared(made, tmp_path)
    loaded = load_prepared(tmp_path, WIDTH)
    assert loaded.config == made.config
    assert all(torch.equal(v, made.state_dict()[k]) for k, v in loaded.state_dict().items())
    assert not any(p.requires_grad for p in loaded.parameters())
