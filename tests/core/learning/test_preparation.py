"""What ships and what was stored means the same in every version, to the bit. A new preparation changes the first two
digests on purpose; weights learned with the old one then belong to another fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from core.convert import EMBEDDED_FINGERPRINT
from core.engine import combined_fingerprint
from core.learning.fast_learner import reading_model
from core.learning.forms.fast_weights import load_form
from core.learning.packing import pack, unpack
from core.learning.preparation import is_shipped_form, load_prepared, read_config, read_reader, save_prepared
from core.model import SHIPPED, LoadedModel, preparation_digest

FINGERPRINT = "a0881b1833bfec372c718a666c0a919f241393786d96453c640a54f3e28f716a"
SLOW_WEIGHTS = "56ece59d8f0124c5d13139b92d0792593db6e7136cd2875ccf99c3d9349ab73f"
PACKED = "1d1faba4db168e437402a6251b7c54dd8ad0c7e70721509c09d23d2159e3c017"
UNPACKED = "fe8e9466a457c445f71c843030851bd51814c35af57da9ab891b67c3fd478a80"
WIDTH = 576  # of the embedded model


def digest(tensors: Mapping[str, Tensor]) -> str:
    whole = hashlib.sha256()
    for name in sorted(tensors):
        whole.update(name.encode())
        whole.update(tensors[name].detach().contiguous().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def test_the_fingerprint_of_what_ships_is_what_it_was() -> None:
    base = LoadedModel("embedded", None, None, torch.device("cpu"), torch.float32, EMBEDDED_FINGERPRINT, None)
    assert combined_fingerprint(base.fingerprint, preparation_digest(base)) == FINGERPRINT


def test_the_slow_weights_that_ship_are_what_they_were() -> None:
    assert is_shipped_form(SHIPPED)
    prepared = load_prepared(SHIPPED, WIDTH)
    assert digest(prepared.state_dict()) == SLOW_WEIGHTS
    without_reader = load_prepared(SHIPPED, WIDTH, with_reader=False).state_dict()
    assert without_reader.keys() == {n for n in prepared.state_dict() if not n.startswith("reader.")}
    assert all(torch.equal(t, load_form(SHIPPED, WIDTH).state_dict()[n]) for n, t in without_reader.items())


def test_stored_weights_mean_what_they_meant() -> None:
    weights = torch.arange(-384, 384).view(4, 192).float() * torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    packed = pack({"m": weights})
    assert (digest(packed), digest(unpack(packed, 192))) == (PACKED, UNPACKED)


def test_what_is_saved_again_is_the_same_file(tmp_path) -> None:
    save_prepared(load_prepared(SHIPPED, WIDTH), tmp_path)
    assert read_config(tmp_path) == read_config(SHIPPED) and is_shipped_form(tmp_path)
    again, first = read_reader(tmp_path), read_reader(SHIPPED)
    assert again.keys() == first.keys()
    for name, (a, b) in first.items():
        torch.testing.assert_close(again[name], (a, b), rtol=1e-3, atol=1e-6)


def test_a_model_without_a_reader_is_its_own_reading_model(tiny) -> None:
    assert reading_model(tiny) is tiny
