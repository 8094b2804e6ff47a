"""Scans and pictures: drawn, recognised and laid out, each in a sandbox of its own."""

from __future__ import annotations

import base64
import io
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pymupdf
import pytest

from core import errors
from core.document.formats import read_document
from core.document.ocr import MAX_DOTS, NoDrawing, Ocr, _image, installed, lay_out
from core.document.pdf import draw
from core.sandbox import Sandbox
from core.types import Limits
from tests.core import documents

# Speaks Tesseract's command line: an image in, TSV out. It has the shell's own commands only: it may start no program.
STAND_IN = r"""#!/bin/sh
if [ "$1" = --list-langs ]; then printf 'List of available languages (2):\neng\nosd\n'; exit; fi
read -r magic; read -r width height
[ "$magic" = P5 ] || exit 1
[ "$1 $2 $3 $4" = "stdin stdout -l eng" ] || exit 1
printf 'level\tpage_num\tblock_num\tpar_num\tline_num\tword_num\tleft\ttop\twidth\theight\tconf\ttext\n'
printf '1\t1\t0\t0\t0\t0\t0\t0\t%s\t%s\t-1\t\n' "$width" "$height"
"""
WORDS = "printf '5\\t1\\t1\\t1\\t%d\\t%d\\t%d\\t%d\\t90\\t40\\t%d\\t%s\\n' {}\n"


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where everybody may read: what is recognised is no root's any more. What a stand-in reads is drawn coarsely."""
    monkeypatch.setattr("core.document.ocr.DPI", 72)
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def stand_in(folder: Path, *words: tuple[int, int, str, int], end: str = "") -> Ocr:
    """One that prints these words: (line, place in it, text, confidence in percent)."""
    rows = "".join(WORDS.format(f"{line} {n} {100 * n} {50 * line} {sure} '{text}'") for line, n, text, sure in words)
    file = folder / "tesseract"
    file.write_text(STAND_IN + rows + end)
    file.chmod(0o755)
    return Ocr(program=str(file))


def picture(text: str = "The harbour opens at six.", dpi: int = 100) -> pymupdf.Pixmap:
    page = pymupdf.open().new_page(width=documents.WIDTH, height=documents.HEIGHT)
    page.insert_text((30, 80), text, fontsize=20)
    return page.get_pixmap(dpi=dpi)


def scan(text: str = "The harbour opens at six.") -> documents.Draw:
    return lambda page: page.insert_image(page.rect, pixmap=picture(text))


SIX = ((1, 1, "opens", 90), (1, 2, "at", 90), (1, 3, "six.", 60))


async def test_a_scanned_page_is_read_by_text_recognition_and_marked(folder: Path) -> None:
    data = documents.pdf("Printed.", scan())
    seen: list[tuple[int, int]] = []
    read = await read_document(
        data, Limits(), ocr=stand_in(folder, *SIX), progress=lambda done, total: seen.append((done, total))
    )
    printed, scanned = read.pages
    assert (printed.text, printed.confidence) == ("Printed.", None)
    assert (scanned.text, round(scanned.confidence or 0, 2)) == ("opens at six.", 0.79)
    assert read.notes == ("Page 2: read by text recognition (OCR), 79% sure of the letters.",)
    assert seen == [(1, 1)]


async def test_without_text_recognition_a_scan_is_refused_with_what_to_do() -> None:
    for ocr in (None, Ocr(program="no-such-program"), Ocr(pages=0)):
        with pytest.raises(errors.DocumentHasNoText, match="send a copy whose text can be selected"):
            await read_document(documents.pdf(scan()), Limits(), ocr=ocr)
        with pytest.raises(
            errors.UnsupportedFormat, match=r"^This is a picture, and I am not set up to read text in pictures"
        ):
            await read_document(picture().tobytes("png"), Limits(), ocr=ocr)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "BMP"])
async def test_a_picture_is_read(folder: Path, kind: str) -> None:
    file = io.BytesIO()
    picture().pil_image().save(file, kind)
    assert (await read_document(file.getvalue(), Limits(), ocr=stand_in(folder, *SIX))).pages[0].text == "opens at six."


async def test_a_picture_of_a_billion_dots_is_refused_before_it_is_unpacked(folder: Path) -> None:
    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 40_000, 40_000, 1, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(bytes(9))) + part(b"IEND", b"")
    with pytest.raises(
        errors.DocumentTooBig, match=r"^This picture has more than 100 million dots; send a smaller one\.$"
    ):
        await read_document(data, Limits(), ocr=stand_in(folder, *SIX))


async def test_what_can_hardly_be_recognised_is_said_and_noise_is_left_out(folder: Path) -> None:
    ocr = stand_in(folder, (1, 1, "opens", 50), (2, 1, "~;", 10))
    read = await read_document(documents.pdf(scan()), Limits(), ocr=ocr)
    assert read.pages[0].text == "opens"
    assert read.notes[1] == "Page 1 could hardly be recognised, so do not rely on it."


async def test_pages_beyond_the_limit_are_left_out_and_said(folder: Path) -> None:
    ocr = stand_in(folder, *SIX)
    read = await read_document(
        documents.pdf(scan(), scan(), scan()), Limits(), ocr=Ocr(program=ocr.program, pages=1, sandbox=ocr.sandbox)
    )
    assert [page.text for page in read.pages] == ["opens at six.", "", ""]
    assert read.notes[-1] == "Pages 2-3 were left out: I recognise 1 page of a document, for 15 minutes at most."


@pytest.mark.parametrize(
    "end",
    ["exit 1\n", "while :; do :; done\n", "kill -9 $$\n", "printf 'x%.0s\\tx' 1 2 3; printf '\\377\\376'\nexit 3\n"],
)
async def test_a_program_that_fails_hangs_or_dies_costs_its_page_only(folder: Path, end: str) -> None:
    ocr = stand_in(folder, *SIX, end=end)
    ocr = Ocr(program=ocr.program, sandbox=Sandbox(seconds=1.5))
    read = await read_document(documents.pdf("Printed.", scan()), Limits(), ocr=ocr)
    assert [page.text for page in read.pages] == ["Printed.", ""]
    assert "Page 2 could not be recognised." in read.notes


async def test_the_program_writes_no_file_and_starts_none(folder: Path) -> None:
    mark = folder / "mark"
    folder.chmod(0o777)
    escape = f"(: > {mark}) 2>/dev/null\n: > {mark}\n/bin/touch {mark}\n"
    await read_document(documents.pdf("Printed.", scan()), Limits(), ocr=stand_in(folder, *SIX, end=escape))
    assert not mark.exists()


async def test_a_blank_page_is_not_handed_to_the_program(folder: Path) -> None:
    white = lambda page: page.insert_image(page.rect, pixmap=picture(""))  # noqa: E731
    read = await read_document(documents.pdf("Printed.", white), Limits(), ocr=stand_in(folder, *SIX, end="exit 1\n"))
    assert read.pages[1].text == "" and not any("could not be recognised" in note for note in read.notes)


def test_a_page_is_never_drawn_with_more_dots_than_allowed() -> None:
    page = pymupdf.open()
    page.new_page(width=8000, height=9000).insert_text((100, 900), "Large", fontsize=400)
    drawing = draw(page.tobytes(), 1, "pdf", 300, 1_000_000)
    assert drawing["width"] * drawing["height"] <= 1_000_000
    assert len(base64.b64decode(drawing["dots"])) == drawing["width"] * drawing["height"]


@pytest.mark.parametrize(
    "drawing",
    [
        None,
        {},
        {"width": 3, "height": 3, "dpi": 300, "dots": base64.b64encode(b"12345678").decode()},
        {"width": 3, "height": 3, "dpi": 0, "dots": base64.b64encode(b"123456789").decode()},
        {"width": MAX_DOTS, "height": 2, "dpi": 300, "dots": base64.b64encode(bytes(2 * MAX_DOTS)).decode()},
        {"width": float("inf"), "height": 3, "dpi": 300, "dots": ""},
        {"width": 3, "height": 3, "dpi": 300, "dots": "no base64!"},
    ],
)
def test_what_a_captured_child_may_draw_is_checked(drawing: object) -> None:
    with pytest.raises(NoDrawing):
        _image(drawing)


def test_columns_and_broken_words_are_laid_out_as_in_a_pdf() -> None:
    rows = [(1, 1, 100, "The har-"), (1, 1, 150, "bour opens."), (2, 1, 100, "Beside it.")]
    tsv = "\n".join(
        f"5\t1\t{block}\t{par}\t{top}\t{n}\t{100 + 900 * (block - 1) + 100 * n}\t{top}\t90\t30\t90\t{word}"
        for block, par, top, text in rows
        for n, word in enumerate(text.split())
    )
    [(text, sure)] = lay_out(f"[[1, {tsv!r}]]".replace("'", '"').encode())
    assert (text, round(sure, 2)) == ("The harbour opens.\n\nBeside it.", 0.9)


@pytest.mark.skipif(not shutil.which("tesseract"), reason="Tesseract is not installed")
async def test_tesseract_itself_reads_a_scan_and_a_picture() -> None:
    assert "eng" in installed(Ocr().path)
    read = await read_document(documents.pdf(scan()), Limits(), ocr=Ocr())
    assert read.pages[0].text == "The harbour opens at six."
    assert (read.pages[0].confidence or 0) > 0.8
    read = await read_document(picture().tobytes("png"), Limits(), ocr=Ocr())
    assert read.pages[0].text == "The harbour opens at six."
