"""What a document as a whole is about, as a short text that is learned as a section of its own: its subject, how it
begins, its headings, and sentences with its frequent words. Everything but the frame is the document's own words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, filterfalse

from core.document.about import file_title, own_text, own_title
from core.document.places import shortened
from core.document.text import one_line
from core.search.words import SENTENCE_END, STOP_WORDS, normalise
from core.types import Page

MAX_WORDS = 110  # of the whole text: it has to fit into one section
MAX_HEADING_WORDS = 10  # of a line that may be a heading
MAX_SENTENCE_WORDS = 30  # of a first sentence that can stand for the whole
MAX_HEADINGS = 6
LEAD_SENTENCES = 2  # sentences that the document begins with
CLAUSE = r"(?: ?\([^)]*\))*(?:, ?(?!and\b)[^.]{2,160}?,[\"”]?)?"  # what may stand between a subject and its verb
DEFINED = re.compile(
    r"^(?:(?:In|As|On|At) [^,]{3,80}, )?(?:(?:The|A|An|the|a|an) )?(?:(?:term|word|name|phrase) )?"
    rf"(?P<subject>[^,(;:]{{2,60}}?){CLAUSE} "
    r"(?:is|are|was|were|refers?|means|denotes?|describes?|applies|comprises?|consists?|can|may|has been|have been)\b"
)
FRAME = "The main subject is {0}. This document is about {0}."  # of the subject, in the text that is learned
FRAMED = re.compile(r"(?:The main subject|This document) is (?:about )?(.+?)\.?")  # an answer in these words
ARTICLE = re.compile(r" (?:a|an|the|one|any|part|among)\b")  # after "was": what something was, not what happened to it
PROGRESSIVE = re.compile(r" \w+ing\b")  # after "is": what somebody is doing
PRONOUNS = frozenset(
    ["it", "he", "she", "they", "this", "that", "these", "those", "there", "i", "we", "you", "who", "what", "here"]
)
NO_NAME = re.compile(r"^(?:document|notes?|scan|untitled|file|text|paper|page|img|image|download)?[\W\d_]*$", re.I)
HEAD_ENDS = (".", "!", "?", ":", ";", ",", "…")
ABBREVIATED = re.compile(r"(?:^|[\s(])(?:[A-Za-z]|ca|Dr|Mr|Mrs|Ms|St|No|vs)\.$")  # a sentence goes on: "(c. 900"


def gist(pages: Sequence[Page], name: str) -> str:
    """The text to learn; "" of a document without a sentence, or a subject. name: the file's."""
    blocks = list(_blocks([page for page in pages if not page.correction]))
    headings = list(filter(is_heading, blocks))
    paragraphs = filterfalse(is_heading, blocks)
    sentences = list(chain.from_iterable(map(_sentences, paragraphs)))
    if not sentences:
        return ""
    about = shortened(own_title(pages), 120) or subject(blocks, sentences, name)
    if not about:
        return ""
    about = about.rstrip(".")
    parts = [FRAME.format(about), *sentences[:LEAD_SENTENCES]]
    if others := [heading for heading in headings if heading != about]:
        parts.append(f"Its parts are: {'; '.join(map(shortened, others[:MAX_HEADINGS]))}.")
    parts += filterfalse(set(parts).__contains__, key_sentences(sentences))
    return " ".join(_fitting(parts))


def without_frame(answer: str) -> str:
    """The subject alone, where the answer is the whole of the sentence that was learned of it."""
    framed = FRAMED.fullmatch(answer)
    return framed[1] if framed else answer


def subject(blocks: Sequence[str], sentences: Sequence[str], name: str) -> str:
    """Of a document without a title, in a few words: the heading that the text begins with, what its first sentence
    defines, the file's name where it tells something, or the first sentence, where it is short."""
    if is_heading(blocks[0]):
        return blocks[0]
    defined = DEFINED.match(sentences[0])
    if defined and _is_defined(defined) and _often(defined["subject"], sentences):
        return defined["subject"].strip('"“” ')
    named = file_title(name)
    return beginning(sentences[0]) if NO_NAME.match(named) else named


def _is_defined(match: re.Match[str]) -> bool:
    """Whether a first sentence says what something is, and not what happened: "Ann Lee has been arrested"."""
    words = match["subject"].split()
    if words[0].casefold() in PRONOUNS or {"that", "which", "who"} & set(words):
        return False
    rest = match.string[match.end() :]
    is_past = match[0].endswith(("was", "were", "been"))
    return bool(ARTICLE.match(rest)) if is_past else not PROGRESSIVE.match(rest)


def beginning(sentence: str) -> str:
    """A first sentence, or as much of a long one as can stand for it: up to its last comma, or its first words."""
    words = sentence.split()
    if len(words) <= MAX_SENTENCE_WORDS:
        return sentence
    end = MAX_SENTENCE_WORDS
    for number, word in enumerate(words[:MAX_SENTENCE_WORDS], start=1):
        if number >= MAX_SENTENCE_WORDS // 2 and word.endswith((",", ";")):
            end = number
    return " ".join(words[:end]).rstrip(",;")


def _often(phrase: str, sentences: Sequence[str]) -> bool:
    """Whether the text comes back to it: a word of it that tells something stands in another sentence."""
    content = set(normalise(phrase)) - STOP_WORDS
    count = _sentences_of_words(sentences)
    is_repeated = any(count[word] > 1 for word in content)
    return bool(content) and (len(sentences) < 6 or is_repeated)


def key_sentences(sentences: Sequence[str]) -> list[str]:
    """Those that hold most of the document's frequent words, the best first (Luhn 1958)."""
    frequent = {word: count for word, count in _sentences_of_words(sentences).most_common(12) if count > 1}

    def weight(sentence: str) -> float:
        words = normalise(sentence)
        return sum(frequent.get(word, 0) for word in set(words)) / (10 + len(words))

    whole = [sentence for sentence in sentences if 6 <= len(sentence.split()) <= 40]
    return sorted(whole, key=weight, reverse=True)[:4]


def _sentences_of_words(sentences: Sequence[str]) -> Counter[str]:
    """In how many sentences each word stands that tells something."""
    count: Counter[str] = Counter()
    for sentence in sentences:
        count.update(filterfalse(STOP_WORDS.__contains__, dict.fromkeys(normalise(sentence))))  # in the text's order
    return count


def is_heading(block: str) -> bool:
    """Whether a paragraph looks like a heading: a short line that ends as no sentence does."""
    words = block.split()
    return (
        0 < len(words) <= MAX_HEADING_WORDS
        and "\n" not in block
        and not block.endswith(HEAD_ENDS)
        and any(map(str.isalpha, block))
        and not words[0][0].islower()
    )


def _blocks(pages: Sequence[Page]) -> Iterator[str]:
    """The document's paragraphs."""
    text = "\n\n".join(page.text for page in pages if page.text.strip())
    for block in re.split(r"\n\s*\n", text[len(own_text(pages)) :]):
        if block.strip():
            yield block.strip()


def _sentences(block: str) -> list[str]:
    block = re.sub(r" ?\(\s*\)", "", block)  # what an encyclopedia's pronunciation leaves
    sentences: list[str] = []
    for part in map(one_line, SENTENCE_END.split(block)):
        if sentences and ABBREVIATED.search(sentences[-1]):
            sentences[-1] += f" {part}"
        else:
            sentences.append(part)
    return [sentence for sentence in sentences if len(sentence.split()) > 3]


def _fitting(parts: Sequence[str]) -> Iterator[str]:
    """As many as have room, the first ones cut where they have to be."""
    room = MAX_WORDS
    for part in parts:
        words = part.split()
        if len(words) > room and room < MAX_WORDS // 3:
            continue
        yield " ".join(words[:room])
        room -= min(room, len(words))
