"""Ways of learning: a row is a name and where its class lives. What each one gives is measured in evaluation/LOG.md."""

from __future__ import annotations

import importlib

from core.errors import SetupError
from core.learning.base import LearnConfig, Learner
from core.learning.preparation import is_shipped_form
from core.model import LoadedModel, prepared_folder
from core.prompts import ChatFormat

LEARNERS = {
    "fast-weights": "core.learning.fast_learner:FastWeightsLearner",
    "lora": "core.learning.adapters.lora:LoraLearner",
    "ttt-linear": "core.learning.forms.branches:TTTLinearLearner",
    "ttt-mlp": "core.learning.forms.branches:TTTMLPLearner",
}
OTHER_FORM = "core.learning.forms.fast_weights:FormLearner"
BUDGETED = "core.learning.forms.budget:BudgetedLearner"


def make_learner(name: str, base: LoadedModel, fmt: ChatFormat, config: LearnConfig) -> Learner:
    """Raises: SetupError when there is none of this name, or it can't do what the configuration asks for."""
    if name not in LEARNERS:
        raise SetupError(f"There is no learner '{name}'; choose one of {', '.join(LEARNERS)}.")
    place = LEARNERS[name]
    if name == "fast-weights":
        folder = prepared_folder(base)
        if config.budget:
            place = BUDGETED
        elif folder is None or not is_shipped_form(folder):
            place = OTHER_FORM
    module, _, kind = place.partition(":")
    return getattr(importlib.import_module(module), kind)(base, fmt, config)
