"""Training checkpoint -> Hugging Face folder -> the int8 container that ships.

python -m core.embedded.export --checkpoint DIR/model.pt --tokenizer tokenizer.json --out DIR [--int8]
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from core.embedded.llama import LlamaShape
from core.model import quantise

CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}<|q|> {{ m.content }}<|a|>{% elif m.role == 'assistant' %} "
    "{{ m.content }}<|endoftext|>{% endif %}{% endfor %}"
)


def shape_of(state: dict[str, torch.Tensor]) -> LlamaShape:
    """The architecture, read off the weights (head size 64)."""
    vocab, width = state["model.embed_tokens.weight"].shape
    layers = 1 + max(int(k.split(".")[2]) for k in state if k.startswith("model.layers."))
    return LlamaShape(
        vocab=vocab,
        width=width,
        layers=layers,
        heads=max(1, width // 64),
        mlp=state["model.layers.0.mlp.up_proj.weight"].shape[0],
    )


def hf_model(state: dict[str, torch.Tensor]) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**shape_of(state).hf_config()))
    model.load_state_dict(state, strict=False)
    model.tie_weights()
    return model


def save_folder(state: dict[str, torch.Tensor], tokenizer: Path, out: Path, *, int8: bool = False) -> None:
    """config.json, tokenizer files with the chat template, and the weights: float32 or the int8 container."""
    out.mkdir(parents=True, exist_ok=True)
    state = {k: v for k, v in state.items() if k != "lm_head.weight"}
    model = hf_model(state)
    if int8:
        model.config.save_pretrained(out)
        save_file(quantise(state), out / "model.int8.safetensors")
    else:
        model.save_pretrained(out)
    if tokenizer.resolve() != (out / "tokenizer.json").resolve():
        shutil.copyfile(tokenizer, out / "tokenizer.json")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>",
        "pad_token": "<|pad|>", "model_max_length": 4096, "chat_template": CHAT_TEMPLATE,
    }  # fmt: skip
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--int8", action="store_true")
    options = parser.parse_args()
    state = torch.load(options.checkpoint, map_location="cpu", weights_only=True)
    save_folder(state, Path(options.tokenizer), Path(options.out), int8=options.int8)


if __name__ == "__main__":
    main()
