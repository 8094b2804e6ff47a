from __future__ import annotations

from pathlib import Path

import pytest

from bot.settings import load_settings
from core.errors import SetupError
from core.types import Limits


def test_without_a_variable_everything_has_its_default() -> None:
    settings = load_settings()
    assert (settings.model, settings.learner, settings.data_dir) == ("embedded", "fast-weights", Path("data"))
    assert settings.limits == Limits()


def test_the_environment_sets_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGRAM_MAX_PAGES", "7")
    assert load_settings().limits.max_pages == 7


def test_what_the_command_line_gives_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGRAM_DATA_DIR", "/from/environment")
    assert load_settings(data_dir=Path("/given")).data_dir == Path("/given")
    assert load_settings(data_dir=None).data_dir == Path("/from/environment")


def test_a_wrong_value_is_named_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGRAM_MAX_PAGES", "many")
    with pytest.raises(SetupError, match="ENGRAM_MAX_PAGES"):
        load_settings()


def test_a_token_is_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGRAM_DISCORD_TOKEN", "very-secret")
    assert "very-secret" not in repr(load_settings())


def test_an_empty_token_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGRAM_DISCORD_TOKEN", "")
    assert load_settings().discord_token is None


def test_a_preset_fills_in_what_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().engine.batch_tokens is None
    monkeypatch.setenv("ENGRAM_PRESET", "t4")
    engine = load_settings().engine
    assert (engine.dtype, engine.recompute, engine.effort) == ("float16", True, "standard")
    monkeypatch.setenv("ENGRAM_EFFORT", "deep")
    monkeypatch.setenv("ENGRAM_OBJECTIVES", '{"distil": 0.5}')
    engine = load_settings(device="cpu").engine
    assert (engine.dtype, engine.effort, engine.device, engine.objectives) == (
        "float16",
        "deep",
        "cpu",
        {"distil": 0.5},
    )


def test_an_unknown_preset_is_a_setup_error() -> None:
    with pytest.raises(SetupError, match="no preset 'moon'; choose one of cpu, h200, t4"):
        _ = load_settings(preset="moon").engine


def test_no_document_leaves_the_machine_unless_that_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().engine.question_writer is None
    monkeypatch.setenv("ENGRAM_QUESTION_WRITER_URL", "http://localhost:8000/v1")
    monkeypatch.setenv("ENGRAM_QUESTION_WRITER_KEY", "very-secret")
    writer = load_settings(question_writer_model="big").engine.question_writer
    assert writer is not None and (writer.model, writer.key) == ("big", "very-secret")
    assert "very-secret" not in repr(load_settings()) + repr(writer)


def test_converted_models_lie_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert load_settings().engine.cache == load_settings().cache_dir == tmp_path / "engram"
    monkeypatch.setenv("ENGRAM_CACHE_DIR", "/elsewhere")
    assert load_settings().cache_dir == Path("/elsewhere")
