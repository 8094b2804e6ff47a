"""Links: which are opened, and that nothing but the public internet is reached. A real server on loopback answers."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address

import pytest
from aiohttp import web

from bot import links
from bot.links import NO_LINKS, PRIVATE, fetch, is_own, is_public, linked, links_in, name_of
from core.errors import DocumentTooBig, Refused
from core.types import Limits

MOST = 100_000


class Server:
    """Answers each path as it is told."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked: list[str] = []
        self.headers: dict[str, str] = {}
        self.answers: dict[str, Callable[[], web.StreamResponse]] = {}

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        self.headers = dict(request.headers)
        return self.answers[request.path]()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = Server(port)
    app = web.Application()
    app.router.add_get("/{path:.*}", made.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield made
    await runner.cleanup()


def everywhere(_: str) -> bool:
    return True


def redirect(to: str) -> Callable[[], web.StreamResponse]:
    return lambda: web.Response(status=302, headers={"Location": to})


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1",
        "255.255.255.255", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
        "2001:0:7f00:1::", "2001:db8::1", "fec0::1", "::7f00:1", "64:ff9b:1::7f00:1", "::ffff:0:7f00:1", "4000::1",
    ],
)  # fmt: skip
def test_what_is_not_the_public_internet_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(("address", "own"), [("127.0.0.1", True), ("::1", True), ("93.184.216.34", False)])
def test_this_machine_knows_its_own_addresses(address: str, own: bool) -> None:
    assert is_own(ip_address(address)) is own


def test_a_public_address_of_this_machine_itself_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a machine on the public internet has one, so here the loopback plays it."""
    monkeypatch.setattr(links, "is_own", lambda ip: is_own(ip_address("127.0.0.1")))
    assert not is_public("93.184.216.34") and not is_public("64:ff9b::5db8:d822")


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34", "64:ff9b::808:808"])
def test_what_is_public_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "0"])
async def test_a_private_address_is_refused_however_it_is_written(server: Server, host: str) -> None:
    with pytest.raises(Refused) as refused:
        await fetch(server.url(host=host), MOST)
    assert not server.asked
    assert str(refused.value) in (PRIVATE, "That link could not be opened; download the document and attach it.")


async def test_a_redirect_to_a_private_address_is_refused(server: Server) -> None:
    server.answers["/"] = redirect(server.url("/secret", "localhost"))
    server.answers["/secret"] = lambda: web.Response(text="secret")
    first_only = iter([True])
    with pytest.raises(Refused, match=PRIVATE):
        await fetch(server.url(), MOST, public=lambda _: next(first_only, False))
    assert server.asked == ["/"]


async def test_a_document_is_fetched_past_redirects_without_cookies(server: Server) -> None:
    server.answers["/a"] = lambda: web.Response(status=301, headers={"Location": "/b", "Set-Cookie": "a=b"})
    server.answers["/b"] = lambda: web.Response(body=b"%PDF-")
    assert await fetch(server.url("/a"), MOST, public=everywhere) == b"%PDF-"
    assert server.asked == ["/a", "/b"] and "Cookie" not in server.headers


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://user:word@127.0.0.1/", "gopher://x"])
async def test_a_redirect_to_another_kind_of_address_is_refused(server: Server, to: str) -> None:
    server.answers["/"] = redirect(to)
    with pytest.raises(Refused, match=r"^I open plain web links only; attach the document itself\.$"):
        await fetch(server.url(), MOST, public=everywhere)


async def test_redirects_without_end_are_given_up(server: Server) -> None:
    server.answers["/"] = redirect("/")
    with pytest.raises(Refused, match=r"^That link leads on and on"):
        await fetch(server.url(), MOST, public=everywhere)
    assert len(server.asked) == links.MAX_REDIRECTS + 1


async def test_what_is_too_large_is_given_up_also_when_it_is_packed(server: Server) -> None:
    server.answers["/large"] = lambda: web.Response(body=bytes(MOST + 1))
    bomb = gzip.compress(bytes(50 << 20))
    server.answers["/bomb"] = lambda: web.Response(body=bomb, headers={"Content-Encoding": "gzip"})
    server.answers["/packed"] = lambda: web.Response(body=gzip.compress(b"text"), headers={"Content-Encoding": "gzip"})
    for path in ("/large", "/bomb"):
        with pytest.raises(DocumentTooBig, match=r"^What that link leads to is larger than the limit"):
            await fetch(server.url(path), MOST, public=everywhere)
    assert await fetch(server.url("/packed"), MOST, public=everywhere) == b"text"


async def test_a_server_that_does_not_answer_is_given_up(server: Server) -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(mute, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        with pytest.raises(Refused, match=r"^That link took too long; download the document and attach it\.$"):
            await fetch(f"http://127.0.0.1:{port}/", MOST, public=everywhere, seconds=0.3)
        await asyncio.sleep(0.05)  # until the other end has seen it


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("learn https://a.org/b.pdf, please", ["https://a.org/b.pdf"]),
        ("(see https://a.org/b_(c))", ["https://a.org/b_(c)"]),
        ("see (https://a.org/b)", ["https://a.org/b"]),
        ("no link: a.org", []),
        ("https://a.org https://a.org", ["https://a.org"]),
    ],
)
def test_links_are_found_in_a_message(text: str, found: list[str]) -> None:
    assert links_in(text) == found


def test_a_document_is_called_by_the_end_of_its_address() -> None:
    names = [name_of(f"https://a.org{path}") for path in ("/x/My%20report.pdf?d=1", "/wiki/Wombat", "/", "")]
    assert names == ["My report.pdf", "Wombat", "a.org", "a.org"]


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ("https://docs.google.com/document/d/abc/edit", "Google Docs; choose File > Download > PDF"),
        ("https://docs.google.com/spreadsheets/d/abc", "Google Sheets; choose File > Download"),
        ("https://drive.google.com/file/d/abc/view", "Google Drive; download the file"),
        ("https://harbour.slack.com/docs/T1/F1", "Slack canvases by link; print it to a PDF"),
        ("https://harbour.sharepoint.com/:w:/x", "Microsoft 365; download a copy"),
        ("https://www.notion.so/x", "Notion; choose ⋯ > Export"),
    ],
)
def test_what_only_members_can_open_says_how_to_export_it(link: str, words: str) -> None:
    for allowed in (True, False):
        with pytest.raises(Refused) as refused:
            linked([link], Limits(), allowed=allowed)
        assert words in str(refused.value)


def test_links_are_not_opened_unless_that_is_allowed() -> None:
    with pytest.raises(Refused) as refused:
        linked(["https://a.org/b.pdf"], Limits(), allowed=False)
    assert str(refused.value) == NO_LINKS
    [attachment] = linked(["https://a.org/b.pdf"], Limits(), allowed=True)
    assert attachment.name == "b.pdf"
