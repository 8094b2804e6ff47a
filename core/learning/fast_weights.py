"""Fast weights: a document becomes a delta on the down-projections of the upper MLPs.

    W_h <- W_h - eta * g / rms(g),      g = d(next-token loss) / d(W_h),      W_h = 0 at the start

a few times over the whole text ("TTT Playground", section 1; large chunks as in LaCT, arXiv 2505.23884). The rates eta
(one a step and layer), the weight of each token in the loss, and the base model itself are trained by the outer loop
(`core.prepare.outer`) through exactly this code, so that the deltas answer questions.

The loop's other forms are fields of FastWeightsConfig: momentum, a low rank, segment after segment, one rate for all.

Shapes: D documents (or sections), S segments each, T tokens a segment, d width, f MLP width, U upper layers, r rank.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core.learning.packing import SCALE, as_stored

IGNORE = -100


@dataclass(frozen=True)
class FastWeightsConfig:
    layers: int = 7  # U: how many upper layers carry a delta
    skip: int = 0  # so many layers above them carry none
    stride: int = 1  # from one layer with a delta to the next: 2 leaves out every other layer
    steps: int = 2  # inner steps over the whole text
    segment: int = 128  # T: tokens a segment, its heading included
    section: int = 512  # tokens of a document that share a delta: what the outer loop practised
    rule: str = "rms"  # rms | muon | sgd: see `direction`
    rate: float = 4e-3  # where the learned rates start
    token_weights: bool = True  # learned weight of each token in the inner loss (CaMeLS; PERK)
    start: bool = False  # a learned delta to start from, for base models that stay frozen
    reader: int = 0  # rank of the reader, a LoRA on every projection shared by all documents; 0: none
    momentum: float = 0.0  # a step goes along the direction of momentum * (sum before) + gradient (Muon; LaCT, 3.2)
    rank: int = 0  # r of a delta P M with M alone fast: see `Prepared`; 0: full
    order: str = "whole"  # whole: a step reads the document; chunks: one segment, `steps` passes (LaCT, section 3.1)
    shared_rate: bool = False  # one learned rate for all steps and layers

    @property
    def places(self) -> range:
        """The layers that carry a delta, counted from the top: -1 is the uppermost."""
        lowest = -self.skip - 1 - (self.layers - 1) * self.stride
        return range(lowest, -self.skip, self.stride)


class Prepared(nn.Module):
    """What the outer loop learns about learning: rates [steps, U], the token weighting (d -> 64 -> 1) and, for frozen
    base models, where the delta starts and the reader: a LoRA that is on while a document is learned and while it is
    asked about.

    With a rank, a layer's delta is P M: the basis P [d, r] is slow, orthonormal at the start, and only M [r, f] is
    fast, from zero. So a gradient for M is that of the delta seen through P, the same rules apply to it, no factor has
    to leave a saddle at zero (as LoRA's two would), and the outer loop chooses into which directions is written.
    """

    def __init__(self, config: FastWeightsConfig, width: int, model: nn.Module | None = None) -> None:
        """`model` gives the shapes of `start` and `reader`; without it they stay empty until they are loaded."""
        super().__init__()
        self.config = config
        self.start = nn.ParameterList()  # U tensors [d, f]
        self.reader = nn.ParameterDict()  # "MODULE/a" [rank, in] and "MODULE/b" [out, rank]; dots are slashes
        if model is not None and config.start:
            self.start.extend(
                torch.zeros_like(m.weight, dtype=torch.float32, device="cpu") for m in self.modules_of(model).values()
            )
        if model is not None and config.reader:
            for name, m in model.model.layers.named_modules(prefix="model.layers"):
                if isinstance(m, nn.Linear):
                    a, b = torch.empty(config.reader, m.in_features), torch.zeros(m.out_features, config.reader)
                    nn.init.kaiming_uniform_(a, a=math.sqrt(5))
                    self.reader |= {f"{name}/a".replace(".", "/"): a, f"{name}/b".replace(".", "/"): b}
        shape = (1, 1) if config.shared_rate else (config.steps, config.layers)
        self.log_rates = nn.Parameter(torch.full(shape, math.log(config.rate)))
        self.weigh = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, 1)) if config.token_weights else None
        if self.weigh is not None:
            nn.init.zeros_(self.weigh[2].weight)
            nn.init.zeros_(self.weigh[2].bias)
        self.basis = nn.ParameterList()  # U tensors [d, r]
        if config.rank:
            self.basis.extend(nn.init.orthogonal_(torch.empty(width, config.rank)) for _ in range(config.layers))

    def modules_of(self, model: nn.Module) -> dict[str, nn.Linear]:
        """The modules that carry a delta, by their names in the model."""
        return target_modules(model, self.config.layers, self.config.skip, self.config.stride)

    def rates(self) -> Tensor:
        """[steps, U]"""
        return self.log_rates.exp().expand(self.config.steps, self.config.layers)

    def token_weights(self, hidden: Tensor) -> Tensor:
        """[..., d] -> [...]; all ones before training (softplus(0) = ln 2)."""
        if self.weigh is None:
            return hidden.new_ones(hidden.shape[:-1], dtype=torch.float32)
        return F.softplus(self.weigh(hidden.float()).squeeze(-1)) / math.log(2)

    def low_rank(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The reader by module: (a [rank, in], b [out, rank]), y += b a x."""
        names = [key[:-2] for key in self.reader if key.endswith("/a")]
        return {n.replace("/", "."): (self.reader[f"{n}/a"], self.reader[f"{n}/b"]) for n in names}

    def merged(self, model: nn.Module) -> nn.Module:
        """A second model with the reader in its weights, in the model's dtype; all else is shared with the first. The
        model itself where there is no reader."""
        if not self.reader:
            return model
        shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
        copied = copy.deepcopy(model, shared)
        for name, (a, b) in self.low_rank().items():
            linear = copied.get_submodule(name)
            weight = linear.weight
            whole = weight.float() + b.float().to(weight.device) @ a.float().to(weight.device)
            linear.weight = nn.Parameter(whole.to(weight.dtype), requires_grad=False)
        return copied

    def describe(self) -> dict[str, Any]:
        return asdict(self.config)

    def learn(
        self, model: nn.Module, inputs: Tensor, targets: Tensor, *, differentiable: bool = False, two_bits: bool = True
    ) -> tuple[list[float | Tensor], dict[str, Tensor]]:
        """The loss before each step; by name what was learned, [D, ...], with `two_bits` as it is stored."""
        losses: list[float | Tensor] = []
        deltas: dict[str, Tensor] = {}
        for loss, found in inner_steps(model, inputs, targets, self, differentiable=differentiable):
            losses.append(loss)
            deltas = found
        return losses, as_stored(deltas, list(self.start)) if two_bits else deltas

    @contextmanager
    def reading(self, model: nn.Module, deltas: Mapping[str, Tensor], rows: Sequence[int]) -> Iterator[None]:
        """Within the context, each document's rows of a batch (so many, in order) have its deltas."""
        with attached(self.modules_of(model), deltas, rows):
            yield


def target_modules(model: nn.Module, layers: int, skip: int = 0, stride: int = 1) -> dict[str, nn.Linear]:
    """The down-projections [d, f] of `layers` blocks of a Llama-like model, by their names in it: of the upper ones,
    but for the `skip` uppermost, or of one in `stride` of them. A small model has fewer."""
    blocks = model.model.layers
    uppermost = len(blocks) - skip - 1
    chosen = [i for i in range(uppermost - (layers - 1) * stride, uppermost + 1, stride) if i >= 0]
    return {f"model.layers.{i}.mlp.down_proj": blocks[i].mlp.down_proj for i in chosen}


def lowest_block(modules: Mapping[str, nn.Module]) -> int:
    """The number of the lowest block that carries a delta: the blocks below it run once a document."""
    return min(int(name.split(".")[2]) for name in modules)


def segments(
    ids: Sequence[int], heading: Sequence[int], length: int, pad: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Cut a text into segments of at most `length` tokens, each after the heading; even lengths, nothing lost.

    Returns: inputs and targets, S lists of `length` tokens; a target is IGNORE on the heading and on padding.
    """
    heading = list(heading)[: length // 2]
    room = length - len(heading)
    count = max(1, math.ceil(len(ids) / room))
    each = math.ceil(len(ids) / count) if ids else 0
    inputs, targets = [], []
    for start in range(0, len(ids), max(each, 1)):
        part = list(ids[start : start + each])
        row = heading + part
        inputs.append(row + [pad] * (length - len(row)))
        goal = [IGNORE] * len(heading) + part
        targets.append((goal[1:] + [IGNORE] * length)[:length])  # position i predicts token i + 1
    return inputs, targets


def orthogonalise(g: Tensor, steps: int = 5, dtype: torch.dtype | None = None) -> Tensor:
    """Newton-Schulz towards the nearest semi-orthogonal matrix (Muon; LaCT section 3.2). g: [..., d, f] -> same, with
    singular values near 1. Runs in `dtype`: by default bfloat16 on CUDA, g's own elsewhere."""
    if g.shape[-2] > g.shape[-1]:  # the same, with the smaller products
        return orthogonalise(g.transpose(-2, -1), steps, dtype).transpose(-2, -1)
    x = g.to(dtype or (torch.bfloat16 if g.is_cuda else g.dtype))
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for a, b, c in (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    )[:steps]:
        m = x @ x.transpose(-2, -1)
        x = a * x + (b * m + c * m @ m) @ x
    return x.to(g.dtype)


def direction(g: Tensor, rule: str, dtype: torch.dtype | None = None) -> Tensor:
    """The normalised step for a gradient g [D, d, f]; `dtype` is that of muon's products.

    rms: unit root mean square over a matrix. muon: orthogonalised, scaled to a comparable size. sgd: as it is.
    """
    if rule == "sgd":
        return g
    if rule == "muon":
        return orthogonalise(g, dtype=dtype) * math.sqrt(g.shape[-1])
    return g * torch.rsqrt(g.square().mean((-2, -1), keepdim=True) + 1e-20)


@contextmanager
def with_reader(model: nn.Module, prepared: Prepared) -> Iterator[None]:
    """Within the context the reader is on, unmerged, so that it can be trained."""

    def hook(a: Tensor, b: Tensor):
        return lambda _module, args, y: y + args[0] @ a.to(y.dtype).T @ b.to(y.dtype).T

    with ExitStack() as stack:
        for name, (a, b) in prepared.low_rank().items():
            stack.callback(model.get_submodule(name).register_forward_hook(hook(a, b)).remove)
        yield


@contextmanager
def attached(modules: Mapping[str, nn.Linear], deltas: Mapping[str, Tensor], rows: Sequence[int]) -> Iterator[None]:
    """Within the context, y = W x + delta x on the rows of each document.

    deltas: name -> [D, d, f]; rows: number of batch rows of each of the D documents, in order; further rows keep W.
    """

    def hook(delta: Tensor):
        def add(_module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
            x = args[0]
            w = delta.to(x.dtype).transpose(1, 2)  # [D, f, d]
            if len(set(rows)) == 1 and sum(rows) == x.shape[0]:
                more = torch.bmm(x.reshape(len(rows), -1, x.shape[-1]), w)
                return y + more.view_as(y)
            parts, at = [], 0
            for i, n in enumerate(rows):
                parts.append(y[at : at + n] + x[at : at + n] @ w[i])
                at += n
            return torch.cat([*parts, y[at:]])

        return add

    with ExitStack() as stack:
        for name, module in modules.items():
            if name in deltas:
                stack.callback(module.register_forward_hook(hook(deltas[name])).remove)
        yield


@contextmanager
def only(model: nn.Module, start: int, stop: int, norm: bool) -> Iterator[nn.Module]:
    """The decoder with only blocks start..stop, so that the lower ones need to run once, not once a step."""
    decoder = model.model
    layers, final = decoder.layers, decoder.norm
    config, count, kinds = (
        decoder.config,
        decoder.config.num_hidden_layers,
        getattr(decoder.config, "layer_types", None),
    )
    decoder.layers, config.num_hidden_layers = layers[start:stop], stop - start
    if kinds:  # of attention, by layer: sliding or full
        config.layer_types = kinds[start:stop]
    if not norm:
        decoder.norm = nn.Identity()
    try:
        yield decoder
    finally:
        decoder.layers, decoder.norm, config.num_hidden_layers = layers, final, count
        if kinds:
            config.layer_types = kinds


def token_losses(model: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    """Next-token cross-entropy, nats. hidden [R, T, d], targets [R, T] (IGNORE gives 0) -> [R, T], float32. Only what
    counts meets the vocabulary, by far the largest product."""
    here = targets != IGNORE
    losses = F.cross_entropy(model.lm_head(hidden[here]).float(), targets[here], reduction="none")
    return losses.new_zeros(targets.shape).masked_scatter(here, losses)


AT_ONCE = 512  # tokens whose logits are kept, where no graph is needed


def pull_of_loss(
    model: nn.Module, prepared: Prepared, hidden: Tensor, targets: Tensor, share: Tensor
) -> tuple[Tensor, Tensor]:
    """The weighted inner loss's gradient at hidden [R, T, d], and the plain losses [R, T], nats, a few tokens at a
    time: the logits of a whole batch would be the largest tensor by far. share [R]: one over the tokens of a row's
    document."""
    here = (targets != IGNORE).nonzero(as_tuple=True)
    inside, goal, weight = hidden.detach()[here], targets[here], share[here[0]]
    gradients, losses = [], []
    for h, t, w in zip(inside.split(AT_ONCE), goal.split(AT_ONCE), weight.split(AT_ONCE), strict=True):
        with torch.enable_grad():
            h = h.requires_grad_()
            each = F.cross_entropy(model.lm_head(h).float(), t, reduction="none")
            gradients += torch.autograd.grad((each * prepared.token_weights(h) * w).sum(), h)
        losses.append(each.detach())
    pull, plain = torch.zeros_like(hidden), hidden.new_zeros(targets.shape, dtype=torch.float32)
    if losses:
        pull[here], plain[here] = torch.cat(gradients), torch.cat(losses)
    return pull, plain


def inner_steps(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    prepared: Prepared,
    *,
    differentiable: bool = False,
    micro_rows: int | None = None,
    measure: bool = False,
) -> Iterator[tuple[float | Tensor, dict[str, Tensor]]]:
    """Yield (loss before the step, deltas after it), `config.steps` times.

    inputs, targets: [D, S, T]. Deltas: name -> [D, d, f], float32. With `differentiable` the deltas (and the loss of
    the first step, a tensor) carry the graph to the model, the rates and the token weights: second order, for the outer
    loop. `micro_rows` bounds the rows of one forward pass, accumulating the same gradient in less memory. `measure`
    yields once more at the end: the loss after the last step, nothing changed.

    In chunks, a step is a pass of S moves, each by the gradient of one segment at the deltas that the segments before
    it left; its loss is what the segments cost as they came. Raises: ValueError (micro_rows for several documents).
    """
    documents, per_document, _ = inputs.shape
    config = prepared.config
    modules = prepared.modules_of(model)
    cut = lowest_block(modules)
    total = documents * per_document
    rows_at_once = total if differentiable or not micro_rows else max(1, min(micro_rows, total))
    if rows_at_once < total and documents > 1:
        raise ValueError("micro_rows needs one document at a time")
    counted = (targets != IGNORE).flatten(1).sum(1).clamp_min(1)  # tokens of each document
    compute = torch.bfloat16 if next(model.parameters()).dtype == torch.bfloat16 else None  # of muon's products
    chunk = 1 if config.order == "chunks" else per_document

    moves: list[list[tuple[Tensor, Tensor]]] = []  # of a pass; each the parts of a chunk: below the deltas, targets
    with torch.set_grad_enabled(differentiable), only(model, 0, cut, norm=False) as lower:
        for some in zip(inputs.split(chunk, 1), targets.split(chunk, 1), strict=True):
            parts = zip(*(t.flatten(0, 1).split(rows_at_once) for t in some), strict=True)
            moves.append([(lower(input_ids=ids, use_cache=False).last_hidden_state, goal) for ids, goal in parts])
    start = list(prepared.start) or [m.weight.new_zeros(m.weight.shape, dtype=torch.float32) for m in modules.values()]
    if config.rank:
        fast = [first.new_zeros(documents, config.rank, first.shape[1]) for first in start]  # M
    else:
        fast = [first.expand(documents, -1, -1) for first in start]
    sums: list[Tensor] | None = None  # of the gradients, with momentum

    def whole(fast: Sequence[Tensor]) -> dict[str, Tensor]:
        if config.rank:
            fast = [first + p.float() @ m for first, p, m in zip(start, prepared.basis, fast, strict=False)]
        return dict(zip(modules, fast, strict=True))

    for step in range(config.steps + measure):
        last = step == config.steps
        reported: float | Tensor = 0.0
        for move in moves:
            leaves = [m if m.grad_fn is not None else m.detach().requires_grad_(not last) for m in fast]
            grads: list[Tensor] | None = None
            for part, goal in move:
                with torch.set_grad_enabled(not last):
                    deltas = whole(leaves)
                    with (
                        attached(modules, deltas, [len(part) // documents] * documents),
                        only(model, cut, len(model.model.layers), norm=True) as upper,
                        second_order() if differentiable else nullcontext(),
                    ):
                        hidden = upper(inputs_embeds=part, use_cache=False).last_hidden_state
                if differentiable:
                    each = token_losses(model, hidden, goal)
                    reported = reported + each.sum() / counted.sum()
                    if not last:
                        weight = prepared.token_weights(hidden)  # part of the gradient
                        loss = ((each * weight).view(documents, -1).sum(1) / counted).sum()
                        more = torch.autograd.grad(loss, leaves, create_graph=True)
                elif last:
                    with torch.no_grad():
                        reported += float(token_losses(model, hidden, goal).sum() / counted.sum())
                else:
                    share = (1.0 / counted).repeat_interleave(len(part) // documents)
                    pull, each = pull_of_loss(model, prepared, hidden, goal, share)
                    reported += float(each.sum() / counted.sum())
                    more = torch.autograd.grad(hidden, leaves, pull)
                if last:
                    continue
                grads = list(more) if grads is None else [a + b for a, b in zip(grads, more, strict=True)]
            if grads is None:
                continue
            if sums:
                grads = [config.momentum * before + g for before, g in zip(sums, grads, strict=True)]
            rates = prepared.rates()[step]
            moved = [
                leaf - rates[i] * direction(g, config.rule, compute)
                for i, (leaf, g) in enumerate(zip(leaves, grads, strict=True))
            ]
            if chunk < per_document:  # a document that has ended stays as it is, its momentum too
                goes_on = (move[0][1] != IGNORE).any(1)[:, None, None]
                moved = [torch.where(goes_on, m, leaf) for m, leaf in zip(moved, leaves, strict=True)]
                grads = [torch.where(goes_on, g, before) for g, before in zip(grads, sums or grads, strict=True)]
            sums = grads if config.momentum else None
            fast = moved if differentiable else [m.detach() for m in moved]
        found = whole(fast)
        yield reported, found if differentiable else {name: delta.detach() for name, delta in found.items()}


def second_order() -> Any:
    """Attention that can be differentiated twice: the fused kernels cannot."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.MATH)


def save_prepared(prepared: Prepared, out: Path) -> None:
    """`prepared.safetensors` and `prepared.json` (the inner loop's configuration). The reader is kept as int8 with a
    float16 scale a row."""
    out.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for name, value in prepared.state_dict().items():
        value = value.detach().cpu().contiguous()
        if name.startswith("reader."):
            scale = (value.float().abs().amax(1) / 127).clamp_min(1e-8).half()
            tensors[name] = (value.float() / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
            tensors[name + SCALE] = scale
        else:
            tensors[name] = value
    save_file(tensors, out / "prepared.safetensors")
    (out / "prepared.json").write_text(json.dumps(prepared.describe(), indent=1) + "\n")


def read_config(folder: Path) -> FastWeightsConfig:
    return FastWeightsConfig(**json.loads((folder / "prepared.json").read_text()))


def load_prepared(folder: Path, width: int, *, with_reader: bool = True) -> Prepared:
    """A preparation; without its reader where that is merged into the model already: it is nearly all of the memory."""
    prepared = Prepared(read_config(folder), width)
    kept = load_file(folder / "prepared.safetensors")
    if not with_reader:
        kept = {name: tensor for name, tensor in kept.items() if not name.startswith("reader.")}
    scales = {name.removesuffix(SCALE): kept.pop(name) for name in list(kept) if name.endswith(SCALE)}
    state = {k: v.float() * scales[k].float()[:, None] if k in scales else v for k, v in kept.items()}
    prepared.start.extend(
        v for k, v in sorted(state.items(), key=lambda kv: (len(kv[0]), kv[0])) if k.startswith("start.")
    )
    prepared.reader |= {k.partition(".")[2]: v for k, v in state.items() if k.startswith("reader.")}
    prepared.load_state_dict(state)
    return prepared.eval().requires_grad_(False)
