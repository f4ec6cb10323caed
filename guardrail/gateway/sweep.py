"""Call back for what is still there after a while: one timer for all requests, instead of one for each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Sweep:
    """Callbacks that are due `after` seconds from when they were added, and up to `tick` seconds late.

    Nearly all of them are dropped long before; adding and dropping one costs a fifth of a timer of the event loop's.
    """

    __slots__ = ("_after", "_due", "_last", "_tick", "_timer", "loop")

    def __init__(self, after: float, tick: float) -> None:
        self._after = after
        self._tick = tick
        self._due: dict[int, tuple[float, Callable[[], None]]] = {}  # in the order in which they fall due
        self._last = 0
        self.loop: asyncio.AbstractEventLoop
        """The loop it runs on, once something was added."""
        self._timer: asyncio.TimerHandle | None = None

    def add(self, callback: Callable[[], None]) -> int:
        """Take a callback; returns what `drop` wants."""
        if self._timer is None:
            self.loop = asyncio.get_running_loop()
            self._timer = self.loop.call_later(self._tick, self._sweep)
        self._last += 1
        self._due[self._last] = (self.loop.time() + self._after, callback)
        return self._last

    def drop(self, token: int) -> None:
        """Forget a callback; nothing happens if it was called."""
        self._due.pop(token, None)

    def _sweep(self) -> None:
        self._timer = None
        now = self.loop.time()
        ripe = []
        for token, (due, callback) in self._due.items():
            if due > now:
                break
            ripe.append((token, callback))
        for token, callback in ripe:
            del self._due[token]
            callback()
        if self._due and self._timer is None:
            self._timer = self.loop.call_later(self._tick, self._sweep)
