"""Numbers, times and cut texts in words."""

from __future__ import annotations

import math

from core.document.text import counted as count
from core.types import Certainty


def seconds(value: float) -> str:
    """0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def in_words(value: float) -> str:
    """24 seconds, 3 minutes, 2 hours: rounded up, so that trying again then works."""
    for size, noun in ((3600, "hour"), (60, "minute")):
        if value >= size:
            return count(math.ceil(value / size), noun)
    return count(max(1, math.ceil(value)), "second")


def with_ellipsis(text: str) -> str:
    """What a model says, with an ellipsis where it seems to have been stopped in the middle of a sentence."""
    return f"{text} …" if len(text.split()) > 6 and text[-1].isalnum() else text


def not_found_in(name: str, closest: str = "") -> str:
    """Of a document that was asked. closest: the place to look at, where there is one."""
    look_at = f" The closest part is {closest}." if closest else ""
    return f"I can't find that in {name}.{look_at}"


def certainty_label(value: Certainty) -> str:
    """How an answer's certainty is shown. ABSENT is "not found": only the weights were asked, not the text."""
    return "not found" if value is Certainty.ABSENT else str(value)


def ago(value: float) -> str:
    for size, noun in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if value >= size:
            return f"{count(int(value // size), noun)} ago"
    return "just now"
