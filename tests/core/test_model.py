"""Finding, loading and naming the base model."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
import torch
from core.embedded.export import save_folder

from core.errors import ModelNotFound
from core.learning.budget import PolicyNet, save_policy
from core.model import (
    EMBEDDED,
    LoadedModel,
    dequantise,
    fingerprint,
    load_model,
    load_tokenizer,
    pick_device,
    pick_dtype,
    prepared_folder,
    quantise,
)

CPU = {"device": "cpu", "dtype": "float32"}


@pytest.fixture
def folder(tiny_state, tmp_path: Path) -> Path:
    save_folder(tiny_state, EMBEDDED / "tokenizer.json", tmp_path / "model", int8=True)
    return tmp_path / "model"


def test_int8_keeps_every_weight_within_half_a_step(tiny_state) -> None:
    packed = quantise(tiny_state)
    opened = dequantise(packed)
    assert opened.keys() == tiny_state.keys()
    for name, w in tiny_state.items():
        step = w.abs().amax(-1, keepdim=True) / 127
        assert ((opened[name] - w).abs() <= 0.6 * step + 1e-6).all()
    assert sum(v.nbytes for v in packed.values()) < 0.27 * sum(v.nbytes for v in tiny_state.values())
    assert all(torch.equal(v, packed[k]) for k, v in quantise(opened).items() if v.dtype == torch.int8)


def test_a_row_of_zeros_stays_zero() -> None:
    assert not dequantise(quantise({"w": torch.zeros(2, 4)}))["w"].any()


def test_a_folder_with_int8_weights_loads_ready_to_answer(folder: Path, tiny, tiny_state) -> None:
    loaded = load_model(str(folder), **CPU)
    assert loaded.folder == folder and loaded.dtype == torch.float32 and not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    opened = dequantise(quantise(tiny_state))
    assert torch.equal(loaded.model.lm_head.weight, opened["model.embed_tokens.weight"])  # tied
    assert all(torch.equal(loaded.model.state_dict()[k], v) for k, v in opened.items())
    assert torch.is_grad_enabled()


def test_a_folder_with_float_weights_loads_the_same_model(tiny, tiny_state, tmp_path: Path) -> None:
    save_folder(tiny_state, EMBEDDED / "tokenizer.json", tmp_path)
    loaded = load_model(str(tmp_path), **CPU)
    ids = torch.arange(6, 40)[None]
    assert torch.equal(loaded.model(input_ids=ids).logits, tiny.model(input_ids=ids).logits)


def break_nothing(folder: Path) -> str:
    return str(folder / "elsewhere")


def break_weights(folder: Path) -> str:
    path = folder / "model.int8.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    return str(folder)


def break_config(folder: Path) -> str:
    (folder / "config.json").write_text("{")
    return str(folder)


def break_shape(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text()) | {"intermediate_size": 96}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def break_layers(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 4}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def break_tokenizer(folder: Path) -> str:
    (folder / "tokenizer.json").write_text("{}")
    return str(folder)


BREAKS = [break_nothing, break_weights, break_config, break_shape, break_layers, break_tokenizer]


@pytest.mark.parametrize("damage", BREAKS, ids=lambda f: f.__name__)
def test_a_missing_or_broken_model_is_an_error_with_the_fix_in_it(folder: Path, damage) -> None:
    with pytest.raises(ModelNotFound, match=r"give a folder or a hub id .* ENGRAM_MODEL=embedded"):
        load_model(damage(folder), **CPU)


def test_a_folder_with_too_few_float_weights_is_refused(tiny_state, tmp_path: Path) -> None:
    save_folder(tiny_state, EMBEDDED / "tokenizer.json", tmp_path / "model")
    with pytest.raises(ModelNotFound, match="give a folder"):
        load_model(break_layers(tmp_path / "model"), **CPU)


def test_a_missing_tokenizer_is_the_same_error(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="give a folder"):
        load_tokenizer(str(tmp_path / "elsewhere"))


def test_a_tokenizer_loads_alone(tokenizer) -> None:
    text = "The harbour of Vessin opens at six."
    assert load_tokenizer(str(EMBEDDED)).encode(text, add_special_tokens=False).ids == tokenizer.encode(text)


@pytest.mark.parametrize("name", ["model.int8.safetensors", "tokenizer.json", "config.json"])
def test_one_changed_byte_changes_the_fingerprint(folder: Path, tiny, name: str) -> None:
    before = fingerprint("x", folder, tiny.model)
    assert fingerprint("y", folder, tiny.model) == before and len(before) == 64
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    assert fingerprint("x", folder, tiny.model) != before


def test_a_policy_that_is_trained_later_leaves_the_fingerprint(folder: Path, tiny) -> None:
    before = fingerprint("x", folder, tiny.model)
    save_policy(PolicyNet(), folder)
    assert fingerprint("x", folder, tiny.model) == before


def test_without_a_folder_the_tensors_give_the_fingerprint(tiny) -> None:
    before = fingerprint("hub/id", None, tiny.model)
    assert fingerprint("hub/id", None, tiny.model) == before
    tiny.model.model.norm.weight.data[0] += 1
    assert fingerprint("hub/id", None, tiny.model) != before


def test_what_was_prepared_is_found_beside_the_model_or_by_its_fingerprint(folder: Path, tiny) -> None:
    root = folder.parent / "prepared"
    base = LoadedModel("tiny", tiny.model, tiny.tokenizer, tiny.device, tiny.dtype, "f" * 64, folder, root)
    assert prepared_folder(base) is None
    place = root / ("f" * 16)
    place.mkdir(parents=True)
    (place / "prepared.json").touch()
    assert prepared_folder(base) == place
    (folder / "prepared.json").touch()
    assert prepared_folder(base) == folder


def test_device_and_dtype_are_picked_or_obeyed() -> None:
    cpu = pick_device("cpu")
    assert pick_device("auto").type in ("cuda", "mps", "cpu")
    assert pick_dtype("float32", cpu) == torch.float32 and pick_dtype("bfloat16", cpu) == torch.bfloat16


@pytest.mark.parametrize(("able", "kind"), [({"avx512_bf16": True}, torch.bfloat16), ({"avx2": True}, torch.float32)])
def test_a_cpu_computes_in_bfloat16_where_it_can(monkeypatch, able, kind) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert pick_dtype("auto", torch.device("cpu")) == kind


@pytest.mark.parametrize("name", ["model.int8.safetensors", "tokenizer.json", "config.json"])
def test_one_changed_byte_in_a_pinned_file_is_refused(folder: Path, name: str) -> None:
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(folder.iterdir())]
    (folder / "SHA256SUMS").write_text("".join(lines))
    load_model(str(folder), **CPU)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ModelNotFound, match=f"{name} is missing or was changed"):
        load_model(str(folder), **CPU)


def test_the_shipped_files_are_those_of_their_sums() -> None:
    sums = dict(reversed(line.split()) for line in (EMBEDDED / "SHA256SUMS").read_text().splitlines())
    listed = subprocess.run(["git", "ls-files", str(EMBEDDED)], capture_output=True, text=True, cwd=EMBEDDED)
    shipped = {Path(line).name for line in listed.stdout.splitlines()} - {"SHA256SUMS"}
    assert {"model.int8.safetensors", "tokenizer.json", "config.json"} <= sums.keys()
    assert not shipped or shipped == sums.keys()
    for name, wanted in sums.items():
        assert hashlib.sha256((EMBEDDED / name).read_bytes()).hexdigest() == wanted, name
