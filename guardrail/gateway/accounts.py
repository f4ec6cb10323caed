"""Count and record finished exchanges, a few dozen at a time.

What a request costs here is mostly code that is not in the processor's cache; done in a row, the same work takes a
third of the time. Nothing waits for it: answers have left, and incidents and strikes are not kept this way.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from guardrail.core.incidents import Decision
from guardrail.errors import StoreError
from guardrail.metrics import Metrics
from guardrail.protocols import Store

if TYPE_CHECKING:
    from guardrail.gateway.exchange import Exchange

log = logging.getLogger("guardrail.gateway")

MOST = 64
"""Exchanges that are kept before they are dealt with."""

LATEST = 0.1
"""Seconds after which they are, however few they are."""


class Accounts:
    """Exchanges that have ended and are not counted yet. Used on the event loop's thread alone."""

    def __init__(self, metrics: Metrics, store: Store) -> None:
        self._metrics = metrics
        self._store = store
        self._ended: list[Exchange] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, exchange: Exchange) -> None:
        """Take an exchange that has ended."""
        self._ended.append(exchange)
        if len(self._ended) >= MOST:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LATEST, self.flush)

    def flush(self) -> None:
        """Count and record all that there is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        ended, self._ended = self._ended, []
        if ended:
            self._count(ended)
        for exchange in ended:
            if exchange.prompt is not None:  # else turned away before anything was read: counted, not recorded
                self._record(exchange)

    def _count(self, ended: list[Exchange]) -> None:
        """Count all at once: what many have in common is one step of a counter."""
        metrics = self._metrics
        requests: Counter[tuple[str, str]] = Counter()
        cleared: Counter[str] = Counter()
        overhead: defaultdict[str, list[float]] = defaultdict(list)
        spent: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        for exchange in ended:
            requests[exchange.dialect.surface, exchange.outcome] += 1
            for phase, screening in exchange.screenings:
                verdict = screening.verdict
                if verdict.action or verdict.matches:
                    metrics.verdict(screening.direction, verdict)
                else:
                    cleared["prompt" if phase == "prompt" else "completion"] += 1
                for name, seconds in screening.spent():
                    spent[name, phase].append(seconds)
            if exchange.screenings:
                overhead["stream" if exchange.streamed else "request"].append(exchange.overhead)
        for (surface, outcome), count in requests.items():
            metrics.request(surface, outcome, count)
        for direction, count in cleared.items():
            metrics.cleared(direction, count)
        for (name, phase), values in spent.items():
            metrics.detector_ran(name, phase, *values)
        for phase, values in overhead.items():
            metrics.overhead(phase, *values)

    def _record(self, exchange: Exchange) -> None:
        try:
            self._store.record(
                Decision(
                    id=exchange.id,
                    at=exchange.ended,
                    subject=exchange.subject,
                    request_id=exchange.request_id,
                    surface=exchange.dialect.surface,
                    outcome=exchange.outcome,
                    action=exchange.action,
                    incident=exchange.incident,
                    policies=exchange.engine.policies.short_digest,
                    produce_id=exchange.id if exchange.labelled else None,
                    prompt_length=exchange.prompt_length,
                    completion_length=exchange.completion_length,
                    streamed=exchange.streamed,
                    overhead=exchange.overhead,
                    duration=exchange.duration,
                )
            )
        except StoreError:
            log.error("a decision could not be queued")
