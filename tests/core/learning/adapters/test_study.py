"""Study material: what is asked for, what is kept, what is dropped and counted."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch

from core.errors import LearningFailed
from core.generate import run_to_return
from core.learning.adapters.remote import RemoteWriter
from core.learning.adapters.study import (
    Exercise,
    StudyConfig,
    Tutor,
    answer_flaw,
    evenly_chosen,
    flaw,
    for_chat,
    gather,
    grounded,
    summary,
)
from core.prompts import ChatFormat, ReaderFormat
from tests.core.conftest import STORY, chunks_of


class Scripted:
    """A writer that says what it is told to."""

    def __init__(self, *pairs: tuple[str, str]) -> None:
        self.pairs = list(pairs)

    def write(self, passage: str, count: int) -> list[tuple[str, str]]:
        return self.pairs


@pytest.fixture
def tutor(tiny, fmt, monkeypatch) -> Tutor:
    """Its model finds an answer when asked: the last word before the question mark, upper case."""
    tutor = Tutor(tiny, fmt, 1024, StudyConfig(passage=128, reverse=False))
    known = {
        "Who keeps the boats?": "Orla Quint",
        "What does a berth cost?": "forty crowns",
        "Who keeps the many boats?": "Orla Quint",
        "who keeps the boats?": "Orla Quint",
        "Who built the lighthouse?": "a goat",
    }

    def answers(passages, asked, prefix, prompt):
        yield from ()
        return [(known.get(question, "Vessin"), 0.9) for _, question in asked]

    monkeypatch.setattr(tutor, "_answers", answers)
    return tutor


def chunks(tiny):
    return chunks_of(tiny.tokenizer, STORY, 200)


def test_a_question_is_kept_when_its_answer_comes_back(tiny, tutor) -> None:
    tutor.writer = Scripted(("Who keeps the boats?", "Orla Quint"), ("What does a berth cost?", "forty crowns a night"))
    [kept] = tutor.exercises(chunks(tiny))
    assert [(e.chunk, e.question, e.answer, e.confidence) for e in kept] == [
        (0, "Who keeps the boats?", "Orla Quint", 0.9),
        (0, "What does a berth cost?", "forty crowns a night", 0.9),
    ]
    assert summary(tutor.dropped) == ""


@pytest.mark.parametrize(
    ("question", "answer", "why"),
    [
        ("Who built the lighthouse?", "Tam Odrey", "round trip"),
        ("Who keeps the boats", "Orla Quint", "malformed"),
        ("Who knows Silas Wenn?", "Orla Quint", "not in the passage"),
        ("What opened in 1901?", "The harbour", "not in the passage"),
        ("Who keeps the boats?", "Silas Wenn", "not in the passage"),
        ("Who is called Orla Quint?", "Orla Quint", "answer in the question"),
        ("How many boats are there?", "Orla Quint", "another kind of answer"),
        ("When was it built?", "Tam Odrey", "another kind of answer"),
        ("What did The lighthouse do?", "built", "malformed"),
        ("Who keeps the boats?", "word " * 20, "malformed"),
        ("Who keeps the boats?", "Orla Orla Quint", "malformed"),
    ],
)
def test_what_is_not_sound_is_dropped_and_counted(tiny, tutor, question, answer, why) -> None:
    tutor.writer = Scripted((question, answer))
    assert list(tutor.exercises(chunks(tiny))) == [[]]
    assert tutor.dropped[why] == 1 and summary(tutor.dropped) == f"1 {why}"


def test_a_question_is_asked_once(tiny, tutor) -> None:
    pair = ("Who keeps the boats?", "Orla Quint")
    tutor.writer = Scripted(pair, ("Who keeps the many boats?", "Orla Quint"), ("who keeps the boats?", "Orla Quint"))
    [kept] = tutor.exercises(chunks(tiny))
    assert len(kept) == 1 and tutor.dropped["seen before"] == 2


def test_what_was_a_check_is_no_study_material(tiny, tutor) -> None:
    tutor.writer = Scripted(("Who keeps the boats?", "Orla Quint"))
    [checks] = tutor.checks(chunks(tiny), each=2, most=64)
    assert len(checks) == 1
    assert list(tutor.exercises(chunks(tiny))) == [[]]


def test_a_long_document_is_checked_with_a_bounded_number_of_questions(tiny, tutor) -> None:
    tutor.writer = Scripted(("Who keeps the boats?", "Orla Quint"), ("What does a berth cost?", "forty crowns"))
    many = chunks_of(tiny.tokenizer, STORY * 20, 60)
    found = [e for some in tutor.checks(many, each=2, most=6) for e in some]
    assert 0 < len(found) <= 6 and len({e.chunk for e in found}) >= 2


def test_what_was_dropped_may_be_written_again(tiny, tutor) -> None:
    tutor.writer = Scripted(("Who keeps the boats?", "Silas Wenn"))
    assert list(tutor.exercises(chunks(tiny))) == [[]]
    tutor.writer = Scripted(("Who keeps the boats?", "Orla Quint"), ("What does a berth cost?", "forty crowns"))
    [[check]] = tutor.checks(chunks(tiny), each=1, most=64)
    [kept] = tutor.exercises(chunks(tiny))
    assert {check.question, *(e.question for e in kept)} == {"Who keeps the boats?", "What does a berth cost?"}
    assert tutor.dropped["seen before"] == 1, "the check"


class Slow:
    """A writer that replies when it may, and only so often."""

    def __init__(self, replies: int) -> None:
        self.may, self.left = threading.Event(), threading.Semaphore(replies)

    def write(self, passage: str, count: int) -> list[tuple[str, str]]:
        assert self.may.wait(10)
        if not self.left.acquire(blocking=False):
            raise LearningFailed("no reply")
        return [("Who keeps the boats?", "Orla Quint")]


def test_the_device_is_free_between_two_tokens_of_what_is_written(tiny, tokenizer) -> None:
    tutor = Tutor(tiny, ReaderFormat(tokenizer), 256, StudyConfig(passage=64))
    writing = tutor.checks(chunks(tiny), each=1, most=4)
    assert [next(writing), next(writing)] == [[], []] and not tutor.dropped, "nothing is read of what is being written"


def test_while_a_larger_model_writes_the_device_is_free_and_a_lost_reply_is_counted(tiny, tutor) -> None:
    tutor.writer = Slow(replies=1)
    written = tutor.exercises(chunks_of(tiny.tokenizer, STORY * 2, 100))
    assert [next(written), next(written)] == [[], []]
    tutor.writer.may.set()
    found = [e for some in written for e in some]
    assert [e.question for e in found] == ["Who keeps the boats?"]
    assert tutor.dropped["passages without a reply"] == 1


def test_a_larger_model_that_never_replies_fails_learning(tiny, tutor) -> None:
    tutor.writer = Slow(replies=0)
    tutor.writer.may.set()
    with pytest.raises(LearningFailed, match="no reply"):
        list(tutor.exercises(chunks(tiny)))


@pytest.mark.parametrize("kind", [ReaderFormat, ChatFormat])
def test_the_model_itself_writes_the_same_again(tiny, tokenizer, kind) -> None:
    fmt = kind(tokenizer)

    def written() -> list[Exercise]:
        tutor = Tutor(tiny, fmt, 256, StudyConfig(passage=64, questions=2, agree=0.0))
        return [e for some in tutor.exercises(chunks(tiny)) for e in some]

    state = torch.get_rng_state()
    assert written() == written()  # of a model that knows nothing, mostly nothing
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", [ReaderFormat, ChatFormat])
def test_answers_in_context_are_those_without_a_cache(tiny, tokenizer, kind) -> None:
    fmt = kind(tokenizer)
    tutor, passages = Tutor(tiny, fmt, 256), [(0, STORY[:80]), (1, STORY[80:170])]
    asked = [(1, "Who is it?"), (0, "What is it?"), (1, "Where is it?")]
    together = run_to_return(tutor._answers(passages, asked, None, fmt.in_context))
    alone = [run_to_return(tutor._answers(passages, [one], None, fmt.in_context))[0] for one in asked]
    assert [t for t, _ in together] == [t for t, _ in alone]
    assert [s for _, s in together] == pytest.approx([s for _, s in alone], rel=1e-3)


def test_names_and_numbers_have_to_stand_in_the_passage() -> None:
    assert grounded("When did Orla open the harbour of Vessin?", STORY) and grounded("Is it 1874?", STORY)
    assert not grounded("When did Tom open the harbour?", STORY) and not grounded("Was it 1875?", STORY)
    assert grounded("Berths are cheap. Boats are many.", STORY)  # a sentence begins with a large letter
    assert flaw("Who was Tam Odrey?", STORY) == "" and answer_flaw("Who built it?", "Tam Odrey", STORY) == ""


def test_passages_are_whole_sentences() -> None:
    assert gather(["a", "b", "c", "d"], [3, 3, 9, 1], 6) == ["a b", "c", "d"]
    assert gather([], [], 6) == []


def test_spread_takes_from_all_over() -> None:
    assert evenly_chosen(range(9), 3) == [1, 4, 7] and evenly_chosen([1, 2], 5) == [1, 2] and evenly_chosen([], 3) == []


def test_a_model_that_follows_instructions_writes_several_at_once(tokenizer) -> None:
    fmt = ChatFormat(tokenizer)
    [(prompt, begun)] = fmt.write_questions("The port is in Vessin.", 3)
    assert "Write 3 short questions" in tokenizer.decode(prompt) and begun == ""
    text = "Question: Where is it? Answer: Vessin\nQuestion: Nothing\nrest\nQuestion: Who? \n Answer: Orla\n"
    assert fmt.read_questions(text) == [("Where is it?", "Vessin"), ("Who?", "Orla")]
    assert for_chat(StudyConfig(questions=4), fmt) == StudyConfig(passage=384, questions=12)
    assert for_chat(StudyConfig(), ReaderFormat(tokenizer)) == StudyConfig()
    [(about, _)] = fmt.write_questions("The port is in Vessin.", 1, about="Vessin")
    assert 'has "Vessin" in it' in tokenizer.decode(about)


def test_names_and_numbers_are_asked_about_in_the_other_direction(tiny, tutor, monkeypatch) -> None:
    """A question that has another question's answer in it, about the same passage."""
    wanted = []

    def written(passages, some):
        yield from ()
        wanted.extend((passages[n][1], count, about) for n, count, about in some)
        return [Exercise(*passages[0], "What did Orla Quint keep?", "nineteen boats", 0.9)]

    monkeypatch.setattr(tutor, "_written", written)
    tutor.config = StudyConfig(passage=64, rewrites=0, summaries=0)
    tutor.writer = Scripted(("Who keeps the boats?", "Orla Quint"), ("What does a berth cost?", "forty crowns"))
    [kept] = tutor.exercises(chunks(tiny))
    assert [(count, about) for _, count, about in wanted] == [(1, "Orla Quint")]  # no name, no number: not turned
    assert wanted[0][0] == kept[0].passage and kept[-1].question == "What did Orla Quint keep?"


def test_rewrites_with_strange_names_are_dropped(tiny, tokenizer, monkeypatch) -> None:
    tutor = Tutor(tiny, ChatFormat(tokenizer), 256, StudyConfig(summaries=0))
    said = iter(
        ["Nineteen boats belong to Orla Quint, the master of the harbour in Vessin.", "A man named Silas Wenn " * 3]
    )

    def write(prompts, *_, **__):
        yield from ()
        return [tokenizer.encode(next(said)) for _ in prompts], [1.0] * len(prompts)

    monkeypatch.setattr(tutor, "_generate", write)
    kept = run_to_return(tutor._texts([(0, STORY), (1, STORY)], ["Rewrite"]))
    assert [(e.chunk, e.question) for e in kept] == [(0, "")] and tutor.dropped["not in the passage"] == 1


# The larger question writer


class Endpoint(BaseHTTPRequestHandler):
    asked: list[tuple[str, str, dict]] = []  # noqa: RUF012
    reply = ""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, self.headers["Authorization"], body))
        data = self.reply.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Endpoint.asked.clear()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_larger_model_writes_the_questions_where_it_is_configured(endpoint) -> None:
    text = "Question: Who keeps the boats? Answer: Orla Quint\n"
    Endpoint.reply = json.dumps({"choices": [{"message": {"content": text}}]})
    assert RemoteWriter(endpoint, "big", "secret").write(STORY, 5) == [("Who keeps the boats?", "Orla Quint")]
    [(path, key, body)] = Endpoint.asked
    assert (path, key, body["model"]) == ("/v1/chat/completions", "Bearer secret", "big")
    assert STORY in body["messages"][0]["content"] and "secret" not in repr(RemoteWriter(endpoint, "big", "secret"))


@pytest.mark.parametrize("reply", ["not json", "{}", '{"choices": []}', '{"choices": [{"message": null}]}'])
def test_a_writer_that_does_not_answer_fails_learning(endpoint, reply) -> None:
    Endpoint.reply = reply
    with pytest.raises(LearningFailed, match="question writer did not answer"):
        RemoteWriter(endpoint, "big").write(STORY, 5)


def test_a_writer_that_is_not_there_fails_learning() -> None:
    for url in ("http://127.0.0.1:9/v1", "file:///etc", "nonsense"):
        with pytest.raises(LearningFailed):
            RemoteWriter(url, "big").write(STORY, 5)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_key_never_follows_a_redirect(status: int) -> None:
    seen: list[str | None] = []

    class Trap(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            self.send_error(404)

        do_POST = do_GET

        def log_message(self, *_: object) -> None: ...

    class Redirect(Trap):
        def do_POST(self) -> None:
            self.send_response(status)
            self.send_header("Location", f"http://127.0.0.1:{trap.server_port}/")
            self.send_header("Content-Length", "0")
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Trap) as trap, HTTPServer(("127.0.0.1", 0), Redirect) as server:
        for one in (trap, server):
            threading.Thread(target=one.serve_forever, args=(0.01,), daemon=True).start()
        with pytest.raises(LearningFailed):
            RemoteWriter(f"http://127.0.0.1:{server.server_port}", "big", "secret").write(STORY, 5)
        server.shutdown()
        trap.shutdown()
    assert seen == []
