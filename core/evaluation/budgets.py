"""Quality against compute for each budget policy, and the lessons that train one.

    python -m core.evaluation.budgets --squad FILE [--documents N] [--train EACH]

Every chunk is learned under every action, and the questions that point at it are asked; then any policy's score can be
looked up. The trained policy is scored on documents that it was not trained on. `--train EACH` trains one on all of
them for that budget and keeps it beside the prepared weights, where "ppo:EACH" finds it.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from core.device import BATCH_ROWS
from core.engine import Engine, EngineConfig
from core.errors import SetupError
from core.evaluation.bench import BATCH, Bench, learn, own
from core.evaluation.journal import Journal
from core.evaluation.served import pages_of, serve
from core.evaluation.statistics import bootstrap
from core.learning.forms.budget import (
    ACTIONS,
    COST,
    Action,
    Budget,
    Lesson,
    Policy,
    by_chance,
    by_threshold,
    oracle,
    save_policy,
    train,
)
from core.model import prepared_folder
from core.squad import Article, f1, read_squad

EACH = (2.0, 3.0, 4.0, 5.0, 7.0)  # forward passes a chunk
Plan = list[list[Action]]  # of each document, for each chunk


@dataclass(frozen=True)
class Score:
    policy: str
    budget: float
    cost: float  # forward passes a chunk, spent
    f1: float  # percent
    interval: tuple[float, float]  # 95 %, documents resampled


def lessons_of(engine: Engine, articles: Sequence[Article], batch: int = BATCH) -> tuple[list[Lesson], list[float]]:
    """Of each document its losses before learning and its gains in F1 (summed over a chunk's questions); and the base
    model's F1, summed."""
    return asyncio.run(_lessons_of(engine, articles, batch))


def _same(engine: Engine) -> Engine:
    return engine


async def _lessons_of(engine: Engine, articles: Sequence[Article], batch: int) -> tuple[list[Lesson], list[float]]:
    config = replace(engine.config, check=False, guard=False)
    chunks = [engine.chunk(pages_of(article)) for article in articles]
    losses: list[list[float]] = []
    by_action = [[[0.0] * len(ACTIONS) for _ in cut] for cut in chunks]  # F1 by document, chunk, action
    for place, action in enumerate(ACTIONS):
        fixed = Engine(engine.base, replace(config, budget=f"fixed:{int(action)}"))
        if action == Action.SKIP:
            for article, cut in zip(articles, chunks, strict=True):
                losses.append([learn(fixed, [chunk], article.title)[0].metrics.initial_loss for chunk in cut])
        one_section = replace(engine.base.ranking, max_sections=1)
        async with serve(partial(_same, fixed), ranking=one_section, batch_rows=max(BATCH_ROWS, batch)) as served:
            bench = Bench(served, articles, Journal(None, {}), lambda *_: None, batch=batch)
            replies = await bench.ask_all("weights")
            for n, (article, rows) in enumerate(zip(articles, by_action, strict=True)):
                for question, reply in zip(article.questions, replies[n], strict=True):
                    [hit] = await served.index.candidates(own(n), question.text, limit=1)
                    rows[hit.chunk][place] += f1(reply.text, question.answers)
    base = [sum(row[0] for row in rows) for rows in by_action]
    gains = [[[score - row[0] for score in row] for row in rows] for rows in by_action]
    return [Lesson(*pair) for pair in zip(losses, gains, strict=True)], base


def scores(lessons: Sequence[Lesson], base: Sequence[float], questions: Sequence[int]) -> list[Score]:
    """Every policy under every budget. base: of each document the base model's F1, summed over its questions."""

    def score(name: str, each: float, plan: Plan) -> Score:
        cost = sum(COST[a] for actions in plan for a in actions) / sum(map(len, plan))
        gained = [
            sum(row[ACTIONS.index(a)] for row, a in zip(m.gains, actions, strict=True))
            for m, actions in zip(lessons, plan, strict=True)
        ]
        f1s = [[100 * (b + g) / n] * n for b, g, n in zip(base, gained, questions, strict=True)]
        return Score(name, each, cost, 100 * (sum(base) + sum(gained)) / sum(questions), bootstrap(f1s))

    found = [score(f"fixed:{int(a)}", COST[a], [[a] * len(m.losses) for m in lessons]) for a in ACTIONS]
    for each in EACH:
        plans: dict[str, Callable[[], Plan]] = {
            "random": partial(planned, lessons, each, partial(_by_chance, each)),
            "threshold": partial(planned, lessons, each, partial(_by_threshold, each)),
            "ppo": partial(crossed, lessons, each),
            "oracle": partial(_oracles, lessons, each),
        }
        found += [score(name, each, plan()) for name, plan in plans.items()]
    return found


def _by_chance(each: float, document: int) -> Policy:
    return by_chance(each, seed=document)


def _by_threshold(each: float, document: int) -> Policy:
    return by_threshold(each)


def _oracles(lessons: Sequence[Lesson], each: float) -> Plan:
    return [oracle(m.gains, each) for m in lessons]


def planned(lessons: Sequence[Lesson], each: float, policy: Callable[[int], Policy]) -> Plan:
    """What a policy does with each document, within the budget."""
    budgets = [Budget(policy(n), each, len(m.losses)) for n, m in enumerate(lessons)]
    return [[budget.decide(loss) for loss in m.losses] for budget, m in zip(budgets, lessons, strict=True)]


def crossed(lessons: Sequence[Lesson], each: float) -> Plan:
    """Trained on one half of the documents for the other one."""
    nets = [train([m for n, m in enumerate(lessons) if n % 2 != half] or lessons, each) for half in (0, 1)]
    return planned(lessons, each, lambda n: nets[n % 2].decide)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--squad", required=True, type=Path)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--documents", type=int)
    parser.add_argument("--train", type=float, metavar="EACH")
    parser.add_argument("--prepared", type=Path, help="folder of what `bot prepare` left: data/prepared")
    o = parser.parse_args()
    engine = Engine.load(EngineConfig(model=o.model, prepared=o.prepared))
    folder = prepared_folder(engine.base)
    if o.train and folder is None:
        raise SetupError("This model was not prepared; there is no place to keep a policy for it.")
    articles = [a for a in read_squad(o.squad) if a.questions][: o.documents]
    lessons, base = lessons_of(engine, articles)
    for s in scores(lessons, base, [len(a.questions) for a in articles]):
        low, high = s.interval
        told = f"spent {s.cost:5.2f}  F1 {s.f1:5.2f} ({low:.2f}-{high:.2f})"
        print(f"{s.policy:10} budget {s.budget:4.1f}  {told}", flush=True)
    if o.train and folder:
        save_policy(train(lessons, o.train), folder)


if __name__ == "__main__":
    main()
