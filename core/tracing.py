"""Spans around what takes time. Nothing is traced until `use` names a tracer; `bot.traces` has OpenTelemetry's.

A span carries names and counts, never a text.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import ParamSpec, TypeVar

Attributes = dict[str, str | int | float | bool]
Tracer = Callable[[str, Attributes], AbstractContextManager[object]]
P = ParamSpec("P")
T = TypeVar("T")

_tracer: Tracer | None = None


@contextmanager
def use(tracer: Tracer) -> Iterator[None]:
    """Spans go to this tracer while inside."""
    global _tracer
    before, _tracer = _tracer, tracer
    try:
        yield
    finally:
        _tracer = before


def span(name: str, **attributes: str | int | float | bool) -> AbstractContextManager[object]:
    return _tracer(name, attributes) if _tracer else nullcontext()


def traced(name: str) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[T]]]:
    """A span around each call of a coroutine function."""

    def decorate(function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        @wraps(function)
        async def inside(*args: P.args, **kwargs: P.kwargs) -> T:
            with span(name):
                return await function(*args, **kwargs)

        return inside

    return decorate
