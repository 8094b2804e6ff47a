"""HTML -> paragraphs, and EPUB, which is HTML in a zip archive. In the child; links are not followed."""

from __future__ import annotations

import posixpath
import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote
from xml.etree.ElementTree import Element

from core.document.about import about
from core.document.archive import Archive, Unreadable, named_texts
from core.document.flow import decoded, pages_of
from core.document.places import heading, join_blocks, with_own
from core.document.tables import rows_as_text, spread
from core.document.text import one_line

SKIPPED = {"script", "style", "template", "noscript", "svg", "math", "nav", "button", "select", "iframe", "object"}
BLOCKS = {
    "p", "div", "section", "article", "header", "footer", "main", "aside", "ul", "ol", "dl", "dt", "dd", "figure",
    "figcaption", "blockquote", "pre", "hr", "form", "fieldset", "address", "caption", "title", "body", "details",
}  # fmt: skip
HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"}
_UNSEEN = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*0(?![.\d]*[1-9])|opacity\s*:\s*0(?![.\d])"
)
_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]{2,40})", re.I)
DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"
META_NAMES = {  # names of <meta>
    "author": "author",
    "article:author": "author",
    "date": "date",
    "dc.date": "date",
    "article:published_time": "date",
}
# At the beginning: there an element called "author" names the document's; below, a comment's
TITLE_PAGE_BLOCKS = 8
MAX_NAME = 80  # characters of an author's
CONTAINER = "META-INF/container.xml"


def read_html(data: bytes) -> dict[str, Any]:
    page = _Page()
    page.feed(_decoded(data))
    page.close()
    blocks = page.blocks()
    title = blocks[0] if page.titled else ""
    own = about(title, page.said.get("author", ""), page.said.get("date", "")) if page.said else ""
    return pages_of(blocks, own) | {"hidden": [[1, page.hidden]] if page.hidden else []}


def read_epub(data: bytes) -> dict[str, Any]:
    """A part for each file of the reading order; one that is named again, by its sections, is read once."""
    archive = Archive(data)
    root = next(archive.xml(CONTAINER).iterfind(".//{*}rootfile")).get("full-path", "")
    package = archive.xml(root)
    said = named_texts(package.iterfind(f".//{DUBLIN_CORE}*"))
    own = about(said.get("title", ""), said.get("creator", ""), said.get("date", ""))
    names = _reading_order(package, posixpath.dirname(root))
    chapters: list[str] = []
    places: list[Any] = []
    hidden: list[Any] = []
    for name in filter(archive.names.__contains__, names):
        page = _Page()
        page.feed(_decoded(archive.read(name)))
        page.close()
        text, begin = join_blocks(page.blocks()[page.titled :], f"chapter {len(chapters) + 1}")
        if text and own:
            text, begin = with_own(own, text, begin)
            own = ""
        chapters.append(text)
        places.append(begin)
        if page.hidden:
            hidden.append([len(chapters), page.hidden])
    if not chapters:
        raise Unreadable("damaged")
    return {"texts": chapters, "places": places, "hidden": hidden, "repaired": len(chapters) < len(names)}


def _reading_order(package: Element, folder: str) -> list[str]:
    """The names of the files in a package's reading order, each once."""
    files = {item.get("id"): item.get("href", "") for item in package.iterfind(".//{*}item")}
    names: dict[str, None] = {}
    for itemref in package.iterfind(".//{*}itemref"):
        if name := files.get(itemref.get("idref"), "").partition("#")[0]:
            names[posixpath.normpath(posixpath.join(folder, unquote(name)))] = None
    return list(names)


def _number(text: str | None) -> int:
    """Of columns or rows, 1 where none is said."""
    return max(1, int(text)) if text and text.isdecimal() and len(text) < 6 else 1


def _decoded(data: bytes) -> str:
    named = _CHARSET.search(data[:2048])
    if named and not data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        try:
            return data.decode(named[1].decode(), errors="replace").replace("\ufffd", "")
        except LookupError:
            pass
    return decoded(data)


class _Page(HTMLParser):
    """Collects the blocks that a browser would show."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.hidden = 0  # letters that a browser would not show
        self.said: dict[str, str] = {}  # author and date, by <meta>, or by an element that is called so
        self._author: list[str] | None = None  # the text of such an element, while it is open
        self._author_tag = ""  # its tag
        self._heading = False  # whether the open block is one
        self.titled = 0  # 1, when the first block is the page's title
        self._blocks: list[str] = []
        self._text: list[str] = []
        self._skipped: list[str] = []  # open tags within one that is not read
        self._unseen = False  # whether that one is a hidden one
        self._rows: list[list[tuple[str, int, int]]] | None = None  # cells as `spread` has them
        self._in_cell = False
        self._spans = 1, 1  # columns and rows that the open cell goes over
        self._tables = 0  # open ones, within each other
        self._exact = 0  # open <pre>

    def blocks(self) -> list[str]:
        self._flush()
        return self._blocks

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        unseen = "hidden" in named or bool(_UNSEEN.search((named.get("style") or "").casefold()))
        if self._skipped or tag in SKIPPED or unseen or named.get("role") == "navigation":
            if tag not in VOID:
                self._unseen = unseen if not self._skipped else self._unseen
                self._skipped.append(tag)
            return
        if tag == "meta" and (key := META_NAMES.get((named.get("name") or named.get("property") or "").casefold())):
            self.said.setdefault(key, named.get("content") or "")
        elif tag == "table":
            self._tables += 1
            if self._tables == 1:
                self._flush()
                self._rows = []
        elif self._rows is not None:
            if tag in ("tr", "td", "th") and self._tables == 1:
                self._end_cell()
                self._in_cell = tag != "tr"
                self._spans = _number(named.get("colspan")), _number(named.get("rowspan"))
                if tag == "tr" or not self._rows:
                    self._rows.append([])
            elif tag not in VOID or tag == "br":
                self._text.append(" " if tag in BLOCKS or tag in ("br", "td", "th", "tr", "li") else "")
        elif tag == "br":
            self._text.append("\n")
        elif tag == "li":
            self._flush()
            self._text.append("• ")
        elif tag in BLOCKS or tag in HEADINGS:
            if self._text != ["• "]:
                self._flush()
            self._heading = tag in HEADINGS
            self._exact += tag == "pre"
        called = {*(named.get("class") or "").casefold().split(), named.get("itemprop"), named.get("rel")}
        if "author" in called and tag not in VOID and len(self._blocks) < TITLE_PAGE_BLOCKS:
            self._author, self._author_tag = [], tag

    def handle_endtag(self, tag: str) -> None:
        if self._skipped:
            if tag in self._skipped:
                while self._skipped.pop() != tag:
                    pass
            return
        if self._author is not None and tag == self._author_tag:
            self._add_author(one_line("".join(self._author)))
        if tag == "table" and self._tables:
            self._tables -= 1
            if not self._tables:
                self._end_cell()
                self._blocks.append(rows_as_text(spread(self._rows or [])))
                self._rows, self._text = None, []
        elif self._rows is not None:
            if tag in ("td", "th") and self._tables == 1:
                self._end_cell()
        elif tag in BLOCKS or tag in HEADINGS or tag == "li":
            self._flush()
            self._exact -= tag == "pre" and self._exact > 0
            self.titled += tag == "title" and len(self._blocks) == 1

    def handle_data(self, data: str) -> None:
        if self._skipped:
            self.hidden += self._unseen and sum(map(str.isalnum, data))
        else:
            self._text.append(data if self._exact else re.sub(r"\s+", " ", data))
            if self._author is not None:
                self._author.append(data)

    def _add_author(self, name: str) -> None:
        self._author = None
        is_name = 3 < len(name) <= MAX_NAME and not any(map(str.isdigit, name))
        if is_name and name not in self.said.get("author", ""):
            self.said["author"] = ", ".join(filter(None, (self.said.get("author"), name)))

    def _end_cell(self) -> None:
        """Its end tag may be left out."""
        if self._in_cell and self._rows:
            self._rows[-1].append((one_line("".join(self._text)), *self._spans))
        self._in_cell, self._text = False, []

    def _flush(self) -> None:
        text = "".join(self._text)
        if not self._exact:
            text = "\n".join(map(one_line, text.split("\n")))
        text = text.strip()
        if text and text != "•":
            self._blocks.append(heading(text) if self._heading else text)
        self._text, self._heading = [], False
