from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot import render
from bot.chat import Tone
from bot.commands import COMMANDS
from bot.escape import clip, escape_discord, escape_slack, split, without_mentions
from bot.terminal import plain
from bot.wording import in_words
from bot.wording import seconds as in_short
from core.errors import AlreadyKnown, DocumentHasNoText, QuotaReached, SetupError
from core.types import (
    Answer,
    Certainty,
    Completion,
    Correction,
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
        "certainty": Certainty.LIKELY,
    }
    return Answer(**{**given, **changes})


# Learning


def test_a_waiting_job_says_how_many_are_before_it():
    assert render.progress(Progress(JOB, place=2)).text == "2 documents before it."
    assert render.progress(Progress(JOB)).text == "It is next."


def learning(stage: Stage = Stage.LEARNING, seconds: float = 20.0, **changes: object) -> Progress:
    return Progress(job(stage=stage), seconds=seconds, **changes)


def test_progress_shows_a_bar_the_stage_and_the_time_left():
    text = render.progress(learning(step=Step(50, 100, 1.94), losses=(2.81, 1.94), pages=12, tokens=4310)).text
    assert text == "██████░░░░░░░░░░ 40%\nLearning it … About 30 seconds left."


def test_the_bar_moves_from_the_first_second_to_the_end_and_never_back():
    reading = [learning(Stage.READING, second) for second in (0.0, 1.0, 5.0)]
    steps = [learning(Stage.LEARNING, 6.0 + n, step=Step(n, 10, 4.0)) for n in range(1, 11)]
    checking = [learning(Stage.CHECKING, 20.0 + n, step=Step(10, 10, 4.0)) for n in range(3)]
    shares = [render.share_done(news) for news in [*reading, *steps, *checking, learning(Stage.SAVING, 30.0)]]
    assert shares == sorted(shares) and len(set(shares)) == len(shares) and shares[0] >= 0 and shares[-1] <= 1


def test_text_recognition_says_how_far_it_is_and_moves_the_bar():
    scans = [learning(Stage.READING, 1.0, step=Step(n, 12, math.nan, Stage.READING)) for n in (3, 9)]
    assert "It is a scan: I recognise its text, 3 of 12 pages done." in render.progress(scans[0]).text
    assert render.share_done(scans[0]) < render.share_done(scans[1])


def test_no_machine_term_stands_in_what_learning_says():
    ends = [learning(step=Step(5, 10, 4.0), losses=(4.0, 1.0), tokens=4310), learning(Stage.DONE, document=document())]
    said = [str(render.progress(ends[0])), str(render.finished(ends[1]))]
    assert not [text for text in said if re.search(r"\bloss|token|nats|step\b", text, re.IGNORECASE)]


def test_progress_can_be_cancelled_until_the_end():
    assert [b.action for b in render.progress(Progress(JOB)).buttons] == ["cancel"]
    assert not render.finished(Progress(job(stage=Stage.CANCELLED))).buttons


QUESTIONS = ("Who founded the club in 1987 by?", "Who?", "Who is the head of the school?", "When does the ferry leave?")
ODD = ("What is the the lamp?", "Who is it", "Built in 1902 by whom?", "Who is the bakery open on?", "What did A?")


def test_the_end_calls_whoever_asked_and_offers_questions():
    examples = [(2, "Who is the head of the school?"), (3, "When does the ferry leave?")]
    message = render.finished(Progress(job(stage=Stage.DONE), document=document()), None, examples)
    assert [b.label for b in message.buttons] == [examples[0][1], examples[1][1], "Details"]
    assert [b.value for b in message.buttons] == ["d1/2", "d1/3", "d1"] and message.notify == "discord:7"
    assert message.text == "12 pages. Try one of these, or ask your own:"


def test_without_a_good_question_none_is_offered():
    message = render.finished(Progress(job(stage=Stage.DONE), document=document(questions=ODD)))
    assert [b.label for b in message.buttons] == ["Details"] and "Ask me who, what" in message.text


def test_only_good_sentences_are_questions_to_try():
    assert [text for text in QUESTIONS + ODD if render.reads_well(text)] == list(QUESTIONS[2:])


def test_a_weak_self_check_is_told_and_a_good_one_stands_behind_details():
    weak, good = (document(metrics=replace(METRICS, check_total=12, check_after=right)) for right in (3, 9))
    told = [render.finished(Progress(job(stage=Stage.DONE), document=known)).text for known in (weak, good)]
    assert "I got 3 of my own 12 questions about it right" in told[0] and "12 questions" not in told[1]
    assert "9 of 12 right" in str(render.learning_details(good, b"").fields)


def test_what_only_an_operator_understands_stands_behind_details():
    notes = ("The learning rate was multiplied by 4", "Page 3 has no text")
    known = document(metrics=replace(METRICS, notes=notes))
    end = render.finished(Progress(job(stage=Stage.DONE), document=known)).text
    assert "Page 3 has no text." in end and "rate" not in end
    assert "rate" in str(render.learning_details(known, b"").fields)


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


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("u", "u"),
        ("p and n", "p and n"),
        ("apt-get source foo", "apt-get source foo"),
        ("cvs watchers", "cvs watchers"),
        ("--keep", "--keep"),
        ("seven in the morning", "Seven in the morning"),
        ("because it is old", "Because it is old"),
        ("yes", "Yes"),
        ("no, it is not", "No, it is not"),
    ],
)
def test_only_what_reads_like_a_sentence_gets_a_capital(said: str, shown: str) -> None:
    assert render.answer(answer(learned=replace(LEARNED, text=said))).title == shown


def test_the_answer_is_first_and_all_else_is_small():
    message = render.answer(answer())
    assert message.title == LEARNED.text and not message.fields
    assert message.footer == "likely · handbook.pdf, p. 12\nWithout the document: I do not know."


def test_an_answer_is_green_only_where_a_page_supports_it():
    assert render.answer(answer()).tone is Tone.GOOD
    for doubt in ({"pages": ()}, {"pages": None}, {"certainty": Certainty.UNSURE}):
        assert render.answer(answer(**doubt)).tone is Tone.UNSURE


def test_a_base_model_that_has_no_answer_says_so():
    for text in ("", "not in the text"):
        footer = render.answer(answer(base=replace(BASE, text=text))).footer
        assert footer.endswith("Without the document: I don't know.")
    stopped = render.answer(answer(base=replace(BASE, text="The port master is the captain of a ship, who is"))).footer
    assert stopped.endswith("of a ship, who is …")


def test_a_long_answer_is_cut_to_a_few_lines():
    message = render.answer(answer(learned=replace(LEARNED, text="A long line of an answer.\n\n" * 20)))
    assert not message.title and len(message.text) <= render.MAX_ANSWER and message.text.count("\n") == 2
    assert message.text.endswith("…")


def test_an_answer_without_support_says_so():
    message = render.answer(answer(pages=(), certainty=Certainty.UNSURE))
    assert message.footer.startswith("unsure · handbook.pdf, no page found")
    assert (message.title, message.text) == ("", LEARNED.text)  # not in bold
    message = render.answer(answer(pages=(), certainty=Certainty.UNSURE, closest="“Tides”"))
    assert message.footer.startswith("unsure · handbook.pdf, no page found, closest “Tides”\n")


def test_what_is_not_found_is_one_sentence_that_can_be_called_wrong():
    message = render.answer(answer(pages=(), certainty=Certainty.ABSENT))
    assert (message.text, message.footer) == ("I can't find that in handbook.pdf.", "")
    assert LEARNED.text not in str(message) and [b.label for b in message.buttons] == ["👍", "👎", "Details"]
    message = render.answer(answer(pages=(), certainty=Certainty.ABSENT, closest="p. 4"))
    assert message.text == "I can't find that in handbook.pdf. The closest part is p. 4."


def test_a_question_that_is_about_nothing_learned_says_so():
    message = render.answer(answer(learned=None, document=None, unrelated=True), coming=[job()])
    assert message.text.startswith("Nothing I have learned here seems to be about that. I am still learning")
    assert BASE.text not in str(message)


def test_only_private_answers_can_be_shared():
    assert [b.action for b in render.answer(answer(), private=True).buttons] == ["helpful", "wrong", "details", "share"]
    assert [b.action for b in render.answer(answer()).buttons] == ["helpful", "wrong", "details"]


def test_details_hold_what_the_answer_leaves_out():
    details = render.answer_details(answer())
    learned, base = details.fields
    assert learned.text == LEARNED.text and learned.note == "p. 12 · 1.3 s"
    assert base.text == BASE.text and base.note == "1.1 s"
    assert details.title == "When does the ferry leave?"
    prompt = "The prompt had 17 tokens: the question and one line of instruction"
    assert details.footer == f"{prompt}. None came from a document."
    assert render.answer_details(answer(document_tokens=9)).footer == f"{prompt}, and 9 from the document (p. 12)."
    stopped = render.answer_details(answer(base=replace(BASE, text="The port master is the captain of a ship, who is")))
    assert stopped.fields[1].text.endswith("of a ship, who is …")


def test_small_talk_is_short():
    for name in render.SMALL_TALK:
        assert len(render.small_talk(name, [document()], [], is_dm=False).text) < 200


def test_a_correction_that_could_not_be_learned_or_undone_says_which():
    failed = Progress(job(stage=Stage.FAILED, error="It made other answers worse."))
    for learned, title in ((False, "I did not learn that correction"), (True, "I could not undo that")):
        given = Correction("a1-7", "handbook.pdf", "d1", "Who?", "Ada", "Tom", "discord:7", learned=learned)
        said = render.corrected(failed, given)
        assert (said.title, said.text) == (title, "It made other answers worse.")


# Managing


def test_documents_show_pages_age_person_and_result():
    (field,) = render.documents([document()], names={"discord:7": "Ada"}, now=1000.0 + 7200).fields
    assert (field.name, field.note, field.button) == ("handbook.pdf", "12 pages · 2 hours ago by Ada", None)


def test_a_list_offers_to_forget_ones_own_documents_and_asks_first():
    own, other = render.documents([document(), document(id="d2")], own=["d1"]).fields
    assert own.button.action == "forget?" and own.button.value == "d1" and other.button is None


def test_a_long_list_fits_one_message_and_says_what_is_missing():
    waiting = [job(name=f"{number}.pdf") for number in range(5)]
    message = render.documents([document(name="x" * 116 + ".pdf")] * 200, waiting, names={"discord:7": "A" * 32})
    assert len(message.fields) == render.LISTED
    assert "… and 191 more. Write “forget” and a name" in message.footer
    assert "… and 2 more are waiting." in message.footer


def test_documents_on_their_way_are_listed_too():
    fields = render.documents([], [job(stage=Stage.LEARNING), job(name="b.pdf")]).fields
    assert [(field.name, field.note) for field in fields] == [
        ("handbook.pdf", "being learned now"),
        ("b.pdf", "waiting"),
    ]


def test_the_status_keeps_other_channels_documents_to_itself():
    status = Status("embedded", "00", "cpu", "float32", "fast-weights", 1, 3, running=JOB)
    now, here, model = render.status(status, JOB.channel).fields
    assert (now.text, now.note) == ("Learning handbook.pdf", "3 documents waiting in all channels")
    assert (here.text, model.text, model.note) == ("1 document learned", "SmolLM2-135M-Instruct", "cpu")
    idle = render.status(Status("embedded", device="cpu"), JOB.channel).fields[0]
    assert (idle.text, idle.note) == ("Nothing to learn right now.", "")
    assert "handbook.pdf" not in str(render.status(status, "discord:1:3"))


def test_help_names_every_command():
    text = render.help({command.name: command.description for command in COMMANDS.values()}).fields[0].text
    assert all(f"/{name}: " in text for name in COMMANDS)


# Errors


def test_our_errors_are_shown_as_they_are():
    assert render.error(DocumentHasNoText()).text == str(DocumentHasNoText())


@pytest.mark.parametrize("problem", [OSError("/srv/secret/path"), SetupError("/srv/secret/path is missing")])
def test_no_foreign_text_and_no_path_is_shown(problem):
    assert "/srv" not in render.error(problem).text


def test_refusals_name_the_document():
    assert "a.pdf" in render.refused(AlreadyKnown(), "a.pdf").title
    too_many = render.refused(QuotaReached("20 an hour; try again in 5 minutes.", retry_after=300.0), "a.pdf")
    assert (too_many.title, too_many.text) == ("I did not take a.pdf", "20 an hour; try again in 5 minutes.")
    full = render.refused(QuotaReached("This channel has 200 documents, the limit. Forget one first."), "a.pdf")
    assert full.text.endswith("Forget one first. Then send it again.")


# Words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0.4 s"), (12, "12 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations_are_short(seconds, words):
    assert in_short(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "1 second"), (23.2, "24 seconds"), (61, "2 minutes"), (3601, "2 hours")]
)
def test_waiting_times_are_rounded_up(seconds, words):
    assert in_words(seconds) == words


# Safety


@pytest.mark.parametrize("text", ["@everyone", "@here", "<@123>", "<@&123>", "<#1>", "</ask:1>", "<t:1>", "<:x:1>"])
def test_discord_sees_no_mention(text):
    shown = escape_discord(text)
    assert "@everyone" not in shown and "@here" not in shown and not re.search(r"(?<!\\)<", shown)


def test_discord_shows_markdown_as_it_was_written():
    shown = escape_discord("# **a** [b](http://c)\n-# d: #e")
    assert shown == "\\# \\*\\*a\\*\\* \\[b\\](http\\://c)\n-\\# d: #e"


def test_fenced_code_stays_code_but_cannot_mention():
    assert escape_discord("```py\nx = '*'  # @here\n```") == "```py\nx = '*'  # @\u200bhere\n```"
    assert escape_discord("```**bold** [a](b)") == r"\`\`\`\*\*bold\*\* \[a\](b)", "an open fence is no code"


def test_slack_control_characters_are_escaped():
    assert escape_slack("<!channel> & <@U1|you>") == "&lt;!channel&gt; &amp; &lt;@U1|you&gt;"


@pytest.mark.parametrize("show", [escape_discord, escape_slack, without_mentions, plain])
def test_nothing_that_turns_or_hides_text_is_shown(show):
    assert show("a\u202eb\u2066c\u200bd\x1be\x07f\U000e0041g\u2028h\n\ti") == "abcdefg h\n\ti"


@given(st.text())
def test_escaped_text_never_holds_control_characters(text):
    assert not re.search(r"[<>]|&(?!amp;|lt;|gt;)", escape_slack(text))
    assert not re.search(r"@(everyone|here)", escape_discord(text))


CODE = st.lists(st.sampled_from(["word ", "Sentence. ", "\n", "\n\n", "```", "```py\n", "x" * 50, "é✓ "])).map("".join)


@given(CODE, st.integers(40, 120))
def test_parts_keep_the_limit_and_every_word(text, limit):
    parts = split(text, limit)
    assert all(len(part) <= limit for part in parts)
    assert _letters("".join(parts)) == _letters(text)


@given(CODE, st.integers(40, 120))
def test_no_part_but_the_last_leaves_a_fence_open(text, limit):
    assert all(part.count("```") % 2 == 0 for part in split(text, limit)[:-1])


def test_a_cut_fence_goes_on_in_the_next_part():
    first, second = split("```py\n" + "a = 1\n" * 12 + "```", 60)
    assert first.endswith("\n```") and second.startswith("```py\na = 1")


def test_clipping_says_that_something_is_missing():
    assert clip("one two three", 50) == "one two three"
    assert clip("word " * 20, 50).endswith("…") and len(clip("word " * 20, 50)) <= 50


def _letters(text: str) -> str:
    return re.sub(r"```(py)?|\s", "", text)


def test_without_a_kept_text_nothing_is_said_about_where_an_answer_stands() -> None:
    assert render.where(answer(pages=(3, 4))) == ["p. 3, 4"]
    assert render.where(answer(pages=(3, 4), places=("p. 3", "p. 4"))) == ["p. 3, 4"]
    assert render.where(answer(pages=())) == ["no page found"]
    assert render.where(answer(pages=None)) == []


def test_a_citation_names_what_the_format_has() -> None:
    assert render.where(answer(pages=(1,), places=("sheet Ships, row 7",))) == ["sheet Ships, row 7"]
    assert render.where(answer(pages=(1, 2), places=("slide 1", "slide 2"))) == ["slide 1; slide 2"]
    assert render.where(answer(pages=(1,), places=("",))) == []
    assert "handbook.pdf, “Tides”" in render.answer(answer(places=("“Tides”",))).footer
    assert "3 slides" in render.finished(learning(Stage.DONE, document=document(name="a.pptx", pages=3))).text
