"""PDFs for the tests: plain ones by PyMuPDF, hostile ones from the torture."""

from __future__ import annotations

from collections.abc import Callable

import pymupdf

from tests.torture.hostile import HOSTILE, endless_loop, many_pages, memory_bomb, one_page, stream

__all__ = ["HOSTILE", "endless_loop", "many_pages", "memory_bomb", "one_page", "stream"]

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
