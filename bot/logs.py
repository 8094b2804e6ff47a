"""The operator's log, on stderr: everyone logs through `logging`, structlog writes it."""

from __future__ import annotations

import logging
import time

import structlog
import structlog.tracebacks

LOG_EVERY = 60.0  # seconds between two lines about a network that is not there


class NoNetwork(logging.Filter):
    """A network that is not there is one line a minute for each logger, without a traceback: libraries try again every
    few seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._last_line: dict[str, float] = {}  # by logger

    def filter(self, record: logging.LogRecord) -> bool:
        problem = record.exc_info[1] if record.exc_info else None
        while problem and not _is_network(problem):
            problem = problem.__cause__
        if not problem:
            return True
        if time.monotonic() - self._last_line.get(record.name, -LOG_EVERY) < LOG_EVERY:
            return False
        self._last_line[record.name] = time.monotonic()
        record.msg, record.args = f"{record.getMessage()}: no network ({type(problem).__name__})", ()
        record.exc_info = record.exc_text = None
        return True


def _is_network(problem: BaseException) -> bool:
    by_a_client = any(kind.__name__ in ("ClientConnectionError", "gaierror") for kind in type(problem).__mro__)
    return by_a_client or isinstance(problem, ConnectionError | TimeoutError)


def configure_logging(level: str, format: str) -> None:
    """From now on, write lines for people ("console") or for machines ("json")."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    # Tracebacks without the values of variables: tokens are among them
    bare = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    last: list[structlog.typing.Processor] = [
        structlog.processors.ExceptionRenderer(bare),
        structlog.processors.JSONRenderer(),
    ]
    if format == "console":
        last = [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
        )
    )
    handler.addFilter(NoNetwork())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
