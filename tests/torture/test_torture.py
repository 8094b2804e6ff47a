"""The harness itself, each mode once or twice; `python -m tests.torture MODE` does it as often as was promised."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tests.torture.crowd as crowd
import tests.torture.erase as erase
import tests.torture.servers as servers
import tests.torture.soak as soak
from tests.torture import MODES, Figure, Plan, at_most, every, none, torture
from tests.torture.hostile import repeated


async def good(mode: str, tmp_path: Path, **how: Any) -> list[Figure]:
    figures = await torture(mode, Plan(tmp_path, fast=True, **how), print)
    assert [figure for figure in figures if not figure.good] == []
    return figures


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_has_its_module(mode: str) -> None:
    assert (Path(__file__).parent / f"{mode}.py").is_file()


def test_a_soak_sees_memory_that_grows() -> None:
    stalls = [{"stall": 0.1, "own_stall": 0.1}]
    sizes = [200, 300, 300, 300, 310, 310, 330]
    samples = [{"rss": size * 2.0**20, "fds": 18.0} for size in sizes]
    assert [figure.what for figure in soak.health(samples, stalls, 60) if not figure.good] == ["growth of memory"]
    assert all(figure.good for figure in soak.health(samples[:4], stalls, 60))


async def test_kills_lose_nothing(tmp_path: Path) -> None:
    figures = await good("kill", tmp_path, times=1, seed=4)
    assert "documents told as learned that are gone" in {figure.what for figure in figures}


async def test_what_was_erased_is_gone_also_after_a_kill(tmp_path: Path) -> None:
    await good("erase", tmp_path, times=1)


async def test_damage_is_noticed_as_often_as_asked(tmp_path: Path) -> None:
    figures = await good("damage", tmp_path, times=5)
    assert [figure.found for figure in figures] == ["5/5"] * 4 + ["2/2"]


async def test_writers_at_once_see_no_lock(tmp_path: Path) -> None:
    await good("writers", tmp_path, seconds=2)


async def test_cuts_of_the_network_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "VICTIMS", servers.NETWORKS)
    figures = await good("servers", tmp_path, times=4, seed=1)
    assert all(word in str(figures[0].found) for word in ("database", "store"))


async def test_a_crowd_is_answered_by_one_process_and_by_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowd, "PAUSE", 1.0)
    await good("crowd", tmp_path, times=6, seconds=10)


def test_a_canary_is_found_in_every_form_in_which_it_is_stored(tmp_path: Path) -> None:
    word = "0123456789abcd"
    numbers = np.array(list(word.encode()), dtype=np.float16)
    for form in (word.encode(), word.encode("utf-16-le"), numbers.tobytes()):
        (tmp_path / "file").write_bytes(b"..." + form + b"...")
        assert erase.remains(tmp_path, [word, "dcba9876543210"]) == 1


def test_what_is_repeated_unpacks_to_its_part_so_many_times() -> None:
    assert zlib.decompress(repeated(b"ab c" * 9_000, 7)) == b"ab c" * 63_000


def test_a_figure_that_falls_short_is_not_good() -> None:
    assert not none("x", 1).good and not every("x", 1, 2).good and not at_most("x", 2.0, 1.0).good
    assert none("x", 0).good and every("x", 2, 2).good and at_most("x", 1.0, 1.0).good


@pytest.fixture(scope="module")
def loaded() -> dict[str, Any]:
    """The garbage collector's state in a process that has loaded the engine, and the modules after one question."""
    code = (
        "import gc, json, sys; from bot.app import load_engine; from bot.settings import Settings; seen = [];"
        "from core.ports import Ask; gc.callbacks.append(lambda phase, info: seen.append(info['generation']));"
        "engine = load_engine(Settings(_env_file=None));"
        "state = dict(collections=seen.count(2), objects=len(gc.get_objects()), enabled=gc.isenabled());"
        "engine.answer([Ask('Who?')]); print(json.dumps(state | dict(modules=[*sys.modules])))"
    )
    return json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)


def test_loading_the_engine_collects_nothing_and_nothing_of_it_is_looked_at_again(loaded: dict[str, Any]) -> None:
    """Else a collection looks at 390,000 objects, and the event loop stands still for a third of a second."""
    assert loaded["collections"] == 0 and loaded["objects"] < 10_000 and loaded["enabled"]


def test_neither_transformers_nor_torchs_compiler_is_imported_to_ask(loaded: dict[str, Any]) -> None:
    assert {"torch", "core.llama"} <= set(loaded["modules"])
    assert {"transformers", "torch._dynamo"}.isdisjoint(loaded["modules"])


@pytest.mark.parametrize(
    "chosen, again", [({}, "cache_miss"), ({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1024"}, "cache_hit")]
)
def test_few_compiled_products_are_kept_unless_the_operator_wants_more(chosen: dict[str, str], again: str) -> None:
    """Else memory grows with each shape that a document or a question brings."""
    code = (
        "import torch; from bot.settings import limit_kernel_cache; limit_kernel_cache();"
        "x, w = torch.ones(100, 8).to_mkldnn(), torch.ones(8, 8);"
        "[(print(n, flush=True), torch.nn.functional.linear(torch.ones(n, 8).to_mkldnn(), w.to_mkldnn()))"
        " for n in [*range(1, 101), 1]]"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith("ONEDNN")} | {"ONEDNN_VERBOSE": "profile", **chosen}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
    [made] = [
        line for line in out.rpartition("\n1\n")[2].splitlines() if ",inner_product," in line and "create" in line
    ]
    assert f"create:{again}" in made
