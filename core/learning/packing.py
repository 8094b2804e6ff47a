"""Deltas in two bits: every weight is one of four levels, with one scale for each 64 weights of a row.

    q = clamp(floor(w / s), -2, 1),    w ~ 1.135 (q + 1/2) s,    s = 0.9957 rms(w)

s is the best uniform step for four levels of a Gaussian (Max 1960); 1.135 keeps the projection of the delta on itself,
which rounding shortens. 2.25 bits a weight; the outer loop trains through it, and the answers stay (evaluation/LOG.md).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

GROUP = 64
RMS_STEP = 0.9957  # of the root mean square
PROJECTION_GAIN = 1.135
SCALE = ".s"  # NAME.s holds the scales of NAME


def _levels(delta: Tensor) -> tuple[Tensor, Tensor]:
    """[..., d, f] -> levels -2..1 [..., d, groups, 64] and their unit [..., d, groups, 1]; f is padded with zeros."""
    groups = F.pad(delta, (0, -delta.shape[-1] % GROUP)).unflatten(-1, (-1, GROUP))
    step = RMS_STEP * groups.square().mean(-1, keepdim=True).sqrt()
    return (groups / step.clamp_min(1e-12)).floor().clamp(-2, 1), (PROJECTION_GAIN * step).half().float()


def rounded(delta: Tensor) -> Tensor:
    """What `unpack(pack(delta))` gives, with the gradient of the identity (straight through). [..., d, f], float32."""
    with torch.no_grad():
        q, scale = _levels(delta)
        near = ((q + 0.5) * scale).flatten(-2)[..., : delta.shape[-1]]
    return delta + (near - delta).detach()


def pack(deltas: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """name -> [d, f] becomes name -> uint8 [d, groups * 16], four weights a byte, and name.s -> float16 [d, groups]."""
    packed = {}
    for name, delta in deltas.items():
        q, scale = _levels(delta.float())
        four = (q + 2).to(torch.uint8).flatten(-2).unflatten(-1, (-1, 4))
        shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=delta.device)
        packed[name] = (four << shifts).sum(-1, dtype=torch.uint8).cpu()
        packed[name + SCALE] = scale.squeeze(-1).half().cpu()
    return packed


def unpack(packed: Mapping[str, Tensor], width: int) -> dict[str, Tensor]:
    """The deltas [d, width] of `pack`, float32, on the device of what is packed."""
    deltas = {}
    for name, bits in packed.items():
        if not name.endswith(SCALE):
            four = torch.stack([bits & 3, bits >> 2 & 3, bits >> 4 & 3, bits >> 6], -1)
            levels = four.flatten(-2).unflatten(-1, (-1, GROUP)).float().sub_(1.5)
            deltas[name] = levels.mul_(packed[name + SCALE].float()[..., None]).flatten(-2)[..., :width]
    return deltas
