"""The house rules, read from the source: which way imports go, and where each SDK lives."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {"core": {"core"}, "storage": {"storage", "core"}, "bot": {"bot", "core"}}  # bot/app.py: storage too
HOMES = {
    "pymupdf": {"core/document/pdf.py"},
    "openpyxl": {"core/document/office.py"},
    "charset_normalizer": {"core/document/flow.py"},
    "transformers": {"core/model.py", "core/convert.py"},
    "peft": {"core/learning/adapters/lora.py"},
    "aiosqlite": {"storage/index.py"},
    "discord": {"bot/platforms/discord.py"},
    "slack_bolt": {"bot/platforms/slack.py", "bot/platforms/slack_oauth.py"},
    "slack_sdk": {"bot/platforms/slack.py", "bot/platforms/slack_http.py", "bot/platforms/slack_oauth.py"},
    "pydantic_settings": {"bot/settings.py"},
    "typer": {"bot/cli.py"},
    "prometheus_client": {"bot/metrics.py"},
    "matplotlib": {"core/evaluation/report.py"},
    "PIL": {"bot/render.py"},
}
LIGHT = (
    "bot",
    "storage/index",
    "core/service",
    "core/runner",
    "core/device",
    "core/types",
    "core/document",
)
HEAVY = {"torch", "transformers", "peft"}
EVERY = sorted(path.relative_to(ROOT).as_posix() for folder in ALLOWED for path in (ROOT / folder).rglob("*.py"))
MAKERS = ("core/evaluation/sample/",)  # made what ships; the bot runs none
FILES = [file for file in EVERY if not file.startswith(MAKERS)]


@cache
def tree(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text())


def modules(node: ast.AST) -> Iterator[str]:
    """Full names of the modules that are imported anywhere in it."""
    for child in ast.walk(node):
        if isinstance(child, ast.ImportFrom):
            yield child.module or ""
        elif isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)


def imports(node: ast.AST, *, now: bool = False) -> Iterator[str]:
    """The top names of imported modules; `now`: without what waits in functions or is for the type checker only."""
    if isinstance(node, ast.Import):
        yield from (alias.name.split(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield (node.module or "").split(".")[0]
    waits = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or "TYPE_CHECKING" in ast.unparse(
        getattr(node, "test", ast.Pass())
    )
    if not (now and waits):
        for child in ast.iter_child_nodes(node):
            yield from imports(child, now=now)


@pytest.mark.parametrize("folder", ALLOWED)
def test_imports_go_from_bot_to_storage_to_core(folder: str) -> None:
    for file in EVERY:
        if file.startswith(folder + "/") and file != "bot/app.py":
            assert set(imports(tree(file))) & set(ALLOWED) <= ALLOWED[folder], file


@pytest.mark.parametrize("sdk", HOMES)
def test_every_sdk_has_one_home(sdk: str) -> None:
    assert {file for file in FILES if sdk in imports(tree(file))} <= HOMES[sdk]


def test_what_ships_imports_no_other_form_of_learning() -> None:
    """Whoever measures forms, and the table of learners by name, may know them."""
    forms, measures = "core/learning/forms/", "core/evaluation/"
    for file in FILES:
        if not file.startswith((forms, measures)):
            assert "core.learning.forms" not in " ".join(modules(tree(file))), file


def test_torch_waits_until_it_is_needed() -> None:
    assert [file for file in FILES if file.startswith(LIGHT) and HEAVY & set(imports(tree(file), now=True))] == []


def test_only_settings_reads_the_environment() -> None:
    nodes = ((file, node) for file in FILES for node in ast.walk(tree(file)) if isinstance(node, ast.Attribute))
    assert {file for file, node in nodes if node.attr in ("environ", "getenv")} <= {"bot/settings.py"}
