"""Characters and words as a reader means them: ligatures, accents, words that a line's end breaks."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import pairwise

SENTENCE_END = tuple(".!?:;…。！？" + "\"'”’»)")
SOFT_HYPHEN = "\u00ad"
COMPOUND = ("half", "self", "well", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")

# What NFKC may touch: ligatures, Arabic presentation forms, fullwidth forms, mathematical letters. Not ², ½ or ™: 10²
# must not become 102.
_COMPATIBLE = re.compile("[\ufb00-\ufdff\ufe70-\ufefc\uff01-\uff5e\U0001d400-\U0001d7ff]+")
# Accents that TeX's old fonts print on their own, beside their letter -> as combining characters
_ACCENTS = dict(
    zip("´`¨ˆ˜˝˘ˇ¸˚˛˙", "\u0301\u0300\u0308\u0302\u0303\u030b\u0306\u030c\u0327\u030a\u0328\u0307", strict=True)
)
_DOTLESS = str.maketrans("ıȷ", "ij")
_LETTER = r"(?![ˆˇ])([^\W\d_])"  # Unicode counts these two accents as letters
_BEFORE = re.compile(
    rf"(?<![/\\])(?:[´ˆ˝˘ˇ¸˚˛˙]|¨(?= ?[aeiouyıAEIOUY])|˜(?=[anoANO])|(?<=[^\W\d_])`)(?:(?<=[^\W\d_].) )?{_LETTER}"
)
_AFTER = re.compile(rf"{_LETTER}([´¨ˆ˝˘ˇ¸˚˛])")
_BULLETS = str.maketrans("\uf0b7\uf0a7\uf0d8", "•▪•")  # Symbol and Wingdings
_LEADERS = re.compile(r"\s?(?:\.\s?){5,}")  # dots that lead the eye to a page number
_LETTERS = r"[^\W\d_⁰¹²³⁴-⁹]+"
_WORD = re.compile(rf"{_LETTERS}(?:[-‐’']{_LETTERS})*")
_BROKEN = re.compile(rf"({_LETTERS}(?:[-‐]{_LETTERS})*)[-‐]$")  # the last word of a line that ends in a hyphen
_REST = re.compile(rf"{_LETTERS}(?:[-‐]{_LETTERS})*")
_ADDRESS = re.compile(r"(?:https?://|www\.)\S*[/_=&?]$|(?:^|\s)/(?:[\w.-]+/)*$")  # or a path, that goes on below
_RANGE = re.compile(r"\d[-‐–/]$")

# Characters that show nothing, or turn what stands beside them around: controls but tab and line feed, Unicode's format
# characters but the two joiners that scripts need, tags and the variation selectors beside them
_UNSEEN = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e0fff]"
)


def counted(number: int, noun: str) -> str:
    """1, "page" -> "1 page"; 2000, "page" -> "2,000 pages"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def visible(text: str) -> str:
    """Without characters that nobody sees; a space for those that part words."""
    return _UNSEEN.sub(lambda match: " " if match[0].isspace() else "", text)


def unseen(text: str) -> list[int]:
    """Where those stand that `visible` leaves out, in order."""
    return [match.start() for match in _UNSEEN.finditer(text) if not match[0].isspace()]


def one_line(text: str) -> str:
    """With single spaces for its blanks and line ends."""
    return " ".join(text.split())


def tidy(text: str) -> str:
    """Ligatures spelled out, blanks single spaces, nothing invisible (but a soft hyphen at the end stays)."""
    text = unicodedata.normalize("NFC", text.translate(_BULLETS))
    text = _COMPATIBLE.sub(lambda run: unicodedata.normalize("NFKC", run[0]), text)
    text = _AFTER.sub(_accented, _BEFORE.sub(_accented, text))
    text = _LEADERS.sub(" … ", text)
    broken = SOFT_HYPHEN if text.rstrip().endswith(SOFT_HYPHEN) else ""
    return one_line("".join(filter(_is_shown, text))) + broken


def _is_shown(character: str) -> bool:
    return character.isprintable() or character.isspace() or character in "\u200c\u200d"


def _accented(match: re.Match[str]) -> str:
    """A letter and its accent as one character, where there is such a letter; else as they were."""
    (letter,) = set(match.groups()) - set(_ACCENTS)
    accent = next(filter(_ACCENTS.__contains__, match[0]))
    whole = unicodedata.normalize("NFC", letter.translate(_DOTLESS) + _ACCENTS[accent])
    return whole if len(whole) == 1 else match[0]


def runs_on(left: str, right: str) -> bool:
    """Whether a sentence goes on from one piece of text into the next."""
    return bool(left) and right[:1].islower() and not left.endswith(SENTENCE_END)


def vocabulary(lines: Iterable[str]) -> set[str]:
    """The words, in small letters, that stand whole within lines."""
    words: set[str] = set()
    broken = False
    for line in lines:
        whole = _WORD.findall(line.casefold())
        words.update(whole[broken : -1 if is_broken(line) else None])
        broken = is_broken(line)
    return words


def is_broken(line: str) -> bool:
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
    if _ADDRESS.search(left) and right[:1].isalnum():
        return tail, ""
    broken, rest = _broken(left), _REST.match(right)
    if not broken or not rest or rest[0] in ("and", "or", "to"):  # two- and three-masted
        return tail, "" if _is_cjk(left[-1:]) and _is_cjk(right[:1]) else " "
    if not _keeps_hyphen(broken[1], rest[0], words):
        tail = tail[:-1]
    return tail, ""


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
