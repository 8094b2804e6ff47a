from __future__ import annotations

from contextlib import chdir
from pathlib import Path

import pytest

from bot.settings import load_settings, unknown_variables
from core.errors import SetupError
from core.types import Limits
from tests.conftest import Environment


def test_without_a_variable_everything_has_its_default() -> None:
    settings = load_settings()
    assert (settings.model, settings.learner, settings.data_dir) == ("embedded", "fast-weights", Path("data"))
    assert settings.limits == Limits()


def test_the_environment_sets_the_limits(environment: Environment) -> None:
    environment["ENGRAM_MAX_PAGES"] = "7"
    assert load_settings().limits.max_pages == 7


def test_what_the_command_line_gives_comes_first(environment: Environment) -> None:
    environment["ENGRAM_DATA_DIR"] = "/from/environment"
    assert load_settings(data_dir=Path("/given")).data_dir == Path("/given")
    assert load_settings(data_dir=None).data_dir == Path("/from/environment")


def test_a_wrong_value_is_named_in_one_sentence(environment: Environment) -> None:
    environment["ENGRAM_MAX_PAGES"] = "many"
    with pytest.raises(SetupError, match="ENGRAM_MAX_PAGES"):
        load_settings()


def test_a_token_is_never_printed(environment: Environment) -> None:
    environment["ENGRAM_DISCORD_TOKEN"] = "very-secret"
    assert "very-secret" not in repr(load_settings())


def test_an_empty_token_counts_as_none(environment: Environment) -> None:
    environment["ENGRAM_DISCORD_TOKEN"] = ""
    assert load_settings().discord_token is None


def test_a_preset_fills_in_what_is_not_set(environment: Environment) -> None:
    assert load_settings().engine.batch_tokens is None
    environment["ENGRAM_PRESET"] = "t4"
    engine = load_settings().engine
    assert (engine.dtype, engine.recompute, engine.effort) == ("float16", True, "standard")
    environment["ENGRAM_EFFORT"] = "deep"
    environment["ENGRAM_OBJECTIVES"] = '{"distil": 0.5}'
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


def test_no_document_leaves_the_machine_unless_that_is_configured(environment: Environment) -> None:
    assert load_settings().engine.question_writer is None
    environment["ENGRAM_QUESTION_WRITER_URL"] = "http://localhost:8000/v1"
    environment["ENGRAM_QUESTION_WRITER_KEY"] = "very-secret"
    writer = load_settings(question_writer_model="big").engine.question_writer
    assert writer is not None and (writer.model, writer.key) == ("big", "very-secret")
    assert "very-secret" not in repr(load_settings()) + repr(writer)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("DEVICE", "gpu", "ENGRAM_DEVICE: 'gpu' is not possible; choose auto, cpu, cuda"),
        ("DTYPE", "half", "ENGRAM_DTYPE: 'half' is not possible; 'auto', 'float32', 'bfloat16' or 'float16'"),
        ("EFFORT", "much", "ENGRAM_EFFORT: 'much' is not possible; 'quick', 'standard' or 'deep'"),
        ("LOG_LEVEL", "loud", "ENGRAM_LOG_LEVEL: 'loud' is not possible"),
        ("QUOTAS__CHANNEL_DOCUMENTS", "few", "ENGRAM_QUOTAS__CHANNEL_DOCUMENTS: 'few'"),
        ("OBJECTIVES", "{", "OBJECTIVES|objectives"),
    ],
)
def test_a_wrong_value_is_said_with_what_is_allowed(
    environment: Environment, name: str, value: str, words: str
) -> None:
    environment[f"ENGRAM_{name}"] = value
    with pytest.raises(SetupError, match=words):
        load_settings()


def test_quotes_and_the_home_folder_are_understood(environment: Environment) -> None:
    environment["HOME"] = "/home/ada"
    environment["ENGRAM_DATA_DIR"] = '"~/engram"'
    environment["ENGRAM_DISCORD_TOKEN"] = "'token'"
    settings = load_settings()
    assert settings.data_dir == Path("/home/ada/engram") and settings.discord_token.get_secret_value() == "token"


def test_a_misspelt_variable_is_named(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("ENGRAM_MAX_PAGE=7\n# ENGRAM_NOTHING=1\nexport ENGRAM_QUOTAS__CHANNEL_DOCS=1\n")
    environment["ENGRAM_DISCORD_TOKN"] = "very-secret"
    environment["ENGRAM_MAX_PAGES"] = "7"
    with chdir(tmp_path):
        unknown = unknown_variables()
    assert unknown == [
        "ENGRAM_DISCORD_TOKN is no setting. Did you mean ENGRAM_DISCORD_TOKEN?",
        "ENGRAM_MAX_PAGE is no setting. Did you mean ENGRAM_MAX_PAGES?",
        "ENGRAM_QUOTAS__CHANNEL_DOCS is no setting. Did you mean ENGRAM_QUOTAS__CHANNEL_DOCUMENTS?",
    ]


def test_a_file_that_is_not_utf_8_is_one_sentence(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes("ENGRAM_MODEL=caf\xe9\n".encode("latin-1"))
    with chdir(tmp_path), pytest.raises(SetupError, match=r"\.env is not UTF-8"):
        load_settings()


def test_converted_models_lie_in_the_users_cache(environment: Environment, tmp_path: Path) -> None:
    environment["XDG_CACHE_HOME"] = str(tmp_path)
    assert load_settings().engine.cache == load_settings().cache_dir == tmp_path / "engram"
    environment["ENGRAM_CACHE_DIR"] = "/elsewhere"
    assert load_settings().cache_dir == Path("/elsewhere")
