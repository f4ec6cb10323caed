"""The one thread of a process that touches the database: it writes in groups, follows others, and survives an outage.

A turn takes what is queued, writes it in one transaction, commits once, and answers everyone. When the database
cannot be written, incidents and ledger entries go to the journal instead; when it can again, they are replayed.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from sqlalchemy import Connection, Engine, insert
from sqlalchemy.exc import SQLAlchemyError

from guardrail.core.incidents import Decision, Incident
from guardrail.core.sanctions import Allowed, Entry, Ladder, Standing, Strike, next_sanction
from guardrail.errors import CaseError, StoreError
from guardrail.stores import migrations
from guardrail.stores.engine import data_version, database_file, open_engine, reading
from guardrail.stores.journal import Journal
from guardrail.stores.ledger import Writing, last_id, live_keys, read_after, read_history
from guardrail.stores.mirror import Mirror, key_of
from guardrail.stores.outage import Item, away, reason, replay, to_item, unwritable
from guardrail.stores.rows import DECISION_COLUMNS, Key, Refusal, Sealer, decision_values, refusal
from guardrail.stores.tables import decisions as decisions_table
from guardrail.stores.tasks import Allow, Answer, Enter, Flush, Record, Refuse, Task, Work, deliver

RETRY = 1.0
"""Seconds between two attempts to reach a database that was away."""
PRUNE = 60.0

_log = logging.getLogger(__name__)

TOGETHER = 100
"""Decisions in one statement."""


class Writer:
    """All methods run in one thread; `degraded` and the mirror may be read from any."""

    def __init__(
        self, url: str, sealer: Sealer, ladder: Ladder, mirror: Mirror, journal: Journal, *,
        patience: float, clock: Callable[[], float], dropped: Callable[[int], None],
    ) -> None:  # fmt: skip
        self._url, self._patience = url, patience
        self._sealer, self._ladder, self._mirror, self._journal = sealer, ladder, mirror, journal
        self._clock, self._dropped = clock, dropped
        self._engine: Engine | None = None
        self._connection: Connection | None = None
        self._version = -1
        self._last = 0
        self._retry_at = 0.0
        self._prune_at = time.monotonic() + PRUNE
        self._guessed: set[Key] = set()  # subjects whose mirror holds what only the journal knows
        self._journaled: set[str] = set()  # their strikes
        self.degraded = False

    # -- life ----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Migrate, load the mirror, replay what killed processes left. Raises `StoreError`."""
        file = database_file(self._url)
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))  # the log beside it gets the same mode
            self._engine = open_engine(self._url, patience=self._patience)
            migrations.upgrade(self._engine)
            self._connect()
            self._load()
            self._replay()
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            self.close()
            raise StoreError(
                f"database {file}: cannot be used ({reason(error)}); expected a file that this user may write"
            ) from error

    def close(self) -> None:
        self._disconnect()
        self._journal.close()
        if self._engine is not None:
            self._engine.dispose()

    def turn(self, tasks: Sequence[Task], records: Sequence[Record], *, again: bool = False) -> Sequence[Record]:
        """Write tasks and records, and answer. Returns the records to be given again at a later turn."""
        if self.degraded and not self._recover():
            deliver(self._to_journal(tasks))
            return records
        try:
            self._follow()
            tasks = self._worth_writing(tasks)
            if tasks or records:
                deliver(self._commit(tasks, records, again=again))
            self._prune()
        except Exception as error:
            if not away(error):
                return self._one_by_one(tasks, records, error, again=again)
            self._degrade(error)
            deliver(self._to_journal(tasks))
            return records
        return ()

    # -- the database --------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        assert self._engine is not None
        self._connection = self._engine.connect()
        columns = insert(decisions_table).compile(dialect=self._engine.dialect, column_keys=DECISION_COLUMNS)
        self._heading, _, self._places = str(columns).partition(" VALUES ")

    def _insert(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Write decisions, many in one statement: the driver gives up the interpreter once for each, and takes it
        back from the event loop."""
        assert self._connection is not None
        for start in range(0, len(rows), TOGETHER):
            some = rows[start : start + TOGETHER]
            places = ", ".join([self._places] * len(some))
            self._connection.exec_driver_sql(f"{self._heading} VALUES {places}", tuple(chain.from_iterable(some)))

    def _disconnect(self) -> None:
        if self._connection is not None:
            try:
                self._connection.close()
            except (SQLAlchemyError, sqlite3.Error):
                self._connection.invalidate()
        self._connection = None

    def _load(self) -> None:
        assert self._connection is not None
        self._version = data_version(self._connection)
        with reading(self._connection):
            self._last = last_id(self._connection)
            for key in live_keys(self._connection, self._ladder, self._clock()):
                self._mirror.put(key, read_history(self._connection, key))

    def _follow(self) -> None:
        """Take over what other processes have written since."""
        assert self._connection is not None
        version = data_version(self._connection)
        if version != self._version:
            with reading(self._connection):
                fresh = read_after(self._connection, self._last)
            self._learn(fresh)
            self._version = version

    def _learn(self, fresh: Sequence[tuple[int, Key, Entry | None]]) -> None:
        for ident, key, entry in fresh:
            if entry is not None:
                self._mirror.add(key, entry)
            self._last = ident

    def _worth_writing(self, tasks: Sequence[Task]) -> list[Task]:
        """Leave out what changes nothing: a request that passed, of a subject without a row of strikes."""
        refused = {key_of(task.incident.subject) for task in tasks if isinstance(task, Refuse)}
        kept: list[Task] = []
        for task in tasks:
            if isinstance(task, Allow):
                key = key_of(task.subject)
                if key not in refused and not self._mirror.ends_row(key, task.at):
                    continue
            kept.append(task)
        return kept

    def _commit(self, tasks: Sequence[Task], records: Sequence[Record], *, again: bool) -> list[Answer]:
        assert self._connection is not None
        refusals = {id(task): refusal(task.incident, self._sealer) for task in tasks if isinstance(task, Refuse)}
        noted = [refusal(record, self._sealer) for record in records if isinstance(record, Incident)]
        rows = [decision_values(record) for record in records if isinstance(record, Decision)]
        answers: list[Answer] = []
        fresh: Sequence[tuple[int, Key, Entry | None]] = ()
        touches_ledger = any(not isinstance(task, Flush) for task in tasks)
        if touches_ledger or noted or rows:
            with self._connection.begin():
                if touches_ledger or noted:
                    made = [*refusals.values(), *noted]
                    writing = Writing(self._connection, self._ladder, made, again=again)
                    answers = [(task, self._apply(writing, task, refusals)) for task in tasks]
                    for note in noted:
                        writing.note(note)
                    writing.flush()
                if touches_ledger:
                    fresh = read_after(self._connection, self._last)
                if rows:
                    self._insert(rows)
            self._learn(fresh)
        return answers or [(task, None) for task in tasks]

    def _apply(self, writing: Writing, task: Task, refusals: dict[int, Refusal]) -> Any:
        assert self._connection is not None
        match task:
            case Refuse():
                return writing.refuse(refusals[id(task)])
            case Enter():
                writing.enter(task.subject, task.entry)
                return writing.standing(task.subject, task.entry.at)
            case Allow():
                writing.allow(task.subject, Allowed(task.at))
            case Work():
                try:
                    return task.work(self._connection, writing)
                except CaseError as error:
                    return error
        return None

    def _one_by_one(
        self, tasks: Sequence[Task], records: Sequence[Record], error: Exception, *, again: bool
    ) -> Sequence[Record]:
        """Something among these is written already, or cannot be written at all: write the others one by one, and say
        so to whoever sent it."""
        if again:
            _log.error("a record cannot be written and is refused (%s)", reason(error))
            deliver((task, unwritable(error)) for task in tasks)
            if records:
                self._dropped(1)
            return ()
        left: list[Record] = []
        for task in tasks:
            self.turn([task], (), again=True)
        for record in records:
            left += self.turn((), [record], again=True)
        return left

    def _prune(self) -> None:
        if time.monotonic() >= self._prune_at:
            self._prune_at = time.monotonic() + PRUNE
            self._mirror.prune(self._clock())

    # -- an outage -----------------------------------------------------------------------------------------------

    def _degrade(self, error: Exception) -> None:
        _log.error("the database cannot be used (%s): incidents and strikes go to the journal", reason(error))
        self.degraded = True
        self._retry_at = time.monotonic() + RETRY
        self._disconnect()

    def _recover(self) -> bool:
        """Try to reach the database again; true when it is back and holds what the journal held."""
        if time.monotonic() < self._retry_at:
            return False
        try:
            self._connect()
            self._replay()
        except Exception as error:
            _log.warning("the database is still away (%s)", reason(error))
            self._retry_at = time.monotonic() + RETRY
            self._disconnect()
            return False
        _log.warning("the database is back, and the journal is in it")
        self.degraded = False
        return True

    def _to_journal(self, tasks: Sequence[Task]) -> list[Answer]:
        """Keep tasks on the disk, and answer from the mirror as far as it knows."""
        refusals: dict[int, Refusal] = {}
        answers: list[Answer] = []
        items: list[Item] = []
        kept: list[Task] = []
        for task in self._worth_writing(tasks):
            if isinstance(task, Work):
                answers.append((task, StoreError("the database is away: only refusals and the ledger go on without")))
                continue
            try:
                if isinstance(task, Refuse):
                    refusals[id(task)] = refusal(task.incident, self._sealer)
                if not isinstance(task, Flush):
                    items.append(to_item(task, refusals.get(id(task))))
                kept.append(task)
            except Exception as error:
                answers.append((task, unwritable(error)))
        try:
            if items:
                self._journal.write(items)
        except StoreError as error:
            _log.error("%s; the database is away too", error)
            return [*answers, *((task, error) for task in kept)]
        for task in kept:
            answers.append((task, self._guess(task, refusals.get(id(task)))))
        return answers

    def _guess(self, task: Task, made: Refusal | None) -> Standing | None:
        """Put a task into the mirror alone, and say where its subject stands then. The replay sets it right."""
        match task:
            case Refuse():
                assert made is not None
                key, at = key_of(made.subject), made.at
                if made.strike is not None and made.strike not in self._journaled:
                    self._journaled.add(made.strike)
                    self._guessed.add(key)
                    self._mirror.add(key, Strike(at, made.id, made.row["strike"]))
                    entries = self._mirror.entries(key)
                    imposed = next_sanction(entries, self._ladder, at, shared=made.subject.shared)
                    if imposed is not None:
                        self._mirror.add(key, imposed)
                return replace(self._mirror.standing(key, at), recorded=made.id)
            case Enter():
                key = key_of(task.subject)
                self._guessed.add(key)
                self._mirror.add(key, task.entry)
                return self._mirror.standing(key, task.entry.at)
            case Allow():
                key = key_of(task.subject)
                self._guessed.add(key)
                self._mirror.add(key, Allowed(task.at))
        return None

    def _replay(self) -> None:
        """Write what is in the journals, each item once however often this is tried, and only then remove them."""
        assert self._connection is not None
        items = self._journal.read()
        if items:
            try:
                self._write_items(items)
            except Exception as error:
                if away(error) or len(items) == 1:
                    raise
                for item in items:
                    self._write_items([item])
            _log.warning("%d records replayed from the journal", len(items))
        self._journal.clear()
        if self._guessed:
            with self._connection.begin():
                for key in self._guessed:
                    self._mirror.put(key, read_history(self._connection, key))
        self._guessed.clear()
        self._journaled.clear()

    def _write_items(self, items: Sequence[Item]) -> None:
        assert self._connection is not None
        with self._connection.begin():
            replay(self._connection, self._ladder, items)
            fresh = read_after(self._connection, self._last)
        self._learn(fresh)
