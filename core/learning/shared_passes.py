"""Answers' passes on a CPU: what several rows, or several questions, have in common is computed once.

Every prompt begins with the same tokens of the chat template: their keys and values are kept from one question to the
next. The sections that one question is put to differ only from the lowest block with weights of their own on: below it
their rows are one. Blocks run as `core.learning.blocks` has them, which takes Python less time than a pass of
`transformers`. For models of Llama's architecture.

Where a text continues in words that are known, several tokens are read in one pass, which takes hardly longer than one,
and those are kept that the model would have chosen itself: speculative decoding (Leviathan et al. 2023, arXiv
2211.17192). The draft is what `core.learning.drafts` finds in the prompt: in the question, or in the text beside it.

Shapes: R rows, U different prompts, P tokens that all begin with, T tokens, C columns of the cache, L blocks, of which
the lowest K have no weights of a section, H heads of keys of width h, d width, f MLP width, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.generate import Next, Passes, pad_left, round_up
from core.learning.blocks import FEW_COLUMNS, can_run, fuse_projections, probabilities, run_blocks

MAX_PROMPT = 256  # tokens of a prompt; a longer one shares little, and is read as ever
MAX_DRAFT = 7  # tokens; none where rows are so many that reading them takes much longer (FEW_COLUMNS)
SPARE = 64  # columns of the cache that are lost where rows keep different numbers of the tokens that were read ahead


class Shared:
    """A model, ready for passes that share."""

    def __init__(self, model: Any, modules: Mapping[str, nn.Linear], opening: Sequence[int]) -> None:
        """
        Args:
            modules: those that weights are attached to, by name: down-projections.
            opening: what every prompt begins with, P tokens; it is read once.
        """
        self.model, self.opening = model, list(opening)
        fuse_projections(model)
        blocks = [int(name.split(".")[2]) for name in modules]
        self.lowest = min(blocks, default=len(model.model.layers))  # K
        self.opening_cache, self.opening_states = self._read_opening()

    @staticmethod
    def can(model: Any) -> bool:
        return model.device.type == "cpu" and can_run(model)

    @torch.no_grad()
    def _read_opening(self) -> tuple[Tensor, Tensor]:
        """Keys and values of the lowest K blocks, [K, 1, P, 2 H, h], and what these blocks made, [1, P, d]."""
        count = len(self.opening)
        ids = torch.tensor([self.opening], dtype=torch.long)
        cache = self.room(1, count)
        x = self.model.model.embed_tokens(ids)
        columns = torch.arange(count)
        visible = (columns <= columns[:, None])[None]
        if count:
            x = run_blocks(self.model, x, columns[None], columns, visible, cache, {}, range(self.lowest))
        return cache[: self.lowest], x

    def room(self, rows: int, columns: int) -> Tensor:
        """For keys and values, [L, R, C, 2 H, h]."""
        c = self.model.config
        shape = (c.num_hidden_layers, rows, columns, 2 * c.num_key_value_heads, c.head_dim)
        return torch.zeros(shape, dtype=self.model.dtype)

    def passes(
        self,
        prompts: Sequence[Sequence[int]],
        pad_id: int,
        max_new: int,
        deltas: Mapping[str, Tensor] | None = None,
        documents: Sequence[int] = (),
    ) -> SharedPasses | None:
        """Passes of these prompts; None where one is too long. Row i has the weights of `documents[i]`, name -> [D, d,
        f]; further rows have none."""
        if not prompts or max(map(len, prompts)) > MAX_PROMPT:
            return None
        slots = {}
        for name, delta in (deltas or {}).items():
            if list(documents) == list(range(len(prompts))) and len(delta) == len(prompts):
                slots[name] = delta  # as it is: copying takes as long as a pass
                continue
            slots[name] = delta.new_zeros(len(prompts), *delta.shape[1:])
            slots[name][: len(documents)] = delta[list(documents)]
        return SharedPasses(self, prompts, pad_id, max_new, slots)


class SharedPasses(Passes):
    """The model's calls for some prompts. The cache has room for all that may come."""

    def __init__(
        self, shared: Shared, prompts: Sequence[Sequence[int]], pad_id: int, max_new: int, slots: Mapping[str, Tensor]
    ) -> None:
        self.shared, self.model, self.slots = shared, shared.model, slots
        begin = len(shared.opening)
        if any(list(p[:begin]) != shared.opening or len(p) == begin for p in prompts):
            begin = 0
        rest = [tuple(prompt[begin:]) for prompt in prompts]
        different = list(dict.fromkeys(rest))
        self.row_of = torch.tensor(list(map(different.index, rest)))
        longest = round_up(max(map(len, different)))
        self.ids, rest_mask = pad_left(different, longest, pad_id)  # [U, T] each
        counts = torch.cat([torch.ones(len(different), begin, dtype=torch.long), rest_mask], 1)  # [U, P + T]
        self.begin, self.column = begin, begin + longest
        self.positions = (counts.cumsum(1) - 1).clamp_min(0)  # [U, P + T]
        self.seen = F.pad(counts.bool(), (0, max_new + SPARE))  # [U, C]

    def first(self) -> Next:
        """Read the prompts."""
        shared, begin, stop = self.shared, self.begin, self.column
        lowest = shared.lowest
        cache = shared.room(len(self.ids), self.seen.shape[1])
        cache[:lowest, :, :begin] = shared.opening_cache[:, :, :begin]
        x = self.model.model.embed_tokens(self.ids)
        columns = torch.arange(begin, stop)
        places, lower = self.positions[:, begin:], range(lowest)
        x = run_blocks(self.model, x, places, columns, self._visible(columns), self._used(cache), {}, lower)
        x = torch.cat([shared.opening_states[:, :begin].expand(len(x), -1, -1), x], 1)
        x, self.cache = x[self.row_of], cache[:, self.row_of]
        self.seen, positions = self.seen[self.row_of], self.positions[self.row_of]
        upper = range(lowest, len(self.model.model.layers))
        if upper:
            columns = torch.arange(stop)
            cache = self._used(self.cache)
            x = run_blocks(self.model, x, positions, columns, self._visible(columns), cache, self.slots, upper)
        self.position = positions[:, -1:]
        return Next.from_probabilities(probabilities(self.model, x[:, -1:])[:, 0])

    def _visible(self, columns: Tensor) -> Tensor:
        """What the tokens of these columns see, [R, T, C]. Padding sees itself: a softmax over nothing is no number."""
        every = torch.arange(self.used)
        return self.seen[:, None, : self.used] & (every <= columns[:, None]) | (every == columns[:, None])

    @property
    def used(self) -> int:
        """C, columns up to the last one that is filled, rounded up."""
        return min(round_up(self.column), self.seen.shape[1])

    def _used(self, cache: Tensor) -> Tensor:
        return cache[:, :, : self.used]

    def next(self, tokens: Tensor) -> Next:
        return Next.from_probabilities(self.read(tokens[:, None])[:, -1])

    def read(self, tokens: Tensor) -> Tensor:
        """Read tokens more of each row, [R, T] -> what follows each of them, [R, T, V]."""
        self.read_last = count = tokens.shape[1]
        columns = torch.arange(self.column, self.column + count)
        self.seen[:, columns] = True
        positions = self.position + torch.arange(1, count + 1)
        x = self.model.model.embed_tokens(tokens)
        every = range(len(self.model.model.layers))
        self.column += count
        cache = self._used(self.cache)
        x = run_blocks(self.model, x, positions, columns, self._visible(columns), cache, self.slots, every)
        self.position = positions[:, -1:]
        return probabilities(self.model, x)

    @property
    def free(self) -> int:
        """Columns that are not filled yet."""
        return self.seen.shape[1] - self.column

    def keep(self, counts: Tensor) -> None:
        """Of the T tokens that were read last, only the first ones of each row, [R]."""
        read = torch.arange(self.read_last)
        first = self.column - self.read_last
        self.seen[:, first : self.column] = read < counts[:, None]
        self.column = first + int(counts.max())  # a column that any row keeps is not filled again
        self.position = self.position - self.read_last + counts[:, None]


@dataclass
class _Row:
    """Of one prompt's answer."""

    p: Tensor  # what follows the token that was asked for last, [V]
    said: list[int] = field(default_factory=list)  # as far as it is known
    ahead: deque[Tensor] = field(default_factory=deque)  # what follows tokens that were not asked for yet, [V] each
    is_done: bool = False


class DraftedPasses(Passes):
    """Passes that read ahead: of each row a few tokens that may follow, of which those are kept that the model chooses
    itself. For greedy answers.

    Args:
        draft: of a row's number and what it has said, tokens that may follow, at most MAX_DRAFT.
        stop_ids: an answer ends with one of them.
        max_new: tokens of an answer, at most.
    """

    def __init__(
        self,
        passes: SharedPasses,
        draft: Callable[[int, Sequence[int]], Sequence[int]],
        stop_ids: frozenset[int],
        max_new: int,
    ) -> None:
        self.passes, self.draft, self.stop_ids, self.max_new = passes, draft, stop_ids, max_new
        self.rows: list[_Row] = []
        self.reads = 0

    def first(self) -> Next:
        following = self.passes.first()
        self.rows = [_Row(p) for p in following.p]
        return following

    def next(self, tokens: Tensor) -> Next:
        for row, token in zip(self.rows, tokens.tolist(), strict=True):
            if not row.said:  # the first token may be another one than the likeliest: that one may be held back
                self._say(row, token)
        while any(not row.ahead and not row.is_done for row in self.rows):
            self._read()
        for row in self.rows:
            if row.ahead:
                row.p = row.ahead.popleft()
        return Next.from_probabilities(torch.stack([row.p for row in self.rows]))

    def _say(self, row: _Row, token: int) -> None:
        row.said.append(token)
        row.is_done = token in self.stop_ids or len(row.said) == self.max_new

    def _read(self) -> None:
        """The last token of each row that is not done, and what may follow it."""
        drafts = self._drafts()
        length = 1 + MAX_DRAFT if any(drafts) else 1
        ids = []
        for row, draft in zip(self.rows, drafts, strict=True):
            ids.append([row.said[-1], *draft, *[0] * (length - 1 - len(draft))])
        p = self.passes.read(torch.tensor(ids))
        likeliest = Next.from_probabilities(p).token.tolist()
        counts = list(map(self._accept, self.rows, drafts, p, likeliest))
        self.passes.keep(torch.tensor(counts))
        self.reads += 1

    def _drafts(self) -> list[list[int]]:
        going = [row for row in self.rows if not row.is_done]
        needed = self.max_new - min(len(row.said) for row in going)
        if self.passes.free < needed + MAX_DRAFT or len(self.rows) * (1 + MAX_DRAFT) > FEW_COLUMNS:
            return [[] for _ in self.rows]
        return [[] if row.is_done else list(self.draft(n, row.said)) for n, row in enumerate(self.rows)]

    def _accept(self, row: _Row, draft: Sequence[int], p: Tensor, likeliest: Sequence[int]) -> int:
        """How many of the tokens that were read the row has said. p: what follows each, [T, V]."""
        for count, follows in enumerate(p):
            if row.is_done:
                return count
            row.ahead.append(follows)
            self._say(row, likeliest[count])
            if [likeliest[count]] != draft[count : count + 1]:
                return count + 1
        return len(p)
