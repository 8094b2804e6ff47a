"""What comes from outside: packages, model files, and who may talk to the network."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from storage.channel_files import insert_into
from tests.torture.__main__ import parser

ROOT = Path(__file__).parents[1]
SAFETY = (ROOT / "docs" / "safety.md").read_text()
FILES = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
SOURCES = [path for folder in ("bot", "core", "storage") for path in sorted((ROOT / folder).rglob("*.py"))]
NETWORK = {
    "aiohttp",
    "discord",
    "slack_sdk",
    "slack_bolt",
    "httpx",
    "requests",
    "urllib",
    "socket",
    "http",
    "ftplib",
} | {"uvicorn"}
TALKERS = {"bot/links.py", "bot/metrics.py", "core/learning/adapters/remote.py"} | {
    f"bot/platforms/slack/{name}.py" for name in ("app", "errors", "files", "http", "oauth", "replies", "workspace")
}
TALKERS |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "bot/platforms/discord").glob("*.py")}
TALKERS |= {"bot/platforms/playground.py", "storage/connections.py"}
CODE_FROM_DATA = {"pickle", "dill", "cloudpickle", "marshal", "shelve"}


def locked(path: Path) -> dict[str, str]:
    """Package -> version."""
    pins = re.findall(r"^([\w.-]+)==([^\s\\]+)", path.read_text(), re.M)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins}


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


@cache
def imported(path: Path) -> set[str]:
    """Names of packages. `urllib.parse` takes addresses apart, and opens none."""
    packages = {
        alias.name.split(".")[0] for node in nodes(path) if isinstance(node, ast.Import) for alias in node.names
    }
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom) and node.module and node.module != "urllib.parse":
            packages.add(node.module.split(".")[0])
    return packages


def test_the_lock_holds_a_release_in_the_range_of_each_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [Requirement(line) for line in [*project["dependencies"], *(line for extra in extras for line in extra)]]
    lock = locked(ROOT / "requirements.lock")
    missing = [one.name for one in wanted if canonicalize_name(one.name) not in lock]
    assert missing == []
    assert [str(one) for one in wanted if lock[canonicalize_name(one.name)] not in one.specifier] == []


def test_every_package_that_is_imported_is_declared() -> None:
    """In the dependencies or in an extra: so a wheel brings what it needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    brought_by = packages_distributions()
    own = {"bot", "core", "storage", *sys.stdlib_module_names, ""}
    used = {name for path in SOURCES for name in imported(path)} - own
    found = {name: {canonicalize_name(one) for one in brought_by.get(name, [name])} for name in used}
    absent = {"opentelemetry"} - brought_by.keys()  # a name that several packages share; nothing says which are missing
    assert {name for name, packages in found.items() if not packages & declared} - absent == set()


def test_the_hashed_lock_is_the_lock_with_a_sha256_for_each_package() -> None:
    hashed = ROOT / ".ci" / "hashed.lock"
    plain = locked(ROOT / "requirements.lock")
    del plain["torch"]  # which build fits depends on the machine
    assert locked(hashed) == plain
    blocks = re.split(r"\n(?=\w)", re.sub(r"^#.*\n", "", hashed.read_text(), flags=re.M))
    assert len(blocks) == len(plain) and all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in blocks)


def test_only_the_platforms_links_the_metrics_and_a_remote_writer_use_the_network() -> None:
    """The last three only when they are set. A model that is named by a hub id is fetched by transformers, once."""
    assert {path.relative_to(ROOT).as_posix() for path in SOURCES if imported(path) & NETWORK} <= TALKERS


def test_nothing_unpickles_and_nothing_runs_a_models_code() -> None:
    for path in SOURCES:
        assert not imported(path) & CODE_FROM_DATA, path
        for node in nodes(path):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("eval", "exec", "torch.load"):
                assert "weights_only=True" in ast.unparse(node), path
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert ast.unparse(node.value) == "False", path


def test_no_sql_is_put_together_from_values() -> None:
    """Constants may stand in an f-string: names in capitals, or their entries."""
    words = re.compile(r"\b(SELECT|INSERT|UPDATE|DELETE|PRAGMA|CREATE|DROP)\b")
    for path in (ROOT / "storage").rglob("*.py"):
        for node in nodes(path):
            if isinstance(node, ast.JoinedStr) and words.search(ast.unparse(node)):
                values = [value.value for value in node.values if isinstance(value, ast.FormattedValue)]
                names = [value.value if isinstance(value, ast.Subscript) else value for value in values]
                assert all(isinstance(name, ast.Name) and name.id.isupper() for name in names), (path, node.lineno)
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
                assert not words.search(ast.unparse(node)), path


def test_an_insert_takes_names_alone() -> None:
    assert insert_into("answers", "id, body") == "INSERT INTO answers (id, body) VALUES (:id, :body)"
    for names in (("answers; DROP TABLE answers", "id"), ("answers", "id) VALUES (1); --"), ("answers", "")):
        with pytest.raises(ValueError, match="no names"):
            insert_into(*names)


@pytest.mark.parametrize("name", ["SHA256SUMS", "prepared.json", "prepared.safetensors", "search.safetensors"])
def test_the_preparation_ships_as_data_only(name: str) -> None:
    folder = ROOT / "core" / "embedded"
    assert (folder / name).is_file() and (folder / "__init__.py").read_text() == ""
    files = {path for path in folder.iterdir() if path.is_file()} - {folder / "__init__.py"}
    assert {path.suffix for path in files} <= {"", ".json", ".safetensors", ".md"}


def test_every_test_that_the_page_on_safety_names_is_there() -> None:
    names = set(re.findall(r"`(test_\w+)", SAFETY))
    here = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name in names if f"def {name}" not in here and f"{name}.py" not in FILES] == []
    for file, word in re.findall(r"`pytest (\S+) -k (\w+)", SAFETY):
        assert word in (ROOT / file).read_text()


def test_every_command_that_the_page_on_safety_names_can_be_given() -> None:
    for command in re.findall(r"`torture ([^`]+)`", SAFETY):
        parser().parse_args(command.replace(" N", " 3").split())  # exits where there is no such mode or option
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make ([\w-]+)`", SAFETY)) <= set(targets)


def test_every_promise_on_the_page_on_safety_says_what_shows_it() -> None:
    ways = re.compile(r"`(?:test_|tests/|torture |make |pytest )|\btable (?:above|below)|^P2, P3$|^not applicable")
    column, promises = None, 0
    for line in SAFETY.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            column = None
        elif "shown by" in cells:
            column = cells.index("shown by")
        elif column is not None and set(line) - set("|-"):
            assert ways.search(cells[column]), line
            promises += 1
    assert promises > 60
