"""A memory that is native to the model: beside the MLPs of the upper blocks, with slow projections of its own.

    write:  k = x' K,  v = x'' V,  the memory f_W learns k -> v by its own rule, from a slow W_0
    read:   y = MLP(x) + tanh(g + x G) * norm(f_W(x Q)) O

The rules are LaCT's (a SwiGLU memory, large chunks, momentum and Muon; arXiv 2505.23884, section 3) and those of
TTT-Linear and TTT-MLP (mini-batches; arXiv 2407.04620, sections 2.3 to 2.7). Both have their update in closed form, so
a document costs one forward pass and no gradient of the next-token loss; `core.prepare.outer` trains the slow weights
and the model by plain back-propagation through the updates.

It is a memory of documents, not a layer in their place: it is written along a plain pass and read by questions only, so
positions are left out. Other than there, the value is that of the *next* token (`ahead`; In-Place TTT, arXiv
2604.06169), since the place before an answer has to find it; projections start as the identity, in the model's own
terms; and each head has a gate, which starts a little open, as a closed one would stop every other gradient.

Shapes: U upper blocks, D documents of S segments of T tokens, N = S T, d width, n heads of f = d / n, h inner width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.evaluation.forms import lact, ttt
from core.learning.hooks import LowRank, upper_mlps, with_branches
from core.learning.segments import IGNORE
from core.learning.text_gradient import token_losses

DEPTHS = {"ttt-linear": 1, "ttt-mlp": 2}
BASES = {"lact": 1e-3, "ttt-linear": 1.0, "ttt-mlp": 0.1}  # the rates' scale, from the papers' code


@dataclass(frozen=True)
class NativeConfig:
    rule: str = "lact"  # lact | ttt-linear | ttt-mlp
    layers: int = 4  # U: how many upper blocks carry a memory
    heads: int = 4
    inner: int = 2  # h / f of LaCT's memory; TTT-MLP's is 4
    chunk: int = 128  # tokens of an update; TTT's mini-batch
    segment: int = 128  # T: tokens a segment, its heading included
    ahead: bool = True  # a token's key goes with the next token's value, not its own
    muon: bool = True  # LaCT
    gate: float = 0.1  # before the tanh


class Native(nn.Module):
    """The slow weights; float32. Takes the place of `core.learning.preparation.Prepared` in the outer loop."""

    def __init__(self, config: NativeConfig, model: Any) -> None:
        """Raises: ValueError, when TTT's mini-batches do not fill a segment."""
        super().__init__()
        if config.rule in DEPTHS and config.segment % config.chunk:
            raise ValueError("a segment must be whole mini-batches")
        d, n = model.config.hidden_size, config.heads
        self.config, self.width = config, d // n
        self.names = upper_mlps(model, config.layers)
        count = len(self.names)
        zeros = lambda *shape: nn.Parameter(torch.zeros(count, *shape))  # noqa: E731
        self.k, self.v, self.q, self.out = (nn.Parameter(torch.eye(d).repeat(count, 1, 1)) for _ in range(4))
        self.k_shift, self.q_shift = zeros(1, d), zeros(1, d)
        self.gate, self.open = nn.Parameter(torch.full((count, n), config.gate)), zeros(d, n)  # g, G
        first: Sequence[Tensor]
        if config.rule == "lact":
            first = lact.init_memory(count * n, self.width, config.inner * self.width)
            self.rate, self.momentum = zeros(d, 3 * n), zeros(d, n)
        else:
            first = list(chain.from_iterable(ttt.init_state(count * n, self.width, DEPTHS[config.rule])))
            self.rate, self.rate_shift = nn.Parameter(0.02 * torch.randn(count, n, d)), zeros(n)
            self.place = nn.Parameter(torch.zeros(config.chunk))
            norm = ttt.init_norm(count * n, self.width)
            self.gamma, self.beta = (nn.Parameter(t.unflatten(0, (count, 1, n))) for t in norm)  # [U, 1, n, 1, f]
        self.first = nn.ParameterList(t.unflatten(0, (count, 1, n)) for t in first)  # W_0: [U, 1, n, in, out]

    def describe(self) -> dict[str, Any]:
        return asdict(self.config)

    def rates(self) -> Tensor:
        """How far the gates are open, mean over heads. [U, 1]"""
        return self.gate.tanh().mean(1, keepdim=True)

    def low_rank(self) -> LowRank:
        """It has no reader."""
        return {}

    def merged(self, model: Any) -> Any:
        return model

    def learn(
        self, model: Any, inputs: Tensor, targets: Tensor, *, differentiable: bool = False
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """As `Prepared.learn`: [the next-token loss, nats], memories by name [D, U, n, ...]. They are not rounded.

        inputs, targets [D, S, T]. Documents share nothing but the slow weights.
        """
        with torch.set_grad_enabled(differentiable):
            with self._seen(model) as seen:
                hidden = model.model(input_ids=inputs.flatten(0, 1), use_cache=False).last_hidden_state
            goal = targets.flatten(0, 1)
            loss = token_losses(model, hidden, goal).sum() / (goal != IGNORE).sum().clamp_min(1)
            return [loss], self.write(torch.stack(seen), targets)

    def write(self, x: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """x [U, D S, T, d]: what goes into MLPs; pairs count where targets [D, S, T] do -> name -> [D, U, n, ...]"""
        c, documents = self.config, len(targets)
        after = x.roll(-1, 2).float().flatten(1, 2)  # [U, D N, d]; the last of a segment never counts
        before = x.float().flatten(1, 2) if c.ahead else after
        counts = (targets != IGNORE).flatten(1).float()[:, None]  # [D, 1, N]
        k = self._heads(before @ self.k + self.k_shift, documents)
        v = self._heads(after @ self.v, documents)
        if c.rule == "lact":
            k = lact.unit_length(k)
            lr = self._heads(lact.rates(before, self.rate, BASES[c.rule]), documents) * counts[..., None]
            momentum = self._heads((before @ self.momentum).sigmoid(), documents) * counts[..., None]
            first = lact.SwiGLU(*self.first)
            tensors = list(lact.write(first, k, v, lr, c.chunk, momentum=momentum, muon=c.muon))
        else:
            by_block = []
            for states, w, b in zip(before, self.rate, self.rate_shift, strict=True):
                by_block.append(ttt.rates(states, w, b, self.place, BASES[c.rule], self.width))
            token = torch.stack([r.token for r in by_block]).unflatten(-1, (documents, -1)).transpose(1, 2)
            rates = ttt.Rates(token * counts, by_block[0].factor)
            _, written = ttt.scan(ttt.start_memory(state_of([*self.first])), k, k, v, rates, self._norm(slice(None)))
            tensors = list(chain.from_iterable(written.start))
        return {str(i): t.transpose(0, 1) for i, t in enumerate(tensors)}

    def fast_weights_attached(
        self, model: Any, memories: Mapping[str, Tensor], rows: Sequence[int]
    ) -> AbstractContextManager[None]:
        """Within the context, the batch rows of each document read its memory; further rows, and all rows without
        memories, read none."""
        if not memories:
            return with_branches(model, [])
        tensors = [memories[str(i)] for i in range(len(memories))]
        if len(set(rows)) == 1:
            return with_branches(model, [(self._branches(tensors), sum(rows))])
        groups = []
        for document, count in enumerate(rows):
            of_document = [t[document : document + 1] for t in tensors]
            groups.append((self._branches(of_document), count))
        return with_branches(model, groups)

    def _branches(self, tensors: Sequence[Tensor]) -> dict[str, partial[Tensor]]:
        branches = {}
        for u, name in enumerate(self.names):
            branches[name] = partial(self._read, u, [t[:, u] for t in tensors])
        return branches

    def _read(self, u: int, tensors: Sequence[Tensor], x: Tensor) -> Tensor:
        """Block u, memories of D documents [D, n, ...], x [R, T, d] (R a multiple of D) -> [R, T, d]."""
        documents, flat = len(tensors[0]), x.float().flatten(0, 1)[None]  # [1, R T, d]
        q = self._heads(flat @ self.q[u] + self.q_shift[u], documents)[0]  # [D, n, R T / D, f]
        if self.config.rule == "lact":
            read = lact.apply(lact.SwiGLU(*tensors), lact.unit_length(q))
        else:
            read = ttt.read(state_of(tensors), q, self._norm(u))
        gate = self._heads((self.gate[u] + flat @ self.open[u]).tanh(), documents)[0]  # [D, n, R T / D, 1]
        heads = gate * F.rms_norm(read, read.shape[-1:], eps=1e-6)
        return (heads.transpose(1, 2).flatten(2) @ self.out[u]).view_as(x).to(x.dtype)

    def _heads(self, x: Tensor, documents: int) -> Tensor:
        """[U, D N, n m] -> [U, D, n, N, m]."""
        return x.unflatten(1, (documents, -1)).unflatten(-1, (self.config.heads, -1)).transpose(2, 3)

    def _norm(self, layers: int | slice) -> ttt.Norm:
        return ttt.Norm(self.gamma[layers], self.beta[layers])

    @contextmanager
    def _seen(self, model: Any) -> Iterator[list[Tensor]]:
        """Within the context, a forward pass leaves what goes into the MLPs."""
        seen: list[Tensor] = []
        with ExitStack() as stack:
            for name in self.names:
                hook = lambda _module, args: seen.append(args[0])  # noqa: E731
                stack.callback(model.get_submodule(name).register_forward_pre_hook(hook).remove)
            yield seen


def state_of(tensors: Sequence[Tensor]) -> ttt.State:
    """(w, b, w, b, ...) -> layers."""
    return tuple(ttt.Affine(w, b) for w, b in zip(tensors[::2], tensors[1::2], strict=True))
