"""Real processes on one file: offending together, killed while they write, killed while the database is away."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from guardrail.core.admission import Subject
from guardrail.core.sanctions import Step

OFFENDER = Path(__file__).with_name("offender.py")


def offender(mode: str, state: Path, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(OFFENDER), mode, str(state), name],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""},
    )  # fmt: skip


def hears(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tells(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def test_four_processes_that_start_and_offend_together_make_a_hundred_strikes_and_one_suspension(
    state: Path, rows: Any
) -> None:
    processes = [offender("together", state, f"p{number}") for number in range(4)]  # keys and tables are made by one
    assert [hears(process) for process in processes] == ["ready"] * 4
    for process in processes:
        tells(process)
    assert [hears(process) for process in processes] == ["done"] * 4
    assert [process.wait(30) for process in processes] == [0] * 4
    assert rows("select count(*), count(distinct key) from ledger where kind = 'strike'") == [(100, 100)]
    assert rows("select step, count(*) from ledger where kind = 'imposed' group by step order by step") == [
        (Step.WARN, 1), (Step.LIMIT, 1), (Step.SUSPEND, 1),
    ]  # fmt: skip
    # Seen from the wall clock, the hundred lie in one minute or in two.
    counted = rows("select sum(count), count(*) from incidents")
    assert counted[0][0] == 100
    assert counted[0][1] in range(21, 43)
    with_a_record = rows("select count(*) from ledger where kind = 'strike' and incident in (select id from incidents)")
    assert with_a_record == [(100,)]


@pytest.mark.parametrize("seed", range(5))
def test_a_process_killed_while_it_writes_has_lost_no_acknowledged_refusal(seed: int, state: Path, rows: Any) -> None:
    process = offender("endless", state, "k")
    assert hears(process) == "ready"
    time.sleep(random.Random(seed).uniform(0.05, 0.6))
    process.send_signal(signal.SIGKILL)
    assert process.stdout is not None
    acknowledged = set(process.stdout.read().split("\n")[:-1])  # a last line without its end was not heard
    process.wait(10)
    kept = {ident for (ident,) in rows("select id from incidents")}
    assert acknowledged
    assert acknowledged <= kept
    struck = {ident for (ident,) in rows("select key from ledger where kind = 'strike'")}
    assert struck == kept
    assert rows("pragma integrity_check") == [("ok",)]
    suspended = rows("select subject from ledger where step = 3")
    assert len(suspended) == len(set(suspended)) == len(
        rows("select subject from ledger where kind = 'strike' group by subject having count(*) = 3")
    )  # fmt: skip


async def test_what_a_killed_process_left_in_its_journal_is_written_at_the_next_start(
    state: Path, open_store: Any, make: Any, rows: Any
) -> None:
    process = offender("locked_out", state, "j")
    assert await asyncio.to_thread(hears, process) == "ready"
    lock = sqlite3.connect(state / "guardrail.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    tells(process)
    assert await asyncio.to_thread(hears, process) == "suspend"
    assert process.wait(10) == 9
    lock.execute("ROLLBACK")
    lock.close()
    assert len(list(state.glob("journal-*.jsonl"))) == 1
    store = await open_store(clock=time.time)
    assert rows("select id, count from incidents order by seq") == [("j-0", 1), ("j-1", 1), ("j-2", 1)]
    assert store.standing(Subject("t", "cut-off"), time.time()).step is Step.SUSPEND
    assert list(state.glob("journal-*.jsonl")) == []
