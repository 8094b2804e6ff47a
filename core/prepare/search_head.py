"""Train a search head: each question has to find its passage among others'. The base model stays as it is.

The loss is that of a softmax over the passages of a batch (InfoNCE), on the scores that `core.search.closeness`
computes, with the signs' gradient passed straight through (Bengio et al. 2013, arXiv 1308.3432); beside it the log-odds
of the right passage, and of the closest wrong one, are fitted, so that closeness says whether a question is about a
text at all.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.model import LoadedModel
from core.prepare.material import Passage
from core.prompts import format_for
from core.search.head import DEPTH_SHARE, SearchHead, states

SHORT = 60  # words; passages with fewer are merged


@dataclass(frozen=True)
class SearchConfig:
    steps: int = 4_000
    batch: int = 64  # questions
    others: int = 192  # passages beside those that are asked about
    rate: float = 1e-3
    drop: float = 0.1  # of the states' numbers
    odds: float = 0.3  # weight of the log-odds' loss
    longest: int = 256  # tokens of a passage
    seed: int = 0


class Texts:
    """States of many texts, computed once: one text after the other, [all tokens, d] in half precision."""

    def __init__(self, base: LoadedModel, texts: Sequence[Sequence[int]], layer: int, pad_id: int) -> None:
        lengths = list(map(len, texts))
        ends = list(accumulate(lengths))
        self.lengths = torch.tensor(lengths, device=base.device)
        self.starts = torch.tensor(ends, device=base.device) - self.lengths
        shape = ends[-1], base.model.config.hidden_size
        self.states = torch.empty(shape, dtype=torch.float16, device=base.device)
        order = sorted(range(len(texts)), key=lengths.__getitem__)
        for first in range(0, len(order), 64):
            batch = order[first : first + 64]
            for i, text_states in zip(batch, states(base.model, [texts[i] for i in batch], layer, pad_id), strict=True):
                self.states[ends[i] - lengths[i] : ends[i]] = text_states.half()

    def __getitem__(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Of these texts: states [N, T, d], and which of the T tokens are theirs [N, T]."""
        lengths = self.lengths[numbers]
        places = torch.arange(int(lengths.max()), device=lengths.device)
        tokens = (self.starts[numbers, None] + places).clamp_max(len(self.states) - 1)
        return self.states[tokens], places < lengths[:, None]


def train_search(
    base: LoadedModel,
    passages: Sequence[Passage],
    config: SearchConfig | None = None,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> SearchHead:
    """A head for this model, from passages with questions about them. report: gets steps done and the loss."""
    c = config or SearchConfig()
    pad_id = format_for(base.tokenizer).pad_id
    encode = lambda text: base.tokenizer.encode(text, add_special_tokens=False)[: c.longest]  # noqa: E731
    torch.manual_seed(c.seed)
    passages = merge_short_passages(passages, random.Random(c.seed))
    asked: list[tuple[int, str]] = []  # number of a passage, question
    for n, passage in enumerate(passages):
        questions_about = dict.fromkeys(qa.question for qa in passage.questions)
        asked += [(n, question) for question in questions_about if encode(question)]
    head = SearchHead(round(DEPTH_SHARE * base.model.config.num_hidden_layers), base.model.config.hidden_size)
    sections = Texts(base, [encode(p.text) for p in passages], head.layer, pad_id)
    questions = Texts(base, [encode(q) for _, q in asked], head.layer, pad_id)
    passage_of = torch.tensor([n for n, _ in asked], device=base.device)
    sample = sections.states[: int(sections.lengths[:512].sum())].float()
    head.mean, head.scale = sample.mean(0), sample.std()
    nn.init.orthogonal_(head.project)
    head.to(base.device)
    sharpness = nn.Parameter(torch.tensor(2.0, device=base.device))  # logarithm of the softmax's scale
    slow, quick = [head.project, head.weigh], [head.bias, head.odds, sharpness]
    optimiser = torch.optim.Adam([{"params": slow, "lr": c.rate}, {"params": quick, "lr": 10 * c.rate}])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda n: min(1, (n + 1) / 50, 2 * (1 - n / c.steps)))
    for step in range(c.steps):
        drawn = torch.randint(len(passage_of), (c.batch,), device=base.device)
        other = torch.randint(len(passages), (c.others,), device=base.device)
        these = torch.unique(torch.cat([passage_of[drawn], other]))  # sorted
        right = torch.searchsorted(these, passage_of[drawn])
        drop = lambda x: F.dropout(x.float(), c.drop)  # noqa: E731
        question_states, question_tokens = questions[drawn]
        section_states, section_tokens = sections[these]
        vectors, weights = head.question(drop(question_states))
        weights = weights * question_tokens
        best = highest(vectors, straight_signs(head, drop(section_states)), section_tokens)
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
