"""What tests of learning share."""

from __future__ import annotations

import pytest
import torch

from core.learning.segments import IGNORE


@pytest.fixture
def model(tiny):
    return tiny.model


@pytest.fixture
def texts() -> tuple[torch.Tensor, torch.Tensor]:
    """Two documents of three segments of 12 tokens; the second document's last segment is empty."""
    inputs = torch.randint(6, 800, (2, 3, 12), generator=torch.Generator().manual_seed(1))
    targets = torch.cat([inputs[:, :, 1:], torch.full((2, 3, 1), IGNORE)], 2)
    targets[1, 2] = IGNORE
    return inputs, targets
