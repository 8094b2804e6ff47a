"""Text recognition (OCR) of scanned pages and pictures, by Tesseract where it is installed.

A page is drawn in one child, recognised in a second and laid out in a third, all of them sandboxed. Tesseract never
sees a file that somebody sent: it gets grey dots under a header that is written on this side.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from statistics import median
from typing import Any, NamedTuple

from core.document.heads import Box, Line, Sheet
from core.document.layout import read_sheets
from core.document.order import around
from core.document.text import tidy
from core.sandbox import Crashed, Overrun, Sandbox

DPI = 300  # what Tesseract's models were trained on
MAX_DOTS = 10_000_000  # of one drawn page at most; A4 at 300 dpi has 8.7 million
ORIENTATION_MODEL = "osd"  # the model that finds out whether a page stands upright
WORD_LEVEL = 5  # `level` of a word in Tesseract's TSV
MIN_CONFIDENCE = 0.3  # confidence below which a line is taken for a picture's noise, not for text
MAX_PAGES = 100
MAX_MINUTES = 15
INSTALL = "Debian, Ubuntu: `apt install tesseract-ocr`; macOS: `brew install tesseract`; Docker: `--build-arg OCR=eng`"


class NoDrawing(Exception):
    """A page could not be drawn."""


@dataclass(frozen=True)
class Recognised:
    """What text recognition made of some pages; pages by their numbers."""

    texts: dict[int, str]  # "" where there was nothing to read
    confidence: dict[int, float]  # 0..1, the mean over the letters of a page; of pages that have text
    failed: tuple[int, ...] = ()  # could not be drawn or recognised
    left: tuple[int, ...] = ()  # not tried: too many, or no time


@dataclass(frozen=True)
class Ocr:
    """How scanned pages are read."""

    languages: str = "eng"  # as Tesseract names them: "eng+deu"
    pages: int = MAX_PAGES  # of one document at most; 0: none are recognised
    minutes: float = MAX_MINUTES  # for one document; pages that are left then are left out
    program: str = "tesseract"
    sandbox: Sandbox = field(default_factory=Sandbox)  # for each page

    @property
    def path(self) -> str | None:
        """Where Tesseract is, if it is to be used and installed."""
        import shutil  # what the children need not is not loaded there

        return shutil.which(self.program) if self.pages else None

    async def recognise(
        self, data: bytes, kind: str, pages: Sequence[int], progress: Callable[[int, int], None] | None = None
    ) -> Recognised:
        """The text of these pages of a PDF or a picture.

        Args:
            kind: as for `core.document.pdf.draw`.
            progress: told after each page, (done, of all).
        """
        tried, printed, failed = list(pages)[: self.pages], {}, []
        until, languages = time.monotonic() + 60 * self.minutes, set(installed(self.path))
        for done, number in enumerate(tried):
            if time.monotonic() > until:
                tried = tried[:done]
                break
            try:
                printed[number] = await self._page(data, number, kind, ORIENTATION_MODEL in languages)
            except (Overrun, Crashed, NoDrawing):
                failed.append(number)
            if progress:
                progress(done + 1, len(tried))
        left = tuple(list(pages)[len(tried) :])
        words = [(number, tsv) for number, tsv in printed.items() if tsv]
        imports = ("core.document.ocr",)
        try:
            laid = await self.sandbox.call("core.document.ocr:lay_out", json.dumps(words).encode(), imports=imports)
            texts, confidence = dict.fromkeys(printed, ""), {}
            for (number, _), (text, share) in zip(words, laid, strict=True):
                texts[number], mean = str(text), float(share)
                if texts[number]:
                    confidence[number] = min(1.0, max(0.0, mean))
        except (Overrun, Crashed, TypeError, ValueError):
            return Recognised({}, {}, (*failed, *printed), left)
        return Recognised(texts, confidence, tuple(failed), left)

    async def _page(self, data: bytes, number: int, kind: str, turned: bool) -> str:
        """What Tesseract prints for a page, as TSV; "" for a blank one. Raises: Overrun, Crashed, NoDrawing."""
        imports = ("core.document.pdf", "pymupdf")
        page = (number, kind, DPI, MAX_DOTS)
        drawing = await self.sandbox.call("core.document.pdf:draw", data, *page, imports=imports, signs=True)
        image, dpi = _image(drawing)
        if not image:
            return ""
        layout = "1" if turned else "3"  # --psm: automatic, with and without the page's orientation
        options = ["-l", self.languages, "--dpi", str(dpi), "--psm", layout, "-c", "tessedit_create_tsv=1"]
        return (await self.sandbox.run([str(self.path), "stdin", "stdout", *options], image)).decode(errors="replace")


def _image(drawing: Any) -> tuple[bytes, int]:
    """A drawing as a PGM file (netpbm), and its dots per inch; b"" for a blank page. Raises: NoDrawing."""
    try:
        width, height, dpi = (int(drawing[key]) for key in ("width", "height", "dpi"))
        dots = base64.b64decode(drawing["dots"], validate=True)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise NoDrawing from None
    if dots and (len(dots) != width * height or len(dots) > MAX_DOTS or not 0 < dpi <= DPI):
        raise NoDrawing
    return b"P5\n%d %d\n255\n" % (width, height) + dots if dots else b"", dpi


def installed(path: str | None) -> list[str]:
    """The languages that Tesseract has models of. Blocking, for some milliseconds."""
    import subprocess

    try:
        listing = subprocess.run([path or "", "--list-langs"], capture_output=True, text=True, timeout=20)
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
    return list(filter(None, map(str.strip, listing.stdout.splitlines()[1:])))


# Below, the child.


def lay_out(data: bytes) -> list[tuple[str, float]]:
    """(text, mean confidence 0..1) of each page, from JSON: [[page's number, Tesseract's TSV], ...]."""
    sheets, means = [], []
    for _, tsv in json.loads(data):
        lines, letters, weighed = [], 0, 0.0
        for line, confidence in _lines(tsv):
            lines.append(line)
            letters += len(line.text)
            weighed += len(line.text) * confidence
        sheets.append(Sheet(max((line.y1 for line in lines), default=1.0), tuple(lines)))
        means.append(weighed / max(1, letters))
    return list(zip(read_sheets(sheets), means, strict=True))


def _lines(tsv: str) -> Iterable[tuple[Line, float]]:
    """The lines, cut at wide gaps as a table's cells are, with their confidence. A line's box is as high as its
    highest letter, so the type's size is taken from the whole paragraph."""
    words = filter(None, map(_word, tsv.splitlines()))
    for number, (_, paragraph) in enumerate(groupby(words, key=lambda word: word.place[:2])):
        lines = [list(line) for _, line in groupby(paragraph, key=attrgetter("place"))]
        size = median(map(_height, lines))
        for line in lines:
            for run in _runs(line, size):
                letters = sum(len(word.text) for word in run)
                sure = sum(word.confidence * len(word.text) for word in run) / letters
                text = tidy(" ".join(word.text for word in run))
                if sure >= MIN_CONFIDENCE and text:
                    yield Line(text, *around(word.box for word in run), size, number), sure


class Word(NamedTuple):
    """As Tesseract recognised it."""

    place: tuple[int, int, int]  # numbers of its block, paragraph and line
    box: Box
    text: str
    confidence: float  # 0..1


def _height(line: Sequence[Word]) -> float:
    _, top, _, bottom = around(word.box for word in line)
    return bottom - top


def _word(line: str) -> Word | None:
    """Of a row of Tesseract's TSV; None for rows of other things."""
    cells = line.split("\t")
    try:
        level, _, *place, _, left, top, width, height = map(int, cells[:10])
        confidence, text = float(cells[10]) / 100, cells[11].strip()
    except (ValueError, IndexError):
        return None
    if level != WORD_LEVEL or not text:
        return None
    box = (left, top, left + width, top + height)
    return Word((place[0], place[1], place[2]), box, text, confidence)


def _runs(line: Sequence[Word], size: float) -> list[list[Word]]:
    runs = [[line[0]]]
    for word in line[1:]:
        left, right_before = word.box[0], runs[-1][-1].box[2]
        if left - right_before > 1.5 * size:
            runs.append([])
        runs[-1].append(word)
    return runs
