"""A dataclass as options of a command line: `--warmup-steps 60` for its field `warmup_steps`, 0 or 1 for a bool."""

from __future__ import annotations

import argparse
from dataclasses import MISSING, fields
from typing import Any, get_origin, get_type_hints


def add_options(parser: argparse.ArgumentParser, *groups: type) -> None:
    """An option for each field; those without a default have to be given."""
    for group in groups:
        kinds = get_type_hints(group)
        for f in (f for f in fields(group) if f.init):
            kind = kinds[f.name]
            many = {"nargs": "*", "type": str} if get_origin(kind) is tuple else {}
            read = {"type": lambda said: said == "1"} if kind is bool else {"type": kind}
            required = f.default is MISSING and f.default_factory is MISSING
            about = "required" if required else f"default: {f.default}"
            parser.add_argument(f"--{f.name.replace('_', '-')}", required=required, help=about, **many or read)


def given(options: argparse.Namespace, group: type) -> dict[str, Any]:
    """The fields of a dataclass that the command line names."""
    named = {f.name: getattr(options, f.name) for f in fields(group) if f.init}
    return {name: tuple(v) if isinstance(v, list) else v for name, v in named.items() if v is not None}
