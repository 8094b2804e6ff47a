"""Text that has no pages of its own: cut into pages for citations, its encoding found, its tables read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import filterfalse, pairwise
from typing import Any

from core.document.about import about
from core.document.places import ABOUT, Block, heading, join_blocks
from core.document.tables import has_heading, line_of, row_sentences, rows_as_text, without_breaks
from core.document.text import one_line

PAGE_LENGTH = 3_000  # characters, about what a printed page holds
BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
DELIMITERS = ",;\t"
_LINK = re.compile(r"!?\[([^\]\n]*)\]\((?:[^()\s]|\([^()\s]*\))*(?:\s+\"[^\"\n]*\")?\)")
_REFERENCE = re.compile(r"(?<!\])!?\[([^\[\]]+)\](?:\[([^\[\]]*)\])?+(?!\()")  # a link by reference
_ADDRESS = re.compile(  # of such links, in a line of its own
    r"(?m)^ {0,3}\[([^\[\]^][^\[\]]*)\]:[ \t]*\n?[ \t]*<?\S*[/#@.]\S*(?:[ \t]+[\"'(].*)?$\n?"
)
_FRONT = re.compile(r"\A---\n((?:[\w-]+:.*\n|[ \t-].*\n|\n)+)(?:---|\.\.\.)\n")  # YAML before Markdown
_WORD = re.compile(r"(?:!?\[[^\]\n]*\]\([^)\n]*\)|\S)+")  # what an editor wraps as one: a link has no place to break
_HEADING = re.compile(r"#{1,6}\s+(.*?)\s*#*")
_UNDERLINED = re.compile(r"(?m)(?:\A|(?<=\n\n))\n*(\S.{0,98})\n(?:=|-){3,} *$")  # a heading, after an empty line
_RULE = re.compile(r"\s*(?:[-*_=]\s*){3,}")
_TABLE_RULE = re.compile(r"\s*\|?(?:\s*:?-{2,}:?\s*\|)+\s*(?::?-{2,}:?)?\s*")
_HTML = re.compile(  # which Markdown may hold
    r"<!--.*?-->|</?(?:a|abbr|b|blockquote|br|center|code|dd|details|div|dl|dt|em|figure|h[1-6]|hr|i|img|kbd|li|ol|p|picture"
    r"|pre|q|small|source|span|strong|sub|summary|sup|table|tbody|td|tfoot|th|thead|tr|u|ul)(?:\s[^<>]*)?/?>",
    re.DOTALL | re.IGNORECASE,
)
_BOLD = re.compile(r"\*\*(?=\S)((?:(?!\*\*).)+?)(?<=\S)\*\*", re.DOTALL)  # also over the end of a line
_EMPHASIS = re.compile(r"(\*\*|__|\*|(?<!\w)_|`)(?=\S)(.+?)(?<=\S)\1(?!\w)")


def pages_of(blocks: Sequence[str], own: str = "") -> dict[str, Any]:
    """Paragraphs, headings and tables as pages of about 3,000 characters, with their places: under which heading, in
    which row, else in which part.

    Args:
        own: what the file says of itself, to stand first.
    """
    pages: list[list[str]] = [[Block(own, ABOUT)] if own else []]
    room = PAGE_LENGTH
    for block in filter(str.strip, blocks):
        if pages[-1] and len(block) > room:
            pages.append([])
            room = PAGE_LENGTH
        pages[-1].append(block if isinstance(block, Block) else block.strip())
        room -= len(block)
    texts, places, last = [], [], ""
    for number, page in enumerate(pages, start=1):
        text, begin = join_blocks(page)
        body = len(own) + 2 if own and number == 1 else 0
        if body <= len(text) and body not in dict(begin):
            part = f"part {number}" if len(pages) > 1 else ""
            begin.append((body, last or part))
        texts.append(text)
        places.append(sorted(begin))
        for block in page:
            if isinstance(block, Block) and block.place != ABOUT:
                last = block.place
    return {"texts": texts, "places": places}


def decoded(data: bytes) -> str:
    """Text in any encoding: by its mark, as UTF-8, else by what its letters make likely.

    Raises: UnicodeDecodeError.
    """
    for mark, encoding in BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return data.decode(encoding)
    try:
        return data.decode()
    except UnicodeDecodeError:
        from charset_normalizer import from_bytes

        best = from_bytes(data[:200_000]).best()
        return data.decode(best.encoding if best else "cp1252", errors="replace").replace("\ufffd", "")


def read_text(data: bytes) -> dict[str, object]:
    """Plain text, Markdown, or values that are parted by commas."""
    text = decoded(data).replace("\r\n", "\n").replace("\r", "\n")
    if table := _delimited(text):
        return pages_of([Block(row, f"row {n}") for n, row in enumerate(table_blocks(table), start=1)])
    if "\f" in text.strip("\f\n"):
        return {"texts": list(map(_paragraphs, text.split("\f")))}
    said: dict[str, str] = {}
    if front := _FRONT.match(text):
        text = text[front.end() :]
        for key, value in re.findall(r"(?m)^([\w-]+):(.*)$", front[1]):
            said[key.casefold()] = value.strip("\"' ")
    return pages_of(_markdown(text), about(said.get("title", ""), said.get("author", ""), said.get("date", "")))


def table_blocks(rows: Sequence[Sequence[str]]) -> list[str]:
    """A large table: each row as a sentence where the first one names the columns, else as it stands."""
    rows = without_breaks(rows)
    lines = list(map(line_of, rows))
    return [lines[0], *row_sentences(rows)] if has_heading(rows) else lines


def _delimited(text: str) -> list[list[str]]:
    """Rows of CSV, where every one of the first lines has as many cells; else nothing."""
    import csv

    first = list(filter(str.strip, text.split("\n", 20)[:20]))
    for delimiter in DELIMITERS:
        widths = set(map(len, csv.reader(first, delimiter=delimiter)))
        if len(first) >= 3 and len(widths) == 1 and min(widths) > 1:
            rows = list(csv.reader(text.splitlines(), delimiter=delimiter))
            return rows if has_heading(rows) else []
    return []


def _paragraphs(text: str) -> str:
    return "\n\n".join(map(_unwrapped, filter(str.strip, re.split(r"\n\s*\n", text))))


def _unwrapped(paragraph: str) -> str:
    """Lines that were wrapped at a fixed width as one; a list's, a poem's, an address's lines stay."""
    lines = list(filter(None, map(str.strip, paragraph.splitlines())))
    widest = max(map(len, lines), default=0)
    text = lines[:1]
    for above, below in pairwise(lines):
        first = _WORD.search(below)
        wrapped = widest >= 50 and len(above) + (first.end() if first else 0) >= 0.8 * widest
        item = re.match(r"(?:[-*•+]|\d{1,3}[.)])\s", below)
        text += [" " if wrapped and not item else "\n", below]
    return "".join(text)


def _markdown(text: str) -> list[str]:
    """Paragraphs without Markdown's marks; its tables by rows and as sentences. Plain text stays as it is."""
    blocks: list[str] = []
    text = _without_addresses(text)
    for number, part in enumerate(re.split(r"(?m)^ {0,3}(?:```|~~~).*$", text)):
        if number % 2:  # code
            blocks.append(part.strip("\n"))
            continue
        part = _UNDERLINED.sub(r"# \1\n", part)
        for paragraph in re.split(r"\n\s*\n|\n(?=#{1,6} )|(?<=\n)(#{1,6} .*)\n", part):
            blocks += _plain(paragraph) if paragraph else []
    return blocks


def _plain(paragraph: str) -> list[str]:
    paragraph = _BOLD.sub(r"\1", _HTML.sub("", paragraph))
    lines = list(filter(str.strip, paragraph.splitlines()))
    if len(lines) > 1 and _TABLE_RULE.fullmatch(lines[1]):
        rows = []
        for line in (lines[0], *lines[2:]):
            rows.append(list(map(_bare, line.strip().strip("|").split("|"))))
        return [rows_as_text(rows)]
    kept = list(filterfalse(_RULE.fullmatch, lines))
    if not kept:
        return []
    title = _HEADING.fullmatch(kept[0].strip()) if len(kept) == 1 else None
    if title:
        return [heading(_bare(title[1]))]
    return [_bare(_unwrapped("\n".join(kept)))]


def _without_addresses(text: str) -> str:
    """Links by reference as their words, and without the list of their addresses."""
    names = set(map(_folded, _ADDRESS.findall(text)))

    def words(link: re.Match[str]) -> str:
        return link[1] if _folded(link[2] or link[1]) in names else link[0]

    text = _ADDRESS.sub("", text) if names else text
    for _ in range(2 if names else 0):  # a picture may be a link's words
        text = _REFERENCE.sub(words, text)
    return text


def _folded(name: str) -> str:
    return one_line(name.casefold())


def _bare(text: str) -> str:
    return _EMPHASIS.sub(r"\2", _LINK.sub(r"\1", text))
