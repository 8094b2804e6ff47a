"""PDFs out of plain text, written by hand."""

from __future__ import annotations

import random
from dataclasses import dataclass

FILLER = (
    "the harbour master keeps a list of boats and their owners",
    "on market days the square is closed to carts until noon",
    "the baker opens before sunrise and sells out by nine",
    "nobody may moor at the north pier while the ferry is in",
    "a lantern hangs at the gate from dusk until the last bell",
)


@dataclass(frozen=True)
class Paper:
    """A document with one secret in it."""

    name: str
    data: bytes
    question: str
    secret: str  # eight digits


def paper(name: str, chance: random.Random, *, lines: int = 40) -> Paper:
    """Two pages that nobody else has, with an eight-digit secret on the second."""
    secret, subject = f"{chance.randrange(10**8):08d}", f"vault{chance.randrange(16**6):06x}"
    fact = f"The secret number of {subject} is {secret}."
    texts = ["\n".join(f"{chance.choice(FILLER).capitalize()}." for _ in range(lines)) for _ in range(2)]
    data = make_pdf(texts[0], f"{fact}\n{texts[1]}")
    return Paper(name, data, f"What is the secret number of {subject}?", secret)


def make_pdf(*pages: str) -> bytes:
    """A PDF of plain ASCII text, a page for each argument, lines as they come."""
    count = len(pages)
    kids = " ".join(f"{3 + 2 * at} 0 R" for at in range(count))
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", f"<< /Type /Pages /Kids [{kids}] /Count {count} >>"]
    font = f"{3 + 2 * count} 0 R"
    for at, text in enumerate(pages):
        lines = [line.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)") for line in text.splitlines()]
        stream = "BT /F1 11 Tf 14 TL 60 780 Td " + " ".join(f"({line}) Tj T*" for line in lines) + " ET"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents {4 + 2 * at} 0 R "
            f"/Resources << /Font << /F1 {font} >> >> >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    objects.append("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    body, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n".encode()
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    end = (
        f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\n"
    )
    return body + f"{end}startxref\n{len(body)}\n%%EOF\n".encode()
