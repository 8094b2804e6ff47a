"""`python -m tests.torture MODE`: a table of what was counted. Exit status: 0 all held, 1 something fell short."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rich import box
from rich.console import Console
from rich.table import Table

from bot.terminal import plain
from tests.torture import MODES, Figure, Plan, torture


def main() -> int:
    options = parser().parse_args()
    if options.mode == "list":
        for mode, about in MODES.items():
            print(f"{mode:10} {about}")
        return 0
    with TemporaryDirectory(prefix="engram-torture-") as folder:
        plan = Plan(
            folder=Path(folder), times=options.times, seconds=options.seconds, seed=options.seed, fast=options.fast
        )
        figures = asyncio.run(torture(options.mode, plan, lambda line: print(line, file=sys.stderr)))
    if options.json:
        print(json.dumps({"mode": options.mode, "figures": [vars(figure) for figure in figures]}))
    else:
        Console().print(figures_table(options.mode, figures))
    return 0 if all(figure.good for figure in figures) else 1


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description="Break a bot on purpose.")
    parser.add_argument("mode", choices=[*MODES, "list"], nargs="?", default="list", metavar="MODE")
    parser.add_argument("--times", type=int, help="how often; by default as often as was promised")
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long, where time is what counts")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers")
    parser.add_argument("--fast", action="store_true", help="an engine that learns by heart instead of the model")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def figures_table(title: str, figures: Sequence[Figure]) -> Table:
    """What was counted, what was promised, whether it holds."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for name in ("", "found", "promised", ""):
        table.add_column(name)
    for figure in figures:
        mark = ("[green]✓[/]" if figure.good else "[red]✗[/]") if figure.wanted else ""
        table.add_row(plain(figure.what), plain(str(figure.found)), plain(figure.wanted), mark)
    return table


if __name__ == "__main__":
    sys.exit(main())
