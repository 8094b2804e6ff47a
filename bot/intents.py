"""What a message wants: one table from phrases to commands and small talk. What the table does not know is a question.

A row matches a whole message, never only its beginning, so that a question may begin with any word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from core.document.formats import ENDINGS
from core.document.text import one_line

COMMAND_NAMES = (
    "learn", "ask", "docs", "forget", "reset", "status", "cancel", "settings", "corrections", "help", "about",
)  # fmt: skip
MAX_PHRASE_LENGTH = 80  # characters of a phrase of the table
MAX_CLAUSES = 4

# Parts of phrases, as regular expressions. Phrases are matched in lower case, without punctuation.
PARTS = {
    "word": "[a-z]+",
    "hello": "(?:h+i+|he+y+a?|hello+|hallo|hiya|howdy|yo+|sup|moin|hola|bonjour|servus|ciao|greetings|gm|aloha|heyo"
    "|good (?:day|evening|morning|afternoon))",
    "thing": "(?: (?:this|it|that|these|those|them|the|my|our|your|a|an|all|of|one|two|three|both|here|attached|above|new"
    "|first|last|latest|thing|whole|too|me"
    "|us|for|up|pdfs?|files?|docs?|documents?|papers?|attachments?|uploads?))*",
    "documents": "(?:documents?|docs|files|pdfs|papers)",
    "into": "(?: (?:to|in|into) your (?:memory|head|brain|knowledge|library|mind))?",
    "all": "(?: (?:there|all|again|everyone|everybody|guys|folks|team|friends?|you|bot|engram|mate|buddy|today))*",
    "nice": "(?:ok|okay|k|kk|nice|cool|great|perfect|awesome|wow|amazing|excellent|brilliant|neat|sweet|good|super"
    "|sure|fine|alright|right|correct|exactly|yes|yep|yeah|yup|true|agreed|same|done|interesting|impressive"
    "|got it|makes sense|well done|good (?:job|bot|answer|one|work)|nice (?:one|work|job)|love it|that works"
    "|works for me|not bad|no worries|no problem|me too)",
    # beside approval, or alone
    "filler": "(?:i see|lo+l|lmao|rofl|(?:ha)+h?|(?:he)+h|h?m+|oh|ah|aha|so|very|really|its?|that|thats|is|a lot|indeed)",
    "no": "(?:no|nope|nah|not|huh|nvm|never ?mind|whatever|me neither|no idea|forget (?:it|that|about it|about that))",
    "erase": "(?:forget|delete|erase|remove|unlearn|wipe)",
    "be": "(?:that|thats|that is|this|this is|it is|its|you are|youre|your answer is|no|nope|totally|completely|just)",
    "is not": "(?:not|cant be|cannot be|isnt|is not|wasnt|was not|(?:doesnt|does not) (?:look|sound|seem)(?: to be)?)",
    "bot": "(?:bot|human|ai|robot|person|chatgpt|gpt|llm|language model|machine|program)",
    "anybody": "(?:i|we|you|he|she|they|people|others|anyone|anybody|everyone|everybody|someone|somebody)",
    "time": "(?: (?:now|yet|already|today|still|so far|here|please|again|right now|at the moment|in (?:there|here)))*",
    "mood": "(?:(?:so |very |really |a bit )*(?:bored|sad|tired|happy|hungry|back|sorry|sentient|conscious|asleep|stupid|drunk"
    "|single|married|in love)(?: today| now)?)",
    "knows": "(?:know|have|learn|learned|learnt|read|got|remember|see|uploaded|taught|given)",
    "kind": "(?:so|very|much|a|lot|again|for|your|the|this|that|it|all|help|helping|answer|info|explaining|quick|reply"
    "|engram|bot|man|mate|everyone|guys|friend|soon|later|tomorrow|then|now|really|kindly|you|is|was|thats|great"
    "|helpful|perfect|buddy)",
}

# In this order; the first line that matches the whole message decides.
PHRASES = {
    "greeting": """
        {hello}(?: {hello})*{all}
        (?:good |guten )?(?:morning|afternoon|evening|day|tag|morgen){all}
        (?:{hello} )?(?:how (?:are|r) (?:you|u|things)|how do you do)(?: doing| feeling)?{all}
        (?:hows|how is) (?:it|life|your day|everything|things)(?: going| been| so far)?{all}
        (?:whats|what is) (?:up|good|new|happening){all}
        (?:are )?(?:you|u) (?:ok|there|here|online|up|alive|awake|still there|with me){time}
        (?:{hello} )?(?:nice|good|pleased|great) to (?:meet|see) you{all}
        (?:is )?any(?:one|body) (?:there|here|home)
        ping|test|testing|hello world|wassup|knock knock
    """,
    "introduction": """
        (?:who|what)(?: exactly)? (?:are|r|might|may) (?:you|u)(?: be)?(?: exactly| anyway)?
        (?:who|what|whats|whos)(?: exactly)?(?: is)? (?:engram|this bot|that bot|the bot)(?: all)?(?: exactly| for| about)?
        (?:who|what) (?:am i|are we) (?:talking|speaking|writing|chatting) (?:to|with)
        (?:introduce|explain|describe) yourself
        (?:what|which)(?: (?:kind|sort|type) of)?(?: a| an)? (?:model|{bot}|thing) (?:are you|is this)
        how old are you
        tell (?:me|us) (?:something )?about yourself
        (?:whats|what is) your (?:name|job|purpose)
        (?:are you|is this)(?: (?:just|really|actually|a|an|real|some (?:kind|sort) of))* (?:{bot}|real)
        what do you do
        (?:who|what) (?:made|built|created) you
    """,
    "help": """
        help(?: me| us)?(?: out)?
        (?:explain|show|tell)(?: (?:me|us|to me))? how (?:(?:this|it|that|the bot|this bot)(?: thing)? works|to (?:use|ask|start){thing})
        (?:i|we) need help
        (?:help |show me |list )?(?:the |your |all )*(?:commands?|menu|options|usage|instructions)
        what now|getting started|(?:i am |im )?(?:lost|confused|stuck)|(?:i|we) (?:dont|do not) (?:understand|get it)
        what (?:can|could) (?:you|i|we) (?:do|ask|type|say)(?: here| you| for (?:me|us)| with (?:you|this))*
        what are you (?:capable of|able to do|good (?:at|for))
        (?:what|which) commands (?:do you have|are there|can i use)
        what are (?:the|your) (?:commands|options|features)
        how do(?:es)? (?:this|you|it|that|the bot|this bot)(?: thing)? work
        how (?:do|does|can|should) (?:i|we|one|somebody) (?:start|begin|use|ask|teach|upload|add|feed|train)(?: you)?(?: something){thing}
        how (?:do|does|can|should) (?:i|we|one|somebody) (?:start|begin|use|ask|teach|upload|add|feed|train)(?: you)?{thing}
        how (?:do|can) (?:i|we) (?:make|get|have) you (?:to )?(?:learn|read|forget){thing}
        how (?:do|can) (?:i|we) (?:delete|remove|forget|erase)(?: a| my| the| one)* (?:documents?|files?|pdfs?)
        how to (?:start|begin|ask|use|teach|upload|add|delete|remove){thing}
        what (?:should|do|can|must) (?:i|we)(?: (?:have|need) to)? (?:do|say|type|write|ask)(?: now| you| next| first| here)*
    """,
    "docs": """
        docs|documents|list|library
        (?:list|show|give|tell)(?: me| us)?{thing}(?: known| learned)?(?: list of)?{thing} ?(?:{documents}|library|list)(?: you {knows})?
        (?:list|show|tell)(?: me| us)? (?:what|everything|all|anything)(?: that| documents| files)? you {knows}{time}
        (?:what|which|how many) {documents} (?:do|have|did|can) (?:you|i|we) {knows}{time}
        (?:what|which|how many) {documents} (?:are|were)(?: there| you| here)? ?(?:{knows}|available|loaded|stored)?{time}
        (?:what|which) are (?:the|your) {documents}(?: you {knows})?
        what (?:do|did|have) you {knows}{time}
        what (?:have|has|did) {anybody} (?:teach|taught|give|given|upload(?:ed)?|shown?|sen[dt]|post(?:ed)?|learn(?:ed)?)(?: you)?{time}
        (?:do you |have you )?(?:know|have|got) any{thing}
        (?:is there )?anything (?:{knows}|loaded|stored){time}
        (?:what is|whats) in your (?:memory|head|brain|library)
    """,
    "learn": """
        (?:learn|study|memori[sz]e|ingest|index|absorb|read|add|put|take|process|upload|remember|scan){thing}{into}(?: in)?
        (?:learn|read|study|add|take){thing} (?:i|we|he|she|they) (?:just |have |already )*(?:posted|uploaded|sent|shared)
        (?:take|have) a look(?: at)?{thing}|look at{thing}|check{thing}(?: out)?
        teach yourself{thing}
        (?:here is|heres|here you go|here it is|and|also|this)(?: one|{thing})
        (?:this|that) one(?: too| next)?
        (?:here is|heres) (?:the|our|my|a|another) (?:new )?{word}
    """,
    "forget me": """
        {erase}(?: all| everything| anything| what)?(?: that)?(?: you)?(?: {knows}| keep| store| stored| saved)?(?: about)? (?:me|us|myself)
        {erase} (?:who|what) i am
        {erase}(?: all| everything)?(?: about)?(?: of)? my (?:data|messages?|history|questions?|name|account|chats?)
        {erase} (?:what|everything|all) (?:i|we) (?:said|wrote|asked|told you)
    """,
    "reset": """
        (?:factory )?(?:reset|wipe|clear|empty|clean)(?: (?:everything|all|it|this|the|your|memory|channel|yourself|here|brain|clean|out))*
        (?:reset|wipe|clear|empty) all(?: the| your| my| our)? {documents}
        {erase} (?:everything|all|all of (?:it|them)|(?:it|them) all)(?: you (?:know|learned|learnt))?(?: here| (?:in|from) (?:this channel|here))?
        clean slate
        {erase} all(?: the| your| of the| my| our)? {documents}
        start (?:over|again|fresh|from scratch)
    """,
    "forget": """
        (?:delete|remove|erase|unlearn){thing}
        forget(?: (?:a|this|the|that|one) {documents})?
    """,
    "cancel": """
        (?:never ?mind |nvm |wait )?(?:cancel|stop|abort|halt|quit)(?: (?:it|this|that|learning|reading|the|job|upload|all|everything|now))*
        (?:dont|do not) (?:learn|read|study){thing}
    """,
    "status": """
        status|progress|queue
        (?:whats|what is)(?: the| your)? (?:status|progress)
        how far(?: along)? (?:are you|is it|is{thing}|along)(?: now)?
        (?:(?:are you|is it|is{thing}) )?(?:done|ready|finished|learned|still (?:learning|reading|busy|working|at it)){time}
        are you (?:busy|working){time}
        how is{thing} ?(?:learning|reading|upload)? (?:going|coming along)
        when (?:are|will) you(?: be)? (?:done|ready|finished)
        (?:whats |what is )?(?:the )?eta
        how is it going with{thing}
        how (?:much )?long(?:er)?(?: (?:does|will) it take| left| to go| until you are done)?
        what are you (?:doing|learning|reading|up to){time}
    """,
    "about": """
        about|privacy|terms
        (?:where is |show me )?(?:the |your )?source(?: code)?
        (?:(?:what|which) is )?(?:the |your )?licen[sc]e
        (?:what|which) licen[sc]e (?:do you have|is (?:it|this))
        what happens (?:with|to) (?:my|our) (?:data|files?|documents?|questions?|messages?)
        what (?:data )?do you (?:keep|store|save|collect|log)(?: about (?:me|us))?
        where (?:is|are) (?:my|our) (?:data|files?|documents?) (?:stored|kept)
    """,
    "settings": """
        (?:show |open |change |edit |adjust )?(?:the |your |my |me )*(?:settings?|config(?:ure|uration)?|preferences)
    """,
    "corrections": """
        (?:show|list)?(?: me| us)? ?(?:the |all |your |my )*corrections
        what (?:has|have|did) {anybody} correct(?:ed)?{time}
    """,
    "thanks": """
        (?:{nice} |many |big )*(?:thanks?|thank (?:you|u)|thx|ty|tysm|tnx|cheers|danke|merci|gracias)(?: {kind})*
        (?:i |much )?appreciated?(?: it| that)?
    """,
    "goodbye": """
        (?:bye+|goodbye|good ?night|gn|cya|farewell|so long|take care|later|see (?:you|ya|u))(?: {kind})*
        until (?:later|tomorrow)
        catch (?:you|ya) (?:later|soon|tomorrow)
        (?:i am|im) (?:off|out|leaving)(?: now| then)?
        (?:have|wish you) (?:a )?(?:{word} )?(?:day|one|weekend|night|evening|time|trip)(?: {kind})*
        (?:talk|speak|write) (?:to|with) (?:you|u) (?:later|soon|tomorrow)
        (?:gotta|got to|(?:i )?(?:have|need) to) (?:go|run|leave)(?: now)?
    """,
    "complaint": """
        (?:{be} )*(?:wrong|incorrect|{is not} (?:true|right|correct|accurate|it|so)|false|nonsense|rubbish|garbage|useless|a lie)
        (?:no )?i (?:dont|do not) think so
        (?:{be} )*(?:a |the )?(?:bad|stupid|dumb|terrible|awful|useless|wrong|worst|silly|poor)(?: (?:bot|answer|ai|ever))*
        (?:you|u|this bot|it) (?:sucks?|lies?|is lying|are lying|got (?:it|that) wrong|(?:made|are making)(?: it| that| this| things| stuff)? up)
        (?:that|this|it) (?:makes|made) no sense|(?:that|this) (?:doesnt|does not) (?:make sense|help|look right)
        (?:that|this|it)(?:s| is| was)? not (?:what i (?:asked|meant|wanted)|what (?:the|it|that)(?: {word})? says|helpful|an answer)
        are you (?:sure|certain|serious|kidding|joking)(?: about (?:that|this|it))?
        shut up|i hate (?:you|this bot)|go away|be quiet
    """,
    "chatter": """
        (?:tell|sing|write|draw|make)(?: me| us)? (?:a |an |another )?(?:joke|song|poem|story|picture|image)(?: about {word})?
        (?:say|tell|do)(?: me| us)? something(?: {word})?
        can you (?:sing|dance|laugh|cook|draw|rap|swim|fly|drive|feel|think|see|hear)(?: {word})?
        do you (?:sleep|dream|eat|drink|feel|think|get bored|have (?:feelings|friends|a {word}))
        (?:whats|what is) (?:your )?(?:favou?rite {word}|the meaning of life)
        what do you think(?: about {word}| of {word})?
        do you (?:like|love|hate) {word}
        (?:roll|flip|toss) a (?:dice?|coin)
        (?:i|we) (?:love|like|miss) (?:you|this bot)
        do you (?:love|like|hate) (?:me|us)
        (?:will you )?marry me
        (?:i am|im|are you) {mood}
        (?:sorry|congrats|congratulations|welcome|(?:you are|youre) welcome|merry christmas){all}(?: about (?:that|this|it))?
        (?:how|hows|what|whats|what is)(?: is)? (?:the )?weather(?: like)?(?: today)?
        what (?:time|day) is it
        happy (?:birthday|new year|friday|monday)
    """,
    "summary": """
        summari[sz]e{thing}
        (?:give|write|make|show)?(?: me| us)? ?(?:a |an |the )?(?:short |brief |quick )?(?:tl ?dr|summary|overview|gist|(?:main|key) points)(?: of)?{thing}
        sum{thing} up{thing}
        what (?:is|are){thing} about
        whats{thing} about
        what does{thing} say
        (?:whats|what is) in{thing}
        (?:explain|describe){thing}
    """,
    "approval": """
        (?:{filler} )*{nice}(?: (?:{nice}|{filler}))*(?: (?:bot|engram|man|then|mate))*
    """,
    "remark": """
        (?:{nice}|{filler}|{no})(?: (?:{nice}|{filler}|{no}))*(?: (?:bot|engram|man|then|mate|not))*
    """,
}


def _rows() -> list[tuple[str, re.Pattern[str]]]:
    rows = []
    for name, block in PHRASES.items():
        for line in map(str.strip, block.strip().splitlines()):
            rows.append((name, re.compile(line.format_map(PARTS))))
    return rows


ROWS = _rows()
# Of two in one message the first counts
MORE_THAN = (
    "complaint", "summary", "forget me", "introduction", "thanks", "goodbye", "chatter", "greeting", "remark",
    "approval",
)  # fmt: skip

# A message that asks nothing and has no other words than these is small talk, by the first of its kinds.
FILLERS = frozenset(
    re.findall(
        r"\w+",
        "a about actually again ah ai all always and as at are be been bot bro bunch but buddy dear did do ever everyone "
        "everybody everything for friend from got guy guys have help helped helps no i im indeed info information is it its just "
        "kind know lot made man mate me million much my new needed needs now oh one only our re really right so some such than that "
        "thats the then they this to too u ur us very was we well were what with wow yes you your youre answer answers explanation reply sir "
        "exactly",
    )
)
KEYWORDS = {
    "thanks": "ta thanks thank thx ty tysm tnx cheers danke merci gracias obliged appreciated appreciate grateful",
    "goodbye": "bye cheerio laters goodbye goodnight cya ttyl gtg farewell night weekend tomorrow later leaving",
    "complaint": "wrong incorrect nonsense rubbish garbage useless stupid dumb sucks lies false terrible worst awful",
    "greeting": "hi hey hello hallo hiya howdy yo sup dude morning evening aloha",
    "approval": "ok okay nice cool great perfect awesome amazing excellent brilliant neat sweet good super fine love best omg yay whoa stuff "
    "rock rocks lifesaver legend hero clever smart noted fair enough worries np gotcha roger sounds fun funny happy impressive interesting "
    "correct true agreed wonderful fantastic beautiful glad quick helpful",
    "remark": "lol haha",
}


KIND_OF: dict[str, str] = {}  # by word; of two kinds the first counts
for kind, words in reversed(KEYWORDS.items()):
    KIND_OF |= dict.fromkeys(words.split(), kind)
APPROVING = re.compile(  # a message of emoji alone, or of their codes
    r"(?=.*[^\s!.,])(?:[👍👌👏🙌💪🙏🎉🥳🔥🚀✨💯✅❤💙💚💛🧡💜😀😃😄😁😊🙂😍🥰🤩😎🤝]|[\U0001f3fb-\U0001f3ff\ufe0f\u200d]"
    r"|:(?:\+1|thumbsup|ok_hand|clap|raised_hands|muscle|pray|tada|partying_face|fire|rocket|sparkles|100|white_check_mark|heart"
    r"|smile|smiley|grin|grinning|blush|slightly_smiling_face|heart_eyes|star-struck|sunglasses|handshake)(?:::skin-tone-\d)?:"
    r"|[\s!.,])+"
)
INTERJECTION = re.compile(r"^(?:(?:oh|and|but|so|also|well|ah|hm+|um+)\b ?)+")
THANKS = re.compile(r"^(?:thanks?|thx|ty)\b|\b(?:thanks|thank you|thx|ty)$")  # of a statement
TO_THE_BOT = re.compile(r"\b(?:you|your|that|thats|i|im|me|us)\b(?! thanks?$)")
ASK_POLITELY = re.compile(
    r"^(?:(?:please|pls|plz|hey|hi|hello|ok|okay|oh|and|but|so|also|well|hm+|um+|engram|bot|now|just|kindly|go ahead and"
    r"|lets|let us|(?:can|could|would|will) (?:you|some(?:body|one)|any(?:body|one))(?: please)?|(?:i|we) (?:want|would like|need) you to)\b ?)+"
)
END_POLITELY = re.compile(r"(?: (?:please|pls|plz|thanks|thank you|engram|bot|now|for me|for us|mate|will you))+$")
OPENING = re.compile(
    r"^(?:hi|hey|hello|hallo|ok|okay|thanks|thank you|thx|good (?:morning|afternoon|evening)|cool|great|nice|perfect)"
    r"(?: (?:there|all|engram|bot|everyone))?\s*[,.!:;–-]+\s*(?=\S)",
    re.IGNORECASE,
)
ERASE = re.compile(
    r"^(?:(?:please|can you|could you|i want you to|i need you to|now)\s+)*"
    r"(forget|delete|remove|erase|unlearn|drop|get rid of|throw away)\s+(?:(?:the|about|file|document|pdf)\s+)*(.+?)"
    r"(?:\s+(?:please|pls|thanks|again|now|from (?:your|the) \w+))*$",
    re.IGNORECASE,
)
MAX_NAMES = 32  # of documents that are looked for in a message
FILE = re.compile(rf"[^\s“”\"']+\.(?:{'|'.join(ENDINGS)})\b", re.IGNORECASE)
ASKS = re.compile(
    r"(?:who|whom|whose|what|whats|when|where|why|which|how|is|are|was|were|do|does|did|can|could|will|would|should|has"
    r"|have|had|may|might|must|tell|list|name|give|explain|describe|summari[sz]e|define|compare|show|find)\b"
)


@dataclass(frozen=True)
class Intent:
    """`name`: of a command in `bot.commands.COMMANDS`, of small talk, or "summary": what a document is about."""

    name: str
    arguments: Mapping[str, object] = field(default_factory=dict)


def understand(text: str, documents: Sequence[str] = (), *, with_files: bool = False) -> Intent:
    """What a message wants of the bot.

    Args:
        text: without the mention of the bot.
        documents: names of those that the channel knows.
        with_files: the message brings files that can be learned.
    """
    text = one_line(text)
    words = normal(text)
    if not words and with_files:
        return Intent("learn")
    if not words:  # but emoji and punctuation, or nothing at all
        signs = text.strip("?! ")
        return Intent(("approval" if APPROVING.fullmatch(signs) else "remark") if signs else "greeting")
    intent = _command(text) or _phrase(words) or _erase(text, documents)
    intent = intent or _phrase(_unnamed(text, documents)) or _clauses(text) or _summary(text, documents)
    if with_files:
        is_asked = intent is None and is_question(text)
        return Intent("learn", {"question": question(text)} if is_asked else {})
    return intent or Intent("ask", _asked(question(text), documents))


def named(text: str, documents: Sequence[str]) -> str:
    """The document that a text names, with or without its ending; "" where it names none."""
    said = f" {normal(text)} "
    for written in (str, stem):
        for name in documents:
            if len(written(name)) > 2 and f" {normal(written(name))} " in said:
                return name
    return ""


def _command(text: str) -> Intent | None:
    """A command's name, as `/docs` or `docs`, and what follows where it takes words."""
    first, _, rest = text.partition(" ")
    name = first.lower().removeprefix("/")
    if name == "ask" and rest:
        return Intent("ask", {"question": rest})
    return Intent(name) if name in COMMAND_NAMES and not normal(rest) else None


def _phrase(words: str) -> Intent | None:
    """By the table: as it stands, and without what is only polite. What an emoji answers does not begin as a question
    does."""
    asks = bool(ASKS.match(words))
    plain = END_POLITELY.sub("", ASK_POLITELY.sub("", words))
    for candidate in dict.fromkeys((words, INTERJECTION.sub("", words), plain)):
        if 0 < len(candidate) <= MAX_PHRASE_LENGTH:
            for name, pattern in ROWS:
                if pattern.fullmatch(candidate) and not (asks and name in ("approval", "remark")):
                    return Intent(name)
    if asks:
        return None
    return Intent("thanks") if THANKS.search(words) and TO_THE_BOT.search(words) else _by_words(words.split())


def _unnamed(text: str, documents: Sequence[str]) -> str:
    """Normal words, with "document" for each file that is named."""
    for name in _names_in(text, documents):
        text = re.sub(rf"[“\"']?{re.escape(name)}[”\"']?", "document", text, flags=re.IGNORECASE)
    return normal(text)


def _names_in(text: str, documents: Sequence[str]) -> list[str]:
    """Names of documents and files that the text may have, each once, the longest first."""
    low = text.lower()
    names = [*filter(lambda name: stem(name).lower() in low, documents), *FILE.findall(text)]
    return sorted(dict.fromkeys(names), key=len, reverse=True)[:MAX_NAMES]


def _summary(text: str, documents: Sequence[str]) -> Intent | None:
    """ "Summarise the handbook": a name without its ending means a document here; elsewhere it may be a word."""
    intent = _phrase(_unnamed(text, [stem(name) for name in documents]))
    return intent if intent and intent.name == "summary" else None


def _clauses(text: str) -> Intent | None:
    """ "Here you go, please learn it": where the table knows every part. A command is more than small talk."""
    parts = list(filter(None, map(normal, re.split(r"[,.;!?–]\s+|\s[-–]\s", text))))
    if not 1 < len(parts) <= MAX_CLAUSES:
        return None
    names = []
    for part in parts:
        intent = _phrase(part)
        if intent is None:
            return None
        names.append(intent.name)
    return Intent(min(names, key=(*COMMAND_NAMES, *MORE_THAN).index))


def _by_words(words: Sequence[str]) -> Intent | None:
    """Small talk that the table does not know, where every word is one of it."""
    kinds = {KIND_OF.get(word, "") for word in words if word not in FILLERS or word in KIND_OF}
    if not kinds or "" in kinds:
        return None
    return Intent(min(kinds, key=list(KEYWORDS).index))


def _erase(text: str, documents: Sequence[str]) -> Intent | None:
    """`delete handbook.pdf`, `forget the handbook`. "Delete" and the like need a document, since a question may begin
    with them."""
    match = ERASE.match(text.strip(" .!?").removeprefix("/"))
    if not match or ("?" in text and not FILE.search(match[2])):
        return None
    name = match[2].strip("“”\"' ")
    is_known = any(name.lower() in (known.lower(), stem(known).lower()) for known in documents)
    if is_known or FILE.search(name) or match[1].lower() in ("forget", "unlearn"):
        return Intent("forget", {"document": name})
    return None


def _asked(text: str, documents: Sequence[str]) -> dict[str, object]:
    """A question, and the document that it names: `in handbook.pdf, who ...`, `handbook: who ...`, `who ... in
    handbook.pdf?`. Elsewhere a name without its ending may be a word of the question."""
    for name in _names_in(text, documents):
        full = rf"[“\"']?{re.escape(name)}[”\"']?"
        short = rf"[“\"']?{re.escape(stem(name))}[”\"']?" if len(stem(name)) > 2 else full
        for pattern in (
            rf"^(?:in|from|according to|using)\s+{full}\s*[,:;–-]*\s+(?P<question>.+)$",
            rf"^(?:{full}|{short})\s*:\s*(?P<question>.+)$",
            rf"^(?P<question>.+?),?\s+(?:in|from|according to|using)\s+(?:(?:the|document|file)\s+)*{full}[?.! ]*$",
        ):
            if match := re.match(pattern, text, re.IGNORECASE):
                asked = match["question"].strip()
                return {"question": asked if asked.endswith("?") or "?" not in text else asked + "?", "document": name}
    return {"question": text}


def question(text: str) -> str:
    """Without a greeting or thanks before it."""
    return OPENING.sub("", text.strip())


def is_question(text: str) -> bool:
    """Whether something is asked, as far as its form tells."""
    return "?" in text or bool(ASKS.match(normal(question(text))))


def stem(name: str) -> str:
    """A file's name without its ending."""
    return re.sub(r"\.\w{1,5}$", "", name)


def normal(text: str) -> str:
    """Lower case, without punctuation, emoji and their codes."""
    text = re.sub(r":[\w+-]+:", " ", text.lower()).replace("’", "").replace("'", "")
    return one_line(re.sub(r"[^\w ]+", " ", text))
