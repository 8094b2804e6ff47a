"""Questions that the reader writes itself."""

from __future__ import annotations

import lzma
from dataclasses import replace

import pytest
import torch

from core.learning.preparation import FastWeightsConfig, Prepared
from core.prepare import written
from core.prepare.material import Material, Passage, append, load, save
from core.prepare.questions import QA
from core.prepare.written import is_kept, texts_to_ask, write_about, write_questions
from core.types import Completion

TEXT = "The lighthouse was built by Orla Venn in 1874. It stands on the northern pier."


@pytest.mark.parametrize(
    ("question", "drafted", "answer", "confidence", "kept"),
    [
        ("Who built the lighthouse?", "Orla Venn", "Orla Venn", 0.7, True),
        ("Who built the lighthouse?", "in 1874", "Orla Venn", 0.7, False),  # another answer the second time
        ("Who built the lighthouse?", "in 1874", "Orla Venn", 0.95, True),  # but it is certain
        ("Who built the lighthouse?", "Orla Venn", "Orla Venn", 0.5, False),
        ("Who built the lighthouse?", "Rufus", "Rufus", 0.99, False),  # not in the text
        ("Where did Orla Venn stand?", "Orla Venn", "Orla Venn", 0.99, False),  # the question says it
        ("Who?", "Orla Venn", "Orla Venn", 0.99, False),
        ("What is this document about?", "The lighthouse", "The lighthouse", 0.99, False),
        ("What does the text say?", TEXT, TEXT, 0.99, False),  # too long
    ],
)
def test_which_questions_are_kept(question, drafted, answer, confidence, kept) -> None:
    second = Completion(answer, 3, 0.1, confidence)
    assert is_kept(TEXT, QA(question, drafted), second) is kept
    assert not is_kept(TEXT, QA(question, drafted), replace(second, tokens=written.LONGEST_ANSWER))  # cut


def test_a_reader_writes_about_each_text(tiny, monkeypatch) -> None:
    """One of random weights, whose drafts are whatever they are: every one is answered again from its own text."""
    torch.manual_seed(0)
    inner = FastWeightsConfig(layers=1, skip=1, steps=2, segment=48, reader=4)
    reader = Prepared(inner, tiny.model.config.hidden_size, tiny.model).merged(tiny.model)
    read = "core.prompts.ReaderFormat.read_questions"
    monkeypatch.setattr(read, lambda self, text: [(f"What about {text[:5]}?", text)])
    monkeypatch.setattr(written, "is_kept", lambda text, draft, second: 0 < second.confidence <= 1)
    texts = [TEXT, TEXT * 2, TEXT[:40]]
    questions = write_about(reader, tiny.tokenizer, texts, each=3, temperature=1.0)
    assert len(questions) == 3 and all(1 <= len(asked) <= 3 for asked in questions)

    passages = [Passage("rules", "Port", text, []) for text in texts]
    options = dict(each=1, temperature=1.0, at_a_time=2)
    made = list(write_questions(reader, tiny.tokenizer, passages, seconds=60, **options))
    assert {p.kind for p in made} == {"written"} and {p.text for p in made} == set(texts)
    assert list(write_questions(reader, tiny.tokenizer, passages, seconds=-1, **options)) == []


def test_processes_share_the_texts_that_are_long_enough() -> None:
    passages = [Passage("rules", "", "word " * count, []) for count in range(10, 60)]
    shares = [texts_to_ask(passages, part, 3) for part in (1, 2, 3)]
    lengths = [len(p.text.split()) for share in shares for p in share]
    assert sorted(lengths) == list(range(30, 60))


@pytest.mark.parametrize("name", ["material.jsonl.xz", "material.jsonl.gz"])
def test_written_passages_stand_in_the_same_file(tmp_path, name) -> None:
    path = tmp_path / name
    rules = Passage("rules", "Port", TEXT, [QA("Where is the lighthouse?", "on the northern pier")])
    save(path, Material({"rules": [rules]}))
    own = Passage("written", "Port", TEXT, [QA("Who built the lighthouse?", "Orla Venn")])
    append(path, [own])
    both = load(path)
    assert both.passages["rules"][:] == [rules] and both.passages["written"][:] == [own]
    with pytest.raises(lzma.LZMAError if name.endswith("gz") else OSError):
        load(path.rename(path.with_suffix(".gz" if name.endswith("xz") else ".xz")))
