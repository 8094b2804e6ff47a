"""A random Llama of toy size with the embedded model's tokenizer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from transformers import AutoTokenizer

from core.embedded.export import hf_model
from core.embedded.llama import Llama, LlamaShape
from core.engine import Engine, EngineConfig
from core.learning.base import LearnConfig
from core.learning.fast_learner import FastWeightsLearner
from core.model import EMBEDDED, LoadedModel
from core.prompts import MarkedFormat
from core.types import Chunk

SHAPE = LlamaShape(width=64, layers=3, heads=1, mlp=128)
STORY = (
    "The harbour of Vessin opens at six. Its master is Orla Quint, who keeps nineteen boats. "
    "A berth costs forty crowns a night. The lighthouse was built in 1874 by Tam Odrey. "
)


def chunks_of(tokenizer, text: str, size: int = 64) -> list[Chunk]:
    ids = tokenizer.encode(text, add_special_tokens=False)
    parts = [ids[at : at + size] for at in range(0, len(ids), size)]
    return [Chunk(n, tokenizer.decode(part), tuple(part), 1, 1) for n, part in enumerate(parts)]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Small matrices are quicker without a crowd."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_state() -> dict[str, torch.Tensor]:
    """Random weights, larger than at the start of training: attention is not flat, and the blocks drown the embedding,
    which would answer each token with itself."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = Llama(SHAPE).state_dict()
    return {
        k: v.detach() * (30 if "o_proj" in k or "down_proj" in k else 3 if v.dim() == 2 else 1)
        for k, v in state.items()
    }


@pytest.fixture(scope="session")
def tokenizer():
    return AutoTokenizer.from_pretrained(str(EMBEDDED))


@pytest.fixture
def tiny(tiny_state, tokenizer) -> LoadedModel:
    model = hf_model(tiny_state).eval().requires_grad_(False)
    return LoadedModel("tiny", model, tokenizer, torch.device("cpu"), torch.float32, "0" * 64, None)


@pytest.fixture
def fmt(tokenizer) -> MarkedFormat:
    return MarkedFormat(tokenizer)


@pytest.fixture
def learner(tiny, fmt, monkeypatch, tmp_path) -> FastWeightsLearner:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return FastWeightsLearner(tiny, fmt, LearnConfig(batch_tokens=1024))


@pytest.fixture
def engine(tiny, monkeypatch, tmp_path) -> Engine:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return Engine(tiny, EngineConfig(chunk_size=64, batch_tokens=1024, max_answer_tokens=6))
