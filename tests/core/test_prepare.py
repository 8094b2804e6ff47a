"""Preparing a base model that stays as it is, at toy size."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import pytest
import torch

from core.embedded.corpus import Passage
from core.embedded.questions import QA
from core.errors import Refused
from core.learning.base import LearnConfig
from core.learning.fast_learner import FastWeightsLearner
from core.learning.fast_weights import load_prepared
from core.learning.prepare import PrepareConfig, prepare, read_questions
from core.learning.search_head import Searcher

NAMES = ("Orla", "Tam", "Vess", "Quint", "Edda", "Brun")
QUESTIONS = [
    Passage("Port", f"{n} is the master of harbour {i}. " * 3, [QA(f"Who is master {i}?", n)])
    for i, n in enumerate(NAMES)
]
CONFIG = PrepareConfig(
    held_out=2, seconds=1e6, max_steps=3, layers=2, readout=2, tokens=160, longest=64, search_steps=3
)


@pytest.fixture
def figures(tiny, tmp_path):
    return prepare(tiny, QUESTIONS, tmp_path, CONFIG)


def test_the_base_model_stays_and_only_how_it_learns_is_trained(tiny, tmp_path) -> None:
    before = {k: v.clone() for k, v in tiny.model.state_dict().items()}
    reports: list[dict] = []
    found = prepare(tiny, QUESTIONS, tmp_path, CONFIG, reports.append)
    assert all(torch.equal(v, before[k]) for k, v in tiny.model.state_dict().items())
    assert found["steps"] == 3 and reports[0]["answer"] > 0
    assert {"learned_em", "wrong_f1", "base_em", "questions"} <= set(found)
    assert not (tmp_path / "unfinished").exists()


def test_learning_uses_the_start_and_the_read_out(tiny, fmt, figures, tmp_path) -> None:
    learner = FastWeightsLearner(replace(tiny, folder=tmp_path), fmt, LearnConfig())
    assert any(s.any() for s in learner.prepared.start) and any(
        b.any() for _, b in learner.prepared.low_rank().values()
    )
    ids = torch.arange(10, 40).view(2, 15)
    before = tiny.model(input_ids=ids).logits
    with learner.attach([({}, 1)]):  # a section of which nothing was learned: the start and the read-out alone
        found = tiny.model(input_ids=ids).logits
    assert not torch.allclose(found[0], before[0], atol=1e-4) and torch.equal(found[1], before[1])
    assert torch.equal(tiny.model(input_ids=ids).logits, before)


def test_a_head_to_search_with_comes_with_questions(tiny, fmt, figures, tmp_path) -> None:
    searcher = Searcher.of(tiny, tmp_path, fmt.pad_id)
    assert searcher and searcher.query("Who is master 1?")
    prepare(tiny, [], tmp_path / "none", CONFIG)
    assert Searcher.of(tiny, tmp_path / "none", fmt.pad_id) is None


def test_an_interrupted_run_goes_on_where_it_was(tiny, tmp_path) -> None:
    config = replace(CONFIG, max_steps=4, every=2)

    def interrupt(figures: dict) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(tiny, QUESTIONS, tmp_path, config, interrupt)
    assert (tmp_path / "unfinished" / "state.pt").exists() and not (tmp_path / "prepared.json").exists()
    rates = torch.load(tmp_path / "unfinished" / "state.pt", weights_only=True)["prepared"]["log_rates"]
    reports: list[dict] = []
    assert prepare(tiny, QUESTIONS, tmp_path, config, reports.append)["steps"] == 4
    assert [r["step"] for r in reports] == [4] and not torch.equal(load_prepared(tmp_path, 64).log_rates, rates)


def test_questions_come_plain_or_gzipped_and_anything_else_is_refused(tmp_path) -> None:
    qas = [{"question": "Who?", "answers": [{"text": "Orla"}]}, {"question": "Why?", "answers": []}]
    text = json.dumps({"data": [{"title": "Port", "paragraphs": [{"context": "Orla is here.", "qas": qas}]}]})
    (tmp_path / "q.json").write_text(text)
    (tmp_path / "q.json.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("q.json", "q.json.gz"):
        assert read_questions(tmp_path / name) == [Passage("Port", "Orla is here.", [QA("Who?", "Orla")])]
    (tmp_path / "q.json").write_text("{}")
    with pytest.raises(Refused, match="not a question set"):
        read_questions(tmp_path / "q.json")
