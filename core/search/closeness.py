"""How close sections are to a question, beyond shared words: late interaction (ColBERT: Khattab and Zaharia 2020, arXiv
2004.12832, section 3.3). Each token of the question is compared with every token of a section; the highest cosine
counts.

The vectors are made by `core.search.head`. Of a section only their signs are kept, with the name of the head
that made them: 32 bytes a token. Shapes: T tokens, D dimensions, a multiple of 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

NAME_BYTES = 8  # bytes of a head's name


@dataclass(frozen=True)
class Query:
    """A question, as a search head sees it."""

    head: bytes  # its name
    vectors: np.ndarray  # [T, D] float32, of length 1
    weights: np.ndarray  # [T] float32, how much each token tells
    slope: float  # a section's mean cosine, times this,
    offset: float  # plus this, is the log-odds that the question is about it


class Closeness(NamedTuple):
    """How close a section is."""

    similarity: float  # sum over the question's tokens of weight times highest cosine
    odds: float  # log-odds that the question is about it


def encode(head: bytes, signs: np.ndarray) -> bytes:
    """A section's code. signs: [T, D] bool."""
    import numpy as np

    return head + np.packbits(signs, axis=1).tobytes()


def closeness(query: Query, codes: Sequence[bytes]) -> list[Closeness] | None:
    """Of sections to a question; None when there are none, or some of them have no code by the same head: codes of
    different heads can't be compared. Takes milliseconds for 30 sections: call through a thread."""
    import numpy as np

    width = query.vectors.shape[1]
    if not codes:
        return None
    for code in codes:
        is_damaged = len(code) <= NAME_BYTES or (len(code) - NAME_BYTES) % (width // 8)
        if is_damaged or not code.startswith(query.head):
            return None
    parts = [np.frombuffer(code, dtype=np.uint8, offset=NAME_BYTES).reshape(-1, width // 8) for code in codes]
    starts = np.cumsum([0, *map(len, parts[:-1])])
    signs = np.unpackbits(np.concatenate(parts), axis=1).astype(np.float32) * 2 - 1
    cosines = query.vectors @ signs.T / width**0.5  # [T, all tokens]
    best = query.weights @ np.maximum.reduceat(cosines, starts, axis=1)  # [sections]
    if not np.isfinite(best).all():  # half precision ran over
        return None
    mean = best / query.weights.sum()
    return [Closeness(float(b), query.slope * float(m) + query.offset) for b, m in zip(best, mean, strict=True)]
