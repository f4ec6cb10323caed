"""An outage of the database: another connection holds its write lock for as long as the test wants."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from guardrail.core.admission import Subject
from guardrail.core.sanctions import Lifted, Step
from guardrail.errors import StoreError
from guardrail.records.keys import Keyring
from guardrail.stores.journal import Journal

DAY = 86400.0


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """Nobody else can write meanwhile."""
    connection = sqlite3.connect(state / "guardrail.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


async def recovered(store: Any) -> None:
    for _ in range(400):
        if not store.degraded:
            return
        await asyncio.sleep(0.01)
    pytest.fail("the store did not come back")


def journals(state: Path) -> list[Path]:
    return sorted(state.glob("journal-*.jsonl"))


async def test_refusals_of_an_outage_are_journaled_answered_and_written_when_it_ends(
    open_store: Any, make: Any, state: Path, rows: Any
) -> None:
    store = await open_store(patience=0.05)
    await store.refuse(make.incident())
    with locked(state):
        standings = [await store.refuse(make.incident()) for _ in range(2)]
        assert [standing.step for standing in standings] == [Step.LIMIT, Step.SUSPEND]
        assert store.degraded
        assert len(journals(state)) == 1
        assert make.canary.encode() not in journals(state)[0].read_bytes()
        assert rows("select count(*) from incidents") == [(1,)]
    await recovered(store)
    assert rows("select count(*) from incidents") == [(3,)]
    assert rows("select kind, step, incident from ledger order by id") == [
        ("strike", None, "i0"), ("imposed", 1, "i0"), ("strike", None, "i1"), ("imposed", 2, "i1"),
        ("strike", None, "i2"), ("imposed", 3, "i2"),
    ]  # fmt: skip
    assert journals(state) == []
    assert store.standing(make.someone, make.now).step is Step.SUSPEND


async def test_the_excerpt_that_went_through_the_journal_opens(
    open_store: Any, make: Any, state: Path, rows: Any, keyring: Keyring
) -> None:
    store = await open_store(patience=0.05)
    incident = make.incident()
    with locked(state):
        await store.refuse(incident)
    await recovered(store)
    [(sealed, key)] = rows("select sealed, seal_key from incidents")
    assert keyring.sealer.open(sealed, incident.id, key).decode() == make.canary


async def test_in_an_outage_a_known_sanction_holds_and_other_standings_cannot_be_known(
    open_store: Any, make: Any, state: Path
) -> None:
    store = await open_store(patience=0.05)
    for _ in range(3):
        await store.refuse(make.incident())
    stranger = Subject("t", "stranger")
    with locked(state):
        await store.refuse(make.incident(Subject("t", "other")))
        assert store.standing(make.someone, make.now).step is Step.SUSPEND
        with pytest.raises(StoreError, match="away"):
            store.standing(stranger, make.now)
    await recovered(store)
    assert store.standing(stranger, make.now).step is Step.NONE


async def test_allowed_requests_and_peoples_decisions_of_an_outage_keep_their_place(
    open_store: Any, make: Any, state: Path, rows: Any
) -> None:
    store = await open_store(patience=0.05)
    for _ in range(2):
        await store.refuse(make.incident())
    with locked(state):
        await store.refuse(make.incident(Subject("t", "other")))
        store.allow(make.someone, make.now + 1)
        await store.refuse(make.incident(at=make.now + 2))
        await store.enter(make.someone, Lifted(make.now + 3, "operator", "why"))
    await recovered(store)
    kinds = [kind for (kind,) in rows("select kind from ledger where subject = 'someone' order by id")]
    assert kinds == ["strike", "imposed", "strike", "imposed", "allowed", "strike", "imposed", "lifted"]
    assert store.standing(make.someone, make.now + 4).step is Step.NONE


async def test_a_retry_across_an_outage_is_one_strike(open_store: Any, make: Any, state: Path, rows: Any) -> None:
    store = await open_store(patience=0.05)
    await store.refuse(make.incident(idempotency="k"))
    with locked(state):
        for _ in range(3):
            await store.refuse(make.incident(idempotency="k"))
    await recovered(store)
    assert rows("select count(*) from ledger where kind = 'strike'") == [(1,)]
    assert rows("select count(*) from incidents") == [(4,)]
    assert store.standing(make.someone, make.now).row == 1


async def test_a_journal_that_is_replayed_twice_is_written_once(
    open_store: Any, make: Any, state: Path, rows: Any, tmp_path: Path
) -> None:
    store = await open_store(patience=0.05)
    with locked(state):
        await store.refuse(make.incident(strike=None))
        for _ in range(2):
            await store.refuse(make.incident())
        store.allow(make.someone, make.now + 1)
        await store.refuse(make.incident(at=make.now + 2))
        copy = Path(shutil.copy(journals(state)[0], tmp_path))
    await recovered(store)
    await store.close()
    before = (rows("select * from ledger"), rows("select * from incidents"))
    assert len(before[1]) == 4
    # As if the process had been killed after the commit and before it removed the file.
    shutil.copy(copy, state)
    await open_store()
    assert (rows("select * from ledger"), rows("select * from incidents")) == before
    assert journals(state) == []


async def test_decisions_wait_out_an_outage(open_store: Any, make: Any, state: Path, rows: Any) -> None:
    dropped: list[int] = []
    store = await open_store(patience=0.05, dropped=dropped.append)
    with locked(state):
        store.record(make.decision())
        await store.refuse(make.incident())
        store.record(make.decision())
        await asyncio.sleep(0.3)
    await recovered(store)
    await store.close()
    assert rows("select count(*) from decisions") == [(2,)]
    assert dropped == []


async def test_where_neither_database_nor_journal_can_be_written_a_refusal_is_an_error(
    open_store: Any, make: Any, state: Path, rows: Any
) -> None:
    blocked = state / "in-the-way"
    blocked.parent.mkdir(exist_ok=True)
    blocked.write_text("a file where the folder should be")
    store = await open_store(patience=0.05, journal=blocked)
    with locked(state):
        with pytest.raises(StoreError, match="journal"):
            await store.refuse(make.incident())
        # It does not count: nobody was told that it was kept.
        with pytest.raises(StoreError):
            store.standing(make.someone, make.now)
    await recovered(store)
    assert store.standing(make.someone, make.now).step is Step.NONE
    assert (await store.refuse(make.incident())).row == 1


async def test_a_journal_in_use_is_left_alone_and_one_left_behind_is_taken_over(state: Path, keyring: Keyring) -> None:
    living, dead, reader = (Journal(state, keyring.sealer) for _ in range(3))
    living.write([{"n": 1}])
    dead.write([{"n": 2}])
    dead.close()
    assert reader.read() == [{"n": 2}]
    reader.clear()
    assert len(journals(state)) == 1
    assert living.read() == [{"n": 1}]
    living.clear()
    assert journals(state) == []


async def test_a_line_that_was_cut_off_is_left_out_and_an_altered_one_set_aside(state: Path, keyring: Keyring) -> None:
    journal, reader = Journal(state, keyring.sealer), Journal(state, keyring.sealer)
    journal.write([{"n": number} for number in range(3)])
    journal.close()
    [file] = journals(state)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + lines[1].replace(b'"sealed": "', b'"sealed": "AAAA') + lines[2] + lines[0][:30])
    assert reader.read() == [{"n": 0}, {"n": 2}]
    assert file.with_suffix(".damaged").read_bytes().count(b"\n") == 1


async def test_a_journal_with_a_line_of_another_key_keeps_it(state: Path, keyring: Keyring) -> None:
    foreign = Journal(state, Keyring.throwaway().sealer)
    foreign.write([{"n": 1}])
    foreign.close()
    reader = Journal(state, keyring.sealer)
    assert reader.read() == []
    reader.clear()
    assert len(list(state.glob("*.damaged"))) == 1
