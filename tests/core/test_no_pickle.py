"""Nothing on the way from a document to an answer unpickles: a pickle can run any code."""

from __future__ import annotations

import sys
from pathlib import Path

from core.engine import Engine, EngineConfig
from core.ports import Ask
from core.types import Page
from storage.weights import Weights
from tests.core.conftest import STORY

FOUND: list[object] = []
LISTENING = [False]  # an audit hook can't be removed


def test_loading_learning_saving_and_asking_unpickle_nothing(tiny, tmp_path: Path) -> None:
    for part in (tiny.model, tiny.tokenizer):
        part.save_pretrained(tmp_path / "model")
    sys.addaudithook(lambda event, what: FOUND.append(what) if LISTENING[0] and event == "pickle.find_class" else None)
    LISTENING[0] = True
    try:
        engine = Engine.load(EngineConfig(model=str(tmp_path / "model"), device="cpu", effort="quick", chunk_size=64))
        chunks = engine.chunk([Page(1, STORY)])
        steps = engine.learn(chunks, title="story")
        try:
            while True:
                next(steps)
        except StopIteration as end:
            learned = end.value
        weights = Weights(tmp_path / "weights")
        record = weights.save("d1", "here", learned, base=engine.fingerprint, learner=engine.learner)
        tensors = weights.load(record, "here", base=engine.fingerprint, section=0)
        assert len(engine.answer([Ask("Who?", weights=tensors), Ask("Who?")])) == 2
    finally:
        LISTENING[0] = False
    assert FOUND == []
