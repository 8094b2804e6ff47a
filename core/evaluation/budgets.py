"""Quality against compute for each budget policy, and the lessons that train one.

    python -m core.evaluation.budgets --squad FILE [--documents N] [--train EACH]

Every chunk is learned under every action, and the questions that point at it are asked; then any policy's score can be
looked up. The trained policy is scored on documents that it was not trained on. `--train EACH` trains one on all of
them for that budget and keeps it beside the prepared weights, where "ppo:EACH" finds it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core.engine import Engine, EngineConfig
from core.errors import SetupError
from core.evaluation.bench import BATCH, Bench, learn
from core.evaluation.journal import Journal
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
    config = replace(engine.config, check=False, guard=False)
    losses: list[list[float]] = []
    found: list[list[list[float]]] = []  # F1 by document, chunk, action
    for place, action in enumerate(ACTIONS):
        fixed = Engine(engine.base, replace(config, budget=f"fixed:{int(action)}"))
        bench = Bench(fixed, articles, Journal(None, {}), lambda *_: None, routed=1, retrieved=1, batch=batch)
        if action == Action.SKIP:
            found = [[[0.0] * len(ACTIONS) for _ in d.chunks] for d in bench.documents]
            losses = [
                [learn(fixed, [c], d.article.title)[0].metrics.initial_loss for c in d.chunks] for d in bench.documents
            ]
        for d, rows, replies in zip(bench.documents, found, bench.ask_all("weights"), strict=False):
            for q, reply in zip(d.article.questions, replies, strict=True):
                rows[d.routed(q.text, 1)[0]][place] += f1(reply.text, q.answers)
    base = [sum(row[0] for row in rows) for rows in found]
    gains = [[[score - row[0] for score in row] for row in rows] for rows in found]
    return [Lesson(*pair) for pair in zip(losses, gains, strict=True)][: len(articles)], base[: len(articles)]


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
            "random": lambda e=each: planned(lessons, e, lambda n: by_chance(e, seed=n)),
            "threshold": lambda e=each: planned(lessons, e, lambda n: by_threshold(e)),
            "ppo": lambda e=each: crossed(lessons, e),
            "oracle": lambda e=each: [oracle(m.gains, e) for m in lessons],
        }
        found += [score(name, each, plan()) for name, plan in plans.items()]
    return found


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
