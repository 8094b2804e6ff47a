"""Zip archives that hold a document: what is not harmless is refused before it is unpacked. In the child."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from xml.etree import ElementTree

MAX_UNPACKED = 200 << 20  # bytes of all parts together; more is a bomb, and
MAX_FILES = 5_000  # so are more parts
MAX_PART = 50 << 20  # bytes of one part that is read
# No office format has them: they make XML grow, or name files of this machine
DECLARATIONS = (b"<!DOCTYPE", b"<!ENTITY")


class Unreadable(Exception):
    """Why a document is refused; its one argument is a key of `formats.REASONS`."""


class Archive:
    """The parts of a document by their names. Raises: Unreadable."""

    def __init__(self, data: bytes) -> None:
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
            raise Unreadable("damaged") from None
        parts = self._zip.infolist()
        if any(part.flag_bits & 1 for part in parts):
            raise Unreadable("locked")
        if len(parts) > MAX_FILES or sum(part.file_size for part in parts) > MAX_UNPACKED:
            raise Unreadable("bomb")
        self.names = {part.filename: part.file_size for part in parts}
        if any(name.endswith("vbaProject.bin") for name in self.names):
            raise Unreadable("macros")

    def read(self, name: str) -> bytes:
        if self.names.get(name, 0) > MAX_PART:
            raise Unreadable("bomb")
        try:
            return self._zip.read(name)
        except (KeyError, zipfile.BadZipFile, ValueError, NotImplementedError, OSError, EOFError):
            raise Unreadable("damaged") from None

    def check(self, name: str) -> bytes:
        """A part that declares nothing. Raises: Unreadable."""
        data = self.read(name)
        if any(mark in data.replace(b"\0", b"") for mark in DECLARATIONS):
            raise Unreadable("declares")
        return data

    def xml(self, name: str) -> ElementTree.Element:
        """Raises: Unreadable."""
        try:
            return ElementTree.fromstring(self.check(name))
        except (ElementTree.ParseError, ValueError, LookupError):
            raise Unreadable("damaged") from None


def named_texts(elements: Iterable[ElementTree.Element]) -> dict[str, str]:
    """The texts of elements by their names, without name spaces."""
    return {element.tag.rpartition("}")[2]: (element.text or "").strip() for element in elements}
