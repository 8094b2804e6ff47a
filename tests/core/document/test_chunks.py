from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from core.document.chunks import SLACK, check_length, encoder, join_pages, make_chunks
from core.document.places import ABOUT
from core.errors import DocumentTooLong, DocumentTooShort
from core.types import Limits, Page

SENTENCE = "The lighthouse was built by Tessa Orlund in 1874. "


@cache
def tokenizer() -> Tokenizer:
    """Byte-level BPE, as most models have: a letter outside ASCII may take several tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        [SENTENCE], trainers.BpeTrainer(vocab_size=400, initial_alphabet=letters, show_progress=False)
    )
    return made


@pytest.mark.parametrize("own", ["Title: The harbour. ", "Title: The harbour. " * 30])
def test_what_a_file_says_of_itself_is_a_chunk_of_its_own_where_it_is_long_enough(own: str) -> None:
    page = Page(1, own + SENTENCE * 3, ((0, ABOUT), (len(own), "p. 1")))
    chunks = make_chunks([page, Page(2, SENTENCE)], encoder(tokenizer()), 1000)
    assert (chunks[0].text == own) is (len(own) > 99) and "".join(chunk.text for chunk in chunks).startswith(own)
    assert "".join(chunk.text for chunk in chunks) == join_pages([page, Page(2, SENTENCE)])


def pages(*texts: str) -> list[Page]:
    return [Page(number, text) for number, text in enumerate(texts, start=1)]


texts = st.lists(st.text(st.sampled_from("ab .!\n\t-é塔🙂Z9") | st.characters(codec="utf-8"), max_size=80), max_size=5)


@settings(max_examples=300, deadline=None)
@given(texts, st.integers(1, 40))
def test_nothing_is_lost_and_nothing_is_there_twice(texts: list[str], size: int) -> None:
    encode, document = encoder(tokenizer()), pages(*texts)
    chunks = make_chunks(document, encode, size)
    assert [token for chunk in chunks for token in chunk.token_ids] == list(encode(join_pages(document))[0])
    assert "".join(chunk.text for chunk in chunks) == join_pages(document)
    assert all(1 <= chunk.token_count <= size for chunk in chunks)
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))


@settings(max_examples=200, deadline=None)
@given(texts, st.integers(1, 40))
def test_page_ranges_are_in_order_and_name_pages_with_text(texts: list[str], size: int) -> None:
    chunks = make_chunks(pages(*texts), encoder(tokenizer()), size)
    ends = [end for chunk in chunks for end in (chunk.start_page, chunk.end_page)]
    assert ends == sorted(ends)
    assert all(texts[page - 1].strip() for page in ends)


@settings(max_examples=200, deadline=None)
@given(texts, st.integers(8, 40))
def test_a_chunk_with_room_for_it_holds_whole_characters(texts: list[str], size: int) -> None:
    chunks = make_chunks(pages(*texts), encoder(tokenizer()), size)
    assert [tokenizer().decode(chunk.token_ids) for chunk in chunks] == [chunk.text for chunk in chunks]


def test_a_short_document_is_one_chunk() -> None:
    (chunk,) = make_chunks(pages("Hello world."), encoder(tokenizer()), 2048)
    assert (chunk.text, chunk.start_page, chunk.end_page) == ("Hello world.", 1, 1)


@pytest.mark.parametrize("document", [[], pages(""), pages(" ", "\n")])
def test_a_document_without_text_has_no_chunks(document: list[Page]) -> None:
    assert make_chunks(document, encoder(tokenizer()), 2048) == []


def test_chunks_end_with_sentences_when_that_costs_little() -> None:
    chunks = make_chunks(pages((SENTENCE * 40).strip()), encoder(tokenizer()), 100)
    assert all(chunk.text.rstrip().endswith(".") for chunk in chunks)
    assert all(chunk.token_count >= 100 * (1 - SLACK) for chunk in chunks[:-1])


def test_chunks_rather_end_with_paragraphs() -> None:
    paragraph = SENTENCE * 3 + "It is white.\n"
    chunks = make_chunks(pages(paragraph * 20), encoder(tokenizer()), 5 * len(tokenizer().encode(paragraph).ids) + 7)
    assert len(chunks) > 2
    assert all("white." in chunk.text.rstrip()[-7:] for chunk in chunks)


def test_a_paragraph_is_not_cut_to_fill_the_second_half_of_a_chunk() -> None:
    paragraph = SENTENCE * 6 + "It is white.\n"
    tokens = len(tokenizer().encode(paragraph).ids)
    for room in (1.05, 1.3, 1.6, 1.9):
        chunks = make_chunks(pages(paragraph * 8), encoder(tokenizer()), int(room * tokens))
        assert [chunk.text.strip() for chunk in chunks] == [paragraph.strip()] * 8, room


def test_a_heading_stays_with_what_follows() -> None:
    section = "The harbour\n\n" + SENTENCE * 2 + "\n\n"
    size = len(tokenizer().encode(section * 3 + "The harbour\n\n").ids)  # room for a heading at the end
    chunks = make_chunks(pages(section * 12), encoder(tokenizer()), size)
    assert [chunk.text.startswith("The harbour") for chunk in chunks] == [True] * 4


def test_a_word_without_end_is_cut_where_the_room_ends() -> None:
    chunks = make_chunks(pages("x" * 95), encoder(tokenizer()), 10)
    assert [chunk.token_count for chunk in chunks] == [10] * 9 + [5]


def test_page_ranges_tell_where_a_chunk_stands() -> None:
    chunks = make_chunks(pages("First page.", "", "Third page."), encoder(tokenizer()), 2048)
    assert [(chunk.start_page, chunk.end_page) for chunk in chunks] == [(1, 3)]


def test_pages_are_joined_by_an_empty_line_or_where_a_sentence_goes_on_by_a_space() -> None:
    assert join_pages(pages("It is white.", " ", "Built by", "the council.")) == "It is white.\n\nBuilt by the council."


def test_the_tokenizers_of_transformers_do_the_same() -> None:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer(), model_max_length=5)
    document = pages(SENTENCE * 5)
    assert make_chunks(document, encoder(fast), 30) == make_chunks(document, encoder(tokenizer()), 30)


def test_a_chunk_of_no_tokens_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        make_chunks(pages("a"), encoder(tokenizer()), 0)


def test_a_document_that_is_too_short_or_too_long_is_refused_with_what_to_do() -> None:
    limits, text = Limits(min_tokens=10, max_tokens=100_000), pages(*["word " * 400] * 300)
    check_length(10, limits, text)
    check_length(100_000, limits, text)
    with pytest.raises(DocumentTooShort, match=r"^This document has 2 words; that is too little to learn from, send a"):
        check_length(9, limits, pages("two words"))
    with pytest.raises(DocumentTooLong) as refused:
        check_length(150_000, limits, text)
    assert str(refused.value) == (
        "This document has about 330 pages of text, and I can learn about 220 pages of text at once; "
        "send it again with “pages 1-190” to learn that part."
    )
    with pytest.raises(DocumentTooLong, match=r"with “slides 1-190” to learn that part\.$"):
        check_length(150_000, limits, text, "slide")


def test_one_page_that_is_too_long_is_no_range() -> None:
    with pytest.raises(DocumentTooLong, match=r"at once; send a part of it\.$"):
        check_length(2_000, Limits(max_tokens=1_000), pages("word " * 2_000))
