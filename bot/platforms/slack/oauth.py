"""Slack's OAuth: workspaces install the app themselves, and take it away again."""

from __future__ import annotations

import gc
import sqlite3
import time
import warnings
from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal

from slack_bolt.oauth.async_oauth_settings import AsyncOAuthSettings
from slack_sdk.oauth.installation_store import Bot as InstalledBot
from slack_sdk.oauth.installation_store import Installation
from slack_sdk.oauth.installation_store.sqlite3 import SQLite3InstallationStore
from slack_sdk.oauth.state_store.sqlite3 import SQLite3OAuthStateStore

from bot.platforms.slack.manifest import SCOPES

if TYPE_CHECKING:
    from bot.settings import Settings

STATES_FOR = 600  # seconds in which an installation that was begun may be finished


class ClosedAfterUse(sqlite3.Connection):
    """`with` also closes it."""

    def __exit__(self, *raised: Any) -> Literal[False]:
        with closing(self):
            return super().__exit__(*raised)


class Closing:
    """A store of slack_sdk, which leaves each connection open until the garbage collector comes by."""

    database: str
    init_called = False
    table = ""  # one that is there once the file is set up

    def connect(self) -> sqlite3.Connection:
        file = sqlite3.connect(self.database, factory=ClosedAfterUse)
        if not self.init_called:
            if not file.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (self.table,)).fetchone():
                self.create_tables()
            self.init_called = True
        return file

    def create_tables(self) -> None:
        """Once for a file, by the one connection that stays slack_sdk's."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            super().create_tables()  # type: ignore[misc]
            gc.collect()


class Installations(Closing, SQLite3InstallationStore):
    """Where OAuth keeps the tokens of the workspaces that installed the app. Ids of workspaces are unique, so the
    enterprise that one may belong to is left aside. Blocks for a millisecond; slack_sdk's other one needs SQLAlchemy.
    """

    table = "slack_bots"

    async def async_save(self, installation: Installation) -> None:
        installation.enterprise_id = None
        self.save(installation)

    async def async_find_bot(self, *, team_id: str | None, **_: Any) -> InstalledBot | None:
        return self.find_bot(enterprise_id=None, team_id=team_id)

    def forget(self, team: str) -> None:
        """The workspace has taken the app away: its token goes from the file, too."""
        with closing(self.connect()) as file:
            file.execute("PRAGMA secure_delete = ON")
            file.execute("DELETE FROM slack_bots WHERE team_id = ?", (team,))
            file.execute("DELETE FROM slack_installations WHERE team_id = ?", (team,))
            file.commit()
            file.execute("VACUUM")


class States(Closing, SQLite3OAuthStateStore):
    """What ties the way back from Slack to the browser that began; what nobody came back with goes after a while."""

    table = "oauth_states"

    async def async_issue(self, *arguments: Any, **options: Any) -> str:
        with closing(self.connect()) as file:
            file.execute("DELETE FROM oauth_states WHERE expire_at < ?", (time.time(),))
            file.commit()
        return self.issue(*arguments, **options)


def installations(settings: Settings) -> Installations | None:
    """None: one workspace, whose token is a setting."""
    if settings.slack_client_id is None:
        return None
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    file = settings.data_dir / "slack.db"
    file.touch(mode=0o600)
    return Installations(database=str(file), client_id=settings.slack_client_id)


def oauth(settings: Settings, store: Installations, secret: str) -> AsyncOAuthSettings:
    """Pages /slack/install and /slack/oauth_redirect beside the events' address."""
    return AsyncOAuthSettings(
        client_id=settings.slack_client_id,
        client_secret=secret,
        scopes=SCOPES,
        installation_store=store,
        installation_store_bot_only=True,
        state_store=States(expiration_seconds=STATES_FOR, database=store.database),
    )
