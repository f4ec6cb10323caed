"""Open the database so that what was committed is on the disk and one writer at a time decides.

SQLite: write-ahead log (readers do not wait for the writer), `synchronous=FULL` (a commit survives a power cut),
`BEGIN IMMEDIATE` (the write lock is taken before anything is read, so that what was read stays true).
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

from guardrail.errors import SettingsError

FILE = "guardrail.db"


def default_url(state_dir: Path) -> str:
    """The URL of the database that a state directory holds."""
    return f"sqlite:///{state_dir.absolute() / FILE}"


def database_file(url: str) -> Path:
    """The file that a `sqlite:///PATH` URL names; raises `SettingsError` for any other."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.get_backend_name() != "sqlite":
        raise SettingsError("database_url: not a database we can use; expected sqlite:///PATH")
    if not parsed.database or parsed.database == ":memory:":
        raise SettingsError(
            "database_url: names no file; expected sqlite:///PATH "
            "(a store without a file is guardrail.stores.memory.MemoryStore)"
        )
    return Path(parsed.database)


def open_engine(url: str, *, patience: float = 2.0, read_only: bool = False) -> Engine:
    """An engine for `url`. `patience` is how long to wait for the write lock, seconds. Opens nothing yet.

    Transactions take the write lock, but for those within `reading`.
    Raises `SettingsError` for a URL we cannot use.
    """
    file = database_file(url)
    target = str(file)
    if read_only:
        target = f"file:{quote(str(file.absolute()))}?mode=ro&uri=true"
    engine = create_engine(
        f"sqlite:///{target}", poolclass=NullPool, hide_parameters=True, connect_args={"timeout": patience}
    )

    @event.listens_for(engine, "connect")
    def on_connect(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # we begin transactions ourselves, below
        if not read_only:
            _write_ahead(connection, patience)
            connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        lockless = read_only or connection.info.get("reading", False)
        connection.exec_driver_sql("BEGIN" if lockless else "BEGIN IMMEDIATE")

    return engine


@contextlib.contextmanager
def reading(connection: Connection) -> Iterator[None]:
    """One transaction that reads, and takes no write lock."""
    connection.info["reading"] = True
    try:
        with connection.begin():
            yield
    finally:
        connection.info.pop("reading", None)


def data_version(connection: Connection) -> int:
    """A number that changes when another connection has committed to the database. Takes no lock, reads no page."""
    driver: Any = connection.connection.driver_connection
    return int(driver.execute("PRAGMA data_version").fetchone()[0])


def _write_ahead(connection: sqlite3.Connection, patience: float) -> None:
    """Switch to the write-ahead log. SQLite does not wait for others here, so that workers started at once must."""
    deadline = time.monotonic() + patience
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
