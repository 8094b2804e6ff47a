"""The house rules, read from the source: which way imports go, where each SDK lives, how dense the code may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache

import pytest

from tests.architecture import (
    GENERATORS,
    ROOT,
    comprehensions,
    cycles,
    filler_names,
    imported,
    imports,
    percentile_90,
    sources,
    tokens_a_line,
    tree,
)

LAYERS = {  # the first modules may not import the second ones; who imports them all the same, with the reason
    ("core", "bot"): (),
    ("core", "storage"): ("core.evaluation.served",),  # the instrument puts the product together, too
    ("storage", "bot"): (),
    ("bot", "storage"): ("bot.app",),  # puts everything together
    ("bot", "core.evaluation"): ("bot.cli.models",),  # the command `bench`
    ("bot", "core.prepare"): ("bot.cli.models",),  # the command `prepare`
    ("core.learning", "core.prepare"): (),
    ("core.learning", "core.evaluation"): (),
    ("core.document", "core.learning"): (),
    ("core.search", "core.learning"): ("core.search.head",),  # reads the model's states by recorded passes, with a LoRA
    ("core.prepare", "core.evaluation"): (),
}
USE_CASES = (
    "core.answerer",
    "core.service",
    "core.runner",
    "core.device",
    "core.engine",
)  # what serves; neither trains nor measures
HOMES = {  # an SDK -> the files and folders that may import it
    "pymupdf": ("core/document/pdf.py",),
    "openpyxl": ("core/document/office.py",),
    "charset_normalizer": ("core/document/flow.py",),
    "transformers": ("core/model.py", "core/convert.py", "core/evaluation/passes.py"),
    "peft": ("core/learning/adapters/lora.py", "core/evaluation/peft_baseline.py"),
    "aiosqlite": ("storage/index.py",),
    "psycopg": ("storage/connections.py", "storage/postgres.py", "storage/workers.py"),
    "psycopg_pool": ("storage/connections.py", "storage/postgres.py"),
    "procrastinate": ("storage/postgres.py", "storage/workers.py"),
    "obstore": ("storage/bucket.py",),
    "cryptography": ("storage/keys.py",),
    "discord": ("bot/platforms/discord/",),
    "slack_bolt": ("bot/platforms/slack/",),
    "slack_sdk": ("bot/platforms/slack/",),
    "pydantic_settings": ("bot/settings.py",),
    "typer": ("bot/cli/",),
    "prometheus_client": ("bot/metrics.py",),
    "opentelemetry": ("bot/traces.py",),
    "matplotlib": ("core/evaluation/report.py",),
    "PIL": ("bot/render.py",),
    "gradio": ("bot/platforms/playground.py",),
    "uvicorn": ("bot/platforms/playground.py",),
}
LIGHT = (
    "bot",
    "storage/index",
    "storage/postgres",
    "storage/workers",
    "core/answerer",
    "core/service",
    "core/runner",
    "core/device",
    "core/types",
    "core/document",
    "core/search/closeness",
    "core/search/evidence",
    "core/search/finder",
    "core/search/followup",
    "core/search/parameters",
    "core/search/ranking",
    "core/search/words",
)
HEAVY = {"torch", "transformers", "peft"}
FILES = [file for file in sources() if not file.startswith(GENERATORS)]


@cache
def packages(file: str) -> set[str]:
    """The top names of everything that a file imports."""
    return {name.partition(".")[0] for child in ast.walk(tree(file)) for name in imported(child)}


def modules(node: ast.AST) -> Iterator[str]:
    """Full names of the modules that are imported anywhere in it."""
    for child in ast.walk(node):
        if isinstance(child, ast.ImportFrom):
            yield child.module or ""
        elif isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)


def at_once(node: ast.AST) -> Iterator[str]:
    """The top names of what is imported when the module is: not in a function, not for the type checker only."""
    yield from (name.partition(".")[0] for name in imported(node))
    is_later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    is_for_checker = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    if not (is_later or is_for_checker):
        for child in ast.iter_child_nodes(node):
            yield from at_once(child)


def is_in(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


@pytest.mark.parametrize(("importer", "imported"), LAYERS)
def test_a_layer_imports_only_what_lies_below_it(importer: str, imported: str) -> None:
    wrong = {
        module
        for module, targets in imports().items()
        if is_in(module, importer) and any(is_in(target, imported) for target in targets)
    }
    assert wrong <= set(LAYERS[importer, imported])


@pytest.mark.parametrize("package", ["core.evaluation", "core.prepare"])
def test_what_serves_neither_trains_nor_measures(package: str) -> None:
    assert [m for m in USE_CASES if any(is_in(target, package) for target in imports()[m])] == []


@pytest.mark.parametrize("folder", ["core.learning.forms", "core.learning.adapters"])
@pytest.mark.parametrize("heart", ["core.learning.inner_loop", "core.learning.fast_learner"])
def test_the_shipped_form_knows_no_other_form(heart: str, folder: str) -> None:
    assert [target for target in imports()[heart] if is_in(target, folder)] == []


def test_no_module_imports_itself_around_others() -> None:
    assert cycles() == []


def test_the_tool_sees_lazy_imports_and_those_for_the_type_checker() -> None:
    assert "core.engine" in imports()["bot.app"]  # in a function
    assert "core.service" in imports()["bot.commands.base"]


@pytest.mark.parametrize("sdk", HOMES)
def test_every_sdk_has_one_home(sdk: str) -> None:
    assert [file for file in FILES if sdk in packages(file) and not file.startswith(HOMES[sdk])] == []


def test_what_ships_imports_no_other_form_of_learning() -> None:
    """Whoever measures forms, and the table of learners by name, may know them."""
    forms, measures = "core/learning/forms/", "core/evaluation/"
    for file in FILES:
        if not file.startswith((forms, measures)):
            assert "core.learning.forms" not in " ".join(modules(tree(file))), file


def test_torch_waits_until_it_is_needed() -> None:
    assert [file for file in FILES if file.startswith(LIGHT) and HEAVY & set(at_once(tree(file)))] == []


def test_only_settings_reads_the_environment() -> None:
    nodes = ((file, node) for file in FILES for node in ast.walk(tree(file)) if isinstance(node, ast.Attribute))
    assert {file for file, node in nodes if node.attr in ("environ", "getenv")} <= {"bot/settings.py"}


def test_the_size_of_a_document_is_checked_by_one_function() -> None:
    """Which is called where bytes enter and where they are parsed; a stream is cut off where it is read."""
    streams = {"bot/links.py", "bot/platforms/slack/app.py", "bot/platforms/playground.py"}
    served = [file for file in FILES if not file.startswith("core/evaluation/")]
    files = {file for file in served if "max_bytes" in (ROOT / file).read_text()}
    assert files == {"bot/settings.py", "core/types.py", "core/document/formats.py"} | streams


def test_no_name_is_a_filler() -> None:
    assert filler_names() == []


def test_the_code_gets_no_denser() -> None:
    assert comprehensions() <= 25  # a 1,000 lines
    assert percentile_90(tokens_a_line()) <= 21
