"""Muon's step (Jordan et al. 2024): a gradient with its singular values made equal, by Newton-Schulz iterations."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (  # of one iteration each
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)


def muon(gradient: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The direction of a step, sqrt(f) NS(g). [..., d, f] -> same; of root mean square one where g has full rank."""
    return orthogonalise(gradient, dtype=dtype) * math.sqrt(gradient.shape[-1])


def orthogonalise(g: Tensor, steps: int = len(COEFFICIENTS), dtype: torch.dtype | None = None) -> Tensor:
    """Newton-Schulz towards the nearest semi-orthogonal matrix (LaCT, arXiv 2505.23884, section 3.2).

    g [..., d, f] -> same, with singular values near 1. Computes in `dtype`: by default bfloat16 on CUDA, g's own
    elsewhere.
    """
    if g.shape[-2] > g.shape[-1]:  # the same, with smaller products
        return orthogonalise(g.transpose(-2, -1), steps, dtype).transpose(-2, -1)
    x = g.to(dtype or (torch.bfloat16 if g.is_cuda else g.dtype))
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for a, b, c in COEFFICIENTS[:steps]:
        m = x @ x.transpose(-2, -1)
        x = a * x + (b * m + c * m @ m) @ x
    return x.to(g.dtype)


def muon_dtype(model: Any) -> torch.dtype | None:
    """What `orthogonalise` computes in beside this model: bfloat16 where the model does, else its default."""
    return torch.bfloat16 if next(model.parameters()).dtype == torch.bfloat16 else None
