"""The ledger in memory: who stands where, answered without I/O. Only subjects with entries that still matter are in it.

One thread writes (the store's), any thread reads: an entry tuple is replaced whole, never changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import inf

from guardrail.core.admission import Subject
from guardrail.core.sanctions import Entry, Ladder, Standing, Step, Strike, outlook, standing
from guardrail.stores.rows import Key, lasting

LATEST = 256
"""How many of a subject's latest entries are read, besides those that last. The ladder's numbers are far below."""

FLOOD = 20
"""Incidents of one subject in one minute (and with one action) that are kept each for itself; further ones are one row
that counts."""

GOOD = Standing()


class Mirror:
    """Entries by subject, in the ledger's order, and their folds while time does not change them."""

    __slots__ = ("_entries", "_folds", "_ladder", "_rows")

    def __init__(self, ladder: Ladder) -> None:
        self._ladder = ladder
        self._entries: dict[Key, tuple[Entry, ...]] = {}
        # The entries folded, their standing, and from when to when that holds. It is good for these very entries
        # only, so that a reader which was folding while the writer added one cannot leave a stale answer behind.
        self._folds: dict[Key, tuple[tuple[Entry, ...], Standing, float, float]] = {}
        self._rows: dict[Key, tuple[tuple[Entry, ...], float]] = {}  # likewise, and when the row's last strike was

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self, key: Key) -> tuple[Entry, ...]:
        return self._entries.get(key, ())

    def standing(self, key: Key, at: float) -> Standing:
        """Where a subject stands at `at`."""
        entries = self._entries.get(key)
        if entries is None:
            return GOOD
        fold = self._folds.get(key)
        if fold is not None and fold[0] is entries and fold[2] <= at < fold[3]:
            return fold[1]
        found, changes = outlook(entries, self._ladder, at)
        self._folds[key] = (entries, found, at, changes)
        return found

    def ends_row(self, key: Key, at: float) -> bool:
        """Whether a request allowed at `at` ends a row of strikes; one allowed before the last strike does not."""
        entries = self._entries.get(key)
        if entries is None:
            return False
        row = self._rows.get(key)
        if row is None or row[0] is not entries:
            row = self._rows[key] = (entries, open_row(entries, self._ladder))
        return row[1] <= at

    def add(self, key: Key, entry: Entry) -> None:
        """Append an entry."""
        self.put(key, (*self._entries.get(key, ()), entry))

    def put(self, key: Key, entries: Sequence[Entry]) -> None:
        """Set all entries of a subject."""
        if entries:
            self._entries[key] = latest(entries)
        else:
            self._forget(key)

    def prune(self, at: float) -> None:
        """Let go of subjects in good standing with nothing that counts against them."""
        for key in list(self._entries):
            if self.standing(key, at) == GOOD:
                self._forget(key)

    def in_force(self, at: float) -> Counter[Step]:
        """How many subjects each step is in force against."""
        steps = (self.standing(key, at).step for key in list(self._entries))
        return Counter(step for step in steps if step is not Step.NONE)

    def _forget(self, key: Key) -> None:
        for held in (self._entries, self._folds, self._rows):
            held.pop(key, None)


def latest(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """The entries that are read: those that last, and the latest of all."""
    if len(entries) <= LATEST:
        return tuple(entries)
    old = entries[:-LATEST]
    return (*(entry for entry in old if lasting(entry)), *entries[-LATEST:])


def key_of(subject: Subject) -> Key:
    return (subject.tenant, subject.key)


def open_row(entries: Sequence[Entry], ladder: Ladder) -> float:
    """When the last strike of a row was made that an allowed request would end; `inf` where there is no row."""
    struck = max((entry.at for entry in entries if isinstance(entry, Strike)), default=inf)
    return struck if struck < inf and standing(entries, ladder, struck).row else inf
