"""Learning to learn, at toy size."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from functools import partial

import pytest
import torch

from core.learning.fast_weights import FastWeightsConfig, Prepared, load_prepared, save_prepared
from core.prepare.compiled import OuterStep
from core.prepare.episodes import Batch, Episode, Reading, Shape, make_batch, reading_rows
from core.prepare.material import Material, Passage
from core.prepare.measure import KINDS, learned_figures
from core.prepare.outer import OuterConfig, _gradients, run_outer, step_losses
from core.prepare.questions import QA

NAMES = ("Orla", "Tam", "Vess", "Quint", "Edda", "Brun")
DOCUMENTS = [
    Passage("people", "Port", f"{n} is the master of harbour {i}. " * 2, [QA(f"Who is master {i}?", n)])
    for i, n in enumerate(NAMES)
]
MATERIAL = Material({"people": DOCUMENTS})
CONFIG = OuterConfig(
    reading_seconds=1e6,
    seconds=1e6,
    max_steps=10,
    shapes="1x4x2x48",
    reading_rows=1,
    rows_alone=1,
    length=96,
    strangers=0.0,
    workers=0,
    every=5,
    warmup_steps=1,
    reader_lr=1e-2,
    learning_lr=1e-2,
)
INNER = FastWeightsConfig(layers=1, skip=1, steps=2, segment=48, rule="muon", reader=4)


@pytest.fixture
def prepared(tiny) -> Prepared:
    torch.manual_seed(0)
    return Prepared(INNER, tiny.model.config.hidden_size, tiny.model).train()


def batch_of(tokenizer, fmt) -> Batch:
    """The documents; the text of half of them beside their delta, and two rows to read."""
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
    reading = reading_rows(MATERIAL, encode, fmt, random.Random(0), Reading(rows=2, length=64))
    episodes = [Episode(p.title, p.text, p.questions) for p in DOCUMENTS]
    options = dict(segment=48, rng=random.Random(0), strangers=0.0, beside=0.5, reading=reading)
    return make_batch(episodes, encode, fmt, Shape(1, 6, 2, 48), **options)


def losses(tiny, fmt, prepared) -> dict[str, float]:
    """On a fixed batch."""
    terms = step_losses(tiny.model, prepared, batch_of(tiny.tokenizer, fmt), CONFIG)
    return {name: float(value.detach()) for name, value in terms.items()}


def test_training_lowers_the_answer_loss_and_leaves_the_base_model_as_it_was(tiny, fmt, prepared, tmp_path) -> None:
    weights = {k: v.clone() for k, v in tiny.model.state_dict().items()}
    start, reports = losses(tiny, fmt, prepared), []
    figures = run_outer(tiny.model, tiny.tokenizer, prepared, MATERIAL, CONFIG, report=reports.append)
    end = losses(tiny, fmt, prepared)
    assert figures["step"] == 10 and {r["stage"] for r in reports} == {"reading", "learning"}
    assert end["answer"] < start["answer"] - 0.3 and end["reading"] < start["reading"]
    assert all(torch.equal(v, weights[k]) for k, v in tiny.model.state_dict().items())
    save_prepared(prepared, tmp_path)
    again = load_prepared(tmp_path, tiny.model.config.hidden_size)
    assert losses(tiny, fmt, again)["answer"] == pytest.approx(end["answer"], rel=0.05)  # the reader is kept as int8


def test_a_run_that_died_goes_on_in_its_stage_with_the_same_weights(tiny, prepared) -> None:
    states: list[dict] = []
    config = replace(CONFIG, max_steps=4, save_every=2)
    keep = lambda state: states.append(copy.deepcopy(state))  # noqa: E731
    run_outer(tiny.model, tiny.tokenizer, prepared, MATERIAL, config, checkpoint=keep)
    assert [(s["stage"], s["step"]) for s in states] == [(n, k) for n in ("reading", "learning") for k in (2, 4)]
    after = {k: v.clone() for k, v in prepared.state_dict().items()}
    with torch.no_grad():
        prepared.log_rates.zero_()
    assert run_outer(tiny.model, tiny.tokenizer, prepared, MATERIAL, config, resume=states[-1])["step"] == 4
    assert all(torch.equal(v, after[k]) for k, v in prepared.state_dict().items())


def test_reading_with_and_without_the_delta_counts_towards_the_total(tiny, fmt, prepared) -> None:
    terms = losses(tiny, fmt, prepared)
    parts = terms["answer"] + CONFIG.language * terms["before"]
    parts += CONFIG.reading * terms["reading"] + CONFIG.beside_weight * terms["beside"]
    assert terms["total"] == pytest.approx(parts, rel=1e-4)


def test_a_batch_in_parts_has_the_gradient_of_the_whole(tiny, fmt, prepared) -> None:
    batch = batch_of(tiny.tokenizer, fmt)

    def gradient(parts: int) -> tuple[dict, torch.Tensor]:
        prepared.zero_grad()
        found = _gradients(partial(step_losses, tiny.model, prepared), batch, CONFIG, parts)
        return found, next(p for n, p in prepared.named_parameters() if n.endswith("down_proj/b")).grad.clone()

    whole, three = gradient(1), gradient(3)
    assert three[0] == pytest.approx(whole[0], rel=1e-3)
    assert (three[1] - whole[1]).norm() < 0.02 * whole[1].norm()


@pytest.mark.parametrize(
    "form", [{}, {"start": True}, {"layers": 7}, {"layers": 2, "skip": 0, "stride": 2}], ids=str
)  # the model has fewer than 7 layers
def test_the_compiled_step_gives_the_losses_and_gradients_of_the_plain_one(tiny, fmt, form) -> None:
    torch.manual_seed(0)
    prepared = Prepared(replace(INNER, **form), tiny.model.config.hidden_size, tiny.model)
    for name, p in prepared.named_parameters():
        if name.endswith("/b") or name.startswith(("weigh.2.weight", "start")):
            torch.nn.init.normal_(p, std=0.05)
    batch = batch_of(tiny.tokenizer, fmt)

    def gradients(losses_of) -> tuple[dict, dict]:
        prepared.zero_grad()
        terms = losses_of(batch, CONFIG)
        terms["total"].backward()
        return {k: float(v.detach()) for k, v in terms.items()}, {
            n: p.grad.clone() for n, p in prepared.named_parameters()
        }

    assert OuterStep.can(tiny.model, prepared)
    plain, expected = gradients(partial(step_losses, tiny.model, prepared))
    quick, actual = gradients(OuterStep(tiny.model, prepared, compiled=False).losses)
    assert quick == pytest.approx(plain, rel=1e-3)
    assert all((actual[n] - g).norm() <= 5e-3 * g.norm() + 1e-6 for n, g in expected.items())


def test_figures_are_percent_and_a_single_document_has_no_stranger(tiny, prepared) -> None:
    episodes = [Episode(p.title, p.text, p.questions) for p in DOCUMENTS[:3]]
    f = learned_figures(tiny.model, tiny.tokenizer, prepared, episodes, batch=2, most_tokens=4)
    assert f["questions"] == 3 and all(0 <= f[f"{k}_{m}"] <= 100 for k in KINDS for m in ("em", "f1"))
