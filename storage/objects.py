"""What was learned, in an S3-compatible store: for several machines. One object for each section, so that a question
fetches the one that it is put to, and beside them a list of their checksums, whose own checksum stands in the index.

Sections are sealed with a key for each document (`storage.keys`), so that no older version of an object outlives it.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING

from core.errors import KeyLost, SetupError, StorageFailed, WeightsDamaged, WrongBaseModel
from core.ports import Learned, section_of, section_tensors
from core.types import WeightsRecord
from storage.bucket import Bucket
from storage.keys import Key, Keys
from storage.weights import describe, safe, to_float16

if TYPE_CHECKING:
    from torch import Tensor

CHECKSUMS = "checksums.json"  # SECTION -> sha256 of its object; written last: without it, nothing is there
MAX_REQUESTS = 8  # in parallel
MAX_KEPT = 256 << 20  # bytes of sections that were used last
MAX_PREFETCHED = 64 << 20  # bytes of one document


class Objects:
    """Implements core.ports.Weights. Objects are named `weights/DOCUMENT/SECTION.safetensors`, and never change."""

    def __init__(self, url: str, index_id: str, keys: Keys) -> None:
        """url: s3://bucket/prefix, or another that obstore knows. Where it is and who asks stands in the usual
        variables: AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY.

        Raises: SetupError.
        """
        try:
            self.bucket = Bucket(url, "The learned weights")
        except ValueError as error:
            raise SetupError("ENGRAM_OBJECTS is no address of an object store; s3://bucket/prefix is one.") from error
        self._index_id = index_id
        self._keys = keys
        # name -> checksum, object; the last used at the end
        self._kept: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
        self._keeping = Lock()

    def save(self, document_id: str, channel: str, learned: Learned, *, base: str, learner: str) -> WeightsRecord:
        """Durable on return. Raises: LearningFailed (no number, or out of float16's range), StorageFailed."""
        from safetensors.torch import save

        tensors = to_float16(learned)
        numbers = sorted({section_of(name) for name in tensors})
        metadata = describe(document_id, channel, base) | {"learner": learner, "index": self._index_id}
        key = self._keys.make(self._key_id(document_id))

        def put(number: int) -> tuple[str, int]:
            data = key.seal(save(section_tensors(tensors, number), metadata | {"section": str(number)}))
            self.bucket.put(self._name(document_id, f"{number}.safetensors"), data)
            return hashlib.sha256(data).hexdigest(), len(data)

        with ThreadPoolExecutor(MAX_REQUESTS) as pool:
            stored = list(pool.map(put, numbers))
        checksums = {number: digest for number, (digest, _) in zip(numbers, stored, strict=True)}
        data = json.dumps(checksums).encode()
        self.bucket.put(self._name(document_id, CHECKSUMS), data)
        return WeightsRecord(
            document_id=document_id,
            path=self._folder(document_id),
            bytes=len(data) + sum(size for _, size in stored),
            sha256=hashlib.sha256(data).hexdigest(),
            base=base,
            learner=learner,
            sections=learned.sections,
        )

    def load(self, record: WeightsRecord, channel: str, *, base: str, section: int) -> Mapping[str, Tensor]:
        """One section's tensors by module, as stored, on the CPU.

        Raises: WeightsDamaged, WrongBaseModel, StorageFailed (the store can't be reached, or refuses).
        """
        if record.base != base:
            raise WrongBaseModel
        checksums = self._checksums(record)
        if str(section) not in checksums:
            raise WeightsDamaged
        return self._section(record, channel, str(section), checksums[str(section)])

    def prefetch(self, record: WeightsRecord, section: int) -> None:
        """Of a large document those sections that are closest to this one."""
        with suppress(WeightsDamaged, StorageFailed):  # `load` says so
            checksums = self._checksums(record)
            count = len(checksums) * MAX_PREFETCHED // max(MAX_PREFETCHED, record.bytes)
            near = sorted(checksums, key=lambda number: abs(int(number) - section))[:count]
            names = [self._name(record.document_id, f"{number}.safetensors") for number in near]
            with ThreadPoolExecutor(MAX_REQUESTS) as pool:
                list(pool.map(self._get, names, (checksums[number] for number in near)))

    def load_all(self, record: WeightsRecord, channel: str) -> dict[str, Tensor]:
        """All tensors, named SECTION/MODULE, as stored, on the CPU. Raises: WeightsDamaged, StorageFailed."""
        tensors = {}
        for section, sha256 in self._checksums(record).items():
            for module, tensor in self._section(record, channel, section, sha256).items():
                tensors[f"{section}/{module}"] = tensor
        return tensors

    def _checksums(self, record: WeightsRecord) -> dict[str, str]:
        if record.path != self._folder(record.document_id):
            raise WeightsDamaged
        return json.loads(self._get(self._name(record.document_id, CHECKSUMS), record.sha256))

    def _section(self, record: WeightsRecord, channel: str, section: str, sha256: str) -> dict[str, Tensor]:
        data = self._get(self._name(record.document_id, f"{section}.safetensors"), sha256)
        return _read(self._key(record.document_id).open(data), record, channel, section)

    def _key(self, document_id: str) -> Key:
        """Raises: WeightsDamaged, StorageFailed."""
        try:
            return self._keys.get(self._key_id(document_id))
        except KeyLost as error:
            raise WeightsDamaged from error

    def _key_id(self, document_id: str) -> str:
        return self._folder(document_id).replace("/", "-")

    def delete(self, document_id: str) -> None:
        """The key first: what a bucket keeps of older versions can't be read. No error when it was gone before.

        Raises: OSError.
        """
        folder = f"{self._folder(document_id)}/"
        with self._keeping:
            for name in list(self._kept):
                if name.startswith(folder):
                    del self._kept[name]
        try:
            self._keys.destroy([self._key_id(document_id)])
            self.bucket.delete(self.bucket.names(folder))
        except FileNotFoundError:
            pass
        except StorageFailed as error:
            raise OSError("the object store can't be reached, or refuses") from error

    def sweep(self, known: Sequence[WeightsRecord]) -> tuple[list[str], list[str]]:
        """Nothing: another process may be saving what no record names yet. What a crash left, the index knows."""
        return [], []

    def erase_trash(self, channel: str) -> None:
        """Nothing: there is no trash."""

    def about_store(self) -> tuple[list[str], str]:
        """What is wrong with the store, one sentence each, and what it is: something is put there, read and deleted."""
        name, data = f"probe-{secrets.token_hex(8)}", secrets.token_bytes(1 << 10)
        try:
            version = self.bucket.put(name, data)
            same = self.bucket.get(name) == data
            self.bucket.delete([name])
        except (StorageFailed, FileNotFoundError):
            return ["it can't be reached, or refuses to put, get or delete"], ""
        said = "put, read and deleted an object; " + ("it keeps versions" if version else "it keeps no versions")
        return ([] if same else ["it gives back other bytes than it got"]), said

    def _get(self, name: str, sha256: str) -> bytes:
        """An object, from the store or as it was used before. Raises: WeightsDamaged, StorageFailed."""
        with self._keeping:
            kept, data = self._kept.get(name, ("", b""))
            if kept == sha256:
                self._kept.move_to_end(name)
                return data
        try:
            data = self.bucket.get(name)
        except FileNotFoundError as error:
            raise WeightsDamaged from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise WeightsDamaged
        with self._keeping:
            self._kept[name] = sha256, data
            while sum(len(data) for _, data in self._kept.values()) > MAX_KEPT:
                self._kept.popitem(last=False)
        return data

    def _name(self, document_id: str, name: str) -> str:
        return f"{self._folder(document_id)}/{name}"

    def _folder(self, document_id: str) -> str:
        return f"weights/{safe(document_id)}"


def _read(data: bytes, record: WeightsRecord, channel: str, section: str) -> dict[str, Tensor]:
    """Of bytes that were checked. Raises: WeightsDamaged."""
    from safetensors.torch import load

    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    expected = describe(record.document_id, channel, record.base) | {"section": section}
    if not expected.items() <= header.get("__metadata__", {}).items():
        raise WeightsDamaged
    return load(data)
