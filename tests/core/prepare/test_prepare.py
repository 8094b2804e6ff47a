"""Preparing a base model that stays as it is, at toy size."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, MistralConfig, Phi3Config, Qwen2Config, Qwen3Config

import core.prepare.prepare as prepare_module
from core.engine import Engine, EngineConfig
from core.errors import Refused
from core.learning.preparation import FastWeightsConfig, load_prepared
from core.model import SEARCH
from core.ports import Ask
from core.prepare.material import Material, Passage, is_development
from core.prepare.outer import OuterConfig, Stopped
from core.prepare.prepare import PrepareConfig, prepare, read_material
from core.prepare.questions import QA
from core.prepare.search_head import SearchConfig
from core.search.head import Searcher
from tests.core.conftest import STORY, WIDTH, chunks_of

NAMES = ("Orla", "Tam", "Vess", "Quint", "Edda", "Brun")
PASSAGES = [
    Passage("people", "Port", f"{n} is the master of harbour {i}. " * 3, [QA(f"Who is master {i}?", n)])
    for i, n in enumerate(NAMES)
]
MATERIAL = Material({"people": PASSAGES})
OUTER = OuterConfig(
    reading_seconds=1e6, seconds=1e6, max_steps=2, shapes="1x2x2x48", reading_rows=1, rows_alone=1, length=64,
    workers=0, every=1, save_seconds=0,
)  # fmt: skip
CONFIG = PrepareConfig(
    outer=OUTER,
    inner=FastWeightsConfig(layers=1, skip=1, steps=2, segment=64, section=48, reader=2),
    search=SearchConfig(steps=3),
    held_out=2,
)
TINY = {
    "hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 16,
    "intermediate_size": 96, "tie_word_embeddings": True, "pad_token_id": 2, "max_position_embeddings": 512,
}  # fmt: skip
SHAPES = {
    "qwen2": Qwen2Config, "qwen3": Qwen3Config, "mistral": MistralConfig, "gemma3": Gemma3TextConfig, "phi3": Phi3Config
}  # fmt: skip


def test_the_base_model_stays_and_only_how_it_learns_is_trained(tiny, tmp_path) -> None:
    before = {k: v.clone() for k, v in tiny.model.state_dict().items()}
    reports: list[dict] = []
    result = prepare(tiny, MATERIAL, MATERIAL, tmp_path, CONFIG, reports.append)
    assert all(torch.equal(v, before[k]) for k, v in tiny.model.state_dict().items())
    assert result["steps"] == 2 and {r["stage"] for r in reports} == {"reading", "learning"}
    assert {"learned_em", "wrong_f1", "in_context_em", "questions"} <= set(result["held_out"]["people"])
    assert not (tmp_path / "unfinished").exists()
    assert "| people |" in (tmp_path / "PREPARATION.md").read_text()


def test_a_prepared_model_answers_with_its_reader_beside_the_base_model_as_it_was(tiny, tmp_path) -> None:
    plain = Engine(tiny, EngineConfig(max_answer_tokens=6)).answer([Ask("Where?")])[0]
    prepare(tiny, MATERIAL, Material(), tmp_path, CONFIG)
    engine = Engine(replace(tiny, folder=tmp_path), EngineConfig(max_answer_tokens=6, check=False, guard=False))
    assert engine.chunk_size == 48 and engine.reader.model is not tiny.model
    steps = engine.learn(chunks_of(tiny.tokenizer, STORY, 48), title="Vessin")
    try:
        while True:
            next(steps)
    except StopIteration as end:
        weights = end.value.section(0)
    learned, base = engine.answer([Ask("Where?", weights), Ask("Where?")])
    assert (base.text, base.confidence) == (plain.text, plain.confidence)
    assert learned.confidence != base.confidence


def test_a_preparation_that_went_on_is_the_best_average_with_its_start(tiny, tmp_path, monkeypatch) -> None:
    prepare(tiny, MATERIAL, Material(), tmp_path / "first", CONFIG)
    config = replace(CONFIG, start=tmp_path / "first")
    trained = prepare(tiny, MATERIAL, Material(), tmp_path / "trained", config)
    assert trained["shares"] == {}
    f1_of_call = iter((30.0, 45.0, 40.0, 35.0))
    measured = prepare_module.learned_figures

    def learned_figures(*args, **options) -> dict[str, float]:
        figures = measured(*args, **options)
        return figures | {"learned_f1": next(f1_of_call)} if options.get("kinds") == ("learned",) else figures

    monkeypatch.setattr(prepare_module, "learned_figures", learned_figures)
    averaged = prepare(tiny, MATERIAL, MATERIAL, tmp_path / "averaged", config)
    assert averaged["shares"] == {0.35: 30.0, 0.5: 45.0, 0.7: 40.0, 1.0: 35.0}
    start, end, result = (
        load_prepared(tmp_path / name, WIDTH).state_dict() for name in ("first", "trained", "averaged")
    )
    for name, weights in result.items():
        torch.testing.assert_close(weights, (start[name] + end[name]) / 2, atol=1e-3, rtol=1e-2)
    assert "50%: 45.0" in (tmp_path / "averaged" / "PREPARATION.md").read_text()


def test_weights_belong_to_the_preparation_that_they_were_learned_with(tiny, tmp_path) -> None:
    fingerprints = {Engine(tiny, EngineConfig()).fingerprint}
    for seed in (1, 2):
        config = replace(CONFIG, outer=replace(OUTER, seed=seed))
        prepare(tiny, MATERIAL, Material(), tmp_path / str(seed), config)
        fingerprints.add(Engine(replace(tiny, folder=tmp_path / str(seed)), EngineConfig()).fingerprint)
    assert len(fingerprints) == 3


@pytest.mark.parametrize("shape", SHAPES)
def test_other_architectures_are_prepared_too(tiny, tmp_path, shape) -> None:
    torch.manual_seed(0)
    config = SHAPES[shape](**TINY, vocab_size=len(tiny.tokenizer))
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    base = replace(tiny, model=model, folder=tmp_path)
    reports: list[dict] = []
    prepare(base, MATERIAL, Material(), tmp_path, CONFIG, reports.append)
    assert all(0 < r["total"] < 100 for r in reports) and reports[-1]["after"] < reports[-1]["before"]
    engine = Engine(base, EngineConfig(max_answer_tokens=4))
    assert len(engine.answer([Ask("Where?", context=STORY), Ask("Where?")])) == 2


def test_a_head_to_search_with_comes_with_questions_of_people(tiny, fmt, tmp_path) -> None:
    prepare(tiny, MATERIAL, Material(), tmp_path, CONFIG)
    assert Searcher.for_model(tiny, tmp_path, fmt.pad_id).queries(["Who is master 1?"])[0]
    prepare(tiny, Material(), Material(), tmp_path / "none", CONFIG)
    assert Searcher.for_model(tiny, tmp_path / "none", fmt.pad_id) is None


def test_an_interrupted_run_goes_on_where_it_was(tiny, tmp_path) -> None:
    def interrupt(figures: dict) -> None:
        if figures["stage"] == "learning":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(tiny, MATERIAL, Material(), tmp_path, CONFIG, interrupt)
    assert not (tmp_path / "prepared.json").exists()
    kept = torch.load(tmp_path / "unfinished" / "state.pt", weights_only=True)
    assert (kept["stage"], kept["step"]) == ("learning", 1)
    reports: list[dict] = []
    assert prepare(tiny, MATERIAL, Material(), tmp_path, CONFIG, reports.append)["steps"] == 2
    assert [(r["stage"], r["step"]) for r in reports] == [("learning", 2)]
    assert not torch.equal(load_prepared(tmp_path, WIDTH).log_rates, kept["prepared"]["log_rates"])


def test_questions_come_plain_or_gzipped_one_context_in_twenty_is_held_out(tmp_path) -> None:
    qas = [{"question": "Who?", "answers": [{"text": "Orla"}]}, {"question": "Why?", "answers": []}]
    paragraphs = [{"context": f"Orla is here, {n}.", "qas": qas} for n in range(200)]
    text = json.dumps({"data": [{"title": "Port", "paragraphs": paragraphs}]})
    (tmp_path / "q.json").write_text(text)
    (tmp_path / "q.json.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("q.json", "q.json.gz"):
        training, development = (m.passages["people"] for m in read_material(tmp_path / name))
        assert len(training) + len(development) == 200 and training[0].questions == [QA("Who?", "Orla")]
        assert development and all(is_development(p.text) for p in development)
    (tmp_path / "q.json").write_text("{}")
    with pytest.raises(Refused, match="not a question set"):
        read_material(tmp_path / "q.json")


def test_training_goes_on_from_another_preparation_with_its_form_and_its_search_head(tiny, tmp_path) -> None:
    prepare(tiny, MATERIAL, Material(), tmp_path / "first", CONFIG)
    start = load_prepared(tmp_path / "first", WIDTH)
    outer = replace(OUTER, reading_seconds=0, max_steps=1)
    again = replace(CONFIG, outer=outer, start=tmp_path / "first", inner=replace(CONFIG.inner, reader=8))
    reports: list[dict] = []
    prepare(tiny, MATERIAL, Material(), tmp_path / "second", again, reports.append)
    end = load_prepared(tmp_path / "second", WIDTH)
    assert {r["stage"] for r in reports} == {"learning"} and end.config == start.config
    moved = (end.log_rates - start.log_rates).abs().max()
    assert 0 < moved < 0.05, "one step at the warm-up's rate away"
    first, second = ((tmp_path / name / SEARCH).read_bytes() for name in ("first", "second"))
    assert first == second, "it reads the public model, which stays as it is"
    (tmp_path / "second" / SEARCH).unlink()
    prepare(tiny, MATERIAL, Material(), tmp_path / "second", replace(again, start=tmp_path / "second"))
    assert Searcher.for_model(tiny, tmp_path / "second", 0), "one is trained where there was none"
    kept = (tmp_path / "second" / SEARCH).read_bytes()
    prepare(tiny, MATERIAL, Material(), tmp_path / "second", replace(again, start=tmp_path / "second"))
    assert (tmp_path / "second" / SEARCH).read_bytes() == kept
    assert "went on from the preparation `second`" in (tmp_path / "second" / "PREPARATION.md").read_text()
    with pytest.raises(Refused, match="no preparation"):
        prepare(tiny, MATERIAL, Material(), tmp_path / "third", replace(again, start=tmp_path / "none"))


def test_a_run_that_was_stopped_leaves_a_preparation_of_that_moment(tiny, tmp_path) -> None:
    config = replace(CONFIG, outer=replace(OUTER, reading_seconds=0))
    with pytest.raises(Stopped):
        prepare(tiny, MATERIAL, Material(), tmp_path, config, stop=lambda: True)
    assert load_prepared(tmp_path / "unfinished", WIDTH).config == CONFIG.inner
    assert (tmp_path / "unfinished" / "state.pt").exists()
    reports: list[dict] = []
    assert prepare(tiny, MATERIAL, Material(), tmp_path, config, reports.append)["steps"] == 2
    assert reports[-1]["documents a second"] > 0 and reports[-1]["phases"]["waiting for data"] > 0
    assert not (tmp_path / "unfinished").exists()
