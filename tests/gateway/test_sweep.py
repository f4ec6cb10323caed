"""One timer for many callbacks: each is called once, in its order, unless it was dropped."""

from __future__ import annotations

import asyncio

from guardrail.gateway.sweep import Sweep


async def test_what_is_still_there_is_called_and_what_was_dropped_is_not() -> None:
    sweep = Sweep(0.03, 0.01)
    called: list[int] = []
    tokens = [sweep.add(lambda number=number: called.append(number)) for number in range(4)]  # type: ignore[misc]
    sweep.drop(tokens[1])
    assert called == []
    await asyncio.sleep(0.08)
    assert called == [0, 2, 3]
    sweep.drop(tokens[0])


async def test_a_callback_may_add_the_next_one_and_nothing_is_called_early() -> None:
    sweep = Sweep(0.02, 0.01)
    loop = asyncio.get_running_loop()
    times: list[float] = []

    def again() -> None:
        times.append(loop.time())
        if len(times) < 3:
            sweep.add(again)

    begun = loop.time()
    sweep.add(again)
    await asyncio.sleep(0.2)
    assert len(times) == 3
    assert all(after - before >= 0.02 for before, after in zip([begun, *times], times, strict=False))
