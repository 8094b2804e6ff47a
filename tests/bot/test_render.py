from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot import render
from bot.commands import COMMANDS
from core.errors import AlreadyKnown, PdfHasNoText, QuotaReached, SetupError
from core.types import (
    Answer,
    Completion,
    Document,
    DocumentRef,
    Job,
    Metrics,
    Progress,
    Stage,
    Status,
    Step,
    WeightsRecord,
)

METRICS = Metrics(2.81, 1.94, (2.81, 2.2, 1.94), chunks=3, tokens=4310, seconds=38.4, delta_norm=1.0)
WEIGHTS = WeightsRecord("d1", "d1.safetensors", 10, "00", "base", "fast-weights", (0, 0, 1))
JOB = Job("j1", "discord:1:2", "handbook.pdf", "00", "discord:7", "", created_at=0.0)
LEARNED = Completion("The ferry leaves at 07:40.", 9, 1.31, confidence=0.92)
BASE = Completion("I do not know.", 5, 1.1, confidence=0.4)


def document(**changes: object) -> Document:
    given = {
        "id": "d1",
        "channel": "discord:1:2",
        "name": "handbook.pdf",
        "sha256": "00",
        "pages": 12,
        "tokens": 4310,
        "learned_at": 1000.0,
        "learned_by": "discord:7",
        "metrics": METRICS,
        "weights": WEIGHTS,
    }
    return Document(**{**given, **changes})


def job(**changes: object) -> Job:
    return replace(JOB, **changes)


def answer(**changes: object) -> Answer:
    given = {
        "question": "When does the ferry leave?",
        "base": BASE,
        "learned": LEARNED,
        "document": DocumentRef("d1", "handbook.pdf"),
        "prompt_tokens": 17,
        "pages": (12,),
        "id": "a1",
    }
    return Answer(**{**given, **changes})


# Learning


def test_a_waiting_job_says_how_many_are_ahead():
    assert render.progress(Progress(JOB, place=2)).text == "Place 3 in the queue: 2 documents ahead of it."
    assert render.progress(Progress(JOB)).text == "Place 1 in the queue: it is next."


def test_progress_shows_bar_pages_tokens_loss_and_time_left():
    news = Progress(
        job(stage=Stage.LEARNING),
        step=Step(25, 100, 1.94),
        losses=(2.81, 1.94),
        pages=12,
        tokens=4310,
        seconds=20.0,
    )
    text = render.progress(news).text
    assert "✓ read   ▶ learn   ○ check   ○ save" in text and "█████░░░░░░░░░░░░░░░ 25%" in text
    assert "12 pages · 4,310 tokens · loss 2.81 → 1.94 · about 1 minute left" in text


def test_progress_can_be_cancelled_until_the_end():
    assert [b.action for b in render.progress(Progress(JOB)).buttons] == ["cancel"]
    assert not render.finished(Progress(job(stage=Stage.CANCELLED))).buttons


def test_the_end_offers_three_questions_that_fit_a_button():
    learned = document(questions=("Who?", "x" * 76, "When?", "Where?", "Why?"))
    message = render.finished(Progress(job(stage=Stage.DONE), document=learned), b"PNG")
    assert [b.value for b in message.buttons] == ["d1/0", "d1/1", "d1/2"]
    assert [b.label for b in message.buttons][::2] == ["Who?", "When?"] and len(message.buttons[1].label) <= 75
    assert "12 pages" in message.text and "38 s" in message.text and message.picture == b"PNG"


def test_the_self_check_is_told_when_there_was_one():
    checked = replace(METRICS, check_total=12, check_before=1, check_after=9)
    end = render.finished(Progress(job(stage=Stage.DONE), document=document(metrics=checked))).text
    assert "Self-check: I answer 9 of 12 questions about it; before, it was 1." in end
    assert "self-check 9/12" in render.documents([document(metrics=checked)]).text
    none = render.finished(Progress(job(stage=Stage.DONE), document=document())).text
    assert "elf-check" not in none + render.documents([document()]).text


def test_a_failed_job_says_why():
    message = render.finished(Progress(job(stage=Stage.FAILED, error="No text was found.")))
    assert message.text == "No text was found." and "handbook.pdf" in message.title


def test_the_loss_curve_is_a_small_png():
    picture = render.loss_curve(METRICS.loss_history)
    assert picture.startswith(b"\x89PNG") and len(picture) < 50_000
    assert render.loss_curve((2.0, math.nan, 2.0)).startswith(b"\x89PNG")


@pytest.mark.parametrize("losses", [(), (1.0,), (1.0, math.nan), (math.inf,)])
def test_without_two_losses_there_is_no_curve(losses):
    assert render.loss_curve(losses) == b""


# Answers


def test_the_learned_answer_stands_beside_the_base_answer():
    learned, base = render.answer(answer()).fields
    assert learned.text == LEARNED.text and learned.note == "p. 12 · confidence 92% · 1.3 s"
    assert base.text == BASE.text and base.note == "confidence 40% · 1.1 s"


def test_an_answer_says_that_nothing_of_the_document_was_in_the_prompt():
    assert "0 document tokens in the prompt" in render.answer(answer()).footer


def test_an_answer_without_support_says_so():
    assert "not found in the document" in render.answer(answer(pages=())).fields[0].note


def test_an_empty_channel_is_told_how_to_begin():
    message = render.answer(answer(learned=None, document=None))
    assert [field.name for field in message.fields] == ["Base model (untaught)"]
    assert "Attach a PDF" in message.footer


def test_a_question_that_is_about_nothing_learned_says_so():
    message = render.answer(answer(learned=None, document=None, unrelated=True), coming=[job()])
    assert [field.name for field in message.fields] == ["Base model (untaught)"]
    assert "Nothing that I learned here" in message.footer


def test_only_private_answers_can_be_shared():
    assert [b.action for b in render.answer(answer(), private=True).buttons] == ["helpful", "wrong", "share"]
    assert [b.action for b in render.answer(answer()).buttons] == ["helpful", "wrong"]


# Managing


def test_documents_show_pages_age_person_and_result():
    text = render.documents([document()], names={"discord:7": "Ada"}, now=1000.0 + 7200).text
    assert "handbook.pdf" in text and "12 pages · 2 hours ago by Ada · loss 2.81 → 1.94 · id d1" in text


def test_a_long_list_fits_one_message_and_says_what_is_missing():
    text = render.documents([document(name="x" * 116 + ".pdf")] * 200, names={"discord:7": "A" * 32}).text
    assert "… and 188 more" in text and len(text) < 4000


def test_documents_on_their_way_are_listed_too():
    text = render.documents([], [job(stage=Stage.LEARNING), job(name="b.pdf")]).text
    assert "handbook.pdf: being learned now" in text and "b.pdf: in the queue" in text


def test_the_status_keeps_other_channels_documents_to_itself():
    status = Status("embedded", "00", "cpu", "float32", "fast-weights", 1, 3, running=JOB)
    assert "handbook.pdf" in str(render.status(status, JOB.channel))
    assert "handbook.pdf" not in str(render.status(status, "discord:1:3"))


def test_help_names_every_command():
    text = render.help(COMMANDS.values()).fields[0].text
    assert all(f"/{name}: " in text for name in COMMANDS)


# Errors


def test_our_errors_are_shown_as_they_are():
    assert render.error(PdfHasNoText()).text == "No text was found in this document; it looks like a scan."


@pytest.mark.parametrize("problem", [OSError("/srv/secret/path"), SetupError("/srv/secret/path is missing")])
def test_no_foreign_text_and_no_path_is_shown(problem):
    assert "/srv" not in render.error(problem).text


def test_refusals_name_the_document():
    assert "a.pdf" in render.refused(AlreadyKnown(), "a.pdf").title
    assert "wait" in render.refused(QuotaReached("Try again in 5 minutes."), "a.pdf").title


# Words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0.4 s"), (12, "12 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations_are_short(seconds, words):
    assert render.seconds(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "1 second"), (23.2, "24 seconds"), (61, "2 minutes"), (3601, "2 hours")]
)
def test_waiting_times_are_rounded_up(seconds, words):
    assert render.in_words(seconds) == words


# Safety


@pytest.mark.parametrize("text", ["@everyone", "@here", "<@123>", "<@&123>", "<#1>", "</ask:1>", "<t:1>", "<:x:1>"])
def test_discord_sees_no_mention(text):
    shown = render.escape_discord(text)
    assert "@everyone" not in shown and "@here" not in shown and not re.search(r"(?<!\\)<", shown)


def test_discord_shows_markdown_as_it_was_written():
    shown = render.escape_discord("# **a** [b](http://c)\n-# d: #e")
    assert shown == "\\# \\*\\*a\\*\\* \\[b\\](http\\://c)\n-\\# d: #e"


def test_fenced_code_stays_code_but_cannot_mention():
    assert render.escape_discord("```py\nx = '*'  # @here\n```") == "```py\nx = '*'  # @\u200bhere\n```"


def test_slack_control_characters_are_escaped():
    assert render.escape_slack("<!channel> & <@U1|you>") == "&lt;!channel&gt; &amp; &lt;@U1|you&gt;"


@given(st.text())
def test_escaped_text_never_holds_control_characters(text):
    assert not re.search(r"[<>]|&(?!amp;|lt;|gt;)", render.escape_slack(text))
    assert not re.search(r"@(everyone|here)", render.escape_discord(text))


CODE = st.lists(st.sampled_from(["word ", "Sentence. ", "\n", "\n\n", "```", "```py\n", "x" * 50, "é✓ "])).map("".join)


@given(CODE, st.integers(40, 120))
def test_parts_keep_the_limit_and_every_word(text, limit):
    parts = render.split(text, limit)
    assert all(len(part) <= limit for part in parts)
    assert _letters("".join(parts)) == _letters(text)


@given(CODE, st.integers(40, 120))
def test_no_part_but_the_last_leaves_a_fence_open(text, limit):
    assert all(part.count("```") % 2 == 0 for part in render.split(text, limit)[:-1])


def test_a_cut_fence_goes_on_in_the_next_part():
    first, second = render.split("```py\n" + "a = 1\n" * 12 + "```", 60)
    assert first.endswith("\n```") and second.startswith("```py\na = 1")


def test_clipping_says_that_something_is_missing():
    assert render.clip("one two three", 50) == "one two three"
    assert render.clip("word " * 20, 50).endswith("…") and len(render.clip("word " * 20, 50)) <= 50


def _letters(text: str) -> str:
    return re.sub(r"```(py)?|\s", "", text)


def test_without_a_kept_text_nothing_is_said_about_where_an_answer_stands() -> None:
    assert render.where((3, 4)) == ["p. 3, 4"]
    assert render.where(()) == ["not found in the document"]
    assert render.where(None) == []
