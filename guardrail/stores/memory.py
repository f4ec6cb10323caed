"""A store that ends with its process: for tests, and for embedding where nothing need outlive a restart."""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace

from guardrail.core.admission import Subject
from guardrail.core.appeals import Appeal, Ruling, State, barred, decide, file, remedies
from guardrail.core.incidents import Decision, Incident
from guardrail.core.policy import Action
from guardrail.core.sanctions import Allowed, Entry, Ladder, Standing, Step, Strike, next_sanction
from guardrail.errors import CaseError
from guardrail.stores.mirror import FLOOD, Mirror, key_of
from guardrail.stores.rows import Key, strike_key

PRUNE_EVERY = 1000


class MemoryStore:
    """A `Store` in memory. `incidents` and `decisions` hold the latest `keep`, without any excerpt.

    `counts` says for how many incidents an entry of `incidents` stands, `statements` what was said in appeals.
    """

    def __init__(self, *, ladder: Ladder | None = None, keep: int = 10_000) -> None:
        self._ladder = ladder or Ladder()
        self._keep_most = keep
        self._mirror = Mirror(self._ladder)
        self._secret = secrets.token_bytes(32)
        self._strikes: dict[str, str] = {}  # the incident under whose id each strike stands
        self._struck: dict[str, str] = {}  # the same by the incidents that are this strike
        self._recorded: dict[str, str] = {}
        self._minutes: dict[tuple[Key, Action], tuple[int, int, str]] = {}
        self._refused = 0
        self.incidents: deque[Incident] = deque(maxlen=keep)
        self.decisions: deque[Decision] = deque(maxlen=keep)
        self.counts: Counter[str] = Counter()
        self._appeals: dict[str, Appeal] = {}
        self.statements: dict[str, str] = {}

    def standing(self, subject: Subject, at: float) -> Standing:
        return self._mirror.standing(key_of(subject), at)

    async def refuse(self, incident: Incident) -> Standing:
        key, at = key_of(incident.subject), incident.at
        recorded = self._recorded.get(incident.id) or self._keep(incident, key)
        struck = strike_key(incident, self._digest) if incident.strike is not None else None
        if struck is not None and struck not in self._strikes:
            self._strikes[struck] = recorded
            self._mirror.add(key, Strike(at, recorded, incident.strike or ""))
            entries = self._mirror.entries(key)
            imposed = next_sanction(entries, self._ladder, at, shared=incident.subject.shared)
            if imposed is not None:
                self._mirror.add(key, imposed)
        if struck is not None:
            self._struck[recorded] = self._strikes[struck]
        standing = replace(self._mirror.standing(key, at), recorded=recorded)
        self._refused += 1
        if self._refused % PRUNE_EVERY == 0:
            self._prune(at)
        return standing

    def note(self, incident: Incident) -> None:
        if incident.id not in self._recorded:
            self._keep(incident, key_of(incident.subject))

    def allow(self, subject: Subject, at: float) -> None:
        if self._mirror.ends_row(key_of(subject), at):
            self._mirror.add(key_of(subject), Allowed(at))

    def record(self, decision: Decision) -> None:
        self.decisions.append(decision)

    async def incident(self, ident: str) -> Incident | None:
        return next((kept for kept in self.incidents if kept.id == ident), None)

    async def file_appeal(self, appeal: Appeal) -> Appeal:
        if await self.incident(appeal.incident) is None:
            raise CaseError(f"no incident {appeal.incident!r} to appeal against", code="unknown")
        standing = file(appeal, await self.appeals(incident=appeal.incident))
        if standing is appeal:
            standing = self._appeals[appeal.id] = replace(appeal, statement="")
            self.statements[appeal.id] = appeal.statement
        return standing

    async def appeals(self, *, ident: str | None = None, incident: str | None = None) -> Sequence[Appeal]:
        return [
            appeal
            for appeal in self._appeals.values()
            if ident in (None, appeal.id) and incident in (None, appeal.incident)
        ]

    async def decide_appeal(self, ident: str, ruling: Ruling, *, at: float, by: str, reason: str) -> Appeal:
        appeal = self._appeals.get(ident)
        if appeal is None:
            raise CaseError(f"no appeal {ident!r} to decide", code="unknown")
        key = key_of(appeal.subject)
        entries = self._mirror.entries(key)
        earlier = [other for other in await self.appeals(incident=appeal.incident) if other.id != ident]
        decided = decide(appeal, ruling, at=at, by=by, reason=reason, barred=barred(appeal, earlier, entries))
        if decided is not appeal and decided.state is State.GRANTED:
            struck = self._struck.get(appeal.incident)
            for entry in remedies(decided, () if struck is None else (struck,), entries, at):
                self._mirror.add(key, entry)
        self._appeals[ident] = decided
        return decided

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def enter(self, subject: Subject, entry: Entry) -> Standing:
        """Append an entry that a person decided."""
        self._mirror.add(key_of(subject), entry)
        return self._mirror.standing(key_of(subject), entry.at)

    async def flush(self) -> None:
        pass

    def in_force(self, at: float) -> Counter[Step]:
        """How many subjects each step is in force against."""
        return self._mirror.in_force(at)

    @property
    def degraded(self) -> bool:
        return False

    def _keep(self, incident: Incident, key: Key) -> str:
        minute, about = int(incident.at // 60), (key, incident.action)
        held, kept, last = self._minutes.get(about, (minute, 0, ""))
        if held == minute and kept > FLOOD:
            self.counts[last] += 1
            self._recorded[incident.id] = last
            return last
        self._minutes[about] = (minute, kept + 1 if held == minute else 1, incident.id)
        self.incidents.append(replace(incident, excerpt=""))
        self.counts[incident.id] = 1
        self._recorded[incident.id] = incident.id
        return incident.id

    def _prune(self, at: float) -> None:
        """Forget what is older than what is kept, so that a long life does not grow without end."""
        self._mirror.prune(at)
        self._minutes = {about: held for about, held in self._minutes.items() if held[0] == int(at // 60)}
        for held in (self._strikes, self._struck, self._recorded, self.counts, self._appeals, self.statements):
            for ident in list(held)[: -self._keep_most]:
                del held[ident]

    def _digest(self, text: str) -> str:
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=self._secret, digest_size=16).hexdigest()
