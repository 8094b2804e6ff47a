"""The embedded model without transformers: what transformers computes, to the bit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from core.model import load_model
from core.prompts import template_parts

TEXTS = ["Who wrote it? 12345 né  two  blanks\n\n", "Hello <|im_end|> there", "", " 日本 😀 .. ,"]
IDS = torch.arange(60, 84).view(2, 12) * 17
HALF_SEEN = torch.cat([torch.zeros(2, 5), torch.ones(2, 7)], 1).long()
HALF_SEEN[1] = 1
POSITIONS = (HALF_SEEN.cumsum(1) - 1).clamp_min(0)
TWO_TEXTS = torch.cat([torch.arange(5), torch.arange(7)])[None].expand(2, -1)
CALLS = {
    "plain": {},
    "cached": {"use_cache": True},
    "padded": {"attention_mask": HALF_SEEN, "position_ids": POSITIONS, "use_cache": True, "logits_to_keep": 1},
    "two texts in a row": {"position_ids": TWO_TEXTS, "use_cache": False},
}


@pytest.fixture(scope="module", params=["bfloat16", "float32"])
def both(request) -> SimpleNamespace:
    options = {"device": "cpu", "dtype": request.param}
    theirs, ours = load_model("embedded", **options), load_model("embedded", **options, light=True)
    assert type(ours.model).__module__ == "core.llama" and ours.fingerprint == theirs.fingerprint
    return SimpleNamespace(theirs=theirs.model, ours=ours.model, tokenizers=(theirs.tokenizer, ours.tokenizer))


@pytest.mark.parametrize("call", CALLS)
def test_it_computes_what_transformers_does(both, call: str) -> None:
    options = CALLS[call]
    theirs, ours = both.theirs(input_ids=IDS, **options), both.ours(input_ids=IDS, **options)
    assert torch.equal(theirs.logits, ours.logits)
    if not options.get("use_cache"):
        return
    mask = torch.cat([options.get("attention_mask", torch.ones_like(IDS)), torch.ones(2, 1).long()], 1)
    more = {"input_ids": IDS[:, :1], "attention_mask": mask, "position_ids": mask.cumsum(1)[:, -1:] - 1}
    following = []
    for model, result in ((both.theirs, theirs), (both.ours, ours)):
        following.append(model(**more, past_key_values=result.past_key_values, use_cache=True).logits)
    assert torch.equal(*following)


def test_its_gradients_are_the_same(both) -> None:
    x = torch.randn(2, 8, both.ours.config.hidden_size, dtype=both.ours.dtype, requires_grad=True)
    gradients = []
    for model in (both.theirs, both.ours):
        states = model.model(inputs_embeds=x, use_cache=False).last_hidden_state
        gradients += torch.autograd.grad(states.float().square().sum(), x)
    assert torch.equal(*gradients)


def test_its_weights_have_the_same_names_and_one_matrix_is_both_first_and_last(both) -> None:
    assert list(both.ours.state_dict()) == list(both.theirs.state_dict())
    assert both.ours.lm_head.weight is both.ours.model.embed_tokens.weight


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("special", [True, False])
def test_it_reads_and_writes_tokens_alike(both, text: str, special: bool) -> None:
    theirs, ours = both.tokenizers
    ids = ours.encode(text, add_special_tokens=special)
    assert ids == theirs.encode(text, add_special_tokens=special)
    assert ours.decode(ids, skip_special_tokens=special) == theirs.decode(ids, skip_special_tokens=special)


def test_its_template_and_special_tokens_are_the_same(both) -> None:
    theirs, ours = both.tokenizers
    assert template_parts(ours, "Answer briefly.") == template_parts(theirs, "Answer briefly.")
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(ours, name) == getattr(theirs, name)
