"""The store on SQLite: what is on the disk, what other workers see, and what it costs the event loop."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from guardrail.core.admission import Subject
from guardrail.core.policy import Action
from guardrail.core.sanctions import Step
from guardrail.errors import SettingsError, StoreError
from guardrail.records.keys import Keyring
from guardrail.stores.engine import open_engine
from guardrail.stores.memory import MemoryStore
from guardrail.stores.mirror import LATEST
from guardrail.stores.sql import SqlStore

DAY = 86400.0


async def until(condition: Any, seconds: float = 3.0) -> float:
    """Wait for a condition; returns the seconds it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "did not become true in time"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def test_a_suspension_outlives_a_restart(open_store: Any, make: Any) -> None:
    first = await open_store()
    for _ in range(3):
        await first.refuse(make.incident())
    await first.close()
    second = await open_store()
    assert second.standing(make.someone, make.now + 1).step is Step.SUSPEND
    assert second.standing(make.someone, make.now + DAY).step is Step.NONE


async def test_a_row_of_strikes_outlives_a_restart_however_old_it_is(open_store: Any, make: Any) -> None:
    first = await open_store()
    for _ in range(2):
        await first.refuse(make.incident())
    await first.close()
    later = make.now + 500 * DAY
    second = await open_store(clock=lambda: later)
    assert second.standing(make.someone, later).row == 2
    assert (await second.refuse(make.incident(at=later))).step is Step.SUSPEND


async def test_an_allowed_request_is_on_the_disk_after_closing(open_store: Any, make: Any) -> None:
    first = await open_store()
    for _ in range(2):
        await first.refuse(make.incident())
    first.allow(make.someone, make.now + 1)
    await first.close()
    assert (await open_store()).standing(make.someone, make.now + 2).row == 0


async def test_good_subjects_are_not_loaded(open_store: Any, make: Any) -> None:
    first = await open_store()
    for _ in range(2):
        await first.refuse(make.incident())
    first.allow(make.someone, make.now + 1)
    await first.close()
    later = await open_store(clock=lambda: make.now + 200 * DAY)
    assert len(later._mirror) == 0


async def test_a_suspension_by_one_worker_is_seen_by_another_within_half_a_second(open_store: Any, make: Any) -> None:
    one, other = await open_store(), await open_store()
    for _ in range(3):
        await one.refuse(make.incident())
    assert await until(lambda: other.standing(make.someone, make.now).step is Step.SUSPEND) < 0.5


async def test_strikes_add_up_over_workers(open_store: Any, make: Any) -> None:
    workers = [await open_store() for _ in range(3)]
    steps = [(await worker.refuse(make.incident())).step for worker in workers]
    assert steps == [Step.WARN, Step.LIMIT, Step.SUSPEND]


async def test_a_request_allowed_by_one_worker_ends_the_row_that_another_wrote(open_store: Any, make: Any) -> None:
    one, other = await open_store(), await open_store()
    for _ in range(2):
        await one.refuse(make.incident())
    other.allow(make.someone, make.now + 1)  # at once: the mirror of this worker may not know of the strikes yet
    await until(lambda: one.standing(make.someone, make.now + 2).row == 0)


async def test_requests_that_change_nothing_write_nothing(open_store: Any, make: Any, state: Path) -> None:
    store = await open_store()
    await store.refuse(make.incident())
    store.allow(make.someone, make.now + 1)
    await store.flush()
    log = state / "guardrail.db-wal"
    before = (log.stat().st_size, log.stat().st_mtime_ns)
    for number in range(1000):
        store.allow(make.someone, make.now + 2)
        store.allow(Subject("t", f"s{number}"), make.now + 2)
    await store.flush()
    await asyncio.sleep(0.6)
    assert (log.stat().st_size, log.stat().st_mtime_ns) == before


async def test_a_decision_is_written_within_half_a_second_and_a_bit(open_store: Any, make: Any, rows: Any) -> None:
    store = await open_store()
    store.record(make.decision())
    assert await until(lambda: rows("select count(*) from decisions") == [(1,)]) < 1.0


async def test_five_hundred_decisions_are_written_at_once_and_whole(open_store: Any, make: Any, rows: Any) -> None:
    store = await open_store(poll=30, flush_after=60)
    for _ in range(500):
        store.record(make.decision())
    await until(lambda: rows("select count(*) from decisions") == [(500,)])
    shown = rows(
        "select id, at, tenant, subject, identity, outcome, action, produce_id, prompt_length, streamed, overhead"
        " from decisions order by seq limit 1"
    )
    assert shown == [("d0", make.now, "t", "someone", "api_key", "allowed", "allow", "p1", 12, 1, 0.001)]


async def test_closing_writes_what_is_queued(open_store: Any, make: Any, rows: Any) -> None:
    store = await open_store(poll=30, flush_after=60)
    for _ in range(7):
        store.record(make.decision())
    await store.close()
    assert rows("select count(*) from decisions") == [(7,)]


async def test_decisions_beyond_the_queue_are_dropped_and_counted(open_store: Any, make: Any, rows: Any) -> None:
    dropped: list[int] = []
    store = await open_store(poll=30, flush_after=60, most_queued=10, dropped=dropped.append)
    for _ in range(25):
        store.record(make.decision())
    await store.close()
    assert sum(dropped) == 15
    assert rows("select count(*) from decisions") == [(10,)]


async def test_what_is_noted_is_written_later_sealed_and_counted_when_it_floods(
    open_store: Any, make: Any, rows: Any, keyring: Keyring
) -> None:
    store = await open_store(poll=30, flush_after=60)
    for _ in range(50):
        store.note(make.incident(action=Action.REDACT, strike=None))
    store.record(make.decision())
    await store.refuse(make.incident())
    assert rows("select action, count(*), sum(count) from incidents group by action order by action") == [
        ("block", 1, 1), ("redact", 21, 50),
    ]  # fmt: skip
    [(ident, sealed, key)] = rows("select id, sealed, seal_key from incidents where seq = 1")
    assert keyring.sealer.open(sealed, ident, key).decode() == make.canary
    assert rows("select count(*) from decisions") == [(1,)]


async def test_refusals_beyond_the_queue_are_errors_and_not_lost_in_silence(open_store: Any, make: Any) -> None:
    store = await open_store(most_queued=5)
    results = await asyncio.gather(*(store.refuse(make.incident()) for _ in range(50)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, StoreError)]
    assert len(refused) == 45
    assert "no more are taken" in str(refused[0])


async def test_a_record_that_cannot_be_written_does_not_take_others_with_it(
    open_store: Any, make: Any, rows: Any
) -> None:
    dropped: list[int] = []
    store = await open_store(dropped=dropped.append)
    store.record(make.decision(id="same"))
    store.record(make.decision(id="same"))
    store.record(make.decision())
    bad = make.incident(length=2**70)  # no database column takes it
    results = await asyncio.gather(
        store.refuse(make.incident()), store.refuse(bad), store.refuse(make.incident()), return_exceptions=True
    )
    await store.flush()
    assert [isinstance(result, StoreError) for result in results] == [False, True, False]
    assert results[2].row == 2
    assert rows("select count(*) from ledger where kind = 'strike'") == [(2,)]
    assert rows("select count(*) from decisions") == [(2,)]
    assert dropped == [1]


async def test_half_a_surrogate_pair_is_written_like_any_text(open_store: Any, make: Any, keyring: Any) -> None:
    store = await open_store()
    incident = make.incident(excerpt="\ud83d half", request_id="r-\udc00", idempotency="\ud800")
    assert (await store.refuse(incident)).row == 1
    assert not store.degraded


async def test_a_refusal_whose_caller_left_is_kept_all_the_same(open_store: Any, make: Any, rows: Any) -> None:
    store = await open_store()
    task = asyncio.create_task(store.refuse(make.incident()))
    await asyncio.sleep(0)
    task.cancel()
    await store.flush()
    assert rows("select count(*) from incidents") == [(1,)]


async def test_the_database_holds_rules_and_places_and_a_sealed_excerpt(
    open_store: Any, make: Any, rows: Any, keyring: Keyring
) -> None:
    store = await open_store()
    incident = make.incident()
    await store.refuse(incident)
    [(hits, sealed, key, digest, length)] = rows("select hits, sealed, seal_key, digest, length from incidents")
    assert '"rule": "mlcommons/violent/lexicon"' in hits
    assert '"start": 3' in hits
    assert length == 40
    assert digest == keyring.digest(make.canary)
    assert keyring.sealer.open(sealed, incident.id, key).decode() == make.canary


async def test_no_excerpt_is_found_in_any_byte_of_the_state_directory(open_store: Any, make: Any, state: Path) -> None:
    store = await open_store()
    await asyncio.gather(*(store.refuse(make.incident(idempotency=make.canary)) for _ in range(40)))
    store.record(make.decision())
    await store.flush()

    def found() -> list[str]:
        needles = [make.canary.encode(), *(part.encode() for part in ("canary-7f3a", "鹦鹉", "密语"))]
        return [
            file.name
            for file in state.rglob("*")
            if file.is_file() and any(needle in file.read_bytes() for needle in needles)
        ]

    assert (state / "guardrail.db-wal").stat().st_size > 0
    assert found() == []
    await store.close()
    assert found() == []


def test_a_commit_waits_for_the_disk_and_readers_do_not_wait_for_the_writer(state: Path) -> None:
    state.mkdir(exist_ok=True)
    engine = open_engine(f"sqlite:///{state / 'x.db'}")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"


async def test_only_the_owner_may_read_the_database(open_store: Any, make: Any, state: Path) -> None:
    store = await open_store()
    await store.refuse(make.incident())
    modes = {file.name: file.stat().st_mode & 0o777 for file in state.glob("guardrail.db*")}
    assert set(modes) == {"guardrail.db", "guardrail.db-wal", "guardrail.db-shm"}
    assert set(modes.values()) == {0o600}


async def test_a_subject_with_a_long_history_is_judged_by_its_suspensions_and_latest_strikes(
    open_store: Any, make: Any
) -> None:
    store = await open_store()
    await asyncio.gather(*(store.refuse(make.incident()) for _ in range(LATEST + 100)))
    assert store.standing(make.someone, make.now).suspensions == 1
    await store.close()
    again = await open_store()
    assert again.standing(make.someone, make.now).step is Step.SUSPEND
    for _ in range(3):
        standing = await again.refuse(make.incident(at=make.now + DAY))
    assert (standing.step, standing.until) == (Step.SUSPEND, make.now + 4 * DAY)


async def test_a_kind_of_entry_that_only_a_newer_version_knows_is_passed_over(
    open_store: Any, make: Any, state: Path
) -> None:
    import sqlite3

    store = await open_store()
    await store.refuse(make.incident())
    with sqlite3.connect(state / "guardrail.db") as other:
        other.execute(
            "insert into ledger (at, tenant, subject, identity, shared, kind, lasting)"
            " values (1, 't', 'someone', 'api_key', 0, 'from_the_future', 1)"
        )
    await asyncio.sleep(0.3)
    assert (await store.refuse(make.incident())).row == 2
    assert not store.degraded


async def test_a_store_that_is_not_started_takes_no_refusal(keyring: Any, make: Any, state: Path) -> None:
    store = SqlStore(f"sqlite:///{state / 'x.db'}", keyring.sealer)
    with pytest.raises(StoreError, match="not started"):
        await store.refuse(make.incident())


async def test_a_file_that_is_no_database_is_an_error_that_names_it(keyring: Any, state: Path) -> None:
    state.mkdir(exist_ok=True)
    (state / "notes.txt").write_text("not a database, but a text of some length that SQLite can look at\n" * 20)
    store = SqlStore(f"sqlite:///{state / 'notes.txt'}", keyring.sealer)
    with pytest.raises(StoreError, match=r"notes\.txt"):
        await store.start()


@pytest.mark.parametrize("url", ["mysql://host/x", "sqlite://", "sqlite:///:memory:", "state/guardrail.db", ""])
def test_a_url_that_cannot_be_used_is_refused_with_what_can(url: str, keyring: Any) -> None:
    with pytest.raises(SettingsError, match="sqlite:///PATH"):
        SqlStore(url, keyring.sealer)


async def test_a_memory_store_keeps_no_excerpt_and_does_not_grow_for_ever(make: Any) -> None:
    store = MemoryStore(keep=50)
    for number in range(3000):
        await store.refuse(make.incident(Subject("t", f"s{number}"), at=make.now + number * DAY, strike=None))
        store.record(make.decision())
    assert len(store.incidents) == len(store.decisions) == 50
    assert {incident.excerpt for incident in store.incidents} == {""}
    assert max(len(store.counts), len(store._minutes), len(store._recorded)) < 1100
