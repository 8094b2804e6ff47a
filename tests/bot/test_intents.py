"""What people write, and what is wanted of the bot. No phrase here is copied from the table that understands it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.commands import COMMANDS
from bot.intents import COMMAND_NAMES, SMALL_TALK, is_question, understand

KNOWN = ("handbook.pdf", "Island Guide 2024.pdf", "bakery.pdf")

SAID = {
    "greeting": ["", "hello", "Hi there!", "hey Engram", "good morning everyone :)", "yo", "Heyyy", "how are you?",
                 "What's up?", "are you there?", "ping", "Hallo", "hi hi", "👋 hello!"],
    "introduction": ["who are you?", "What are you exactly?", "are you a bot?", "introduce yourself please",
                     "what's your name?", "who made you", "Are you ChatGPT?"],
    "thanks": ["thanks!", "Thank you so much", "thx", "ty!!", "great, thanks", "cheers mate", "thanks for your help",
               "Perfect, thank you!", "danke"],
    "approval": [":+1:", "👍", "lol", "ok", "haha nice", "cool cool", "Good bot", "got it", "yes", "makes sense",
                 "wow, impressive!", "never mind", "forget it", "🎉🎉"],
    "goodbye": ["bye!", "good night all", "see you tomorrow", "cya"],
    "complaint": ["that's wrong", "No, that is not correct.", "bad bot", "you are wrong", "nonsense"],
    "chatter": ["tell me a joke", "I love you", "what's the weather like?", "sing us a song", "happy birthday!"],
    "summary": ["summarise it", "what is this about?", "What's it about?", "tl;dr",
                "give me a summary of the document"],
    "forget me": ["forget me", "please delete my data", "forget everything about me", "erase all my messages"],
    "help": ["help", "help!", "Help me please", "what can you do?", "how does this work?", "/help", "commands",
             "how do I use you?", "I need help"],
    "docs": ["docs", "docs please", "list the documents", "what do you know?", "Which files do you know?",
             "show me all documents", "what have you learned so far?", "/docs"],
    "learn": ["learn this", "please learn it", "can you read this pdf?", "learn", "and this one",
              "here is the new file"],
    "reset": ["reset", "reset everything", "forget everything", "please delete all documents", "start over"],
    "cancel": ["cancel", "stop", "please stop learning", "cancel that", "abort!"],
    "status": ["status", "are you done yet?", "how much longer?", "how far are you?"],
    "about": ["about", "privacy", "what do you store about me?", "licence"],
    "settings": ["settings", "/settings"],
    "forget": ["delete it", "forget", "please remove this document"],
    "ask": ["Who is the warden?", "What is a reset?", "reset the clock how?", "help me with page 3", "warden name",
            "how long does the ferry take?", "what do you know about ferries?", "what can the lamp do?",
            "Who made the lamp?",
            "list all keepers of the lighthouse", "forget the past, who is the warden?", "remove the cap from the lamp",
            "What is the weather like in June?", "stop signs: how many are there?", "thanks to whom was it built?",
            "is it good?", "how are the keepers paid?", "who wrote this?",
            "summarise the rules of the harbour",
            "what is the story about the lamp?", "why", "no smoking rules?", "hello is said by whom?",
            "who are the keepers?", "what are the rules?"],
}  # fmt: skip
PHRASES = [(text, name) for name, texts in SAID.items() for text in texts]


def test_there_are_more_than_a_hundred_phrases():
    assert len({text for text, _ in PHRASES}) >= 100


@pytest.mark.parametrize(("text", "name"), PHRASES)
def test_a_phrase_is_understood(text, name):
    assert understand(text, KNOWN).name == name


@pytest.mark.parametrize(
    ("text", "document"),
    [
        ("delete handbook.pdf", "handbook.pdf"),
        ("please remove the handbook", "handbook"),
        ("forget “Island Guide 2024.pdf” please", "Island Guide 2024.pdf"),
        ("/forget a b.pdf", "a b.pdf"),
        ("can you delete old notes.pdf", "old notes.pdf"),
        ("unlearn bakery", "bakery"),
    ],
)
def test_an_order_to_forget_names_its_document(text, document):
    intent = understand(text, KNOWN)
    assert (intent.name, intent.arguments) == ("forget", {"document": document})


@pytest.mark.parametrize(
    ("text", "question", "document"),
    [
        ("Who is the warden in handbook.pdf?", "Who is the warden?", "handbook.pdf"),
        ("handbook.pdf: who is the warden?", "who is the warden?", "handbook.pdf"),
        ("Handbook: who is the warden?", "who is the warden?", "handbook.pdf"),
        ("In Island Guide 2024.pdf, who leads?", "who leads?", "Island Guide 2024.pdf"),
        ("According to bakery.pdf when does it open?", "when does it open?", "bakery.pdf"),
        ("Who is it, in other.pdf?", "Who is it?", "other.pdf"),
    ],
)
def test_a_question_may_name_its_document(text, question, document):
    intent = understand(text, KNOWN)
    assert (intent.name, intent.arguments) == ("ask", {"question": question, "document": document})


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("Who works in the bakery?", "Who works in the bakery?"),  # a word of the question
        ("hi, who is the warden?", "who is the warden?"),
        ("Thanks! And when does it open?", "And when does it open?"),
        ("ask who?", "who?"),
        ("Note: who is it?", "Note: who is it?"),
    ],
)
def test_the_rest_of_a_question_stays_as_it_was_written(text, question):
    intent = understand(text, KNOWN)
    assert (intent.name, intent.arguments) == ("ask", {"question": question})


def test_files_are_learned_whatever_stands_beside_them_and_a_question_is_kept():
    for text in ("", "learn this", "our new handbook", "hello", "thanks!"):
        assert understand(text, with_files=True).arguments == {}
    beside = understand("Hi, who is the warden?", with_files=True)
    assert (beside.name, beside.arguments) == ("learn", {"question": "who is the warden?"})


@pytest.mark.parametrize("text", ["Who is it", "tell me the price", "When?", "is that so?", "hey, what about page 3"])
def test_a_question_is_told_by_its_form(text):
    assert is_question(text)


@pytest.mark.parametrize("text", ["No idea.", "Me neither", "I think it is Ada", "thanks!", "let us meet there"])
def test_what_is_no_question_is_told_by_its_form(text):
    assert not is_question(text)


def test_every_command_is_known_by_its_name():
    assert set(COMMAND_NAMES) == set(COMMANDS)


@given(st.text(), st.booleans())
def test_any_text_is_understood_as_something(text, with_files):
    intent = understand(text, KNOWN, with_files=with_files)
    assert intent.name in {*COMMANDS, *SMALL_TALK}
    assert intent.name not in COMMANDS or set(intent.arguments) <= {
        "question",
        *(option.name for option in COMMANDS[intent.name].options),
    }


@pytest.mark.parametrize(
    "text", ["that is " * 600, "ok " * 1300, "no " * 20 + "x", "thanks " + "so " * 1200, "a.pdf " * 600]
)
def test_no_text_is_thought_about_for_long(text):
    began = time.process_time()
    understand(text, KNOWN)
    assert time.process_time() - began < 0.5
