"""Links in messages: fetched when a setting allows it, and from public addresses alone, also after a redirect.

The address is looked at where the connection is made, so a name that is resolved anew can't point elsewhere.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import socket
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import aiohttp
import yarl
from aiohttp.abc import AbstractResolver, ResolveResult

from bot.chat import Attachment
from core.errors import DocumentTooBig, Refused
from core.types import Limits

log = logging.getLogger(__name__)

LINK = re.compile(r"https?://[^\s<>\"'`|]+", re.IGNORECASE)
MAX_LINKS = 3  # links of one message
MAX_REDIRECTS = 5
TIMEOUT = 60.0  # for a document, redirects included
USER_AGENT = "Engram (a chat bot that fetches what people link to)"
UNICAST = ipaddress.ip_network("2000::/3")  # all of IPv6 that is handed out (IANA); sites use others among themselves
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address

# Documents that only people who are logged in can open: their addresses, what they are, and how to export them
EXPORTS = (
    (r"docs\.google\.com/document/", "Google Docs", "choose File > Download > PDF"),
    (r"docs\.google\.com/spreadsheets/", "Google Sheets", "choose File > Download > Microsoft Excel (.xlsx)"),
    (r"docs\.google\.com/presentation/", "Google Slides", "choose File > Download > Microsoft PowerPoint (.pptx)"),
    (r"(?:docs|drive)\.google\.com/", "Google Drive", "download the file"),
    (r"[\w.-]+\.slack\.com/(?:docs|canvas|files)/", "Slack canvases by link", "print it to a PDF"),
    (r"(?:[\w-]+\.)*(?:sharepoint|office|live)\.com/|1drv\.ms/", "Microsoft 365", "download a copy"),
    (r"(?:www\.)?notion\.so/|[\w-]+\.notion\.site/", "Notion", "choose ⋯ > Export > PDF"),
    (r"(?:www\.)?dropbox\.com/", "Dropbox", "download the file"),
    (r"[\w-]+\.atlassian\.net/wiki/", "Confluence", "choose ⋯ > Export to PDF"),
)
NO_LINKS = "I do not open links here; download the document, or print the page to a PDF, and attach that."
PRIVATE = "That link does not lead to a public address; attach the document itself."
TOO_LARGE = "What that link leads to is larger than the limit; send a part of it."
NOT_READ = "That link could not be read; download the document and attach it."

Public = Callable[[str], bool]


def links_in(text: str) -> list[str]:
    """The first few, without the punctuation behind them."""
    links = []
    for match in LINK.findall(text):
        link = match.rstrip(".,;:!?")
        if link.count(")") > link.count("("):
            link = link[:-1]
        links.append(link)
    return list(dict.fromkeys(links))[:MAX_LINKS]


def without_links(text: str) -> str:
    return LINK.sub(" ", text)


def linked(links: Sequence[str], limits: Limits, *, allowed: bool) -> tuple[Attachment, ...]:
    """What these links lead to, to be fetched as a file is. Raises: Refused, with how to export it."""
    for link in links:
        address = link.partition("://")[2]
        for pattern, what, export in EXPORTS:
            if re.match(pattern, address, re.IGNORECASE):
                raise Refused(f"I can't open {what}; {export} there and attach that.")
    if not allowed:
        raise Refused(NO_LINKS)
    attachments = []
    for link in links:
        read = partial(fetch, link, limits.max_bytes)
        attachments.append(Attachment(name_of(link), size=0, content_type="application/octet-stream", read=read))
    return tuple(attachments)


def name_of(link: str) -> str:
    """The last part of its path, else its host."""
    try:
        url = yarl.URL(link)
        return url.name or url.host or "page"
    except ValueError:
        return "page"


async def fetch(link: str, most: int, *, public: Public | None = None, seconds: float = TIMEOUT) -> bytes:
    """The document behind a link, of at most so many bytes.

    Args:
        public: whether an address may be talked to.
        seconds: for the whole, redirects included.

    Raises: Refused, DocumentTooBig.
    """
    public = public or is_public
    connector = aiohttp.TCPConnector(resolver=_Resolver(public), force_close=True)
    options: dict[str, Any] = {"cookie_jar": aiohttp.DummyCookieJar(), "auto_decompress": False, "trust_env": False}
    try:
        async with asyncio.timeout(seconds), aiohttp.ClientSession(connector=connector, **options) as session:
            return await _followed(session, link, most, public)
    except TimeoutError:
        raise Refused("That link took too long; download the document and attach it.") from None
    except (aiohttp.ClientError, OSError, ValueError) as problem:
        log.info("a link could not be opened: %s", type(problem).__name__)
        raise Refused("That link could not be opened; download the document and attach it.") from None


async def _followed(session: aiohttp.ClientSession, link: str, most: int, public: Public) -> bytes:
    url, headers = yarl.URL(link), {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
    for _ in range(MAX_REDIRECTS + 1):
        _check(url, public)
        async with session.get(url, headers=headers, allow_redirects=False) as response:
            location = response.headers.get("Location")
            if response.status in (301, 302, 303, 307, 308) and location:
                url = url.join(yarl.URL(location))
                continue
            if response.status != 200:
                raise Refused(f"That link answers with an error ({response.status}); attach the document itself.")
            body = await capped(response, most, TOO_LARGE)
            return _unpacked(body, response.headers.get("Content-Encoding", ""), most)
    raise Refused("That link leads on and on; attach the document itself.")


def _check(url: yarl.URL, public: Public) -> None:
    """What is no name is never resolved, so it is looked at here. Raises: Refused."""
    if url.scheme not in ("http", "https") or not url.host or url.user or url.password:
        raise Refused("I open plain web links only; attach the document itself.")
    try:
        ipaddress.ip_address(url.host)
    except ValueError:
        return
    if not public(url.host):
        raise Refused(PRIVATE)


class _Resolver(AbstractResolver):
    """Names that lead to public addresses alone."""

    def __init__(self, public: Public) -> None:
        self._public = public
        self._system = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        addresses = await self._system.resolve(host, port, family)
        if not addresses or not all(self._public(address["host"]) for address in addresses):
            raise Refused(PRIVATE)
        return addresses

    async def close(self) -> None:
        await self._system.close()


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet, as does the IPv4 address that it may carry, and to another
    machine: a firewall lets this machine's own requests to its own public address through."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        carried = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        carried += [ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)] if ip in NAT64 else []
        if any(inner is not None and not is_public(str(inner)) for inner in carried):
            return False
        if ip.ipv4_mapped or ip in NAT64:
            return True
        if ip not in UNICAST:
            return False
    return ip.is_global and not ip.is_multicast and not is_own(ip)


def is_own(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether this machine would talk to itself; nothing is sent."""
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(ip), 9))
            return probe.getsockname()[0] == str(ip)
    except OSError:  # no way there
        return False


async def capped(response: aiohttp.ClientResponse, most: int, sentence: str) -> bytes:
    """What is said about the size may be wrong, so it is counted. Raises: DocumentTooBig, with this sentence."""
    body = bytearray()
    async for part in response.content.iter_chunked(1 << 16):
        body += part
        if len(body) > most:
            raise DocumentTooBig(sentence)
    return bytes(body)


def _unpacked(body: bytes, encoding: str, most: int) -> bytes:
    """Some servers compress what was asked for as it is. Raises: DocumentTooBig, Refused."""
    if encoding.casefold() in ("", "identity"):
        return body
    if encoding.casefold() not in ("gzip", "x-gzip", "deflate"):
        raise Refused(NOT_READ)
    unpacker = zlib.decompressobj(47)  # gzip or zlib, by the header
    try:
        plain = unpacker.decompress(body, most + 1)
    except zlib.error:
        raise Refused(NOT_READ) from None
    if len(plain) > most:
        raise DocumentTooBig(TOO_LARGE)
    return plain
