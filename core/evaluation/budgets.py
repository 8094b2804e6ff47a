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
from core.evaluation.bench import Search, learn
from core.evaluation.metrics import f1
from core.evaluation.squad import Article, read_squad
from core.learning.budget import (
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
from core.ports import Ask
from core.types import Page

EACH = (2.0, 3.0, 4.0, 5.0, 7.0)  # forward passes a chunk
Plan = list[list[Action]]  # of each document, for each chunk


@dataclass(frozen=True)
class Score:
    policy: str
    budget: float
    cost: float  # forward passes a chunk, spent
    f1: float  # percent


def lesson(engine: Engine, article: Article) -> tuple[Lesson, float]:
    """Losses before learning and gains in F1 (summed over a chunk's questions); and the base model's F1, summed."""
    chunks = engine.chunk([Page(n + 1, text) for n, text in enumerate(article.text)])
    search, config = Search([chunks]), replace(engine.config, check=False, guard=False)
    first = [search(q.text, 1)[0][1] for q in article.questions]
    losses, gains = [0.0] * len(chunks), [[0.0] * len(ACTIONS) for _ in chunks]
    base = 0.0
    for place, action in enumerate(ACTIONS):
        fixed = Engine(engine.base, replace(config, budget=f"fixed:{int(action)}"))
        for n, chunk in enumerate(chunks):
            learned, _ = learn(fixed, [chunk], article.title)
            weights = learned.section(0)
            mine = [q for q, c in zip(article.questions, first, strict=True) if c == n]
            given = fixed.answer([Ask(q.text, weights) for q in mine]) if mine else []
            gains[n][place] = sum(f1(a.text, q.answers) for a, q in zip(given, mine, strict=True))
            losses[n] = learned.metrics.initial_loss
    for row in gains:
        base += row[0]
        row[:] = [gain - row[0] for gain in row]
    return Lesson(losses, gains), base


def scores(lessons: Sequence[Lesson], base: float, questions: int) -> list[Score]:
    """Every policy under every budget. base: the base model's F1, summed over the questions."""

    def score(name: str, each: float, plan: Plan) -> Score:
        cost = sum(COST[a] for actions in plan for a in actions) / sum(map(len, plan))
        pairs = [
            (row, a) for m, actions in zip(lessons, plan, strict=True) for row, a in zip(m.gains, actions, strict=True)
        ]
        return Score(name, each, cost, 100 * (base + sum(row[ACTIONS.index(a)] for row, a in pairs)) / questions)

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
    o = parser.parse_args()
    engine = Engine.load(EngineConfig(model=o.model))
    articles = [a for a in read_squad(o.squad) if a.questions][: o.documents]
    lessons, base = zip(*(lesson(engine, a) for a in articles), strict=True)
    for s in scores(lessons, sum(base), sum(len(a.questions) for a in articles)):
        print(f"{s.policy:10} budget {s.budget:4.1f}  spent {s.cost:5.2f}  F1 {s.f1:5.2f}", flush=True)
    if o.train:
        folder = prepared_folder(engine.base)
        if folder is None:
            raise SetupError("This model was not prepared; there is no place to keep a policy for it.")
        save_policy(train(lessons, o.train), folder)


if __name__ == "__main__":
    main()
