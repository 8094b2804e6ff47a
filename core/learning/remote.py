"""A larger model that writes the questions, behind any OpenAI-compatible endpoint. Off unless it is configured: every
passage of every document is sent there, so documents leave the machine."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass, field
from typing import Any

from core.errors import LearningFailed
from core.prompts import WRITE_QUESTIONS, WRITTEN

TIMEOUT = 60.0  # seconds of one request
MOST_BYTES = 1 << 20  # of a reply


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib hands the key on to whichever host a redirect names; so none is followed."""

    def redirect_request(self, *_: Any) -> None:
        return None


OPENER = urllib.request.build_opener(_NoRedirect)


@dataclass(frozen=True)
class RemoteWriter:
    """Implements core.learning.study.Writer."""

    url: str  # up to and with /v1
    model: str
    key: str = field(default="", repr=False)

    def write(self, passage: str, count: int) -> list[tuple[str, str]]:
        """Raises: LearningFailed."""
        task = WRITE_QUESTIONS.format(count=count)
        body = {"model": self.model, "messages": [{"role": "user", "content": f"{passage}\n\n{task}"}]}
        try:
            text = self._post(body)["choices"][0]["message"]["content"]
        except (OSError, ValueError, LookupError, TypeError):
            raise LearningFailed("The configured question writer did not answer; the model is as it was.") from None
        return WRITTEN.findall(str(text))

    def _post(self, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers, method="POST"
        )
        if not self.url.startswith(("http://", "https://")):
            raise ValueError("not a web address")
        with OPENER.open(request, timeout=TIMEOUT) as reply:
            return json.loads(reply.read(MOST_BYTES))
