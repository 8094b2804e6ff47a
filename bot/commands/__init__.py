"""What people can ask of the bot, written once for every platform.

`Bot` has the ways in. A command is a function in `asking`, `learning` or `managing`, and a row in `tables`.
"""

from bot.commands.base import MAX_FETCHES, Action, Command, Form, Kind, Option, Permission, edit_interval, owns, require
from bot.commands.bot import Bot
from bot.commands.learning import upload_deleted
from bot.commands.tables import ACTIONS, COMMANDS

__all__ = [
    "ACTIONS",
    "COMMANDS",
    "MAX_FETCHES",
    "Action",
    "Bot",
    "Command",
    "Form",
    "Kind",
    "Option",
    "Permission",
    "edit_interval",
    "owns",
    "require",
    "upload_deleted",
]
