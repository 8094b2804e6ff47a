"""`prepare`: learning to learn for a base model that stays as it is.

What is trained is only how it learns: where a document's delta starts, the rate of each step and layer, the weight of
each token, and a small LoRA, shared by all documents, to read with; and a head that finds the section a question is
about. The gradient passes through the product's own
inner loop, as in `core.learning.outer`; the result lies beside the base model's fingerprint, where `learn` finds it.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from core.embedded.corpus import Passage
from core.prepare.invented import invented_document
from core.prepare.questions import QA
from core.embedded.train import save_state
from core.errors import Refused
from core.evaluation.squad import read_squad
from core.learning.episodes import Episode, Material
from core.learning.fast_weights import FastWeightsConfig, Prepared, save_prepared, target_modules
from core.learning.measure import learned_figures
from core.learning.outer import OuterConfig, run_outer
from core.learning.search_head import save_head
from core.learning.train_search import SearchConfig, train_search
from core.model import LoadedModel, load_model, pick_device, pick_dtype


@dataclass(frozen=True)
class PrepareConfig:
    seconds: float = 600
    max_steps: int = 10**9
    layers: int = 7
    readout: int = 16  # rank of the shared LoRA; 0: none
    tokens: int = 16_384  # of documents, a step
    longest: int = 600  # tokens of a document
    every: int = 50  # steps between two checkpoints
    held_out: int = 24  # documents to judge the result by
    searched: int = 2_000  # passages with questions, at most, that the search head is trained on
    search_steps: int = 2_500


def read_questions(path: Path) -> list[Passage]:
    """The paragraphs of a question set in SQuAD's format that have questions. Raises: Refused."""
    passages: dict[tuple[str, str], list[QA]] = {}
    for article in read_squad(path):
        for q in article.questions:
            passages.setdefault((article.title, q.context), []).append(QA(q.text, q.answers[0]))
    return [Passage(title, context, questions) for (title, context), questions in passages.items()]


def prepare(
    base: LoadedModel,
    questions: Sequence[Passage],
    out: Path,
    config: PrepareConfig,
    report: Callable[[dict[str, Any]], None] = lambda figures: None,
) -> dict[str, Any]:
    """Train `prepared.safetensors` and `prepared.json` in `out`; an unfinished run there is gone on with. Documents are
    made of invented facts and of the paragraphs of `questions` (one in twenty held out); it may be empty, and then
    there is no `search.safetensors`: facts by rule are found by their words.

    Returns: steps, seconds and, on held-out documents, exact match and F1 of learned, wrong document and base, percent.
    """
    state = out / "unfinished" / "state.pt"
    width = base.model.config.hidden_size
    torch.manual_seed(0)
    inner = FastWeightsConfig(layers=config.layers, steps=2, rule="muon", start=True, readout=config.readout)
    resume = torch.load(state, map_location=base.device, weights_only=True) if state.exists() else None
    prepared = Prepared(FastWeightsConfig(**resume["inner"]) if resume else inner, width, base.model)
    prepared.train().to(base.device)
    outer = OuterConfig(
        seconds=config.seconds,
        max_steps=config.max_steps,
        tokens=config.tokens,
        longest=config.longest,
        first=config.longest,
        workers=0,  # this may run in a thread, from which forked workers do not start
        every=config.every,
        save_every=config.every,
        weigh_lr=1e-3,
        warmup_steps=20,
        strangers=0.0,
        language=0.0,
        reading=0.0,
        width=64,
    )

    def checkpoint(now: dict[str, Any]) -> None:
        state.parent.mkdir(parents=True, exist_ok=True)
        save_state(now, state)

    cut = max(1, len(questions) // 20)
    material = Material(
        human=questions[cut:], shares={"invented": 0.4, "human": 0.6}
    )  # invented only, when no questions
    figures = run_outer(
        base.model,
        base.tokenizer,
        prepared,
        material,
        outer,
        slow=[],
        report=report,
        resume=resume,
        checkpoint=checkpoint,
    )
    prepared.eval().requires_grad_(False)
    save_prepared(prepared, out)
    if asked := questions[cut:]:
        asked = random.Random(0).sample(asked, min(config.searched, len(asked)))
        save_head(train_search(base, asked, SearchConfig(steps=config.search_steps)), out)
    shutil.rmtree(state.parent, ignore_errors=True)
    held_out = learned_figures(
        base.model, base.tokenizer, prepared, _documents(questions[:cut], config.held_out), per_document=8
    )
    return held_out | {"steps": figures["step"], "seconds": figures["seconds"]}


def prepare_model(
    name: str,
    folder: Path,
    questions: Sequence[Passage],
    config: PrepareConfig,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    *,
    device: str = "auto",
    cache: Path | None = None,
) -> dict[str, Any]:
    """Load a base model and prepare it, in `folder` by its fingerprint. `progress` gets (what, seconds done, of all).

    Raises: ModelNotFound, Refused (it brings its own preparation, or is no Llama-like model).
    """
    place = pick_device(device)
    exact = place.type != "cuda" or pick_dtype("auto", place) == torch.float16
    base = load_model(name, device=str(place), dtype="float32" if exact else "bfloat16", cache=cache)
    if base.folder and (base.folder / "prepared.json").exists():
        raise Refused(f"The model '{name}' is prepared already.")
    try:
        target_modules(base.model, config.layers)
    except AttributeError:
        raise Refused(f"The model '{name}' is not built like Llama, so it cannot be prepared.") from None

    def report(figures: dict[str, Any]) -> None:
        progress(f"loss {figures['answer']:.2f}", int(figures["seconds"]), int(config.seconds))

    found = prepare(base, questions, folder / base.fingerprint[:16], config, report)
    return {"model": name, "folder": str(folder / base.fingerprint[:16])} | found


def _documents(questions: Sequence[Passage], most: int) -> list[Episode]:
    """Invented and real documents that no training saw, in turns."""
    rng = random.Random(77)
    real = [Episode(p.title, p.text, p.questions) for p in questions[: most // 2]]
    made = [invented_document(rng, 12) for _ in range(most - len(real))]
    invented = [Episode(m.title, " ".join(m.sentences), [rng.choice(qs) for qs in m.questions]) for m in made]
    return [e for pair in zip_longest(invented, real) for e in pair if e]
