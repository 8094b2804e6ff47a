"""Make `sample.pdf` and `sample.squad.json` out of `handbook.md`. Deterministic; run it after a change there.

    python core/evaluation/sample/make.py

In the source, `#` begins a chapter and `##` a section. A line `? QUESTION | ANSWER` asks about the section above it;
`?1` to `?6` are the demonstration's questions. Everything in it is invented.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pymupdf

HERE = Path(__file__).parent
TITLE = "The Handbook of Ostrel Island"
SUBTITLE = "for residents and visitors"
EDITION = "Seventh edition"

WIDTH, HEIGHT = 432.0, 648.0  # points: 6 by 9 inches
LEFT, RIGHT, TOP, BOTTOM = 58.0, 374.0, 82.0, 574.0  # of the text
SIZE, LEADING, INDENT = 10.4, 14.4, 13.0
INK, SEA, COPPER, FAINT = (0.13, 0.13, 0.15), (0.08, 0.29, 0.36), (0.72, 0.42, 0.22), (0.45, 0.49, 0.52)
ROMAN, BOLD, ITALIC, SANS = (pymupdf.Font(name) for name in ("tiro", "tibo", "tiit", "helv"))

# fmt: off
SYLLABLES = (  # where a word of the sample may be broken
    "after-noon", "astrono-mer", "cap-tain", "cross-ing", "discov-ered", "emer-gency", "every-one", "eve-ning",
    "fisher-men", "found-ed", "gar-den", "hand-book", "har-bour", "hos-pital", "invent-ed", "librar-ian",
    "light-house", "mar-ket", "mem-bers", "medi-cine", "mid-night", "morn-ing", "news-paper", "passen-ger",
    "peb-bles", "schoolmas-ter", "settle-ment", "shep-herd", "sta-tion", "tele-scope", "tri-cycle", "visi-tors",
    "weath-er", "wid-ow", "wind-mills", "win-ter", "wood-en",
)
# fmt: on


@dataclass
class Section:
    """A heading, its paragraphs, and what is asked about them."""

    title: str
    chapter: bool  # whether the heading is a chapter's
    paragraphs: list[str] = field(default_factory=list)
    questions: list[tuple[str, str, str]] = field(default_factory=list)  # number in the demonstration, question, answer


def parse(source: str) -> list[Section]:
    sections: list[Section] = []
    for line in filter(None, map(str.strip, source.splitlines())):
        if heading := re.match(r"(#+) (.+)", line):
            sections.append(Section(heading[2], chapter=heading[1] == "#"))
        elif asked := re.match(r"\?(\d?) (.+) \| (.+)", line):
            sections[-1].questions.append((asked[1], asked[2], asked[3]))
        else:
            sections[-1].paragraphs.append(line)
    return sections


# The questions


def squad(sections: Sequence[Section]) -> dict[str, object]:
    """In the format of SQuAD 1.1: one article, a paragraph for each section."""
    numbers = count(1)
    paragraphs = []
    for section in filter(lambda section: section.questions, sections):
        context = "\n".join(section.paragraphs)
        qas = [_question(context, f"demo-{demo}" if demo else f"sample-{next(numbers)}", question, answer)
               for demo, question, answer in section.questions]  # fmt: skip
        paragraphs.append({"context": context, "qas": qas})
    return {"version": "1.1", "data": [{"title": TITLE, "paragraphs": paragraphs}]}


def _question(context: str, name: str, question: str, answer: str) -> dict[str, object]:
    match = re.search(rf"\b{re.escape(answer)}\b", context)
    if not match:
        raise ValueError(f"{answer!r} is not in the section that {question!r} asks about")
    return {"id": name, "question": question, "answers": [{"text": answer, "answer_start": match.start()}]}


# The document


class Book:
    """Pages that fill from top to bottom."""

    def __init__(self) -> None:
        self.document = pymupdf.open()
        self._new_page()

    def _new_page(self) -> None:
        self.page = self.document.new_page(width=WIDTH, height=HEIGHT)
        self.y = TOP

    def room(self, height: float) -> None:
        if self.y + height > BOTTOM:
            self._new_page()

    def write(self, x: float, y: float, text: str, font: pymupdf.Font, size: float, colour: tuple[float, ...]) -> None:
        writer = pymupdf.TextWriter(self.page.rect)
        writer.append((x, y), text, font=font, fontsize=size)
        writer.write_text(self.page, color=colour)

    def centred(self, y: float, text: str, font: pymupdf.Font, size: float, colour: tuple[float, ...]) -> None:
        self.write((WIDTH - font.text_length(text, size)) / 2, y, text, font, size, colour)

    def rule(self, x0: float, x1: float, y: float, colour: tuple[float, ...], width: float = 0.5) -> None:
        self.page.draw_line((x0, y), (x1, y), color=colour, width=width)

    def chapter(self, title: str) -> None:
        self.room(110)
        if self.y > TOP:
            self.y += 20
        self.write(LEFT, self.y + 16, title, BOLD, 19, SEA)
        self.rule(LEFT, LEFT + 42, self.y + 25, COPPER, 1.6)
        self.y += 38

    def section(self, title: str) -> None:
        self.room(64)
        if self.y > TOP and self.page.number:
            self.y += 7
        self.write(LEFT, self.y + 11, title, BOLD, 12, SEA)
        self.y += 18

    def paragraph(self, text: str, indent: float) -> None:
        lines = list(_broken(text, RIGHT - LEFT, indent))
        for number, words in enumerate(lines):
            self.room(LEADING)
            x = LEFT + (indent if number == 0 else 0)
            natural = ROMAN.text_length(" ".join(words), SIZE)
            blanks = len(words) - 1
            stretch = (RIGHT - x - natural) / blanks if blanks and number < len(lines) - 1 else 0.0
            self._line(x, words, ROMAN.text_length(" ", SIZE) + stretch)
            self.y += LEADING

    def _line(self, x: float, words: Sequence[str], blank: float) -> None:
        writer = pymupdf.TextWriter(self.page.rect)
        for word in words:
            writer.append((x, self.y + SIZE), word, font=ROMAN, fontsize=SIZE)
            x += ROMAN.text_length(word, SIZE) + blank
        writer.write_text(self.page, color=INK)

    def running_heads(self) -> None:
        for page in self.document:
            self.page = page
            if page.number:
                self.write(LEFT, 52, TITLE, ITALIC, 9, FAINT)
                self.write(RIGHT - ITALIC.text_length(EDITION, 9), 52, EDITION, ITALIC, 9, FAINT)
                self.rule(LEFT, RIGHT, 59, FAINT)
            self.centred(606, str(page.number + 1), ROMAN, 9.5, FAINT)

    def title(self) -> None:
        _lighthouse(self.page, WIDTH / 2, 178)
        self.centred(228, TITLE, BOLD, 23, SEA)
        self.centred(249, SUBTITLE, ITALIC, 13, INK)
        self.rule(WIDTH / 2 - 21, WIDTH / 2 + 21, 263, COPPER, 1.6)
        self.centred(282, EDITION.upper(), SANS, 7.5, FAINT)
        self.y = 308


def _lighthouse(page: pymupdf.Page, x: float, y: float) -> None:
    """A lighthouse on its rock; (x, y) is the middle of the water line."""

    def shape(points: Sequence[tuple[float, float]], fill: tuple[float, ...]) -> None:
        page.draw_polyline([(x + a, y - b) for a, b in points], color=None, fill=fill, closePath=True)

    for side in (-1, 1):
        shape([(side * 7, 91), (side * 96, 112), (side * 96, 80)], (0.98, 0.90, 0.72))
    page.draw_circle((x, y - 91), 13, color=None, fill=(0.99, 0.83, 0.50))
    shape([(-50, 0), (-40, 9), (-24, 13), (-14, 20), (14, 20), (28, 12), (42, 10), (52, 0)], (0.42, 0.45, 0.48))
    shape([(-13, 20), (-8, 80), (8, 80), (13, 20)], (0.95, 0.96, 0.96))
    for low in (34, 58):
        shape([(-13 + (low - 20) / 12, low), (-13 + (low - 8) / 12, low + 12), (13 - (low - 8) / 12, low + 12),
               (13 - (low - 20) / 12, low)], SEA)  # fmt: skip
    page.draw_polyline([(x - 13, y - 20), (x - 8, y - 80), (x + 8, y - 80), (x + 13, y - 20)], color=SEA, width=0.8)
    shape([(-11, 80), (-11, 83), (11, 83), (11, 80)], SEA)
    shape([(-6, 83), (-6, 97), (6, 97), (6, 83)], (1.0, 0.93, 0.70))
    for dx in (-6, 0, 6):
        page.draw_line((x + dx, y - 83), (x + dx, y - 97), color=SEA, width=0.8)
    shape([(-8, 97), (0, 106), (8, 97)], COPPER)
    for row, width in enumerate((110, 84, 58)):
        wave = [
            (x - width + step * 7, y + 4 + row * 5 + (1.4 if step % 2 else -1.4)) for step in range(width * 2 // 7 + 1)
        ]
        page.draw_polyline(wave, color=(0.45, 0.65, 0.70), width=0.9)


def _broken(text: str, width: float, indent: float) -> Iterator[list[str]]:
    """Lines of words; a long word that does not fit is hyphenated when the line would be loose without it."""
    line: list[str] = []
    room = width - indent
    for word in text.split():
        while ROMAN.text_length(" ".join([*line, word]), SIZE) > room:
            head, word = _hyphenated(word, room - ROMAN.text_length(" ".join([*line, ""]), SIZE))
            yield [*line, head] if head else line
            line, room = [], width
        line.append(word)
    yield line


def _hyphenated(word: str, room: float) -> tuple[str, str]:
    """As much of the word as fits with a hyphen, and the rest."""
    for broken in SYLLABLES:
        head, tail = broken.split("-")
        if word.startswith(head + tail) and ROMAN.text_length(head + "-", SIZE) <= room:
            return head + "-", word[len(head) :]
    return "", word


def typeset(sections: Sequence[Section]) -> bytes:
    book = Book()
    book.title()
    for section in sections:
        (book.chapter if section.chapter else book.section)(section.title)
        for number, paragraph in enumerate(section.paragraphs):
            book.paragraph(paragraph, indent=INDENT if number else 0.0)
    book.running_heads()
    book.document.set_metadata({"title": TITLE, "author": "The Gull Press", "creationDate": "D:20260101000000Z"})
    book.document.subset_fonts()
    return book.document.tobytes(garbage=4, deflate=True, deflate_fonts=True, no_new_id=True)


def main() -> None:
    sections = parse((HERE / "handbook.md").read_text())
    (HERE / "sample.squad.json").write_text(json.dumps(squad(sections), indent=1) + "\n")
    (HERE / "sample.pdf").write_bytes(typeset(sections))


if __name__ == "__main__":
    main()
