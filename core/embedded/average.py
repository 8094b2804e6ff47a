"""Between two stages of training lies a model that is better than both: the average of their weights (Wortsman et al.
2022, WiSE-FT), with larger inner rates, since averaging shortens what a step does.

    python -m core.embedded.average BEFORE AFTER --share 0.6 --rates 1.5 --out DIR
"""

from __future__ import annotations

import argparse
import math
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from core.learning.fast_weights import load_prepared, save_prepared
from core.model import dequantise, quantise

WEIGHTS = "model.int8.safetensors"


def average(before: Path, after: Path, out: Path, *, share: float, rates: float) -> None:
    """Folders as `core.embedded.export --int8` writes them, each with its `prepared.*`; `share` of AFTER. The inner
    rates are averaged in their logarithms, on the layers that both have (AFTER's own on the others), and multiplied by
    `rates`."""
    out.mkdir(parents=True, exist_ok=True)
    old, new = (dequantise(load_file(folder / WEIGHTS)) for folder in (before, after))
    save_file(quantise({name: old[name].lerp(w, share) for name, w in new.items()}), out / WEIGHTS)
    width = new["model.norm.weight"].numel()
    was, now = (load_prepared(folder, width) for folder in (before, after))
    with torch.no_grad():
        for p, q in zip(was.parameters(), now.parameters(), strict=True):
            if q is not now.log_rates:
                q.lerp_(p, 1 - share)
        known = dict(zip(was.config.places, was.log_rates.T, strict=True))
        for layer, mine in zip(now.config.places, now.log_rates.T, strict=True):
            mine.lerp_(known.get(layer, mine), 1 - share)
        now.log_rates += math.log(rates)
    save_prepared(now, out)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(after / name, out / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="of AFTER")
    parser.add_argument("--rates", type=float, default=1.0, help="what the inner rates are multiplied by")
    parser.add_argument("--out", required=True, type=Path)
    o = parser.parse_args()
    average(o.before, o.after, o.out, share=o.share, rates=o.rates)


if __name__ == "__main__":
    main()
