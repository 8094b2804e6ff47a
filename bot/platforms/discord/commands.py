"""The rows of `bot.commands.COMMANDS` as Discord's application commands."""

from __future__ import annotations

import inspect
from typing import Any, Protocol

import discord
from discord import app_commands

from bot.commands import COMMANDS, Command, Kind, Option, Permission

CHOICE, CHOICES = 100, 25  # Discord's limits: characters, and how many
KINDS = {Kind.TEXT: str, Kind.FILE: discord.Attachment, Kind.YES_NO: bool}


class Handlers(Protocol):
    """Who handles what people choose."""

    async def command(self, command: Command, interaction: discord.Interaction, arguments: dict[str, Any]) -> None: ...

    async def suggest(self, option: Option, interaction: discord.Interaction, typed: str) -> list[tuple[str, str]]:
        """(label, value), best first."""
        ...

    async def learn_message(self, interaction: discord.Interaction, message: discord.Message) -> None: ...


def command_tree(client: discord.Client, handlers: Handlers) -> app_commands.CommandTree[Any]:
    tree: app_commands.CommandTree[Any] = app_commands.CommandTree(
        client,
        allowed_contexts=app_commands.AppCommandContext(guild=True, dm_channel=True, private_channel=True),
        allowed_installs=app_commands.AppInstallationType(guild=True, user=True),
    )
    for command in COMMANDS.values():
        tree.add_command(_slash(handlers, command))
    tree.add_command(app_commands.ContextMenu(name="Learn this document", callback=handlers.learn_message))
    return tree


def _slash(handlers: Handlers, command: Command) -> app_commands.Command[Any, Any, None]:
    """A row of the table as a slash command."""

    async def callback(interaction: discord.Interaction, **arguments: Any) -> None:
        given = {name: value for name, value in arguments.items() if value is not None}
        await handlers.command(command, interaction, given)

    callback.__signature__ = _signature(command)  # type: ignore[attr-defined]
    app_commands.describe(**{option.name: option.description for option in command.options})(callback)
    slash: app_commands.Command[Any, Any, None] = app_commands.Command(
        name=command.name, description=command.description, callback=callback
    )
    if command.permission is Permission.MANAGER:
        slash.default_permissions = discord.Permissions(manage_channels=True)  # a default; `require` is what counts
    for option in command.options:
        if option.suggest:
            slash.autocomplete(option.name)(_autocomplete(handlers, option))
    return slash


def _signature(command: Command) -> inspect.Signature:
    """discord.py reads the options off the callback's signature."""
    parameters = [inspect.Parameter("interaction", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    for option in command.options:
        parameter = inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, annotation=KINDS[option.kind])
        if not option.required:
            parameter = parameter.replace(annotation=KINDS[option.kind] | None, default=None)
        parameters.append(parameter)
    return inspect.Signature(parameters)


def _autocomplete(handlers: Handlers, option: Option) -> Any:
    async def choices(interaction: discord.Interaction, typed: str) -> list[app_commands.Choice[str]]:
        suggested = await handlers.suggest(option, interaction, typed)
        return [app_commands.Choice(name=name[:CHOICE], value=value) for name, value in suggested[:CHOICES]]

    return choices
