"""Core types to table rows and back. Text becomes ciphertext here, before anything is queued or written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from guardrail.core.admission import Subject
from guardrail.core.content import Direction
from guardrail.core.incidents import Decision, Hit, Incident
from guardrail.core.policy import Action
from guardrail.core.sanctions import Allowed, Entry, Imposed, Lifted, Step, Strike, Voided

Row = dict[str, Any]
Key = tuple[str, str]
"""Whom a ledger entry is about: tenant, subject key."""


class Sealer(Protocol):
    """Encrypts excerpts and hashes texts with keys of its own; `records.seal.Sealer` is one."""

    @property
    def key(self) -> str:
        """The id of the key that `seal` uses."""

    def seal(self, text: bytes, about: str) -> bytes: ...

    def open(self, sealed: bytes, about: str, key: str) -> bytes:
        """Raises `RecordError`."""

    def digest(self, text: str, /) -> str:
        """A keyed hash by which texts can be compared without being kept."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An incident as it is written: its row, with the excerpt sealed, and what the strike is known by (or none)."""

    subject: Subject
    row: Row
    strike: str | None

    @property
    def id(self) -> str:
        return str(self.row["id"])

    @property
    def at(self) -> float:
        return float(self.row["at"])


def refusal(incident: Incident, sealer: Sealer) -> Refusal:
    """Make the row of an incident and seal its excerpt."""
    subject = incident.subject
    row: Row = {
        "id": incident.id,
        "at": incident.at,
        "last_at": incident.at,
        "count": 1,
        "tenant": subject.tenant,
        "subject": subject.key,
        "identity": subject.kind,
        "request_id": _plain(incident.request_id),
        "surface": incident.surface,
        "direction": incident.direction.value,
        "action": incident.action.word,
        "strike": incident.strike,
        "hits": [asdict(hit) for hit in incident.hits],
        "failures": list(incident.failures),
        "policies": incident.policies,
        "length": incident.length,
        "digest": sealer.digest(incident.excerpt),
        "sealed": sealer.seal(incident.excerpt.encode("utf-8", "surrogatepass"), incident.id),
        "seal_key": sealer.key,
    }
    return Refusal(subject, row, strike_key(incident, sealer.digest) if incident.strike is not None else None)


def incident_of(row: Any) -> Incident:
    """The incident that a row (a mapping) holds, without its excerpt and the client's idempotency key."""
    return Incident(
        id=row["id"],
        at=row["at"],
        subject=Subject(row["tenant"], row["subject"], row["identity"]),
        request_id=row["request_id"],
        surface=row["surface"],
        direction=Direction(row["direction"]),
        action=Action[row["action"].upper()],
        hits=tuple(Hit(**hit) for hit in row["hits"]),
        failures=tuple(row["failures"]),
        policies=row["policies"],
        length=row["length"],
        excerpt="",
        strike=row["strike"],
    )


def strike_key(incident: Incident, digest: Callable[[str], str]) -> str:
    """What makes two refusals the same strike: the client's idempotency key *and* the same text from the same subject.

    A key alone would let someone offend for ever under one key; without a key every refusal is a strike of its own.
    """
    if incident.idempotency is None:
        return incident.id
    parts = [
        *incident.subject[:2],
        incident.idempotency,
        incident.surface,
        str(incident.length),
        json.dumps([(hit.rule, hit.segment, hit.start, hit.end) for hit in incident.hits]),
        incident.excerpt,
    ]
    return "i:" + digest("".join(f"{len(part)}:{part}" for part in parts))


DECISION_COLUMNS = (
    "id", "at", "tenant", "subject", "identity", "request_id", "surface", "outcome", "action", "incident", "policies",
    "produce_id", "prompt_length", "completion_length", "streamed", "overhead", "duration",
)  # fmt: skip


def decision_values(decision: Decision) -> tuple[Any, ...]:
    """The values of a decision's row, in the order of `DECISION_COLUMNS`."""
    tenant, subject, identity, _ = decision.subject
    return (
        decision.id, decision.at, tenant, subject, identity, _plain(decision.request_id), decision.surface,
        decision.outcome, decision.action.word, decision.incident, decision.policies, decision.produce_id,
        decision.prompt_length, decision.completion_length, decision.streamed, decision.overhead, decision.duration,
    )  # fmt: skip


def entry_row(subject: Subject, entry: Entry, key: str | None = None) -> Row:
    """The ledger row of an entry about `subject`."""
    row: Row = {
        "at": entry.at,
        "tenant": subject.tenant,
        "subject": subject.key,
        "identity": subject.kind,
        "shared": subject.shared,
        "kind": _KINDS[type(entry)],
        "lasting": lasting(entry),
        "step": None,
        "until": None,
        "incident": None,
        "rule": None,
        "by": None,
        "reason": None,
        "key": key,
    }
    match entry:
        case Strike():
            row |= {"incident": entry.incident, "rule": entry.rule}
        case Imposed():
            row |= {"step": int(entry.step), "until": entry.until, "incident": entry.incident, "by": entry.by}
        case Lifted():
            row |= {"by": entry.by, "reason": entry.reason}
        case Voided():
            row |= {"incident": entry.incident, "by": entry.by, "reason": entry.reason}
        case Allowed():
            pass
    return row


def entry_of(row: Any) -> Entry | None:
    """The entry that a ledger row (a mapping) holds; none for a kind that only a newer version knows, which may be
    writing to the same ledger while replicas are replaced one by one."""
    match row["kind"]:
        case "strike":
            return Strike(row["at"], row["incident"], row["rule"] or "")
        case "allowed":
            return Allowed(row["at"])
        case "imposed":
            return Imposed(row["at"], Step(row["step"]), row["until"], row["incident"], row["by"])
        case "lifted":
            return Lifted(row["at"], row["by"] or "", row["reason"] or "")
        case "voided":
            return Voided(row["at"], row["incident"], row["by"] or "", row["reason"] or "")
    return None


def lasting(entry: Entry) -> bool:
    """Whether an entry is read however long ago it was written."""
    return isinstance(entry, Lifted | Voided) or (isinstance(entry, Imposed) and entry.step >= Step.SUSPEND)


_KINDS: dict[type[Entry], str] = {
    Strike: "strike",
    Allowed: "allowed",
    Imposed: "imposed",
    Lifted: "lifted",
    Voided: "voided",
}


def _plain(text: str) -> str:
    """Text that any database takes: half of a surrogate pair, which a client may send, cannot be written."""
    return text[:128] if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")[:128]
