"""A larger model that writes the questions, behind any OpenAI-compatible endpoint. Off unless it is configured: every
passage of every document is sent there, so documents leave the machine."""

from __future__ import annotations

import json
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from core.errors import LearningFailed
from core.prompts import WRITE_QUESTIONS, WRITTEN

TIMEOUT = 60.0  # seconds of one request
MAX_REPLY_BYTES = 1 << 20  # of a reply


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib hands the key on to whichever host a redirect names; so none is followed."""

    def redirect_request(self, *_: Any) -> None:
        return None


OPENER = urllib.request.build_opener(_NoRedirect)


@dataclass(frozen=True)
class RemoteWriter:
    """Writes the questions of `core.learning.adapters.study`."""

    url: str  # up to and with /v1
    model: str
    key: str = field(default="", repr=False)

    def write(self, passage: str, count: int) -> list[tuple[str, str]]:
        """Asks once more when there is no reply. Raises: LearningFailed."""
        task = WRITE_QUESTIONS.format(count=count)
        body = {"model": self.model, "messages": [{"role": "user", "content": f"{passage}\n\n{task}"}]}
        for _ in range(2):
            with suppress(OSError, ValueError, LookupError, TypeError):
                return WRITTEN.findall(str(self._post(body)["choices"][0]["message"]["content"]))
        raise LearningFailed("The configured question writer did not answer; the model is as it was.")

    def _post(self, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers, method="POST"
        )
        if not self.url.startswith(("http://", "https://")):
            raise ValueError("not a web address")
        with OPENER.open(request, timeout=TIMEOUT) as reply:
            return json.loads(reply.read(MAX_REPLY_BYTES))
