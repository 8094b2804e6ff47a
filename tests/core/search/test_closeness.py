"""Late interaction, and the head that reads vectors off a model's states."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from core.engine import Engine, EngineConfig
from core.learning.graphs import Graphs
from core.learning.low_rank import factors_of_lower_blocks, new_factors
from core.model import SEARCH, SHIPPED, check_sums, fingerprint, load_model
from core.prepare.material import Passage
from core.prepare.questions import QA
from core.prepare.search_head import (
    SearchConfig,
    highest,
    merge_short_passages,
    padded,
    states_in_parts,
    train_search,
)
from core.search.closeness import NAME_BYTES, Query, closeness, encode
from core.search.head import DEPTH_SHARE, Searcher, SearchHead, load_head, save_head, states
from tests.core.conftest import STORY, WIDTH, chunks_of

HEAD = b"a head's"
TEXTS = (
    "The ferry crossed the river each morning and carried farmers with their cattle to the market in Dunmore.",
    "Doctor Hale opened her surgery in 1902. She treated fevers, set broken bones and asked the poor for nothing.",
    "The old king loved gold above all, and locked his daughter in a tower so that no suitor would take her away.",
    "The engine burns coal in a boiler of steel; steam at nine bars drives two pistons that turn the wheels.",
    "In spring the storks come back from Africa and build their nests on the chimneys of the village.",
)
ASKED = {  # in other words: the text's place
    "How did the animals get over the water?": 0,
    "Who helped sick people for free?": 1,
    "Why was the princess kept away from men who wanted to marry her?": 2,
    "What fuel does the locomotive need?": 3,
    "Where do the birds raise their young?": 4,
}


def random_query(rng: np.random.Generator, tokens: int, width: int = 16) -> Query:
    vectors = rng.normal(size=(tokens, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Query(HEAD, vectors, rng.random(tokens).astype(np.float32) + 0.1, slope=9.0, offset=-4.0)


def test_closeness_is_the_weighted_sum_of_each_tokens_highest_cosine() -> None:
    rng = np.random.default_rng(0)
    query = random_query(rng, tokens=5)
    sections = [rng.random((tokens, 16)) > 0.5 for tokens in (1, 7, 30)]
    found = closeness(query, [encode(HEAD, signs) for signs in sections])
    assert found is not None
    for signs, close in zip(sections, found, strict=True):
        tokens = [np.where(row, 1, -1) / 4 for row in signs]
        best = [max(float(q @ t) for t in tokens) for q in query.vectors]
        total = sum(w * b for w, b in zip(query.weights, best, strict=True))
        assert close.similarity == pytest.approx(total, abs=1e-5)
        assert close.odds == pytest.approx(9 * total / query.weights.sum() - 4, abs=1e-5)


def test_a_code_is_its_heads_name_and_a_bit_for_each_sign() -> None:
    signs = np.random.default_rng(0).random((5, 128)) > 0.5
    assert len(encode(HEAD, signs)) == NAME_BYTES + 5 * 16
    query = random_query(np.random.default_rng(0), 2, 128)
    assert closeness(query, [encode(HEAD, signs)]) and closeness(query, []) is None
    assert closeness(replace(query, weights=np.array([1.0, np.nan])), [encode(HEAD, signs)]) is None
    for other in (b"", HEAD, encode(b"anothers", signs), encode(HEAD, signs)[:-1]):
        assert closeness(query, [encode(HEAD, signs), other]) is None


def test_states_are_the_models_whatever_else_is_in_the_batch(tiny) -> None:
    texts = [list(range(9, 30)), list(range(40, 45))]
    hidden = [tiny.model(torch.tensor([t]), output_hidden_states=True).hidden_states[2][0] for t in texts]
    for found, expected in zip(states(tiny.model, texts, 2, 0), hidden, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert len(tiny.model.model.layers) == tiny.model.config.num_hidden_layers == 3


def test_a_head_is_the_same_after_it_was_stored(tiny, tmp_path: Path) -> None:
    torch.manual_seed(0)
    factors = new_factors(tiny.model.model.layers[:2], 3)
    factors = {name: torch.randn_like(factor) for name, factor in factors.items()}
    head = SearchHead(2, WIDTH, factors=factors)
    torch.nn.init.orthogonal_(head.project)
    head.mean += torch.randn(WIDTH)
    assert Searcher.for_model(tiny, tmp_path, 0) is None and Searcher.for_model(tiny, None, 0) is None
    save_head(head, tmp_path)
    again = load_head(tmp_path / SEARCH)
    assert again.layer == 2 and torch.equal(again.mean, head.mean) and torch.equal(again.odds, head.odds)
    torch.testing.assert_close(again.project, head.project, atol=1e-3, rtol=1e-2)
    for name, factor in factors.items():
        torch.testing.assert_close(again.factors[name], factor, atol=0.02, rtol=0)
    one, other = Searcher.for_model(tiny, tmp_path, 0), Searcher.for_model(tiny, tmp_path, 0)
    assert one and other and one.codes([[7, 8, 9]]) == other.codes([[7, 8, 9]]) and one.queries([""]) == [None]
    assert len(one.codes([[7, 8, 9], [4]])[1]) == NAME_BYTES + 32
    head.bias.data += 1
    save_head(head, tmp_path)
    changed = Searcher.for_model(tiny, tmp_path, 0)
    assert changed and changed.name != one.name, "what another head wrote is never compared"


def test_a_head_that_read_another_models_states_is_none(tiny, tmp_path: Path) -> None:
    head = SearchHead(2, WIDTH)
    torch.nn.init.orthogonal_(head.project)
    save_file(head.state_dict(), tmp_path / SEARCH, metadata={"layer": "2"})  # as older ones were stored
    assert load_head(tmp_path / SEARCH) is None and Searcher.for_model(tiny, tmp_path, 0) is None


def test_questions_read_together_are_the_same_as_alone(tiny) -> None:
    torch.manual_seed(0)
    head = SearchHead(2, WIDTH)
    torch.nn.init.orthogonal_(head.project)
    searcher = Searcher(tiny, head, HEAD, 0)
    questions = [
        "Who keeps the boats?",
        "",
        "Why?",
        "Where does the harbour master of the odrey keep all boats at night?",
    ]
    for question, query in zip(questions, searcher.queries(questions), strict=True):
        (alone,) = searcher.queries([question])
        assert (query is None) == (alone is None) == (question == "")
        if query and alone:
            np.testing.assert_allclose(query.vectors, alone.vectors, atol=1e-3)
            np.testing.assert_allclose(query.weights, alone.weights, atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="records on a GPU only")
def test_on_a_gpu_a_question_is_read_by_a_recording(tiny) -> None:
    head = SearchHead(2, WIDTH)
    torch.nn.init.orthogonal_(head.project)
    searcher = Searcher(
        replace(tiny, model=copy.deepcopy(tiny.model).cuda(), device=torch.device("cuda")), head, HEAD, 0
    )
    for question in ("Who keeps the boats?", "Why?", "Who keeps the boats? " * 20, "Who keeps the boats? " * 90):
        ids = tiny.tokenizer.encode(question, add_special_tokens=False)
        plain, _ = searcher._vectors(torch.tensor([ids], device="cuda"))
        np.testing.assert_allclose(searcher.queries([question])[0].vectors, plain.cpu().numpy(), atol=1e-3)
        Graphs(searcher.base.model, {})
    assert list(searcher.recordings) == [32, 128]


def test_training_makes_questions_find_their_passages(tiny) -> None:
    rng = np.random.default_rng(0)
    words = ["boats", "crowns", "harbour", "master", "berth", "night", "lighthouse", "odrey", "nineteen", "forty"]
    passages = []
    for n in range(40):
        some = rng.choice(words, 6, replace=False)
        text = f"{n} " + " ".join(some) + " and so on" * 20
        passages.append(Passage("people", "", text, [QA(f"Where {some[0]} {some[1]}?", "x")]))
    losses: list[float] = []
    config = SearchConfig(steps=200, batch=4, others=4)
    before = tiny.model.model.layers[0].mlp.down_proj.weight.clone()
    head = train_search(tiny, passages, config, lambda step, loss: losses.append(loss))
    assert losses[-1] < losses[0] and head.layer == round(DEPTH_SHARE * 3) and not head.project.requires_grad
    assert all(factor.abs().max() > 0 for factor in head.factors.values()), "the LoRA learns, too"
    down = tiny.model.model.layers[0].mlp.down_proj.weight
    searching = Searcher(tiny, head, HEAD, 0).base.model.model.layers[0].mlp.down_proj.weight
    assert torch.equal(down, before) and not torch.equal(searching, before)


def test_the_heads_lora_begins_as_the_reader_on_the_blocks_below_it(tiny) -> None:
    reader = new_factors(tiny.model.model.layers, 3)
    passages = [Passage("people", "", "The boats lie in the harbour. " * 20, [QA("Where do the boats lie?", "x")])]
    head = train_search(tiny, passages, SearchConfig(steps=1, lora_rate=0.0), reader=reader)
    assert head.factors.keys() == factors_of_lower_blocks(reader, 2).keys() < reader.keys()
    assert all(torch.equal(factor, reader[name]) for name, factor in head.factors.items())


def test_states_in_parts_are_those_of_each_text_alone(tiny) -> None:
    texts = [[5, 6, 7, 8], [9], [4, 5, 6]]
    rows = states_in_parts(tiny.model, texts, layer=2, pad_id=0, size=2)
    together, tokens = padded(rows, 0.0)
    assert tokens.tolist() == [[True] * 4, [True, False, False, False], [True, True, True, False]]
    for row, text in zip(together, texts, strict=True):
        torch.testing.assert_close(row[: len(text)], states(tiny.model, [text], 2, 0)[0], atol=1e-4, rtol=1e-4)


def test_padding_is_never_the_closest_token() -> None:
    question, sections = torch.ones(1, 1, 8) / 8**0.5, torch.ones(2, 3, 8) / 8**0.5
    sections[0, 0] *= -1
    counts = torch.tensor([[True, False, False], [True, True, True]])
    torch.testing.assert_close(highest(question, sections, counts), torch.tensor([[[-1.0, 1.0]]]))


def test_short_passages_are_put_together_with_all_their_questions() -> None:

    short = [Passage("people", "", f"Fact {n}.", [QA(f"Which {n}?", "x")]) for n in range(6)]
    long, nothing = Passage("people", "", "word " * 60, [QA("Who?", "x")]), Passage("people", "", "word " * 60, [])
    found = merge_short_passages([*short, long, nothing], random.Random(0))
    assert found[0] == long and [len(p.questions) for p in found[1:]] == [4, 2]
    assert sorted(q.question for p in found[1:] for q in p.questions) == [f"Which {n}?" for n in range(6)]


def test_an_engine_without_a_head_has_no_codes(engine) -> None:
    chunks = chunks_of(engine.base.tokenizer, STORY, 30)
    assert engine.queries(["Who?"]) == [None] and engine.codes(chunks) == [b""] * len(chunks)


def test_the_embedded_model_finds_what_is_asked_in_other_words() -> None:
    engine = Engine(load_model("embedded", device="cpu", dtype="float32"), EngineConfig(check=False, guard=False))
    chunks = [chunk for text in TEXTS for chunk in chunks_of(engine.base.tokenizer, text, 192)]
    codes = engine.codes(chunks)
    assert [len(code) for code in codes] == [NAME_BYTES + 32 * chunk.token_count for chunk in chunks]
    first = []
    for question, place in ASKED.items():
        close = closeness(engine.queries([question])[0], codes)
        assert close and close[place] in sorted(close)[-2:], question
        first.append(max(close) == close[place])
    assert sum(first) >= 4, "a head that ships may put one of the five second (LOG.md); by chance one comes first"


def test_a_search_head_changes_no_fingerprint(tiny, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    before = fingerprint("x", tmp_path, tiny.model)
    save_head(SearchHead(2, WIDTH), tmp_path)
    assert fingerprint("x", tmp_path, tiny.model) == before


def test_the_head_that_ships_is_among_the_checked_files() -> None:
    check_sums(SHIPPED)
    assert SEARCH in (SHIPPED / "SHA256SUMS").read_text()
