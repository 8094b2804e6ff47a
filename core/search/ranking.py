"""Which sections a question is put to, which of their answers is given, and how far it can be trusted.

A question goes down once: `by_words` and `by_closeness` rank chunks, `sections_to_ask` says whose weights are asked,
`groups_to_ask` whether a thread's document comes first. Its answers come up once: `judge` looks them up in the text
(`support_of`), takes one or none (`choose_answer`), and says how far it can be trusted (`certainty`). Pure functions;
their numbers are `RankingParameters`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

from core.document.language import ENGLISH, language_of
from core.prompts import NOT_IN_TEXT
from core.search.closeness import Closeness
from core.search.evidence import asked_words, evidence, fits_question
from core.search.parameters import RankingParameters
from core.search.words import bm25_scores, frequency, normalise, supporting_pages, word_shares
from core.types import Certainty, Completion, Document, Page

ChunkKey = tuple[str, int]  # id of a document, number of one of its chunks; the first is 0


class WordMatch(NamedTuple):
    """A word of a question that stands in a chunk, as FTS5 finds it."""

    word: str
    document_id: str
    chunk: int  # its number in the document, the first is 0
    bm25: float  # FTS5's bm25() for this word alone
    containing: int  # rows of the whole table in which the word stands
    rows: int  # of the whole table
    searched: int  # chunks of the documents that were searched


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A chunk that a question points at."""

    document: Document
    chunk: int  # its number in the document, the first is 0
    score: float  # BM25, and what its closeness is worth
    share: float  # of the question's words, weighted by how rare they are, that stands in it, 0..1
    searched: int  # chunks that it is the best of, at least 1
    odds: float | None = None  # log-odds that the question is about it, by closeness; None where that was not asked
    text: str = ""  # of the chunk; its words alone where no text is kept
    code: bytes = b""  # of the chunk, to compare a question with (core.search.closeness)

    @property
    def key(self) -> ChunkKey:
        return self.document.id, self.chunk

    @property
    def section(self) -> int:
        """Number of the document's section whose weights learned the chunk."""
        return self.document.weights.sections[self.chunk]


@dataclass(frozen=True, kw_only=True)
class SectionAnswer:
    """What the weights of a section answered."""

    hit: Hit  # why they were asked
    completion: Completion
    pages: tuple[int, ...] | None  # that support the answer; () where none does, None where no text is kept

    @property
    def is_answer(self) -> bool:
        return is_answer(self.completion.text)


# Down: which sections are asked


def as_spelled(matches: Iterable[WordMatch], meant: Mapping[str, str]) -> list[WordMatch]:
    """Matches of other spellings, as those of the words that were written: of each word's spellings the one that stands
    in most chunks. meant: the word of each spelling."""
    by_spelling: dict[str, list[WordMatch]] = {}
    for match in matches:
        by_spelling.setdefault(match.word, []).append(match)
    best: dict[str, list[WordMatch]] = {}  # by the word that was written
    for spelling, group in by_spelling.items():
        word = meant[spelling]
        if word not in best or group[0].containing > best[word][0].containing:
            best[word] = [match._replace(word=word) for match in group]
    return list(chain.from_iterable(best.values()))


def by_words(
    matches: Sequence[WordMatch], words: Sequence[str], documents: Mapping[str, Document], limit: int
) -> list[Hit]:
    """The chunks that a question's words point at, best first; the newest document's first chunk where none of them is
    found, and nothing where there is no document. documents: that were searched, by id, the newest first."""
    if not matches:
        newest = next(iter(documents.values()), None)
        return [Hit(document=newest, chunk=0, score=0.0, share=0.0, searched=1)] if newest else []
    frequencies: dict[str, dict[ChunkKey, float]] = {word: {} for word in words}
    for match in matches:
        often = frequency(match.bm25, match.containing, match.rows)
        frequencies[match.word][match.document_id, match.chunk] = often
    searched = matches[0].searched
    score, share = bm25_scores(frequencies, searched), word_shares(frequencies, searched)

    def order(key: ChunkKey) -> tuple[float, float, int]:
        id, chunk = key
        return -score[key], -documents[id].learned_at, chunk

    hits = []
    for key in sorted(score, key=order)[:limit]:
        id, chunk = key
        hits.append(Hit(document=documents[id], chunk=chunk, score=score[key], share=share[key], searched=searched))
    return hits


def by_closeness(hits: Sequence[Hit], close: Sequence[Closeness] | None, parameters: RankingParameters) -> list[Hit]:
    """Hits in the order of words and closeness; as they are where their closeness is not known."""
    if close is None:
        return list(hits)
    scored = []
    for hit, c in zip(hits, close, strict=True):
        score = hit.score + parameters.closeness_weight * c.similarity
        scored.append(replace(hit, score=score, odds=c.odds))
    return sorted(scored, key=lambda hit: -hit.score)


def sections_to_ask(hits: Sequence[Hit], parameters: RankingParameters) -> list[Hit]:
    """The best hit of each section that is worth asking, in their order. A document that would take all places leaves
    the last one to the next document. hits: best first."""
    considered = hits[: parameters.considered_chunks]
    best: dict[tuple[str, int], Hit] = {}
    for hit in considered:
        if hit.score >= considered[0].score - parameters.score_margin:
            best.setdefault((hit.document.id, hit.section), hit)
    worth_asking = list(best.values())
    asked = worth_asking[: parameters.max_sections]
    if len(asked) > 1 and len({hit.document.id for hit in asked}) == 1:
        for hit in worth_asking[parameters.max_sections :]:
            if hit.document.id != asked[0].document.id:
                asked[-1] = hit
                break
    return asked


def leaves_thread(hits: Sequence[Hit], document_id: str, parameters: RankingParameters) -> bool:
    """Whether a question in a thread points at another document than the thread's own, by far.

    Args:
        hits: of the whole channel, best first. What is not among them scores no better than the last.
        document_id: the thread's document.
    """
    if not hits:
        return False
    own_hits = [hit for hit in hits if hit.document.id == document_id]
    own = own_hits[0] if own_hits else hits[-1]
    return hits[0].score - own.score > parameters.thread_margin


def groups_to_ask(channel: Sequence[Hit], thread: Sequence[Hit], parameters: RankingParameters) -> list[list[Hit]]:
    """The sections that a question is put to, those first whose answer is given where it is one: in a thread its
    document's, as if the channel knew no other, unless the question clearly points at another one; then the channel's.

    Args:
        channel: hits among all documents, best first.
        thread: hits within the document that answered in the thread last, best first; none outside of threads.
    """
    everywhere = sections_to_ask(channel, parameters)
    if not thread or leaves_thread(channel, thread[0].document.id, parameters):
        return [everywhere]
    return [sections_to_ask(thread, parameters), everywhere]


def distinct(several: Iterable[Sequence[Hit]]) -> dict[ChunkKey, Hit]:
    """Every hit of several groups once, in their order."""
    first: dict[ChunkKey, Hit] = {}
    for group in several:
        for hit in group:
            first.setdefault(hit.key, hit)
    return first


# Up: which answer is given


def judge(
    question: str,
    asked: Sequence[Sequence[Hit]],
    completions: Mapping[ChunkKey, Completion],
    pages: Mapping[str, Sequence[Page]],
    parameters: RankingParameters,
    *,
    floor: float = 0.0,
    gate: bool = True,
) -> tuple[SectionAnswer | None, Certainty]:
    """The answer to give, if any, and how far it can be trusted. Reads whole documents: call through a thread.

    Args:
        asked: groups of sections, as for `choose_answer`; those without a completion are left out.
        pages: the documents' text, by their ids; empty where none is kept.
    """
    support = support_of(question, completions, pages)
    answered, corrected = [], []
    for group in asked:
        answers = []
        for hit in group:
            if hit.key in completions:
                answer = SectionAnswer(hit=hit, completion=completions[hit.key], pages=support[hit.key])
                answers.append(answer)
                if answer.is_answer and corrects(hit, question, pages):
                    corrected.append(answer)
        answered.append(answers)
    if corrected:
        answered = [corrected]
    best = choose_answer(answered, parameters, floor=floor, gate=gate)
    if best is None:
        return None, Certainty.UNSURE
    if best.completion.confidence < floor:
        silent = replace(best.completion, text=NOT_IN_TEXT)
        best = replace(best, completion=silent, pages=best.pages and ())
    share = evidence_on(pages[best.hit.document.id], best.pages, question, best.completion.text)
    closest = is_closest(best.hit, distinct(asked).values())
    return best, certainty(question, best.completion, share, parameters, closest=closest)


def corrects(hit: Hit, question: str, pages: Mapping[str, Sequence[Page]]) -> bool:
    """Whether a chunk is what somebody said is right about this very question (`core.correction.page_of`): its answer
    is given before those of the text that it corrects."""
    for page in pages[hit.document.id]:
        if page.correction and page.text.strip() == hit.text.strip():
            corrected_question, _, _ = page.text.partition("? ")
            if set(normalise(question)) == set(normalise(corrected_question)):
                return True
    return False


def support_of(
    question: str, completions: Mapping[ChunkKey, Completion], pages: Mapping[str, Sequence[Page]]
) -> dict[ChunkKey, tuple[int, ...] | None]:
    """For each answer the pages of its document on which it stands near the question's words; () where none does, None
    where no text is kept. pages: every document's, by its id; each document is read once."""
    by_document: dict[str, list[ChunkKey]] = {}
    for key in completions:
        by_document.setdefault(key[0], []).append(key)
    support: dict[ChunkKey, tuple[int, ...] | None] = {}
    for document_id, keys in by_document.items():
        document = pages[document_id]
        answers = [completions[key].text for key in keys]
        supported = supporting_pages([page.text for page in document], answers, question)
        for key, positions in zip(keys, supported, strict=True):
            support[key] = tuple(document[n].number for n in positions) if document else None
    return support


def evidence_on(pages: Sequence[Page], supporting: Sequence[int] | None, question: str, answer: str) -> float | None:
    """Of what is asked, the share that stands beside the answer, 0..1; None where no text is kept.

    Args:
        pages: of the document that answers.
        supporting: numbers of those to look at.
    """
    if supporting is None:
        return None
    return evidence([page.text for page in pages if page.number in supporting], question, answer)


def choose_answer(
    answered: Sequence[Sequence[SectionAnswer]], parameters: RankingParameters, *, floor: float = 0.0, gate: bool = True
) -> SectionAnswer | None:
    """The best answer of the first group that has one about the question; if none has, that of the last group, or None
    where that is not about the question.

    Args:
        answered: groups of sections' answers; those before the last are a thread's document's.
        floor: confidence below which an answer is none.
        gate: whether an answer has to be about the question at all. Off, where a person named the document.
    """
    best = None
    for answers in filter(None, answered):
        best = best_answer(answers, parameters)
        if gate and not is_about(best, parameters):
            best = None
        elif best.is_answer and best.completion.confidence >= floor:
            break
    return best


def best_answer(answers: Sequence[SectionAnswer], parameters: RankingParameters) -> SectionAnswer:
    """The surest, with regard to its score in the search and to whether the text supports it. One that says "not in the
    text" only when all do."""

    def order(answer: SectionAnswer) -> tuple[bool, float]:
        certain = math.log(max(answer.completion.confidence, 1e-9))
        certain += parameters.score_weight * answer.hit.score + parameters.support_weight * bool(answer.pages)
        return answer.is_answer, certain

    return max(answers, key=order)


def is_about(answer: SectionAnswer, parameters: RankingParameters) -> bool:
    """The gate: whether the section that answers is about the question."""
    return relevance(answer, parameters) >= parameters.gate_share


def relevance(answer: SectionAnswer, parameters: RankingParameters) -> float:
    """How much speaks for it that a section is about the question: its share of the question's words, its closeness,
    and whether the text supports the answer. Against it speaks doubt in the answer, since weights doubt what they did
    not learn, and the number of chunks that it is the best of, since the best of many holds more words by chance."""
    hit, p = answer.hit, parameters
    closer = p.gate_odds * (hit.odds - p.gate_usual_odds) if hit.odds is not None else 0.0
    doubt = p.gate_doubt * (1 - answer.completion.confidence) + p.gate_size * math.log(hit.searched)
    return hit.share + closer + p.gate_support * bool(answer.pages) - doubt


def is_closest(hit: Hit, asked: Iterable[Hit]) -> bool:
    """Whether no section of another document that is asked, too, is closer to the question; also where closeness is not
    known."""
    if hit.odds is None:
        return True
    others = [other.odds for other in asked if other.document.id != hit.document.id and other.odds is not None]
    return hit.odds >= max(others, default=hit.odds)


def certainty(
    question: str,
    completion: Completion,
    evidence: float | None,
    parameters: RankingParameters,
    *,
    closest: bool = True,
) -> Certainty:
    """How far a learned answer can be trusted. One that no sentence supports, or of another kind than its question
    wants, or whose question is closer to another document, is never likely.

    Args:
        evidence: share of what is asked that stands beside the answer in the text; None where no text is kept.
        closest: `is_closest`.
    """
    text, confidence = completion.text, completion.confidence
    if not is_answer(text) or not text.strip():
        return Certainty.ABSENT
    is_plausible = (
        fits_question(question, text)
        and bool(asked_words(question))  # "What is it?" asks for anything
        and language_of(question) == ENGLISH  # of others 2 of 17 were right (LOG.md)
    )
    is_supported = evidence is not None and evidence >= parameters.min_evidence and is_plausible
    words = len(text.split())
    all_right = confidence ** (words + 1)  # of the words and of the answer's end; confidence is the mean of its tokens
    if closest and is_supported and all_right >= parameters.likely_confidence:
        return Certainty.LIKELY
    is_short = words <= parameters.absent_words  # a longer answer may be in words of its own
    if evidence == 0.0 and is_short and confidence < parameters.absent_confidence:
        return Certainty.ABSENT
    return Certainty.UNSURE


def is_answer(text: str) -> bool:
    """Whether weights say more than that the text does not hold the answer."""
    return text != NOT_IN_TEXT
