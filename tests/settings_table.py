"""The table of settings in docs/operating.md, from the class and its comments: `python -m tests.settings_table`."""

from __future__ import annotations

import ast
import inspect
import io
import tokenize
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Literal, get_args, get_origin

from bot import settings as module
from bot.quotas import QuotaConfig
from bot.settings import PREFIX, Settings

SETTINGS_PAGE = Path(__file__).parents[1] / "docs" / "operating.md"
BEGIN, END = "<!-- settings: made by `make docs` -->", "<!-- end of settings -->"


def main() -> None:
    """Write the table into the page, in place of the one there."""
    SETTINGS_PAGE.write_text(with_table(SETTINGS_PAGE.read_text()))


def with_table(page: str) -> str:
    """A page whose part between the two marks is the table of today."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n{END}{after}"


def table() -> str:
    """Markdown: a heading and a table for each group of settings."""
    lines = []
    for heading, names in setting_groups():
        lines += [f"### {heading}", "", "| variable | default | |", "|---|---|---|"]
        for name, text in names:
            if name == "quotas":
                lines += [
                    f"| `{PREFIX}QUOTAS__{field.name.upper()}` | `{field.default}` | 0: no limit |"
                    for field in fields(QuotaConfig)
                ]
            else:
                lines.append(f"| `{PREFIX}{name.upper()}` | {_default(name)} | {_described(name, text)} |")
        lines.append("")
    return "\n".join(lines)


def setting_groups() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """(heading, [(setting, what its comments say)]), as they stand in the class. A comment after a blank line is a
    heading; one on a setting's own lines, or right above it, describes it."""
    source = inspect.getsource(module)
    lines = ["", *source.splitlines()]
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    [declared] = [node for node in classes if node.name == Settings.__name__]
    heading = "Folders"
    names: list[tuple[str, str]] = []
    last = declared.lineno  # line of the statement before
    for node in declared.body:
        end = node.end_lineno or node.lineno
        if isinstance(node, ast.AnnAssign):
            described = []
            for number in range(last + 1, end + 1):
                if number in comments and number < node.lineno and not lines[number - 1]:
                    yield heading, names
                    heading, names = comments[number], []
                elif number in comments:
                    described.append(comments[number])
            names.append((ast.unparse(node.target), " ".join(described)))
        last = end
    yield heading, names


def _default(name: str) -> str:
    field = Settings.model_fields[name]
    if field.default_factory is not None:
        return "`~/.cache/engram`"
    value = str(field.default).lower() if isinstance(field.default, bool) else field.default
    return "" if value in (None, "", {}) else f"`{value}`"


def _described(name: str, text: str) -> str:
    """What the comments say, and the values that there are."""
    annotation = Settings.model_fields[name].annotation
    if get_origin(annotation) is not Literal:
        return text
    choices = ", ".join(f"`{value}`" for value in get_args(annotation))
    return "; ".join(filter(None, (text, f"one of {choices}")))


if __name__ == "__main__":
    main()
