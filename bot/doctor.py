"""Looks at everything that Engram needs, and says what to do where something is missing."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import sys
import tempfile
import tomllib
from collections.abc import AsyncIterator, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from bot.platforms import PLATFORMS, missing, wanted
from bot.settings import Settings, unknown_variables
from bot.wording import count
from core.document.ocr import INSTALL
from core.document.ocr import installed as installed_languages
from core.errors import DataFolderBusy, SetupError, StorageFailed
from core.program import this_program
from core.sandbox import missing_protections

PROJECT = Path(__file__).parents[1] / "pyproject.toml"  # absent where Engram is installed as a package
MIN_FREE_BYTES = 2 * 2**30  # bytes of free disk below which there is a warning
Check = dict[str, Any]  # name, state ("ok", "warning", "error"), detail, fix


async def examine(settings: Settings) -> list[Check]:
    """All checks. None of them loads the model; platforms that are configured are asked about their tokens."""
    checks = [
        python(),
        dependencies(required()),
        *variables(),
        sandbox(),
        recognition(settings),
        model(settings.model, settings.cache_dir),
        device(settings.device),
        data_folder(settings.data_dir),
        disk(settings.data_dir),
    ]
    if (settings.data_dir / "engram.db").exists():
        checks.append(await asyncio.to_thread(stored, settings.data_dir))
    checks += await servers(settings)
    for name in PLATFORMS:
        checks += await platform(name, settings)
    if not wanted(settings):
        checks.append(warning("Platforms", "neither Discord nor Slack is set up", "Set what one of them needs."))
    return checks


def python() -> Check:
    running = ".".join(map(str, sys.version_info[:3]))
    return check("Python", sys.version_info >= (3, 11), running, "Install Python 3.11 or newer.")


def dependencies(ranges: Sequence[Requirement]) -> Check:
    """What is installed against the ranges that the project was tested with."""
    absent, other = [], []
    for requirement in ranges:
        try:
            release = version(requirement.name)
        except PackageNotFoundError:
            absent.append(requirement.name)
            continue
        if not requirement.specifier.contains(release, prereleases=True):
            other.append(f"{requirement.name} {release}")
    fix = "Install Engram again: `make install`, or pip."
    if absent:
        return check("Dependencies", False, f"missing: {', '.join(absent)}", fix)
    if other:
        return warning("Dependencies", f"not the tested releases: {', '.join(other)}", fix)
    return check("Dependencies", True, f"{len(ranges)} packages, all of the tested releases")


def required(file: Path = PROJECT) -> list[Requirement]:
    """The packages that Engram always needs: by pyproject.toml where it lies beside the code, else by the package."""
    lines = tomllib.loads(file.read_text())["project"]["dependencies"] if file.is_file() else requires("engram") or []
    needed = []
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            needed.append(requirement)
    return needed


def model(name: str, cache: Path) -> Check:
    """Whether the model is there and whole; nothing is converted or downloaded."""
    from core.convert import MODEL, fetch_command, find_converted, packaged_file
    from core.errors import ModelNotFound

    if name == "embedded":
        if folder := find_converted(name, cache):
            return check("Model", True, f"{MODEL}, in {folder}")
        try:
            packaged_file()
        except ModelNotFound as problem:
            return check("Model", False, str(problem).partition(";")[0], f"Run `{fetch_command()}`.")
        return warning("Model", f"{MODEL}, not converted yet", f"The first start does it; or run `{fetch_command()}`.")
    folder = Path(name)
    if name.endswith(".gguf") and folder.is_file():
        return check("Model", True, f"{name}, converted when it is first used")
    if folder.is_dir():
        complete = any(folder.glob("*.safetensors")) and (folder / "tokenizer.json").is_file()
        fix = "Its folder needs *.safetensors and tokenizer.json; set ENGRAM_MODEL=embedded for the one that ships."
        return check("Model", complete, name if complete else f"{name}: files are missing", fix)
    if name.startswith((".", "/")) or name.endswith(".gguf"):
        return check("Model", False, f"{name}: there is no such folder or file", "Set ENGRAM_MODEL.")
    return warning("Model", f"{name}: a hub id", "It is downloaded at the first start; that needs the network once.")


def device(wanted: str) -> Check:
    try:
        import torch

        from core.model import pick_device

        place = pick_device(wanted)
        torch.empty(1, device=place)
    except ImportError:
        return check("Device", False, "PyTorch is missing", "Run `make install`.")
    except RuntimeError:
        return check("Device", False, f"{wanted} can't be used", "Set ENGRAM_DEVICE=auto.")
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else count(torch.get_num_threads(), "thread")
    return check("Device", True, f"{place}, {name}")


def variables() -> list[Check]:
    return [warning("Settings", sentence, "Correct its name, or remove it.") for sentence in unknown_variables()]


def sandbox() -> Check:
    lacks = missing_protections()
    fix = "A newer kernel has both (Landlock from 5.13); a container may have to allow them."
    return warning("PDF reader", " ".join(lacks), fix) if lacks else check("PDF reader", True, "Landlock and seccomp")


def recognition(settings: Settings) -> Check:
    """Whether scans and pictures can be read."""
    path, wanted = settings.ocr.path, settings.ocr_languages.split("+")
    if not settings.ocr_pages:
        return check("Text recognition", True, "switched off: scans and pictures are refused")
    if not path:
        return warning("Text recognition", "no Tesseract, so scans and pictures are refused", f"{INSTALL}.")
    absent = [language for language in wanted if language not in installed_languages(path)]
    packages = " ".join("tesseract-ocr-" + language.replace("_", "-") for language in absent)
    fix = f"`apt install {packages}`, or set ENGRAM_OCR_LANGUAGES."
    return check("Text recognition", not absent, f"{path}, {', '.join(wanted)}", fix)


def data_folder(folder: Path) -> Check:
    """Whether it, and each file that is written there, can be."""
    there, fix = nearest(folder), "Set ENGRAM_DATA_DIR or give --data-dir."
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        return check("Data folder", False, f"{folder} can't be written to", fix)
    locked = [path for path in sorted(folder.rglob("*")) if not os.access(path, os.R_OK | os.W_OK)]
    if locked:
        files = count(len(locked), "file")
        detail = f"{files} can't be read and written, the first is {locked[0]}, of the user {owner(locked[0])}"
        return check("Data folder", False, detail, f"Run `chown -R {os.geteuid()} {shlex.quote(str(folder))}`.")
    if folder.is_dir() and (problem := write_something(folder)):
        return check("Data folder", False, f"{folder}: {problem}", "Make room there, or raise the quota.")
    return check("Data folder", True, str(folder))


def owner(path: Path) -> str:
    try:
        return path.owner()
    except (KeyError, OSError):
        return "unknown"


def write_something(folder: Path) -> str:
    """Why nothing can be stored there; "" when it can."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 16))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return (error.strerror or "it can't be written to").lower()
    return ""


def stored(folder: Path) -> Check:
    """Every table and file; a damaged search table is written anew."""
    from bot.app import check_data, rebuild_search

    fix = f"Stop the bot, and put back a backup: `{this_program()} restore FILE`."
    try:
        problems = check_data(folder).problems
        if problems and (rebuilt := rebuild_search(folder)):
            problems = check_data(folder).problems
            if not problems:
                return warning("Stored data", f"search tables were damaged and are rebuilt: {', '.join(rebuilt)}", "")
    except DataFolderBusy:
        fix = "Stop the bot, and run this again."
    except StorageFailed:
        problems = ("the index engram.db can't be read",)
    return check("Stored data", not problems, "; ".join(problems[:5]) or "whole", fix)


async def servers(settings: Settings) -> list[Check]:
    """The database and the object store, where they are set."""
    from bot.app import about_servers

    try:
        answers = await about_servers(settings)
    except (SetupError, ImportError) as problem:
        fix = "Install the extras postgres and objects, or correct the address."
        return [check("Servers", False, str(problem), fix)]
    checks = []
    for name, problems, said in answers:
        checks.append(check(name, not problems, "; ".join(problems) or said, "Look at docs/scaling.md."))
    return checks


def disk(folder: Path) -> Check:
    free = shutil.disk_usage(nearest(folder)).free
    detail = f"{free / 2**30:.1f} GB free"
    return check("Disk", True, detail) if free > MIN_FREE_BYTES else warning("Disk", detail, "Make room for weights.")


def nearest(folder: Path) -> Path:
    """The folder itself, or what is there of its way."""
    return next(place for place in (folder, *folder.resolve().parents) if place.exists())


async def platform(name: str, settings: Settings) -> list[Check]:
    """Not wanted, half configured, or what the platform itself says."""
    title, needs = name.capitalize(), missing(name, settings)
    if name not in wanted(settings):
        return [check(title, True, f"not set up; to use it, set {' and '.join(needs)}")]
    if needs:
        return [check(title, False, f"missing: {', '.join(needs)}", "Set it in the environment or in a file .env.")]
    return await _ask_platform(title, import_module(PLATFORMS[name][0]).examine(settings))


async def _ask_platform(title: str, answers: AsyncIterator[tuple[str, str, str, str]]) -> list[Check]:
    checks: list[Check] = []
    try:
        async for name, state, detail, fix in answers:
            checks.append({"name": name, "state": state, "detail": detail, "fix": fix})
    except SetupError as problem:
        checks.append(check(title, False, str(problem), "Then run this again."))
    except Exception as problem:
        detail = f"{title} could not be asked ({type(problem).__name__})"
        checks.append(warning(title, detail, "Look at the network, and run this again."))
    return checks


def check(name: str, good: bool, detail: str, fix: str = "") -> Check:
    return {"name": name, "state": "ok" if good else "error", "detail": detail, "fix": "" if good else fix}


def warning(name: str, detail: str, fix: str) -> Check:
    return {"name": name, "state": "warning", "detail": detail, "fix": fix}
