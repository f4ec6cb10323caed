"""The store on a database: verbs that cost the event loop next to nothing, and one thread that writes in groups.

`standing` is answered from a mirror of the ledger in memory. `refuse` waits for its commit, which it shares with all
that was queued meanwhile; `allow`, `note` and `record` only queue. Several processes may share one SQLite file: each
follows what the others commit.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from guardrail.core.admission import Subject
from guardrail.core.appeals import Appeal, Ruling
from guardrail.core.incidents import Decision, Incident
from guardrail.core.sanctions import Entry, Ladder, Standing, Step
from guardrail.errors import StoreError
from guardrail.stores.appeals import decide_appeal, file_appeal, read_appeals, read_evidence
from guardrail.stores.engine import database_file, open_engine
from guardrail.stores.journal import Journal
from guardrail.stores.ledger import Writing
from guardrail.stores.mirror import Mirror
from guardrail.stores.outage import reason as why
from guardrail.stores.outage import unwritable
from guardrail.stores.rows import Sealer
from guardrail.stores.tasks import Allow, Enter, Flush, Record, Refuse, Reply, Task, Work, deliver
from guardrail.stores.writer import Writer

LARGEST_GROUP = 1000
"""Tasks written in one transaction at most: what waits behind them gets its turn."""


_log = logging.getLogger(__name__)
T = TypeVar("T")


def _ignore(_count: int) -> None:
    pass


class SqlStore:
    """A `Store` on SQLite.

    `url` is `sqlite:///PATH`; `journal` the folder of the local journal (default: the database's). `poll` is how
    often other processes' commits are looked for, `flush_after` and `flush_rows` when records are written at the
    latest; `patience` how long to wait for the write lock: all in seconds. At most `most_queued` records (decisions,
    and incidents that nobody was refused for) and as many refusals wait; records beyond are dropped and counted
    through `dropped`, refusals raise `StoreError`.
    """

    def __init__(
        self, url: str, sealer: Sealer, *, ladder: Ladder | None = None, journal: Path | None = None,
        clock: Callable[[], float] = time.time, dropped: Callable[[int], None] = _ignore, poll: float = 0.2,
        flush_after: float = 0.5, flush_rows: int = 500, patience: float = 2.0, most_queued: int = 20_000,
    ) -> None:  # fmt: skip
        self._mirror = Mirror(ladder or Ladder())
        self._writer = Writer(
            url, sealer, ladder or Ladder(), self._mirror, Journal(journal or database_file(url).parent, sealer),
            patience=patience, clock=clock, dropped=dropped,
        )  # fmt: skip
        self._url, self._sealer, self._patience = url, sealer, patience
        self._clock, self._dropped = clock, dropped
        self._poll, self._flush_after, self._flush_rows, self._most = poll, flush_after, flush_rows, most_queued
        self._tasks: deque[Task] = deque()
        self._records: deque[Record] = deque()
        self._passed: dict[Subject, float] = {}
        self._waiting_since: float | None = None
        self._wake = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None

    # -- the protocol --------------------------------------------------------------------------------------------

    def standing(self, subject: Subject, at: float) -> Standing:
        """Where `subject` stands. While the database is away, only a sanction that is known is an answer; for all
        others `StoreError` is raised, and the operator's setting decides."""
        found = self._mirror.standing((subject.tenant, subject.key), at)
        if self._writer.degraded and found.step is Step.NONE:
            raise StoreError("the database is away: whether this subject is sanctioned cannot be known")
        return found

    async def refuse(self, incident: Incident) -> Standing:
        """Returns when the incident, its strike and what follows are on the disk; called off, they are kept still."""
        standing: Standing = await self._ask(Refuse(incident, Reply.here()))
        return standing

    def note(self, incident: Incident) -> None:
        self._queue(incident)

    def allow(self, subject: Subject, at: float) -> None:
        if self._mirror.ends_row((subject.tenant, subject.key), at):
            self._tasks.append(Allow(subject, at))
            self._wake.set()  # at once: a strike that another worker writes next must not count as one more in a row
        else:
            # Another worker may have written a strike that is not in the mirror yet: looked at within `poll`. Of one
            # subject's requests the last says all: one allowed before a strike does not end its row.
            self._passed[subject] = at

    def record(self, decision: Decision) -> None:
        self._queue(decision)

    async def incident(self, ident: str) -> Incident | None:
        return await self._read(lambda connection: read_evidence(connection, ident))

    async def file_appeal(self, appeal: Appeal) -> Appeal:
        filed: Appeal = await self._ask(
            Work(lambda connection, _: file_appeal(connection, appeal, self._sealer), Reply.here())
        )
        return filed

    async def appeals(self, *, ident: str | None = None, incident: str | None = None) -> Sequence[Appeal]:
        return await self._read(lambda connection: read_appeals(connection, ident=ident, incident=incident))

    async def decide_appeal(self, ident: str, ruling: Ruling, *, at: float, by: str, reason: str) -> Appeal:
        def work(connection: Connection, writing: Writing) -> Appeal:
            return decide_appeal(connection, writing, ident, ruling, at=at, by=by, reason=reason)

        decided: Appeal = await self._ask(Work(work, Reply.here()))
        return decided

    async def start(self) -> None:
        """Open the database, migrate it and load the mirror. Raises `StoreError`."""
        if self._thread is not None:
            return
        self._closing = False
        started = Reply.here()
        self._thread = threading.Thread(target=self._run, args=(started,), name="guardrail-store", daemon=True)
        self._thread.start()
        try:
            await started.future
        except StoreError:
            self._thread = None
            raise

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._closing = True
            self._wake.set()
            await asyncio.to_thread(thread.join)

    # -- beyond it -----------------------------------------------------------------------------------------------

    async def enter(self, subject: Subject, entry: Entry) -> Standing:
        """Append an entry that a person decided (a lift, a sanction, a voided strike), durably. Raises `StoreError`."""
        standing: Standing = await self._ask(Enter(subject, entry, Reply.here()))
        return standing

    async def flush(self) -> None:
        """Wait until everything queued so far is written."""
        await self._ask(Flush(Reply.here()))

    def in_force(self, at: float) -> Counter[Step]:
        """How many subjects each step is in force against."""
        return self._mirror.in_force(at)

    @property
    def degraded(self) -> bool:
        """Whether the database is away and the journal takes its place."""
        return self._writer.degraded

    def _queue(self, record: Record) -> None:
        queued = len(self._records)
        if queued >= self._most:
            self._dropped(1)
            return
        self._records.append(record)
        if queued + 1 == self._flush_rows:
            self._wake.set()

    async def _read(self, work: Callable[[Connection], T]) -> T:
        """Read apart from the writer's thread, whose transactions are for what cannot wait."""
        if self._thread is None or self._writer.degraded:
            raise StoreError("the database is away" if self._thread else "the store is not started")
        return await asyncio.to_thread(self._reading, work)

    def _reading(self, work: Callable[[Connection], T]) -> T:
        engine = open_engine(self._url, patience=self._patience, read_only=True)
        try:
            with engine.begin() as connection:
                return work(connection)
        except (SQLAlchemyError, OSError) as error:
            raise StoreError(f"the database cannot be read ({why(error)})") from error
        finally:
            engine.dispose()

    async def _ask(self, task: Refuse | Enter | Work | Flush) -> Any:
        if self._thread is None:
            raise StoreError("the store is not started")
        if len(self._tasks) >= self._most:
            raise StoreError(f"{len(self._tasks)} records wait to be written; no more are taken")
        self._tasks.append(task)
        self._wake.set()
        return await task.reply.future

    # -- the thread ----------------------------------------------------------------------------------------------

    def _run(self, started: Reply) -> None:
        starting = Flush(started)
        try:
            self._writer.open()
        except Exception as error:
            deliver([(starting, error if isinstance(error, StoreError) else StoreError(type(error).__name__))])
            return
        deliver([(starting, None)])
        closing = False
        while not (closing and not self._tasks and not self._passed):
            self._wake.wait(self._poll)
            self._wake.clear()
            closing = self._closing
            self._turn(closing)
        self._writer.close()

    def _turn(self, closing: bool) -> None:
        tasks = [self._tasks.popleft() for _ in range(min(len(self._tasks), LARGEST_GROUP))]
        if self._tasks:
            self._wake.set()
        while self._passed:  # item by item: the event loop may add to it meanwhile
            tasks.append(Allow(*self._passed.popitem()))
        records = self._due(closing or any(not isinstance(task, Allow) for task in tasks))
        try:
            left = self._writer.turn(tasks, records)
        except Exception as error:  # a fault of ours: whoever waits must hear of it, and the thread must live
            _log.exception("the store's thread failed in a turn")
            deliver((task, unwritable(error)) for task in tasks)
            left = records
        if left:
            if closing:
                self._dropped(len(left))
            else:
                self._records.extendleft(reversed(left))

    def _due(self, now: bool) -> list[Record]:
        """The records to be written in this turn: with a commit that is made anyway, or when they have waited."""
        queued = len(self._records)
        if not queued:
            self._waiting_since = None
            return []
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
        waited = time.monotonic() - self._waiting_since + self._poll > self._flush_after
        if not (now or waited or queued >= self._flush_rows):
            return []
        self._waiting_since = None
        return [self._records.popleft() for _ in range(queued)]
