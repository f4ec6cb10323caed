"""Stores, clocks and incidents for the tests of stores."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from guardrail.core.admission import Subject
from guardrail.core.content import Direction
from guardrail.core.incidents import Decision, Hit, Incident
from guardrail.core.policy import Action
from guardrail.records.keys import Keyring
from guardrail.stores.sql import SqlStore

NOON = 1_790_000_000.0
CANARY = "canary-7f3a 鹦鹉-密语"
RULE = "mlcommons/violent/lexicon"


class Maker:
    """Makes incidents and decisions with ids of their own."""

    now = NOON
    canary = CANARY
    someone = Subject("t", "someone")

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def incident(self, subject: Subject | None = None, at: float | None = None, **changes: Any) -> Incident:
        ident = f"i{next(self._numbers)}"
        made = Incident(
            ident, NOON if at is None else at, subject or self.someone, f"r-{ident}", "openai_chat", Direction.PROMPT,
            Action.BLOCK, (Hit(RULE, "violent", "keywords", 0.9, 0, 3, 9),), (), "digest", 40, CANARY, strike=RULE,
        )  # fmt: skip
        return replace(made, **changes)

    def decision(self, **changes: Any) -> Decision:
        ident = f"d{next(self._numbers)}"
        made = Decision(
            ident, NOON, self.someone, f"r-{ident}", "openai_chat", "allowed", Action.ALLOW, None, "digest", "p1", 12,
            34, True, 0.001, 0.5,
        )  # fmt: skip
        return made._replace(**changes)


@pytest.fixture
def make() -> Maker:
    return Maker()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def keyring(state: Path) -> Keyring:
    return Keyring.open(state / "keys")


Opener = Callable[..., Awaitable[SqlStore]]


@pytest.fixture
async def open_store(state: Path, keyring: Keyring) -> AsyncIterator[Opener]:
    """Start stores on the state directory; those still open at the end are closed."""
    opened: list[SqlStore] = []

    async def start(**options: Any) -> SqlStore:
        store = SqlStore(f"sqlite:///{state / 'guardrail.db'}", keyring.sealer, **{"clock": lambda: NOON} | options)
        await store.start()
        opened.append(store)
        return store

    yield start
    for store in opened:
        await store.close()


@pytest.fixture
def rows(state: Path) -> Callable[[str], list[tuple[Any, ...]]]:
    """Run a query with the sqlite3 module, past everything that is tested."""

    def query(sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(state / "guardrail.db")) as connection:
            return connection.execute(sql).fetchall()

    return query
