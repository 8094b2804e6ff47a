"""The house as its source shows it: rooms, arrows between them, and how dense the code is.

    python -m tests.architecture            rooms, the arrows between them, import cycles, density
    python -m tests.architecture --names    also where each filler name stands

An import counts wherever it stands: at the top, in a function, or for the type checker only.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PRODUCT = ("bot", "core", "storage")
GENERATORS = "core/evaluation/sample/"  # scripts that made files which ship; the bot runs none
FILLERS = {"mine", "found", "some", "of", "at", "told", "heat", "cast"}
COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


@cache
def sources() -> tuple[str, ...]:
    """Paths of the product's modules, relative to the root."""
    paths = [path for folder in PRODUCT for path in (ROOT / folder).rglob("*.py")]
    return tuple(sorted(path.relative_to(ROOT).as_posix() for path in paths))


@cache
def tree(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text())


def module(file: str) -> str:
    """bot/cli/base.py -> bot.cli.base; bot/cli/__init__.py -> bot.cli"""
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def room(name: str) -> str:
    """The package that a module stands in; a package stands in itself."""
    return name if any(other.startswith(f"{name}.") for other in map(module, sources())) else name.rpartition(".")[0]


def imported(node: ast.AST) -> Iterator[str]:
    """Dotted names of what a statement imports; `from a import b` may mean the module a.b, or b in a."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name
    elif isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
            yield f"{node.module}.{alias.name}"


@cache
def imports() -> dict[str, set[str]]:
    """Module -> the modules of the product that it imports."""
    known = set(map(module, sources()))
    graph: dict[str, set[str]] = {name: set() for name in known}
    for file in sources():
        importer = module(file)
        for node in ast.walk(tree(file)):
            for name in imported(node):
                target = name if name in known else name.rpartition(".")[0]
                if target in known and target != importer:
                    graph[importer].add(target)
    return graph


def cycles() -> list[list[str]]:
    """Modules that import each other around, one list for each cycle; each time an arrow is taken out of it."""
    graph = {name: set(targets) for name, targets in imports().items()}
    loops = []
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            loop = error.args[1]
            loops.append(loop)
            graph[loop[1]].discard(loop[0])
        else:
            return loops


def arrows() -> Counter[tuple[str, str]]:
    """(room, room) -> how many modules of the first import one of the second."""
    count: Counter[tuple[str, str]] = Counter()
    for importer, targets in imports().items():
        for target in {room(name) for name in targets} - {room(importer)}:
            count[room(importer), target] += 1
    return count


def rooms() -> dict[str, int]:
    """Package -> its lines, without those of the packages in it."""
    lines: Counter[str] = Counter()
    for file in sources():
        lines[room(module(file))] += len((ROOT / file).read_text().splitlines())
    return dict(sorted(lines.items()))


def tokens_a_line() -> list[int]:
    """Tokens of each line that has any, layout and comments left out; a string is one token of its first line."""
    lines = []
    for file in sources():
        tokens = _whole_strings(tokenize.generate_tokens(io.StringIO((ROOT / file).read_text()).readline))
        lines += Counter(token.start[0] for token in tokens if token.type not in LAYOUT).values()
    return sorted(lines)


def _whole_strings(tokens: Iterable[tokenize.TokenInfo]) -> Iterator[tokenize.TokenInfo]:
    """An f-string by its start alone: from Python 3.12 on its parts are tokens, too."""
    depth = 0
    for token in tokens:
        kind = tokenize.tok_name[token.type]
        depth -= kind == "FSTRING_END"
        if depth == 0 and kind != "FSTRING_END":
            yield token
        depth += kind == "FSTRING_START"


def percentile_90(values: list[int]) -> int:
    """values: sorted."""
    return values[len(values) * 9 // 10]


def comprehensions() -> float:
    """A 1,000 lines."""
    count = sum(isinstance(node, COMPREHENSIONS) for file in sources() for node in ast.walk(tree(file)))
    return 1000 * count / sum(rooms().values())


def filler_names() -> list[str]:
    """file:line name, for each filler that names a variable, a parameter, a field, an attribute or a function."""
    places = []
    for file in sources():
        for node in ast.walk(tree(file)):
            name = _bound(node)
            if name and name.strip("_") in FILLERS:
                places.append(f"{file}:{node.lineno} {name}")
    return places


def _bound(node: ast.AST) -> str:
    """The name that a node introduces; "" for none."""
    if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
        return node.id if isinstance(node, ast.Name) else node.attr
    if isinstance(node, ast.arg):
        return node.arg
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return node.name
    return ""


def main() -> None:
    print("rooms: lines, and the rooms that they import (by how many modules)")
    for name, lines in rooms().items():
        targets = sorted((target, count) for (importer, target), count in arrows().items() if importer == name)
        print(f"  {name:24}{lines:6}  -> {', '.join(f'{target} {count}' for target, count in targets) or '-'}")
    product = sum(lines for name, lines in rooms().items() if not name.startswith("core.evaluation"))
    print(f"product (without core.evaluation): {product:,} lines")
    print(f"import cycles: {len(cycles())}")
    for loop in cycles():
        print(f"  {' <- '.join(loop)}")
    print(f"tokens a line, 90th percentile: {percentile_90(tokens_a_line())}")
    print(f"comprehensions a 1,000 lines: {comprehensions():.1f}")
    names = filler_names()
    print(f"filler names: {len(names)}")
    if "--names" in sys.argv:
        print("\n".join(names))


if __name__ == "__main__":
    main()
