"""The ledger in memory: who stands where, answered without I/O. Only subjects with entries that still matter are in it.

One thread writes (the store's), any thread reads: an entry tuple is replaced whole, never changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from guardrail.core.admission import Subject
from guardrail.core.sanctions import Entry, Ladder, Standing, Step, Strike, outlook
from guardrail.stores.rows import Key, lasting

LATEST = 256
"""How many of a subject's latest entries are read, besides those that last. The ladder's numbers are far below."""

FLOOD = 20
"""Incidents of one subject in one minute that are kept each for itself; further ones are one row that counts."""

GOOD = Standing()


class Mirror:
    """Entries by subject, in the ledger's order, and their folds while time does not change them."""

    __slots__ = ("_entries", "_folds", "_ladder")

    def __init__(self, ladder: Ladder) -> None:
        self._ladder = ladder
        self._entries: dict[Key, tuple[Entry, ...]] = {}
        # The entries folded, their standing, and from when to when that holds. It is good for these very entries
        # only, so that a reader which was folding while the writer added one cannot leave a stale answer behind.
        self._folds: dict[Key, tuple[tuple[Entry, ...], Standing, float, float]] = {}

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

    def add(self, key: Key, entry: Entry) -> None:
        """Append an entry."""
        self.put(key, (*self._entries.get(key, ()), entry))

    def put(self, key: Key, entries: Sequence[Entry]) -> None:
        """Set all entries of a subject."""
        if entries:
            self._entries[key] = latest(entries)
        else:
            self._entries.pop(key, None)
            self._folds.pop(key, None)

    def prune(self, at: float) -> None:
        """Let go of subjects in good standing with nothing that counts against them."""
        for key in list(self._entries):
            if self.standing(key, at) == GOOD:
                self._entries.pop(key, None)
                self._folds.pop(key, None)

    def in_force(self, at: float) -> Counter[Step]:
        """How many subjects each step is in force against."""
        steps = (self.standing(key, at).step for key in list(self._entries))
        return Counter(step for step in steps if step is not Step.NONE)


def latest(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """The entries that are read: those that last, and the latest of all."""
    if len(entries) <= LATEST:
        return tuple(entries)
    old = entries[:-LATEST]
    return (*(entry for entry in old if lasting(entry)), *entries[-LATEST:])


def key_of(subject: Subject) -> Key:
    return (subject.tenant, subject.key)


def ends_row(entries: Sequence[Entry], ladder: Ladder, at: float) -> bool:
    """Whether a request allowed at `at` ends a row of strikes; one that was allowed before the last strike does not."""
    struck = max((entry.at for entry in entries if isinstance(entry, Strike)), default=None)
    return struck is not None and struck <= at and outlook(entries, ladder, at)[0].row > 0
