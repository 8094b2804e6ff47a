"""How well PDFs are read: the words and runs of five words of `pdftotext` (poppler) that are kept, and faults to count.

python -m core.evaluation.reading FOLDER [--output FILE]   # PDFs that nobody here wrote; none ships with Engram
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import cast

from core.document.chunks import join_pages
from core.document.formats import read_document
from core.errors import Refused
from core.types import Limits

LIMITS = Limits(max_pages=100_000, max_bytes=1 << 30)
FAULTS = {  # what no reader wrote
    "unreadable character": re.compile("\ufffd"),
    "sentence broken by a line": re.compile(r"(?m)^(?:\S+ ){5,}\S*[a-z,]\n+(?=[a-z]{2,} (?:\S+ ){3})"),
    "number glued to a word": re.compile(r"(?<![\w.])\d{1,2}(?:[A-Z][a-z]{3,}|https?:)"),
    "accent beside its letter": re.compile(r"[A-Za-z] ?[¨´ˇ˚˝](?=[A-Za-z])|[¨´ˇ˚˝] ?[A-Za-z]"),
    "mathematical letter": re.compile("[\U0001d400-\U0001d7ff]"),
    "doubled letters": re.compile(r"\b(?:([A-Za-z])\1){4,}\b"),
    "blanks between letters": re.compile(r"\b(?:[a-z] ){6,}[a-z]\b"),
}


def words(text: str) -> list[str]:
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())


def runs(words: list[str], length: int = 5) -> Iterable[tuple[str, ...]]:
    """Neighbouring words."""
    return zip(*(words[start:] for start in range(length)), strict=False)


def kept(ours: Iterable[object], theirs: Iterable[object]) -> tuple[int, int]:
    """(how many of theirs we have, how many they have), each as often as it stands there."""
    wanted = Counter(theirs)
    return (wanted & Counter(ours)).total(), wanted.total()


def measure(file: Path) -> dict[str, object]:
    theirs = subprocess.run(["pdftotext", "-enc", "UTF-8", file, "-"], capture_output=True).stdout.decode()
    try:
        read = asyncio.run(read_document(file.read_bytes(), LIMITS))
    except Refused as refused:
        return {"file": file.name, "refused": str(refused), "words": [0, len(words(theirs))]}
    ours = join_pages(read.pages)
    return {
        "file": file.name,
        "words": kept(words(ours), words(theirs)),
        "runs": kept(runs(words(ours)), runs(words(theirs))),
        "faults": count_faults(ours),
        "theirs": count_faults(theirs),
        "notes": read.notes,
        "text": ours,
    }


def count_faults(text: str) -> dict[str, int]:
    return {name: len(pattern.findall(text)) for name, pattern in FAULTS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, help="a line of JSON for each file")
    options = parser.parse_args()
    rows = list(map(measure, sorted(options.folder.glob("*.pdf"))))
    if options.output:
        options.output.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = [row for row in rows if "runs" in row]
    print(f"{len(read)} of {len(rows)} files read")
    for what in ("words", "runs"):
        pairs = [cast(tuple[int, int], row[what]) for row in read]
        shares = [100 * kept / total for kept, total in pairs if total]
        all_kept, all_wanted = map(sum, zip(*pairs, strict=True))
        print(f"{what}: {100 * all_kept / all_wanted:.1f} % of all, {fmean(shares):.1f} % of a file on average")
    for name in FAULTS:
        counts = [cast(dict[str, int], row["faults"])[name] for row in read]
        print(f"{name}: {sum(counts):,}, in {sum(count > 0 for count in counts)} files")


if __name__ == "__main__":
    main()
