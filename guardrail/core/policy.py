"""Rules as data, and the rulebook that applies to one kind of request. What a policy *says*; `verdict` applies it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from enum import IntEnum, StrEnum

from guardrail.core.content import Direction


class Action(IntEnum):
    """What to do with a text; `max()` is the stricter. ANSWER gives a safe answer in the text's place."""

    ALLOW = 0
    FLAG = 1
    REDACT = 2
    ANSWER = 3
    BLOCK = 4

    @property
    def word(self) -> str:
        return _WORDS[self]


_WORDS = tuple(action.name.lower() for action in Action)  # an enum's own name takes ten times as long to read


class Severity(StrEnum):
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class Mode(StrEnum):
    """OBSERVE records what a rule would have done, and never holds a text back."""

    OBSERVE = "observe"
    ENFORCE = "enforce"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `id` is the full one (`cn-genai/a1d-terror/lexicon`), the same in file, log, metric and refusal.

    A rule listens for `labels` of `detector` (the detector's own words) and calls what it finds `category` (the
    policy's word). `threshold` is the least score that matches, `strike` the least score that counts against the
    user, or none. `answer` is the safe answer of an ANSWER rule by language; `placeholder` what REDACT leaves.
    `directions` narrows it within its policy (a phrase that only a request would hold); empty means both.
    """

    id: str
    detector: str
    labels: frozenset[str]
    category: str
    threshold: float
    action: Action
    severity: Severity = Severity.MEDIUM
    mode: Mode = Mode.ENFORCE
    strike: float | None = None
    articles: tuple[str, ...] = ()
    because: str = ""
    placeholder: str = ""
    answer: Mapping[str, str] = field(default_factory=dict)
    directions: frozenset[Direction] = frozenset()

    @property
    def enforced(self) -> bool:
        return self.mode is Mode.ENFORCE


@dataclass(frozen=True, slots=True)
class AppliesTo:
    """Where a policy holds; an empty set means everywhere."""

    directions: frozenset[Direction] = frozenset()
    surfaces: frozenset[str] = frozenset()
    tenants: frozenset[str] = frozenset()

    def holds(self, direction: Direction, surface: str, tenant: str) -> bool:
        return (
            (not self.directions or direction in self.directions)
            and (not self.surfaces or surface in self.surfaces)
            and (not self.tenants or tenant in self.tenants)
        )


@dataclass(frozen=True, slots=True)
class Policy:
    """A pack of rules with one title and one answer to a detector that fails (`on_error`)."""

    id: str
    title: str
    rules: tuple[Rule, ...]
    applies_to: AppliesTo = AppliesTo()
    on_error: Action = Action.BLOCK


@dataclass(frozen=True, slots=True)
class TenantTerms:
    """What one tenant has agreed with the operator: its policies (empty: all), thresholds and dated exceptions.

    `exceptions` maps a rule id to the last day on which the rule does not apply to this tenant.
    """

    policies: frozenset[str] = frozenset()
    thresholds: Mapping[str, float] = field(default_factory=dict)
    exceptions: Mapping[str, date] = field(default_factory=dict)


class Rulebook:
    """The rules that hold for one direction, surface and tenant, indexed for judging. Immutable once made."""

    __slots__ = ("_by_label", "digest", "enforcing", "labels", "on_error", "rules")

    def __init__(self, policies: Iterable[Policy], digest: str) -> None:
        self.digest = digest
        self.rules: tuple[Rule, ...] = ()
        self.on_error: dict[str, Action] = {}
        self.labels: dict[str, frozenset[str]] = {}
        self._by_label: dict[tuple[str, str], tuple[Rule, ...]] = {}
        enforcing: set[str] = set()
        for policy in policies:
            self.rules += policy.rules
            for rule in policy.rules:
                self.labels[rule.detector] = self.labels.get(rule.detector, frozenset()) | rule.labels
                for label in rule.labels:
                    key = (rule.detector, label)
                    self._by_label[key] = (*self._by_label.get(key, ()), rule)
                if rule.enforced:
                    enforcing.add(rule.detector)
                    stricter = max(self.on_error.get(rule.detector, Action.ALLOW), policy.on_error)
                    self.on_error[rule.detector] = stricter
        self.enforcing = frozenset(enforcing)

    def matching(self, detector: str, label: str, score: float) -> tuple[Rule, ...]:
        """The rules that a finding of `label` by `detector` with `score` meets."""
        rules = self._by_label.get((detector, label), ())
        return tuple(rule for rule in rules if score >= rule.threshold)


@dataclass(frozen=True, slots=True)
class PolicySet:
    """Every policy that is loaded, with the digest that names this exact set in headers and records.

    `not_enforced` names the rules (full ids) left out because their detector is switched off, or
    its model scores no such label.
    """

    policies: tuple[Policy, ...]
    digest: str
    tenants: Mapping[str, TenantTerms] = field(default_factory=dict)
    not_enforced: tuple[str, ...] = ()

    @property
    def short_digest(self) -> str:
        """The first 16 hexadecimal digits: what headers carry."""
        return self.digest[:16]

    def rulebook(
        self, direction: Direction, surface: str, tenant: str, on: date, only: frozenset[str] = frozenset()
    ) -> Rulebook:
        """What holds for a text on day `on`. `only` narrows it to the policies named (ids)."""
        terms = self.tenants.get(tenant, TenantTerms())
        chosen = []
        for policy in self.policies:
            if (terms.policies and policy.id not in terms.policies) or (only and policy.id not in only):
                continue
            if policy.applies_to.holds(direction, surface, tenant):
                rules = tuple(
                    _at_tenant_threshold(rule, terms)
                    for rule in policy.rules
                    if (not rule.directions or direction in rule.directions) and not _excepted(rule, terms, on)
                )
                chosen.append(replace(policy, rules=rules))
        return Rulebook(chosen, self.short_digest)


def _excepted(rule: Rule, terms: TenantTerms, on: date) -> bool:
    until = terms.exceptions.get(rule.id)
    return until is not None and on <= until


def _at_tenant_threshold(rule: Rule, terms: TenantTerms) -> Rule:
    threshold = terms.thresholds.get(rule.id)
    return rule if threshold is None else replace(rule, threshold=threshold)
