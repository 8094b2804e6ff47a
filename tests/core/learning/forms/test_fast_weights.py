"""Other forms of the inner loop: each by its definition, and the shipped one among them to the bit."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from core.errors import SetupError
from core.learning.base import LearnConfig
from core.learning.fast_learner import FastWeightsLearner
from core.learning.forms.budget import BudgetedLearner
from core.learning.forms.fast_weights import FormConfig, FormLearner, PreparedForm, direction, load_form
from core.learning.hooks import attached, down_projections
from core.learning.learners import make_learner
from core.learning.packing import unpack
from core.learning.preparation import FastWeightsConfig, Prepared, load_prepared, save_prepared
from core.learning.segments import IGNORE
from core.learning.text_gradient import second_order, token_losses
from core.prepare.compiled import LlamaStep
from tests.core.conftest import STORY, WIDTH, chunks_of
from tests.core.learning.test_fast_learner import finish
from tests.core.learning.toy import FORMS, UPPER, prepared, run


def test_momentum_goes_along_the_running_sum_and_zero_is_the_plain_step(model, texts) -> None:
    steps = {"rule": "sgd", "rate": 1.0}
    (_, one), (_, two) = prepared(**steps).inner_loop(model, *texts)
    (_, same), (_, more) = prepared(**steps, momentum=0.9).inner_loop(model, *texts)
    plain, zero = (run(model, texts, prepared(**options))[1] for options in ({"rule": "rms"}, {"momentum": 0.0}))
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
    modules, counted = down_projections(model, UPPER), (texts[1] != IGNORE).flatten(1).sum(1)
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
    losses, whole = run(model, one, prepared(rule="rms"), measure=True)
    same, chunks = run(model, one, prepared(order="chunks"), measure=True)
    assert same == losses and all(torch.equal(chunks[n], d) for n, d in whole.items())


def test_a_shared_rate_is_one_number_that_begins_as_the_others(model, texts) -> None:
    with_ = prepared(shared_rate=True)
    assert with_.log_rates.numel() == 1 and torch.equal(with_.rates(), prepared().rates())
    _, deltas = run(model, texts, with_)
    plain = run(model, texts, prepared(rule="rms"))[1]
    assert all(torch.equal(deltas[n], w) for n, w in plain.items())


@pytest.mark.parametrize("form", FORMS.values(), ids=str)
def test_the_compiled_outer_step_leaves_other_forms_to_the_plain_one(model, form: dict) -> None:
    assert LlamaStep.can(model, prepared()) and not LlamaStep.can(model, prepared(**form))


@pytest.mark.parametrize("form", FORMS.values(), ids=str)
def test_the_product_learns_in_every_form(learner, form: dict) -> None:
    learner.prepared = prepared(**form, segment=32).requires_grad_(False)
    learner.modules = down_projections(learner.base.model, UPPER)
    learner.config = replace(learner.config, batch_tokens=64)  # in parts
    chunks = chunks_of(learner.base.tokenizer, STORY * 2)
    steps, learned = finish(learner.learn(chunks, title="Vessin"))
    assert steps[-1].done == steps[-1].total
    batch = learner.tensors(chunks[:1], learner.fmt.heading("Vessin"))
    with second_order():
        _, deltas = run(learner.base.model, batch, learner.prepared, differentiable=True)
    kept = unpack(learned.section(0), 128)
    for n, stored in learner.prepared.as_stored(deltas).items():
        assert (kept[n] - stored[0]).norm() < 0.05 * stored.norm()
    assert learner.with_rate(2.0).prepared.rates() == pytest.approx(2 * learner.prepared.rates())


def test_rms_has_unit_root_mean_square_whatever_the_gradients_size() -> None:
    g = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-4, 1e3])[:, None, None]
    assert direction(g, "rms").square().mean((1, 2)).tolist() == pytest.approx([1, 1], rel=1e-3)
    assert not direction(torch.zeros(1, 8, 16), "rms").any()
    assert torch.equal(direction(g, "sgd"), g)


def test_token_weights_are_one_before_training() -> None:
    hidden = torch.randn(2, 5, WIDTH)
    fresh = Prepared(FastWeightsConfig(), WIDTH), PreparedForm(FormConfig(token_weights=False), WIDTH)
    for slow in fresh:
        assert torch.allclose(slow.token_weights(hidden), torch.ones(2, 5))


def test_the_shipped_form_is_one_of_the_general_ones_to_the_bit(model, texts) -> None:
    shipped = prepared()
    general = PreparedForm(FormConfig(layers=2, rule="muon"), WIDTH)
    general.load_state_dict(shipped.state_dict())
    for options in ({"measure": True}, {"differentiable": True}):
        losses, fast = run(model, texts, shipped, **options)
        same, other = run(model, texts, general, **options)
        assert losses == same and all(torch.equal(other[n], w) for n, w in fast.items())


def test_what_was_prepared_before_a_field_existed_has_its_default(tmp_path) -> None:
    save_prepared(prepared(rule="rms"), tmp_path)
    known = json.loads((tmp_path / "prepared.json").read_text())
    old = {k: v for k, v in known.items() if k not in ("momentum", "rank", "order", "shared_rate")}
    (tmp_path / "prepared.json").write_text(json.dumps(old))
    assert load_form(tmp_path, WIDTH).config == prepared(rule="rms").config


@pytest.mark.parametrize("form", [{}, {"rule": "muon", "rank": 4}, {"start": True}], ids=str)
def test_what_was_prepared_is_loaded_as_it_was_saved(tiny, tmp_path, form: dict) -> None:
    made = (
        prepared(**form, steps=3)
        if "start" not in form
        else PreparedForm(FormConfig(layers=2, start=True), WIDTH, tiny.model)
    )
    save_prepared(made, tmp_path)
    loaded = load_form(tmp_path, WIDTH) if form else load_prepared(tmp_path, WIDTH)
    assert loaded.config == made.config
    assert loaded.state_dict().keys() == made.state_dict().keys()
    assert all(torch.equal(v, made.state_dict()[k]) for k, v in loaded.state_dict().items())
    assert not any(p.requires_grad for p in loaded.parameters())


def test_a_preparation_is_learned_with_by_its_own_form(tiny, fmt, tmp_path) -> None:
    def learner(budget: str = "") -> type:
        return type(make_learner("fast-weights", replace(tiny, folder=tmp_path), fmt, LearnConfig(budget=budget)))

    assert learner() is FormLearner  # nothing was prepared
    save_prepared(prepared(), tmp_path)
    assert learner() is FastWeightsLearner and learner("fixed:1") is BudgetedLearner
    save_prepared(prepared(momentum=0.9), tmp_path)
    assert learner() is FormLearner
    with pytest.raises(SetupError, match="another form"):
        load_prepared(tmp_path, WIDTH)


def test_a_learned_start_is_not_stored_with_what_was_learned(tiny, fmt, tmp_path) -> None:
    form = PreparedForm(FormConfig(layers=2, steps=2, start=True, segment=32), WIDTH, tiny.model)
    for start in form.start:
        torch.nn.init.normal_(start, std=0.1)
    save_prepared(form, tmp_path)
    learner = FormLearner(replace(tiny, folder=tmp_path), fmt, LearnConfig())
    _, learned = finish(learner.learn(chunks_of(tiny.tokenizer, STORY), title="Vessin"))
    fast = learner._unpacked([{}, learned.section(0)])
    for start, weights in zip(form.start, fast.values(), strict=True):
        assert torch.equal(weights[0], start) and 0 < (weights[1] - start).norm() < start.norm()
