"""What the store costs: `python benchmarks/store.py [--directory DIR]`, with a bare fsync and a bare commit beside it.

Prints milliseconds for a refusal (alone, in company, and while the event loop is busy), microseconds of the event loop
for `standing`, `allow` and `record`, CPU of the writer's thread per decision, and the memory that the store adds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from guardrail.core.admission import Subject
from guardrail.core.content import Direction
from guardrail.core.incidents import Decision, Hit, Incident
from guardrail.core.policy import Action
from guardrail.records.keys import Keyring
from guardrail.stores.sql import SqlStore

RULE = "mlcommons/violent/lexicon"


def incident(number: int, subject: Subject) -> Incident:
    hit = Hit(RULE, "violent", "keywords", 0.9, 0, 3, 9)
    return Incident(
        f"incident-{number}", time.time(), subject, f"r-{number}", "openai_chat", Direction.PROMPT, Action.BLOCK,
        (hit,), (), "digest", 40, "an excerpt of ordinary length, which is sealed", strike=RULE,
    )  # fmt: skip


def decision(number: int) -> Decision:
    return Decision(
        f"decision-{number}", time.time(), Subject("t", "s" * 64), f"r-{number}", "openai_chat", "allowed",
        Action.ALLOW, None, "digest", None, 120, 400, True, 0.001, 0.8,
    )  # fmt: skip


def spread(seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100)
    return {"p50_ms": round(cuts[49] * 1e3, 3), "p99_ms": round(cuts[98] * 1e3, 3)}


def timed(call: Callable[[], object], times: int) -> list[float]:
    found = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return found


def disk(directory: Path) -> dict[str, object]:
    """What the disk itself takes: one fsync of 4 KB, and one bare SQLite commit with the settings of the store."""
    handle = os.open(directory / "raw", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def sync() -> None:
        os.write(handle, b"x" * 4096)
        os.fsync(handle)

    database = sqlite3.connect(directory / "raw.db", isolation_level=None)
    database.executescript("pragma journal_mode=wal; pragma synchronous=full; create table t (a)")

    def commit() -> None:
        database.execute("begin immediate")
        database.execute("insert into t values (?)", ("x" * 500,))
        database.execute("commit")

    return {"fsync": spread(timed(sync, 300)), "bare_commit": spread(timed(commit, 300))}


async def refusals(store: SqlStore, busy: bool) -> dict[str, float]:
    """One refusal after the other; `busy`: while the loop works 1 ms of every 2."""
    stop = False

    async def work() -> None:
        while not stop:
            until = time.perf_counter() + 0.001
            while time.perf_counter() < until:
                pass
            await asyncio.sleep(0.001)

    worker = asyncio.create_task(work()) if busy else None
    found = []
    for number in range(300):
        began = time.perf_counter()
        await store.refuse(incident(hash((busy, number)), Subject("t", f"{busy}-{number // 3}")))
        found.append(time.perf_counter() - began)
    stop = True
    if worker is not None:
        await worker
    return spread(found)


async def measure(directory: Path) -> dict[str, object]:
    keyring = Keyring.open(directory / "keys")
    store = SqlStore(f"sqlite:///{directory / 'guardrail.db'}", keyring.sealer, most_queued=1_000_000)
    await store.start()
    await store.refuse(incident(-1, Subject("t", "first")))
    result: dict[str, object] = {"refuse": await refusals(store, False)}
    result["refuse_busy_loop"] = await refusals(store, True)

    began = time.perf_counter()
    await asyncio.gather(*(store.refuse(incident(10**6 + n, Subject("t", f"group-{n // 3}"))) for n in range(1000)))
    result["refusals_per_second_in_company"] = round(1000 / (time.perf_counter() - began))

    known, stranger, better, now = (
        Subject("t", "group-1"),
        Subject("t", "stranger"),
        Subject("t", "better"),
        time.time(),
    )
    await store.refuse(incident(-2, better))
    store.allow(better, now)
    await store.flush()
    calls: dict[str, Callable[[], object]] = {
        "standing_stranger_us": lambda: store.standing(stranger, now),
        "standing_suspended_us": lambda: store.standing(known, now),
        "allow_stranger_us": lambda: store.allow(stranger, now),
        "allow_with_a_strike_today_us": lambda: store.allow(better, now),
    }
    for name, call in calls.items():
        began = time.perf_counter()
        for _ in range(10_000):
            call()
        result[name] = round((time.perf_counter() - began) / 10_000 * 1e6, 2)
    await store.flush()

    rows = [decision(number) for number in range(20_000)]
    loop_seconds, cpu = 0.0, time.process_time()
    for at in range(0, len(rows), 100):
        began = time.perf_counter()
        for row in rows[at : at + 100]:
            store.record(row)
        loop_seconds += time.perf_counter() - began
        await asyncio.sleep(0.005)  # 20,000 a second at most, so that the writer runs beside it
    await store.flush()
    result["record_us"] = round(loop_seconds / len(rows) * 1e6, 2)
    result["cpu_per_decision_us_all_threads"] = round((time.process_time() - cpu) / len(rows) * 1e6, 1)
    await store.close()
    return result


def memory(directory: Path) -> dict[str, float]:
    """RSS that the store adds to a process that has asyncio, sqlite3 and msgspec already, at its second start."""
    program = f"""
import asyncio, json, sqlite3, msgspec, os
def rss(): return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
before = rss()
from guardrail.records.keys import Keyring
from guardrail.stores.sql import SqlStore
imported = rss()
async def main():
    store = SqlStore("sqlite:///{directory}/guardrail.db", Keyring.open("{directory}/keys").sealer)
    await store.start()
    started = rss()
    print(json.dumps({{"import_mb": round(imported - before, 1), "started_mb": round(started - before, 1)}}))
    await store.close()
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, help="on the disk to measure [default: the working directory's]")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory or Path.cwd(), prefix=".store-bench-") as made:
        directory = Path(made)
        result: dict[str, object] = {"disk_before": disk(directory)}
        result |= asyncio.run(measure(directory))
        (directory / "raw.db").unlink()
        result["disk_after"] = disk(directory)
        result["memory"] = memory(directory)
    result["load"] = os.getloadavg()[0]
    result["peak_rss_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
