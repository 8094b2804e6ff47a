"""The rows of the inner loop's forms: rehearsed at toy size, written as they end, gone on with, shown."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from core.evaluation import inner_rows
from core.evaluation.ablations import Results
from core.evaluation.inner_rows import ROWS, InnerLab, chosen, measure, run, show, table
from core.learning.preparation import FastWeightsConfig
from core.prepare.episodes import Episode
from core.prepare.outer import run_outer
from tests.core.prepare.test_outer import CONFIG, DOCUMENTS, MATERIAL

NATIVE = {n: replace(c, layers=2, heads=3, segment=48, chunk=16) for n, c in ROWS.items() if n.startswith("native")}
SMALL = {"rank 64": {"rank": 8}, "rank 256": {"rank": 16}} | NATIVE


@pytest.fixture
def lab(tiny, monkeypatch) -> InnerLab:
    monkeypatch.setattr(inner_rows, "INNER_BASE", FastWeightsConfig(layers=2, steps=2, segment=48, reader=2))
    monkeypatch.setattr(inner_rows, "ROWS", ROWS | SMALL)
    sets = {"facts": [Episode(p.title, p.text, p.questions) for p in DOCUMENTS[:2]]}
    return InnerLab(tiny.model, tiny.tokenizer, MATERIAL, sets, replace(CONFIG, max_steps=1, every=1))


def test_every_row_is_measured_on_the_same_model_written_down_and_shown(lab: InnerLab, tmp_path) -> None:
    before = {k: v.clone() for k, v in lab.model.state_dict().items()}
    for part in ("0/2", "1/2"):
        run(lab, chosen(ROWS, "", part), Results(tmp_path / part[0], {"run": 1}))
    assert all(torch.equal(v, before[k]) for k, v in lab.model.state_dict().items())
    text = show([tmp_path / "0", tmp_path / "1"])
    assert [line.split(" | ")[0] for line in text.splitlines()[2:]] == [f"| {name}" for name in ROWS]
    rows = json.loads((tmp_path / "0").read_text())["rows"] | json.loads((tmp_path / "1").read_text())["rows"]
    assert not any("error" in row for row in rows.values()) and rows["sgd"]["inner"]["rule"] == "sgd"
    assert {rows[name]["inner"]["rule"] for name in NATIVE} == {"lact", "ttt-linear", "ttt-mlp"}
    assert all(row["steps"] == 1 and 0 < row["answer_loss"] < 20 for row in rows.values())
    with pytest.raises(ValueError, match="different"):
        Results(tmp_path / "2", {"run": 2}).add("base", rows["base"])
        show([tmp_path / "0", tmp_path / "2"])


def test_only_what_is_missing_or_failed_is_measured(lab: InnerLab, tmp_path, monkeypatch) -> None:
    results = Results(tmp_path / "rows.json", {})
    done, begun = {"steps": 1}, []
    results.rows = {"base": done, "rms": {"error": "gone"}}

    def fails(_lab, inner):
        begun.append(inner)
        raise RuntimeError("no memory")

    monkeypatch.setattr(inner_rows, "measure", fails)
    run(lab, ["base", "rms", "momentum"], results)
    assert [(i.rule, i.momentum) for i in begun] == [("rms", 0.0), ("muon", 0.9)]
    assert results.rows["base"] is done and results.rows["momentum"]["error"] == "RuntimeError: no memory"
    assert "no memory" in table({"rms": results.rows["rms"]})


def test_the_basis_is_trained_with_the_reader(lab: InnerLab, monkeypatch) -> None:
    moved = []

    def runs(model, tokenizer, prepared, *rest, **options):
        learned = [*prepared.reader.values(), *prepared.basis]
        before = [p.detach().clone() for p in learned]
        figures = run_outer(model, tokenizer, prepared, *rest, **options)
        moved.extend(not torch.equal(p, old) for p, old in zip(learned, before, strict=True))
        return figures

    monkeypatch.setattr(inner_rows, "run_outer", runs)
    row = measure(replace(lab, sets={}), inner_rows.form("rank 64"))
    assert len(moved) > 2 and all(moved) and row["steps"] == 1


def test_rows_are_chosen_by_name_and_part() -> None:
    assert chosen(ROWS, "rank 64, chunks", "0/1") == ["rank 64", "chunks"]
    assert sorted(chosen(ROWS, "", "0/2") + chosen(ROWS, "", "1/2")) == sorted(ROWS)
    with pytest.raises(SystemExit, match="no row"):
        chosen(ROWS, "rank 7", "0/1")
