"""Every prompt, as token ids. A document is only ever in a prompt for evaluation (in context, retrieval)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

NOT_IN_TEXT = "not in the text"
INSTRUCTION = "Answer the question with a few words. If you do not know the answer, say so."


class PromptFormat(Protocol):
    """How one family of models is asked and taught."""

    stop_ids: frozenset[int]
    pad_id: int
    abstain_id: int | None  # first token of the trained answer NOT_IN_TEXT, where the model has learned one

    def closed_book(self, question: str) -> list[int]: ...
    def in_context(self, context: str, question: str) -> list[int]: ...
    def answer(self, text: str) -> list[int]:
        """The tokens that follow a prompt when the model answers `text`, the stop token included."""
        ...

    def heading(self, title: str) -> list[int]:
        """Tokens before each segment of a document that is being learned."""
        ...


class MarkedFormat:
    """The embedded model's own format: `CONTEXT <|q|> QUESTION <|a|> ANSWER <|endoftext|>`."""

    def __init__(self, tokenizer: Any) -> None:
        self._encode = lambda text: tokenizer.encode(text, add_special_tokens=False)
        ids = tokenizer.convert_tokens_to_ids
        self.q, self.a, self.ask, self.doc = (ids(t) for t in ("<|q|>", "<|a|>", "<|qg|>", "<|doc|>"))
        self.end, self.pad_id = ids("<|endoftext|>"), ids("<|pad|>")
        self.stop_ids = frozenset({self.end})
        self.abstain_id = self._encode(" " + NOT_IN_TEXT)[0]

    def closed_book(self, question: str) -> list[int]:
        return [self.q, *self._encode(" " + question.strip()), self.a]

    def in_context(self, context: str, question: str) -> list[int]:
        return [*self._encode(context.strip()), *self.closed_book(question)]

    def answer(self, text: str) -> list[int]:
        return [*self._encode(" " + text.strip()), self.end]

    def heading(self, title: str) -> list[int]:
        return [self.doc, *self._encode(" " + title.strip()[:80] + ":")]

    def write_question(self, context: str) -> list[int]:
        return [*self._encode(context.strip()), self.ask]


class ChatFormat:
    """Any other causal LM: its chat template when it has one, else plain "Question: ... Answer:"."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.abstain_id = None
        end = tokenizer.eos_token_id
        self.stop_ids = frozenset({end} if end is not None else ())
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (end or 0)

    def _render(self, question: str, context: str = "") -> list[int]:
        user = f"{context.strip()}\n\n{question}" if context else question
        if self._tokenizer.chat_template:
            turns = [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": user}]
            text = self._tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            return self._tokenizer.encode(text, add_special_tokens=False)
        text = f"{context.strip()}\n\nQuestion: {question}\nAnswer:" if context else f"Question: {question}\nAnswer:"
        return self._tokenizer.encode(text)

    def closed_book(self, question: str) -> list[int]:
        return self._render(question.strip())

    def in_context(self, context: str, question: str) -> list[int]:
        return self._render(question.strip(), context)

    def answer(self, text: str) -> list[int]:
        ids = self._tokenizer.encode(" " + text.strip(), add_special_tokens=False)
        return [*ids, *self.stop_ids]

    def heading(self, title: str) -> list[int]:
        begin = [self._tokenizer.bos_token_id] if self._tokenizer.bos_token_id is not None else []
        return [*begin, *self._tokenizer.encode(f"{title.strip()[:80]}:", add_special_tokens=False)]


def format_for(tokenizer: Any) -> PromptFormat:
    """The embedded model's format where its marks exist, chat otherwise."""
    marks: Sequence[str] = ("<|q|>", "<|a|>", "<|qg|>", "<|doc|>")
    return MarkedFormat(tokenizer) if all(m in tokenizer.get_vocab() for m in marks) else ChatFormat(tokenizer)
