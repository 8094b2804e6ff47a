"""PDF bytes -> the clean text of each page. The one home of PyMuPDF, which runs in a child process only.

MuPDF is a large C library that gets hostile files, and it holds the interpreter's lock for as long as a page takes:
minutes in the worst case. So it reads in a `Sandbox`: no network, no files, no secrets, little memory, a clock. Numbers
and plain text come back; every sentence that a person reads is written on this side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from core.errors import NotAPdf, PdfDamaged, PdfHasNoText, PdfLocked, PdfTooBig, PdfTooLong, PdfTooSlow
from core.layout import Line, Sheet, read_sheets, tidy
from core.sandbox import Crashed, Overrun, Sandbox
from core.types import Limits, Page

if TYPE_CHECKING:
    import pymupdf

SANDBOX = Sandbox()
MAGIC = b"%PDF-"
SEARCHED = 1024  # bytes in which the magic must stand (Adobe's own readers' rule)
LOOKS = (
    (b"pk\x03\x04", "a zip archive or an Office document"),
    (b"<svg", "an SVG picture"),
    (b"<html", "a web page"),
    (b"<!doctype html", "a web page"),
)
PALE = 0xE8  # of 0xFF, in red, green and blue: such text is looked at on its background
CONTRAST = 16  # of 255 grey levels: less cannot be seen
SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class PdfText:
    """What was read."""

    pages: tuple[Page, ...]  # all of them, in order; a page without text has ""
    notes: tuple[str, ...] = ()  # what was left out or looks wrong, one sentence each


async def read_pdf(data: bytes, limits: Limits, *, sandbox: Sandbox = SANDBOX) -> PdfText:
    """Read a PDF's text in a child process.

    Text that cannot be seen is left out and noted: without ink (render mode 3, no opacity), off the page, smaller than
    a point, pale on an equally pale ground. Not detected: dark text on an equally dark ground, text under a picture.
    The inkless text that text recognition lays over a scanned page is read, and noted.

    Raises: NotAPdf, PdfDamaged, PdfLocked, PdfHasNoText, PdfTooBig, PdfTooLong, PdfTooSlow.
    """
    check_bytes(data, limits)
    try:
        reply = await sandbox.call("core.pdf:extract", data, limits.max_pages, imports=("pymupdf",))
    except Overrun:
        raise PdfTooSlow(
            f"Reading this PDF took more than a document may: {sandbox.seconds:g} seconds, {_size(sandbox.memory)} of "
            f"memory, {_size(sandbox.output)} of text."
        ) from None
    except Crashed:
        raise PdfDamaged from None
    return _judged(reply, limits)


def check_bytes(data: bytes, limits: Limits) -> None:
    """What can be seen without reading it. Raises: NotAPdf, PdfTooBig."""
    if not data:
        raise NotAPdf("This file is empty.")
    if len(data) > limits.max_bytes:
        raise PdfTooBig(f"This PDF has {_size(len(data))}; the limit is {_size(limits.max_bytes)}.")
    head = data[:SEARCHED].lower()
    looks = next((f"; it looks like {name}" for mark, name in LOOKS if mark in head), "")
    if MAGIC not in data[:SEARCHED] or (looks and head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"<", b"pk"))):
        raise NotAPdf(f"This is not a PDF file{looks}.")


def _judged(reply: Any, limits: Limits) -> PdfText:
    """A child that a hostile file has taken over may reply anything."""
    try:
        _check_reply(reply, limits)
        return PdfText(_pages(reply), _notes(reply))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        raise PdfDamaged from None


def _check_reply(reply: dict[str, Any], limits: Limits) -> None:
    pages = int(reply["pages"])
    if reply["locked"]:
        raise PdfLocked
    if not reply["is_pdf"]:
        raise NotAPdf
    if pages > limits.max_pages:
        raise PdfTooLong(f"This PDF has {_count(pages, 'page')}; the limit is {limits.max_pages:,}.")
    if pages < 1 or pages != len(reply["texts"]) or len(reply["unreadable"]) == pages:
        raise PdfDamaged
    if not any(character.isalnum() for text in reply["texts"] for character in text):
        looks = "all of it is hidden" if reply["hidden"] else "it looks like a scan or a drawing"
        raise PdfHasNoText(f"No text was found on the {_count(pages, 'page')} of this PDF; {looks}.")


def _pages(reply: dict[str, Any]) -> tuple[Page, ...]:
    texts = (text.encode(errors="ignore").decode() for text in reply["texts"])  # no half of a surrogate pair
    return tuple(Page(number, text) for number, text in enumerate(texts, start=1))


def _notes(reply: dict[str, Any]) -> tuple[str, ...]:
    hidden = {int(page): int(letters) for page, letters in reply["hidden"]}
    notes = (
        reply["repaired"] and "The file is damaged; what could be recovered was read.",
        reply["unreadable"] and f"{_numbers(reply['unreadable'])} could not be read.",
        hidden
        and f"Hidden text on {_numbers(list(hidden)).lower()} was left out ({_count(sum(hidden.values()), 'letter')}).",
        reply["recognised"] and f"{_numbers(reply['recognised'])}: a scan; its recognised text was read.",
        reply["pictures"] and f"{_numbers(reply['pictures'])}: a picture without text.",
    )
    return tuple(note for note in notes if note)


def _numbers(pages: Sequence[int]) -> str:
    """[1, 2, 3, 5] -> "Pages 1-3, 5"."""
    runs: list[list[int]] = []
    for page in map(int, pages):
        if runs and page == runs[-1][-1] + 1:
            runs[-1][1:] = [page]
        else:
            runs.append([page])
    return ("Page " if len(pages) == 1 else "Pages ") + ", ".join("-".join(map(str, run)) for run in runs)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _size(number: int) -> str:
    """Megabytes to one decimal, rounded up, so that what is over a limit also reads so; small numbers in bytes."""
    tenths = -(-number * 10 // 2**20)
    return f"{tenths / 10:,g} MB" if number >= 2**20 else _count(number, "byte")


# Below, the child: nothing here runs in the parent.


def extract(data: bytes, max_pages: int) -> dict[str, Any]:
    """What PyMuPDF finds in the file.

    Raises: MemoryError; and whatever PyMuPDF raises, which the sandbox turns into Crashed.
    """
    import pymupdf

    with _out_of_memory():
        document = pymupdf.open(stream=data, filetype="pdf")  # opens HTML and SVG as well
        found = {"is_pdf": bool(document.is_pdf), "locked": bool(document.needs_pass), "pages": 0}
        if found["is_pdf"] and not found["locked"]:
            found["pages"] = document.page_count
        if not 0 < found["pages"] <= max_pages:
            return found
        reader = _Reader()
        texts = read_sheets([reader.sheet(document, number) for number in range(found["pages"])])
        return found | {"texts": texts, "repaired": bool(document.is_repaired)} | vars(reader)


@contextmanager
def _out_of_memory() -> Iterator[None]:
    """PyMuPDF's way to say it: some exception "code=2: malloc ... failed", 2 being FZ_ERROR_SYSTEM."""
    try:
        yield
    except Exception as error:
        if "code=2:" in str(error):
            raise MemoryError from None
        raise


class _Reader:
    """Reads page after page and keeps what there is to say about them; pages count from 1."""

    def __init__(self) -> None:
        self.hidden: list[tuple[int, int]] = []  # (page, letters and digits)
        self.unreadable: list[int] = []
        self.recognised: list[int] = []  # scans with a layer of recognised text
        self.pictures: list[int] = []  # pages that are a picture and have no text

    def sheet(self, document: pymupdf.Document, index: int) -> Sheet:
        try:
            with _out_of_memory():
                return self._sheet(document[index], index + 1)
        except MemoryError:
            raise
        except Exception:  # one broken page is not a broken document
            self.unreadable.append(index + 1)
            return Sheet(height=1.0, lines=())

    def _sheet(self, page: pymupdf.Page, number: int) -> Sheet:
        import pymupdf

        blocks = page.get_text("dict", flags=pymupdf.TEXT_PRESERVE_WHITESPACE, clip=pymupdf.INFINITE_RECT())["blocks"]
        lines = [line for block in blocks for line in block["lines"]]
        _measure(lines, page)
        spans = [span for line in lines for span in line["spans"] if span["text"].strip()]
        inkless = [span for span in spans if span["alpha"] < CONTRAST]
        edges = page.rect
        hidden = [span for span in spans if span["size"] < 1 or _is_outside(span, edges)]
        hidden += _melting(filter(_is_pale, spans), page)
        if len(inkless) < len(spans) / 2 or not _is_picture(page):
            hidden += inkless
        elif inkless:
            self.recognised.append(number)
        else:
            self.pictures.append(number)
        if letters := sum(character.isalnum() for span in hidden for character in span["text"]):
            self.hidden.append((number, letters))
        return Sheet(edges.height, tuple(_lines(blocks, {id(span) for span in hidden})))


def _measure(lines: Sequence[dict[str, Any]], page: pymupdf.Page) -> None:
    """Set sizes and boxes as the page shows them: a Type 3 font's size says nothing, and the page may be turned."""
    import pymupdf

    turned, matrix = page.rotation, page.rotation_matrix
    for line in lines:
        level = abs(line["dir"][0]) >= abs(line["dir"][1])
        for span in line["spans"]:
            x0, y0, x1, y1 = span["bbox"]
            if span["size"] < 1:
                span["size"] = y1 - y0 if level else x1 - x0
            if turned:
                span["bbox"] = tuple(pymupdf.Rect(span["bbox"]) * matrix)


def _is_outside(span: dict[str, Any], edges: pymupdf.Rect) -> bool:
    x0, y0, x1, y1 = span["bbox"]
    return x1 < 0 or y1 < 0 or x0 > edges.x1 or y0 > edges.y1


def _is_pale(span: dict[str, Any]) -> bool:
    return min(span["color"].to_bytes(3, "big")) >= PALE


def _melting(spans: Iterable[dict[str, Any]], page: pymupdf.Page) -> list[dict[str, Any]]:
    """Those spans where the page, drawn, shows hardly any difference between light and dark."""
    import pymupdf

    drawing = cache(page.get_displaylist)

    def contrast(box: tuple[float, ...]) -> int:
        grey = drawing().get_pixmap(colorspace=pymupdf.csGRAY, alpha=0, clip=pymupdf.Rect(box) & page.rect).samples
        return max(grey, default=0) - min(grey, default=0)

    return [span for span in spans if contrast(span["bbox"]) < CONTRAST]


def _is_picture(page: pymupdf.Page) -> bool:
    """Whether a picture covers at least half of the page."""
    import pymupdf

    boxes = [pymupdf.Rect(image["bbox"]) for image in page.get_image_info()]
    return any(abs(box & page.rect) >= abs(page.rect) / 2 for box in boxes)


def _lines(blocks: Sequence[dict[str, Any]], hidden: set[int]) -> Iterator[Line]:
    for number, block in enumerate(blocks):
        for line in block["lines"]:
            spans = [span for span in line["spans"] if id(span) not in hidden]
            size = max((span["size"] for span in spans), default=0.0)
            if text := tidy("".join(_text(span, size) for span in spans)):
                x0, y0, x1, y1 = zip(*(span["bbox"] for span in spans if span["text"].strip()), strict=True)
                yield Line(text, min(x0), min(y0), max(x1), max(y1), size, number)


def _text(span: dict[str, Any], size: float) -> str:
    """Figures set as superscript stay so: a footnote's number is no part of the year before it."""
    raised = span["flags"] & 1 and span["size"] < 0.9 * size  # bit 0: TEXT_FONT_SUPERSCRIPT
    return span["text"].translate(SUPERSCRIPT) if raised else span["text"]
