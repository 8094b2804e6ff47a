"""The pages say what is there: links lead somewhere, names are those of the code, tables are today's."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer
import yaml
from prometheus_client import REGISTRY

import bot.metrics  # noqa: F401  # registers the figures
from bot.cli import cli
from bot.commands import COMMANDS
from bot.settings import PREFIX, Settings
from tests.settings_table import SETTINGS_PAGE, with_table

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("core/**/*.md")]
    if "sample" not in path.parts
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FIGURE = re.compile(r"\b((?:engram|process)_[a-z_]+)")
CODE = re.compile(r"`([^`\n]+)`")
BLOCK = re.compile(r"```\w*\n(.*?)```", re.DOTALL)
PLACES = ("bot/", "core/", "storage/", "tests/", "docs/", ".ci/")


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    heads = re.findall(r"^#+ (.*)$", without_code(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def commands(app: typer.Typer, before: str = "") -> Iterator[str]:
    command = typer.main.get_command(app)
    yield from command.commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    lost = []
    for link in LINK.findall(without_code(page.read_text())):
        file, _, anchor = link.partition("#")
        if re.match(r"https?:", link):
            continue
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert lost == []


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "LOG.md"], ids=named)
def test_files_that_are_named_are_there(page: Path) -> None:
    """Also within a command: `pytest tests/test_docs.py -k links`."""
    text = page.read_text()
    words = [word for code in [*CODE.findall(text), *BLOCK.findall(text)] for word in code.split()]
    said = {re.split("::?", word)[0].rstrip("/") for word in words if word.startswith(PLACES)}
    assert {name for name in said if not any(ROOT.glob(name))} == set()


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "LOG.md"], ids=named)
def test_modules_that_are_run_are_there(page: Path) -> None:
    said = set(re.findall(r"python -m ((?:bot|core|storage|tests)[a-z_.]*)\b", page.read_text()))
    assert {name for name in said if not find_spec(name)} == set()


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "LOG.md"], ids=named)
def test_settings_that_are_named_are_there(page: Path) -> None:
    said = set(re.findall(rf"{PREFIX}([A-Z_]*[A-Z])\b", page.read_text()))
    known = {name.upper() for name in Settings.model_fields}
    assert {name for name in said if name.partition("__")[0] not in known} == set()


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "LOG.md"], ids=named)
def test_commands_that_are_named_are_there(page: Path) -> None:
    text = page.read_text()
    assert set(re.findall(r"(?:(?<!/)\bengram|python -m bot) ([a-z][a-z-]+)", text)) <= {*commands(cli)}
    assert set(re.findall(r"/engram ([a-z][a-z-]+)", text)) <= {*COMMANDS}


def test_the_table_of_settings_is_todays() -> None:
    assert with_table(SETTINGS_PAGE.read_text()) == SETTINGS_PAGE.read_text(), "run `make docs`"


def test_every_setting_says_what_it_does() -> None:
    rows = re.findall(rf"^\| `{PREFIX}(\w+)` \|.*?\| (.*?) \|$", SETTINGS_PAGE.read_text(), re.MULTILINE)
    assert len(rows) > len(Settings.model_fields) and [name for name, text in rows if not text] == []


def test_the_readme_is_a_front_page() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 700
    assert text.count("![") == 1


def test_the_readmes_results_are_those_of_the_page() -> None:
    """Its table is a part of the one in docs/results.md, turned on its side."""
    here = re.findall(r"\d+\.\d / \d+\.\d", (ROOT / "README.md").read_text())
    there = re.findall(r"\d+\.\d / \d+\.\d", (ROOT / "docs" / "results.md").read_text())
    assert len(here) == 9 and set(here) <= set(there)
    seeds = (ROOT / "docs" / "seeds.md").read_text()
    assert f"ships: {here[1]} on the sample, base {here[0]}" in seeds


def test_the_dashboard_asks_for_figures_that_there_are() -> None:
    dashboard = json.loads((ROOT / "docs" / "grafana.json").read_text())
    asked = {
        name for panel in dashboard["panels"] for target in panel["targets"] for name in FIGURE.findall(target["expr"])
    }
    known = {sample.name for family in REGISTRY.collect() for sample in family.samples}
    known |= {family.name for family in REGISTRY.collect()}
    named = {name for name in known if name.startswith("engram_")}
    assert {name for name in asked if name not in known and name.removesuffix("_total") not in named} == set()
    assert len(asked) == 10


@pytest.mark.parametrize("file", ["compose.yaml", "compose.scale.yaml"])
def test_the_compose_file_starts_commands_that_there_are(file: str) -> None:
    services = yaml.safe_load((ROOT / file).read_text())["services"]
    own = [service for service in services.values() if "build" in service]
    assert {service["command"][0] for service in own if "command" in service} <= {*commands(cli)}
    for service in services.values():
        for name in service.get("environment", {}):
            assert not name.startswith(PREFIX) or name.removeprefix(PREFIX).lower() in Settings.model_fields


@pytest.mark.parametrize("file", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=named)
def test_the_forms_for_issues_have_the_fields_that_github_knows(file: Path) -> None:
    form = yaml.safe_load(file.read_text())
    assert {"name", "description", "body"} <= form.keys()
    for field in form["body"]:
        assert field.keys() <= {"type", "attributes", "validations"} and field["type"] in ("input", "textarea")
        assert "label" in field["attributes"] and field["attributes"].keys() <= {"label", "description", "render"}


def test_the_workflow_calls_targets_of_the_makefile_on_each_python_that_is_promised() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    commands = "\n".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    called = [word for words in re.findall(r"make ([a-z ]+)", commands) for word in words.split()]
    assert {"lint", "types", "test", "wheel"} <= set(called) and "docker build" in commands
    assert [name for name in called if name not in targets] == []
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    promised = {text.rpartition(" ")[2] for text in classifiers if re.search(r":: 3\.\d+$", text)}
    assert promised <= set(jobs["test"]["strategy"]["matrix"]["python"])


def test_the_image_copies_files_that_there_are_and_that_are_not_left_out() -> None:
    lines = re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    sources = [source for line in lines for source in line.split()]
    left_out = (ROOT / ".dockerignore").read_text().split()
    assert {"bot", "core", "storage", "pyproject.toml"} <= set(sources)
    assert [name for name in sources if not (ROOT / name).exists()] == []
    assert [name for name in sources if any(fnmatch(name, pattern) for pattern in left_out)] == []


def test_the_image_installs_the_torch_of_the_lock_and_extras_that_there_are() -> None:
    image, lock = (ROOT / "Dockerfile").read_text(), (ROOT / "requirements.lock").read_text()
    [extras] = re.findall(r'"\.\[(.+)\]"', image)
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert re.findall(r"\btorch==\S+", image) == re.findall(r"^torch==.+", lock, re.MULTILINE)
    assert set(extras.split(",")) <= known.keys()
