"""Deltas in two bits: every weight is one of four levels, with one scale for each row.

    q = clamp(floor(w / s), -2, 1),    w ~ 1.135 (q + 1/2) s,    s = 0.9957 rms(w)

s is the best uniform step for four levels of a Gaussian (Max 1960); 1.135 keeps the projection of the delta on itself,
which rounding shortens. 2.01 bits a weight; the outer loop trains through it, and the answers stay (evaluation/LOG.md).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

RMS_STEP = 0.9957  # of the root mean square
PROJECTION_GAIN = 1.135
SCALE = ".s"  # NAME.s holds the scales of NAME


def _levels(delta: Tensor) -> tuple[Tensor, Tensor]:
    """[..., d, f] -> levels -2..1 [..., d, f] and their unit [..., d, 1]."""
    step = RMS_STEP * delta.square().mean(-1, keepdim=True).sqrt()
    return (delta / step.clamp_min(1e-12)).floor().clamp(-2, 1), (PROJECTION_GAIN * step).half().float()


def rounded(delta: Tensor) -> Tensor:
    """What `unpack(pack(delta))` gives, with the gradient of the identity (straight through). [..., d, f], float32."""
    with torch.no_grad():
        q, scale = _levels(delta)
        near = (q + 0.5) * scale
    return delta + (near - delta).detach()


def pack(deltas: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """name -> [d, f] becomes name -> uint8 [d, f / 4], four weights a byte, and name.s -> float16 [d, 1]."""
    packed = {}
    for name, delta in deltas.items():
        q, scale = _levels(delta.float())
        four = F.pad((q + 2).to(torch.uint8), (0, -delta.shape[-1] % 4)).unflatten(-1, (-1, 4))
        shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=delta.device)
        packed[name] = (four << shifts).sum(-1, dtype=torch.uint8).cpu()
        packed[name + SCALE] = scale.half().cpu()
    return packed


def unpack(packed: Mapping[str, Tensor], width: int) -> dict[str, Tensor]:
    """The deltas [d, width] of `pack`, float32, on the device of what is packed. Until 2026-11-30 a row had a scale for
    each 64 of its weights; these are read, too."""
    deltas = {}
    for name, bits in packed.items():
        if not name.endswith(SCALE):
            four = torch.stack([bits & 3, bits >> 2 & 3, bits >> 4 & 3, bits >> 6], -1).flatten(-2)
            scales = packed[name + SCALE].float()
            levels = four.unflatten(-1, (scales.shape[-1], -1)).float().sub_(1.5)
            deltas[name] = levels.mul_(scales[..., None]).flatten(-2)[..., :width]
    return deltas
