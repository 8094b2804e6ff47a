"""Answers' passes on a CPU: what several rows, or several questions, have in common is computed once.

Every prompt begins with the same tokens of the chat template: their keys and values are kept from one question to the
next. The sections that one question is put to differ only from the lowest block with weights of their own on: below it
their rows are one. Blocks run as `core.learning.blocks` has them, which takes Python less time than a pass of
`transformers`. For models of Llama's architecture.

Where a text continues in words that are known, several tokens are read in one pass, which takes hardly longer than one,
and those are kept that the model would have chosen itself: speculative decoding (Leviathan et al. 2023, arXiv
2211.17192), the draft being words of the question (prompt lookup: Yang et al. 2023, arXiv 2304.04487).

Shapes: R rows, U different prompts, P tokens that all begin with, T tokens, C columns of the cache, L blocks, of which
the lowest K have no weights of a section, H heads of keys of width h, d width, f MLP width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from core.generate import Next, Passes, pad_left, round_up
from core.learning.blocks import arrange, can_run, probabilities, run_blocks

MAX_PROMPT = 256  # tokens of a prompt; a longer one shares little, and is read as ever
MAX_DRAFT = 6  # tokens, at most: a pass of seven takes a third longer than one of one


@dataclass
class Opening:
    """What every prompt begins with, read once."""

    ids: Sequence[int]  # P
    cache: Tensor  # keys and values of the lowest K blocks, [K, 1, P, 2 H, h]
    states: Tensor  # what these blocks made, [1, P, d]


@dataclass
class Shared:
    """A model, arranged for passes that share.

    Args:
        modules: those that weights are attached to, by name: down-projections.
        opening: what its prompts begin with.
    """

    model: Any
    modules: Mapping[str, nn.Linear]
    opening_ids: Sequence[int]
    opening: Opening = field(init=False)

    @staticmethod
    def can(model: Any) -> bool:
        return model.device.type == "cpu" and can_run(model)

    def __post_init__(self) -> None:
        arrange(self.model)
        blocks = [int(name.split(".")[2]) for name in self.modules]
        self.lowest = min(blocks, default=len(self.model.model.layers))  # K
        self.opening = self._read_opening()

    @torch.no_grad()
    def _read_opening(self) -> Opening:
        count = len(self.opening_ids)
        ids = torch.tensor([list(self.opening_ids)], dtype=torch.long)
        cache = self.room(1, count)
        x = self.model.model.embed_tokens(ids)
        columns = torch.arange(count)
        visible = (columns <= columns[:, None])[None]
        if count:
            x = run_blocks(self.model, x, columns[None], columns, visible, cache, {}, range(self.lowest))
        return Opening(self.opening_ids, cache[: self.lowest], x)

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
        opening = list(shared.opening.ids)
        begin = len(opening)
        if any(list(p[:begin]) != opening or len(p) == begin for p in prompts):
            begin = 0
        rest = [tuple(prompt[begin:]) for prompt in prompts]
        different = list(dict.fromkeys(rest))
        self.row_of = torch.tensor(list(map(different.index, rest)))
        longest = round_up(max(map(len, different)))
        self.ids, of_rest = pad_left(different, longest, pad_id)  # [U, T] each
        counts = torch.cat([torch.ones(len(different), begin, dtype=torch.long), of_rest], 1)  # [U, P + T]
        self.begin, self.column = begin, begin + longest
        self.positions = (counts.cumsum(1) - 1).clamp_min(0)  # [U, P + T]
        self.seen = torch.cat([counts.bool(), torch.zeros(len(different), max_new, dtype=torch.bool)], 1)  # [U, C]

    def first(self) -> Next:
        """Read the prompts."""
        shared, begin, stop = self.shared, self.begin, self.column
        lowest = shared.lowest
        cache = shared.room(len(self.ids), self.seen.shape[1])
        cache[:lowest, :, :begin] = shared.opening.cache[:, :, :begin]
        x = self.model.model.embed_tokens(self.ids)
        columns = torch.arange(begin, stop)
        places, lower = self.positions[:, begin:], range(lowest)
        x = run_blocks(self.model, x, places, columns, self._visible(columns), self._used(cache), {}, lower)
        x = torch.cat([shared.opening.states[:, :begin].expand(len(x), -1, -1), x], 1)
        x, self.cache = x[self.row_of], cache[:, self.row_of]
        self.seen, positions = self.seen[self.row_of], self.positions[self.row_of]
        upper = range(lowest, len(self.model.model.layers))
        if upper:
            columns = torch.arange(stop)
            cache = self._used(self.cache)
            x = run_blocks(self.model, x, positions, columns, self._visible(columns), cache, self.slots, upper)
        self.position = positions[:, -1:]
        return Next.from_probabilities(probabilities(self.model, x[:, -1]))

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
        count = tokens.shape[1]
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

    def take_back(self, count: int) -> None:
        """The last tokens were not read."""
        self.column -= count
        self.position = self.position - count
        self.seen[:, self.column :] = False


class DraftedPasses(Passes):
    """Passes of one prompt that read ahead: what the model chose before its time is known when it is asked for.

    Args:
        known: tokens that the text may go on with, such as the question's.
        key: of a token, the same for tokens that may stand for each other: " The" and "the".
    """

    def __init__(self, passes: SharedPasses, known: Sequence[int], key: Callable[[int], Hashable]) -> None:
        self.passes, self.known = passes, list(known)
        self.keys = [key(token) for token in known]
        self.key = key
        self.place = 0  # of the known tokens, the first that was not said yet
        self.ahead: list[int] = []  # the draft's tokens that were read and not yet chosen
        self.follows = torch.empty(0)  # what follows the last token, and each of these, [1 + ahead, V]
        self.room = passes.seen.shape[1] - passes.column
        self.reads = 0

    def first(self) -> Next:
        return self.passes.first()

    def next(self, tokens: Tensor) -> Next:
        token = int(tokens)
        if self.ahead and self.ahead[0] == token:
            self.ahead, self.follows = self.ahead[1:], self.follows[1:]
            self.place += 1
        else:
            self.passes.take_back(len(self.ahead))
            self.room += len(self.ahead)
            self.ahead = self._draft(token)[: self.room - 1]
            self.follows = self.passes.read(torch.tensor([[token, *self.ahead]]))[0]
            self.room -= 1 + len(self.ahead)
            self.reads += 1
        return Next.from_probabilities(self.follows[:1])

    def _draft(self, token: int) -> list[int]:
        """What follows this token among those that are known and were not said yet."""
        if (key := self.key(token)) not in self.keys[self.place :]:
            return []
        self.place = self.keys.index(key, self.place) + 1
        return self.known[self.place : self.place + MAX_DRAFT]
