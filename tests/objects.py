"""An S3 server for tests: moto's, in a process of its own, with a bucket that keeps versions."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

BUCKET = "engram"
VERSIONS = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"


@contextmanager
def running() -> Iterator[dict[str, str]]:
    """The variables that say where it is."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ.copy())
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(address)
        _put(f"{address}/{BUCKET}")
        _put(f"{address}/{BUCKET}?versioning", VERSIONS)
        yield {
            "AWS_ENDPOINT_URL": address,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }
    finally:
        server.kill()
        server.wait()


def _wait(address: str) -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise RuntimeError("moto's server did not start")


def _put(address: str, data: bytes = b"") -> None:
    urllib.request.urlopen(
        urllib.request.Request(address, data, {"Content-Type": "text/xml"}, method="PUT"), timeout=10
    ).close()
