"""The Helm chart, rendered as far as its templates use Helm's language: values, `quote`, `toYaml ... | nindent`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from bot.cli import cli
from bot.settings import PREFIX, Settings
from tests.test_docs import commands

CHART = Path(__file__).parents[1] / "docs" / "helm"
ACTION = re.compile(r"\{\{(-?) (.+?) (-?)\}\}")
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())


def rendered(text: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Raises: KeyError, for a value that is not there; AssertionError, for more of Helm's language."""
    known = {".Release.Name": "bot"} | {f".Values.{name}": value for name, value in values.items()}

    def replace(action: re.Match[str]) -> str:
        kind, name, indent = re.fullmatch(r"(toYaml )?(\.[\w.]+)(?: \| (nindent \d+|quote))?", action[2]).groups()
        if kind:
            space = " " * int(indent.removeprefix("nindent "))
            return "".join(f"\n{space}{line}" for line in yaml.safe_dump(known[name]).splitlines())
        return f'"{known[name]}"' if indent else str(known[name])

    without_space = re.sub(r"\s*\{\{- ", "{{- ", text)
    return list(yaml.safe_load_all(ACTION.sub(replace, without_space)))


def objects(**changes: Any) -> dict[tuple[str, str], dict[str, Any]]:
    """By kind and name."""
    found = {}
    for path in sorted((CHART / "templates").glob("*.yaml")):
        for one in rendered(path.read_text(), VALUES | changes):
            found[one["kind"], one["metadata"]["name"]] = one
    return found


def test_the_chart_has_front_ends_and_workers_that_start_commands_that_there_are() -> None:
    made = objects(workers=7)
    front_end, worker = made["Deployment", "bot-front-end"]["spec"], made["Deployment", "bot-worker"]["spec"]
    assert (front_end["replicas"], worker["replicas"]) == (VALUES["frontEnds"], 7)
    for deployment, resources in ((front_end, "frontEndResources"), (worker, "workerResources")):
        [container] = deployment["template"]["spec"]["containers"]
        assert set(container["args"]) <= {*commands(cli)} and container["image"] == VALUES["image"]
        assert container["resources"] == VALUES[resources]
        assert deployment["selector"]["matchLabels"].items() <= deployment["template"]["metadata"]["labels"].items()
        sources = [next(iter(source.values()))["name"] for source in container["envFrom"]]
        assert sources == ["bot-settings", VALUES["secret"]] and ("ConfigMap", "bot-settings") in made
    assert made["Service", "bot-front-end"]["spec"]["selector"].items() <= front_end["selector"]["matchLabels"].items()


def test_the_charts_settings_are_there_and_none_is_secret() -> None:
    settings = objects()["ConfigMap", "bot-settings"]["data"]
    assert settings == VALUES["settings"] and all(isinstance(value, str) for value in settings.values())
    own = [name.removeprefix(PREFIX).lower() for name in settings if name.startswith(PREFIX)]
    assert set(own) <= set(Settings.model_fields)
    assert not [name for name in settings if re.search("TOKEN|SECRET|ACCESS_KEY|DATABASE_URL", name)]


def test_a_value_that_is_not_there_is_noticed() -> None:
    with pytest.raises(KeyError):
        rendered("a: {{ .Values.nothing }}", VALUES)
