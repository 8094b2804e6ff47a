"""Writes requirements.lock and .ci/hashed.lock anew, from pyproject.toml: `make lock`.

A release that stands in requirements.lock is kept where the ranges allow it; to move one, change its line
first. torch is in the first file only: which build fits depends on the machine, and comes from another
index.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLAIN, HASHED = ROOT / "requirements.lock", ROOT / ".ci" / "hashed.lock"
OPTIONS = (
    "--all-extras --strip-extras --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate"
)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made.lock"
        command = [sys.executable, "-m", "piptools", "compile", *OPTIONS.split()]
        subprocess.run([*command, "--constraint", PLAIN, "--output-file", made, ROOT / "pyproject.toml"], check=True)
        write(made.read_text())


def write(compiled: str) -> None:
    """Both files, from what pip-compile made."""
    blocks = re.split(r"\n(?=[\w.-]+==)", re.sub(r"^#.*\n", "", compiled, flags=re.MULTILINE).strip())
    names = [re.split(r"[\s\\]", block)[0].partition("+")[0] for block in blocks]  # without a build such as +cpu
    PLAIN.write_text("".join(f"{name}\n" for name in names))
    head = "".join(re.findall(r"^#.*\n", HASHED.read_text(), re.MULTILINE))
    HASHED.write_text(head + "".join(f"{block.strip()}\n" for block in blocks if not block.startswith("torch==")))


if __name__ == "__main__":
    main()
