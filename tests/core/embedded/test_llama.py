"""The lean Llama against transformers' LlamaForCausalLM."""

from __future__ import annotations

import torch

from core.embedded.export import shape_of
from core.embedded.llama import Llama
from tests.core.conftest import SHAPE


def test_the_lean_llama_equals_transformers(tiny, tiny_state) -> None:
    lean = Llama(SHAPE)
    lean.load_state_dict(tiny_state)
    ids = torch.randint(6, 16384, (2, 30), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = tiny.model(input_ids=ids).logits
        found = lean.model(ids) @ lean.model.embed_tokens.weight.T
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-3)


def test_its_loss_is_the_weighted_mean_of_the_next_tokens(tiny, tiny_state) -> None:
    lean = Llama(SHAPE)
    lean.load_state_dict(tiny_state)
    ids = torch.randint(6, 16384, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = lean(ids, torch.ones_like(ids).float())
        assert torch.allclose(whole, tiny.model(input_ids=ids, labels=ids).loss, rtol=1e-3)
        first = torch.tensor([[1.0] * 12, [0.0] * 12])
        assert torch.allclose(lean(ids, first), lean(ids[:1], first[:1]), rtol=1e-4)


def test_the_shape_is_read_off_the_weights(tiny_state) -> None:
    assert shape_of(tiny_state) == SHAPE
