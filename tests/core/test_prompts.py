"""Prompts as token ids, for the embedded model and for any other."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from core.prompts import INSTRUCTION, NOT_IN_TEXT, ChatFormat, MarkedFormat, format_for

TEMPLATE = (
    "{% for m in messages %}<s> {{ m.role }} : {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


@pytest.fixture
def words() -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, as of a model that knows nothing of our marks."""
    known = f"<s> </s> ? Question: Answer: : user system assistant where is it port {INSTRUCTION}".split()
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(dict.fromkeys([*known, "<unk>"]))}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def test_the_embedded_format_marks_question_and_answer(fmt, tokenizer) -> None:
    assert tokenizer.decode(fmt.closed_book(" Where? ")) == "<|q|> Where?<|a|>"
    assert tokenizer.decode(fmt.in_context(" It is here.\n", "Where?")) == "It is here.<|q|> Where?<|a|>"
    assert tokenizer.decode(fmt.answer("here")) == " here<|endoftext|>"
    assert tokenizer.decode(fmt.heading("Port " * 50)).startswith("<|doc|> Port Port")
    assert len(tokenizer.decode(fmt.heading("x" * 500))) < 100
    assert tokenizer.decode(fmt.write_question("It is here.")) == "It is here.<|qg|>"


def test_the_embedded_model_abstains_with_the_first_token_of_the_trained_answer(fmt) -> None:
    assert fmt.answer(NOT_IN_TEXT)[0] == fmt.abstain_id
    assert fmt.stop_ids == {0} and fmt.pad_id == 1


def test_a_document_never_stands_in_a_closed_book_prompt(fmt, tokenizer) -> None:
    asked = fmt.closed_book("Where is it?")
    assert fmt.in_context("The port is in Vessin.", "Where is it?")[-len(asked) :] == asked
    assert len(asked) == 2 + len(tokenizer.encode(" Where is it?", add_special_tokens=False))


def test_the_format_is_chosen_by_the_marks(tokenizer, words) -> None:
    assert isinstance(format_for(tokenizer), MarkedFormat)
    assert isinstance(format_for(words), ChatFormat)


def test_a_chat_template_is_used_where_there_is_one(words) -> None:
    words.chat_template = TEMPLATE
    text = words.decode(format_for(words).in_context("it is port", "where is it ?"))
    assert text == f"<s> system : {INSTRUCTION} <s> user : it is port where is it ? assistant :"


def test_in_a_chat_an_answer_begins_without_a_space(tokenizer, monkeypatch) -> None:
    fmt = ChatFormat(tokenizer)
    assert tokenizer.decode(fmt.answer(" Vessin")) == "Vessin<|endoftext|>"
    monkeypatch.setattr(tokenizer, "chat_template", None)
    assert tokenizer.decode(fmt.answer("Vessin")) == " Vessin<|endoftext|>"


def test_without_a_template_the_prompt_is_plain(words) -> None:
    fmt = format_for(words)
    assert words.decode(fmt.closed_book("where is it ?")) == "Question: where is it ? Answer:"
    assert words.decode(fmt.in_context("it is port", "where ?")) == "it is port Question: where ? Answer:"
    assert words.decode(fmt.answer("port")) == "port </s>" and fmt.abstain_id is None
    assert fmt.stop_ids == {1} and fmt.pad_id == 1  # padding is masked, so the stop token will do
    assert fmt.heading("port")[0] == words.bos_token_id
