"""A random Llama of toy size with a small tokenizer of the embedded model's kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from core.engine import Engine, EngineConfig
from core.learning.base import LearnConfig
from core.learning.forms.fast_weights import FormLearner
from core.model import LoadedModel
from core.prompts import ReaderFormat
from core.types import Chunk

STORY = (
    "The harbour of Vessin opens at six. Its master is Orla Quint, who keeps nineteen boats. "
    "A berth costs forty crowns a night. The lighthouse was built in 1874 by Tam Odrey. "
)
WIDTH = 48
MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def chunks_of(tokenizer, text: str, size: int = 64) -> list[Chunk]:
    ids = tokenizer.encode(text, add_special_tokens=False)
    parts = [ids[at : at + size] for at in range(0, len(ids), size)]
    return [Chunk(n, tokenizer.decode(part), tuple(part), 1, 1) for n, part in enumerate(parts)]


def tiny_llama(vocabulary: int, layers: int = 3) -> LlamaForCausalLM:
    """Random weights, larger than at the start of training: attention is not flat, and the blocks drown the embedding,
    which would answer each token with itself. Keys and values are shared by three heads."""
    shape = LlamaConfig(
        hidden_size=WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=16,
        intermediate_size=128,
        vocab_size=vocabulary,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(shape)
    for name, p in model.named_parameters():
        if p.dim() == 2:
            p.data *= 30 / (2 * layers) ** 0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 3
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Small matrices are quicker without a crowd."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of 800 tokens, digits one by one, with a chat template. Its file was trained on sentences of
    `core.prepare.invented`, on `core.prompts` and on STORY."""
    bpe = Tokenizer.from_file(str(Path(__file__).with_name("tokenizer.json")))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=MARKS[1], eos_token=MARKS[2], pad_token=MARKS[2], unk_token=MARKS[0]
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture
def tiny(tokenizer) -> LoadedModel:
    model = tiny_llama(len(tokenizer))
    return LoadedModel("tiny", model, tokenizer, torch.device("cpu"), torch.float32, "0" * 64, None)


@pytest.fixture
def fmt(tokenizer) -> ReaderFormat:
    return ReaderFormat(tokenizer)


@pytest.fixture
def learner(tiny, fmt, monkeypatch, tmp_path) -> FormLearner:
    """As for a model that was never prepared."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return FormLearner(tiny, fmt, LearnConfig(batch_tokens=1024))


@pytest.fixture
def engine(tiny, monkeypatch, tmp_path) -> Engine:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return Engine(tiny, EngineConfig(chunk_size=64, batch_tokens=1024, max_answer_tokens=6))
