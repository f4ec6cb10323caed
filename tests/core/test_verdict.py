"""Scores become actions in one place: the strictest stands, and help goes before a refusal that is no surer."""

from __future__ import annotations

import pytest

from guardrail.core.findings import Failure, Finding
from guardrail.core.policy import Action, Mode, Policy, Rule, Rulebook
from guardrail.core.verdict import judge


def rule(name: str, action: Action, mode: Mode = Mode.ENFORCE) -> Rule:
    return Rule(f"p/{name}", "d", frozenset({name}), "c", 0.5, action, mode=mode)


BOOK = Rulebook(
    [
        Policy(
            "p",
            "P",
            (
                rule("block", Action.BLOCK),
                rule("answer", Action.ANSWER),
                rule("redact", Action.REDACT),
                rule("flag", Action.FLAG),
                rule("watch", Action.BLOCK, Mode.OBSERVE),
            ),
            on_error=Action.BLOCK,
        )
    ],
    "digest",
)


def found(label: str, score: float = 1.0, start: int = 0) -> Finding:
    return Finding("d", label, score, start, start + 3, start + 3)


@pytest.mark.parametrize(
    ("findings", "action"),
    [
        ([], Action.ALLOW),
        ([found("flag")], Action.FLAG),
        ([found("flag"), found("redact")], Action.REDACT),
        ([found("redact"), found("block")], Action.BLOCK),
        ([found("block", 0.49)], Action.ALLOW),
        ([found("watch")], Action.ALLOW),
        ([found("answer"), found("block", 0.99)], Action.ANSWER),
        ([found("answer", 0.98), found("block", 0.98)], Action.ANSWER),
        ([found("answer", 0.9), found("block", 0.98)], Action.BLOCK),
        ([found("answer"), found("redact")], Action.ANSWER),
    ],
)
def test_the_strictest_action_stands_and_a_surer_answer_goes_before_a_block(
    findings: list[Finding], action: Action
) -> None:
    verdict = judge(BOOK, findings)
    assert verdict.action is action
    assert all(match.rule.action is action for match in verdict.deciding)
    assert verdict.stops is (action >= Action.ANSWER)


def test_a_detector_that_fails_is_answered_by_the_policy_that_relies_on_it() -> None:
    verdict = judge(BOOK, [found("answer")], [Failure("d", "timeout")])
    assert verdict.action is Action.BLOCK
    assert judge(BOOK, [], [Failure("another", "error")]).action is Action.ALLOW


def test_one_rule_matches_one_span_once_and_matches_come_in_the_order_of_the_text() -> None:
    verdict = judge(BOOK, [found("block", start=9), found("flag"), found("block", 0.9, start=9)])
    assert [(match.rule.id, match.finding.start) for match in verdict.matches] == [("p/flag", 0), ("p/block", 9)]
