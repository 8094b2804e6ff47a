"""Train a search head, and a LoRA for it: each question has to find its passage among others'. The base model stays as
it is.

The loss is that of a softmax over the passages of a batch (InfoNCE), on the scores that `core.search.closeness`
computes, with the signs' gradient passed straight through (Bengio et al. 2013, arXiv 1308.3432); beside it the log-odds
of the right passage, and of the closest wrong one, are fitted, so that closeness says whether a question is about a
text at all.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from core.learning.hooks import with_low_rank
from core.learning.low_rank import factors_of_lower_blocks, new_factors
from core.model import LoadedModel
from core.prepare.material import Passage
from core.prepare.outer import Stopped
from core.prompts import format_for
from core.search.head import DEPTH_SHARE, SearchHead, states

SHORT = 60  # words; passages with fewer are merged


@dataclass(frozen=True)
class SearchConfig:
    steps: int = 1_700
    batch: int = 64  # questions
    others: int = 96  # passages beside those that are asked about
    rate: float = 1e-3  # of what is not the LoRA
    rank: int = 32  # of the LoRA on the blocks below, where it does not begin as the reader
    lora_rate: float = 4e-4
    drop: float = 0.1  # of the states' numbers
    odds: float = 0.3  # weight of the log-odds' loss
    longest: int = 256  # tokens of a passage
    seed: int = 0


def train_search(
    base: LoadedModel,
    passages: Sequence[Passage],
    config: SearchConfig | None = None,
    report: Callable[[int, float], None] = lambda step, loss: None,
    stop: Callable[[], bool] = lambda: False,
    reader: Mapping[str, Tensor] = MappingProxyType({}),
) -> SearchHead:
    """A head for this model, from passages with questions about them.

    Args:
        report: gets steps done and the loss.
        stop: asked before each step.
        reader: factors of a LoRA (core.learning.low_rank), with which that of the head begins.

    Raises: Stopped, when `stop` says so.
    """
    c = config or SearchConfig()
    rng = random.Random(c.seed)
    torch.manual_seed(c.seed)
    layer = round(DEPTH_SHARE * base.model.config.num_hidden_layers)
    passages = merge_short_passages(passages, rng)
    texts = encode_all(base, [passage.text for passage in passages], c.longest)
    asked: list[tuple[int, list[int]]] = []  # number of a passage, a question's tokens
    for n, passage in enumerate(passages):
        questions = dict.fromkeys(qa.question for qa in passage.questions)
        asked += [(n, ids) for ids in encode_all(base, list(questions), c.longest) if ids]
    read = partial(states_in_parts, base.model, layer=layer, pad_id=format_for(base.tokenizer).pad_id)
    factors = factors_of_lower_blocks(reader, layer) or new_factors(base.model.model.layers[:layer], c.rank)
    head = SearchHead(layer, base.model.config.hidden_size, factors=factors)
    centred_on = rng.sample(texts, min(512, len(texts)))
    with torch.no_grad():  # without the LoRA, as the head that ships was trained (LOG.md)
        sample = torch.cat(read(centred_on)).float()
    head.mean, head.scale = sample.mean(0), sample.std()
    nn.init.orthogonal_(head.project)
    head.to(base.device)
    sharpness = nn.Parameter(torch.tensor(2.0, device=base.device))  # logarithm of the softmax's scale
    groups = [
        {"params": [head.project, head.weigh], "lr": c.rate},
        {"params": [head.bias, head.odds, sharpness], "lr": 10 * c.rate},
        {"params": list(head.factors.values()), "lr": c.lora_rate},
    ]
    optimiser = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda n: min(1, (n + 1) / 50, 2 * (1 - n / c.steps)))
    for step in range(c.steps):
        if stop():
            raise Stopped
        drawn = rng.sample(asked, min(c.batch, len(asked)))
        others = rng.sample(range(len(passages)), min(c.others, len(passages)))
        these = sorted({n for n, _ in drawn}.union(others))
        right = torch.tensor([these.index(n) for n, _ in drawn], device=base.device)
        with with_low_rank(base.model, head.low_rank()):
            question_states, question_tokens = padded(read([ids for _, ids in drawn]), c.drop)
            section_states, section_tokens = padded(read([texts[n] for n in these]), c.drop)
        vectors, weights = head.question(question_states)
        weights = weights * question_tokens
        best = highest(vectors, straight_signs(head, section_states), section_tokens)
        close = (weights[..., None] * best).sum(1)  # [questions, passages]
        loss = F.cross_entropy(sharpness.exp() * close, right)
        odds = head.odds[0] * close / weights.sum(1, keepdim=True) + head.odds[1]
        yes = odds.gather(1, right[:, None])
        no = odds.scatter(1, right[:, None], -torch.inf).amax(1)
        loss = loss + c.odds * (F.softplus(-yes).mean() + F.softplus(no).mean())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 99:
            report(step + 1, float(loss.detach()))
    return head.cpu().eval().requires_grad_(False)


def encode_all(base: LoadedModel, texts: Sequence[str], longest: int) -> list[list[int]]:
    """Token ids of texts, each cut to `longest`."""
    if not texts:
        return []
    rows: list[list[int]] = base.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [ids[:longest] for ids in rows]


def states_in_parts(
    model: Any, texts: Sequence[Sequence[int]], *, layer: int, pad_id: int, size: int = 96
) -> list[Tensor]:
    """`states` of many texts, [T, d] of each, in batches of texts that are about as long."""
    order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
    read: dict[int, Tensor] = {}
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        read.update(zip(batch, states(model, [texts[n] for n in batch], layer, pad_id), strict=True))
    return [read[n] for n in range(len(texts))]


def padded(rows: Sequence[Tensor], drop: float) -> tuple[Tensor, Tensor]:
    """[T, d] of N texts, a share of the numbers dropped -> [N, longest T, d], and which tokens are theirs,
    [N, longest T]."""
    lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
    together = pad_sequence([row.float() for row in rows], batch_first=True)
    tokens = torch.arange(together.shape[1], device=lengths.device) < lengths[:, None]
    return F.dropout(together, drop), tokens


def straight_signs(head: SearchHead, states: Tensor) -> Tensor:
    """[N, T, d] -> signs of length 1, [N, T, D]; backward as if they had stayed numbers."""
    x = F.normalize(head.centred(states) @ head.project, dim=-1)
    signs = torch.where(x > 0, 1.0, -1.0) / x.shape[-1] ** 0.5
    return x + (signs - x).detach()


def highest(questions: Tensor, sections: Tensor, counts: Tensor) -> Tensor:
    """Of each token of B questions [B, T, D] the highest cosine in each of N sections [N, U, D] -> [B, T, N]."""
    on_gpu = questions.device.type == "cuda"
    with torch.autocast(questions.device.type, torch.bfloat16, enabled=on_gpu):
        cosines = questions.flatten(0, 1) @ sections.flatten(0, 1).T
    cosines = cosines.view(-1, *counts.shape).masked_fill(~counts, -1.0)
    return cosines.amax(-1).float().view(*questions.shape[:2], -1)


def merge_short_passages(passages: Sequence[Passage], rng: random.Random) -> list[Passage]:
    """Passages with questions; short ones four to one, as in a document."""
    short: list[Passage] = []
    long: list[Passage] = []
    for passage in passages:
        if passage.questions:
            group = short if len(passage.text.split()) < SHORT else long
            group.append(passage)
    rng.shuffle(short)
    for start in range(0, len(short), 4):
        group = short[start : start + 4]
        questions = list(chain.from_iterable(passage.questions for passage in group))
        long.append(Passage("people", "", " ".join(passage.text for passage in group), questions))
    return long
