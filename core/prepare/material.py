"""What `prepare` trains on: texts with questions, from published question sets and from encyclopedia articles.

    python -m core.prepare.material --questions FILE.jsonl.gz ... --articles FILE.txt.xz ... --followups FILE \\
        --out FILE.jsonl.xz

A question set has rows of source, lang, context, question and answer ("" when the context does not answer it). Held out
for development and never trained on: contexts whose crc32 is 0 modulo 20, articles whose title's crc32 is 0 modulo 50.
A row or an article's passage goes, too, when its question, or any eight words in a row of its text, stand in the
development split.
"""

from __future__ import annotations

import argparse
import array
import gzip
import json
import lzma
import random
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain, groupby
from multiprocessing import Pool
from pathlib import Path
from typing import IO, Any, Generic, NamedTuple, TypeVar, overload

from core.document.tables import rows_as_text
from core.document.text import one_line
from core.prepare.lists import as_bullets, lists_of, without_single_items
from core.prepare.questions import QA, SENTENCE, ask_paragraph, recurring
from core.prepare.swapped import Words
from core.prompts import NOT_IN_TEXT

SHORT = 12  # words of a short answer, at most
LONGEST_ANSWER = 70  # words; longer answers are left out
LONGEST_CONTEXT = 450  # words
SKIPPED = ("mctest",)  # its licence is for research only
BULLETED = 0.3  # share of the lists that become lines of their own
MACHINE = "unanswerable"  # in the name of sources whose questions have no answer in the text
ABOUT = (
    "What is this document about?",
    "What is it about?",
    "What is this about?",
    "What's this document about?",
    "Summarise it.",
    "Summarize this document",
    "Give me a summary.",
    "What is the topic of this document?",
    "tl;dr",
)


class Passage(NamedTuple):
    """A text with questions that it answers, and questions that it does not."""

    kind: str  # people | long | tables | rules | lists | gist | other-languages | written (by `core.prepare.written`)
    title: str
    text: str
    questions: list[QA]
    beyond: list[QA] = []  # noqa: RUF012  answered by NOT_IN_TEXT


class FollowUp(NamedTuple):
    """A question that needs the ones before it, and the same question made whole."""

    history: list[str]
    question: str
    rewrite: str


# -- reading the sources -----------------------------------------------------------------------------------------------


def is_development(context: str) -> bool:
    return zlib.crc32(context.encode()) % 20 == 0


def is_development_article(title: str) -> bool:
    return zlib.crc32(title.encode()) % 50 == 0


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a question set, those of sources that may not be used left out."""
    with gzip.open(path, "rt") as file:
        for line in file:
            row = json.loads(line)
            if row["source"] not in SKIPPED:
                yield row


def read_articles(path: Path) -> list[tuple[str, str]]:
    """(title, text) of every article of one `wikipedia-N.txt.xz`."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        text = file.read()
    articles = []
    for article in text.split("\n\x1e\n"):
        head, _, body = article.strip().partition("\n")
        if body.strip():
            articles.append((head.lstrip("# ").strip(), body.strip()))
    return articles


def kind_of_row(row: Mapping[str, Any]) -> str:
    if row.get("lang", "en") != "en":
        return "other-languages"
    if "(table" in row["source"]:
        return "tables"
    return "people" if len(row["answer"].split()) <= SHORT else "long"


def grouped(rows: Iterable[Mapping[str, Any]]) -> list[Passage]:
    """Passages of these rows, those of a source next to each other as they come."""
    answered: dict[tuple[str, str], list[QA]] = defaultdict(list)
    unanswered: dict[str, list[QA]] = defaultdict(list)
    for row in rows:
        context, question, answer = row["context"].strip(), one_line(row["question"]), one_line(row["answer"])
        if len(answer.split()) > LONGEST_ANSWER or len(context.split()) > LONGEST_CONTEXT or not question:
            continue
        if answer:
            answered[kind_of_row(row), context].append(QA(question, answer))
        elif MACHINE in row["source"]:
            unanswered[context].append(QA(question, NOT_IN_TEXT))
    passages = []
    for (kind, text), qas in answered.items():
        shown = laid_out(text) if kind == "tables" else text
        passages.append(Passage(kind, "", shown, qas, unanswered.get(text, [])))
    return passages


def laid_out(text: str) -> str:
    """Rows `a | b | c` as the product shows tables; other lines stay."""
    parts: list[str] = []
    for is_row, group in groupby(text.splitlines(), key=lambda line: "|" in line):
        if is_row:
            parts.append(rows_as_text([line.split("|") for line in group]))
        else:
            parts += group
    return "\n".join(parts)


def passages_of(article: tuple[str, str], recur: float = 0.0, *, with_lists: bool = False) -> list[Passage]:
    """Paragraph groups of 40 to 350 words of one article, each with questions by rule; in a share of `recur` of them a
    sentence is taken out and asked. With questions for lists, too, those that have a list are of the kind "lists"."""
    title, body = article
    rng = random.Random(zlib.crc32(title.encode()))
    passages: list[Passage] = []
    group: list[str] = []
    size, target = 0, rng.choice((80, 150, 250, 350))
    for paragraph in (*filter(None, body.split("\n")), ""):
        words = len(paragraph.split())
        if group and (size + words > target or not paragraph):
            if 30 <= size <= 500:
                taken = recurring(group, title, rng) if recur and rng.random() < recur else None
                group, asked_again = taken or (group, None)
                questions: list[QA] = []
                lists: list[QA] = []
                for number, asked in enumerate(group):
                    of_paragraph = lists_of(asked, title, rng) if with_lists else []
                    questions += without_single_items(ask_paragraph(asked, title, rng, 6), of_paragraph)
                    if of_paragraph and rng.random() < BULLETED:
                        group[number] = as_bullets(asked, of_paragraph[-1].answer, rng)
                    lists += of_paragraph
                if asked_again:
                    questions.append(asked_again)
                kind = "lists" if lists else "rules"
                passages.append(Passage(kind, title, "\n".join(group), lists + questions))
            group, size, target = [], 0, rng.choice((80, 150, 250, 350))
        if paragraph and words < 450:
            group.append(paragraph)
            size += words
    return passages


def gist_of(article: tuple[str, str]) -> Passage | None:
    """The first paragraph of an article, asked what the document is about; its first sentence says it."""
    title, body = article
    lead = body.partition("\n")[0].strip()
    first = SENTENCE.split(lead)[0]
    if not (40 <= len(lead.split()) <= 300 and 8 <= len(first.split()) <= 40 and title.split()[0] in first):
        return None
    return Passage("gist", title, lead, [QA(question, first) for question in ABOUT])


def eight_grams(text: str) -> Iterator[tuple[str, ...]]:
    """All 8-grams of a text, lower case, without punctuation."""
    words = re.findall(r"[^\W_]+", text.lower())
    return zip(*(words[first:] for first in range(8)), strict=False)


def without_development(training: Sequence[Passage], development: Sequence[Passage]) -> tuple[list[Passage], int, int]:
    """Training passages that share no eight words in a row with the development split, without its questions.

    Returns: what is left; how many passages and how many questions went.
    """
    runs: set[tuple[str, ...]] = set()
    asked: set[str] = set()
    for p in development:
        runs.update(eight_grams(p.text))
        asked.update(q.question.lower() for q in p.questions)
    apart = [p for p in training if runs.isdisjoint(eight_grams(p.text))]
    kept, went = [], 0
    for p in apart:
        fresh = [q for q in p.questions if q.question.lower() not in asked]
        went += len(p.questions) - len(fresh)
        if fresh:
            kept.append(p._replace(questions=fresh))
    return kept, len(training) - len(apart), went


# -- one file of all of it ---------------------------------------------------------------------------------------------


Row = TypeVar("Row")


class Lines(Sequence[Row], Generic[Row]):
    """Rows of a file, parsed when they are asked for: 110,000 passages are there in seconds, and a worker process is
    sent one block of bytes."""

    def __init__(self, text: bytes, parse: Callable[[list[Any]], Row]) -> None:
        self.text, self.parse = text, parse
        self.ends = array.array("q")  # beginning and end of each row in the text, one after the other

    def add(self, begin: int, end: int) -> None:
        self.ends.extend((begin, end))

    def __len__(self) -> int:
        return len(self.ends) // 2

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        if isinstance(place, slice):
            return [self[n] for n in range(len(self))[place]]
        n = range(len(self))[place]
        return self.parse(json.loads(self.text[self.ends[2 * n] : self.ends[2 * n + 1]]))


def as_passage(row: list[Any]) -> Passage:
    kind, title, text, questions, beyond = row
    return Passage(kind, title, text, [QA(*q) for q in questions], [QA(*q) for q in beyond])


def as_follow_up(row: list[Any]) -> FollowUp:
    return FollowUp(*row[1:])


@dataclass
class Material:
    """Passages by kind, and follow-up questions."""

    passages: Mapping[str, Sequence[Passage]] = field(default_factory=dict)
    follow_ups: Sequence[FollowUp] = ()

    @cached_property
    def words(self) -> Words:
        """Words to swap with: names of the texts, words of people's answers."""
        rules, people = self.passages.get("rules", []), self.passages.get("people", [])
        texts = (passage.text for passage in chain(rules[::8], people[::8]))
        questions = chain.from_iterable(passage.questions for passage in people)
        return Words.gathered(texts, (question.answer for question in questions))


def compressed(path: Path, mode: str) -> IO[Any]:
    """A file in gzip, or in xz, which is a third smaller, by its name."""
    opened: Any = lzma.open if path.suffix == ".xz" else gzip.open
    return opened(path, mode)


def save(path: Path, material: Material) -> None:
    """A line of JSON for each passage and follow-up; the first one holds the words to swap with."""
    with compressed(path, "wt") as file:
        _write_row(file, ["words", material.words.kinds, material.words.small])
        for passages in material.passages.values():
            for passage in passages:
                _write_row(file, passage)
        for follow_up in material.follow_ups:
            _write_row(file, ["follow-up", *follow_up])


def append(path: Path, passages: Iterable[Passage]) -> None:
    """More passages, at the end of a file of `save`."""
    with compressed(path, "at") as file:
        for passage in passages:
            _write_row(file, passage)


def _write_row(file: IO[str], row: Sequence[Any]) -> None:
    file.write(json.dumps(row, ensure_ascii=False) + "\n")


def load(path: Path) -> Material:
    """Material out of one file of `save`."""
    with compressed(path, "rb") as file:
        text = file.read()
    rows: dict[str, Lines[Any]] = {}
    begin = 0
    while begin < len(text):
        end = text.index(b"\n", begin)
        kind = text[begin + 2 : text.index(b'"', begin + 2)].decode()
        if kind not in rows:
            rows[kind] = Lines(text, as_follow_up if kind == "follow-up" else as_passage)
        rows[kind].add(begin, end)
        begin = end + 1
    follow_ups, words = rows.pop("follow-up", ()), rows.pop("words", None)
    material = Material(rows, follow_ups)
    if words:
        _, kinds, small = json.loads(text[words.ends[0] : words.ends[1]])
        material.words = Words(kinds, small)
    return material


def by_kind(passages: Iterable[Passage]) -> dict[str, list[Passage]]:
    kinds: defaultdict[str, list[Passage]] = defaultdict(list)
    for passage in passages:
        kinds[passage.kind].append(passage)
    return dict(kinds)


def build(
    question_files: Sequence[Path], article_files: Sequence[Path], every: int, workers: int, first: int = 0
) -> tuple[list[Passage], list[Passage], dict[str, int]]:
    """Training passages, development passages, and counts of what was left out. `every`: one article in so many, from
    number `first` on."""
    rows: dict[bool, list[dict[str, Any]]] = {True: [], False: []}  # held out, or not
    for row in chain.from_iterable(map(read_rows, question_files)):
        rows[is_development(row["context"])].append(row)
    development, training = grouped(rows[True]), grouped(rows[False])
    articles: list[tuple[str, str]] = []
    for path in article_files:
        articles += [a for a in read_articles(path)[first::every] if not is_development_article(a[0])]
    with Pool(workers) as pool:
        for made in pool.imap(partial(passages_of, recur=0.4, with_lists=True), articles, chunksize=64):
            training += [p for p in made if p.questions]
    training += filter(None, map(gist_of, articles))
    training, passages_gone, questions_gone = without_development(training, development)
    counts = Counter(p.kind for p in training) | {
        "passages left out": passages_gone, "questions left out": questions_gone, "development": len(development),
    }  # fmt: skip
    return training, development, dict(counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", nargs="+", required=True, type=Path)
    parser.add_argument("--articles", nargs="*", default=[], type=Path)
    parser.add_argument("--followups", type=Path)
    parser.add_argument("--every", type=int, default=12, help="take one article in so many")
    parser.add_argument("--first", type=int, default=0, help="from this article on")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", required=True, type=Path, help="FILE.jsonl.xz or .gz; development goes to dev-FILE")
    o = parser.parse_args()
    training, development, counts = build(o.questions, o.articles, o.every, o.workers, o.first)
    follow_ups = []
    if o.followups:
        with gzip.open(o.followups, "rt") as file:
            for row in map(json.loads, file):
                follow_ups.append(FollowUp(row["history"][-4:], row["question"], row["rewrite"]))
    save(o.out, Material(by_kind(training), follow_ups))
    save(o.out.with_name("dev-" + o.out.name), Material(by_kind(development)))
    questions = sum(len(p.questions) for p in training)
    print(f"{len(training):,} passages, {questions:,} questions, {len(follow_ups):,} follow-ups; {counts}", flush=True)


if __name__ == "__main__":
    main()
