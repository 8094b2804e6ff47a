"""Documents of an encyclopedia's length, 500 to 1,000 words, with questions, out of what no training sees.

    python -m core.evaluation.heldout --articles wikipedia-0.txt.xz ... --out rules.squad.json
    python -m core.evaluation.heldout --human reading-comprehension.jsonl.gz --out people.squad.json
    python -m core.evaluation.heldout --facts 100 --count 2 --out facts.squad.json
    python -m core.evaluation.heldout --squad more-reading.jsonl.gz --count 16 --out squad.squad.json
    python -m core.evaluation.heldout --human FILE --general --count 2048 --out general.squad.json
    python -m core.evaluation.heldout --tables more-reading.jsonl.gz --layout rows --count 12 --out tables.squad.json

By rule: held-out articles with questions that rules make of their sentences, which quote them. By people: held-out
paragraphs of Natural Questions and sentences of QAMR, joined at random, with the questions that people asked. SQuAD:
its held-out paragraphs, joined at random, with questions of people and one that the paragraph does not answer, if there
is one. Facts: invented ones, so many a document, one question each. General: questions about none of these documents,
out of what training has seen. Tables: held-out ones of WikiTableQuestions, laid out as LAYOUTS says, with people's
questions that one cell answers, and cells asked for by name. `--skip N` leaves out the first N documents, so that what
is fitted on one set is judged by another.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from core.document.tables import line_of, row_sentences, rows_as_text
from core.document.text import one_line
from core.prepare.invented import fact, invented_word
from core.prepare.material import (
    Passage,
    grouped,
    is_development,
    is_development_article,
    passages_of,
    read_articles,
    read_rows,
)
from core.prepare.questions import QA

MIN_WORDS, MAX_WORDS = 500, 1000  # of a document
ARTICLE_QUESTIONS = 8
SENTENCE_QUESTIONS = 3  # people asked some forty about each of QAMR's
TABLE_WORDS = 200  # of a table, at most
CELL_QUESTIONS = 4  # by people, and as many by the names of row and column

TitledPassages = tuple[str, list[Passage]]  # a document: title, paragraphs
Rows = list[list[str]]  # of a table: cells
LAYOUTS: dict[str, Callable[[Rows], str]] = {  # bars: as training has seen them
    "rows": lambda rows: "\n".join(map(line_of, rows)),
    "bars": lambda rows: "\n".join(map(" | ".join, rows)),
    "sentences": lambda rows: "\n".join(row_sentences(rows)),
    "product": rows_as_text,
}


def read_people(path: Path, *, development: bool, sources: Sequence[str] = ("nq", "qamr", "fairy")) -> list[Passage]:
    """Contexts of these sources with people's questions, one split; the kind is the source."""
    by_context: dict[tuple[str, str], list[QA]] = defaultdict(list)
    for row in read_rows(path):
        if row["source"] in sources and "\n" not in row["answer"] and is_development(row["context"]) == development:
            question = row["question"].split("?")[0].strip() + "?"
            by_context[row["source"], row["context"]].append(QA(question, row["answer"].strip()))
    return [Passage(source, source, context, questions) for (source, context), questions in by_context.items()]


def by_rule(articles: Iterable[tuple[str, str]], count: int, seed: int = 0) -> list[TitledPassages]:
    """So many held-out articles, each with 8 questions over all its paragraphs."""
    rng = random.Random(seed)
    fit = []
    for title, text in articles:
        if is_development_article(title) and MIN_WORDS <= len(text.split()) <= MAX_WORDS:
            fit.append((title, text))
    fit.sort()
    documents: list[TitledPassages] = []
    for title, text in rng.sample(fit, len(fit)):
        passages = passages_of((title, text))
        if len(documents) < count and count_words(passages) >= MIN_WORDS:
            drawn = draw_questions(passages, rng)
            if drawn:
                documents.append((title, drawn))
    return documents


def draw_questions(passages: Sequence[Passage], rng: random.Random) -> list[Passage]:
    """The passages with 8 of their questions; nothing where they have fewer."""
    questions = []
    for n, passage in enumerate(passages):
        questions += [(n, question) for question in passage.questions]
    if len(questions) < ARTICLE_QUESTIONS:
        return []
    kept = set(rng.sample(questions, ARTICLE_QUESTIONS))
    drawn = []
    for n, passage in enumerate(passages):
        drawn.append(passage._replace(questions=[q for q in passage.questions if (n, q) in kept]))
    return drawn


def by_people(paragraphs: Sequence[Passage], count: int, seed: int = 0) -> list[TitledPassages]:
    """As many documents, at most `count`, as the paragraphs give, each of at least 500 words."""
    rng = random.Random(seed)
    few = []
    for passage in paragraphs:
        questions = rng.sample(passage.questions, min(SENTENCE_QUESTIONS, len(passage.questions)))
        few.append(passage._replace(questions=questions, beyond=passage.beyond[:1]))
    return [("Notes", group) for group in group_paragraphs(rng.sample(few, len(few)))][:count]


def squad_passages(path: Path) -> list[Passage]:
    """SQuAD's held-out paragraphs with short answers."""
    return [passage for passage in grouped(_heldout_rows(read_rows(path), "squad")) if passage.kind == "people"]


def _heldout_rows(rows: Iterable[Mapping[str, Any]], source: str) -> Iterator[Mapping[str, Any]]:
    for row in rows:
        if row["source"].startswith(source) and is_development(row["context"]):
            yield row


def by_table(rows: Iterable[Mapping[str, Any]], layout: str, count: int, seed: int = 0) -> list[TitledPassages]:
    """So many held-out tables, each with what people asked that one of its cells answers, and with as many cells that
    are asked for by the names of their row and column.

    Args:
        layout: of LAYOUTS.
    """
    asked: dict[str, list[QA]] = defaultdict(list)
    for row in _heldout_rows(rows, "wikitablequestions"):
        asked[row["context"]].append(QA(one_line(row["question"]), row["answer"].strip()))
    rng = random.Random(seed)
    documents: list[TitledPassages] = []
    for text, questions in rng.sample(sorted(asked.items()), len(asked)):
        table = []
        for line in text.splitlines():
            table.append(list(map(str.strip, line.split("|"))))
        cells = list(chain.from_iterable(table[1:]))
        of_cells = [question for question in questions if cells.count(question.answer) == 1][:CELL_QUESTIONS]
        named = cells_by_name(table)
        if of_cells and named and row_sentences(table) and len(text.split()) <= TABLE_WORDS:
            named = rng.sample(named, min(CELL_QUESTIONS, len(named)))
            documents.append(("Table", [Passage("tables", "", LAYOUTS[layout](table), [*of_cells, *named])]))
    return documents[:count]


def cells_by_name(table: Rows) -> list[QA]:
    """Cells that no other one is like, each asked for by its row and column: "What is the Built of Pier?"."""
    heading, *body = table
    cells = list(chain.from_iterable(body))
    questions = []
    for row in body:
        single = [cell for cell in row if cells.count(cell) == 1]
        name = next((cell for cell in single if sum(map(str.isalpha, cell)) > 2), None)
        for column, cell in zip(heading, row, strict=False):
            if name and column and cell != name and cell in single:
                questions.append(QA(f"What is the {column} of {name}?", cell))
    return questions


def general(paragraphs: Sequence[Passage], count: int, seed: int = 5) -> list[TitledPassages]:
    """So many paragraphs of Natural Questions, one question each."""
    asked = [p._replace(questions=p.questions[:1]) for p in paragraphs if p.kind == "nq"]
    return [("General", random.Random(seed).sample(asked, min(count, len(asked))))]


def by_invention(facts: int, count: int, seed: int = 11) -> list[TitledPassages]:
    """So many documents of so many facts, ten to a paragraph."""
    rng = random.Random(seed)
    documents = []
    for _ in range(count):
        invented = [fact(rng) for _ in range(facts)]
        passages = []
        for start in range(0, facts, 10):
            sentences, asked = [], []
            for sentence, questions in invented[start : start + 10]:
                sentences.append(sentence)
                if questions:
                    asked.append(rng.choice(questions))
            passages.append(Passage("invented", "", " ".join(sentences), asked))
        documents.append((invented_word(rng), passages))
    return documents


def group_paragraphs(paragraphs: Iterable[Passage]) -> Iterator[list[Passage]]:
    """Neighbours, until they are long enough together; a rest that is too short is left out."""
    group: list[Passage] = []
    for paragraph in paragraphs:
        group.append(paragraph)
        if count_words(group) >= MIN_WORDS:
            yield group
            group = []


def count_words(passages: Sequence[Passage]) -> int:
    return sum(len(passage.text.split()) for passage in passages)


def squad_format(documents: Sequence[TitledPassages]) -> dict[str, Any]:
    """As a question set in SQuAD's format; what a paragraph does not answer as in version 2.0, without answers."""
    data = []
    for title, passages in documents:
        paragraphs = []
        for passage in passages:
            qas: list[dict[str, Any]] = []
            for asked in passage.questions:
                qas.append({"question": asked.question, "answers": [{"text": asked.answer}]})
            for asked in passage.beyond:
                qas.append({"question": asked.question, "answers": [], "is_impossible": True})
            paragraphs.append({"context": passage.text, "qas": qas})
        data.append({"title": title, "paragraphs": paragraphs})
    return {"version": "1.1", "data": data}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--articles", nargs="*", type=Path, default=[])
    parser.add_argument("--human", type=Path)
    parser.add_argument("--squad", type=Path)
    parser.add_argument("--tables", type=Path)
    parser.add_argument("--layout", choices=LAYOUTS, default="product", help="of tables")
    parser.add_argument("--facts", type=int)
    parser.add_argument("--general", action="store_true")
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--skip", type=int, default=0, help="leave out the first so many documents")
    parser.add_argument("--out", required=True, type=Path)
    o = parser.parse_args()
    count = o.skip + o.count
    if o.facts:
        documents = by_invention(o.facts, count)
    elif o.tables:
        documents = by_table(read_rows(o.tables), o.layout, count)
    elif o.general:
        [(title, drawn)] = general(read_people(o.human, development=False), count)
        documents = [(title, [passage]) for passage in drawn]
    elif o.human:
        human = [p for p in read_people(o.human, development=True) if p.kind in ("nq", "qamr")]
        documents = by_people(human, count)
    elif o.squad:
        documents = by_people(squad_passages(o.squad), count)
    else:
        documents = by_rule(chain.from_iterable(map(read_articles, o.articles)), count)
    documents = documents[o.skip :]
    o.out.write_text(json.dumps(squad_format(documents)))
    words = [count_words(passages) for _, passages in documents]
    passages = chain.from_iterable(passages for _, passages in documents)
    questions = sum(len(passage.questions) for passage in passages)
    print(f"{len(documents)} documents of {min(words)} to {max(words)} words, {questions} questions", flush=True)


if __name__ == "__main__":
    main()
