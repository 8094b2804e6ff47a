"""Dataclasses as options."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field

import pytest

from core.options import add_options, given


@dataclass(frozen=True)
class Config:
    out: str
    warmup_steps: int = 100
    rate: float = 0.5
    compile: bool = True
    rows: tuple[str, ...] = ()
    shape: str = field(init=False, default="")


def parsed(line: str) -> Config:
    parser = argparse.ArgumentParser()
    add_options(parser, Config)
    return Config(**given(parser.parse_args(line.split()), Config))


def test_every_field_is_an_option_of_its_kind() -> None:
    assert parsed("--out here") == Config("here")
    assert parsed("--out a --warmup-steps 3 --rate 2 --compile 0 --rows b c") == Config("a", 3, 2.0, False, ("b", "c"))
    assert parsed("--out a --compile 1 --rows").rows == ()


@pytest.mark.parametrize("line", ["", "--out a --shape b", "--out a --warmup-steps 2.5"])
def test_what_no_field_takes_is_refused(line: str, capsys) -> None:
    with pytest.raises(SystemExit):
        parsed(line)
    assert "error" in capsys.readouterr().err
