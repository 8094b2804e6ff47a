"""The operator's log, on stderr: everyone logs through `logging`, structlog writes it."""

from __future__ import annotations

import logging

import structlog
import structlog.tracebacks


def configure_logging(level: str, format: str) -> None:
    """From now on, write lines for people ("console") or for machines ("json")."""
    shared = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    # Tracebacks without the values of variables: tokens are among them
    bare = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    last = [structlog.processors.ExceptionRenderer(bare), structlog.processors.JSONRenderer()]
    if format == "console":
        last = [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
