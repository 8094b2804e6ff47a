"""An S3 server for tests: moto's, in a process of its own, with a bucket that keeps versions."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.timeouts import WAIT
from tests.watchdog import watched

BUCKET = "engram"
VERSIONS = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"


@contextmanager
def running() -> Iterator[dict[str, str]]:
    """The variables that say where it is."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    address, output = f"http://127.0.0.1:{port}", subprocess.DEVNULL
    with (
        subprocess.Popen(command, stdout=output, stderr=output, env=os.environ.copy()) as server,
        watched(f"kill -KILL {server.pid}"),
    ):
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


def _wait(address: str) -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(address, timeout=WAIT).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("moto's server did not start")


def _put(address: str, data: bytes = b"") -> None:
    urllib.request.urlopen(
        urllib.request.Request(address, data, {"Content-Type": "text/xml"}, method="PUT"), timeout=WAIT
    ).close()


class Unreliable(BaseHTTPRequestHandler):
    """Hands on what it is asked for, and refuses now and then."""

    address = ""
    every = 0
    count = 0

    def do(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        type(self).count += 1
        if self.count % self.every == 0:
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        headers = {"Content-Type": "application/octet-stream"}  # or urllib says that it is a form
        headers |= {name: value for name, value in self.headers.items() if name.lower() != "host"}
        request = urllib.request.Request(self.address + self.path, data or None, headers, method=self.command)
        try:
            with urllib.request.urlopen(request, timeout=WAIT) as answer:
                status, kind, body = answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            status, kind, body = error.code, error.headers, error.read()
        self.send_response(status)
        for name in ("ETag", "Last-Modified", "Content-Type"):
            if name in kind:
                self.send_header(name, kind[name])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = do

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def unreliable(address: str, *, every: int) -> Iterator[str]:
    """The address of a proxy that refuses one request in so many."""
    handler = type("Handler", (Unreliable,), {"address": address, "every": every})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()
