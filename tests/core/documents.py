"""PDFs for the tests: plain ones by PyMuPDF, hostile ones byte by byte."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import pymupdf

WIDTH, HEIGHT = 595, 842
Draw = Callable[[pymupdf.Page], object]


def pdf(*pages: str | Draw, **save: object) -> bytes:
    """A page for each text, or for each function that draws one."""
    document = pymupdf.open()
    for content in pages:
        page = document.new_page(width=WIDTH, height=HEIGHT)
        if callable(content):
            content(page)
        else:
            page.insert_text((72, 160), content.split("\n"))
    return document.tobytes(**save)


def write(*lines: tuple[float, str], x: float = 72, **how: object) -> Draw:
    """Each line of text at its distance from the top."""

    def draw(page: pymupdf.Page) -> None:
        for y, text in lines:
            page.insert_text((x, y), text, **how)

    return draw


def both(*draws: Draw) -> Draw:
    return lambda page: [draw(page) for draw in draws]


def picture(page: pymupdf.Page) -> None:
    pixmap = pymupdf.Pixmap(pymupdf.csGRAY, (0, 0, 50, 50))
    pixmap.clear_with(200)
    page.insert_image(page.rect, pixmap=pixmap)


# Byte by byte


def assemble(objects: Sequence[bytes]) -> bytes:
    """A PDF file of these objects; the first is the catalog."""
    out, starts = bytearray(b"%PDF-1.7\n"), []
    for number, body in enumerate(objects, start=1):
        starts.append(len(out))
        out += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % start for start in starts)
    size, at = len(objects) + 1, len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n%btrailer<</Size %d/Root 1 0 R>>\n" % (size, table, size)
    return bytes(out + b"startxref\n%d\n%%%%EOF" % at)


def stream(data: bytes, entries: bytes = b"") -> bytes:
    return b"<<%b/Length %d>>stream\n%b\nendstream" % (entries, len(data), data)


def one_page(content: bytes, *more: bytes) -> bytes:
    """A page with this content stream (object 4); objects 6 and on are `more`, the first of them its XObject X."""
    return assemble(
        [
            b"<</Type/Catalog/Pages 2 0 R>>",
            b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Contents 4 0 R"
            b"/Resources<</Font<</F 5 0 R>>/XObject<</X 6 0 R>>>>>>",
            content,
            b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
            *more,
        ]
    )


def memory_bomb() -> bytes:
    """Twelve kilobytes that unpack to 1.2 GB of drawing, all of it text to keep."""
    packer = zlib.compressobj(9)
    text = b"BT /F 12 Tf 10 10 Td (aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa) Tj ET " * 20_000
    packed = b"".join(packer.compress(text) for _ in range(1000)) + packer.flush()
    return one_page(stream(zlib.compress(packed, 9), b"/Filter[/FlateDecode/FlateDecode]"))


def endless_loop() -> bytes:
    """Forty forms, each of which draws the next one twice: 2**40 drawings, none of which leaves anything in memory."""
    entries = b"/Type/XObject/Subtype/Form/BBox[0 0 600 800]/Resources<</XObject<</A %d 0 R>>>>"
    forms = [stream(b"/A Do /A Do", entries % (7 + level)) for level in range(40)]
    return one_page(stream(b"/X Do"), *forms, stream(b"0 0 m", b"/Type/XObject/Subtype/Form/BBox[0 0 600 800]"))


def many_pages(count: int) -> bytes:
    kids = b" ".join(b"%d 0 R" % number for number in range(3, 3 + count))
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>"
    return assemble(
        [b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Count %d/Kids[%b]>>" % (count, kids), *[page] * count]
    )
