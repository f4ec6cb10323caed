"""Twice as many texts as the classifier can take, for a while: what grows, who waits, who is answered.

    python benchmarks/soak.py                    # ten minutes
    python benchmarks/soak.py --seconds 60

Callers arrive at random (Poisson) whether or not earlier ones have been answered. Checked at the end, exit code 1
when one does not hold: every caller is answered exactly once; the queue stays within its bound; a caller who is
turned away hears so at once (p99 under 50 ms); memory at the end is within 5 % of what it was after the first tenth.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

import uvloop
from texts import Texts

from guardrail.errors import DetectorError
from guardrail.inference.batching import BatchingClassifier
from guardrail.inference.engine import Runtime, load_classifier
from guardrail.protocols import Priority
from guardrail.resources import model_path

PRIORITIES = (Priority.STREAM, Priority.PROMPT, Priority.PROMPT, Priority.OFFLINE)


def resident() -> float:
    """Resident memory of this process in MB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Callers:
    """Everyone who has called, and what each was told."""

    def __init__(self, engine: BatchingClassifier, texts: list[str]) -> None:
        self._engine = engine
        self._texts = texts
        self._numbers = itertools.count()
        self.answers: Counter[int] = Counter()  # by caller: each must be told once
        self.outcomes: Counter[str] = Counter()
        self.refusals: list[float] = []
        self.waits: list[float] = []

    async def call(self) -> None:
        number = next(self._numbers)
        # A mark of its own makes each text distinct without changing its length much.
        text = f"{self._texts[number % len(self._texts)]} {number}"
        begin = time.perf_counter()
        try:
            rows = await self._engine.score([text], PRIORITIES[number % len(PRIORITIES)])
            outcome = "scored" if len(rows) == 1 else "nonsense"
            self.waits.append(time.perf_counter() - begin)
        except DetectorError as error:
            outcome = error.kind
            if outcome == "overloaded":
                self.refusals.append(time.perf_counter() - begin)
        self.answers[number] += 1
        self.outcomes[outcome] += 1


async def capacity(engine: BatchingClassifier, texts: list[str], seconds: float) -> float:
    """Texts a second with 32 callers, each waiting for its answer."""
    done = 0
    end = time.perf_counter() + seconds

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await engine.score([texts[done % len(texts)]])
            done += 1

    await asyncio.gather(*(caller() for _ in range(32)))
    return done / seconds


async def soak(engine: BatchingClassifier, texts: list[str], rate: float, seconds: float, queue: int) -> bool:
    callers = Callers(engine, texts)
    dice = random.Random(5)
    running: set[asyncio.Task[None]] = set()
    memory: list[float] = []
    deepest = started = 0
    begin = time.perf_counter()
    arrival = sample = begin
    while (now := time.perf_counter()) < begin + seconds:
        while arrival <= now:
            arrival += dice.expovariate(rate)
            task = asyncio.create_task(callers.call())
            running.add(task)
            task.add_done_callback(running.discard)
            started += 1
        deepest = max(deepest, engine.depth)
        if now >= sample:
            memory.append(resident())
            sample += seconds / 100
        await asyncio.sleep(max(0.0, min(arrival, sample) - time.perf_counter()))
    await asyncio.gather(*running)
    once = sum(count == 1 for count in callers.answers.values())
    early, late = statistics.median(memory[10:20]), statistics.median(memory[-10:])
    refusal = statistics.quantiles(callers.refusals, n=100)[98] if len(callers.refusals) > 1 else 0.0
    wait = statistics.quantiles(callers.waits, n=100)[98] if len(callers.waits) > 1 else 0.0
    checks = {
        f"{started} callers, {once} answered exactly once": started == once == sum(callers.outcomes.values()),
        f"at most {deepest} windows waited, of {queue}": deepest <= queue,
        f"turned away within {refusal * 1e3:.1f} ms (p99 of {len(callers.refusals)})": 0 < refusal < 0.05,
        f"resident memory {early:.0f} MB after a tenth, {late:.0f} MB at the end": late < early * 1.05,
    }
    print(f"outcomes: {dict(callers.outcomes)}; p99 of the scored {wait:.2f} s; load average {os.getloadavg()[0]:.2f}")
    for words, held in checks.items():
        print(f"  {'held  ' if held else 'MISSED'}  {words}")
    return all(checks.values())


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--factor", type=float, default=2.0, help="callers for each text that can be taken")
    parser.add_argument("--model", default="guard-zh-en")
    parser.add_argument("--runtime", choices=("auto", "torch", "onnx"), default="auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--queue", type=int, default=256)
    chosen = parser.parse_args()
    runtime: Runtime = chosen.runtime
    folder = model_path(chosen.model)
    engine, _ = load_classifier(folder, runtime=runtime, threads=chosen.threads, queue=chosen.queue)
    texts = Texts(folder, model_path("guard-zh-en") / "corpus").many(2_000)
    await engine.start()
    rate = await capacity(engine, texts, min(20.0, chosen.seconds / 6))
    print(f"takes {rate:.0f} texts a second; {chosen.factor * rate:.0f} come, for {chosen.seconds:.0f} s")
    held = await soak(engine, texts, chosen.factor * rate, chosen.seconds, chosen.queue)
    await engine.close()
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
