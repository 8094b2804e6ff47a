"""What a file says of itself, as lines of text: title, author, date, headings. And what a document is called."""

from __future__ import annotations

import re
from calendar import month_abbr, month_name
from collections.abc import Sequence
from itertools import filterfalse, islice
from pathlib import PurePath

from core.document.places import ABOUT
from core.document.text import one_line, tidy
from core.types import Page

MAX_HEADINGS = 60  # of a document that are listed
BEGINNING_LENGTH = 800  # characters in which a document says when it was published, on a short line
NO_TITLE = re.compile(
    r"untitled|unbenannt|microsoft |\.(?:docx?|pptx?|xlsx?|tex|dvi|ps|pdf|indd|qxd|odt)\b"
    r"|^(?:document|slide|presentation|powerpoint presentation) ?\d*$|[\\/]\w+[\\/]",
    re.IGNORECASE,
)
NO_AUTHOR = re.compile(
    r"^(?:user|admin\w*|owner|author|unknown|root|none|default|openpyxl|python-\w+)$|microsoft|adobe|latex|groff", re.I
)


_MONTH = "|".join([*month_name[1:], *(f"{name}\\.?" for name in month_abbr[1:]), "Sept\\.?"])
_DAY, _YEAR = r"\d{1,2}(?:st|nd|rd|th)?", r"(?:19|20)\d\d\b"
_DATE = re.compile(
    rf"\b(?:(?:{_MONTH})\s+{_DAY},?\s+{_YEAR}|(?:{_DAY}\s+)?(?:{_MONTH}),?\s+{_YEAR}"
    rf"|\d{{1,2}}\.\s?\d{{1,2}}\.\s?{_YEAR}|{_YEAR}[-/.](?:0[1-9]|1[0-2])[-/.](?:0[1-9]|[12]\d|3[01])\b)"
)
_BY = re.compile(r"(?:by|von|par|authors?:?)\s+", re.IGNORECASE)
_PAIR = re.compile(r"[^\W\d_]\S* \S+,? (?:and|&) \S+ \S*[^\W\d_]")  # two names of two words
_INITIAL = re.compile(r"\b[A-Z]\.")
_NO_NAME = re.compile(r"<[^>]*>|\S+@\S+|[*†‡§¶¹²³⁴-⁹]")
_TITLE = re.compile(r"Title: (.+)")
LOWER = {"and", "&", "by", "de", "del", "der", "van", "von", "la", "le", "et", "und", "y", "authors", "author"}
_ENDING = re.compile(
    r"\.(?:pdf|docx|pptx|xlsx|epub|html?|md|markdown|txt|csv|tsv|png|jpe?g|gif|bmp|tiff?)$", re.IGNORECASE
)


def about(
    title: str = "",
    author: str = "",
    date: str = "",
    headings: Sequence[tuple[int, str, int]] = (),
    published: str = "",
) -> str:
    """What programs put there when nobody did is left out.

    Args:
        date: of the file; begins with a year, month and day: 2021-05-03T10:00:00Z, D:20210503100000.
        headings: (level, text, page), the first level being 1 and page 0 for none.
        published: the date that the document itself shows; then the file's is left out.
    """
    title, author = tidy(title), tidy(author)
    title = title if len(title) > 3 and not NO_TITLE.search(title) else ""
    author = author if len(author) > 3 and not NO_AUTHOR.search(author) else ""
    contents = _contents([(level, tidy(text), page) for level, text, page in headings])
    if not (title or author or contents):
        return ""
    lines = {
        "Title": title,
        "Author": author,
        "Published": published,
        "Date of this file": "" if published else _date(date),
        "Contents": contents,
    }
    return "\n".join(f"{name}: {value}" for name, value in lines.items() if value)


def printed_date(text: str) -> str:
    """The date that a document's beginning shows on a line of its own; "" for none."""
    for line in text[:BEGINNING_LENGTH].splitlines():
        if (date := _DATE.search(line)) and len(line.split()) <= 8:
            return date[0]
    return ""


def byline(text: str, title: str) -> str:
    """Who wrote a document, where a line below its title names people; "" for none."""
    lines = filterfalse(title.__contains__, map(str.strip, text[:BEGINNING_LENGTH].splitlines()))
    for line in islice(lines, 2):
        names = _NO_NAME.sub(" ", line)
        words = list(filterfalse(LOWER.__contains__, names.split()))
        is_capital = all(word[0].isupper() for word in words)
        by = _BY.match(names)
        is_named = by or _INITIAL.search(names) or "@" in line or _PAIR.search(names)
        if is_capital and is_named and 1 < len(words) <= 16:
            return one_line(names[by.end() :] if by else names).strip(" ,")
    return ""


def own_text(pages: Sequence[Page]) -> str:
    """What the file says of itself, as it stands before its text; "" for nothing."""
    first = next((page for page in pages if page.text.strip()), None)
    return first.text[: own_length(first)] if first else ""


def own_length(page: Page) -> int:
    """How many characters at the beginning of a page are what the file says of itself; 0 on all pages but one."""
    if page.places[:1] != ((0, ABOUT),):
        return 0
    return page.places[1][0] if len(page.places) > 1 else len(page.text)


def own_title(pages: Sequence[Page]) -> str:
    """The title that a document gives itself; "" for none."""
    title = _TITLE.match(own_text(pages))
    return title[1] if title else ""


def file_title(name: str) -> str:
    """A file's name as a title: without its ending, and with blanks where the name has none."""
    stem = _ENDING.sub("", PurePath(name).name)
    return re.sub(r"_+" if " " in stem else r"[_-]+", " ", stem).strip()


def title_of(name: str, pages: Sequence[Page]) -> str:
    """What a document is called: the title that it gives itself, else its file's name."""
    return own_title(pages) or file_title(name) or name


def _contents(rows: Sequence[tuple[int, str, int]]) -> str:
    """The headings with their pages; of too many, the deepest level goes first."""
    while len(rows) > MAX_HEADINGS:
        deepest = max(level for level, *_ in rows)
        rows = [row for row in rows if row[0] < deepest] if deepest > 1 else rows[:MAX_HEADINGS]
    entries = []
    for _, text, page in rows:
        if text:
            entries.append(f"{text} (page {page})" if page else text)
    return "; ".join(entries)


def _date(written: str) -> str:
    """ "2021-05-03T10:00:00Z" -> "3 May 2021"; "" when it begins with no date."""
    match = re.match(r"(?:D:)?(\d{4})(?:-?(\d\d))?(?:-?(\d\d))?", written)
    if not match:
        return ""
    year, month, day = (int(part or 0) for part in match.groups())
    if not 0 < month <= 12:
        return f"{year}"
    return f"{day} {month_name[month]} {year}" if 0 < day <= 31 else f"{month_name[month]} {year}"
