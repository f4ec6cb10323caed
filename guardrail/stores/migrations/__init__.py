"""Bring a database to the tables this version expects. alembic is imported only where there is something to do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, text

from guardrail.errors import StoreError
from guardrail.stores.engine import reading

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0002"
"""The newest revision in versions/ (a test compares); reading it does not cost the 12 MB of importing alembic."""


def revision(connection: Connection) -> str | None:
    """The revision of the database at hand; none for one without our tables."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found


def upgrade(engine: Engine) -> None:
    """Run what is missing in one transaction; of several processes that start together, one does and the rest wait.

    Raises `StoreError` for a database that a newer version made.
    """
    with engine.connect() as connection, reading(connection):
        if revision(connection) == HEAD:
            return
    with engine.begin() as connection:
        found = revision(connection)
        if found == HEAD:
            return
        from alembic import command
        from alembic.script import ScriptDirectory

        config = configuration(connection)
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if found is not None and found not in known:
            raise StoreError(
                f"the database is at revision {found}, which this version does not know; expected {HEAD} or an older "
                "one: run the version that made it, or a newer one"
            )
        command.upgrade(config, HEAD)


def configuration(connection: Connection) -> Config:
    """alembic's configuration for `connection`, without an ini file."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
