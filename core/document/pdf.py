"""PDF bytes -> the clean text of each page. The one home of PyMuPDF, which runs in a child process only.

MuPDF is a large C library that gets hostile files, and it holds the interpreter's lock for as long as a page takes:
minutes in the worst case.

Text that cannot be seen is left out and noted: without ink (render mode 3, no opacity), off the page, smaller than a
point, pale on an equally pale ground. Not detected: dark text on an equally dark ground, text under a picture. The
inkless text that text recognition lays over a scanned page is read, and noted.
"""

from __future__ import annotations

import base64
import re
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from itertools import chain, pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from core.document.about import about, byline, printed_date
from core.document.archive import Unreadable
from core.document.heading_rows import Face, RowStyle, is_set_apart
from core.document.headings import PageText, named_places, with_outline
from core.document.heads import Box, Line, Sheet
from core.document.layout import MIN_TABLE_ROWS, read_pages
from core.document.order import around
from core.document.places import MIN_HEADINGS, with_own
from core.document.tables import cells_by_line, has_heading, line_of, lines_without_heading, row_sentences
from core.document.text import tidy
from core.sandbox import heartbeat

if TYPE_CHECKING:
    import pymupdf

MAX_PIXELS = 100_000_000  # of a picture; more is a bomb
MIN_LETTERS = 40  # letters of a page that is a picture otherwise: a stamp, a page number
PALE_FROM = 0xE8  # of 0xFF, in red, green and blue: such text is looked at on its background
TYPE3_PREFIX = "Type3 ("  # MuPDF's names of such fonts begin so
CLIPPED_FLAG = 64  # bit of a span's char_flags: FZ_STEXT_CLIPPED, text as the shape through which something is painted
MAX_UNREADABLE = 0.1  # share of characters without a letter that people are told of
MAX_PATHS = 3000  # paths of a page that has no tables
TABLE_SECONDS = 10.0  # in one document; the tables after it are read like other text
MAX_HEAD_LINES = 2  # lines above a table that begins a page, below one that ends it: a running head, a page number
COLUMN_TOLERANCE = 4.0  # points by which a column may differ from page to page
MAX_DRAWING = 1000.0  # dots along the longer side of a page that is drawn for the background of its tables
MAX_RULE = 3.0  # points that a rule is thick
RULE_DISTANCE = 4.0  # points between a row's edge and the rule below it
MIN_KEPT_SHARE = 0.97  # of words and letters
MIN_CONTRAST = 16  # of 255 grey levels: less cannot be seen
# Of what is no part of the text
LIST_HEADINGS = ("contents", "table of contents", "index", "inhaltsverzeichnis", "table des matières")
ARABIC = re.compile("[\u0600-\u06ff\ufb50-\ufdff\ufe70-\ufeff]")
SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def extract(data: bytes, first: int, last: int, most: int) -> dict[str, Any]:
    """What PyMuPDF finds on the pages from `first` to `last` (0: to the end); no texts, when they are more than `most`.

    Raises: MemoryError; and whatever PyMuPDF raises, which the sandbox turns into Crashed.
    """
    import pymupdf

    with _out_of_memory():
        document = pymupdf.open(stream=data, filetype="pdf")  # opens HTML and SVG as well
        if document.needs_pass or not document.is_pdf:
            return {"refused": "locked" if document.needs_pass else "damaged"}
        reply = {"pages": document.page_count, "first": first, "texts": []}
        numbers = range(first - 1, min(last or document.page_count, document.page_count))
        if not 0 < len(numbers) <= most:
            return reply
        reader = _Reader()
        sheets = []
        for number in numbers:
            sheets.append(reader.sheet(document, number))
            heartbeat()
        heartbeat(last=True)
        pages, title = read_pages(sheets)
        outline = [(level, tidy(text), page) for level, text, page in document.get_toc(simple=True) if page > 0]
        pages = with_outline(pages, outline, first)
        texts, places = [page.text for page in pages], named_places(pages, first)
        if first == 1 and any(texts) and (own := _about(document, pages, outline, title)):
            texts[0], places[0] = with_own(own, texts[0], places[0] or [(0, "p. 1")])
        kept = {name: value for name, value in vars(reader).items() if not name.startswith("_")}
        return reply | {"texts": texts, "places": places, "repaired": bool(document.is_repaired)} | kept


def extract_picture(data: bytes, first: int, last: int, most: int) -> dict[str, Any]:
    """Of a picture, how many pages it has (TIFF may have several); each has to be recognised.

    Raises: Unreadable; as `extract`.
    """
    import pymupdf

    with _out_of_memory():
        document = pymupdf.open(stream=data)
        for image in document[0].get_image_info():
            if image["width"] * image["height"] > MAX_PIXELS:
                raise Unreadable("pixels")
        numbers = range(first - 1, min(last or document.page_count, document.page_count))
        reply = {"pages": document.page_count, "first": first, "texts": []}
        if not 0 < len(numbers) <= most:
            return reply
        asked = [number + 1 for number in numbers]
        return reply | {"texts": [""] * len(asked), "pictures": asked, "scans": asked}


def draw(data: bytes, number: int, kind: str, dpi: int, dots: int) -> dict[str, Any]:
    """A page in grey, of at most so many dots: its width, height, dots per inch, and a byte for each dot in base64,
    "" where all of them are alike.

    Args:
        kind: "pdf"; "" for a picture, which says itself of which kind it is.

    Raises: as `extract`.
    """
    import pymupdf

    with _out_of_memory():
        page = pymupdf.open(stream=data, filetype=kind or None)[number - 1]
        inches = page.rect.width / 72 * page.rect.height / 72
        dpi = int(min(dpi, (0.98 * dots / max(inches, 1e-6)) ** 0.5))
        if dpi < 1:
            return {"width": 0, "height": 0, "dpi": 1, "dots": ""}
        drawing = page.get_pixmap(dpi=dpi, colorspace=pymupdf.csGRAY, alpha=0)
        samples = drawing.samples
        blank = max(samples, default=0) - min(samples, default=0) < MIN_CONTRAST
        text = "" if blank else base64.b64encode(samples).decode()
        return {"width": drawing.width, "height": drawing.height, "dpi": dpi, "dots": text}


def _about(
    document: pymupdf.Document, pages: Sequence[PageText], outline: Sequence[tuple[int, str, int]], title: str
) -> str:
    """What the file says of itself, else what its first page shows: its title, who wrote it and when, its headings."""
    printed = []
    for number, page in enumerate(pages, start=1):
        for _, level, text in page.headings:
            if text.casefold() not in LIST_HEADINGS:
                printed.append((level, text, number))
    headings = outline or (printed if len(printed) >= MIN_HEADINGS else [])
    said = document.metadata or {}
    own_title, author, date = (said.get(key) or "" for key in ("title", "author", "creationDate"))
    title = own_title if about(own_title) else title
    author = author if about(author=author) else byline(pages[0].text, title)
    return about(title, author, date, headings, printed_date(pages[0].text))


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
        self.nameless: list[int] = []  # pages whose fonts do not say which letters they show; left out
        self.partly: list[int] = []  # pages of which that is true in part
        self.scans: list[int] = []  # pages with little text that text recognition may read
        self.spent = 0.0  # seconds on the search for tables
        # of the last table that ended a page: the page's number, the columns' widths, the heading, [] for none; and of
        # a table of one row, which may be its heading, how that is set
        self._last_table: tuple[int, list[float], list[str], RowStyle | None] = -2, [], [], None

    def sheet(self, document: pymupdf.Document, index: int) -> Sheet:
        try:
            with _out_of_memory():
                return self._sheet(document[index], index + 1)
        except MemoryError:
            raise
        except Exception:  # the other pages are still read
            self.unreadable.append(index + 1)
            return Sheet(height=1.0, lines=())

    def _sheet(self, page: pymupdf.Page, number: int) -> Sheet:
        blocks = self._blocks(page, number)
        lines = list(chain.from_iterable(block["lines"] for block in blocks))
        if 2 * _letters(_upright(lines, page)) < _letters(lines):  # a wide table, set along the page's long side
            page.set_rotation((page.rotation + 90) % 360)
        _measure(lines, page)
        pictures = _pictures(page)
        hidden = self._hidden(_with_text(_spans(lines)), page, pictures, number)
        if letters := sum(_count_alnum(span["text"]) for span in hidden):
            self.hidden.append((number, letters))
        upright = set(map(id, _upright(lines, page)))
        kept = list(_lines(blocks, set(map(id, hidden)), upright))
        shown = sum(_count_alnum(line.text) for line in kept)
        if shown < MIN_LETTERS and (_is_picture(page, pictures) or (not shown and page.get_bboxlog())):
            self.scans.append(number)
        kept = self._with_tables(_filled_in(kept, page), page, [span["bbox"] for span in hidden])
        return Sheet(page.rect.height, tuple(kept), tuple(pictures))

    def _with_tables(self, lines: list[Line], page: pymupdf.Page, hidden: Sequence[Box]) -> list[Line]:
        """The lines with those of ruled tables row by row, and as sentences. Not where something is hidden."""
        if page.rotation or self.spent > TABLE_SECONDS or not _is_ruled(page):
            return lines
        began = time.monotonic()
        drawing = cache(partial(_Drawing, page))
        for table in getattr(page.find_tables(use_layout=False), "tables", ()):  # None, where it fails
            if not any(_within(_middle(box), table.bbox) for box in hidden):
                lines = self._with_table(lines, table, page.number, drawing)
        self.spent += time.monotonic() - began
        return lines

    def _with_table(self, lines: list[Line], table: Any, page: int, drawing: Callable[[], _Drawing]) -> list[Line]:
        texts = [[text or "" for text in row] for row in table.extract()]
        rows = list(chain.from_iterable(map(cells_by_line, texts)))
        cells = list(chain.from_iterable(rows))
        inside = [line for line in lines if _within(line.middle, table.bbox)]
        if 2 * sum(map(bool, cells)) < len(cells) or _loses_text(texts, inside):
            return lines
        goes_on = self._goes_on(lines, table, page)
        styles = _row_styles(drawing(), table, inside)
        heading = self._heading(rows, styles, goes_on)
        if sum(line.y0 > table.bbox[3] for line in lines) <= MAX_HEAD_LINES:
            lone = styles[0] if heading is None else None
            self._last_table = page, _widths(table), rows[0] if heading is None else heading, lone
        if heading is None or len(rows) < 2:
            return lines
        whole = rows if heading in ([], rows[0]) else [heading, *rows]
        is_clear = len(whole) >= MIN_TABLE_ROWS and not _holds_rows(table, inside)
        as_they_stand = lines_without_heading(rows) if is_clear and not heading else map(line_of, rows)
        sentences = row_sentences(whole, apart=True) if is_clear and heading else ()
        block, size = max(line.block for line in lines), min(line.size for line in inside)
        box: Box = table.bbox
        new = []
        for number, parts in ((1, as_they_stand), (2, sentences)):
            for text in filter(None, parts):
                new.append(Line(text, *box, size, block + number, ("", text)))
        start = lines.index(inside[0])
        return [*lines[:start], *new, *(line for line in lines[start:] if line not in inside)]

    def _heading(self, rows: list[list[str]], styles: Sequence[RowStyle], goes_on: bool) -> list[str] | None:
        """The names of a table's columns: its first row, where that is set apart; else those of the table with which it
        goes on; else its first row, where the words say so. [] where it has none, None where one row says nothing."""
        apart = is_set_apart(styles)
        if goes_on and not apart:
            *_, heading, lone = self._last_table
            if lone and not has_heading([heading, *rows], is_set_apart([lone, *styles])):
                return []
            return heading
        if len(rows) < 2:
            return None
        return rows[0] if has_heading(rows, apart) else []

    def _goes_on(self, lines: Sequence[Line], table: Any, page: int) -> bool:
        """Whether it goes on with the table that ended the page before: nothing but a running head stands above it, and
        its columns are as wide."""
        page_before, widths_before, *_ = self._last_table
        widths = _widths(table)
        if page_before != page - 1 or len(widths) != len(widths_before):
            return False
        if sum(line.y1 < table.bbox[1] for line in lines) > MAX_HEAD_LINES:
            return False
        return all(abs(a - b) < COLUMN_TOLERANCE for a, b in zip(widths, widths_before, strict=True))

    def _blocks(self, page: pymupdf.Page, number: int) -> list[dict[str, Any]]:
        """The page's blocks of text. Where its fonts do not say which letters they show, character codes may be letters
        (glyphs named G65); else what has no letter is left out, and a page of little else is empty."""
        import pymupdf

        flags = pymupdf.TEXT_PRESERVE_WHITESPACE

        def read(flags: int) -> tuple[list[dict[str, Any]], str]:
            blocks = page.get_text("dict", flags=flags, clip=pymupdf.INFINITE_RECT())["blocks"]
            lines = chain.from_iterable(block["lines"] for block in blocks)
            return blocks, "".join(span["text"] for span in _spans(lines))

        blocks, text = read(flags)
        if ARABIC.search(text):  # whose ligatures MuPDF spells out from left to right; `tidy` does not
            flags |= pymupdf.TEXT_PRESERVE_LIGATURES
            blocks, text = read(flags)
        if _nameless(text) > MAX_UNREADABLE:
            by_code, text_by_code = read(flags | pymupdf.TEXT_CID_FOR_UNKNOWN_UNICODE)
            if is_language(text_by_code):
                return by_code
            readable = is_language(text.replace("\ufffd", ""))
            (self.partly if readable else self.nameless).append(number)
            return blocks if readable else []
        return blocks

    def _hidden(
        self, spans: list[dict[str, Any]], page: pymupdf.Page, pictures: Sequence[Box], number: int
    ) -> list[dict[str, Any]]:
        """What cannot be seen. Of type that is painted through, or drawn by the file itself, MuPDF knows no ink: it can
        be seen if it stands out."""
        painted = [span for span in spans if span["char_flags"] & CLIPPED_FLAG or span["font"].startswith(TYPE3_PREFIX)]
        inkless = [span for span in spans if span["alpha"] < MIN_CONTRAST and span not in painted]
        doubtful = [*painted, *filter(_is_pale, spans)]
        hidden = [span for span in spans if span["size"] < 1 or _is_outside(span, page.rect)]
        hidden += _melting(doubtful, page)
        if len(inkless) < len(spans) / 2 or not _is_picture(page, pictures):
            hidden += inkless
        elif inkless:
            self.recognised.append(number)
        else:
            self.pictures.append(number)
        return hidden


def is_language(text: str) -> bool:
    """Whether characters look like words: mostly letters, with blanks among them, and vowels where they are Latin."""
    words = text.split()
    solid = sum(map(len, words))
    letters = list(filter(str.isalpha, unicodedata.normalize("NFD", text.casefold())))
    if not len(letters) > 0.6 * solid > 0 or solid / len(words) >= 15:
        return False
    latin = list(filter(str.isascii, letters))
    vowels = sum(map("aeiouy".__contains__, latin))
    return len(latin) < len(letters) / 2 or 0.25 < vowels / len(latin) < 0.6


def _nameless(text: str) -> float:
    """The share of characters that nobody can read, 0..1."""
    bad = text.count("\ufffd")
    return bad / (bad + _count_alnum(text)) if bad else 0.0


def _count_alnum(text: str) -> int:
    return sum(map(str.isalnum, text))


def _spans(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return list(chain.from_iterable(line["spans"] for line in lines))


def _with_text(spans: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [span for span in spans if span["text"].strip()]


def _letters(lines: Iterable[dict[str, Any]]) -> int:
    return sum(len(span["text"]) for span in _spans(lines))


def _upright(lines: Sequence[dict[str, Any]], page: pymupdf.Page) -> list[dict[str, Any]]:
    """The lines that a reader who holds the page upright can read."""
    import pymupdf

    def turned(line: dict[str, Any]) -> bool:
        along = pymupdf.Point(line["dir"]) * page.rotation_matrix - pymupdf.Point(0, 0) * page.rotation_matrix
        return abs(along.y) > abs(along.x)

    return [line for line in lines if not turned(line)]


def _measure(lines: Sequence[dict[str, Any]], page: pymupdf.Page) -> None:
    """Set sizes and boxes as the page shows them: a Type 3 font's size and height may say nothing, and the page may be
    turned."""
    import pymupdf

    matrix = page.rotation_matrix
    for line in lines:
        level = abs(line["dir"][0]) >= abs(line["dir"][1])
        for span in line["spans"]:
            x0, y0, x1, y1 = span["bbox"]
            if span["size"] < 1:
                span["size"] = y1 - y0 if level else x1 - x0
            is_flat = not span["size"] and span["text"].strip()
            if is_flat:  # letters are about half as wide as high
                span["size"] = 2 * max(x1 - x0, y1 - y0) / len(span["text"])
                y0 -= span["size"]
            span["bbox"] = tuple(pymupdf.Rect(x0, y0, x1, y1) * matrix)


def _is_outside(span: dict[str, Any], edges: pymupdf.Rect) -> bool:
    x0, y0, x1, y1 = span["bbox"]
    return x1 < 0 or y1 < 0 or x0 > edges.x1 or y0 > edges.y1


def _is_pale(span: dict[str, Any]) -> bool:
    return min(span["color"].to_bytes(3, "big")) >= PALE_FROM


def _melting(spans: Iterable[dict[str, Any]], page: pymupdf.Page) -> list[dict[str, Any]]:
    """Those spans where the page, drawn, shows hardly any difference between light and dark."""
    import pymupdf

    drawing = cache(page.get_displaylist)

    def contrast(box: Box) -> int:
        clip = pymupdf.Rect(box) & page.rect
        grey = drawing().get_pixmap(colorspace=pymupdf.csGRAY, alpha=0, clip=clip).samples
        return max(grey, default=0) - min(grey, default=0)

    return [span for span in spans if contrast(span["bbox"]) < MIN_CONTRAST]


def _pictures(page: pymupdf.Page) -> list[Box]:
    """The boxes of the page's pictures, as far as they are on it."""
    import pymupdf

    if not page.get_images():  # cheaper than to draw the page once more
        return []
    boxes = []
    for image in page.get_image_info():
        box = pymupdf.Rect(image["bbox"]) * page.rotation_matrix & page.rect
        if not box.is_empty:
            boxes.append(tuple(box))
    return boxes


def _is_picture(page: pymupdf.Page, pictures: Sequence[Box]) -> bool:
    """Whether pictures cover at least half of the page; a scanner may save strips."""
    area = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in set(pictures))
    return area >= abs(page.rect) / 2


def _lines(blocks: Sequence[dict[str, Any]], hidden: set[int], upright: set[int]) -> Iterator[Line]:
    """Lines that stand on their side, such as a margin's stamp, come last."""
    on_side = []
    for number, block in enumerate(blocks):
        for line in block["lines"]:
            spans = [span for span in line["spans"] if id(span) not in hidden]
            if id(line) in upright:
                yield from _line(spans, number)
            else:
                on_side.append((spans, number + len(blocks)))
    for spans, number in on_side:
        yield from _line(spans, number)


def _line(spans: Sequence[dict[str, Any]], block: int) -> Iterator[Line]:
    """The line that these are; none of spans without text."""
    size = max((span["size"] for span in spans), default=0.0)
    text = tidy("".join(_text(span, size, first=span is spans[0]) for span in spans))
    if text:
        shown = _with_text(spans)
        box = around(span["bbox"] for span in shown)
        yield Line(text, *box, size, block, fonts=tuple(span["font"] for span in shown))


def _is_ruled(page: pymupdf.Page) -> bool:
    """Whether there may be a ruled table: lines both ways, or boxes, but not thousands: that is a drawing."""
    paths = level = upright = boxes = 0
    for kind, (x0, y0, x1, y1) in page.get_bboxlog():
        if kind.endswith("path"):
            wide, high = x1 - x0, y1 - y0
            paths += 1
            level += wide > 30 and high < 3
            upright += wide < 3 and high > 6
            boxes += wide > 15 and high > 6
    return paths <= MAX_PATHS and ((level >= 2 and upright >= 2) or boxes >= 4)


def _middle(box: Box) -> tuple[float, float]:
    x0, y0, x1, y1 = box
    return (x0 + x1) / 2, (y0 + y1) / 2


def _within(point: tuple[float, float], box: Sequence[float]) -> bool:
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def _widths(table: Any) -> list[float]:
    """Of its columns, in points."""
    boxes = max((row.cells for row in table.rows), key=lambda cells: sum(map(bool, cells)))
    return [box[2] - box[0] for box in filter(None, boxes)]


def _row_styles(drawing: _Drawing, table: Any, lines: Sequence[Line]) -> list[RowStyle]:
    """How each row of a table is set."""
    rows = []
    for row in table.rows:
        faces = []
        for box in row.cells:
            here = [line for line in lines if box and _within(line.middle, box)]
            fonts = frozenset(chain.from_iterable(line.fonts for line in here))
            faces.append(Face(fonts, max(line.size for line in here)) if fonts else None)
        x0, _, x1, bottom = row.bbox
        rows.append(RowStyle(tuple(faces), drawing.background(row.bbox), drawing.rule(x0, x1, bottom)))
    return rows


class _Drawing:
    """What a page shows beside its text: its background, and level rules."""

    def __init__(self, page: pymupdf.Page) -> None:
        import pymupdf

        self._scale = min(1.0, MAX_DRAWING / max(page.rect.width, page.rect.height))
        matrix = pymupdf.Matrix(self._scale, self._scale)
        drawing = page.get_displaylist().get_pixmap(matrix=matrix, colorspace=pymupdf.csGRAY, alpha=0)
        self._width, self._greys = drawing.width, drawing.samples
        self._rules: list[Box] = []
        for kind, box in page.get_bboxlog():
            if kind.endswith("path") and box[3] - box[1] < MAX_RULE:
                self._rules.append(box)

    def background(self, box: Box) -> int:
        """The grey of most of what lies within, 0..255."""
        x0, y0, x1, y1 = (max(0, round(self._scale * edge)) for edge in box)
        greys = bytearray()
        for y in range(y0, y1):
            greys += self._greys[y * self._width + x0 : y * self._width + min(x1, self._width)]
        return max(set(greys), key=greys.count, default=255)

    def rule(self, x0: float, x1: float, y: float) -> float:
        """How thick the rule at this height is, with what lies between the lines of a double one; 0 for less than half
        of a rule from x0 to x1."""
        near, covered = [], 0.0
        for left, top, right, bottom in self._rules:
            if abs((top + bottom) / 2 - y) < RULE_DISTANCE and left < x1 and right > x0:
                near += [top, bottom]
                covered += min(right, x1) - max(left, x0)
        return max(near) - min(near) if 2 * covered > x1 - x0 else 0.0


def _holds_rows(table: Any, lines: Sequence[Line]) -> bool:
    """Whether several rows stand between two of its rules: a cell of the first column has lines that would have fitted
    into one, beside a cell of several lines. Nothing tells then which of these belongs to which."""
    for row in table.rows[1:]:
        boxes = list(filter(None, row.cells))
        here, *beside = ([line for line in lines if _within(line.middle, box)] for box in boxes)
        room = boxes[0][2] - boxes[0][0]
        together = any(a.x1 - a.x0 + a.size / 2 + b.x1 - b.x0 < room for a, b in pairwise(here))
        if together and any(len(cell) > 1 for cell in beside):
            return True
    return False


def _loses_text(rows: Sequence[Sequence[str]], lines: Sequence[Line]) -> bool:
    """Whether what was taken for a table's cells cuts words, or lacks letters, of the lines that stand there: then it
    is a frame, or a drawing."""
    cells, whole = tidy(" ".join(chain.from_iterable(rows))), " ".join(line.text for line in lines)
    words, known = re.findall(r"\w+", cells), set(re.findall(r"\w+", whole))
    letters = _count_alnum(cells), _count_alnum(whole)
    if not words or min(letters) < MIN_KEPT_SHARE * max(letters):
        return True
    return sum(map(known.__contains__, words)) < MIN_KEPT_SHARE * len(words)


def _filled_in(lines: list[Line], page: pymupdf.Page) -> list[Line]:
    """The lines with each form field's value behind the label that it belongs to: left of it, else above."""
    for field in page.widgets() or ():
        value, box = tidy(_value(field)), field.rect
        if not value:
            continue
        lines = [line for line in lines if not _within(line.middle, box)]  # the value as the file draws it, or not
        label = _label(lines, box)
        if label is None:
            block = max((line.block for line in lines), default=0) + 1
            lines.append(Line(value, box.x0, box.y0, box.x1, box.y1, size=10.0, block=block))
        else:
            text = f"{label.text} {value}"
            lines[lines.index(label)] = replace(label, text=text, x1=max(label.x1, box.x1))
    return lines


def _label(lines: Sequence[Line], box: Any) -> Line | None:
    """The line that a field's value belongs to: the nearest one left of it, else above it."""
    left, above = [], []
    for line in lines:
        if line.x0 < box.x0 and line.y0 < (box.y0 + box.y1) / 2 < line.y1:
            left.append(line)
        if line.y0 < box.y0 and line.x0 < box.x1 and line.x1 > box.x0:
            above.append(line)
    if left:
        return max(left, key=attrgetter("x1"))
    return max(above, key=attrgetter("y1"), default=None)


def _value(field: pymupdf.Widget) -> str:
    import pymupdf

    if field.field_type in (pymupdf.PDF_WIDGET_TYPE_CHECKBOX, pymupdf.PDF_WIDGET_TYPE_RADIOBUTTON):
        return "[x]" if field.field_value not in (None, False, "", "Off") else ""
    written = field.field_type in (
        pymupdf.PDF_WIDGET_TYPE_TEXT,
        pymupdf.PDF_WIDGET_TYPE_COMBOBOX,
        pymupdf.PDF_WIDGET_TYPE_LISTBOX,
    )
    value = field.field_value if written else ""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _text(span: dict[str, Any], size: float, *, first: bool) -> str:
    """Figures set as superscript stay so: a footnote's number is no part of the year before it, nor of the word after
    it. What has no letter is left out."""
    text = span["text"].replace("\ufffd", "")
    small = span["size"] < 0.9 * size
    if small and first and text.strip().isdecimal():
        text = text.rstrip() + " "
    raised = span["flags"] & 1 and small  # bit 0: TEXT_FONT_SUPERSCRIPT
    return text.translate(SUPERSCRIPT) if raised else text
