"""Every prompt, as token ids. A document is in one only with ENGRAM_GROUND, where the model writes questions about it,
in `prepare`, and for evaluation (in context, retrieval)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

NOT_IN_TEXT = "not in the text"
INSTRUCTION = "Answer the question with a few words. If you do not know the answer, say so."
READER_INSTRUCTION = "Answer from the document."  # what a reader is trained with, with and without the text
ASK = "Ask a question that this text answers."
COMPLETE = "Write the last question so that it can be understood without the ones before it."

WRITE_QUESTIONS = (
    "Write {count} short questions that this text answers, each about another fact, each with its answer in a few "
    "words of the text. One on a line, like this:\nQuestion: ... Answer: ..."
)
WRITE_ABOUT = (
    'Write one short question about this text that has "{about}" in it, with its answer in a few words of the text, '
    "like this:\nQuestion: ... Answer: ..."
)
BEGINNINGS = ("Who", "What", "Where", "When", "How many", "Which", "How", "")  # for a model that takes no instruction
EMPTY_LINES = re.compile(r"\n\s*\n")
YEAR = re.compile(r"\b1\d{3}\b|\b20\d\d\b")
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


class ChatFormat:
    """How any causal LM is asked and taught: by its chat template when it has one, else by "Question: ... Answer:"."""

    instruction = INSTRUCTION
    abstain_id: int | None = None  # first token of the trained answer NOT_IN_TEXT, where the model has learned one

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._encode = lambda text: tokenizer.encode(text, add_special_tokens=False)
        parts = [self._encode(part) for part in template_parts(tokenizer, self.instruction)]
        first = [] if tokenizer.chat_template else tokenizer.encode("")[:1]
        self._bos = first if first == [tokenizer.bos_token_id] else []  # that a text without a template begins with
        self.opening: Sequence[int] = [*self._bos, *parts[0]]  # what every prompt begins with
        self._to_answer, self._to_question = parts[1:]
        end = self._to_question[0] if tokenizer.chat_template else tokenizer.eos_token_id
        self.end = tokenizer.eos_token_id if end is None else end
        stops = {self.end, tokenizer.eos_token_id} - {None}
        self.stop_ids = self.write_stops = frozenset(stops)  # the second: where questions that it writes end
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (self.end or 0)

    def options(self, most: int) -> dict[str, Any]:
        """How to generate at most so many tokens, for `core.generate`."""
        return {"stop_ids": self.stop_ids, "pad_id": self.pad_id, "max_new": most}

    def _ask(self, text: str) -> list[int]:
        """The prompt of one turn."""
        return [*self.opening, *self._encode(text), *self._to_answer]

    def closed_book(self, question: str) -> list[int]:
        return self._ask(question.strip())

    def in_context(self, context: str, question: str) -> list[int]:
        if context and not self._tokenizer.chat_template:
            asked, begin = self.closed_book(question), len(self._bos)
            return [*asked[:begin], *self._encode(f"{context.strip()}\n\n"), *asked[begin:]]
        return self._ask(beside(context, question))

    def next_question(self, question: str) -> list[int]:
        """The tokens that ask once more after an answer, whose stop token counts as the first of them."""
        return [*self._to_question[1:], *self._encode(question.strip()), *self._to_answer]

    def answer(self, text: str) -> list[int]:
        """The tokens that follow a prompt when the model answers `text`, the stop token included."""
        space = "" if self._tokenizer.chat_template else " "  # after a chat's marks an answer begins as it is
        end = [] if self.end is None else [self.end]
        return self._encode(space + text.strip()) + end

    def heading(self, title: str) -> list[int]:
        """Tokens before each segment of a document that is being learned."""
        begin = [self._tokenizer.bos_token_id] if self._tokenizer.bos_token_id is not None else []
        return [*begin, *self._encode(f"{title.strip()[:80]}:")]

    def section(self, text: str) -> list[int]:
        """Tokens of a section that is being learned, without the heading."""
        return self._encode(section_text(text))

    def write_questions(self, context: str, count: int, about: str = "") -> list[tuple[list[int], str]]:
        """Prompts, one or several, after which the model writes `count` questions about the context with their answers,
        or one that has `about` in it; each with what it has begun."""
        task = WRITE_ABOUT.format(about=about) if about else WRITE_QUESTIONS.format(count=count)
        begin = "" if self._tokenizer.chat_template else "Question:"
        return [([*self._write(context, task), *self._encode(begin)], begin)]

    def read_questions(self, text: str) -> list[tuple[str, str]]:
        """Questions and answers out of what was begun and written up to `write_stops`; [] when malformed. An answer may
        be missing, "": then `write_answer` asks for it."""
        return WRITTEN.findall(text)

    def write_answer(self, context: str, question: str) -> list[int]:
        return self.in_context(context, question)

    def write_text(self, context: str, task: str) -> list[int] | None:
        """A prompt for REWRITE or SUMMARISE; None when this model never learned to follow one."""
        return self._write(context, task)

    def _write(self, context: str, task: str) -> list[int]:
        return self._ask(f"{context.strip()}\n\n{task}\n")


class ReaderFormat(ChatFormat):
    """A prepared model's reader: asked with a short instruction, it answers in the document's words, and says
    NOT_IN_TEXT when the document does not tell."""

    instruction = READER_INSTRUCTION

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self.abstain_id = self.answer(NOT_IN_TEXT)[0]

    def in_context(self, context: str, question: str) -> list[int]:
        return super().in_context(section_text(context), question)

    def write_questions(self, context: str, count: int, about: str = "") -> list[tuple[list[int], str]]:
        """One a prompt, each begun with another question word."""
        second = "What"
        if YEAR.search(context):
            second = "When"
        elif NUMBER.search(context):
            second = "How many"
        order = dict.fromkeys([BEGINNINGS[0], second, *BEGINNINGS])
        begun = [f"What did {about}"] if about else ([*order] * count)[:count]
        return [([*self.in_context(context, ASK), *self._encode(begin)], begin) for begin in begun]

    def read_questions(self, text: str) -> list[tuple[str, str]]:
        question, mark, answer = text.partition("?")
        return [(f"{question.strip()}?", answer.strip())] if mark and question.strip() else []

    def write_text(self, context: str, task: str) -> None:
        return None


def section_text(text: str) -> str:
    """A text as `prepare` lays out what is learned: after a blank, without empty lines between paragraphs. Laid out
    otherwise it is learned worse (LOG.md)."""
    return " " + EMPTY_LINES.sub("\n", text.strip())


def beside(context: str, question: str) -> str:
    """A text and a question about it, as they stand in one message."""
    return f"{context.strip()}\n\n{question.strip()}" if context else question.strip()


def template_parts(tokenizer: Any, instruction: str) -> tuple[str, str, str]:
    """What a model's chat template puts before the first question, between a question and its answer, and between an
    answer and the next question."""
    if not tokenizer.chat_template:
        return "Question: ", "\nAnswer:", "\n\nQuestion: "
    question, answer, more = "@question@", "@answer@", "@more@"
    turns = [
        {"role": "system", "content": instruction},
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": more},
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    first, _, rest = text.partition(question)
    to_answer, _, rest = rest.partition(answer)
    to_question, _, _ = rest.partition(more)
    return first, to_answer, to_question


def format_for(tokenizer: Any, *, prepared: bool = False) -> ChatFormat:
    """A prepared model is asked as its reader was trained; any other one by its chat template."""
    return ReaderFormat(tokenizer) if prepared else ChatFormat(tokenizer)
