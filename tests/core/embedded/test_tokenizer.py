"""The tokenizer's training: nothing is lost, special tokens first, digits alone."""

from __future__ import annotations

import json
import lzma
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from core.embedded import corpus, tokenizer
from core.embedded.tokenizer import SPECIAL, train_tokenizer
from core.model import EMBEDDED
from tests.core.conftest import STORY


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return train_tokenizer([STORY] * 20, 320)


@pytest.mark.parametrize("text", [STORY, "Größe: 12,5 €\n\n日本 🙂", "\t<|q|> x"])
def test_every_text_comes_back(small: Tokenizer, text: str) -> None:
    assert small.decode(small.encode(text).ids, skip_special_tokens=False) == text


def test_special_tokens_come_first_and_digits_stand_alone(small: Tokenizer) -> None:
    assert [small.token_to_id(t) for t in SPECIAL] == list(range(6)) and small.token_to_id("<|doc|>") == corpus.DOC
    assert small.get_vocab_size() == 320 and small.encode("1874").tokens == list("1874")
    assert len(small.encode(STORY).ids) < 0.6 * len(STORY)


def test_it_is_built_as_the_one_that_ships(small: Tokenizer) -> None:
    mine, shipped = json.loads(small.to_str()), json.loads((EMBEDDED / "tokenizer.json").read_text())
    same = ("normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens")
    assert {k: mine[k] for k in same} == {k: shipped[k] for k in same}
    assert {**mine["model"], "vocab": 0, "merges": 0} == {**shipped["model"], "vocab": 0, "merges": 0}


def test_the_command_reads_articles_and_leaves_out_what_is_held_out(tmp_path: Path, monkeypatch, capsys) -> None:
    titles = [f"Harbour {n}" for n in range(100)]
    with lzma.open(tmp_path / "a.txt.xz", "wt") as file:
        file.write("\n\x1e\n".join(f"# {title}\n{STORY}" for title in titles))
    out = tmp_path / "tokenizer.json"
    given = ["--articles", str(tmp_path / "a.txt.xz"), "--out", str(out), "--size", "300"]
    monkeypatch.setattr(sys, "argv", ["tokenizer", *given])
    tokenizer.main()
    kept = sum(not corpus.held_out(title) for title in titles)
    assert f"300 tokens from {kept} articles" in capsys.readouterr().out and kept < 100
    assert Tokenizer.from_file(str(out)).get_vocab_size() == 300
