"""Files that people attach: where they are, and their bytes, from Slack's own file host alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import PurePath
from typing import Any

import aiohttp
import yarl
from slack_sdk.web.async_client import AsyncWebClient

from bot.chat import Attachment
from bot.links import capped
from bot.platforms.common import require_host
from bot.platforms.slack.errors import TROUBLE, code
from core.document.formats import PDF_MAGIC
from core.errors import Refused

log = logging.getLogger(__name__)

FILE_HOST = yarl.URL("https://files.slack.com")
FILE_TIMEOUT = aiohttp.ClientTimeout(total=60, sock_read=15)  # seconds
UNTITLED = "Untitled"  # what Slack calls a file without a title

NO_FILES_READ = (
    "Slack shows me a login page instead of the file. Whoever runs me has to give the app the scope files:read and "
    "install it again."
)


def how_to_export(file: Mapping[str, Any]) -> str:
    """Of what is no file: a canvas, or a document that lies at Google or Microsoft; "" for a file."""
    if file.get("filetype") in ("quip", "canvas") or file.get("mimetype") == "application/vnd.slack-docs":
        return "This is a Slack canvas; print it to a PDF and attach that."
    if file.get("external_type") == "gdrive" or str(file.get("filetype", "")).startswith("gdoc"):
        return "This lies in Google Drive; choose File > Download > PDF there and attach that."
    if file.get("external_type") in ("onedrive", "sharepoint", "onedrive_business"):
        return "This lies in Microsoft 365; download a copy there and attach it."
    return ""


def called(file: Mapping[str, Any]) -> str:
    """What the sender calls a file: its title, with the ending of the file's name."""
    name, title = file.get("name") or "", (file.get("title") or "").strip()
    ending = PurePath(name).suffix
    if not name or title in ("", name, name.removesuffix(ending), UNTITLED):
        return name or title or "document.pdf"
    return title if title.casefold().endswith(ending.casefold()) else f"{title}{ending}"


class Files:
    """Of one workspace. `limit`: bytes of a file at most."""

    def __init__(self, web: AsyncWebClient, session: aiohttp.ClientSession, hosts: set[yarl.URL], limit: int) -> None:
        self._web, self._session, self._hosts, self._limit = web, session, hosts, limit

    async def attachment(self, file: dict[str, Any]) -> Attachment:
        """In shared channels the event carries an id only. Never fails: what is wrong is said when it is read."""
        if file.get("file_access") == "check_file_info" or not file.get("url_private"):
            try:
                file = (await self._web.files_info(file=file["id"]))["file"]
            except TROUBLE as problem:
                log.warning("a file could not be looked up: %s", code(problem))
                file = {"name": file.get("name") or "document.pdf", "mode": "unknown"}
        return Attachment(
            name=called(file),
            size=int(file.get("size") or 0),
            content_type=file.get("mimetype") or "",
            read=partial(self._download, file),
        )

    async def _download(self, file: dict[str, Any]) -> bytes:
        """The token goes to Slack's own file host alone, and never along with a redirect. Raises: Refused."""
        if sentence := how_to_export(file):
            raise Refused(sentence)
        if file.get("mode") in ("external", "unknown", "tombstone", "hidden_by_limit"):
            raise Refused("Slack does not give me this file; attach the file itself.")
        url = file.get("url_private_download") or file.get("url_private") or ""
        require_host(url, self._hosts, "Slack")
        headers = {"Authorization": f"Bearer {self._web.token}", "Accept-Encoding": "identity"}
        options: dict[str, Any] = {"allow_redirects": False, "timeout": FILE_TIMEOUT, "proxy": self._web.proxy}
        async with self._session.get(yarl.URL(url), headers=headers, **options) as response:
            if response.status in (301, 302, 303, 307, 308):  # to a login page, too
                raise Refused(NO_FILES_READ)
            if response.status != 200:
                raise Refused("Slack did not give me this file; please send it again.")
            too_large = f"This document has more than {self._limit / 2**20:.4g} MB, the limit."
            data = await capped(response, self._limit, too_large)
        if response.content_type == "text/html" and PDF_MAGIC not in data[:1024]:
            raise Refused(NO_FILES_READ)
        return data
