"""Word, PowerPoint and Excel documents (ECMA-376) -> text. In the child; links are not followed, macros are refused.

Word and PowerPoint are read as the XML that they are: their libraries leave out footnotes and text boxes. Excel's cells
need dates and number formats, which openpyxl knows.
"""

from __future__ import annotations

import io
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, time
from itertools import chain, pairwise, zip_longest
from typing import Any
from xml.etree.ElementTree import Element

from core.document.about import about
from core.document.archive import Archive, Unreadable, named_texts
from core.document.flow import pages_of, table_blocks
from core.document.places import MIN_HEADINGS, Block, heading, join_blocks, shortened, with_own
from core.document.tables import MAX_SPAN, has_heading, line_of, rows_as_text
from core.document.text import one_line

W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
P = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
R = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"  # says once more what is said
MAX_CELLS = 200_000  # of all sheets; more is a data base, not a document
STYLES = "word/styles.xml"
CORE_PROPERTIES = "docProps/core.xml"
NOTES = {"word/footnotes.xml": "footnote", "word/endnotes.xml": "endnote"}


def read_docx(data: bytes) -> dict[str, Any]:
    """The pages are those that Word saw when it saved the file; where there are none, of about 3,000 characters."""
    archive = Archive(data)
    document = _Word(archive)
    headings = [(1, block, 0) for block in document.blocks if isinstance(block, Block)]
    own, pages = _own(archive, headings if len(headings) >= MIN_HEADINGS else []), document.pages()
    reply = _paged(pages, own) if len(pages) > 1 else pages_of(document.blocks, own)
    return reply | {"hidden": [[1, document.hidden]] if document.hidden else []}


def _paged(pages: Sequence[Sequence[str]], own: str) -> dict[str, Any]:
    """Pages that are known, and the headings on them."""
    texts, places = [], []
    for number, blocks in enumerate(pages, start=1):
        text, begin = join_blocks(blocks, f"p. {number}")
        texts.append(text)
        places.append(begin)
    return _with_own(texts, places, own)


def _own(archive: Archive, headings: Sequence[tuple[int, str, int]] = ()) -> str:
    """What an Office file says of itself (ECMA-376, part 2, core properties)."""
    said = named_texts(archive.xml(CORE_PROPERTIES)) if CORE_PROPERTIES in archive.names else {}
    return about(said.get("title", ""), said.get("creator", ""), said.get("created", ""), headings)


class _Word:
    def __init__(self, archive: Archive) -> None:
        self.hidden = 0  # letters
        self.blocks: list[str] = []
        self._breaks: list[int] = []  # before these blocks a page begins
        self._notes: dict[tuple[str, str | None], str] = {}  # by kind and id
        for part, kind in NOTES.items():
            for note in archive.xml(part) if part in archive.names else ():
                self._notes[kind, note.get(f"{W}id")] = self._paragraphs(note).strip()
        self._headings = _heading_styles(archive)
        body = archive.xml("word/document.xml").find(f"{W}body")
        if body is None:
            raise Unreadable("damaged")
        self._read(body)

    def pages(self) -> list[list[str]]:
        """Each page's blocks."""
        edges = [0, *self._breaks, len(self.blocks)]
        return [list(filter(None, self.blocks[first:end])) for first, end in pairwise(edges)]

    def _read(self, parent: Element) -> None:
        for child in parent:
            if child.tag == f"{W}p":
                self._paragraph(child)
            elif child.tag == f"{W}tbl":
                rows = map(self._cells, child.iter(f"{W}tr"))
                self.blocks.append(rows_as_text(_table(rows)))
            elif child.tag in (f"{W}sdt", f"{W}sdtContent", f"{W}ins", f"{W}customXml", f"{W}smartTag"):
                self._read(child)

    def _cells(self, row: Element) -> list[tuple[str, int, bool]]:
        """Of each cell its text, how many columns it goes over, and whether it goes on from the row above."""
        skipped = row.find(f"{W}trPr/{W}gridBefore")
        cells = [] if skipped is None else [("", int(skipped.get(f"{W}val", "1")), False)]
        for cell in row.iter(f"{W}tc"):
            wide, merged = cell.find(f"{W}tcPr/{W}gridSpan"), cell.find(f"{W}tcPr/{W}vMerge")
            columns = 1 if wide is None else int(wide.get(f"{W}val", "1"))
            goes_on = merged is not None and merged.get(f"{W}val") != "restart"
            cells.append((self._paragraphs(cell), columns, goes_on))
        return cells

    def _paragraph(self, paragraph: Element) -> None:
        text = self._text(paragraph).strip()
        if self.blocks and any(map(_is_page_break, paragraph.iter())):
            self._breaks.append(len(self.blocks))
        if text:
            style = paragraph.find(f"{W}pPr/{W}pStyle")
            item = paragraph.find(f"{W}pPr/{W}numPr") is not None
            if style is not None and style.get(f"{W}val") in self._headings:
                self.blocks.append(heading(text))
            else:
                self.blocks.append(f"• {text}" if item else text)

    def _text(self, element: Element) -> str:
        return "".join(self._pieces(element))

    def _paragraphs(self, element: Element) -> str:
        return " ".join(map(self._text, element.iter(f"{W}p")))

    def _pieces(self, element: Element) -> Iterator[str]:
        for child in element:
            if child.tag == f"{W}r" and child.find(f"{W}rPr/{W}vanish") is not None:
                self.hidden += _letters(child.iter(f"{W}t"))
            elif child.tag == f"{W}t":
                yield child.text or ""
            elif child.tag in (f"{W}tab", f"{W}br", f"{W}cr"):
                yield " "
            elif child.tag == f"{W}noBreakHyphen":
                yield "-"
            elif child.tag in (f"{W}footnoteReference", f"{W}endnoteReference"):
                kind = "footnote" if "foot" in child.tag else "endnote"
                if note := self._notes.get((kind, child.get(f"{W}id"))):
                    yield f" ({note})"
            elif child.tag not in (FALLBACK, f"{W}del", f"{W}instrText", f"{W}pPr"):
                yield from self._pieces(child)
                if child.tag == f"{W}p":  # of a text box
                    yield " "


def _is_page_break(element: Element) -> bool:
    if element.tag == f"{W}br":
        return element.get(f"{W}type") == "page"
    return element.tag == f"{W}lastRenderedPageBreak"


def _letters(texts: Iterable[Element]) -> int:
    """How many letters and digits stand in elements of text."""
    return sum(sum(map(str.isalnum, element.text or "")) for element in texts)


def _table(rows: Iterable[Sequence[tuple[str, int, bool]]]) -> list[list[str]]:
    """With a cell in each column; one that goes over rows stands in each of them."""
    table: list[list[str]] = []
    for cells in rows:
        row: list[str] = []
        for text, wide, goes_on in cells:
            above = table[-1][len(row)] if goes_on and table and len(row) < len(table[-1]) else text
            row += [above, *[""] * min(wide - 1, MAX_SPAN)]
        table.append(row)
    return table


def _heading_styles(archive: Archive) -> set[str | None]:
    """Ids of the styles of headings, which are named in the language of the program."""
    if STYLES not in archive.names:
        return set()
    styles = set()
    for style in archive.xml(STYLES).iter(f"{W}style"):
        name = style.find(f"{W}name")
        named = name is not None and str(name.get(f"{W}val")).casefold().startswith(("heading", "title"))
        if named or style.find(f"{W}pPr/{W}outlineLvl") is not None:
            styles.add(style.get(f"{W}styleId"))
    return styles


def read_pptx(data: bytes) -> dict[str, Any]:
    """A part for each slide, in their order: title, text, tables, notes. Hidden slides are left out."""
    archive = Archive(data)
    related = _related(archive, "ppt/presentation.xml")
    texts, hidden = [], []
    for number, slide in enumerate(archive.xml("ppt/presentation.xml").iter(f"{P}sldId"), start=1):
        name = related.get(slide.get(f"{R}id", ""), "")
        xml = archive.xml(name)
        if xml.get("show") == "0":
            hidden.append([number, _letters(xml.iter(f"{A}t"))])
            texts.append("")
            continue
        said = _slide(xml)
        for target in _related(archive, name).values():
            if "/notesSlides/" in target:
                said += [f"Notes: {text}" for text in _slide(archive.xml(target))]
        texts.append("\n\n".join(said))
    places = [[(0, f"slide {number}")] for number in range(1, len(texts) + 1)]
    return _with_own(texts, places, _own(archive)) | {"hidden": hidden}


def _with_own(texts: list[str], places: list[list[tuple[int, str]]], own: str) -> dict[str, Any]:
    """What the file says of itself, before the first part that has text."""
    number = next((number for number, text in enumerate(texts) if text), None)
    if own and number is not None:
        texts[number], places[number] = with_own(own, texts[number], places[number])
    return {"texts": texts, "places": places}


def _related(archive: Archive, name: str) -> dict[str, str]:
    """Id -> name of each part of this file that a part names; what lies outside of the file is not looked at."""
    folder, base = posixpath.split(name)
    rels = f"{folder}/_rels/{base}.rels"
    related: dict[str, str] = {}
    for element in archive.xml(rels) if rels in archive.names else ():
        if element.get("TargetMode") != "External":
            target = posixpath.join("/" + folder, element.get("Target", ""))
            related[element.get("Id", "")] = posixpath.normpath(target).lstrip("/")
    return related


def _slide(xml: Element) -> list[str]:
    """The texts of a slide's shapes, its title first."""
    titles: list[str] = []
    others: list[str] = []
    for shape in xml.iter():
        if shape.tag == f"{P}sp":
            kind = shape.find(f"{P}nvSpPr/{P}nvPr/{P}ph")
            role = kind.get("type", "") if kind is not None else ""
            if role in ("sldNum", "dt", "ftr", "hdr", "sldImg"):
                continue
            text = "\n".join(filter(None, _lines(shape)))
            (titles if role in ("title", "ctrTitle") else others).append(text)
        elif shape.tag == f"{A}tbl":
            rows = []
            for row in shape.iter(f"{A}tr"):
                rows.append([" ".join(_lines(cell)) for cell in row.iter(f"{A}tc")])
            others.append(rows_as_text(rows))
    return list(filter(str.strip, (*titles, *others)))


def _lines(shape: Element) -> Iterator[str]:
    """The text of each paragraph in a shape."""
    for paragraph in shape.iter(f"{A}p"):
        text = ""
        for element in paragraph.iter():
            if element.tag == f"{A}t":
                text += element.text or ""
            elif element.tag == f"{A}br":
                text += " "
        yield one_line(text)


def read_xlsx(data: bytes) -> dict[str, Any]:
    """A part for each sheet: a sentence for each row where a row names the columns. Hidden sheets are left out."""
    import openpyxl

    archive = Archive(data)
    for name in archive.names:
        if name.endswith((".xml", ".rels")):
            archive.check(name)
    try:
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
        return _sheets(book, _own(archive))
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, OSError):
        raise Unreadable("damaged") from None


def _sheets(book: Any, own: str) -> dict[str, Any]:
    texts, places, hidden, cells = [], [], [], 0
    for number, sheet in enumerate(book.worksheets, start=1):
        rows: dict[int, list[str]] = {}  # by their numbers
        sheet.reset_dimensions()  # what the file says of them may be wrong
        for line, values in enumerate(sheet.iter_rows(values_only=True), start=1):
            row = list(map(_value, values))
            cells += sum(map(bool, row))
            if cells > MAX_CELLS:
                raise Unreadable("cells")
            if any(row):
                rows[line] = row
        blocks: list[str] = []
        if sheet.sheet_state != "visible":
            text = "".join(chain.from_iterable(rows.values()))
            hidden.append([number, sum(map(str.isalnum, text))])
        elif rows:
            blocks.append(f"Sheet {sheet.title}\n")
            for line, text in zip(rows, _sheet(list(rows.values())), strict=True):
                blocks.append(Block(text, f"row {line}"))
        text, begin = join_blocks(blocks, f"sheet {shortened(sheet.title)}", "\n")
        texts.append(text)
        places.append(begin)
    return _with_own(texts, places, own) | {"hidden": hidden}


def _sheet(rows: list[list[str]]) -> list[str]:
    """Each row: those above the table as they stand, then the table's, without its empty columns."""
    columns = [column for column in zip_longest(*rows, fillvalue="") if any(column)]
    rows = list(map(list, zip(*columns, strict=True)))
    start = _table_start(rows)
    return [*map(line_of, rows[:start]), *table_blocks(rows[start:])]


def _table_start(rows: Sequence[Sequence[str]]) -> int:
    """The number of the row that names the table's columns, else of the first one with several cells."""
    filled = [sum(map(bool, row)) for row in rows]
    several = [number for number, cells in enumerate(filled) if cells > 1]
    for number in several:
        is_full = filled[number] + (not rows[number][0]) >= max(filled)  # a corner is empty
        if is_full and has_heading(rows[number:]):
            return number
    return several[0] if several else len(rows)


def _value(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat(" ", "minutes") if value.time() != time() else value.date().isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, float):
        return f"{value:.10g}"
    return "" if value is None else str(value)
