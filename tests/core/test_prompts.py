"""Prompts as token ids, for prepared models and for any other."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from core.prompts import INSTRUCTION, NOT_IN_TEXT, READER_INSTRUCTION, ChatFormat, ReaderFormat, format_for

TEMPLATE = (
    "{% for m in messages %}<s> {{ m.role }} : {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}<s> assistant :{% endif %}"
)


@pytest.fixture
def words() -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, as of a model that knows nothing of our marks."""
    known = f"<s> </s> ? Question: Answer: : user system assistant where is it port {INSTRUCTION}".split()
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(dict.fromkeys([*known, "<unk>"]))}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def test_a_reader_is_asked_by_the_chat_template_with_a_short_instruction(fmt, tokenizer) -> None:
    before, after = (
        f"<|im_start|>system\n{READER_INSTRUCTION}<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
    )
    assert tokenizer.decode(fmt.closed_book(" Where? ")) == f"{before}Where?{after}"
    assert tokenizer.decode(fmt.in_context(" It is here.\n", "Where?")) == f"{before}It is here.\n\nWhere?{after}"
    assert tokenizer.decode(fmt.answer("here")) == "here<|im_end|>"
    assert tokenizer.decode(fmt.next_question("Who?")) == f"\n<|im_start|>user\nWho?{after}"
    assert len(tokenizer.decode(fmt.heading("x" * 500))) < 100


def test_a_reader_abstains_with_the_first_token_of_the_trained_answer(fmt, tokenizer) -> None:
    assert fmt.answer(NOT_IN_TEXT)[0] == fmt.abstain_id
    assert fmt.stop_ids == {tokenizer.convert_tokens_to_ids("<|im_end|>")}


def test_a_reader_writes_questions_that_begin_differently_and_answers_them(fmt, tokenizer) -> None:
    prompts = fmt.write_questions("It was built in 1874.", 3)
    assert [begin for _, begin in prompts] == ["Who", "When", "What"]
    assert all(tokenizer.decode(ids).endswith(f"assistant\n{begin}") for ids, begin in prompts)
    assert fmt.read_questions("When was it built? in 1874") == [("When was it built?", "in 1874")]
    assert fmt.read_questions("no question") == []


@pytest.mark.parametrize(
    "laid_out", ["A harbour.\n\nIt is old.\n", "\n\nA harbour.\n \n\nIt is old.", "A harbour.\nIt is old."]
)
def test_a_section_is_read_as_prepare_lays_texts_out(fmt, tokenizer, laid_out: str) -> None:
    assert tokenizer.decode(fmt.section(laid_out)) == " A harbour.\nIt is old."
    assert fmt.in_context(laid_out, "Is it?") == fmt.in_context("A harbour.\nIt is old.", "Is it?")


def test_a_document_never_stands_in_a_closed_book_prompt(fmt) -> None:
    asked, beside = fmt.closed_book("Where is it?"), fmt.in_context("The port is in Vessin.", "Where is it?")
    assert len(asked) < len(beside) and asked[-8:] == beside[-8:]


def test_a_prepared_model_is_asked_as_its_reader_was_trained(tokenizer) -> None:
    assert isinstance(format_for(tokenizer, prepared=True), ReaderFormat)
    assert not isinstance(format_for(tokenizer), ReaderFormat)


def test_a_chat_template_is_used_where_there_is_one(words) -> None:
    words.chat_template = TEMPLATE
    text = words.decode(format_for(words).in_context("it is port", "where is it ?"))
    assert text == f"<s> system : {INSTRUCTION} <s> user : it is port where is it ? <s> assistant :"


def test_in_a_chat_an_answer_begins_without_a_space(tokenizer, monkeypatch) -> None:
    fmt = ChatFormat(tokenizer)
    assert tokenizer.decode(fmt.answer(" Vessin")) == "Vessin<|im_end|>"
    monkeypatch.setattr(tokenizer, "chat_template", None)
    assert tokenizer.decode(fmt.answer("Vessin")) == " Vessin<|im_end|>"


def test_without_a_template_the_prompt_is_plain(words) -> None:
    fmt = format_for(words)
    assert words.decode(fmt.closed_book("where is it ?")) == "Question: where is it ? Answer:"
    assert words.decode(fmt.in_context("it is port", "where ?")) == "it is port Question: where ? Answer:"
    assert words.decode(fmt.answer("port")) == "port </s>" and fmt.abstain_id is None
    assert fmt.stop_ids == {1} and fmt.pad_id == 1  # padding is masked, so the stop token will do
    assert fmt.heading("port")[0] == words.bos_token_id


def test_a_plain_prompt_begins_as_the_model_wants_every_text_to(words) -> None:
    words.backend_tokenizer.post_processor = TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    fmt = format_for(words)
    assert words.decode(fmt.closed_book("where is it ?")) == "<s> Question: where is it ? Answer:"
    assert words.decode(fmt.in_context("it is port", "where ?")) == "<s> it is port Question: where ? Answer:"
    assert "<s>" not in words.decode(fmt.next_question("where ?")) + words.decode(fmt.answer("port"))
    words.chat_template = TEMPLATE  # writes its own
    assert words.decode(format_for(words).closed_book("where ?")).count("<s>") == 3
