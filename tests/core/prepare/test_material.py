"""Material: articles and question sets to passages, one file of all of it, and what is held out."""

from __future__ import annotations

import gzip
import json
import lzma
import pickle
from pathlib import Path

import pytest

from core.document.formats import read_document
from core.evaluation.heldout import read_people
from core.prepare.material import (
    ABOUT,
    FollowUp,
    Material,
    Passage,
    build,
    gist_of,
    grouped,
    is_development,
    is_development_article,
    load,
    main,
    passages_of,
    read_articles,
    save,
    without_development,
)
from core.prepare.questions import QA
from core.prompts import NOT_IN_TEXT
from core.types import Limits

forks = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # Python 3.12 and later
BODY = "\n".join(
    f"Edward Quint was crowned in Paris in {1400 + n}. He built the old tower with forty masons." for n in range(12)
)


def row(context: str, question: str, answer: str, source: str = "nq", lang: str = "en") -> dict[str, str]:
    return {"source": source, "lang": lang, "context": context, "question": question, "answer": answer}


def written(folder: Path, rows: list[dict[str, str]]) -> Path:
    path = folder / "questions.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    return path


def articles(folder: Path) -> Path:
    """Three articles, of which "Lighthouse" is held out."""
    path = folder / "wikipedia-0.txt.xz"
    path.write_bytes(lzma.compress("\n\x1e\n".join(f"# {t}\n{BODY}" for t in ("Lighthouse", "Port", "Kings")).encode()))
    return path


def test_rows_become_passages_by_kind_with_what_they_do_not_answer_beside() -> None:
    rows = [
        row("Orla keeps it.", "Who\nkeeps it?", "Orla"),
        row("Orla keeps it.", "Why is that so?", "because " * 13),
        row("Orla keeps it.", "Who sank?", "", "squad-v2-train-unanswerable"),
        row("Il est là.", "Où ?", "là", "piaf", "fr"),
        row("a | b", "What?", "b", "fetaqa (table)"),
        row("Too long an answer.", "What?", "word " * 90),
    ]
    by_kind = {p.kind: p for p in grouped(rows)}
    assert set(by_kind) == {"people", "long", "other-languages", "tables"}
    assert by_kind["people"].questions == [QA("Who keeps it?", "Orla")]
    assert by_kind["people"].beyond == [QA("Who sank?", NOT_IN_TEXT)]


async def test_tables_are_shown_as_the_product_shows_them() -> None:
    heading, *rows = "Name | Built | Length", "Old pier | 1874 | 120 m", "New  pier | 1902 | "
    table = "\n".join([heading, *rows])
    [passage] = grouped([row(f"Piers\n{table}\n\nOf wood.", "When was the old pier built?", "1874", "wtq (table)")])
    markdown = "\n".join(f"| {line} |" for line in (heading, "--- | --- | ---", *rows))
    [page] = (await read_document(f"Piers\n\n{markdown}\n\nOf wood.".encode(), Limits())).pages
    assert passage.text.split() == page.text.split()
    assert "\n\nOld pier: Built 1874, Length 120 m.\nNew pier: Built 1902.\n" in passage.text


def test_peoples_questions_are_split_by_context_and_research_only_sources_left_out(tmp_path: Path) -> None:
    rows = [row(f"context {n // 2}", f"Why {n}? Because", f" {n} ") for n in range(800)] + [
        row("c", "q", "a", "mctest")
    ]
    path = written(tmp_path, rows)
    train, dev = (read_people(path, development=d) for d in (False, True))
    assert len(train) + len(dev) == 400 and dev and not {p.text for p in train} & {p.text for p in dev}
    assert all(len(p.questions) == 2 and p.kind == "nq" for p in train)
    assert train[0].questions[0].question.endswith("?") and train[0].questions[0].answer.isdigit()


def test_what_shares_eight_words_or_a_question_with_development_goes() -> None:
    held = Passage("people", "", "One two three four five six seven eight nine.", [QA("Who is it?", "one")])
    copied = held._replace(text="They said: two three four five six seven eight nine, again.")
    asked = Passage("people", "", "Another text.", [QA("who is it?", "x"), QA("Where?", "there")])
    kept, passages, questions = without_development([copied, asked], [held])
    assert kept == [asked._replace(questions=[QA("Where?", "there")])] and (passages, questions) == (1, 1)


def test_a_passage_can_ask_what_no_sentence_of_it_says() -> None:
    lines = [f"The stone lighthouse at pier {n} was planned and paid for by Tam Odrey in {1800 + n}." for n in range(9)]
    assert "\n".join(p.text for p in passages_of(("Vessin", "\n".join(lines)))).split("\n") == lines
    for passage in passages_of(("Vessin", "\n".join(lines)), recur=1.0):
        question, answer = passage.questions[-1]
        here = [line for line in lines if line in passage.text]
        spelled = question.rstrip("?").replace("who", answer)
        assert answer in passage.text and not any(spelled in line for line in here)
        assert any(spelled in line for line in lines)


def test_what_an_article_is_about_is_its_first_sentence() -> None:
    lead = "Vessin is an old harbour town on the northern coast of Lund. " + "It has many boats and nets. " * 8
    gist = gist_of(("Vessin", lead + "\nMore."))
    assert gist.text == lead.strip() and {q.question for q in gist.questions} == set(ABOUT)
    assert {q.answer for q in gist.questions} == {"Vessin is an old harbour town on the northern coast of Lund."}
    assert gist_of(("Oslo", lead)) is None, "the first sentence does not name it"


def test_material_comes_back_from_its_file(tmp_path: Path) -> None:
    passages = [p for p in passages_of(("Kings", BODY)) if p.questions]
    saved = Material({"rules": passages}, [FollowUp(["Who?"], "Where is he?", "Where is Orla?")])
    for name in ("m.jsonl.gz", "m.jsonl.xz"):
        save(tmp_path / name, saved)
        for material in (load(tmp_path / name), pickle.loads(pickle.dumps(load(tmp_path / name)))):
            assert {kind: list(some) for kind, some in material.passages.items()} == saved.passages
            assert list(material.follow_ups) == saved.follow_ups
            assert vars(material.words) == vars(saved.words) and material.words.kinds
            assert material.passages["rules"][-2:] == passages[-2:]


@forks
def test_the_command_keeps_what_is_held_out_apart(tmp_path: Path, monkeypatch, capsys) -> None:
    rows = [row(f"the context number {n}", f"what is the number {n}", f"{n}") for n in range(200)]
    files = f"--questions {written(tmp_path, rows)} --articles {articles(tmp_path)} --every 1 --workers 1"
    monkeypatch.setattr("sys.argv", f"material {files} --out {tmp_path / 'm.jsonl.gz'}".split())
    main()
    training, development = load(tmp_path / "m.jsonl.gz"), load(tmp_path / "dev-m.jsonl.gz")
    assert all(is_development(p.text) for p in development.passages["people"])
    assert not any(is_development(p.text) for p in training.passages["people"])
    assert is_development_article("Lighthouse") and {p.title for p in training.passages["rules"]} == {"Port", "Kings"}
    assert "questions" in capsys.readouterr().out and [t for t, _ in read_articles(articles(tmp_path))][1:] == [
        "Port",
        "Kings",
    ]
    assert build([written(tmp_path, rows)], [], 1, 1)[2]["development"] == len(development.passages["people"])


@forks
def test_an_articles_passages_that_development_has_go(tmp_path: Path) -> None:
    first = BODY.splitlines()[0]
    held_out = next(text for n in range(999) if is_development(text := f"{first} He had {n} sons."))
    for context, stays in (("something else", True), (held_out, False)):
        training, _, counts = build([written(tmp_path, [row(context, "Who?", "He")])], [articles(tmp_path)], 1, 1)
        rules = [p for p in training if p.kind == "rules"]
        assert any(first in p.text for p in rules) is stays
        assert (counts["passages left out"] > 0) is not stays
