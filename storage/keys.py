"""Keys of what is stored on servers, in a place where what is deleted is gone: a folder, or a bucket that keeps no
versions. What was sealed with a key is unreadable without it, wherever a copy of it lies.

Blocking, but for what is in memory: a key never changes, so each is fetched once.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from core.errors import KeyLost, SetupError, StorageFailed
from core.files import fsync_path
from core.program import pip_install

KEY_BYTES = 32  # of a key: AES-256
NONCE_BYTES = 12  # bytes, random
ID_BYTES = 16  # bytes of a key's id, which stand before what is sealed
MARK = "sealed:"  # before it as text
MAX_KEPT = 20_000  # keys in memory


@dataclass(frozen=True)
class Key:
    """AES-GCM. Raises: StorageFailed, for what it did not seal."""

    id: str  # 32 hexadecimal digits
    secret: bytes

    def seal(self, data: bytes) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + AESGCM(self.secret).encrypt(nonce, data, None)

    def open(self, sealed: bytes) -> bytes:
        try:
            return AESGCM(self.secret).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], None)
        except (InvalidTag, ValueError) as error:
            raise StorageFailed("What is stored was changed, and can't be read.") from error

    def seal_value(self, value: str | bytes) -> bytes:
        """With the key's id, and what kind of value it is; see `Keys.open_value`."""
        tagged = b"t" + value.encode() if isinstance(value, str) else b"b" + value
        return bytes.fromhex(self.id) + self.seal(tagged)

    def seal_text(self, text: str) -> str:
        return MARK + base64.b64encode(self.seal_value(text)).decode()

    def hash(self, word: str) -> int:
        """64 bits, signed: the same for the same word, and for no one without the key."""
        digest = hashlib.blake2b(word.encode(), digest_size=8, key=self.secret, person=b"word").digest()
        return int.from_bytes(digest, signed=True)


def key_id(sealed: bytes) -> str:
    """Whose key `Key.seal_value` sealed it with."""
    return sealed[:ID_BYTES].hex()


class Keys:
    """Every method raises StorageFailed when the place can't be reached, or refuses."""

    def __init__(self, place: str | Path) -> None:
        """place: a folder, or s3://bucket/prefix. Raises: SetupError."""
        self._place = _Bucket(str(place)) if "://" in str(place) else _Folder(Path(place))
        self._kept: OrderedDict[str, Key] = OrderedDict()  # the last used at the end
        self._keeping = Lock()

    def make(self, name: str = "") -> Key:
        """A new one, durable on return. name: instead of a random id."""
        key = Key(name or secrets.token_hex(ID_BYTES), secrets.token_bytes(KEY_BYTES))
        with _translated():
            self._place.put(key.id, key.secret)
        self._keep(key)
        return key

    def get(self, id: str) -> Key:
        """Raises: KeyLost."""
        if key := self.kept(id):
            return key
        with _translated():
            try:
                key = Key(id, self._place.get(id))
            except FileNotFoundError as error:
                raise KeyLost from error
        self._keep(key)
        return key

    def kept(self, id: str) -> Key | None:
        """If it is in memory; does not block."""
        with self._keeping:
            if key := self._kept.get(id):
                self._kept.move_to_end(id)
            return key

    def open_value(self, sealed: bytes) -> str | bytes:
        """What `Key.seal_value` sealed. Raises: KeyLost."""
        data = self.get(key_id(sealed)).open(sealed[ID_BYTES:])
        return data[1:].decode() if data[:1] == b"t" else data[1:]

    def destroy(self, ids: Iterable[str]) -> None:
        """For good; no error for those that were gone before."""
        names = list(ids)
        with self._keeping:
            for id in names:
                self._kept.pop(id, None)
        with _translated():
            self._place.delete(names)

    def about(self) -> tuple[list[str], str]:
        """What is wrong with the place, one sentence each, and what it is: a key is made, read and destroyed."""
        try:
            key = self.make(f"probe-{secrets.token_hex(8)}")
            same = self._place.get(key.id) == key.secret
            self.destroy([key.id])
        except SetupError as problem:
            return [str(problem)], ""
        except (StorageFailed, OSError):
            return ["it can't be reached, or refuses to put, get or delete"], ""
        return ([] if same else ["it gives back other bytes than it got"]), "made, read and destroyed a key"

    def _keep(self, key: Key) -> None:
        with self._keeping:
            self._kept[key.id] = key
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)


class _Folder:
    """A file for each key, durable once it is put. It is overwritten before it is deleted."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def put(self, name: str, secret: bytes) -> None:
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self._path / f"{name}.tmp"
        with open(temporary, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._path / name)
        fsync_path(self._path)

    def get(self, name: str) -> bytes:
        return (self._path / name).read_bytes()

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            with suppress(FileNotFoundError), open(self._path / name, "r+b") as file:
                file.write(bytes(KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
                (self._path / name).unlink()
        if self._path.exists():
            fsync_path(self._path)


class _Bucket:
    """An object for each key, in a bucket that keeps no versions."""

    def __init__(self, url: str) -> None:
        """Raises: SetupError."""
        try:
            from storage.bucket import Bucket
        except ImportError as error:
            raise SetupError(
                f"ENGRAM_KEYS is a bucket, and its client is missing: {pip_install('objects')}."
            ) from error
        try:
            self._bucket = Bucket(url, "The keys")
        except ValueError as error:
            raise SetupError("ENGRAM_KEYS is no folder and no address of an object store.") from error

    def put(self, name: str, secret: bytes) -> None:
        if self._bucket.put(name, secret):
            raise SetupError(
                "The bucket of ENGRAM_KEYS keeps versions, and so would keep destroyed keys; name another."
            )

    def get(self, name: str) -> bytes:
        return self._bucket.get(name)

    def delete(self, names: Iterable[str]) -> None:
        with suppress(FileNotFoundError):
            self._bucket.delete(names)


@contextmanager
def _translated() -> Iterator[None]:
    """Raises: StorageFailed."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageFailed("The keys can't be read or written; nothing was changed.") from error
