"""Learning within a memory limit: a batch that fits, activations computed again where it would not, and a hard end on a
GPU, where memory that runs out halves the batch (`core.learning.adapters.adapter`, `core.learning.fast_learner`)."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MIN_BATCH_TOKENS = 512  # tokens of a batch: below, keeping activations is given up instead


def fit_batch(model: Any, batch_tokens: int, memory_mb: int | None, recompute: bool = False) -> tuple[int, bool]:
    """How many tokens to learn at once, and whether to compute activations again on the way back.

    An estimate: halved until a forward and backward pass fits beside the model.
    """
    if memory_mb is None:
        return batch_tokens, recompute
    room = memory_mb * 2**20 - model_bytes(model)
    size = next(model.parameters()).element_size()
    for again in [True] if recompute else [False, True]:
        tokens = batch_tokens
        while tokens > MIN_BATCH_TOKENS and tokens * bytes_a_token(model.config, size, again) > room:
            tokens //= 2
        if tokens * bytes_a_token(model.config, size, again) <= room:
            return tokens, again
    return min(batch_tokens, MIN_BATCH_TOKENS), True


def model_bytes(*models: Any) -> int:
    """Of models that may share weights, which count once."""
    weights = {id(p): p for p in chain.from_iterable(model.parameters() for model in models)}
    return sum(p.numel() * p.element_size() for p in weights.values())


def bytes_a_token(config: Any, size: int, recompute: bool) -> int:
    """Of one forward and backward pass through a Llama-like model: what each block keeps (about ten times its width and
    four times its MLP's), and the logits, which are float32 and kept twice."""
    block = size * (10 * config.hidden_size + 4 * config.intermediate_size)
    blocks = config.num_hidden_layers
    kept = block + blocks * size * config.hidden_size if recompute else blocks * block
    return kept + 2 * 4 * config.vocab_size


def max_sections(model: Any, layers: int, tokens: int, memory_mb: int | None) -> int | None:
    """How many sections of so many tokens (padding included) fast weights on the upper `layers` blocks can be learned
    from at once; at least one, None without a limit.

    An estimate: what these blocks and the logits keep, and the deltas of each section in float32, four times: they
    themselves, their gradient, the step, what is attached.
    """
    if memory_mb is None:
        return None
    config, size = model.config, next(model.parameters()).element_size()
    deltas = 4 * 4 * layers * config.hidden_size * config.intermediate_size
    block = size * (10 * config.hidden_size + 4 * config.intermediate_size)
    room = memory_mb * 2**20 - model_bytes(model)
    return max(1, room // (tokens * (layers * block + 4 * 4 * config.vocab_size) + deltas))


def limit_memory(device: torch.device, memory_mb: int | None) -> None:
    """On a GPU, allocating more than this fails, as if there was no more; None lifts an earlier limit."""
    import torch

    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        share = 1.0 if memory_mb is None else min(1.0, memory_mb * 2**20 / total)
        torch.cuda.set_per_process_memory_fraction(share, device.index)  # a device without a number is refused
