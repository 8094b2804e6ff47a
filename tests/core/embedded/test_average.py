"""The average of two models' weights."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file

from core.embedded.average import WEIGHTS, average
from core.embedded.export import save_folder
from core.embedded.llama import Llama, LlamaShape
from core.learning.fast_weights import FastWeightsConfig, Prepared, load_prepared, save_prepared
from core.model import EMBEDDED, dequantise


def test_the_average_lies_between_both_and_its_rates_are_scaled(tmp_path) -> None:
    shape = LlamaShape(width=64, layers=2, heads=1, mlp=64)
    for n, (name, layers, rate) in enumerate((("before", 2, 1e-3), ("after", 1, 4e-3))):
        torch.manual_seed(n)
        save_folder(Llama(shape).state_dict(), EMBEDDED / "tokenizer.json", tmp_path / name, int8=True)
        save_prepared(Prepared(FastWeightsConfig(layers=layers, rate=rate), 64), tmp_path / name)
    average(tmp_path / "before", tmp_path / "after", tmp_path / "out", share=0.5, rates=1.5)
    a, b, c = (dequantise(load_file(tmp_path / n / WEIGHTS)) for n in ("before", "after", "out"))
    name = "model.layers.1.mlp.down_proj.weight"
    assert (c[name] - (a[name] + b[name]) / 2).abs().max() < 2e-3 * c[name].abs().max() * 4
    rates = load_prepared(tmp_path / "out", 64).log_rates
    assert rates.shape == (2, 1) and rates.mean().item() == pytest.approx(math.log(2e-3 * 1.5), rel=1e-5)
