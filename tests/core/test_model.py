"""Finding, loading and naming the base model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from core.errors import ModelNotFound
from core.evaluation.budget_training import save_policy
from core.learning.forms.budget import PolicyNet
from core.model import (
    SEARCH,
    SHIPPED,
    LoadedModel,
    check_sums,
    fingerprint,
    load_model,
    load_tokenizer,
    pick_device,
    pick_dtype,
    prepared_folder,
)
from core.search.parameters import RANKING

CPU = {"device": "cpu", "dtype": "float32"}


@pytest.fixture
def folder(tiny, tmp_path: Path) -> Path:
    for part in (tiny.model, tiny.tokenizer):
        part.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_loads_the_same_model_ready_to_answer(folder: Path, tiny) -> None:
    loaded = load_model(str(folder), **CPU)
    assert loaded.folder == folder and loaded.dtype == torch.float32 and not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight
    ids = torch.arange(6, 40)[None]
    assert torch.equal(loaded.model(input_ids=ids).logits, tiny.model(input_ids=ids).logits)
    assert torch.is_grad_enabled()


def break_nothing(folder: Path) -> str:
    return str(folder / "elsewhere")


def break_weights(folder: Path) -> str:
    path = folder / "model.safetensors"
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


def test_a_missing_tokenizer_is_the_same_error(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="give a folder"):
        load_tokenizer(str(tmp_path / "elsewhere"))


def test_a_tokenizer_loads_alone(folder: Path, tokenizer) -> None:
    text = "The harbour of Vessin opens at six."
    assert load_tokenizer(str(folder)).encode(text, add_special_tokens=False).ids == tokenizer.encode(text)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
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


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_one_changed_byte_in_a_pinned_file_is_refused(folder: Path, name: str) -> None:
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(folder.iterdir())]
    (folder / "SHA256SUMS").write_text("".join(lines))
    load_model(str(folder), **CPU)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ModelNotFound, match=f"{name} is missing or was changed"):
        load_model(str(folder), **CPU)


def test_the_shipped_preparation_is_that_of_its_sums() -> None:
    check_sums(SHIPPED)
    sums = {line.split()[1] for line in (SHIPPED / "SHA256SUMS").read_text().splitlines()}
    shipped = {path.name for path in SHIPPED.iterdir() if path.suffix in (".json", ".safetensors")}
    assert shipped == sums == {"prepared.json", "prepared.safetensors", SEARCH, RANKING}
