"""Every prompt, as token ids. A document is only ever in a prompt for evaluation (in context, retrieval)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

NOT_IN_TEXT = "not in the text"
INSTRUCTION = "Answer the question with a few words. If you do not know the answer, say so."

WRITE_QUESTIONS = (
    "Write {count} short questions that this text answers, each about another fact, each with its answer in a few "
    "words of the text. One on a line, like this:\nQuestion: ... Answer: ..."
)
WRITE_ABOUT = (
    'Write one short question about this text that has "{about}" in it, with its answer in a few words of the text, '
    "like this:\nQuestion: ... Answer: ..."
)
BEGINNINGS = ("Who", "What", "Where", "When", "How many", "Which", "How", "")  # for a model that takes no instruction
DATE = re.compile(r"\b1\d{3}\b|\b20\d\d\b")
NUMBER = re.compile(r"\d|\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty)\b")
REWRITE = "Rewrite this text in other words, sentence by sentence. Keep every name and every number."
SUMMARISE = "Summarise this text in three sentences. Keep names and numbers as they are."
WRITTEN = re.compile(r"Question:\s*(\S[^\n]*?)\s*Answer:[ \t]*(\S[^\n]*)")

# Nothing of any document: what learning one should leave as it was.
UNRELATED = (
    "What is the capital of France?",
    "How many days does a week have?",
    "What colour is the sky on a clear day?",
    "Who wrote Romeo and Juliet?",
    "What do bees make?",
    "At what temperature does water boil?",
    "Which planet is closest to the sun?",
    "How many legs does a spider have?",
    "What is the largest ocean?",
    "Who painted the Mona Lisa?",
    "What is the opposite of hot?",
    "In which country is Tokyo?",
    "How many months are in a year?",
    "What is frozen water called?",
    "Which animal is called man's best friend?",
    "What is the first letter of the alphabet?",
    "Who was the first president of the United States?",
    "What do plants need to grow?",
    "How many sides does a triangle have?",
    "What language is spoken in Brazil?",
    "What is the chemical symbol of gold?",
    "Which season comes after winter?",
    "Who discovered penicillin?",
    "How many minutes are in an hour?",
)


class PromptFormat(Protocol):
    """How one family of models is asked and taught."""

    stop_ids: frozenset[int]
    write_stops: frozenset[int]  # where questions that it writes end
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

    def write_questions(self, context: str, count: int, about: str = "") -> list[tuple[list[int], str]]:
        """Prompts, one or several, after which the model writes `count` questions about the context with their answers,
        or one that has `about` in it; each with what it has begun."""
        ...

    def read_questions(self, text: str) -> list[tuple[str, str]]:
        """Questions and answers out of what was begun and written up to `write_stops`; [] when malformed. An answer may
        be missing, "": then `write_answer` asks for it."""
        ...

    def write_answer(self, context: str, question: str) -> list[int]: ...

    def write_text(self, context: str, task: str) -> list[int] | None:
        """A prompt for REWRITE or SUMMARISE; None when this model never learned to follow one."""
        ...


class MarkedFormat:
    """The embedded model's own format: `CONTEXT <|q|> QUESTION <|a|> ANSWER <|endoftext|>`."""

    def __init__(self, tokenizer: Any) -> None:
        self._encode = lambda text: tokenizer.encode(text, add_special_tokens=False)
        ids = tokenizer.convert_tokens_to_ids
        self.q, self.a, self.ask, self.doc = (ids(t) for t in ("<|q|>", "<|a|>", "<|qg|>", "<|doc|>"))
        self.end, self.pad_id = ids("<|endoftext|>"), ids("<|pad|>")
        self.stop_ids = frozenset({self.end})
        self.write_stops = frozenset({self.end, self.a, ids("?")})
        self.abstain_id = self._encode(" " + NOT_IN_TEXT)[0]

    def closed_book(self, question: str) -> list[int]:
        return [self.q, *self._encode(" " + question.strip()), self.a]

    def in_context(self, context: str, question: str) -> list[int]:
        return [*self._encode(context.strip()), *self.closed_book(question)]

    def answer(self, text: str) -> list[int]:
        return [*self._encode(" " + text.strip()), self.end]

    def heading(self, title: str) -> list[int]:
        return [self.doc, *self._encode(" " + title.strip()[:80] + ":")]

    def write_question(self, context: str, begin: str = "") -> list[int]:
        return [*self._encode(context.strip()), self.ask, *self._encode(f" {begin}" if begin else "")]

    def write_questions(self, context: str, count: int, about: str = "") -> list[tuple[list[int], str]]:
        """One a prompt. It can't be told what to ask, so each begins with another question word."""
        second = "When" if DATE.search(context) else "How many" if NUMBER.search(context) else "What"
        order = dict.fromkeys([BEGINNINGS[0], second, *BEGINNINGS])
        begun = [f"What did {about}"] if about else ([*order] * count)[:count]
        return [(self.write_question(context, begin), begin) for begin in begun]

    def read_questions(self, text: str) -> list[tuple[str, str]]:
        return [(f"{text.strip()}?", "")] if text.strip() else []

    def write_answer(self, context: str, question: str) -> list[int]:
        return [*self.write_question(context, question), self.a]

    def write_text(self, context: str, task: str) -> None:
        return None


class ChatFormat:
    """Any other causal LM: its chat template when it has one, else plain "Question: ... Answer:"."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._encode = lambda text: tokenizer.encode(text, add_special_tokens=False)
        self.abstain_id = None
        end = tokenizer.eos_token_id
        self.stop_ids = self.write_stops = frozenset({end} if end is not None else ())
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (end or 0)

    def _render(self, user: str, system: str = "") -> list[int]:
        if self._tokenizer.chat_template:
            turns = [{"role": "system", "content": system}] * bool(system) + [{"role": "user", "content": user}]
            text = self._tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            return self._tokenizer.encode(text, add_special_tokens=False)
        return self._tokenizer.encode(user)

    def closed_book(self, question: str) -> list[int]:
        return self.in_context("", question)

    def in_context(self, context: str, question: str) -> list[int]:
        before = f"{context.strip()}\n\n" if context else ""
        if self._tokenizer.chat_template:
            return self._render(before + question.strip(), INSTRUCTION)
        return self._render(f"{before}Question: {question.strip()}\nAnswer:")

    def write_questions(self, context: str, count: int, about: str = "") -> list[tuple[list[int], str]]:
        task = WRITE_ABOUT.format(about=about) if about else WRITE_QUESTIONS.format(count=count)
        begin = "" if self._tokenizer.chat_template else "Question:"
        return [([*self.write_text(context, task), *self._encode(begin)], begin)]

    def read_questions(self, text: str) -> list[tuple[str, str]]:
        return WRITTEN.findall(text)

    def write_answer(self, context: str, question: str) -> list[int]:
        return self.in_context(context, question)

    def write_text(self, context: str, task: str) -> list[int]:
        return self._render(f"{context.strip()}\n\n{task}\n")

    def answer(self, text: str) -> list[int]:
        space = "" if self._tokenizer.chat_template else " "  # after a chat's marks an answer begins as it is
        return [*self._encode(space + text.strip()), *self.stop_ids]

    def heading(self, title: str) -> list[int]:
        begin = [self._tokenizer.bos_token_id] if self._tokenizer.bos_token_id is not None else []
        return [*begin, *self._encode(f"{title.strip()[:80]}:")]


def format_for(tokenizer: Any) -> PromptFormat:
    """The embedded model's format where its marks exist, chat otherwise."""
    marks: Sequence[str] = ("<|q|>", "<|a|>", "<|qg|>", "<|doc|>")
    return MarkedFormat(tokenizer) if all(m in tokenizer.get_vocab() for m in marks) else ChatFormat(tokenizer)
