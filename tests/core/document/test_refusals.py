"""Every refusal of a document says in one sentence what is wrong and what to do next."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from bot.links import EXPORTS, NO_LINKS
from bot.platforms.slack.files import how_to_export
from core import errors
from core.document.chunks import check_length
from core.document.formats import (
    FORMATS,
    OTHERS,
    PICTURE,
    REASONS,
    _judged,
    _stuck,
    check_size,
    parse_pages,
    recognise,
)
from core.sandbox import Sandbox
from core.types import Limits, Page

DO = "send save learn export choose print say download run convert ask name attach make"
PAGES = [Page(number, "It is old. " * 40) for number in range(1, 10)]
PIECES = [Page(1, "It is old. " * 400)]


def of(call: Callable[..., object], *arguments: Any) -> str:
    with pytest.raises(errors.Refused) as caught:
        call(*arguments)
    return str(caught.value)


def reply(**differs: object) -> dict[str, Any]:
    return {"pages": 1, "first": 1, "texts": [""]} | differs


DOCUMENT_ERRORS = (
    *(
        errors.UnsupportedFormat,
        errors.DocumentDamaged,
        errors.DocumentLocked,
        errors.DocumentHasNoText,
        errors.DocumentTooBig,
    ),
    *(errors.DocumentTooLong, errors.DocumentTooShort, errors.DocumentTooSlow, errors.AlreadyKnown),
)
SENTENCES = [
    *(str(error()) for error in DOCUMENT_ERRORS),
    *(sentence for *_, sentence in OTHERS),
    *(sentence for _, sentence in REASONS.values() if sentence),
    PICTURE,
    NO_LINKS,
    *(f"I can't open {what}; {export}." for _, what, export in EXPORTS),
    *(how_to_export(file) for file in ({"filetype": "canvas"}, {"filetype": "gdoc"}, {"external_type": "onedrive"})),
    _stuck(1, 7, Sandbox()),
    _stuck(1, 1, Sandbox()),
    of(recognise, b""),
    of(recognise, bytes(range(256))),
    of(check_size, 2 << 20, Limits(max_bytes=1 << 20)),
    of(parse_pages, "first"),
    of(check_length, 5, Limits(), PAGES),
    of(check_length, 900, Limits(max_tokens=300), PAGES),
    of(check_length, 900, Limits(max_tokens=300), PIECES),
    of(_judged, reply(), Limits(), FORMATS[0]),
    of(_judged, reply(hidden=[[1, 9]]), Limits(), FORMATS[0]),
    of(_judged, reply(nameless=[1]), Limits(), FORMATS[0]),
    of(_judged, reply(pages=5000, texts=[]), Limits(), FORMATS[0]),
    of(_judged, reply(pages=5, first=9, texts=[]), Limits(), FORMATS[0]),
]


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_refusal_is_one_sentence_that_says_what_to_do_next(sentence: str) -> None:
    assert re.fullmatch(r"[A-Z“](?:[^.!?]|\.(?=\w))*\.", sentence), "one sentence"
    assert set(re.findall(r"[a-z]+", sentence.casefold())) & set(DO.split()), "what to do"
    assert not re.search(r"\btokens?\b", sentence), "no word of the model's"
