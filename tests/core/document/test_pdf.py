from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pymupdf
import pytest

from core import errors
from core.document.formats import SEARCHABLE, DocumentText, _stuck, parse_pages, read_document
from core.sandbox import ROOT, Sandbox
from core.types import Limits, Page
from tests.core import documents
from tests.core.documents import both, pdf, picture, write
from tests.timeouts import WAIT

VISIBLE = write((200, "Everyone can see this."))
LOCK = {"encryption": pymupdf.PDF_ENCRYPT_AES_256, "user_pw": "secret", "owner_pw": "owner"}


async def texts(data: bytes) -> list[str]:
    return [page.text for page in (await read_document(data, Limits())).pages]


async def refusal(data: bytes, limits: Limits | None = None, **how: Any) -> errors.Refused:
    with pytest.raises(errors.Refused) as caught:
        await read_document(data, limits or Limits(), **how)
    return caught.value


async def test_a_pdf_becomes_its_pages() -> None:
    read = await read_document(pdf("The first page.", "The second page."), Limits())
    assert read == DocumentText((Page(1, "The first page."), Page(2, "The second page.")))


NO_TEXT = "No text was found {} this document; {}."
SCAN = f"it looks like a scan or a drawing, {SEARCHABLE}"
HIDDEN = "all of it is hidden: make it visible, save it anew and send that"
DAMAGED = "This document is damaged and can't be read; save it anew and send that."
REFUSED = [
    (b"%PDF-1.7\n" + bytes(range(256)) * 9, errors.DocumentDamaged, DAMAGED),
    (pdf("a")[:200], errors.DocumentDamaged, DAMAGED),
    (pdf("a", **LOCK), errors.DocumentLocked, "This document needs a password; send a copy without one."),
    (pdf("", " \n "), errors.DocumentHasNoText, NO_TEXT.format("on the 2 pages of", SCAN)),
    (pdf(picture), errors.DocumentHasNoText, NO_TEXT.format("in", SCAN)),
    (pdf(write((9, "Unseen."), color=(1, 1, 1))), errors.DocumentHasNoText, NO_TEXT.format("in", HIDDEN)),
]


@pytest.mark.parametrize(
    ("data", "error", "sentence"), REFUSED, ids=[f"{n}-{row[1].__name__}" for n, row in enumerate(REFUSED)]
)
async def test_a_refusal_is_one_sentence_that_names_the_cause(
    data: bytes, error: type[Exception], sentence: str
) -> None:
    refused = await refusal(data)
    assert (type(refused), str(refused)) == (error, sentence)
    assert not re.search(r"[/\\]\w|\w\.py|code=|Error", sentence)  # no path, no other library's words


async def test_only_the_pages_that_were_asked_for_are_read_under_their_numbers() -> None:
    data = pdf("One.", "Two.", "Three.", "Four.")
    assert (await read_document(data, Limits(max_pages=2), (2, 3))).pages == (Page(2, "Two."), Page(3, "Three."))
    refused = await refusal(pdf("One."), pages=(7, 9))
    assert str(refused) == "This document has only 1 page; name some of these."


@pytest.mark.parametrize(("text", "pages"), [("3-12", (3, 12)), (" 7 ", (7, 7)), ("1 to 3", (1, 3)), ("2–4", (2, 4))])
def test_a_range_of_pages_is_understood(text: str, pages: tuple[int, int]) -> None:
    assert parse_pages(text) == pages


@pytest.mark.parametrize("text", ["", "0-3", "9-3", "all", "1-2-3"])
def test_what_is_no_range_of_pages_is_refused(text: str) -> None:
    with pytest.raises(errors.Refused, match=r"^Say which pages, for example 1-100\.$"):
        parse_pages(text)


async def test_the_magic_may_come_after_a_little_rubbish() -> None:
    assert await texts(b"\xef\xbb\xbf\r\n" + pdf("Text.")) == ["Text."]


async def test_an_owners_password_alone_locks_nothing() -> None:
    data = pdf("Text.", encryption=pymupdf.PDF_ENCRYPT_AES_256, owner_pw="owner", user_pw="")
    assert await texts(data) == ["Text."]


@pytest.mark.parametrize(
    ("limits", "error", "sentence"),
    [
        (Limits(max_pages=1), errors.DocumentTooLong, "This document has 2 pages, and I read 1 at once; {part}."),
        (
            Limits(max_bytes=200),
            errors.DocumentTooBig,
            "This document has {size} bytes; the limit is 200 bytes, so send a part of it.",
        ),
    ],
)
async def test_limits_are_the_callers(limits: Limits, error: type[Exception], sentence: str) -> None:
    data = pdf("a", "b")
    refused = await refusal(data, limits)
    assert (type(refused), str(refused)) == (
        error,
        sentence.format(size=f"{len(data):,}", part="send it again with “pages 1-1” to learn that part"),
    )


async def test_one_byte_too_many_also_reads_as_too_many() -> None:
    refused = await refusal(bytes(50 * 2**20 + 1))
    assert str(refused) == "This document has 50.1 MB; the limit is 50 MB, so send a part of it."


async def test_a_hundred_thousand_tiny_pages_are_refused_before_they_are_read() -> None:
    began = time.monotonic()
    refused = await refusal(documents.many_pages(100_000))
    assert str(refused).startswith("This document has 100,000 pages, and I read 1,000 at once; send it again with")
    assert time.monotonic() - began < 50


async def test_a_memory_bomb_is_refused() -> None:
    refused = await refusal(documents.memory_bomb(), sandbox=Sandbox(memory=96 * 2**20))
    assert isinstance(refused, errors.DocumentTooSlow)
    assert "too much memory" in str(refused)


async def test_an_endless_page_is_refused_in_time() -> None:
    began = time.monotonic()
    refused = await refusal(documents.endless_loop(), sandbox=Sandbox(seconds=2))
    assert isinstance(refused, errors.DocumentTooSlow)
    assert "2 seconds" in str(refused)
    assert time.monotonic() - began < 30


@pytest.mark.skipif(sys.platform != "linux", reason="processor time is seen in /proc")
@pytest.mark.parametrize("stuck", [documents.HOSTILE["blanks"], documents.HOSTILE["forms"]], ids=["blanks", "forms"])
async def test_a_page_that_takes_too_long_is_named_long_before_the_clock_of_the_whole(
    stuck: Callable[[], bytes],
) -> None:
    refused = await refusal(stuck(), sandbox=Sandbox(seconds=100, heartbeat_timeout=2))
    assert isinstance(refused, errors.DocumentTooSlow)
    assert str(refused) == "Page 1 takes more than 2 seconds to read; save the document anew."


def test_the_pages_before_one_that_takes_too_long_are_offered() -> None:
    assert _stuck(2, 5, Sandbox()) == (
        "Page 5 takes more than 8 seconds to read; learn the pages before it (pages 2-4), or save the document anew."
    )


async def test_more_text_than_the_sandbox_hands_out_is_refused() -> None:
    assert isinstance(await refusal(pdf("Text. " * 50), sandbox=Sandbox(output=200)), errors.DocumentTooSlow)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the child in /proc")
async def test_the_childs_death_is_a_refusal_and_the_next_file_is_read() -> None:
    listing = Path(f"/proc/self/task/{os.getpid()}/children")
    others = set(listing.read_text().split())  # what earlier tests left running
    reading = asyncio.create_task(refusal(documents.endless_loop()))
    async with asyncio.timeout(WAIT):
        while not (pids := set(listing.read_text().split()) - others):
            await asyncio.sleep(0.01)
    os.kill(int(pids.pop()), signal.SIGSEGV)
    assert isinstance(await reading, errors.DocumentDamaged)
    assert await texts(pdf("Text.")) == ["Text."]


def test_random_damage_ends_in_text_or_in_a_refusal() -> None:
    sample, chance = (Path(ROOT) / "core/evaluation/sample/sample.pdf").read_bytes(), random.Random(7)

    async def read(data: bytes) -> None:
        try:
            assert (await read_document(data, Limits(), sandbox=Sandbox(seconds=20))).pages
        except errors.Refused as refused:
            assert "/" not in str(refused)

    async def every() -> None:
        await asyncio.gather(*(read(_damaged(sample, chance)) for _ in range(12)))

    asyncio.run(every())


def _damaged(data: bytes, chance: random.Random) -> bytes:
    broken = bytearray(data[: chance.randrange(len(data) // 2, len(data))])
    for _ in range(chance.randrange(1, 200)):
        broken[chance.randrange(1024, len(broken))] = chance.randrange(256)
    return bytes(broken)


@pytest.mark.parametrize("turn", [0, 90])
@pytest.mark.parametrize(
    "hidden",
    [
        write((300, "HIDDEN"), color=(1, 1, 1)),
        write((300, "HIDDEN"), color=(0.96, 0.96, 0.96)),
        write((300, "HIDDEN"), render_mode=3),
        write((300, "HIDDEN"), fill_opacity=0),
        write((300, "HIDDEN"), fontsize=0.5),
        write((300, "HIDDEN"), x=-200),
        write((-60, "HIDDEN"), (2000, "")),
    ],
    ids=["white", "nearly white", "no ink", "transparent", "tiny", "left of the page", "above the page"],
)
async def test_hidden_text_is_left_out_and_noted(hidden: documents.Draw, turn: int) -> None:
    read = await read_document(pdf(both(VISIBLE, hidden, lambda page: page.set_rotation(turn))), Limits())
    assert [page.text for page in read.pages] == ["Everyone can see this."]
    assert read.notes == ("Hidden text on page 1 was left out (6 letters).",)


async def test_white_text_on_a_dark_ground_is_read() -> None:
    def dark(page: pymupdf.Page) -> None:
        page.draw_rect((60, 280, 300, 310), fill=(0, 0, 0.4))
        page.insert_text((72, 300), "White on blue.", color=(1, 1, 1))

    read = await read_document(pdf(dark), Limits())
    assert (read.pages[0].text, read.notes) == ("White on blue.", ())


async def test_the_recognised_text_of_a_scan_is_read_and_noted() -> None:
    scan = both(picture, write((200, "Recognised by a scanner."), render_mode=3))
    read = await read_document(pdf(scan, picture, picture), Limits())
    assert [page.text for page in read.pages] == ["Recognised by a scanner.", "", ""]
    assert read.notes == ("Page 1: a scan; its recognised text was read.", "Pages 2-3: a picture without text.")


async def test_a_repaired_file_is_noted() -> None:
    read = await read_document(pdf("Text.").replace(b"startxref", b"startwhat"), Limits())
    assert (read.pages[0].text, read.notes) == ("Text.", ("The file is damaged; what could be recovered was read.",))


async def test_a_broken_page_is_noted_and_the_others_are_read() -> None:
    data = documents.one_page(documents.stream(b"BT /F 12 Tf 72 600 Td (Text.) Tj ET"))
    read = await read_document(data.replace(b"/Kids[3 0 R]/Count 1", b"/Kids[3 0 R 2 0 R]/Count 2"), Limits())
    assert read.pages == (Page(1, "Text."), Page(2, ""))
    assert "Page 2 could not be read." in read.notes


async def test_running_heads_page_numbers_and_broken_words_are_mended() -> None:
    def page(number: int) -> documents.Draw:
        text = write((140, "The tower is called an obser-"), (154, f"vatory, and it is number {number * 7}."))
        return both(write((40, "The Handbook")), text, write((800, f"- {number} -"), x=280))

    first, *others = [f"The tower is called an observatory, and it is number {number * 7}." for number in (1, 2, 3)]
    assert await texts(pdf(page(1), page(2), page(3))) == [f"The Handbook\n\n{first}", *others]


async def test_columns_are_read_one_after_the_other() -> None:
    left = write((100, "The left column has"), (114, "two lines of text."))
    right = write((100, "The right column has"), (114, "two lines as well."), x=320)
    expected = "The left column has two lines of text.\n\nThe right column has two lines as well."
    assert await texts(pdf(both(left, right))) == [expected]


async def test_a_footnotes_number_does_not_run_into_a_year() -> None:
    raised = both(write((200, "Built in 1874")), write((196, "3"), x=132.6, fontsize=6))
    assert await texts(pdf(raised)) == ["Built in 1874³"]


async def test_a_footnotes_number_does_not_run_into_its_word() -> None:
    note = both(write((700, "1"), fontsize=6), write((703, "Integrative biology"), x=76, fontsize=9))
    assert await texts(pdf(both(VISIBLE, note))) == ["Everyone can see this.\n\n1 Integrative biology"]


NAMED_BY_CODE = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding<</Differences[32%s]>>>>"


def by_code(text: bytes, encode: Callable[[int], int] = int) -> bytes:
    """A page in a font whose glyphs have numbers for names."""
    names = b"".join(b"/G%02X" % code for code in range(32, 256))
    shown = bytes(map(encode, text)).hex().encode()
    page = documents.one_page(documents.stream(b"BT /F 12 Tf 72 600 Td <%s> Tj ET" % shown))
    return page.replace(b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>", NAMED_BY_CODE % names)


async def test_glyphs_that_are_named_by_their_codes_are_read() -> None:
    assert await texts(by_code(b"The harbour opens at six and closes at nine.")) == [
        "The harbour opens at six and closes at nine."
    ]


async def test_a_page_whose_font_says_no_letters_is_left_out_and_named() -> None:
    scrambled = by_code(b"The harbour opens at six and closes at nine.", lambda code: 150 + code % 31)
    refused = await refusal(scrambled)
    assert str(refused) == NO_TEXT.format("in", f"its fonts do not say which letters they show: {SEARCHABLE}")


async def test_text_that_a_picture_is_painted_through_is_read() -> None:
    clipped = b"q BT /F 40 Tf 7 Tr 72 600 Td (Painted) Tj ET 0 0 1 rg 0 500 500 300 re f Q"
    assert (await read_document(documents.one_page(documents.stream(clipped)), Limits())).notes == ()


async def test_a_drawn_font_that_gives_no_height_is_read() -> None:
    font = (
        b"<</Type/Font/Subtype/Type3/FontBBox[0 0 0 0]/FontMatrix[.001 0 0 .001 0 0]/CharProcs<</A 6 0 R>>"
        b"/Encoding<</Differences[65/A]>>/FirstChar 65/LastChar 65/Widths[600]/Resources<<>>>>"
    )
    glyph = documents.stream(b"600 0 d0 0 0 500 700 re f")
    page = documents.one_page(documents.stream(b"BT /F 12 Tf 72 600 Td (AAAA) Tj ET"), glyph)
    data = page.replace(b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>", font)
    assert await texts(data) == ["AAAA"]


async def test_a_scan_in_strips_is_a_scan() -> None:
    def strips(page: pymupdf.Page) -> None:
        pixmap = pymupdf.Pixmap(pymupdf.csGRAY, (0, 0, 50, 5))
        for y in range(0, 842, 84):
            page.insert_image((0, y, 595, y + 84), pixmap=pixmap, keep_proportion=False)

    scan = both(strips, write((200, "Recognised by a scanner."), render_mode=3))
    assert await texts(pdf(scan)) == ["Recognised by a scanner."]


async def test_a_fields_value_stands_behind_its_label() -> None:
    def form(page: pymupdf.Page) -> None:
        for y, (label, value) in enumerate([("Name:", "Lena Brandt"), ("Town:", "Pellin"), ("Fax:", "")]):
            page.insert_text((72, 200 + 40 * y), label)
            field = pymupdf.Widget()
            field.field_type, field.field_name, field.field_value = pymupdf.PDF_WIDGET_TYPE_TEXT, label, value
            field.rect = pymupdf.Rect(150, 186 + 40 * y, 300, 204 + 40 * y)
            page.add_widget(field)

    assert (await texts(pdf(form)))[0].split("\n\n") == ["Name: Lena Brandt", "Town: Pellin", "Fax:"]


async def test_a_stamp_on_its_side_comes_last() -> None:
    stamp = write((500, "arXiv:1234.5678"), x=30, rotate=90)
    assert await texts(pdf(both(stamp, VISIBLE))) == ["Everyone can see this.\n\narXiv:1234.5678"]


async def test_a_page_that_is_set_along_its_long_side_is_read() -> None:
    def rows(page: pymupdf.Page) -> None:
        for at, text in enumerate(["The table has a first row", "and it has a second row."]):
            page.insert_text((100 + 14 * at, 700), text, rotate=90)

    assert await texts(pdf(rows)) == ["The table has a first row and it has a second row."]


def labelled(title: str, author: str = "") -> bytes:
    document = pymupdf.open(stream=pdf("One.", "Two."))
    document.set_metadata({"title": title, "author": author, "creationDate": "D:20210503120000Z"})
    if author:
        document.set_toc([[1, "The harbour", 1], [1, "The tower", 2]])
    return document.tobytes()


async def test_what_a_file_says_of_itself_is_read_before_its_first_page() -> None:
    assert await texts(labelled("All about Pellin", "Tessa Orlund")) == [
        "Title: All about Pellin\nAuthor: Tessa Orlund\nDate of this file: 3 May 2021\n"
        "Contents: The harbour (page 1); The tower (page 2)\n\nOne.",
        "Two.",
    ]


@pytest.mark.parametrize("title", ["", "Microsoft Word - report.doc", "untitled", "paper.dvi", "Document1", "C:\\x\\y"])
async def test_a_title_that_a_program_gave_says_nothing(title: str) -> None:
    assert await texts(labelled(title)) == ["One.", "Two."]


async def test_a_document_of_four_megabytes_is_read_quickly() -> None:
    def page(number: int) -> documents.Draw:
        noise = pymupdf.Pixmap(pymupdf.csRGB, 150, 150, random.Random(number).randbytes(3 * 150 * 150), 0)
        lines = [(300 + 12 * at, f"Sentence {at} of page {number} says something of its own.") for at in range(40)]
        return both(write(*lines), lambda page: page.insert_image((72, 40, 222, 190), pixmap=noise))

    data = pdf(*map(page, range(60)))
    began = time.monotonic()
    assert len(await texts(data)) == 60
    assert len(data) > 4e6
    assert time.monotonic() - began < 30


def test_the_pinned_pymupdf_has_the_fixed_mupdf() -> None:
    assert (1, 28, 2) <= tuple(map(int, version("pymupdf").split("."))) < (2,)


def test_pymupdf_stays_out_of_the_parent() -> None:
    code = "import sys, core.document.pdf, core.document.chunks; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"pymupdf", "torch", "transformers", "tokenizers", "asyncio"} & set(run.stdout.split())
