"""OpenTelemetry traces, where ENGRAM_TRACE_URL is set: a span for each stage of learning and of a question.

To an OTLP endpoint over HTTP (Jaeger, Tempo, a collector), or to standard error with "console".
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from core import tracing
from core.errors import SetupError
from core.program import pip_install

if TYPE_CHECKING:
    from bot.settings import Settings

CONSOLE = "console"


@contextmanager
def exporting(settings: Settings) -> Iterator[None]:
    """Trace what happens inside; all spans are sent on leaving. Raises: SetupError, when OpenTelemetry is missing."""
    if not settings.trace_url:
        yield
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
        from opentelemetry.trace import StatusCode
    except ModuleNotFoundError as error:
        raise SetupError(f"ENGRAM_TRACE_URL needs OpenTelemetry: {pip_install('trace')}.") from error

    exporter: SpanExporter
    if settings.trace_url == CONSOLE:
        exporter = ConsoleSpanExporter(out=sys.stderr)
    else:
        exporter = OTLPSpanExporter(endpoint=f"{settings.trace_url.rstrip('/')}/v1/traces")
    provider = TracerProvider(resource=Resource.create({"service.name": "engram"}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("engram")

    @contextmanager
    def start(name: str, attributes: tracing.Attributes) -> Iterator[None]:
        """An error is named by its kind alone: its words may be a document's."""
        with tracer.start_as_current_span(
            name, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            except BaseException as error:
                span.set_status(StatusCode.ERROR, type(error).__name__)
                raise

    try:
        with tracing.use(start):
            yield
    finally:
        provider.shutdown()
