"""Whether "What is this document about?" is answered with the subject: articles whose title is known and not told.

    python -m core.evaluation.subjects --squad articles.json --count 40

The rule: of the title's main words (its parentheses and common words left out) the answer holds at least half, of a
headline of more than five words at least three; a word counts by its stem. The control is another document's weights.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from core.engine import Engine, EngineConfig
from core.errors import NoGist
from core.evaluation.served import open_service
from core.ports import Ask
from core.search.whole import GIST_QUESTION
from core.search.words import STOP_WORDS, normalise, stemmed
from core.squad import Article, read_squad

ASKED = "What is this document about?"
HEADLINE = 5  # words; a longer title is a sentence


def names_subject(title: str, answer: str) -> bool:
    """The rule above."""
    main, said = _stems(re.sub(r"\(.*?\)", "", title)), _stems(answer)
    needed = 3 if len(main) > HEADLINE else math.ceil(len(main) / 2)
    return bool(main) and len(main & said) >= needed


def _stems(text: str) -> set[str]:
    return {stemmed(word.rstrip("s")) for word in normalise(text) if word not in STOP_WORDS}


async def measure(articles: Sequence[Article]) -> None:
    """Print a line of JSON for each article, and the counts."""
    config = EngineConfig(check=False)
    named = controls = 0
    async with open_service(lambda: Engine.load(config)) as served:
        before = None
        for n, article in enumerate(articles):
            document = await served.learn(str(n), n, replace(article, title="notes.txt"))
            try:
                answer = (await served.service.ask(str(n), ASKED)).learned
            except NoGist:
                answer = None
            text = answer.text if answer else ""
            other = before and (await served.runner.device.answer([before]))[0][0].text
            named += names_subject(article.title, text)
            controls += names_subject(article.title, other or "")
            print(json.dumps({"title": article.title, "answer": text, "other": other}), flush=True)
            section = document.metrics.gist
            if section is not None:
                load = served.weights.load
                weights = load(document.weights, str(n), base=served.engine.fingerprint, section=section)
                before = Ask(GIST_QUESTION, weights=weights, learner=document.weights.learner)
    print(f"{named} of {len(articles)} name the subject; with another document's weights {controls}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--squad", type=Path, required=True)
    parser.add_argument("--count", type=int, default=40)
    o = parser.parse_args()
    asyncio.run(measure(read_squad(o.squad)[: o.count]))


if __name__ == "__main__":
    main()
