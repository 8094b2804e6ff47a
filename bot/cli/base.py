"""What all commands share: three options, one way to run, one exit status for each kind of end.

0 done, 1 refused or failed, 2 wrong usage or not configured, 130 Ctrl-C, 143 SIGTERM.
Heavy imports wait until a command runs, so that --help is instant.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.program import SCRIPT

if TYPE_CHECKING:
    from bot.settings import Settings
    from bot.terminal import Screen

cli = typer.Typer(
    name=SCRIPT,
    help="Learn documents into a model's weights, and ask about them with nothing of them in the prompt.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

SHARED = ("channel", "data_dir", "json")  # options of every command, so that a script may add them to any


@dataclass(frozen=True)
class Call:
    """A command that runs: what all of them were given."""

    screen: Screen
    channel: str
    data_dir: Path | None

    @cached_property
    def settings(self) -> Settings:
        """Raises: SetupError."""
        from bot.settings import load_settings

        return load_settings(data_dir=self.data_dir)


CommandFunction = Callable[..., Awaitable[None]]


def command(
    app: typer.Typer = cli, *, hidden: Collection[str] = (), confirm: str = "", channel: str = "local"
) -> Callable[[CommandFunction], CommandFunction]:
    """Register a coroutine function as a command; it gets a `Call` and its own arguments.

    Args:
        hidden: which of SHARED mean nothing to it; --help leaves them out.
        confirm: what a person has to answer with yes first; `--yes` answers it.
        channel: the default of --channel.
    """

    def register(function: CommandFunction) -> CommandFunction:
        def invoke(**arguments: Any) -> None:
            common = {name: arguments.pop(name) for name in SHARED}
            if confirm:
                ask_first(confirm.format(channel=common["channel"]), arguments.pop("yes"), common["json"])
            run_command(function, arguments, **common)

        invoke.__doc__ = function.__doc__
        invoke.__signature__ = signature = _signature(function, hidden, bool(confirm), channel)  # type: ignore[attr-defined]
        invoke.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
        app.command(function.__name__.replace("_", "-"))(invoke)
        return function

    return register


def _signature(function: CommandFunction, hidden: Collection[str], asks: bool, channel: str) -> inspect.Signature:
    """The function's own parameters without `call`, then those that all commands share."""

    def option(name: str, kind: Any, default: Any, **about: Any) -> inspect.Parameter:
        info = typer.Option(f"--{name.replace('_', '-')}", hidden=name in hidden, **about)
        return inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
        )

    _, *own = inspect.signature(function, eval_str=True).parameters.values()
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    parameters += [
        option("channel", str, channel, metavar="NAME", help="Whose documents: each channel knows only its own."),
        option("data_dir", Path | None, None, metavar="DIR", help="Where Engram keeps what it learns."),
        option("json", bool, False, help="Print one JSON object."),
    ]
    if asks:
        parameters.append(option("yes", bool, False, help="Don't ask."))
    return inspect.Signature(parameters)


def run_command(
    function: CommandFunction, arguments: dict[str, Any], *, channel: str, data_dir: Path | None, json: bool
) -> None:
    """Run a command to its end; turn every end into words and an exit status."""
    import asyncio
    import traceback

    from bot.settings import unknown_variables
    from bot.terminal import Screen
    from core.errors import EngramError, LearningFailed, SetupError, StorageFailed

    screen = Screen(json=json)
    for sentence in unknown_variables():
        screen.note(sentence)
    call = Call(screen=screen, channel=channel, data_dir=data_dir)
    try:
        asyncio.run(_until_sigterm(function(call, **arguments), screen))
    except typer.Exit:
        raise
    except EngramError as error:
        sentence = str(error)
        if isinstance(error, LearningFailed | StorageFailed | SetupError) and error.__cause__:
            sentence = sentence.replace(" Whoever runs me finds the cause in the log.", "") + f" ({cause(error)})"
        screen.error(type(error).__name__, sentence)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        screen.note("Stopped.")
        raise typer.Exit(130) from None
    except asyncio.CancelledError:
        screen.note("Stopped; what was being learned goes on at the next start.")
        raise typer.Exit(143) from None
    except Exception:
        traceback.print_exc()
        screen.error("EngramError", "Something went wrong; the lines above say where.")
        raise typer.Exit(1) from None


def cause(error: BaseException) -> str:
    """What the system says about it; a terminal has no log to look into."""
    while error.__cause__:
        error = error.__cause__
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)


async def _until_sigterm(work: Awaitable[None], screen: Screen) -> None:
    import asyncio
    import signal

    task = asyncio.current_task()

    def terminate() -> None:
        screen.terminated = True
        if task:
            task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
    await work


def ask_first(question: str, yes: bool, json: bool) -> None:
    """Nothing is erased without a yes: from a person at a terminal, or by --yes."""
    from bot.terminal import Screen

    if yes:
        return
    if json or not sys.stdin.isatty():
        Screen(json=json).error("Refused", f"{question} Nobody can answer that here; to go on, add --yes.")
        raise typer.Exit(2)
    typer.confirm(question, abort=True)
