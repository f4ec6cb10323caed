"""What the line of travel works with: one immutable bundle, made by the composition root and shared by requests."""

from __future__ import annotations

import asyncio
import fnmatch
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from guardrail.core.admission import ADMITTED, Admission, Subject, admit
from guardrail.core.content import Direction
from guardrail.core.policy import PolicySet
from guardrail.core.sanctions import Ladder, Standing, Step
from guardrail.errors import StoreError
from guardrail.gateway.accounts import Accounts
from guardrail.gateway.screening import Plan
from guardrail.gateway.sweep import Sweep
from guardrail.metrics import Metrics
from guardrail.protocols import Detector, Dialect, Identifier, Labeller, Store

_DAY = 86400.0
_PROMPT = Direction.PROMPT  # reading a member off its enum is a call in Python 3.11
_PlanKey = tuple[str, str, str, frozenset[str], float]


@dataclass(frozen=True, slots=True)
class Options:
    """Choices of the operator that the gateway acts on. Sizes in bytes, times in seconds."""

    passthrough: tuple[str, ...] = ("GET /v1/models", "GET /v1/models/*")
    max_body: int = 8 << 20
    max_response: int = 32 << 20
    max_held: int = 256 << 10
    body_timeout: float = 30.0
    keepalive: float = 10.0
    body_identity: bool = False
    refusal: Literal["error", "message"] = "error"
    on_store_error: Literal["cached", "block", "allow"] = "cached"
    sanctions: bool = True
    label_headers: bool = True
    unlabelled_refused: bool = False
    unscreened_media: frozenset[str] = frozenset()
    rules_url: str | None = None


@dataclass(slots=True)
class Engine:
    """Everything a request needs. `policies` is swapped whole on a reload; nothing else changes once started."""

    policies: PolicySet
    detectors: Mapping[str, Detector]
    store: Store
    metrics: Metrics
    identifier: Identifier
    labeller: Labeller
    dialects: Mapping[str, Dialect]
    new_id: Callable[[], str]
    appeal_url: Callable[[str], str | None]
    digest: Callable[[str], str]
    ladder: Ladder = field(default_factory=Ladder)
    options: Options = field(default_factory=Options)
    clock: Callable[[], float] = time.time
    started: bool = False
    draining: bool = False
    accounts: Accounts = field(init=False)
    late_bodies: Sweep = field(init=False)
    _prompt_plans: dict[_PlanKey, Plan] = field(default_factory=dict)
    _completion_plans: dict[_PlanKey, Plan] = field(default_factory=dict)
    _last_seen: OrderedDict[Subject, float] = field(default_factory=OrderedDict)
    _starting: asyncio.Lock | None = None

    def __post_init__(self) -> None:
        self.accounts = Accounts(self.metrics, self.store)
        self.late_bodies = Sweep(self.options.body_timeout, min(1.0, self.options.body_timeout / 10))

    def dialect(self, path: str) -> Dialect | None:
        """The dialect spoken at a path."""
        return self.dialects.get(path.rstrip("/") or "/")

    def passes(self, method: str, path: str) -> bool:
        """Whether the operator lets this path pass unscreened."""
        if method == "OPTIONS":
            return True
        if "/../" in path or path.endswith("/.."):
            return False
        for entry in self.options.passthrough:
            verb, _, pattern = entry.partition(" ")
            if verb in (method, "*") and fnmatch.fnmatchcase(path, pattern):
                return True
        return False

    def plan(self, direction: Direction, surface: str, tenant: str, only: frozenset[str] = frozenset()) -> Plan:
        """What screening takes now, from a cache that lives for one policy set and one day.

        `only` narrows it to the policies named (ids).
        """
        now = self.clock()
        plans = self._prompt_plans if direction is _PROMPT else self._completion_plans
        key = (self.policies.digest, surface, tenant, only, now // _DAY)
        plan = plans.get(key)
        if plan is None:
            if len(plans) > 1000:
                plans.clear()
            today = datetime.fromtimestamp(now, UTC).date()
            book = self.policies.rulebook(direction, surface, tenant, today, only)
            plan = plans[key] = Plan(self.detectors, book)
        return plan

    def admit(self, subject: Subject) -> Admission:
        """Whether a subject may ask now; raises `StoreError` while the store is away and the operator says block."""
        choice = self.options.on_store_error
        if choice != "cached" and self.store.degraded:
            if choice == "block":
                raise StoreError("the store is away, and nobody is served without it")
            return ADMITTED
        if not self.options.sanctions:
            return ADMITTED
        now = self.clock()
        try:
            standing = self.store.standing(subject, now)
        except StoreError:
            if choice == "block":
                raise
            standing = Standing()
        admission = admit(standing, self.ladder, self._last_seen.get(subject), now)
        if admission.allowed and admission.limited:
            self._note_seen(subject, now)
        return admission

    def struck(self, subject: Subject, standing: Standing, category: str) -> None:
        """A strike was recorded: count it and what it brought; a limit holds from this request on."""
        self.metrics.struck(category)
        if standing.incident is not None and standing.incident == standing.recorded:
            self.metrics.sanctioned(standing.step)
        if standing.step is Step.LIMIT:
            self._note_seen(subject, self.clock())

    def _note_seen(self, subject: Subject, at: float) -> None:
        self._last_seen[subject] = at
        self._last_seen.move_to_end(subject)
        if len(self._last_seen) > 10_000:
            self._last_seen.popitem(last=False)

    async def start(self) -> None:
        """Start what has to be started, once, however many ask at once; raises what keeps it from starting."""
        if self._starting is None:
            self._starting = asyncio.Lock()
        async with self._starting:
            if not self.started:
                await self.store.start()
                await asyncio.gather(*(detector.start() for detector in self.detectors.values()))
                self.started = True

    async def close(self) -> None:
        """Let everything finish what it holds; does nothing if it is not started."""
        if not self.started:
            return
        self.started = False
        self.accounts.flush()
        await asyncio.gather(*(detector.close() for detector in self.detectors.values()))
        await self.store.close()
