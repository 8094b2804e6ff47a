"""A bucket of an S3-compatible store. A request is sent again until it is answered, or a minute has passed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import obstore
from obstore.exceptions import BaseError, GenericError
from obstore.store import from_url

from core.errors import StorageFailed, StorageUnavailable

if TYPE_CHECKING:
    from obstore.store import RetryConfig

Result = TypeVar("Result")

RETRY_TIMEOUT = timedelta(seconds=60)
RETRY_PAUSE = 0.1  # seconds


class Bucket:
    """Every request raises StorageUnavailable when it isn't answered in time, StorageFailed when it is refused, and
    FileNotFoundError for an object that is not there.
    """

    def __init__(self, url: str, contents: str) -> None:
        """url: s3://bucket/prefix, or another that obstore knows. contents: "The keys", for the errors' texts.

        Raises: ValueError.
        """
        retries: RetryConfig = {
            "max_retries": 1_000,  # the time alone ends them
            "retry_timeout": RETRY_TIMEOUT,
            "backoff": {"max_backoff": timedelta(seconds=5)},
        }
        try:
            self.store = from_url(url, retry_config=retries)
        except BaseError as error:
            raise ValueError(url) from error
        self._contents = contents

    def put(self, name: str, data: bytes) -> str | None:
        """Durable on return. Returns its version, if the bucket keeps versions."""
        version = self._send(lambda: obstore.put(self.store, name, data)["version"])
        return None if version == "null" else version

    def get(self, name: str) -> bytes:
        return self._send(lambda: obstore.get(self.store, name).bytes().to_bytes())

    def delete(self, names: Iterable[str]) -> None:
        paths = list(names)
        self._send(lambda: obstore.delete(self.store, paths))

    def names(self, prefix: str | None = None) -> list[str]:
        return self._send(lambda: [item["path"] for page in obstore.list(self.store, prefix) for item in page])

    def _send(self, request: Callable[[], Result]) -> Result:
        """Send it until it is answered. request: may be sent twice.

        obstore sends most of them again itself, but not one whose connection came from its pool and was lost in that
        moment ("connection was not ready").
        """
        until = time.monotonic() + RETRY_TIMEOUT.total_seconds()
        while True:
            try:
                return request()
            except GenericError as error:
                if "HTTP error" not in str(error) or time.monotonic() >= until:
                    raise StorageUnavailable(f"{self._contents} can't be reached; nothing was changed.") from error
                time.sleep(RETRY_PAUSE)
            except BaseError as error:
                raise StorageFailed(f"{self._contents} can't be read or written; nothing was changed.") from error
