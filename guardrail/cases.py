"""Run the cases that stand beside each policy: what must match, and what nearly does and must not."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from guardrail.core.content import Direction
from guardrail.core.policy import Policy, Rule
from guardrail.core.verdict import Verdict
from guardrail.errors import PolicyError
from guardrail.policyfile import CaseFile, CasesFile, decode, one_of, read_toml

Screen = Callable[[str, Direction], Awaitable[Verdict]]
"""Screens one text in one direction with every policy: `Guard.screen`, or a test's own composition."""


@dataclass(frozen=True, slots=True)
class Case:
    """A text, and exactly the rules (full ids) of `policy` that match it; of `detector` alone, when one is named."""

    policy: str
    desc: str
    text: str
    direction: Direction
    expect: frozenset[str]
    detector: str = ""

    @property
    def id(self) -> str:
        return f"{self.policy}: {self.desc}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a case expected and what it got: full rule ids."""

    case: Case
    got: frozenset[str]

    @property
    def passed(self) -> bool:
        return self.got == self.case.expect

    def __str__(self) -> str:
        """One line without the case's text."""
        if self.passed:
            return f"{self.case.id}: as expected"
        wanted, got = (", ".join(sorted(rules)) or "nothing" for rules in (self.case.expect, self.got))
        return f"{self.case.id}: expected {wanted}; got {got}"


@dataclass(slots=True)
class Report:
    """Counts of cases by policy, and by rule of matches asked for and seen; `failed` holds what went wrong."""

    run: Counter[str] = field(default_factory=Counter)  # policy -> cases
    wrong: Counter[str] = field(default_factory=Counter)  # policy -> cases that failed
    expected: Counter[str] = field(default_factory=Counter)  # rule -> cases that want it to match
    matched: Counter[str] = field(default_factory=Counter)  # rule -> cases that wanted it and got it
    surplus: Counter[str] = field(default_factory=Counter)  # rule -> cases that got it and did not want it
    failed: list[Outcome] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.failed

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        case = outcome.case
        self.run[case.policy] += 1
        self.expected.update(case.expect)
        self.matched.update(case.expect & outcome.got)
        self.surplus.update(outcome.got - case.expect)
        if not outcome.passed:
            self.wrong[case.policy] += 1
            self.failed.append(outcome)


def read_cases(
    directories: Sequence[Path], policies: Iterable[Policy], not_enforced: Collection[str] = ()
) -> tuple[Case, ...]:
    """The cases of `policies`, in their order, from `<directory>/<policy-id>/cases.toml`.

    Cases that need a rule in `not_enforced` (full ids), or a detector none of whose rules is enforced, are left out.
    Raises `PolicyError` when a policy has no cases or a case names a rule that its policy has not.
    """
    cases: list[Case] = []
    for policy in policies:
        paths = [path for directory in directories if (path := directory / policy.id / "cases.toml").is_file()]
        if not paths:
            raise PolicyError(
                f"{directories[0] / policy.id}: cases.toml is missing; expected a match and a near miss per rule"
            )
        cases.extend(_read(paths[0], policy, not_enforced))
    return tuple(cases)


async def run(cases: Iterable[Case], screen: Screen) -> AsyncIterator[Outcome]:
    """Screen each case and yield its outcome, one at a time, for a progress bar and a `Report`."""
    for case in cases:
        verdict = await screen(case.text, case.direction)
        prefix = case.policy + "/"
        got = frozenset(
            match.rule.id
            for match in verdict.matches
            if match.rule.id.startswith(prefix) and case.detector in ("", match.rule.detector)
        )
        yield Outcome(case, got)


def uncovered(cases: Sequence[Case], policies: Iterable[Policy]) -> dict[str, str]:
    """Rules (full ids) without a match or a near miss, and which of the two is lacking.

    A near miss of a rule is a case of its policy, detector and direction that says the rule must not match. A text
    that is near one rule counts for that rule only when its description begins with the rule's id, or a family of
    rules (`a1d-terror/`), followed by a colon.
    """
    missing: dict[str, str] = {}
    for policy in policies:
        own = [case for case in cases if case.policy == policy.id]
        for rule in policy.rules:
            lacks = []
            if not any(rule.id in case.expect for case in own):
                lacks.append("a match")
            if not any(_near(case, rule) for case in own):
                lacks.append("a near miss")
            if lacks:
                missing[rule.id] = " and ".join(lacks)
    return missing


def _near(case: Case, rule: Rule) -> bool:
    about = f"{case.policy}/{case.desc.partition(':')[0]}"
    family = about == rule.id or (about.endswith("/") and rule.id.startswith(about))
    return family and rule.id not in case.expect and case.detector in ("", rule.detector)


def _read(path: Path, policy: Policy, not_enforced: Collection[str]) -> list[Case]:
    file = decode(read_toml(path), CasesFile, str(path))
    known = {rule.id.removeprefix(policy.id + "/"): rule for rule in policy.rules}
    absent = {rule.removeprefix(policy.id + "/") for rule in not_enforced}
    running = {"", *(rule.detector for rule in policy.rules)}
    cases: dict[str, Case] = {}
    for number, table in enumerate(file.case, 1):
        desc = table.get("desc")
        where = f'{path}: case "{desc}"' if isinstance(desc, str) else f"{path}: case {number}"
        case = decode(table, CaseFile, where)
        if (case.prompt is None) == (case.completion is None):
            raise PolicyError(f"{where}: expected either prompt or completion")
        if desc in cases:
            raise PolicyError(f"{where}: desc is there already; expected each once")
        detector = file.detector if case.detector is None else case.detector
        if absent.intersection(case.expect) or (absent and detector not in running):
            continue
        for rule in case.expect:
            if rule not in known:
                raise PolicyError(f'{where}: expect names "{rule}"; expected {one_of(sorted(known))}')
            if detector not in ("", known[rule].detector):
                raise PolicyError(f'{where}: expect names "{rule}", which is no rule of detector "{detector}"')
        direction = Direction.PROMPT if case.prompt is not None else Direction.COMPLETION
        text = case.prompt if case.prompt is not None else case.completion
        expect = frozenset(f"{policy.id}/{rule}" for rule in case.expect)
        cases[case.desc] = Case(policy.id, case.desc, text or "", direction, expect, detector)
    return list(cases.values())
