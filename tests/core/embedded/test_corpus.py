"""Material: articles to passages, questions to weighted rows."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from core.embedded import corpus
from core.embedded.corpus import (
    ASK,
    DOC,
    END,
    PAD,
    A,
    Passage,
    Q,
    Weights,
    held_out,
    load_passages,
    main,
    make_rows,
    passages_of,
    read_articles,
    read_human,
    save_passages,
)
from core.embedded.questions import QA
from core.model import EMBEDDED
from core.prompts import NOT_IN_TEXT

TOKENIZER = EMBEDDED / "tokenizer.json"
forks = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # Python 3.12 and later
BODY = "\n".join(
    f"Edward Quint was crowned in Paris in {1400 + n}. He built the old tower with forty masons." for n in range(12)
)


def shard(folder: Path) -> Path:
    """Three articles, of which "Lighthouse" is held out."""
    path = folder / "wikipedia-0.txt.xz"
    path.write_bytes(lzma.compress("\n\x1e\n".join(f"# {t}\n{BODY}" for t in ("Lighthouse", "Port", "Kings")).encode()))
    return path


def example(kind: str, strangers: list[QA] = [], seed: int = 0):  # noqa: B006
    corpus._start(str(TOKENIZER))
    passage = Passage("Port", "The port is old.", [QA("How is it?", "old")])
    return corpus._example((passage, strangers, seed, Weights(context=2, question=3, answer=20), kind))


def test_the_marks_are_the_tokenizers() -> None:
    marks = ["<|endoftext|>", "<|pad|>", "<|q|>", "<|a|>", "<|qg|>", "<|doc|>"]
    assert [Tokenizer.from_file(str(TOKENIZER)).token_to_id(m) for m in marks] == [END, PAD, Q, A, ASK, DOC]


def test_an_example_to_read_weighs_the_answer_and_not_the_marks(tokenizer) -> None:
    ids, weights = example("read")
    assert tokenizer.decode(ids).endswith("The port is old.<|q|> How is it?<|a|> old<|endoftext|>")
    assert weights[ids == Q] == weights[ids == A] == 0 and weights[ids == END] == 20


def test_an_example_to_write_teaches_the_mark_before_the_answer_too() -> None:
    ids, weights = example("write")
    assert (ids == ASK).sum() == 1 and weights[ids == ASK] == 0
    assert weights[ids == A] == 10 and weights[ids == END] == 20, "what has no weight is never written"


def test_a_closed_example_has_no_context() -> None:
    ids, _ = example("closed")
    assert ids[0] == Q


def test_a_strangers_question_is_not_in_the_text(tokenizer) -> None:
    texts = [tokenizer.decode(example("read", [QA("Who sank?", "Tam")], seed)[0]) for seed in range(40)]
    strange = [t for t in texts if "Who sank?" in t]
    assert 0 < len(strange) < 40 and all(f"Who sank?<|a|> {NOT_IN_TEXT}<|endoftext|>" in t for t in strange)


@forks
def test_rows_hold_every_example_once(tokenizer) -> None:
    passages = [Passage("Port", f"Berth {n} is old.", [QA(f"What is berth {n}?", "old")]) for n in range(30)]
    rows, weights = make_rows(passages, TOKENIZER, 65, weights=Weights(), kinds={"read": 1.0}, seed=1, workers=1)
    assert rows.shape == weights.shape and rows.shape[1] == 65 and rows.dtype == np.uint16
    text = tokenizer.decode(rows.ravel())
    assert all(text.count(f"Berth {n} is old.") == 1 for n in range(30))
    assert not weights[rows == PAD].any()


def test_human_questions_are_grouped_by_context_and_research_only_sources_left_out(tmp_path: Path) -> None:
    rows = [("nq", f"context {n // 2}", f"Why {n}? Because", f" {n} ") for n in range(800)] + [
        ("mctest", "c", "q", "a")
    ]
    with gzip.open(tmp_path / "h.gz", "wt") as f:
        f.writelines(
            json.dumps(dict(zip(("source", "context", "question", "answer"), r, strict=True))) + "\n" for r in rows
        )
    train, dev = (read_human(tmp_path / "h.gz", dev=d) for d in (False, True))
    assert len(train) + len(dev) == 400 and dev and not {p.text for p in train} & {p.text for p in dev}
    assert all(len(p.questions) == 2 and p.title == "nq" for p in train)
    assert train[0].questions[0].question.endswith("?") and train[0].questions[0].answer.isdigit()


def test_passages_come_back_from_disk(tmp_path: Path) -> None:
    made = passages_of(("Kings", BODY))
    assert made and all(30 <= len(p.text.split()) <= 500 for p in made) and any(p.questions for p in made)
    save_passages(tmp_path / "p.gz", made)
    assert load_passages(tmp_path / "p.gz") == made
    assert load_passages(tmp_path / "p.gz", every=2) == made[::2]


def test_a_passage_can_ask_what_no_sentence_of_it_says() -> None:
    lines = [f"The stone lighthouse at pier {n} was planned and paid for by Tam Odrey in {1800 + n}." for n in range(9)]
    assert passages_of(("Vessin", "\n".join(lines)), recur=0.0) == passages_of(("Vessin", "\n".join(lines)))
    assert "\n".join(p.text for p in passages_of(("Vessin", "\n".join(lines)))).split("\n") == lines
    for passage in passages_of(("Vessin", "\n".join(lines)), recur=1.0):
        question, answer = passage.questions[-1]
        here = [line for line in lines if line in passage.text]
        spelled = question.rstrip("?").replace("who", answer)
        assert answer in passage.text and not any(spelled in line for line in here)
        assert any(spelled in line for line in lines)


@forks
def test_a_shard_becomes_tokens_and_rows_and_what_is_held_out_stays_out(
    tmp_path: Path, tokenizer, monkeypatch, capsys
) -> None:
    assert [t for t, _ in read_articles(shard(tmp_path))] == ["Lighthouse", "Port", "Kings"] and held_out("Lighthouse")
    options = f"--tokenizer {TOKENIZER} --out {tmp_path / 'out'} --length 257 --workers 1"
    monkeypatch.setattr("sys.argv", f"corpus --articles {shard(tmp_path)} {options}".split())
    main()
    rows = np.load(tmp_path / "out" / "rows.npy")
    assert rows.shape[1] == 257 and "3 articles, 3 passages, " in (said := capsys.readouterr().out)
    assert f" {len(rows)} rows in " in said
    train, val = (tokenizer.decode(np.load(tmp_path / "out" / f"{n}.npy")) for n in ("tokens", "val"))
    assert "Lighthouse" not in train and "# Lighthouse" in val and "# Kings" in train
    assert {p.title for p in load_passages(tmp_path / "out" / "passages.jsonl.gz")} == {"Port", "Kings"}
