"""Questions without people: rules that turn a declarative sentence into questions about it.

Self-supervised reading material for the embedded model. Four families, all answerable from the sentence: subject
("Who was crowned in 1483?"), time and place after an auxiliary or a past-tense verb ("When did she die?"), counts
("How many rooms ..."), and in-place cloze with a question word ("... was born in what year?"). A leading pronoun is
replaced by the article's title. A fifth takes a sentence out and asks it (`recurring`). The rules are heuristics over
words; a wrong question now and then is the price of millions of them (compare Lewis et al. 2019, "Unsupervised
Question Answering by Cloze Translation").
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import chain, filterfalse, repeat
from typing import NamedTuple

MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
DATE = re.compile(
    rf"\b(?:\d{{1,2}} (?:{MONTHS}) \d{{4}}|(?:{MONTHS}) \d{{1,2}}, \d{{4}}|(?:{MONTHS}) \d{{4}}|1[0-9]\d\d|20\d\d)\b"
)
COUNT = re.compile(
    r"\b((?:\d[\d,]*|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty)) ((?:[a-z]+ )?[a-z]{3,}s)\b"
)
PERCENT = re.compile(r"\b(\d[\d.]*(?: percent|%))")
NAME = re.compile(r"\b[A-Z][\w'’.-]*(?:(?: (?:of|the|de|van|von|and|la|al))? [A-Z][\w'’.-]*)*")
SENTENCE = re.compile(r"(?<=[a-z0-9)\"”][.!?]) +(?=[A-Z\"“])")
PRONOUN = re.compile(r"^(?:He|She|It|They|His|Her|Its|Their)\b")
AUX = "was|were|is|are|has|had|have|can|could|will|would|may|must"
FUNCTION = set(
    "the a an of in on at by for to and or but with from as it he she they his her its their this that these those".split()
)
NO_SUBJECT = (
    "This",
    "These",
    "There",
    "However",
    "But",
    "And",
    "Although",
    "When",
    "In",
    "As",
    "After",
)  # begin a sentence
OPENING = re.compile(r"(?:In|On|After|During|By) ([^,]{3,30}), ([A-Z].*)")
DEFINITION = re.compile(r"((?:a|an|the|one of the) [^,;]{3,70}?)(?:,| that| which| who| in | from | by | of the |$)")
OBJECT = re.compile(
    r"((?:the|a|an|his|her|its) [^,;]{3,50}?|[A-Z][\w ]{2,40}?)(?:,| in | on | at | to | by | and | for | with |$)"
)
CLAUSE_BEGINS = ("in", "on", "at", "for", "with", "and", "that", "which", "from")
PLACE_PREPOSITIONS = ("in", "at", "near", "from", "to", "on")
IRREGULAR = dict(
    pair.split(":")
    for pair in """
    became:become began:begin broke:break brought:bring built:build bought:buy caught:catch chose:choose came:come
    cost:cost created:create dealt:deal drew:draw drove:drive ate:eat fell:fall felt:feel fought:fight found:find
    flew:fly gave:give went:go grew:grow held:hold hit:hit kept:keep knew:know led:lead left:leave lent:lend
    lost:lose made:make meant:mean met:meet paid:pay put:put ran:run rose:rise said:say saw:see sold:sell sent:send
    set:set shot:shoot showed:show sang:sing sat:sit slept:sleep spoke:speak spent:spend stood:stand stole:steal
    swam:swim took:take taught:teach told:tell thought:think threw:throw understood:understand wore:wear won:win
    wrote:write died:die lay:lie
""".split()
)


class QA(NamedTuple):
    question: str
    answer: str


def sentences(text: str) -> list[str]:
    """Split a paragraph into sentences (heuristic: end mark, space, capital)."""
    return list(filter(None, SENTENCE.split(text)))


def base_form(verb: str) -> str | None:
    """'walked' -> 'walk', 'wrote' -> 'write'; None when it does not look like a past tense."""
    if verb in IRREGULAR:
        return IRREGULAR[verb]
    if not verb.endswith("ed") or len(verb) < 5:
        return None
    stem = verb[:-2]
    if stem.endswith("i"):
        return stem[:-1] + "y"
    if len(stem) > 3 and stem[-1] == stem[-2] and stem[-1] not in "sl":
        return stem[:-1]
    if re.search(
        r"(?:at|iz|is|uc|ok|ag|eng|ang|erv|eiv|olv|iev|ov|us|as|os|ur|ir|ar|ib|ud|id|ad|ic|ac|bl|pl|tl|dl|cl|in|ut)$",
        stem,
    ) and not re.search(r"(?:ain|oin|ear|air|eat|oat|ais|ead|ook|oin|eet|out|art|ard|our)$", stem):
        return stem + "e"
    return stem


def kind_of(name: str, before: str) -> str:
    """'who', 'where' or 'what' for a capitalised span, from the word before it and its own shape."""
    last = before.split()[-1].lower() if before.split() else ""
    if last == "by" or re.match(
        r"(?:Sir|Lord|King|Queen|President|Dr|Mr|Mrs|Saint|Pope|Prince|Captain|General)\b", name
    ):
        return "who"
    if last in ("in", "at", "near", "from"):
        return "where"
    if re.match(r"(?:The|New|United|University|North|South|East|West)\b", name) or re.search(
        r"(?:ia|land|ion|War|Act|City|School|College)$", name
    ):
        return "what"
    return "who" if len(name.split()) in (2, 3) and all(w[0].isupper() for w in name.split()) else "what"


def _clean(text: str) -> str:
    text = re.sub(r"\s*\([^()]*\)", "", text)  # parentheses make poor questions
    return re.sub(r"\s+", " ", text).strip(" ,;:")


def _trim(rest: str, rng: random.Random) -> str:
    """Keep the main clause: cut a long remainder at a comma, sometimes further at a preposition."""
    if rng.random() < 0.6:
        rest = re.split(r", (?:and|but|which|who|where|when|while|as|with)\b|[;:]", rest)[0]
    words = rest.split()
    if len(words) > 14:
        cut = [i for i in range(5, min(15, len(words))) if words[i] in CLAUSE_BEGINS]
        words = words[: rng.choice(cut)] if cut else words[:14]
    return " ".join(words).rstrip(" ,.;:")


def _when_word(span: str, rng: random.Random) -> str:
    return rng.choice(["When", "In what year", "What year"]) if len(span) == 4 else rng.choice(["When", "On what date"])


def _who_or_what(subject: str) -> str:
    return "Who" if NAME.fullmatch(subject) and kind_of(subject, "") == "who" else "What"


class Clause(NamedTuple):
    """A main clause: "The harbour | was | built in 1874" or "Orla Quint | kept | nineteen boats"."""

    subject: str
    verb: str  # as it stands
    aux: str  # what a question puts before the subject: the verb itself, or "did"
    lemma: str  # of the verb, after "did"; "" with an auxiliary
    rest: str

    def ask(self, head: str, rest: str) -> str:
        return " ".join(filter(None, (head, self.aux, self.subject, self.lemma, rest))) + "?"

    def ask_without(self, head: str, phrase: str, rng: random.Random) -> str:
        """With the phrase taken out of the rest."""
        rest = _trim(self.rest.replace(phrase, "", 1).replace("  ", " "), rng)
        return self.ask(head, rest).replace(" ?", "?")


def spelled_out(sentence: str, title: str) -> str | None:
    """The sentence without parentheses and its end mark, a leading pronoun replaced by the title; None where it is no
    sentence that can be asked about alone."""
    s = _clean(sentence).rstrip(".!?")
    if not 5 <= len(s.split()) <= 45 or s.count('"') % 2:
        return None
    if _begins_with_pronoun(s, title):
        owner = s.split()[0] in ("His", "Its", "Their", "Her")
        return re.sub(PRONOUN, title + ("'s" if owner else ""), s, count=1)
    if PRONOUN.match(s) or s.split()[0] in NO_SUBJECT:
        opening = OPENING.match(s)
        if not opening:
            return None
        when, s = opening.groups()
        if DATE.fullmatch(when):
            s = f"{s[0].upper()}{s[1:]} in {when}"
    return s


def _begins_with_pronoun(s: str, title: str) -> bool:
    """A pronoun that the title can stand for."""
    return bool(PRONOUN.match(s)) and len(title) < 40


def ask_sentence(sentence: str, title: str, rng: random.Random) -> list[QA]:
    """All questions that the rules make of one sentence."""
    s = spelled_out(sentence, title)
    if s is None:
        return []
    subject_is_title = _begins_with_pronoun(_clean(sentence), title)
    clause = _clause(s)
    questions: list[QA] = []
    if clause:
        if not subject_is_title or rng.random() < 0.3:
            word = _who_or_what(clause.subject)
            questions.append(QA(f"{word} {clause.verb} {_trim(clause.rest, rng)}?", clause.subject))
        questions += _ask_object(clause, rng) if clause.lemma else _ask_definition(clause, rng)
    for span, kind, preposition in _spans(s):
        questions += _ask_span(s, span, kind, preposition, clause, rng)
    first: dict[str, QA] = {}
    for q in questions:
        if _good(q):
            first.setdefault(q.question.lower(), q)
    return list(first.values())


def _clause(s: str) -> Clause | None:
    """With an auxiliary, else with a verb in the past tense; None where there is neither."""
    m = re.match(rf"(.{{2,60}}?) ({AUX}) (.+)", s)
    if m:
        subject, aux, rest = m.groups()
        is_simple = "," not in subject and not re.search(r"\b(?:that|which|who|if)\b", subject)
        if is_simple and len(subject.split()) <= 8:
            return Clause(subject, aux, aux, "", rest)
    m = re.match(r"((?:[A-Z][\w'’.-]*)(?: [\w'’.-]+){0,5}?) ([a-z]+) (.+)", s)
    lemma = base_form(m.group(2)) if m else None
    return Clause(m.group(1), m.group(2), "did", lemma, m.group(3)) if m and lemma else None


def _ask_definition(clause: Clause, rng: random.Random) -> list[QA]:
    """ "The lighthouse is a tower" -> "What is the lighthouse?" """
    definition = DEFINITION.match(clause.rest)
    if clause.aux not in ("was", "is", "were", "are") or not definition:
        return []
    word = "Who" if _who_or_what(clause.subject) == "Who" and rng.random() < 0.7 else "What"
    return [QA(f"{word} {clause.aux} {clause.subject}?", definition.group(1))]


def _ask_object(clause: Clause, rng: random.Random) -> list[QA]:
    """ "Orla kept nineteen boats in Vessin" -> "What did Orla keep in Vessin?" """
    thing = OBJECT.match(clause.rest)
    if not thing or rng.random() >= 0.7:
        return []
    rest = clause.rest[thing.end(1) :]
    with_rest = rest.strip(" ,") and rng.random() < 0.7
    question = clause.ask("What", _trim(rest, rng) if with_rest else "")
    return [QA(question.replace(" ,", ","), thing.group(1))]


def _spans(s: str) -> list[tuple[str, str, str]]:
    """Dates, counts, shares and names: the span, its kind, the word before it."""
    spans = [(d.group(), "when", _before(s, d.start())) for d in DATE.finditer(s)]
    for c in COUNT.finditer(s):
        if not DATE.fullmatch(c.group(1)):
            spans.append((c.group(1), f"how many {c.group(2)}", _before(s, c.start())))
    spans += [(p.group(1), "what percentage", _before(s, p.start())) for p in PERCENT.finditer(s)]
    dates = [d.span() for d in DATE.finditer(s)]
    for n in NAME.finditer(s):
        in_date = any(a <= n.start() < b for a, b in dates)
        if n.start() > 0 and n.group().lower() not in FUNCTION and len(n.group()) > 2 and not in_date:
            spans.append((n.group().rstrip(".'"), kind_of(n.group(), s[: n.start()]), _before(s, n.start())))
    return spans


def _before(s: str, place: int) -> str:
    words = s[:place].split()
    return words[-1].lower() if words else ""


def _ask_span(s: str, span: str, kind: str, preposition: str, clause: Clause | None, rng: random.Random) -> list[QA]:
    """At most one question that the span answers."""
    phrase = f"{preposition} {span}" if preposition in (*PLACE_PREPOSITIONS, "by", "of") else span
    heads = {"when": _when_word(span, rng), "where": "Where", "who": "Who", "what": "What"}
    if clause:
        if kind in ("when", "where") and preposition in PLACE_PREPOSITIONS and phrase in clause.rest:
            return [QA(clause.ask_without(heads[kind], phrase, rng), span)]
        if kind == "who" and preposition == "by" and not clause.lemma and phrase in clause.rest:
            rest = _trim(clause.rest.replace(phrase, "", 1), rng)
            active = f"Who {clause.subject} {clause.aux} {rest} by?"
            return [QA(rng.choice([active, f"By whom {clause.aux} {clause.subject} {rest}?"]), span)]
        if kind.startswith("how many") and span in clause.rest and (clause.lemma or rng.random() < 0.8):
            things = kind.removeprefix("how many ")
            return [QA(clause.ask_without(f"How many {things}", f"{span} {things}", rng), span)]
    return [_cloze(s, span, kind)] if rng.random() < 0.25 else []


def _cloze(s: str, span: str, kind: str) -> QA:
    """The sentence around the span, with a question word in its place."""
    start = s.find(span)
    end = start + len(span)
    words = {"when": "what year" if len(span) == 4 else "what date", "where": "what place"}
    word = words.get(kind, "how many" if kind.startswith("how") else kind.split(" ")[0])
    left, right = s[max(0, start - 90) : start], s[end : end + 60]
    left = left[left.find(" ") + 1 :] if start > 90 else left
    right = right[: right.rfind(" ")] if end + 60 < len(s) else right
    shown = (left + word + right).split()[:24]
    return QA(" ".join(shown).rstrip(" ,.;:") + "?", span)


def _good(q: QA) -> bool:
    words = q.question.split()
    return (
        3 <= len(words) <= 26
        and 1 <= len(q.answer.split()) <= 8
        and q.answer.lower() not in q.question.lower()
        and q.answer.lower() not in FUNCTION
    )


def ask_paragraph(paragraph: str, title: str, rng: random.Random, limit: int) -> list[QA]:
    """Up to `limit` questions about a paragraph, spread over its sentences."""
    per_sentence = [ask_sentence(s, title, rng) for s in sentences(paragraph)]
    pool = [rng.choice(questions) for questions in per_sentence if questions]
    more = filterfalse(set(pool).__contains__, chain.from_iterable(per_sentence))
    pool += [question for question in more if rng.random() < 0.4]
    rng.shuffle(pool)
    return pool[:limit]


WORD = re.compile(r"[^\W\d_]{5,}")


def recurring(paragraphs: Sequence[str], title: str, rng: random.Random) -> tuple[list[str], QA] | None:
    """A question that no sentence of the text spells out (recurring span selection, Ram et al. 2021): a sentence that
    names or dates something which stands elsewhere too is taken out, and becomes the question.

    Returns: the paragraphs without that sentence, and the question; None where nothing recurs.
    """
    split = list(map(sentences, paragraphs))
    places: list[tuple[int, int]] = []
    for i, paragraph in enumerate(split):
        places += zip(repeat(i), range(len(paragraph)), strict=False)
    places = list(filter(any, places))  # not the text's first sentence
    for i, j in rng.sample(places, len(places)):
        sentence = split[i][j]
        if not 7 <= len(sentence.split()) <= 40 or PRONOUN.match(sentence):
            continue
        without = list(split)
        without[i] = split[i][:j] + split[i][j + 1 :]
        others = list(chain.from_iterable(without))
        if sentence in others:  # it stands there word for word, once more
            continue
        spans = _recurring_spans(sentence, title)
        for span, word in rng.sample(spans, len(spans)):
            stands = re.compile(rf"(?<!\w){re.escape(span)}(?!\w)")
            about = set(WORD.findall(sentence.lower())) - set(WORD.findall(f"{span} {title}".lower()))
            if any(stands.search(s) and len(about & set(WORD.findall(s.lower()))) >= 2 for s in others):
                question = QA(_trim_around(stands.sub(word, _clean(sentence)), word), span)
                if _good(question):
                    return list(filter(None, map(" ".join, without))), question
    return None


def _recurring_spans(sentence: str, title: str) -> list[tuple[str, str]]:
    """Names and dates of a sentence that are not its subject's, each with the question word for its place."""
    known, words = title.lower(), {"when": "what date", "where": "what place", "who": "who", "what": "what"}
    spans = []
    for span, kind, _ in _spans(_clean(sentence)):
        if kind in words and span.lower() not in known and known not in span.lower():
            spans.append((span, "what year" if kind == "when" and len(span) == 4 else words[kind]))
    return spans


def _trim_around(text: str, word: str) -> str:
    """Up to 11 words before the question word, and about as many after it."""
    words = text.split()
    place = next((n for n in range(len(words)) if " ".join(words[n:]).startswith(word)), 0)
    return " ".join(words[max(0, place - 11) : place + 13]).rstrip(" ,.;:") + "?"
