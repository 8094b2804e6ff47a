"""Documents of every format -> the clean text of each page. One table, FORMATS; a row is a format.

What a file is, its first bytes say, never its name. It is parsed in a `Sandbox`, whatever it is: no network, no files,
no secrets, little memory, a clock. Numbers and plain text come back; every sentence that a person reads is written on
this side.
"""

from __future__ import annotations

import encodings
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain, count, filterfalse, repeat
from pkgutil import iter_modules
from typing import Any

from core.document.archive import Unreadable
from core.document.language import ENGLISH, NAMES, language_of
from core.document.ocr import MAX_MINUTES, Ocr, Recognised
from core.document.places import shortened
from core.document.text import counted, tidy, unseen, visible
from core.errors import (
    DocumentDamaged,
    DocumentHasNoText,
    DocumentLocked,
    DocumentTooBig,
    DocumentTooLong,
    DocumentTooSlow,
    Refused,
    UnsupportedFormat,
)
from core.sandbox import Crashed, Overrun, Sandbox, Stuck
from core.types import ALL_PAGES, Limits, Page

SANDBOX = Sandbox()
MAGIC_WITHIN = 1024  # bytes in which a PDF's magic must stand (Adobe's own readers' rule)
PDF_MAGIC = b"%PDF-"  # somewhere in the first 1,024 bytes
ZIP = b"PK\x03\x04"
MAX_PLACE_NAME = 160  # characters of what a place is called
MIN_LANGUAGE_WORDS = 40  # words that tell a document's language
POOR_CONFIDENCE = 0.6  # confidence of text recognition below which a page is called hardly recognised
WINDOWS_CODECS = ("mbcs", "oem")  # codecs that are nowhere else
CODECS = tuple(f"encodings.{m.name}" for m in iter_modules(encodings.__path__) if m.name not in WINDOWS_CODECS)
TEXT_MODULES = ("csv", "zipfile", "xml.etree.ElementTree", "charset_normalizer", *CODECS)
XML_MODULES = ("xml.etree.ElementTree", "zipfile", "encodings.cp437", "encodings.utf_16", "encodings.utf_16_le")
KINDS = "a PDF, a Word, PowerPoint or Excel file, an e-book (EPUB), a web page, Markdown or plain text"


@dataclass(frozen=True)
class DocumentText:
    """What was read."""

    pages: tuple[Page, ...]  # all that were asked for, in order; a page without text has ""
    notes: tuple[str, ...] = ()  # what was left out or looks wrong, one sentence each
    place: str = "page"  # what its parts are called: "slide", "sheet", "chapter"


@dataclass(frozen=True)
class Format:
    """A kind of document."""

    name: str  # with its article, for people
    recognises: Callable[[bytes], bool]  # by the file's bytes
    reader: str  # "module:function", run in the child: bytes, first and last page, limit of pages -> a reply
    imports: tuple[str, ...]  # what it needs; the child can open no file to import from
    place: str = "page"  # what its parts are, for citations
    signs: bool = False  # whether the reader gives a sign of life after each of them


def _begins(data: bytes) -> bytes:
    return data[:MAGIC_WITHIN].lstrip(b"\xef\xbb\xbf \t\r\n").lower()


def _is_zip_with(part: bytes) -> Callable[[bytes], bool]:
    return lambda data: data.startswith(ZIP) and part in data


def _is_pdf(data: bytes) -> bool:
    return PDF_MAGIC in data[:MAGIC_WITHIN] and not _begins(data).startswith((b"<", b"pk"))


def _is_html(data: bytes) -> bool:
    start = _begins(data.replace(b"\0", b"") if data[:2] in (b"\xff\xfe", b"\xfe\xff") else data)
    if re.match(rb"<(?:h[1-6]|p|div|ul|ol|table|section|article|main)[ >]", start) and data.count(b"</") > 3:
        return True  # a piece of a page
    named = start.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<!--", b"<?xml"))
    return named and (b"<html" in start or b"<!doctype html" in start or b"<body" in start)


def _is_picture(data: bytes) -> bool:
    return data.startswith(PICTURES) or (data.startswith(b"BM") and data[6:10] == bytes(4))  # BMP: two empty fields


def _is_text(data: bytes) -> bool:
    """Few control characters, and zeros only in UTF-16."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    head = data[:100_000]
    few = len(head.translate(None, CONTROL)) >= 0.99 * len(head)
    return few and b"\0" not in head


PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")  # as far as MuPDF opens them
CONTROL = bytes({*range(32)} - {*b"\t\n\r\f\x1b"})
PDF_MODULES = ("pymupdf", "encodings.raw_unicode_escape", "encodings.unicode_escape")  # the last two: to find tables
WORD = _is_zip_with(b"word/document.xml")
SLIDES = _is_zip_with(b"ppt/presentation.xml")
SHEETS = _is_zip_with(b"xl/workbook.xml")
EPUB = _is_zip_with(b"mimetypeapplication/epub+zip")
FORMATS = (
    Format("a PDF", _is_pdf, "core.document.pdf:extract", PDF_MODULES, signs=True),
    Format("a Word document", WORD, "core.document.office:read_docx", XML_MODULES),
    Format("a presentation", SLIDES, "core.document.office:read_pptx", XML_MODULES, "slide"),
    Format("a workbook", SHEETS, "core.document.office:read_xlsx", ("openpyxl", *XML_MODULES), "sheet"),
    Format("an e-book", EPUB, "core.document.web:read_epub", TEXT_MODULES, "chapter"),
    Format("a web page", _is_html, "core.document.web:read_html", TEXT_MODULES),
    Format("a picture", _is_picture, "core.document.pdf:extract_picture", PDF_MODULES),
    Format("text", _is_text, "core.document.flow:read_text", TEXT_MODULES),
)
ENDINGS = ("pdf", "docx", "pptx", "xlsx", "epub", "html", "htm", "md", "markdown", "txt")  # of files worth hearing
PLACES = r"pages?|pp?\.|slides?|sheets?|chapters?|seiten?|folien?|kapitel"
SUFFIXES = {"pptx": "slide", "xlsx": "sheet", "epub": "chapter"}

SEARCHABLE = "send a copy whose text can be selected (a scanner app makes one by text recognition, OCR)"
PICTURE = f"This is a picture, and I am not set up to read text in pictures; {SEARCHABLE}."

# What people send and what can't be read: how it begins, what is in it, and what to do. The first that fits is said.
OTHERS = (
    (b"\xd0\xcf\x11\xe0", b"E\0n\0c\0r\0y\0p\0t\0e\0d\0P", "This document needs a password; send a copy without one."),
    (b"\xd0\xcf\x11\xe0", b"", "This is a file of an old Office program; save it as .docx, .pptx or .xlsx first."),
    (ZIP, b"application/vnd.oasis.opendocument", "This is an OpenDocument file; save it as a PDF and send that."),
    (ZIP, b"Index/Document.iwa", "This is a file of Apple's office programs; export it as a PDF and send that."),
    (ZIP, b"", "This is a zip archive; send the documents in it one by one."),
    (b"{\\rtf", b"", "This is an RTF file; save it as .docx or as a PDF and send that."),
    (b"%!PS", b"", "This is a PostScript file; convert it to a PDF and send that."),
    (b"RIFF", b"WEBP", "This is a WebP picture; save it as PNG or JPEG and send that."),
    (b"\0\0\0", b"ftyphei", "This is a HEIC picture; save it as JPEG and send that."),
    (b"<svg", b"", f"This is an SVG picture; I read text only: send me {KINDS}."),
)  # fmt: skip
REASONS: dict[str, tuple[type[Refused], str | None]] = {  # why a child refuses a document
    "bomb": (DocumentTooBig, "This document unpacks to more than a document may hold; save it as a PDF and send that."),
    "cells": (DocumentTooLong, "This workbook has more than 200,000 cells; send a sheet with what matters."),
    "declares": (DocumentDamaged, "This document holds something that no office program writes; save it anew."),
    "locked": (DocumentLocked, None),
    "pixels": (DocumentTooBig, "This picture has more than 100 million dots; send a smaller one."),
    "macros": (UnsupportedFormat, "This document has macros; save it without them and send that."),
}  # fmt: skip


def recognise(data: bytes) -> Format:
    """What a file is. Raises: UnsupportedFormat, with what to do."""
    if not data:
        raise UnsupportedFormat("This file is empty; send it again.")
    *marked, text = FORMATS
    for format in marked:
        if format.recognises(data):
            return format
    start = re.sub(rb"^(?:<\?xml[^>]*>|<!--.*?-->|\s)+(?=<svg)", b"", _begins(data), flags=re.S)
    for beginning, inside, sentence in OTHERS:
        if start.startswith(beginning.lower()) and inside in data:
            raise UnsupportedFormat(sentence)
    if not text.recognises(data):
        raise UnsupportedFormat(f"I can't read this file; send me {KINDS}.")
    return text


def place_of(name: str) -> str:
    """What the parts of a document of this name are called: "page", "slide", "sheet" or "chapter"."""
    return SUFFIXES.get(name.rpartition(".")[2].casefold(), "page")


def is_named_as_document(name: str, content_type: str) -> bool:
    """Whether a file that nobody handed over on purpose is taken for a document: by its name, or as a PDF."""
    return name.rpartition(".")[2].casefold() in ENDINGS or content_type.partition(";")[0] == "application/pdf"


def may_be_document(name: str, content_type: str) -> bool:
    """Whether a file is worth fetching, as far as its name and what a platform says of it tell. The file decides."""
    kind = content_type.partition(";")[0].casefold()
    return kind.startswith(("text/", "application/", "image/")) if kind else "." in name


def pages_in(text: str) -> tuple[int, int] | None:
    """The pages that a message names: "learn pages 3-12", "learn slides 3-12"."""
    match = re.search(rf"\b(?:{PLACES})\s*:?\s*(\d{{1,6}}(?:\s*(?:-|–|to|bis)\s*\d{{1,6}})?)\b", text, re.IGNORECASE)
    return parse_pages(match[1]) if match else None


def parse_pages(text: str) -> tuple[int, int]:
    """ "3-12", "3 to 12", "7". Raises: Refused."""
    match = re.fullmatch(r"\s*(\d{1,6})(?:\s*(?:-|–|to|bis|à)\s*(\d{1,6}))?\s*", text)
    if not match or not 0 < int(match[1]) <= int(match[2] or match[1]):
        raise Refused("Say which pages, for example 1-100.")
    return int(match[1]), int(match[2] or match[1])


def check_size(size: int, limits: Limits) -> None:
    """size: bytes, as they come in or as a platform announces them. Raises: DocumentTooBig."""
    if size > limits.max_bytes:
        raise DocumentTooBig(
            f"This document has {_size(size)}; the limit is {_size(limits.max_bytes)}, so send a part of it."
        )


async def read_document(
    data: bytes,
    limits: Limits,
    pages: tuple[int, int] = ALL_PAGES,
    *,
    sandbox: Sandbox = SANDBOX,
    ocr: Ocr | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DocumentText:
    """Read a document's text in a child process.

    Args:
        pages: the first and the last one to read.
        ocr: how scanned pages and pictures are read; None: not at all.
        progress: told after each page of text recognition, (done, of all).

    Raises: UnsupportedFormat, DocumentDamaged, DocumentLocked, DocumentHasNoText, DocumentTooBig, DocumentTooLong,
        DocumentTooSlow.
    """
    import asyncio  # only the parent needs it

    check_size(len(data), limits)
    format = recognise(data)
    if any(find_spec(name.partition(".")[0]) is None for name in format.imports):  # of the extra "formats"
        raise UnsupportedFormat(f"I am not set up to read {format.name}; save it as a PDF and send that.")
    if format.recognises is _is_picture and not (ocr and ocr.path):
        raise UnsupportedFormat(PICTURE)
    try:
        arguments = (*pages, limits.max_pages)
        imports = (*format.imports, format.reader.partition(":")[0])
        reply = await sandbox.call(
            "core.document.formats:read", data, format.reader, arguments, imports=imports, signs=format.signs
        )
    except Stuck as stuck:
        raise DocumentTooSlow(_stuck(pages[0], pages[0] + int(stuck.args[0]), sandbox)) from None
    except Overrun:
        raise DocumentTooSlow(
            f"This document takes more than {sandbox.seconds:g} seconds or too much memory to read; send a part of it."
        ) from None
    except Crashed:
        raise DocumentDamaged from None
    if ocr and ocr.path and (scans := _scans(reply, limits)):
        kind = "pdf" if format is FORMATS[0] else ""
        reply = _with_recognised(reply, await ocr.recognise(data, kind, scans, progress), ocr)
    return await asyncio.to_thread(_judged, reply, limits, format)  # to tell the language takes its time


def _stuck(first: int, page: int, sandbox: Sandbox) -> str:
    part = f"learn the pages before it (pages {first}-{page - 1}), or " if page > first else ""
    return f"Page {page} takes more than {sandbox.heartbeat_timeout:g} seconds to read; {part}save the document anew."


def _scans(reply: Any, limits: Limits) -> list[int]:
    """The pages that text recognition may read. Raises: DocumentDamaged."""
    try:
        first = int(reply.get("first", 1))
        end = first + min(len(reply.get("texts", ())), limits.max_pages)
        return sorted({int(page) for page in reply.get("scans", ()) if first <= page < end})
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise DocumentDamaged from None


def _with_recognised(reply: dict[str, Any], recognised: Recognised, ocr: Ocr) -> dict[str, Any]:
    """The reply with the pages that were recognised, where that is more than what stood there."""
    texts, first = list(reply["texts"]), reply["first"]
    confidence: dict[int, float] = {}  # of the pages that were taken over
    for page, text in recognised.texts.items():
        if len(text) > len(str(texts[page - first])):
            texts[page - first] = text
            confidence[page] = recognised.confidence.get(page, 0.0)
    new: dict[str, Any] = {"texts": texts, "ocr": confidence}
    for key in ("pictures", "nameless"):
        new[key] = list(filterfalse(confidence.__contains__, reply.get(key, ())))
    return reply | new | {"failed": recognised.failed, "left": recognised.left, "most": ocr.pages}


def _judged(reply: Any, limits: Limits, format: Format) -> DocumentText:
    """A child that a hostile file has taken over may reply anything."""
    try:
        _check_reply(reply, limits, format)
        pages = _pages(reply)
        return DocumentText(pages, (*_notes(reply, format.place), *_language(pages)), format.place)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        raise DocumentDamaged from None


def _check_reply(reply: dict[str, Any], limits: Limits, format: Format) -> None:
    if refused := reply.get("refused"):
        error, sentence = REASONS.get(refused, (DocumentDamaged, None))
        raise error(sentence)
    pages, read = int(reply["pages"]), len(reply["texts"])
    if not read and pages > limits.max_pages:
        raise DocumentTooLong(
            f"This document has {counted(pages, format.place)}, and I read {limits.max_pages:,} at once; "
            f"send it again with “{format.place}s 1-{limits.max_pages}” to learn that part."
        )
    if not read and 0 < pages < int(reply["first"]):
        raise DocumentTooLong(f"This document has only {counted(pages, format.place)}; name some of these.")
    if read > pages or (not read and format.place == "page"):
        raise DocumentDamaged
    if read and len(reply.get("unreadable", ())) == read:
        raise DocumentDamaged
    if not any(map(str.isalnum, chain.from_iterable(reply["texts"]))):
        where = f"on the {counted(read, format.place)} of" if read > 1 else "in"
        raise DocumentHasNoText(f"No text was found {where} this document; {_without_text(reply, format)}.")


def _without_text(reply: dict[str, Any], format: Format) -> str:
    if reply.get("nameless"):
        return f"its fonts do not say which letters they show: {SEARCHABLE}"
    if reply.get("hidden"):
        return "all of it is hidden: make it visible, save it anew and send that"
    if format is FORMATS[-1]:
        return "send one with something in it"
    looks = "it looks like a scan or a drawing" if format is FORMATS[0] else "if it shows pictures of text"
    return f"{looks}, {SEARCHABLE}"


def _pages(reply: dict[str, Any]) -> tuple[Page, ...]:
    texts = [text.encode(errors="ignore").decode() for text in reply["texts"]]  # no half of a surrogate pair
    sure, places = reply.get("ocr", {}), chain(reply.get("places", ()), repeat(()))
    pages = []
    for number, text, begin in zip(count(int(reply["first"])), texts, places, strict=False):
        shown = _places(begin, unseen(text))
        pages.append(Page(number=number, text=visible(text), places=shown, confidence=sure.get(number)))
    return tuple(pages)


def _places(begin: Sequence[Sequence[Any]], left_out: Sequence[int]) -> tuple[tuple[int, str], ...]:
    """Names that can be shown, in the order of the text, of which so many characters are left out."""
    places = []
    for start, name in begin:
        offset = max(0, int(start))
        places.append((offset - bisect_left(left_out, offset), shortened(tidy(str(name)), MAX_PLACE_NAME)))
    return tuple(sorted(places))


def _notes(reply: dict[str, Any], place: str) -> tuple[str, ...]:
    hidden = {int(page): int(letters) for page, letters in reply.get("hidden", ())}

    def on(key: str, sentence: str) -> str:
        return f"{_numbers(reply[key], place)}{sentence}" if reply.get(key) else ""

    where = _numbers(list(hidden), place).lower()
    notes = (
        "The file is damaged; what could be recovered was read." if reply.get("repaired") else "",
        on("unreadable", " could not be read."),
        f"Hidden text on {where} was left out ({counted(sum(hidden.values()), 'letter')})." if hidden else "",
        on("nameless", " could not be read: the fonts do not say which letters they show."),
        on("partly", " could be read in part: some fonts do not say which letters they show."),
        on("recognised", ": a scan; its recognised text was read."),
        on("pictures", ": a picture without text."),
        *_ocr_notes(reply, place),
    )
    return tuple(filter(None, notes))


def _ocr_notes(reply: dict[str, Any], place: str) -> list[str]:
    """What text recognition read, how sure it is, and what it left out."""
    sure: dict[int, float] = reply.get("ocr", {})
    poor = [page for page, confidence in sure.items() if confidence < POOR_CONFIDENCE]
    notes = []
    if sure:
        mean = sum(sure.values()) / len(sure)
        notes.append(f"{_numbers(list(sure), place)}: read by text recognition (OCR), {mean:.0%} sure of the letters.")
    if poor:
        notes.append(f"{_numbers(poor, place)} could hardly be recognised, so do not rely on it.")
    if failed := reply.get("failed"):
        notes.append(f"{_numbers(failed, place)} could not be recognised.")
    if left := reply.get("left"):
        most = f"I recognise {counted(reply.get('most', 0), place)} of a document, for {MAX_MINUTES} minutes at most"
        were = "was" if len(left) == 1 else "were"
        notes.append(f"{_numbers(left, place)} {were} left out: {most}.")
    return notes


def _language(pages: Sequence[Page]) -> tuple[str, ...]:
    """Said of a document that is not English."""
    text = "\n".join(page.text for page in pages)
    language = language_of(text) if len(text.split()) >= MIN_LANGUAGE_WORDS or not text.isascii() else ENGLISH
    return (f"This document is in {NAMES[language]}; I read English best.",) if language != ENGLISH else ()


def _numbers(pages: Sequence[int], place: str) -> str:
    """[1, 2, 3, 5] -> "Pages 1-3, 5"."""
    runs: list[list[int]] = []
    for page in map(int, pages):
        if runs and page == runs[-1][-1] + 1:
            runs[-1][1:] = [page]
        else:
            runs.append([page])
    numbers = ", ".join("-".join(map(str, run)) for run in runs)
    return f"{place.capitalize()}{'s' * (len(pages) != 1)} {numbers}"


def _size(number: int) -> str:
    """Megabytes to one decimal, rounded up, so that what is over a limit also reads so; small numbers in bytes."""
    tenths = -(-number * 10 // 2**20)
    return f"{tenths / 10:,g} MB" if number >= 2**20 else counted(number, "byte")


# Below, the child: nothing here runs in the parent.


def read(data: bytes, reader: str, arguments: Sequence[int]) -> dict[str, Any]:
    """What a format's reader finds, or why it is refused. Readers that know no pages are asked for all, then cut."""
    from importlib import import_module

    module, _, name = reader.partition(":")
    first, last, _most = arguments
    try:
        if name.startswith("extract"):
            return getattr(import_module(module), name)(data, *arguments)
        reply = getattr(import_module(module), name)(data)
    except Unreadable as why:
        return {"refused": str(why)}
    texts = reply["texts"]
    asked = slice(first - 1, last or len(texts))
    hidden = [row for row in reply.get("hidden", ()) if first <= row[0] < first + len(texts[asked])]
    cut = {"texts": texts[asked], "places": reply.get("places", [])[asked], "hidden": hidden}
    return reply | cut | {"pages": len(texts), "first": first}
