"""Documents of an encyclopedia's length, 500 to 1,000 words, with questions, out of what no training sees.

    python -m core.evaluation.heldout --articles wikipedia-0.txt.xz ... --out rules.squad.json
    python -m core.evaluation.heldout --human reading-comprehension.jsonl.gz --out people.squad.json
    python -m core.evaluation.heldout --facts 100 --count 2 --out facts.squad.json
    python -m core.evaluation.heldout --squad more-reading.jsonl.gz --count 16 --out squad.squad.json
    python -m core.evaluation.heldout --human FILE --general --count 2048 --out general.squad.json

By rule: held-out articles with questions that rules make of their sentences, which quote them. By people: held-out
paragraphs of Natural Questions and sentences of QAMR, joined at random, with the questions that people asked. SQuAD:
its held-out paragraphs, joined at random, with questions of people and some that the paragraph does not answer. Facts:
invented ones, so many a document, one question each. General: questions about none of these documents, out of what
training has seen. `--skip N` leaves out the first N documents, so that what is fitted on one set is judged by another.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from core.prepare.invented import fact, invented_word
from core.prepare.material import (
    Passage,
    grouped,
    is_development,
    is_development_article,
    passages_of,
    read_articles,
    read_people,
    read_rows,
)

LEAST, MOST = 500, 1000  # words of a document
EACH = 8  # questions of an article
OF_A_SENTENCE = 3  # questions: people asked some forty about each of QAMR's
BEYOND = 1  # question of a paragraph that it does not answer, where there is one

Document = tuple[str, list[Passage]]  # title, paragraphs


def by_rule(articles: Iterable[tuple[str, str]], count: int, seed: int = 0) -> list[Document]:
    """So many held-out articles, each with 8 questions over all its paragraphs."""
    rng = random.Random(seed)
    fit = sorted(a for a in articles if is_development_article(a[0]) and LEAST <= len(a[1].split()) <= MOST)
    made = ((title, passages_of((title, text))) for title, text in rng.sample(fit, len(fit)))
    found: list[Document] = []
    for title, passages in made:
        every = [(n, q) for n, p in enumerate(passages) for q in p.questions]
        if len(found) < count and len(every) >= EACH and sum(len(p.text.split()) for p in passages) >= LEAST:
            kept = set(rng.sample(every, EACH))
            found.append(
                (
                    title,
                    [p._replace(questions=[q for q in p.questions if (n, q) in kept]) for n, p in enumerate(passages)],
                )
            )
    return found


def by_people(paragraphs: Sequence[Passage], count: int, seed: int = 0) -> list[Document]:
    """As many documents, at most `count`, as the paragraphs give, each of at least 500 words."""
    rng = random.Random(seed)
    few = [
        p._replace(questions=rng.sample(p.questions, min(OF_A_SENTENCE, len(p.questions))), beyond=p.beyond[:BEYOND])
        for p in paragraphs
    ]
    return [("Notes", group) for group in joined(rng.sample(few, len(few)))][:count]


def read_squad_rows(path: Path) -> list[Passage]:
    """SQuAD's held-out paragraphs with short answers."""
    rows = (row for row in read_rows(path) if row["source"].startswith("squad") and is_development(row["context"]))
    return [p for p in grouped(rows) if p.kind == "people"]


def general(paragraphs: Sequence[Passage], count: int, seed: int = 5) -> list[Document]:
    """So many paragraphs of Natural Questions, one question each."""
    asked = [p._replace(questions=p.questions[:1]) for p in paragraphs if p.kind == "nq"]
    return [("General", random.Random(seed).sample(asked, min(count, len(asked))))]


def by_invention(facts: int, count: int, seed: int = 11) -> list[Document]:
    """So many documents of so many facts, ten to a paragraph."""
    rng, found = random.Random(seed), []
    for _ in range(count):
        made = [fact(rng) for _ in range(facts)]
        parts = [made[at : at + 10] for at in range(0, facts, 10)]
        asked = [[rng.choice(questions) for _, questions in part if questions] for part in parts]
        texts = [" ".join(sentence for sentence, _ in part) for part in parts]
        found.append(
            (invented_word(rng), [Passage("invented", "", text, qs) for text, qs in zip(texts, asked, strict=True)])
        )
    return found


def joined(paragraphs: Iterable[Passage]) -> Iterator[list[Passage]]:
    """Neighbours, until they are long enough together; a rest that is too short is left out."""
    group: list[Passage] = []
    for paragraph in paragraphs:
        group.append(paragraph)
        if sum(len(p.text.split()) for p in group) >= LEAST:
            yield group
            group = []


def squad(documents: Sequence[Document]) -> dict[str, Any]:
    """In SQuAD's format; what a paragraph does not answer as in version 2.0, without answers."""

    def asked(p: Passage) -> list[dict[str, Any]]:
        answered = [{"question": q.question, "answers": [{"text": q.answer}]} for q in p.questions]
        return answered + [{"question": q.question, "answers": [], "is_impossible": True} for q in p.beyond]

    data = [{"title": t, "paragraphs": [{"context": p.text, "qas": asked(p)} for p in of]} for t, of in documents]
    return {"version": "1.1", "data": data}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--articles", nargs="*", type=Path, default=[])
    parser.add_argument("--human", type=Path)
    parser.add_argument("--squad", type=Path)
    parser.add_argument("--facts", type=int)
    parser.add_argument("--general", action="store_true")
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--skip", type=int, default=0, help="leave out the first so many documents")
    parser.add_argument("--out", required=True, type=Path)
    o = parser.parse_args()
    count = o.skip + o.count
    if o.facts:
        found = by_invention(o.facts, count)
    elif o.general:
        [(title, paragraphs)] = general(read_people(o.human, development=False), count)
        found = [(title, [p]) for p in paragraphs]
    elif o.human:
        human = [p for p in read_people(o.human, development=True) if p.kind in ("nq", "qamr")]
        found = by_people(human, count)
    elif o.squad:
        found = by_people(read_squad_rows(o.squad), count)
    else:
        found = by_rule([a for path in o.articles for a in read_articles(path)], count)
    found = found[o.skip :]
    o.out.write_text(json.dumps(squad(found)))
    words = [sum(len(p.text.split()) for p in of) for _, of in found]
    questions = sum(len(p.questions) for _, of in found for p in of)
    print(f"{len(found)} documents of {min(words)} to {max(words)} words, {questions} questions", flush=True)


if __name__ == "__main__":
    main()
