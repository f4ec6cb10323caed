"""Turn scores into actions: `judge` is the one place that does. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from guardrail.core.findings import Failure, Finding
from guardrail.core.policy import Action, Rule, Rulebook

# Reading a member off its enum is a call in Python 3.11, and these are read for every text.
_ALLOW, _ANSWER, _BLOCK = Action.ALLOW, Action.ANSWER, Action.BLOCK


class Match(NamedTuple):
    """A rule that a finding met."""

    rule: Rule
    finding: Finding


class Verdict(NamedTuple):
    """What is to be done and why. A block is a value, never an exception; `policies` is the set's digest."""

    action: Action
    matches: tuple[Match, ...]
    failures: tuple[Failure, ...]
    policies: str

    @property
    def enforced(self) -> tuple[Match, ...]:
        """The matches that count: those of rules in enforce mode."""
        return tuple(match for match in self.matches if match.rule.enforced)

    @property
    def deciding(self) -> tuple[Match, ...]:
        """The enforced matches that are as strict as the action; empty when a failure alone decided."""
        return tuple(match for match in self.enforced if match.rule.action is self.action)

    @property
    def stops(self) -> bool:
        """Whether the text may not pass, redacted or otherwise."""
        return self.action >= _ANSWER


def judge(rulebook: Rulebook, findings: Sequence[Finding], failures: Sequence[Failure] = ()) -> Verdict:
    """Apply every rule to every finding, and each failing detector's `on_error`; the strictest action stands, but
    that a safe answer goes before a block whose rule is no surer of its case.

    Matches come in the order of the text: by segment, then by the offset at which each finding became certain.
    """
    if not findings and not failures:
        return Verdict(_ALLOW, (), (), rulebook.digest)
    matches: dict[tuple[str, int, int, int], Match] = {}
    for finding in sorted(findings, key=_text_order):
        for rule in rulebook.matching(finding.detector, finding.category, finding.score):
            # Two phrases of one rule that fit the same span are one match.
            matches.setdefault((rule.id, finding.segment, finding.start, finding.end), Match(rule, finding))
    action = _ALLOW
    surest = {_ANSWER: 0.0, _BLOCK: 0.0}
    for rule, finding in matches.values():
        if rule.enforced:
            action = max(action, rule.action)
            if rule.action >= _ANSWER:
                surest[rule.action] = max(surest[rule.action], finding.score)
    if action is _BLOCK and surest[_ANSWER] >= surest[_BLOCK]:
        # Neither reaches the model. Whoever may be asking for help is not met with a refusal by a less certain rule.
        action = _ANSWER
    for failure in failures:
        action = max(action, rulebook.on_error.get(failure.detector, Action.ALLOW))
    return Verdict(action, tuple(matches.values()), tuple(failures), rulebook.digest)


def _text_order(finding: Finding) -> tuple[int, int, int, int, str, str]:
    return (finding.segment, finding.at, finding.start, finding.end, finding.detector, finding.category)
