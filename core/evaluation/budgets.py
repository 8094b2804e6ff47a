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

import numpy as np

from core.device import BATCH_ROWS
from core.engine import Engine, EngineConfig
from core.errors import SetupError
from core.evaluation.bench import BATCH, Bench, channel_of, learn_chunks
from core.evaluation.budget_training import Lesson, oracle, save_policy, train
from core.evaluation.journal import Journal
from core.evaluation.question_sets import asked_articles
from core.evaluation.served import article_pages, open_service
from core.evaluation.statistics import bootstrap
from core.learning.forms.budget import (
    BUDGET_ACTIONS,
    COST,
    Budget,
    BudgetAction,
    Policy,
    by_chance,
    by_threshold,
)
from core.model import prepared_folder
from core.squad import Article, f1
from core.types import Chunk

BUDGETS = (2.0, 3.0, 4.0, 5.0, 7.0)  # forward passes a chunk
Plan = list[list[BudgetAction]]  # of each document, for each chunk


@dataclass(frozen=True)
class PolicyScore:
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
    chunks = [engine.chunk(article_pages(article)) for article in articles]
    # By document, chunk and action, summed over the questions that point at the chunk
    f1s = [np.zeros((len(parts), len(BUDGET_ACTIONS))) for parts in chunks]
    for column, action in enumerate(BUDGET_ACTIONS):
        fixed = Engine(engine.base, replace(config, budget=f"fixed:{int(action)}"))
        if action == BudgetAction.SKIP:
            losses = list(map(partial(_initial_losses, fixed), articles, chunks))
        one_section = replace(engine.ranking, max_sections=1)
        async with open_service(
            partial(_same, fixed), ranking=one_section, batch_rows=max(BATCH_ROWS, batch)
        ) as served:
            bench = Bench(served, articles, Journal(None, {}), lambda *_: None, batch=batch)
            replies = await bench.ask_all("weights")
            for n, article in enumerate(articles):
                for question, reply in zip(article.questions, replies[n], strict=True):
                    [hit] = await served.index.candidates(channel_of(n), question.text, limit=1)
                    f1s[n][hit.chunk, column] += f1(reply.text, question.answers)
    lessons = []
    for losses_before, by_action in zip(losses, f1s, strict=True):
        lessons.append(Lesson(losses_before, (by_action - by_action[:, :1]).tolist()))
    return lessons, [float(by_action[:, 0].sum()) for by_action in f1s]


def _initial_losses(engine: Engine, article: Article, chunks: Sequence[Chunk]) -> list[float]:
    """Nats a token of each chunk before anything is learned."""
    losses = []
    for chunk in chunks:
        learned, _ = learn_chunks(engine, [chunk], article.title)
        losses.append(learned.metrics.initial_loss)
    return losses


def policy_scores(lessons: Sequence[Lesson], base: Sequence[float], questions: Sequence[int]) -> list[PolicyScore]:
    """Every policy under every budget. Of each document, base: the base model's F1, summed over its questions;
    questions: how many it has."""
    scores = []
    for action in BUDGET_ACTIONS:
        plan = [[action] * len(lesson.losses) for lesson in lessons]
        scores.append(_score(f"fixed:{int(action)}", COST[action], plan, lessons, base, questions))
    for budget in BUDGETS:
        plans: dict[str, Callable[[], Plan]] = {
            "random": partial(planned, lessons, budget, partial(_by_chance, budget)),
            "threshold": partial(planned, lessons, budget, partial(_by_threshold, budget)),
            "ppo": partial(cross_trained, lessons, budget),
            "oracle": partial(_oracles, lessons, budget),
        }
        for name, plan_of in plans.items():
            scores.append(_score(name, budget, plan_of(), lessons, base, questions))
    return scores


def _score(
    name: str, budget: float, plan: Plan, lessons: Sequence[Lesson], base: Sequence[float], questions: Sequence[int]
) -> PolicyScore:
    cost, gained = 0, 0.0
    f1s = []
    for actions, lesson, base_f1, count in zip(plan, lessons, base, questions, strict=True):
        cost += sum(COST[action] for action in actions)
        gain = sum(lesson.gains[chunk][BUDGET_ACTIONS.index(action)] for chunk, action in enumerate(actions))
        gained += gain
        f1s.append([100 * (base_f1 + gain) / count] * count)
    mean_f1 = 100 * (sum(base) + gained) / sum(questions)
    return PolicyScore(name, budget, cost / sum(map(len, plan)), mean_f1, bootstrap(f1s))


def _by_chance(budget: float, document: int) -> Policy:
    return by_chance(budget, seed=document)


def _by_threshold(budget: float, document: int) -> Policy:
    return by_threshold(budget)


def _oracles(lessons: Sequence[Lesson], budget: float) -> Plan:
    return [oracle(lesson.gains, budget) for lesson in lessons]


def planned(lessons: Sequence[Lesson], each: float, policy: Callable[[int], Policy]) -> Plan:
    """What a policy does with each document, within the budget."""
    plan = []
    for n, lesson in enumerate(lessons):
        budget = Budget(policy(n), each, len(lesson.losses))
        plan.append([budget.decide(loss) for loss in lesson.losses])
    return plan


def cross_trained(lessons: Sequence[Lesson], each: float) -> Plan:
    """Policies trained on one half of the documents for the other one."""
    trained_on_odd = train(lessons[1::2] or lessons, each)
    trained_on_even = train(lessons[::2], each)
    return planned(lessons, each, lambda n: trained_on_even.decide if n % 2 else trained_on_odd.decide)


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
    articles = asked_articles(o.squad, o.documents)
    lessons, base = lessons_of(engine, articles)
    for s in policy_scores(lessons, base, [len(article.questions) for article in articles]):
        low, high = s.interval
        f1_text = f"F1 {s.f1:5.2f} ({low:.2f}-{high:.2f})"
        print(f"{s.policy:10} budget {s.budget:4.1f}  spent {s.cost:5.2f}  {f1_text}", flush=True)
    if o.train and folder:
        save_policy(train(lessons, o.train), folder)


if __name__ == "__main__":
    main()
