"""What a file says of itself, as lines of text: title, author, date, headings."""

from __future__ import annotations

import re
from calendar import month_name
from collections.abc import Sequence

from core.document.text import tidy

HEADINGS = 60  # of a document that are listed
FEWEST = 3  # headings that are worth a list
NO_TITLE = re.compile(
    r"untitled|unbenannt|microsoft |\.(?:docx?|pptx?|xlsx?|tex|dvi|ps|pdf|indd|qxd|odt)\b"
    r"|^(?:document|slide|presentation|powerpoint presentation) ?\d*$|[\\/]\w+[\\/]",
    re.IGNORECASE,
)
NO_AUTHOR = re.compile(
    r"^(?:user|admin\w*|owner|author|unknown|root|none|default|openpyxl|python-\w+)$|microsoft|adobe|latex|groff", re.I
)


def about(title: str = "", author: str = "", date: str = "", headings: Sequence[tuple[int, str, int]] = ()) -> str:
    """What programs put there when nobody did is left out.

    Args:
        date: begins with a year, month and day: 2021-05-03T10:00:00Z, D:20210503100000.
        headings: (level, text, page), the first level being 1 and page 0 for none.
    """
    title, author = tidy(title), tidy(author)
    rows = [(level, tidy(text), page) for level, text, page in headings]
    while len(rows) > HEADINGS:  # the deepest level goes first
        deepest = max(level for level, *_ in rows)
        rows = [row for row in rows if row[0] < deepest] if deepest > 1 else rows[:HEADINGS]
    contents = "; ".join(f"{text} (page {page})" if page else text for _, text, page in rows if text)
    lines = [
        f"Title: {title}" if len(title) > 3 and not NO_TITLE.search(title) else "",
        f"Author: {author}" if len(author) > 3 and not NO_AUTHOR.search(author) else "",
        f"Contents: {contents}" if contents else "",
    ]
    if any(lines) and (day := _date(date)):
        lines.insert(2, f"Date of this file: {day}")
    return "\n".join(filter(None, lines))


def _date(written: str) -> str:
    """ "2021-05-03T10:00:00Z" -> "3 May 2021"; "" when it begins with no date."""
    match = re.match(r"(?:D:)?(\d{4})(?:-?(\d\d))?(?:-?(\d\d))?", written)
    if not match:
        return ""
    year, month, day = (int(part or 0) for part in match.groups())
    name = f"{month_name[month]} " if 0 < month <= 12 else ""
    return f"{day} {name}{year}" if name and 0 < day <= 31 else f"{name}{year}"
