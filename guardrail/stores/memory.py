"""A store that ends with its process: for tests, and for embedding where nothing need outlive a restart."""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter, deque
from dataclasses import replace

from guardrail.core.admission import Subject
from guardrail.core.incidents import Decision, Incident
from guardrail.core.policy import Action
from guardrail.core.sanctions import Allowed, Entry, Ladder, Standing, Step, Strike, next_sanction
from guardrail.stores.mirror import FLOOD, Mirror, key_of
from guardrail.stores.rows import Key, strike_key

PRUNE_EVERY = 1000


class MemoryStore:
    """A `Store` in memory. `incidents` and `decisions` hold the latest `keep`, without any excerpt.

    `counts` says for how many incidents an entry of `incidents` stands.
    """

    def __init__(self, *, ladder: Ladder | None = None, keep: int = 10_000) -> None:
        self._ladder = ladder or Ladder()
        self._keep_most = keep
        self._mirror = Mirror(self._ladder)
        self._secret = secrets.token_bytes(32)
        self._strikes: dict[str, None] = {}
        self._recorded: dict[str, str] = {}
        self._minutes: dict[tuple[Key, Action], tuple[int, int, str]] = {}
        self._refused = 0
        self.incidents: deque[Incident] = deque(maxlen=keep)
        self.decisions: deque[Decision] = deque(maxlen=keep)
        self.counts: Counter[str] = Counter()

    def standing(self, subject: Subject, at: float) -> Standing:
        return self._mirror.standing(key_of(subject), at)

    async def refuse(self, incident: Incident) -> Standing:
        key, at = key_of(incident.subject), incident.at
        recorded = self._recorded.get(incident.id) or self._keep(incident, key)
        struck = strike_key(incident, self._digest) if incident.strike is not None else None
        if struck is not None and struck not in self._strikes:
            self._strikes[struck] = None
            self._mirror.add(key, Strike(at, recorded, incident.strike or ""))
            entries = self._mirror.entries(key)
            imposed = next_sanction(entries, self._ladder, at, shared=incident.subject.shared)
            if imposed is not None:
                self._mirror.add(key, imposed)
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
        for held in (self._strikes, self._recorded, self.counts):
            for ident in list(held)[: -self._keep_most]:
                del held[ident]

    def _digest(self, text: str) -> str:
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=self._secret, digest_size=16).hexdigest()
