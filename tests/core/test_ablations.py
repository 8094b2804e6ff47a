"""The table of ablations: rows are measured once, written as they end, and stop in time; and the speed of shapes."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from core.engine import Engine
from core.evaluation import ablations, speed
from core.evaluation.ablations import LEARNED_CONDITIONS, ROWS, Lab, Results, Row, chosen, quality, run, table
from core.learning.preparation import FastWeightsConfig
from core.prepare.outer import OuterConfig
from core.prompts import format_for
from core.squad import Article, Question
from tests.core.conftest import STORY


@pytest.fixture
def lab(tiny) -> Lab:
    asked = (Question("Who is the master?", ("Orla Quint",), STORY),)
    sets = {name: [Article(title, (f"{title}. {STORY}",), asked)] for name, title in (("a", "Vessin"), ("b", "Odrey"))}
    return Lab(tiny, sets, batch=8)


def test_a_row_has_every_figure_and_those_of_each_set(lab: Lab) -> None:
    row = quality(lab, Row({"max_answer_tokens": 4}))
    assert set(row["conditions"]) == {"base", "in_context", *LEARNED_CONDITIONS}
    assert {"gained", "lost", "em_interval", "f1_interval", "seconds_a_question"} < set(row["conditions"]["weights"])
    assert set(row["by_set"]) == {"a", "b"} and set(row["unrelated"]) == {"closed_book", "in_context"}
    assert row["shift"] > 0 and row["megabytes"] > 0 and row["learning_seconds"] > 0 and row["loss"][1] < row["loss"][0]
    lines = table(
        {"fast-weights": row, "routed-1": row | {"f1_by_document": [[1], [2]]}, "base": {"x": 1}}
    ).splitlines()
    assert len(lines) == 5 and "fast-weights" in lines[3] and lines[-1] == 'base: {"x": 1}'
    json.dumps(row)


def test_no_learning_moves_nothing(lab: Lab) -> None:
    row = quality(lab, Row({"budget": "fixed:0", "max_answer_tokens": 4}, ("weights",)))
    scores = {name: c["f1"] for name, c in row["conditions"].items()}
    assert row["shift"] == pytest.approx(0, abs=1e-6) and scores["weights"] == scores["base"]


def test_rows_are_written_as_they_end_and_measured_once(lab: Lab, tmp_path, monkeypatch) -> None:
    measured = []
    monkeypatch.setitem(ROWS, "base", Row(measure=lambda lab, row: measured.append(1) or {"x": 1}))
    monkeypatch.setitem(ROWS, "budgets", Row(measure=lambda lab, row: 1 / 0))
    path = tmp_path / "rows.json"
    for _ in range(2):
        run(lab, ["budgets", "base"], Results(path, {"model": "m"}))
    rows = json.loads(path.read_text())["rows"]
    assert rows["base"]["x"] == 1 and "ZeroDivisionError" in rows["budgets"]["error"] and len(measured) == 1
    with pytest.raises(ValueError, match="another model"):
        Results(path, {"model": "n"})


def test_when_time_is_over_the_row_is_given_up(lab: Lab, tmp_path) -> None:
    results = Results(tmp_path / "rows.json", {})
    run(replace(lab, end=0.0), ["base", "fast-weights"], results)
    assert not results.rows


def test_parts_are_all_rows_and_share_none() -> None:
    parts = [chosen(ROWS, "", f"{i}/3") for i in range(3)]
    assert sorted(n for p in parts for n in p) == sorted(ROWS) and chosen(ROWS, "lora,base", "1/2") == ["base"]
    with pytest.raises(SystemExit, match="no row 'luck'"):
        chosen(ROWS, "luck", "0/1")


def test_every_row_names_settings_that_there_are(lab: Lab) -> None:
    for row in ROWS.values():
        lab.engine(**row.settings)


def test_study_material_is_written_once_for_all_rows(lab: Lab, monkeypatch) -> None:
    written = []
    monkeypatch.setattr(
        "core.learning.adapters.study.Tutor.exercises", lambda self, chunks: iter([written.append(1) or []])
    )
    for objectives in ({}, {"keep": 1.0}):
        engine = lab.engine(learner="lora", study=True, effort="quick", objectives=objectives)
        asyncio.run(learn_first(lab, engine))
    assert len(written) == 1


async def learn_first(lab: Lab, engine: Engine) -> None:
    async with lab.bench(engine) as bench:
        await bench.learn(0)


def test_a_documents_text_has_as_many_tokens_as_it_says(tiny) -> None:
    chunks = speed.document(tiny, 100, 48)
    assert [len(chunk.token_ids) for chunk in chunks] == [48, 48, 4]
    for chunk in chunks:
        assert abs(len(format_for(tiny.tokenizer).section(chunk.text)) - len(chunk.token_ids)) <= 2


def test_a_larger_shape_is_learned_asked_and_prepared(tiny, monkeypatch) -> None:
    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = speed.large(tiny, speed.LARGE | small | {"intermediate_size": 96})
    for learner in ("fast-weights", "lora"):
        row = speed.learning(model, learner, 300, memory_mb=2000)
        assert row["learning_seconds"] > 0 and row["megabytes"] > 0
    inner = FastWeightsConfig(layers=1, segment=48, reader=2)
    outer = OuterConfig(max_steps=1, shapes="1x2x2x48", reading_rows=1, length=64, workers=0)
    row = speed.preparing(model, outer, inner)
    assert row["steps"] == 1 and row["seconds_a_step"] > 0 and row["tokens_a_step"] == 96
    monkeypatch.setattr(speed, "REPEATS", 1)
    row = speed.asking(model, "fast-weights", 600)
    assert (
        row["tokens"] > 500 and row["sections"] == 2 and row["ratio_32"] == row["closed_book_32"] / row["in_context_32"]
    )


def test_one_line_tells_a_row() -> None:
    assert ablations.on_one_line({"conditions": {"base": {"em": 1, "f1": 2}}}) == "base 1.0 / 2.0"
