"""Every hostile file that the project can make is refused with a sentence, or read; damage by hypothesis on top."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from core import errors
from core.document.formats import FORMATS, _judged, read_document, recognise
from core.sandbox import Sandbox
from core.types import Limits
from tests.torture.hostile import HOSTILE
from tests.torture.papers import make_pdf
from tests.torture.pdf import FOREIGN, damaged

QUICK = Sandbox(seconds=3)
SENTENCES = {
    "hundred_thousand_pages": errors.DocumentTooLong,
    "svg": errors.UnsupportedFormat,
    "zip_in_disguise": errors.UnsupportedFormat,
    "deep_nesting": errors.DocumentDamaged,
    "huge_picture": errors.DocumentHasNoText,
    "picture_bomb": errors.DocumentHasNoText,
    "javascript": errors.DocumentHasNoText,
    "page_tree_loop": errors.DocumentDamaged,
}


@pytest.mark.parametrize(
    "name", sorted(HOSTILE.keys() - {"memory_bomb", "endless_loop", "blanks", "forms"})
)  # test_pdf.py
async def test_a_hostile_file_ends_in_one_sentence_or_in_text(name: str) -> None:
    wanted = SENTENCES.get(name)
    try:
        text = await read_document(HOSTILE[name](), Limits(max_pages=2000), sandbox=QUICK)
    except errors.Refused as refused:
        assert wanted is None or isinstance(refused, (wanted, errors.DocumentTooSlow))  # on a busy machine
        assert not FOREIGN.search(str(refused))
    else:
        assert wanted is None and text.pages


async def test_control_and_direction_characters_do_not_come_through() -> None:
    [page] = (await read_document(HOSTILE["control_letters"](), Limits())).pages
    assert not set(page.text) & {*map(chr, range(32)), *map(chr, range(127, 160))} - {"\n", "\t"}


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32))
def test_damage_ends_in_text_or_in_a_sentence(seed: int) -> None:
    data = damaged(make_pdf("The harbour opens at six.", "It closes at nine."), random.Random(seed))

    async def read() -> None:
        try:
            assert (await read_document(data, Limits(), sandbox=Sandbox(seconds=10))).pages
        except errors.Refused as refused:
            assert not FOREIGN.search(str(refused))

    asyncio.run(read())


@given(st.binary(max_size=2000))
def test_any_bytes_are_judged_without_a_child(data: bytes) -> None:
    for candidate in (data, b"%PDF-1.7" + data, data + b"%PDF-1.7"):
        try:
            recognise(candidate)
        except errors.UnsupportedFormat as refused:
            assert not FOREIGN.search(str(refused))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)
PART = ANYTHING | st.lists(st.text(), max_size=3) | st.lists(st.integers(-2, 5), max_size=3) | st.integers(-2, 3)
KEYS = ("pages", "first", "refused", "texts", "unreadable", "hidden", "repaired", "recognised", "pictures", "nameless")


@given(ANYTHING | st.fixed_dictionaries({key: PART for key in KEYS}))
@example({"pages": float("inf"), "first": 1, "texts": []})
def test_whatever_a_captured_child_replies_ends_in_text_or_in_a_sentence(reply: Any) -> None:
    try:
        text = _judged(reply, Limits(), FORMATS[0])
    except errors.Refused:
        return
    assert all(isinstance(page.text, str) for page in text.pages) and all(isinstance(n, str) for n in text.notes)
