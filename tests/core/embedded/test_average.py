"""The average of two models' weights."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core.embedded.average import WEIGHTS, average
from core.embedded.export import save_folder
from core.embedded.llama import Llama, LlamaShape
from core.learning.fast_weights import FastWeightsConfig, Prepared, load_prepared, save_prepared
from core.model import EMBEDDED, dequantise


def folders(tmp_path: Path, shape: LlamaShape, **configs: FastWeightsConfig) -> None:
    """A folder NAME with random weights for each configuration of its preparation."""
    for n, (name, config) in enumerate(configs.items()):
        torch.manual_seed(n)
        save_folder(Llama(shape).state_dict(), EMBEDDED / "tokenizer.json", tmp_path / name, int8=True)
        save_prepared(Prepared(config, shape.width), tmp_path / name)


def test_the_average_lies_between_both_and_its_rates_are_scaled(tmp_path) -> None:
    before, after = FastWeightsConfig(layers=2, rate=1e-3), FastWeightsConfig(layers=1, rate=4e-3)
    folders(tmp_path, LlamaShape(width=64, layers=2, heads=1, mlp=64), before=before, after=after)
    average(tmp_path / "before", tmp_path / "after", tmp_path / "out", share=0.5, rates=1.5)
    a, b, c = (dequantise(load_file(tmp_path / n / WEIGHTS)) for n in ("before", "after", "out"))
    name = "model.layers.1.mlp.down_proj.weight"
    assert (c[name] - (a[name] + b[name]) / 2).abs().max() < 2e-3 * c[name].abs().max() * 4
    rates = load_prepared(tmp_path / "out", 64).log_rates
    assert rates.shape == (2, 1) and rates.mean().item() == pytest.approx(math.log(2e-3 * 1.5), rel=1e-5)


def test_rates_are_averaged_layer_by_layer_where_another_number_of_uppermost_layers_is_left_out(tmp_path) -> None:
    before, after = FastWeightsConfig(layers=2), FastWeightsConfig(layers=2, skip=1)
    folders(tmp_path, LlamaShape(width=64, layers=3, heads=1, mlp=64), before=before, after=after)
    for name, rates in (("before", (2e-3, 8e-3)), ("after", (1e-3, 2e-3))):  # layers 1 and 2, layers 0 and 1
        prepared = load_prepared(tmp_path / name, 64)
        prepared.log_rates.copy_(torch.tensor(rates).log().expand(2, 2))
        save_prepared(prepared, tmp_path / name)
    average(tmp_path / "before", tmp_path / "after", tmp_path / "out", share=0.5, rates=1.0)
    found = load_prepared(tmp_path / "out", 64).rates()
    assert found.tolist() == [pytest.approx([1e-3, 2e-3], rel=1e-5)] * 2  # layer 0 is AFTER's alone
