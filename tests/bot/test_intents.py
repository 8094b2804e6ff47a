"""What people write, and what is wanted of the bot. No phrase here is copied from the table that understands it."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.commands import COMMANDS
from bot.intents import COMMAND_NAMES, ROWS, is_question, understand
from bot.render import REACTIONS, SMALL_TALK

KNOWN = ("handbook.pdf", "Island Guide 2024.pdf", "bakery.pdf")

SAID = {
    "greeting": ["", "hello", "Hi there!", "hey Engram", "good morning everyone :)", "yo", "Heyyy", "how are you?",
                 "What's up?", "are you there?", "ping", "Hallo", "hi hi", "👋 hello!"],
    "introduction": ["who are you?", "What are you exactly?", "are you a bot?", "introduce yourself please",
                     "what's your name?", "who made you", "Are you ChatGPT?"],
    "thanks": ["thanks!", "Thank you so much", "thx", "ty!!", "great, thanks", "cheers mate", "thanks for your help",
               "Perfect, thank you!", "danke"],
    "approval": [":+1:", "👍", "ok", "haha nice", "cool cool", "Good bot", "got it", "yes", "makes sense",
                 "wow, impressive!", "🎉🎉", "👍🏽!", ":tada: :+1::skin-tone-2:", "no problem", "not bad, not bad"],
    "remark": ["lol", "never mind", "forget it", "no", "Nope.", "whatever", "no, nice", "ok, whatever", "hm", "...",
               "😡", "👎", ":rage:", "👍👎", "🙄 🙄", "I see", "huh", "not nice"],
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
    "corrections": ["corrections", "show me the corrections please", "what did people correct?"],
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
ALSO_SAID = {
    "greeting": """
        hello engram | hey bot | good evening! | hii | heyo | hi everyone | hello? | anyone there? | you there? |
        what's good | sup dude | hey, how are you doing today? | how r u | hows life | morning! |
        hi engram, how are you? | hello friend 👋 | hey hey | Greetings, Engram! | aloha | u up? | how's your day? |
        hello, nice to meet you | nice to meet you | hi! :)
    """,
    "thanks": """
        thank you engram | thanks a bunch | thanks a million | tysm!! | thank you, that's perfect | thx bro |
        many thanks | ok thanks | thanks that helped | thank you very much indeed | thank you for the answer |
        much obliged | that was helpful, thanks | thanks, that's what I needed | appreciated! | nice, ty |
        thanks again | thank you kindly
    """,
    "approval": """
        ok great | sounds good | perfect | cool! | nice work | well done bot | awesome 🎉 |
        good job | yep | right | interesting | great answer | wow | noted | fair enough |
        alright then | no worries | np | that's great | that is awesome | love this | true that | you're the best |
        you are awesome | clever bot | good one | ok got it | gotcha | k | roger | excellent!! | very nice |
        oh wow ok | yes that's right | correct! | that was quick | you rock | brilliant, well done | not bad
    """,
    "remark": """
        haha | lmao | 😂😂 | :joy: | oh I see
    """,
    "introduction": """
        what is this bot? | what are you? | who is this bot | what's this bot for? | what do you do? |
        tell me about yourself | what is engram? | who built you? | are you human? | are you an AI |
        what model are you? | which model are you | hi, who are you? | explain yourself | what is your purpose |
        how old are you
    """,
    "help": """
        how do I use this? | what commands do you have? | what can I ask you? | show me the commands | help pls |
        how do i start? | how does this bot work? | can you help me? | what are your commands |
        how can I upload a file? | how do I teach you something? | i don't understand | what are you capable of? |
        help menu | how do I make you learn a document? | how do I delete a document? | can you help? |
        what should I do now? | how to start | getting started
    """,
    "docs": """
        which documents do you know? | what pdfs do you have? | show documents | list files | what did you learn? |
        what do you know here? | show me what you know | what's in your memory? | list all docs please |
        do you know any documents? | what have you read | which pdfs are loaded? | what documents are available? |
        show me the list of documents | what files have I uploaded? | what have I taught you? |
        what documents have you learned? | how many documents do you know? | show me the library |
        what are the documents you know?
    """,
    "learn": """
        learn this please | read this | please read this document | can you learn it? | learn the attached pdf |
        memorize this | add this pdf | here's the handbook | take a look at this | have a look at this file |
        please study the file above | learn the file i just uploaded | can you read the pdf i posted? |
        learn that | this one please | index this | learn my pdf | teach yourself this | learn this for me |
        please learn this document for us
    """,
    "forget": """
        forget handbook.pdf | please forget the handbook | delete the handbook | remove Island Guide.pdf please |
        erase handbook.pdf from your memory | can you forget handbook.pdf? | unlearn this document |
        delete this file | could you please delete handbook.pdf | forget about handbook.pdf |
        get rid of handbook.pdf | I want you to forget handbook.pdf | forget the document | remove it |
        drop handbook.pdf
    """,
    "reset": """
        forget everything you know | wipe your memory | clear all documents | reset please | delete all files |
        forget all documents | erase everything | please reset everything | clear memory | remove everything |
        start from scratch | delete everything you learned | factory reset | forget all of it | reset yourself |
        wipe everything clean
    """,
    "cancel": """
        stop learning | cancel it | please stop | stop that | cancel the upload | abort | stop reading |
        nevermind, cancel | stop it now | cancel everything | don't learn this | stop learning this
    """,
    "status": """
        are you done? | how far are you? | is it done yet? | how long will it take? | are you ready? | progress? |
        what are you doing? | are you still learning? | is it finished? | when will you be done? |
        how much longer | are you working? | are you busy? | eta? | how is it going with the pdf?
    """,
    "forget me": """
        forget me please | delete my data | delete everything about me | remove my messages |
        erase my data please | forget what I said | delete my account | forget about me | remove all my data
    """,
    "complaint": """
        that's not right | wrong answer | this is wrong | no, wrong | you're wrong | incorrect | bad answer |
        that makes no sense | you are useless | this bot sucks | that's false | not true | stupid |
        that is not what I asked | that's not what the document says | no that's wrong | you got it wrong |
        terrible answer | worst bot ever | are you sure?
    """,
    "goodbye": """
        bye bot | goodbye everyone | see you later | good night 🌙 | have a nice day | talk to you later | ttyl |
        cya later | bye bye | have a good one | see ya | have a great weekend | gotta go | take care!
    """,
    "chatter": """
        tell me a story | can you sing? | what's your favorite color? | do you like pizza? | I'm bored |
        what time is it? | how's the weather today? | I love you | will you marry me? | write a poem about cats |
        happy new year! | what do you think about politics? | can you dance? | do you sleep? | do you dream? |
        merry christmas everyone | sing a song | say something funny | roll a dice |
        tell me something interesting | do you have feelings? | i'm back | sorry about that |
        what's the meaning of life?
    """,
    "ask": """
        who built it | when is the ferry | price of a ticket | what's the name of the keeper? |
        is the shop open on sunday | tell me about the lighthouse | how old is the lighthouse? |
        which model is the lamp? | who is the head of the school | where do I find the harbour? |
        can I bring my dog? | what time is the ferry? | what time is it allowed? | how does the lamp work? |
        how do I get to the island? | do they sleep there? | what does the keeper do? | who are the members? |
        what did Ada learn? | list the rules | show me the price of bread | thank whom for the lamp? |
        what is the weather station called? | can you tell me who the warden is? | I want to know when it opens |
        please tell me the price | what are the opening hours | hi when does the ferry leave |
        explain the rules of the harbour | is that true? | and who is that? | what should visitors do on arrival? |
        how many documents does a visitor need? | are dogs ready to travel? |
        what is the status of the lighthouse? | how do I delete a reservation? | help desk phone number |
        best time to get there | the last day | free of charge | do you have vegetarian food? |
        are you open on Sunday? | what are your opening hours? | can you swim in the harbour?
    """,
}
SAID_LATER = {  # written without sight of the table
    "greeting": """
        hiya | oh hi there | hello all | good afternoon engram | hey hey, anybody home? | moin | heya folks | hello
        hello | hey engram, you awake? | yo bot | hello from the new guy | good day
    """,
    "introduction": """
        so what are you | and who might you be? | what kind of bot are you? | are you a real person? | what exactly
        is Engram | is this an AI? | what's this bot all about? | who am I talking to? | are you some kind of AI?
    """,
    "thanks": """
        thanks, you saved me | thank u | big thanks! | merci | that's exactly what I was looking for, thanks |
        thanks a lot, engram | ta | thanks man | cool, thank you very much | thanks for that | ok thx 👍
    """,
    "approval": """
        neat | okay cool | yay | oh nice one | super | that works | 🔥 | good to know | yup | sweet | makes
        sense now | good stuff | 👏👏 | you're a lifesaver
    """,
    "remark": """
        aha
    """,
    "goodbye": """
        night! | I'm off, bye | catch you later | until tomorrow | cheerio | ok bye for now | see you guys |
        goodnight bot
    """,
    "complaint": """
        this can't be right | nope, that's not it | you made that up | totally wrong | rubbish | that's totally
        wrong | hmm no, I don't think so | you are making things up
    """,
    "chatter": """
        do you have a girlfriend? | tell us something funny | I'm so tired today | are you single?
    """,
    "summary": """
        summarize this document please | what does the document say? | can you sum it up? | give me the gist |
        what's in the pdf? | short summary please | what is handbook.pdf about? | could you summarize the handbook |
        what's this document about | main points please
    """,
    "forget me": """
        delete all you know about me | remove me | wipe my data please | erase me | please forget who I am | delete
        my questions
    """,
    "help": """
        can somebody explain how to use this | what are you able to do | how can I ask you something? | what do I
        have to type? | I'm lost, help | usage | instructions please | what can i do here | how does one use this
        thing? | help, how do I add a file
    """,
    "docs": """
        which files have you got? | what have you got in there? | list everything you know | show files please |
        what did people upload? | anything learned already? | documents? | so which documents have you learned? |
        what pdfs are in here? | got any documents?
    """,
    "learn": """
        please add this to your memory | could you learn this document? | learn these two | remember this file |
        study this one | here you go, please learn it | learn the file please | could you please read that | add it
        to your knowledge
    """,
    "reset": """
        forget all you know | clear everything | empty your memory | wipe all documents | delete everything in this
        channel | forget it all | remove all files | clean slate please
    """,
    "cancel": """
        stop please | cancel learning | halt | please cancel this upload | quit learning that | stop the learning |
        please abort it
    """,
    "status": """
        how far along are you? | done? | still busy? | is the document ready? | how is the learning going? | are you
        finished yet | what's the progress?
    """,
    "settings": """
        change settings | show settings please | configure | open the settings
    """,
    "about": """
        what happens with my data? | which license do you have? | where is your source code?
    """,
    "forget": """
        forget that document please | can you remove bakery.pdf | throw away handbook.pdf | please forget what you
        learned from bakery.pdf | delete bakery.pdf from your memory please | unlearn handbook.pdf
    """,
    "ask": """
        who's the warden then | could you tell me who keeps the lamp | opening hours of the bakery? | is there a
        ferry on mondays | what does it say about dogs | does the handbook mention smoking? | and the captain? |
        name of the ferry please | how many people fit on the boat | any rules on noise? | when was it built and by
        whom? | I wonder how much a berth costs | which page talks about prices? | has anyone an idea what a berth
        costs? | whats the wardens name | cost of a berth | where can i park | why did the lamp go out? | what's the
        captain called | tickets price? | do dogs need a ticket | who do I call about a lost key? | the warden's
        phone number | is the inn open in winter?
    """,
}
PHRASES = [(text, name) for name, texts in SAID.items() for text in texts]
PHRASES += [
    (text.strip(), name)
    for texts_of in (ALSO_SAID, SAID_LATER)
    for name, texts in texts_of.items()
    for text in re.split(r"\|", texts)
]


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
        ("delete notes.docx", "notes.docx"),
        ("throw away my talk.pptx please", "my talk.pptx"),
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


def test_all_small_talk_has_an_answer():
    assert {name for name, _ in ROWS} - {*COMMANDS, "summary"} == {*REACTIONS, *SMALL_TALK}


def test_every_command_is_known_by_its_name():
    assert set(COMMAND_NAMES) == set(COMMANDS)


@given(st.text(), st.booleans())
def test_any_text_is_understood_as_something(text, with_files):
    intent = understand(text, KNOWN, with_files=with_files)
    assert intent.name in {*COMMANDS, *REACTIONS, *SMALL_TALK, "summary"}
    assert intent.name not in COMMANDS or set(intent.arguments) <= {
        "question",
        *(option.name for option in COMMANDS[intent.name].options),
    }


@pytest.mark.parametrize(
    "text",
    [
        "that is " * 600,
        "ok " * 1300,
        "no " * 20 + "x",
        "thanks " + "so " * 1200,
        "a.pdf " * 600,
        " ".join(f"{n}.pdf" for n in range(500)),
    ],
)
def test_no_text_is_thought_about_for_long(text):
    def seconds() -> float:
        began = time.process_time()
        understand(text, KNOWN)
        return time.process_time() - began

    assert min(seconds() for _ in range(3)) < 0.5
