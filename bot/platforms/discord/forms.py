"""What a button asks before it is handled, as Discord's modal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import discord

from bot.commands import Form
from bot.platforms.common import STALE_AFTER
from core.service import MAX_QUESTION

Submit = Callable[[discord.Interaction, str, Sequence[discord.Attachment]], Awaitable[None]]


class ActionForm(discord.ui.Modal):
    """submit: takes the text or the files that were given."""

    def __init__(self, form: Form, submit: Submit) -> None:
        super().__init__(title=form.title, timeout=STALE_AFTER)
        self._submit = submit
        self._given: Any = (
            discord.ui.FileUpload(custom_id="given", max_values=10)
            if form.files
            else discord.ui.TextInput(
                custom_id="given", required=False, max_length=MAX_QUESTION, style=discord.TextStyle.paragraph
            )
        )
        self.add_item(discord.ui.Label(text=form.label, component=self._given))

    async def on_submit(self, interaction: discord.Interaction) -> None:
        if isinstance(self._given, discord.ui.FileUpload):
            await self._submit(interaction, "", self._given.values)
        else:
            await self._submit(interaction, self._given.value, ())
