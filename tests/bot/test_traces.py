"""Spans arrive at an OTLP endpoint, which here is a small server on loopback; no text is in them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from bot.settings import Settings
from bot.traces import exporting
from core.tracing import span
from tests.conftest import Open
from tests.fakes import plain_pdf

pytest.importorskip("opentelemetry.sdk")


class Collector(HTTPServer):
    """Keeps what is sent to /v1/traces."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.bodies: list[bytes] = []

    def spans(self) -> list[tuple[str, str]]:
        """(name, name of the span around it; "" for none), as they ended."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        sent = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        spans = [
            one
            for each in sent
            for resource in each.resource_spans
            for scope in resource.scope_spans
            for one in scope.spans
        ]
        names = {one.span_id: one.name for one in spans}
        return [(one.name, names.get(one.parent_span_id, "")) for one in spans]


class Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def settings(collector: Collector) -> Settings:
    return Settings(_env_file=None, trace_url=f"http://127.0.0.1:{collector.server_port}/")


async def test_learning_and_asking_are_spans_within_spans(collector: Collector, open_service: Open) -> None:
    with exporting(settings(collector)):
        async with open_service() as service:
            job = await service.submit("here", "harbour.pdf", plain_pdf("The harbour opened in 1874. " * 5), by="me")
            async for _ in service.watch(job.id):
                pass
            await service.ask("here", "When did the harbour open?")
    spans = collector.spans()
    assert {("read", "learn"), ("learning", "learn"), ("save", "learn"), ("learn", "")} <= set(spans)
    assert {("search", "ask"), ("load", "ask"), ("answer", "ask"), ("evidence", "ask"), ("ask", "")} <= set(spans)
    assert not any(b"harbour" in body or b"here" in body for body in collector.bodies)


async def test_an_error_is_named_by_its_kind_alone(collector: Collector) -> None:
    with exporting(settings(collector)), pytest.raises(ValueError, match="secret"), span("read"):
        raise ValueError("the secret")
    [body] = collector.bodies
    assert b"ValueError" in body and b"secret" not in body


async def test_without_a_setting_nothing_is_traced(collector: Collector) -> None:
    with exporting(Settings(_env_file=None)), span("read"):
        pass
    assert collector.bodies == []
