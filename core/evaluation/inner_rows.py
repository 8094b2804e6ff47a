"""How the inner loop should look: one row a form, each with the same seconds of outer loop on the same base model.

    python -m core.evaluation.inner_rows --material FILE.jsonl.gz --output FILE.json
        [--model MODEL] [--reading-seconds 20] [--seconds 45] [--only NAME,...] [--part 0/2]
    python -m core.evaluation.inner_rows --show FILE.json...

The base model stays as it is. A reader of rank 16 trains along in every row but the native ones, which have none, since
what a form is worth shows only when the weights that answer have met it. All rows draw the same documents and are asked
the same held-out ones. Each is written down as it ends; a run that is started again goes on with the rows that are
missing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from core.evaluation.ablations import Results, chosen, measure_missing
from core.evaluation.forms.native import Native, NativeConfig
from core.learning.forms.fast_weights import FormConfig, PreparedForm
from core.learning.preparation import FastWeightsConfig, Prepared, SlowWeights
from core.model import load_model, pick_dtype
from core.prepare.episodes import Episode
from core.prepare.material import Material
from core.prepare.measure import learned_figures, measuring_sets
from core.prepare.outer import OuterConfig, run_outer
from core.prepare.prepare import INNER, read_material

INNER_BASE = replace(INNER, reader=16)  # what the rows vary
ROWS: dict[str, dict[str, Any] | NativeConfig] = {
    "base": {},  # muon, 4 layers, 2 steps, full rank, the whole document, learned rates, token weights, reader
    "rms": {"rule": "rms"},
    "momentum": {"momentum": 0.9},
    "rank 64": {"rank": 64},
    "rank 256": {"rank": 256},
    "chunks": {"order": "chunks"},
    "shared rate": {"shared_rate": True},
    "no token weights": {"token_weights": False},
    "1 step": {"steps": 1},
    "2 layers": {"layers": 2},
    "7 layers": {"layers": 7},
    "chunks with momentum": {"order": "chunks", "momentum": 0.9},
    "sgd": {"rule": "sgd", "rate": 10.0},  # its root mean square was near 4e-4 in a model of 40 M: a step like muon's
    "native lact": NativeConfig(segment=INNER_BASE.segment, chunk=INNER_BASE.segment),
    "native ttt-linear": NativeConfig("ttt-linear", segment=INNER_BASE.segment, chunk=16),
    "native ttt-mlp": NativeConfig("ttt-mlp", segment=INNER_BASE.segment, chunk=16),
}
SETS = ("facts", "people", "long", "tables", "other-languages")
ASKED = ("learned", "wrong")  # kinds of `learned_figures`
LAST = 30  # outer steps whose mean answer loss is reported


@dataclass
class InnerLab:
    """What all rows share."""

    model: Any  # stays as it is
    tokenizer: Any
    material: Material
    sets: Mapping[str, Sequence[Episode]]
    config: OuterConfig


def form(name: str) -> FastWeightsConfig | NativeConfig:
    """The shipped form where only its own numbers differ."""
    row = ROWS[name]
    if isinstance(row, NativeConfig):
        return row
    if set(row) <= {f.name for f in fields(FastWeightsConfig)}:
        return replace(INNER_BASE, **row)
    return FormConfig(**{**asdict(INNER_BASE), "rule": "muon", **row})


def slow_weights(config: FastWeightsConfig | NativeConfig, model: Any) -> SlowWeights:
    if isinstance(config, NativeConfig):
        return Native(config, model)
    if isinstance(config, FormConfig):
        return PreparedForm(config, model.config.hidden_size, model)
    return Prepared(config, model.config.hidden_size, model)


def measure(lab: InnerLab, inner: FastWeightsConfig | NativeConfig) -> dict[str, Any]:
    """Train a preparation of the model, then ask about the held-out documents."""
    torch.manual_seed(lab.config.seed)
    model = lab.model
    device = model.device
    prepared = slow_weights(inner, model).to(device)
    curve: list[tuple[int, float, float]] = []  # outer step, seconds, answer loss since the entry before
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()

    def report(f: dict[str, Any]) -> None:
        if f["stage"] == "learning":
            curve.append((f["step"], round(f["seconds"], 2), round(f["answer"], 4)))

    figures = run_outer(model, lab.tokenizer, prepared, lab.material, lab.config, report=report)
    last = [loss for *_, loss in curve[-(LAST // lab.config.every) :]]
    row = {
        "inner": asdict(inner),
        "steps": figures["step"],
        "seconds_a_step": figures["seconds"] / figures["step"],
        "peak_memory_mb": torch.cuda.max_memory_allocated() / 2**20 if cuda else None,
        "answer_loss": sum(last) / len(last) if last else None,
        "rates": prepared.rates().tolist(),
        "curve": curve,
    }
    prepared.eval()
    row["sets"] = {}
    for name, episodes in lab.sets.items():
        row["sets"][name] = learned_figures(model, lab.tokenizer, prepared, episodes, kinds=ASKED)
    return row


def run(lab: InnerLab, names: Sequence[str], results: Results) -> None:
    """Measure the rows that are missing."""
    line = lambda name, row: table({name: row}).splitlines()[-1]  # noqa: E731
    measure_missing(results, names, lambda name: measure(lab, form(name)), line)


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Exact match / F1 of the learned document, in brackets those of a wrong one."""
    measured = set(chain.from_iterable(row.get("sets", ()) for row in rows.values()))
    sets = list(filter(measured.__contains__, SETS))
    head = ["row", "outer steps", "s a step", "peak MB", "answer loss", *sets]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name in sorted(rows, key=list(ROWS).index):
        row = rows[name]
        if "error" in row:
            lines.append(f"| {name} | {row['error'][:200]} |" + " |" * (len(head) - 2))
            continue
        memory, loss = row["peak_memory_mb"], row["answer_loss"]
        cells = [
            name,
            f"{row['steps']:.0f}",
            f"{row['seconds_a_step']:.3f}",
            "" if memory is None else f"{memory:.0f}",
            "" if loss is None else f"{loss:.3f}",
            *(em_and_f1(row["sets"].get(name)) for name in sets),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def em_and_f1(figures: Mapping[str, float] | None) -> str:
    template = "{learned_em:.1f} / {learned_f1:.1f} ({wrong_em:.1f} / {wrong_f1:.1f})"
    return template.format(**figures) if figures else ""


def show(paths: Sequence[Path]) -> str:
    """One table of all parts. Raises: ValueError, when they were not run alike."""
    parts = [json.loads(path.read_text()) for path in paths]
    if any(part["run"] != parts[0]["run"] for part in parts):
        raise ValueError("These files come from different runs.")
    rows: dict[str, Any] = {}
    for part in parts:
        rows |= part["rows"]
    return table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="'embedded', a folder, a GGUF file or a hub id")
    parser.add_argument("--material", type=Path, help="a file of core.prepare.material, or a SQuAD question set")
    parser.add_argument("--reading-seconds", type=float, default=20.0, help="of the reader alone, for each row")
    parser.add_argument("--seconds", type=float, default=45.0, help="of learning to learn, for each row")
    parser.add_argument("--shapes", default=OuterConfig.shapes, help=OuterConfig.shapes)
    parser.add_argument("--only", default="", metavar="NAME,...", help=", ".join(ROWS))
    parser.add_argument("--part", default="0/1", metavar="I/N")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--show", nargs="+", type=Path, metavar="FILE", help="print a table of what was measured")
    o = parser.parse_args()
    if o.show:
        return print(show(o.show))
    if not (o.material and o.output):
        parser.error("--material and --output are needed")
    torch.set_float32_matmul_precision("high")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    exact = device == "cpu" or pick_dtype("auto", torch.device(device)) == torch.float16
    base = load_model(o.model, device=device, dtype="float32" if exact else "bfloat16")
    material, development = read_material(o.material)
    config = OuterConfig(
        reading_seconds=o.reading_seconds, seconds=o.seconds, shapes=o.shapes, every=10, warmup_steps=10
    )
    lab = InnerLab(base.model, base.tokenizer, material, measuring_sets(development), config)
    passages = {kind: len(passages) for kind, passages in material.passages.items()}
    about = {"model": o.model, "passages": passages, **asdict(config)}
    names, results = chosen(ROWS, o.only, o.part), Results(o.output, about)
    if device == "cuda":
        warm_up = replace(lab, sets={}, config=replace(config, max_steps=3))
        measure(warm_up, INNER_BASE)
    run(lab, names, results)
    print(table(results.rows))


if __name__ == "__main__":
    main()
