"""Lines of type as they stand on paper -> the text that a reader reads. Pure; knows no PDF library."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, zip_longest
from statistics import median

MARGIN = 0.15  # of the page's height, above and below: where running heads and page numbers stand
SENTENCE_END = tuple(".!?:;…。！？" + "\"'”’»)")
SOFT_HYPHEN = "\u00ad"
COMPOUND = ("half", "self", "well", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")

# What NFKC may touch: ligatures, Arabic presentation forms, fullwidth forms. Not ², ½ or ™: 10² must not become 102.
_LIGATURES = re.compile("[\ufb00-\ufdff\ufe70-\ufefc\uff01-\uff5e]+")
_BULLETS = str.maketrans("\uf0b7\uf0a7\uf0d8", "•▪•")  # Symbol and Wingdings
_LEADERS = re.compile(r"\s?(?:\.\s?){5,}")  # dots that lead the eye to a page number
_NUMBER = re.compile(r"(?<!\d)\d{1,4}(?!\d)")
_LETTERS = r"[^\W\d_⁰¹²³⁴-⁹]+"
_WORD = re.compile(rf"{_LETTERS}(?:[-‐’']{_LETTERS})*")
_BROKEN = re.compile(rf"({_LETTERS}(?:[-‐]{_LETTERS})*)[-‐]$")  # the last word of a line that ends in a hyphen
_REST = re.compile(rf"{_LETTERS}(?:[-‐]{_LETTERS})*")
_RANGE = re.compile(r"\d[-‐–/]$")
_ITEM = re.compile(r"(?:[•‣◦▪●○■□–—*·]|\(?(?:\d{1,3}|[a-z])[.)])\s")  # a list's bullet or number
_LONE = re.compile(  # 7, - 7 -, [vii], Page 7 of 9
    r"[-–—\s[|]*(?:page\s+)?(?:\d{1,3}|(?=[xvi])x{0,3}(?:ix|iv|v?i{0,3}))(?:\s*(?:/|of)\s*\d{1,3})?[-–—\s\]|]*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Line:
    """A run of type on one baseline. Points from the page's upper left corner, y grows downwards."""

    text: str
    x0: float
    y0: float
    x1: float
    y1: float
    size: float  # of the type
    block: int = 0  # which of the page's blocks it stands in; blocks come in reading order
    cells: int = 1  # more than one: a table's row


@dataclass(frozen=True)
class Sheet:
    """One page's lines, in reading order."""

    height: float
    lines: tuple[Line, ...]


def read_sheets(sheets: Sequence[Sheet]) -> list[str]:
    """The clean text of each page: running heads and page numbers gone, broken words and lines joined, paragraphs and
    list items on lines of their own, with an empty line where the page leaves room. Nothing else is left out.
    """
    sheets = [replace(sheet, lines=tuple(_rows(sheet.lines))) for sheet in sheets]
    sheets = without_running_heads(sheets)
    words = vocabulary(line.text for sheet in sheets for line in sheet.lines)
    return _mend_page_breaks([_text_of(sheet, words) for sheet in sheets], words)


def tidy(text: str) -> str:
    """Ligatures spelled out, blanks single spaces, nothing invisible (but a soft hyphen at the end stays)."""
    text = unicodedata.normalize("NFC", text.translate(_BULLETS))
    text = _LIGATURES.sub(lambda run: unicodedata.normalize("NFKC", run[0]), text)
    text = _LEADERS.sub(" … ", text)
    broken = SOFT_HYPHEN if text.rstrip().endswith(SOFT_HYPHEN) else ""
    kept = "".join(c if c.isprintable() or c in "\u200c\u200d" else " " * c.isspace() for c in text)
    return " ".join(kept.split()) + broken


# Running heads


def without_running_heads(sheets: Sequence[Sheet]) -> list[Sheet]:
    """Peel from the top and from the bottom of every page, as far as they stand apart from the text, the lines that
    return from page to page; and lone page numbers. A page of nothing else keeps them."""
    heads = _heads(sheets)
    return [replace(sheet, lines=tuple(_peeled(sheet, at, heads))) for at, sheet in enumerate(sheets)]


def _heads(sheets: Sequence[Sheet]) -> set[tuple[str, str]]:
    """The marks that lines in the same margin of most pages share, or of three pages close together: a chapter's title.
    What is there twice on a page is a list's or a table's."""
    pages: dict[tuple[str, str], list[int]] = defaultdict(list)
    for at, sheet in enumerate(sheets):
        marks = Counter(mark for line in sheet.lines for mark in _marks(line, sheet, at))
        for mark in (mark for mark, count in marks.items() if count == 1):
            pages[mark].append(at)
    most = max(2, 0.4 * len(sheets))  # a left and a right head share the pages between them
    return {mark for mark, at in pages.items() if len(at) >= most or _huddle(at)}


def _huddle(at: Sequence[int]) -> bool:
    return any(third - first <= 4 for first, third in zip(at, at[2:], strict=False))


def _edge(line: Line, sheet: Sheet) -> str:
    return "top" if line.y1 < MARGIN * sheet.height else "bottom" if line.y0 > (1 - MARGIN) * sheet.height else ""


def _marks(line: Line, sheet: Sheet, at: int) -> set[tuple[str, str]]:
    """(edge, mark) of what a line in the margin may share with those of other pages: its text, its text but for one
    number that counts as the pages do, or such a number alone, at an end of the line."""
    edge, text = _edge(line, sheet), line.text.casefold()
    if not edge or not any(character.isalpha() for character in text):
        return set()
    marks = {text}
    for number in _NUMBER.finditer(text):
        counts = f"#{int(number[0]) - at:+}"
        marks.add(text[: number.start()] + counts + text[number.end() :])
        marks.update(["first " + counts] * (number.start() == 0) + ["last " + counts] * (number.end() == len(text)))
    return {(edge, mark) for mark in marks}


def _peeled(sheet: Sheet, at: int, heads: set[tuple[str, str]]) -> list[Line]:
    gone: set[Line] = set()
    apart, rows = 1.25 * _pitch(sheet.lines), _baselines(sheet.lines)
    for edge, order in (("top", rows), ("bottom", rows[::-1])):
        run: list[Line] = []
        for row, beyond in zip_longest(order, order[1:]):
            lone = all(_is_lone(line) for line in row)
            if _edge(row[0], sheet) != edge or not (lone or any(heads & _marks(line, sheet, at) for line in row)):
                break
            run += row
            if lone or (beyond and abs(beyond[0].y0 - row[0].y0) > apart):
                gone.update(run)
    kept = [line for line in sheet.lines if line not in gone]
    return kept or [line for line in sheet.lines if not _is_lone(line)]


def _is_lone(line: Line) -> bool:
    return bool(_LONE.fullmatch(line.text))


def _baselines(lines: Sequence[Line]) -> list[list[Line]]:
    """From top to bottom, the lines that stand side by side."""
    rows: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: line.y0):
        if rows and line.y0 - rows[-1][0].y0 < 0.5 * line.size:
            rows[-1].append(line)
        else:
            rows.append([line])
    return rows


def _pitch(lines: Sequence[Line]) -> float:
    """The usual distance from one line to the next below it: double spacing at most, also on a page of few lines."""
    steps = [below.y0 - above.y0 for above, below in pairwise(lines) if below.y0 > above.y0]
    sizes = [line.size for line in lines]
    return min(median(steps), 2.5 * median(sizes)) if steps else 0.0


# Lines and paragraphs


def _rows(lines: Sequence[Line]) -> Iterator[Line]:
    """Pieces of one block on one baseline as one line: a table's row, or a line with a wide gap."""
    row: Line | None = None
    for line in lines:
        if row and line.block == row.block and _beside(row, line):
            cells = row.cells + (line.x0 - row.x1 > row.size)
            row = replace(row, text=f"{row.text} {line.text}", x1=line.x1, cells=cells)
        else:
            if row:
                yield row
            row = line
    if row:
        yield row


def _beside(left: Line, right: Line) -> bool:
    slack = 0.3 * left.size
    return right.x0 > left.x1 - slack and abs(right.y1 - left.y1) < slack


def _text_of(sheet: Sheet, words: set[str]) -> str:
    text: list[str] = []
    above: Line | None = None
    for stack in _stacks(sheet.lines):
        first, *rest = _paragraphs(stack, words)
        if above and _same_size(above, stack[0]) and runs_on(text[-1], first):  # past a column's end, or a picture
            text[-1] = join_lines((text[-1], first), words)
        else:
            text += ["\n\n", first] if text else [first]
        text += [part for paragraph in rest for part in ("\n", paragraph)]
        above = stack[-1]
    return "".join(text)


def _stacks(lines: Sequence[Line]) -> list[list[Line]]:
    """Lines set one below the other at the page's usual distance; MuPDF makes each line of double spacing a block."""
    most = 1.2 * _pitch(lines)
    stacks: list[list[Line]] = []
    for line in lines:
        above = stacks[-1][-1] if stacks else None
        if above and (line.block == above.block or _close(above, line, most)):
            stacks[-1].append(line)
        else:
            stacks.append([line])
    return stacks


def _close(above: Line, below: Line, most: float) -> bool:
    return 0 < below.y0 - above.y0 <= most and _same_size(above, below) and below.x0 < above.x1


def _same_size(above: Line, below: Line) -> bool:
    return abs(above.size - below.size) < 0.15 * above.size


def _paragraphs(stack: Sequence[Line], words: set[str]) -> list[str]:
    edge = max(line.x1 for line in stack)
    groups = [[stack[0].text]]
    for above, below in pairwise(stack):
        if _starts_anew(above, below, edge):
            groups.append([])
        groups[-1].append(below.text)
    return [join_lines(group, words) for group in groups]


def _starts_anew(above: Line, below: Line, edge: float) -> bool:
    """Whether the line break was meant: a list item, another size of type, a table's row, an indented first line, or a
    line that left room for the next line's first word."""
    if _is_broken(above.text):
        return False
    word = (below.x1 - below.x0) * (len(below.text.split(" ")[0]) + 1) / len(below.text)
    return bool(
        _ITEM.match(below.text)
        or above.cells > 1
        or below.cells > 1
        or not _same_size(above, below)
        or edge - above.x1 > word
        or (below.x0 - above.x0 > 0.8 * above.size and above.text.endswith(SENTENCE_END))
    )


def runs_on(left: str, right: str) -> bool:
    """Whether a sentence goes on from one piece of text into the next."""
    return bool(left) and right[:1].islower() and not left.endswith(SENTENCE_END)


# Words broken at line ends


def vocabulary(lines: Iterable[str]) -> set[str]:
    """The words, in small letters, that stand whole within lines."""
    words: set[str] = set()
    broken = False
    for line in lines:
        whole = _WORD.findall(line.casefold())
        words.update(whole[broken : -1 if _is_broken(line) else None])
        broken = _is_broken(line)
    return words


def _is_broken(line: str) -> bool:
    return line.endswith(SOFT_HYPHEN) or bool(_broken(line))


def _broken(line: str) -> re.Match[str] | None:
    return _BROKEN.search(line[-99:]) if line.endswith(("-", "‐")) else None


def join_lines(lines: Sequence[str], words: set[str]) -> str:
    """Lines as one, by spaces; a word broken by a hyphen is made whole."""
    text = list(lines[:1])
    for left, right in pairwise(lines):
        text[-1], between = _seam(text[-1], left, right, words)
        text += [between, right]
    return "".join(text)


def _seam(tail: str, left: str, right: str, words: set[str]) -> tuple[str, str]:
    """The left line as it is to stay, and what goes between it and the right one."""
    if tail.endswith(SOFT_HYPHEN):
        return tail[:-1], ""
    if _RANGE.search(left[-2:]) and right[:1].isdecimal():  # 1874-/1880
        return tail, ""
    broken, rest = _broken(left), _REST.match(right)
    if not broken or not rest or rest[0] in ("and", "or", "to"):  # two- and three-masted
        return tail, "" if _is_cjk(left[-1:]) and _is_cjk(right[:1]) else " "
    return (tail, "") if _keeps_hyphen(broken[1], rest[0], words) else (tail[:-1], "")


def _keeps_hyphen(left: str, right: str, words: set[str]) -> bool:
    """Does "left-/right" at a line's end stand for left-right? What the rest of the document writes decides. Where it
    says nothing, the hyphen stays before a capital, in longer compounds, after half-, self-, well- and the tens, and
    between two words of four letters or more that the document uses alone. All else is a word that was broken.
    """
    capital = right[0].isupper() and not left.isupper()
    left, right = left.casefold(), right.casefold()
    if f"{left}-{right}" in words or f"{left}‐{right}" in words:
        return True
    if left + right in words:
        return False
    both = min(len(left), len(right)) >= 4 and {left, right} <= words
    return capital or both or left in COMPOUND or "-" in left + right


def _is_cjk(character: str) -> bool:
    return unicodedata.east_asian_width(character) in ("W", "F") if character else False


def _mend_page_breaks(texts: list[str], words: set[str]) -> list[str]:
    """Bring the rest of a word that the end of a page breaks back to where it began."""
    texts = list(texts)
    for at in range(1, len(texts)):
        if _is_broken(texts[at - 1]) and texts[at][:1].islower():
            rest, _, texts[at] = texts[at].partition(" ")
            texts[at - 1] = join_lines((texts[at - 1], rest), words)
    return [text.rstrip(SOFT_HYPHEN) for text in texts]
