"""What people can ask of the bot: COMMANDS, and ACTIONS for its buttons. To add one, write a handler and a row here."""

from __future__ import annotations

from bot.commands.asking import (
    ask,
    corrections,
    press_correction,
    press_details,
    press_example,
    press_helpful,
    press_share,
    press_wrong,
)
from bot.commands.base import Action, Command, Form, Kind, Option, Permission
from bot.commands.channel import suggest_documents
from bot.commands.learning import cancel, learn, press_cancel, press_upload
from bot.commands.managing import (
    about,
    docs,
    forget,
    help,
    press_ask_forget,
    press_forget,
    press_keep,
    press_learning,
    press_reset,
    press_set,
    reset,
    settings,
    status,
)

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command(
            "learn",
            "Learn a document, for this channel alone",
            learn,
            options=(
                Option("file", "The document to learn; I ask for it when you leave it out", Kind.FILE),
                Option("pages", "Only these pages, for example 1-100"),
            ),
            permission=Permission.MEMBER,
            asks_by="upload",
        ),
        Command(
            "ask",
            "Ask about what I have learned here",
            ask,
            options=(
                Option("question", "What you want to know", required=True),
                Option("document", "Which document; I choose when you leave it out", suggest=suggest_documents),
                Option("private", "Only you see the answer", Kind.YES_NO),
            ),
        ),
        Command("docs", "List what I know here", docs, private=True),
        Command(
            "forget",
            "Erase one document: your own, or any if you manage the channel",
            forget,
            options=(Option("document", "Which document", required=True, suggest=suggest_documents),),
            permission=Permission.MEMBER,
        ),
        Command("reset", "Erase everything I know here (managers)", reset, permission=Permission.MANAGER, private=True),
        Command("status", "Show progress and what is waiting", status, private=True),
        Command("cancel", "Stop learning: your own, or all if you manage the channel", cancel, private=True),
        Command(
            "settings",
            "Choose how I answer in this channel (managers)",
            settings,
            permission=Permission.MANAGER,
            private=True,
        ),
        Command("corrections", "Review corrections to documents you added", corrections, private=True),
        Command("help", "Show what I can do", help, private=True),
        Command("about", "Privacy, model, source code and licence", about, private=True),
    )
}
ACTIONS: dict[str, Action] = {
    "cancel": Action(press_cancel),
    "example": Action(press_example, public=True),
    "forget": Action(press_forget, permission=Permission.MEMBER),
    "forget?": Action(press_ask_forget, permission=Permission.MEMBER),
    "details": Action(press_details),
    "learning": Action(press_learning),
    "set": Action(press_set, permission=Permission.MANAGER),
    "share": Action(press_share),
    "helpful": Action(press_helpful),
    "correction": Action(press_correction, permission=Permission.MEMBER, public=True),
    "wrong": Action(press_wrong, Form("That was wrong", "Right answer? Others here may see it.")),
    "upload": Action(
        press_upload,
        Form("Upload a document", "I learn it for this channel alone.", files=True),
        permission=Permission.MEMBER,
        public=True,
    ),
    "reset": Action(press_reset, permission=Permission.MANAGER),
    "keep": Action(press_keep),
}
