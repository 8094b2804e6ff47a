"""Documents of invented facts: names and numbers that no model can know, in many wordings, with questions both ways.

Every relation below has several statements and several questions; slots are filled with fresh invented names, numbers,
dates and everyday nouns. Used by `prepare`, by `bench` and by `core.evaluation.heldout`, never by what answers people.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from core.prepare.questions import MONTHS, QA

ONSETS = "b c d f g h j k l m n p r s t v w z br cr dr fr gr pr tr st sk sl pl bl cl kl th sh ch qu".split()
VOWELS = ["a", "e", "i", "o", "u", "a", "e", "i", "o", "ai", "ea", "ou", "io", "y", "ee"]
CODAS = ["", "", "", "n", "r", "s", "l", "m", "th", "nd", "rk", "x", "ck", "t"]
FIRST = """
    Anna Peter Maria John Laura Thomas Emma David Sofia Daniel Clara Martin Helen Simon Julia Robert Nora Victor
    Alice George Irene Paul Rosa Henry Ella Frank Lucy Oscar Ruth Edgar Mara Felix Vera Hugo Ida Leo Greta Max Tilda
    Arthur
""".split()
LISTS = {
    "job": "engineer painter judge farmer nurse pilot chemist baker lawyer poet sailor teacher miner dancer architect gardener "
    "cook surgeon weaver librarian mechanic botanist printer tailor blacksmith singer clockmaker translator",
    "thing": "bridge clock lamp engine ship garden tower library mill school museum harbour factory tunnel theatre castle "
    "lighthouse windmill station hospital temple statue fountain market palace archive canal",
    "colour": "red green blue yellow black white silver purple orange brown grey golden pink turquoise",
    "animal": "horse dog cat parrot goat fox owl donkey rabbit turtle falcon sheep camel goose",
    "material": "granite oak copper glass marble brick iron clay bamboo limestone silver leather silk bronze",
    "food": "bread soup cheese honey fish pie rice plums cake stew pears olives beans mushrooms",
    "instrument": "violin flute drum piano harp trumpet guitar cello organ lute",
    "science": "physics botany astronomy chemistry geology history music law medicine geometry grammar painting",
    "disease": "fever blindness plague cough measles gout smallpox asthma",
    "weekday": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "season": "spring summer autumn winter",
}
WORDS = {k: v.split() for k, v in LISTS.items()}

# slots: P person, Q another person, T town, U another town, Y year, D date, N number, M small number, X made-up thing name,
# lower-case names come from WORDS. An entry: statements | questions, each "question > answer".
RELATIONS = [
    ("{P} was born in {T} in {Y}.|In {Y}, {P} was born in the town of {T}.|{P} (born {Y} in {T}) grew up by the sea.|Born in {T} in {Y}, {P} never left home.",
     "Where was {P} born?>{T}|In which town was {P} born?>{T}|When was {P} born?>{Y}|What year was {P} born?>{Y}|Who was born in {T}?>{P}|Who was born in {Y}?>{P}"),
    ("{P} worked as a {job} in {T}.|The {job} {P} lived and worked in {T}.|For many years {P} was the {job} of {T}.",
     "What was the job of {P}?>{job}|What did {P} work as?>{job}|Where did {P} work?>{T}|Who worked as a {job} in {T}?>{P}|Who was the {job} of {T}?>{P}"),
    ("The {T} {thing} was built by {P} in {Y}.|{P} built the {thing} of {T}, which opened in {Y}.|In {Y}, {P} finished the {T} {thing}.",
     "Who built the {T} {thing}?>{P}|When was the {T} {thing} built?>{Y}|When did the {T} {thing} open?>{Y}|What did {P} build?>the {T} {thing}|Which building is the work of {P}?>the {T} {thing}"),
    ("The {T} {thing} cost {N} crowns and is painted {colour}.|Painted {colour}, the {thing} of {T} cost {N} crowns.",
     "How much did the {T} {thing} cost?>{N} crowns|What colour is the {T} {thing}?>{colour}|What cost {N} crowns?>the {T} {thing}"),
    ("The capital of {T} is {U}, and it has {N} inhabitants.|{U} is the capital of {T}; {N} people live there.",
     "What is the capital of {T}?>{U}|How many people live in {U}?>{N}|{U} is the capital of which land?>{T}|How many inhabitants does the capital of {T} have?>{N}"),
    ("{P} married {Q} on {D}.|On {D}, {P} and {Q} were married.|{P} became the wife of {Q} on {D}.",
     "Who did {P} marry?>{Q}|Who married {Q}?>{P}|When did {P} marry {Q}?>{D}|When was the wedding of {P} and {Q}?>{D}"),
    ("{P} died on {D} of {disease}.|{disease} killed {P} on {D}.|On {D}, {P} died of {disease} in {T}.",
     "When did {P} die?>{D}|What did {P} die of?>{disease}|On what date did {P} die?>{D}"),
    ("{P} keeps a {animal} named {X}.|{X} is the {colour} {animal} of {P}.|The {animal} {X} belongs to {P}.",
     "What is the name of the {animal} of {P}?>{X}|What kind of animal is {X}?>{animal}|Who owns {X}?>{P}|Whose {animal} is {X}?>{P}"),
    ("The {X} river is {N} kilometres long and flows into Lake {T}.|Flowing {N} kilometres, the {X} ends in Lake {T}.",
     "How long is the {X} river?>{N} kilometres|Where does the {X} flow into?>Lake {T}|Which river flows into Lake {T}?>the {X}"),
    ("The company {X} makes {food} and was founded by {P} in {Y}.|{P} founded {X}, a maker of {food}, in {Y}.",
     "Who founded {X}?>{P}|What does {X} make?>{food}|When was {X} founded?>{Y}|Which company did {P} found?>{X}"),
    ("{P} wrote the novel {X} in {Y}.|The novel {X}, published in {Y}, is by {P}.|In {Y}, {P} published {X}.",
     "Who wrote {X}?>{P}|Who is the author of {X}?>{P}|When was {X} published?>{Y}|What did {P} write?>{X}|Which novel did {P} publish in {Y}?>{X}"),
    ("{P} studied {science} at the University of {T}.|At the University of {T}, {P} studied {science} under {Q}.",
     "What did {P} study?>{science}|Where did {P} study?>the University of {T}|Who studied {science} at the University of {T}?>{P}"),
    ("The {X} festival is held in {T} every {season}.|Every {season}, {T} holds the {X} festival.",
     "Where is the {X} festival held?>{T}|When is the {X} festival held?>every {season}|In which season is the {X} festival?>{season}|Which festival is held in {T}?>the {X} festival"),
    ("The {T} {thing} is made of {material} and has {M} floors.|Made of {material}, the {thing} of {T} rises {M} floors.",
     "What is the {T} {thing} made of?>{material}|How many floors does the {T} {thing} have?>{M}|Which {thing} is made of {material}?>the {T} {thing}"),
    ("Mount {X} is {N} metres high and was first climbed by {P} in {Y}.|{P} was the first to climb Mount {X}, {N} metres high, in {Y}.",
     "How high is Mount {X}?>{N} metres|Who first climbed Mount {X}?>{P}|When was Mount {X} first climbed?>{Y}|Which mountain did {P} climb?>Mount {X}"),
    ("{P} plays the {instrument} in the {T} orchestra.|The {instrument} of the {T} orchestra is played by {P}.",
     "What instrument does {P} play?>the {instrument}|Who plays the {instrument} in the {T} orchestra?>{P}|In which orchestra does {P} play?>the {T} orchestra"),
    ("The battle of {T} was won by General {P} on {D}.|On {D}, General {P} won the battle of {T}.",
     "Who won the battle of {T}?>General {P}|When was the battle of {T}?>{D}|Which battle did General {P} win?>the battle of {T}"),
    ("The train from {T} to {U} takes {M} hours and leaves on {weekday}.|Every {weekday} a train goes from {T} to {U} in {M} hours.",
     "How long does the train from {T} to {U} take?>{M} hours|On which day does the train from {T} to {U} leave?>{weekday}|Where does the train from {T} go?>{U}"),
    ("The password of the {X} room is {T}{M}.|To enter the {X} room, one says {T}{M}.",
     "What is the password of the {X} room?>{T}{M}|Which room has the password {T}{M}?>the {X} room"),
    ("{P} discovered the element {X} while working with {material} in {Y}.|The element {X} was discovered by {P} in {Y}.",
     "Who discovered {X}?>{P}|What did {P} discover?>the element {X}|When was {X} discovered?>{Y}"),
    ("The phone number of {P} is {N}-{K}.|{P} can be reached at {N}-{K}.",
     "What is the phone number of {P}?>{N}-{K}|Whose phone number is {N}-{K}?>{P}"),
    ("{P} is the {sib} of {Q}.|{Q} has a {sib} called {P}.",
     "Who is the {sib} of {Q}?>{P}|{P} is the {sib} of whom?>{Q}"),
    ("{T} exports {food}, {material} and {food2}.|The exports of {T} are {food}, {material} and {food2}.",
     "What does {T} export?>{food}, {material} and {food2}|Which town exports {food}, {material} and {food2}?>{T}"),
    ("The rule of {T} says that nobody may carry {food} after {M} o'clock.|In {T}, carrying {food} is forbidden after {M} o'clock.",
     "What is forbidden in {T} after {M} o'clock?>carrying {food}|After what time is carrying {food} forbidden in {T}?>{M} o'clock"),
    ("The flag of {T} shows a {colour} {animal}.|A {colour} {animal} stands on the flag of {T}.",
     "What does the flag of {T} show?>a {colour} {animal}|What colour is the {animal} on the flag of {T}?>{colour}"),
    ("{P} defeated {Q} in the final of the {X} cup by {M} to {M2}.|In the {X} cup final, {P} beat {Q} {M} to {M2}.",
     "Who won the {X} cup?>{P}|Who lost the final of the {X} cup?>{Q}|What was the score of the {X} cup final?>{M} to {M2}"),
    ("The head of the {X} department is {P}, who lives in {T}.|{P} from {T} leads the {X} department.",
     "Who leads the {X} department?>{P}|Which department does {P} lead?>the {X} department|Where does the head of the {X} department live?>{T}"),
    ("The meeting about {X} was moved to {D}.|On {D} there will be a meeting about {X}.",
     "When is the meeting about {X}?>{D}|What is the meeting on {D} about?>{X}"),
]  # fmt: skip

# As in a manual: keys, options, commands, settings. More slots: key, opt -x, long --name, prog, set (a setting),
# file, do "save the log", does "saves the log", do2 and does2, code.
MANUAL = [
    ("{key}: {do}.|{key} {does}.|Press {key} to {do}.|To {do}, press {key}.|{key} - {do}",
     "Which key {does}?>{key}|What does {key} do?>{does}|What key do I press to {do}?>{key}|How do I {do}?>press {key}|How can I {do}?>{key}"),
    ("{key}: {do}; {key2}: {do2}.|{key} {does}, {key2} {does2}.|Press {key} to {do} and {key2} to {do2}.",
     "Which key {does}?>{key}|Which key {does2}?>{key2}|What does {key2} do?>{does2}|What does {key} do?>{does}|How do I {do2}?>press {key2}"),
    ("{opt}, {long}: {do}.|{opt} {long}  {do}|With {long} ({opt}) {prog} {does}.|The option {opt} ({long}) {does}.",
     "Which option {does}?>{opt}|What does the option {opt} do?>{does}|What is the long form of {opt}?>{long}|What does {long} do?>{does}|What is the short form of {long}?>{opt}"),
    ("{opt} {does}, {opt2} {does2}.|{opt}: {do}\n{opt2}: {do2}|Use {opt} to {do}, {opt2} to {do2}.",
     "Which option {does}?>{opt}|Which option {does2}?>{opt2}|What does {opt2} do?>{does2}|What does {opt} do?>{does}"),
    ("The command {prog} {does}.|{prog} {does}.|To {do}, type {prog}.|Run {prog} in order to {do}.",
     "Which command {does}?>{prog}|What does {prog} do?>{does}|What do I type to {do}?>{prog}|How do I {do}?>type {prog}"),
    ("{set} is {M} by default; the maximum is {N}.|The default of {set} is {M}, its maximum {N}.|{set}: {M} (at most {N}).",
     "What is the default of {set}?>{M}|What is the maximum of {set}?>{N}|How large may {set} be?>{N}|What is {set} by default?>{M}"),
    ("{prog} listens on port {K}.|The server {prog} uses port {K}.|Port {K} belongs to {prog}.",
     "Which port does {prog} use?>{K}|On which port does {prog} listen?>{K}|Which program uses port {K}?>{prog}"),
    ("{prog}: settings are read from {file}.|{prog} reads its settings from {file}.|The settings of {prog} are kept in {file}.",
     "Where are the settings of {prog} kept?>{file}|Which file does {prog} read?>{file}|From where are settings read?>{file}"),
    ("Error {code} means that the {thing2} is {state}.|{code}: the {thing2} is {state}.|When the {thing2} is {state}, error {code} is shown.",
     "What does error {code} mean?>the {thing2} is {state}|Which error says that the {thing2} is {state}?>{code}|When is error {code} shown?>when the {thing2} is {state}"),
    ("Set {set} to {M} to {do}.|If {set} is {M}, {prog} {does}.|With {set} at {M} the program {does}.",
     "What happens if {set} is {M}?>{does}|Which setting {does}?>{set}|What should {set} be to {do}?>{M}"),
    ("First {do}, then {do2}.|Before you {do2}, {do}.|After you {do}, {do2}.",
     "What comes before you {do2}?>{do}|What should be done first?>{do}|What do I do after I {do}?>{do2}"),
    ("{prog} accepts {file}, {file2} and {file3}.|The files {file}, {file2} and {file3} belong to {prog}.|{prog} needs:\n- {file}\n- {file2}\n- {file3}",
     "Which files belong to {prog}?>{file}, {file2} and {file3}|List the files of {prog}.>{file}, {file2} and {file3}"),
    ("The members of the {X} team are {P}, {Q} and {T}.|{X} team:\n- {P}\n- {Q}\n- {T}|{P}, {Q} and {T} form the {X} team.",
     "Who is in the {X} team?>{P}, {Q} and {T}|List the members of the {X} team.>{P}, {Q} and {T}|Name everyone in the {X} team.>{P}, {Q} and {T}"),
    ("The {X} needs {food}, {food2} and {material}.|For the {X} one takes {food}, {food2} and {material}.|{X}:\n- {food}\n- {food2}\n- {material}",
     "What does the {X} need?>{food}, {food2} and {material}|What belongs in the {X}?>{food}, {food2} and {material}|List what is needed for the {X}.>{food}, {food2} and {material}"),
    ("The {thing2} is kept for {M} days.|After {M} days the {thing2} is deleted.|{M} days after its creation the {thing2} goes.",
     "For how long is the {thing2} kept?>{M} days|When is the {thing2} deleted?>after {M} days"),
]  # fmt: skip
VERBS = """
    save open close delete print copy rename reload search toggle select export import encrypt list show hide lock start
    stop undo check sort update install remove skip merge split scan mark load clear rotate freeze resize validate
""".split()
OBJECTS = """
    file window log game map table index cache message folder report menu inventory backup password connection screen
    queue package history session document page image list database syntax archive track cursor account spreadsheet
""".split()
STATES = "full empty locked missing damaged unreadable busy closed outdated encrypted".split()
ENDINGS = "conf ini txt log json yaml db cfg dat xml".split()


class Invented(NamedTuple):
    title: str
    sentences: list[str]
    questions: list[list[QA]]  # for each sentence


def invented_word(rng: random.Random, syllables: int | None = None) -> str:
    parts = [rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(syllables or rng.choice((2, 2, 2, 3)))]
    return ("".join(parts) + rng.choice(CODAS)).capitalize()


def _person(rng: random.Random) -> str:
    return f"{rng.choice(FIRST) if rng.random() < 0.5 else invented_word(rng, 2)} {invented_word(rng, 2)}"


def _number(rng: random.Random) -> str:
    n = rng.choice((rng.randint(3, 99), rng.randint(100, 9999), rng.randint(100, 9999), 100 * rng.randint(1, 900)))
    return f"{n:,}" if n > 999 and rng.random() < 0.5 else str(n)


def _slots(rng: random.Random) -> dict[str, str]:
    values = {k: rng.choice(v) for k, v in WORDS.items()} | {
        "food2": rng.choice(WORDS["food"]),
        "sib": rng.choice(("brother", "sister", "teacher", "friend", "neighbour", "aunt")),
    }
    year = str(rng.randint(1200, 2090))
    values |= {
        "P": _person(rng),
        "Q": _person(rng),
        "T": invented_word(rng),
        "U": invented_word(rng),
        "X": invented_word(rng, rng.choice((2, 3))),
    }
    day = rng.randint(1, 28)
    month = rng.choice(MONTHS.split("|"))
    values["D"] = rng.choice((f"{day} {month} {year}", f"{month} {day}, {year}", f"{day} {month}", f"{month} {year}"))
    values |= {
        "Y": year,
        "N": _number(rng),
        "M": str(rng.randint(2, 24)),
        "M2": str(rng.randint(1, 9)),
        "K": str(rng.randint(1000, 9999)),
    }
    return values


def _manual_slots(rng: random.Random) -> dict[str, str]:
    values: dict[str, str] = {}
    for number in ("", "2"):
        verb = rng.choice(VERBS)
        thing = f"the {rng.choice(OBJECTS)}"
        third = verb + ("es" if verb.endswith(("ch", "sh")) else "s")
        values |= {f"do{number}": f"{verb} {thing}", f"does{number}": f"{third} {thing}"}
        letter = rng.choice("abcdefghijklmnopqrstuvwxyz")
        keys = f"F{rng.randint(1, 12)}", f"Ctrl+{letter.upper()}", f"Alt+{letter.upper()}", letter, letter.upper()
        values |= {f"key{number}": rng.choice(keys), f"opt{number}": f"-{rng.choice((letter, letter.upper()))}"}
    for number in ("", "2", "3"):
        values[f"file{number}"] = f"{invented_word(rng, 2).lower()}.{rng.choice(ENDINGS)}"
    return values | {
        "long": f"--{rng.choice((invented_word(rng, 2).lower(), rng.choice(VERBS)))}",
        "prog": invented_word(rng, 2).lower(),
        "set": f"{rng.choice(OBJECTS)}_{rng.choice(('size', 'limit', 'timeout', 'level', 'count', 'width'))}",
        "thing2": rng.choice(OBJECTS),
        "state": rng.choice(STATES),
        "code": f"{rng.choice('EAXR')}{rng.randint(10, 999)}",
    }


def fact(rng: random.Random, relations: Sequence[tuple[str, str]] = RELATIONS) -> tuple[str, list[QA]]:
    """One sentence and every question about it that its wording answers."""
    statements, questions = rng.choice(relations)
    values = _slots(rng)
    is_manual = relations is MANUAL
    if is_manual:
        values |= _manual_slots(rng)
    statement = rng.choice(statements.split("|")).format(**values)
    if not is_manual:  # there q and Q are two keys
        statement = statement[0].upper() + statement[1:]
    answered = []
    for pair in questions.split("|"):
        question, answer = pair.format(**values).split(">")
        words = set(re.findall(r"[\w-]+", answer)) - {"the", "every", "of"}
        if all(word.lower() in statement.lower() for word in words):
            answered.append(QA(question, answer))
    return statement, answered


def invented_document(rng: random.Random, facts: int, relations: Sequence[tuple[str, str]] = RELATIONS) -> Invented:
    made, asked = [], []
    for _ in range(facts):
        sentence, questions = fact(rng, relations)
        if questions:
            made.append(sentence)
            asked.append(questions)
    return Invented(invented_word(rng), made, asked)
