"""`prepare`: learning to learn for a base model that stays as it is, once per base model.

What is trained is only how it learns and reads: the reader (a LoRA that all documents share), the rate of each inner
step and layer, the weight of each token, "not in the text"; and a head that finds the section a question is about. The
gradient passes through the product's own inner loop (`core.prepare.outer`). The result lies beside the base model's
fingerprint, where `learn` finds it, with a model card.
"""

from __future__ import annotations

import copy
import json
import random
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor

from core.errors import Refused
from core.learning.hooks import down_projections
from core.learning.preparation import FastWeightsConfig, Prepared, load_prepared, save_prepared
from core.model import SEARCH, LoadedModel, load_model, pick_device, pick_dtype
from core.prepare import material as sources
from core.prepare.episodes import draw
from core.prepare.material import Material, Passage
from core.prepare.measure import EXCERPT_WORDS, learned_figures, measuring_sets
from core.prepare.outer import OuterConfig, process_rank, run_outer, save_state
from core.prepare.questions import QA
from core.prepare.search_head import SearchConfig, train_search
from core.search.head import load_head, save_head
from core.squad import read_squad

INNER = FastWeightsConfig(layers=4, skip=3, stride=5, steps=2, segment=208, section=192, reader=64)
SEARCHED_WORDS = 200  # of a passage that the search head is trained on, at most
QUESTIONS = 6  # of such a passage
SHARES = (0.35, 0.5, 0.7, 1.0)  # of the trained weights, in their average with those that training began with
CHOICE_DOCUMENTS = 6  # times `held_out`: held-out documents that choose the share


@dataclass(frozen=True)
class PrepareConfig:
    outer: OuterConfig = field(default_factory=OuterConfig)
    inner: FastWeightsConfig = INNER
    search: SearchConfig = field(default_factory=SearchConfig)
    held_out: int = 64  # documents of each kind to judge the result by
    start: Path | None = None  # a preparation of the same model to go on from; it brings `inner`


def read_material(path: Path) -> tuple[Material, Material]:
    """What to train on and what to judge by: a file of `core.prepare.material` with its development file beside it, or
    a question set in SQuAD's format, of which one context in twenty is held out.

    Raises: Refused.
    """
    if path.name.endswith((".jsonl.gz", ".jsonl.xz")):
        development = path.with_name("dev-" + path.name)
        return sources.load(path), sources.load(development) if development.exists() else Material()
    passages: dict[str, list[QA]] = {}
    for article in read_squad(path):
        for q in article.questions:
            passages.setdefault(q.context, []).append(QA(q.text, q.answers[0]))
    training: list[Passage] = []
    held_out: list[Passage] = []
    for context, questions in passages.items():
        group = held_out if sources.is_development(context) else training
        group.append(Passage("people", "", context, questions))
    return Material({"people": training}), Material({"people": held_out})


def prepare(
    base: LoadedModel,
    material: Material,
    development: Material,
    out: Path,
    config: PrepareConfig | None = None,
    report: Callable[[dict[str, Any]], None] = lambda figures: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Train `prepared.safetensors`, `prepared.json` and `search.safetensors` in `out`; an unfinished run there is gone
    on with. Its state lies in `unfinished/`, with the preparation as it is by then. Without questions of people no
    search head is trained: facts by rule are found by their words.

    With `start` the result is the best average of the trained weights with those of `start` (`choose_average`), and its
    search head stays: it reads the base model alone.

    Returns: steps; seconds; F1 by share of the trained weights; and of held-out documents by kind exact match and F1 in
    percent. {} in all processes but the first.
    Raises: Stopped, when `stop` says so; Refused.
    """
    c = config or PrepareConfig()
    state = out / "unfinished" / "state.pt"
    resume = torch.load(state, map_location="cpu", weights_only=True) if state.exists() else None
    torch.manual_seed(c.outer.seed)
    prepared = first_weights(base, c)
    began = time.time()

    def keep(now: dict[str, Any]) -> None:
        save_state(now, state)
        save_prepared(prepared, state.parent / "new")
        for file in (state.parent / "new").iterdir():
            file.replace(state.parent / file.name)

    figures = run_outer(
        base.model,
        base.tokenizer,
        prepared,
        material,
        c.outer,
        report=report,
        resume=resume,
        checkpoint=keep,
        stop=stop,
    )
    if process_rank():
        return {}
    prepared.eval().requires_grad_(False)
    by_share: dict[float, float] = {}
    if c.start and development.passages.get("people"):
        start = first_weights(base, c).state_dict()
        by_share = choose_average(base, prepared, start, development, CHOICE_DOCUMENTS * c.held_out)
    save_prepared(prepared, out)
    if c.start and load_head(c.start / SEARCH):
        if c.start.resolve() != out.resolve():
            shutil.copyfile(c.start / SEARCH, out / SEARCH)
    elif people := searched_passages(material):
        head = train_search(
            base,
            people,
            c.search,
            report=lambda step, loss: report({"stage": "search head", "step": step, "loss": loss}),
            stop=stop,
            reader=dict(prepared.reader.items()),
        )
        save_head(head, out)
    sets = measuring_sets(development, documents=c.held_out)
    judged = {}
    for name, episodes in sets.items():
        judged[name] = learned_figures(base.model, base.tokenizer, prepared, episodes)
    result = {"steps": figures["step"], "seconds": time.time() - began, "shares": by_share, "held_out": judged}
    write_card(base, replace(c, inner=prepared.config), material, result, out)
    shutil.rmtree(state.parent, ignore_errors=True)
    return result


def searched_passages(material: Material) -> list[Passage]:
    """What a search head is trained on: people's passages that are short enough, each with its first questions."""
    chosen = []
    for passage in material.passages.get("people", []):
        if len(passage.text.split()) <= SEARCHED_WORDS:
            chosen.append(passage._replace(questions=passage.questions[:QUESTIONS]))
    return chosen


def first_weights(base: LoadedModel, config: PrepareConfig) -> Prepared:
    """What training begins with: fresh weights, or those of another preparation. Raises: SetupError, Refused."""
    width = base.model.config.hidden_size
    if config.start is None:
        return Prepared(config.inner, width, base.model).train().to(base.device)
    if not (config.start / "prepared.safetensors").exists():
        raise Refused(f"There is no preparation in {config.start}.")
    return load_prepared(config.start, width).requires_grad_(True).train().to(base.device)


def choose_average(
    base: LoadedModel, prepared: Prepared, start: Mapping[str, Tensor], development: Material, documents: int
) -> dict[float, float]:
    """Give `prepared` the average of its weights with those of `start` that answers most of what is asked about so many
    held-out documents of people (Wortsman et al. 2022, arXiv 2109.01903). Returns: F1 in percent by share."""
    rng = random.Random(77)
    episodes = [draw(development, rng, EXCERPT_WORDS, {"people": 1.0}, swaps={}) for _ in range(documents)]
    trained = copy.deepcopy(prepared.state_dict())

    def load(share: float) -> None:
        for name, weights in prepared.state_dict().items():
            weights.copy_(torch.lerp(start[name], trained[name], share))

    f1_by_share = {}
    for share in SHARES:
        load(share)
        figures = learned_figures(base.model, base.tokenizer, prepared, episodes, batch=64, kinds=("learned",))
        f1_by_share[share] = figures["learned_f1"]
    load(max(f1_by_share, key=f1_by_share.__getitem__))
    return f1_by_share


def write_card(base: LoadedModel, config: PrepareConfig, material: Material, result: dict[str, Any], out: Path) -> None:
    """`PREPARATION.md`: what was trained, on what, for how long, and how well it reads and remembers."""
    counts = {kind: len(passages) for kind, passages in material.passages.items()}
    rows = []
    for name, figures in result["held_out"].items():
        cells = [name, f"{figures['questions']:.0f}"]
        for kind in ("base", "learned", "wrong", "in_context"):
            cells.append(f"{figures[kind + '_em']:.1f} / {figures[kind + '_f1']:.1f}")
        rows.append(f"| {' | '.join(cells)} |")
    averages = ", ".join(f"{share:.0%}: {f1:.1f}" for share, f1 in result["shares"].items())
    text = "\n".join(
        [
            f"# Preparation of {base.name}",
            "",
            f"Base model fingerprint `{base.fingerprint}`. {result['steps']:,} steps of learning to learn, "
            f"{result['seconds']:,.0f} seconds in all.",
            "",
            *([f"It went on from the preparation `{config.start.name}`.", ""] if config.start else []),
            *([f"Averaged with it, F1 by share of the trained weights: {averages}.", ""] if averages else []),
            f"Trained on passages by kind: {counts}, and {len(material.follow_ups):,} follow-up questions.",
            "",
            "Held-out documents of one section, greedy, exact match / F1 in percent:",
            "",
            "| documents | questions | base model | learned | wrong document | text in the prompt |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            "```json",
            json.dumps({"inner": asdict(config.inner), "outer": asdict(config.outer)}, indent=1),
            "```",
            "",
        ]
    )
    (out / "PREPARATION.md").write_text(text)


def prepare_model(
    name: str,
    folder: Path,
    questions: Path | None,
    config: PrepareConfig,
    report: Callable[[dict[str, Any]], None] = lambda figures: None,
    *,
    stop: Callable[[], bool] = lambda: False,
    device: str = "auto",
    cache: Path | None = None,
) -> dict[str, Any]:
    """Load a base model and prepare it, in `folder` by its fingerprint; without questions on invented facts alone.
    Under `torchrun` each process takes a GPU, and its share of the documents.

    Raises: ModelNotFound, Refused (it is no Llama-like model), Stopped.
    """
    processes = PartialState(cpu=pick_device(device).type == "cpu")  # joins those that were started together
    several = processes.num_processes > 1 and processes.device.type == "cuda"
    place = processes.device if several else pick_device(device)
    exact = place.type != "cuda" or pick_dtype("auto", place) == torch.float16
    base = load_model(name, device=str(place), dtype="float32" if exact else "bfloat16", cache=cache)
    try:
        down_projections(base.model, config.inner.blocks_of(base.model))
    except AttributeError:
        raise Refused(f"The model '{name}' is not built like Llama, so it cannot be prepared.") from None
    material, development = read_material(questions) if questions else (Material(), Material())
    out = folder / base.fingerprint[:16]
    try:
        return {"model": name, "folder": str(out)} | prepare(base, material, development, out, config, report, stop)
    finally:
        processes.destroy_process_group()
