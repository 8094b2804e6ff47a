"""Learning to learn, at toy size."""

from __future__ import annotations

import copy
import random
from functools import partial

import pytest
import torch

from core.embedded.corpus import Passage
from core.embedded.export import hf_model, save_folder
from core.embedded.questions import QA
from core.learning.compiled import OuterStep
from core.learning.episodes import Batch, Episode, EpisodeStream, Material, Reading, Shapes, make_batch
from core.learning.fast_weights import FastWeightsConfig, Prepared, load_prepared, save_prepared, second_order
from core.learning.measure import learned_figures
from core.learning.outer import OuterConfig, _gradients, main, merge_questions, one_of_each, run_outer, step_losses
from core.model import EMBEDDED

NAMES = ("Orla", "Tam", "Vess", "Quint", "Edda", "Brun")
DOCUMENTS = [
    Passage("Port", f"{n} is the master of harbour {i}. " * 3, [QA(f"Who is master {i}?", n)])
    for i, n in enumerate(NAMES)
]
CONFIG = OuterConfig(
    seconds=1e6, max_steps=12, tokens=160, per_document=2, width=24, strangers=0.0, slow_lr=3e-3, warmup_steps=1,
    first=64, longest=64, workers=0,
)  # fmt: skip
MATERIAL = Material(human=DOCUMENTS, shares={"human": 1.0})


@pytest.fixture
def prepared() -> Prepared:
    torch.manual_seed(0)
    return Prepared(FastWeightsConfig(layers=2, steps=2, segment=32), 64)


def batch_of(tokenizer, fmt) -> Batch:
    """The documents; the text of half of them beside their delta, and two rows to read."""
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
    options = dict(segment=32, limit=96, per_document=2, width=24, rng=random.Random(0), strangers=0.0)
    options |= {"beside": 0.5, "reading": Reading(rows=2, length=64).draw(MATERIAL, encode, random.Random(0))}
    return make_batch([Episode(p.title, p.text, p.questions) for p in DOCUMENTS], encode, fmt, **options)


def losses(model, tokenizer, fmt, prepared) -> dict[str, float]:
    """On a fixed batch."""
    with second_order():
        found = step_losses(model, prepared, batch_of(tokenizer, fmt), CONFIG)
    return {k: float(v.detach()) for k, v in found.items()}


def test_the_outer_loop_lowers_the_answer_loss_and_goes_on_from_what_it_saved(tiny, fmt, prepared, tmp_path) -> None:
    start = losses(tiny.model, tiny.tokenizer, fmt, prepared)
    rates = prepared.log_rates.detach().clone()
    reports: list[dict] = []
    figures = run_outer(tiny.model, tiny.tokenizer, prepared, MATERIAL, CONFIG, report=reports.append)
    end = losses(tiny.model, tiny.tokenizer, fmt, prepared)
    assert figures["step"] == 12 and [r["step"] for r in reports] == [2, 10]
    assert end["answer"] < start["answer"] - 1 and not torch.equal(prepared.log_rates, rates)

    save_prepared(prepared, tmp_path)
    save_folder({k: v.detach() for k, v in tiny.model.state_dict().items()}, EMBEDDED / "tokenizer.json", tmp_path)
    model, again = type(tiny.model).from_pretrained(tmp_path), load_prepared(tmp_path, 64).train().requires_grad_(True)
    assert losses(model, tiny.tokenizer, fmt, again)["answer"] == pytest.approx(end["answer"], rel=1e-4)
    run_outer(model, tiny.tokenizer, again, MATERIAL, CONFIG)
    assert losses(model, tiny.tokenizer, fmt, again)["answer"] < end["answer"]


def test_a_run_that_died_goes_on_with_the_same_weights(tiny, prepared) -> None:
    states: list[dict] = []
    config = OuterConfig(**{**vars(CONFIG), "max_steps": 4, "save_every": 2})
    keep = lambda state: states.append(copy.deepcopy(state))  # noqa: E731
    run_outer(tiny.model, tiny.tokenizer, prepared, MATERIAL, config, checkpoint=keep)
    after = tiny.model.model.norm.weight.detach().clone()
    with torch.no_grad():
        tiny.model.model.norm.weight.zero_()
    assert [s["step"] for s in states] == [2, 4]
    assert run_outer(tiny.model, tiny.tokenizer, prepared, MATERIAL, config, resume=states[1])["step"] == 4
    assert torch.equal(tiny.model.model.norm.weight, after)


def test_reading_with_and_without_the_delta_counts_towards_the_total(tiny, prepared) -> None:
    reports: list[dict] = []
    config = OuterConfig(**{**vars(CONFIG), "max_steps": 2, "reading_rows": 1, "beside": 0.5})
    run_outer(tiny.model, tiny.tokenizer, prepared, MATERIAL, config, report=reports.append)
    r = reports[0]
    parts = r["answer"] + 0.2 * r["before"] + config.reading * r["reading"] + config.beside_weight * r["beside"]
    assert r["total"] == pytest.approx(parts, rel=1e-4)


def test_a_batch_in_parts_has_the_gradient_of_the_whole(tiny, fmt, prepared) -> None:
    batch = batch_of(tiny.tokenizer, fmt)
    tiny.model.requires_grad_(True)

    def gradient(parts: int) -> tuple[dict, torch.Tensor]:
        tiny.model.zero_grad()
        return _gradients(
            partial(step_losses, tiny.model, prepared), batch, CONFIG, parts
        ), tiny.model.model.norm.weight.grad

    whole, three = gradient(1), gradient(3)
    assert three[0] == pytest.approx(whole[0], rel=1e-3)
    assert (three[1] - whole[1]).norm() < 0.02 * whole[1].norm()


def test_only_what_is_slow_is_trained(tiny, prepared) -> None:
    before = {k: v.clone() for k, v in tiny.model.state_dict().items()}
    config = OuterConfig(**{**vars(CONFIG), "max_steps": 2})
    run_outer(tiny.model, tiny.tokenizer, prepared, MATERIAL, config, slow=[tiny.model.model.norm.weight])
    changed = {k for k, v in tiny.model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"model.norm.weight"}


def test_figures_are_percent_and_a_single_document_has_no_stranger(tiny, prepared) -> None:
    episodes = [Episode(p.title, p.text, p.questions) for p in DOCUMENTS[:3]]
    f = learned_figures(tiny.model, tiny.tokenizer, prepared, episodes, batch=2)
    assert f["questions"] == 3 and all(
        0 <= f[f"{k}_{m}"] <= 100 for k in ("learned", "wrong", "base") for m in ("em", "f1")
    )


def test_questions_about_the_same_passage_are_merged() -> None:
    one, two = DOCUMENTS[0], DOCUMENTS[0]._replace(questions=[QA("Which harbour?", "0")])
    assert merge_questions([one, two, DOCUMENTS[1]]) == [
        one._replace(questions=[*one.questions, *two.questions]),
        DOCUMENTS[1],
    ]


def test_the_exported_model_is_the_trained_one(tiny_state, tiny) -> None:
    assert all(torch.equal(v, tiny_state[k]) for k, v in hf_model(tiny_state).state_dict().items() if k in tiny_state)


def test_a_run_pauses_and_leaves_what_to_go_on_with(tiny, prepared) -> None:
    states: list[dict] = []
    config = OuterConfig(**{**vars(CONFIG), "max_steps": 9, "pause": 0.0})
    figures = run_outer(tiny.model, tiny.tokenizer, prepared, MATERIAL, config, checkpoint=states.append)
    assert figures["paused"] and [s["step"] for s in states] == [0]


def test_muon_moves_the_slow_matrices_too(tiny, prepared) -> None:
    before = {k: v.clone() for k, v in tiny.model.state_dict().items()}
    config = OuterConfig(**{**vars(CONFIG), "slow_rule": "muon"})
    figures = run_outer(tiny.model, tiny.tokenizer, prepared, MATERIAL, config)
    assert figures["step"] == 12
    assert all(not torch.equal(v, before[k]) for k, v in tiny.model.state_dict().items())


@pytest.mark.parametrize("skip", [0, 1])
def test_the_quick_step_gives_the_losses_and_gradients_of_the_plain_one(tiny, fmt, skip) -> None:
    torch.manual_seed(0)
    prepared = Prepared(FastWeightsConfig(layers=2 - skip, skip=skip, steps=2, segment=32), 64)
    torch.nn.init.normal_(prepared.weigh[2].weight)
    batch = batch_of(tiny.tokenizer, fmt)
    tiny.model.requires_grad_(True)

    def gradients(losses_of) -> tuple[dict, dict]:
        tiny.model.zero_grad(), prepared.zero_grad()
        losses = losses_of(batch, CONFIG)
        losses["total"].backward()
        named = [*tiny.model.named_parameters(), *prepared.named_parameters()]
        return {k: float(v.detach()) for k, v in losses.items()}, {n: p.grad.clone() for n, p in named}

    plain, slow = gradients(partial(step_losses, tiny.model, prepared))
    quick, found = gradients(OuterStep(tiny.model, prepared, compiled=False).losses)
    assert quick == pytest.approx(plain, rel=1e-4)
    assert all((found[n] - g).norm() <= 2e-3 * g.norm() + 1e-7 for n, g in slow.items())


def test_one_batch_of_each_shape_is_found(tokenizer, fmt) -> None:
    shapes = Shapes.of("1x3x2,2x2x3,1x3x2", segment=64)
    stream = iter(EpisodeStream(Material(), tokenizer, fmt, shapes, segment=64, width=48, seed=0, strangers=0.0))
    found = [batch.inputs.shape[:2] for batch in one_of_each(lambda: next(stream), shapes)]
    assert found == [(3, 1), (2, 2)]


def test_the_command_goes_on_with_fewer_layers_than_it_starts_from(tiny, prepared, tmp_path, monkeypatch) -> None:
    tiny.model.save_pretrained(tmp_path / "model")
    tiny.tokenizer.save_pretrained(tmp_path / "model")
    save_prepared(prepared, tmp_path / "before")
    command = f"outer --model {tmp_path / 'model'} --start-prepared {tmp_path / 'before'} --out {tmp_path / 'after'}"
    options = "--layers 1 --skip 1 --max-steps 1 --tokens 300 --first 64 --longest 64 --workers 0 --no-measure"
    monkeypatch.setattr("sys.argv", f"{command} {options}".split())
    main()
    after = load_prepared(tmp_path / "after", 64)
    assert (after.config.layers, after.config.skip, after.config.segment) == (1, 1, 32)
    assert 0 < (after.log_rates - prepared.log_rates[:, :1]).abs().max() < 0.1  # one step from where it was
