"""Who is let in, and what those who are not are told."""

from __future__ import annotations

import pytest

from guardrail.core.admission import Admission, admit
from guardrail.core.sanctions import Ladder, Standing, Step

AT = 1_790_000_000.0
RULES = Ladder()


@pytest.mark.parametrize("step", [Step.NONE, Step.WARN])
def test_good_standing_and_a_warning_let_every_request_in(step: Step) -> None:
    assert admit(Standing(step), RULES, AT, AT).allowed


def test_a_limited_subject_waits_ten_seconds_after_its_last_admitted_request() -> None:
    limited = Standing(Step.LIMIT, AT + 3600, "i1")
    assert admit(limited, RULES, None, AT).allowed
    refused = admit(limited, RULES, AT - 3.5, AT)
    assert refused == Admission(False, Step.LIMIT, 429, "rate_limited", 7, AT + 3600, "i1")
    assert admit(limited, RULES, AT - 10, AT).allowed
    assert admit(limited, RULES, AT - 10, AT).limited


def test_the_seconds_to_wait_are_enough_to_be_let_in() -> None:
    limited = Standing(Step.LIMIT, AT + 3600)
    for tenths in range(100):
        refused = admit(limited, RULES, AT, AT + tenths / 10)
        assert refused.retry_after is not None
        assert admit(limited, RULES, AT, AT + tenths / 10 + refused.retry_after).allowed


def test_a_clock_that_goes_back_does_not_keep_a_limited_subject_out_for_hours() -> None:
    assert admit(Standing(Step.LIMIT, AT), RULES, AT + 7200, AT).allowed


def test_a_suspended_subject_is_told_until_when_and_for_what() -> None:
    refused = admit(Standing(Step.SUSPEND, AT + 60, "i9"), RULES, None, AT)
    assert refused == Admission(False, Step.SUSPEND, 403, "account_suspended", None, AT + 60, "i9")


def test_a_closed_account_has_no_until() -> None:
    refused = admit(Standing(Step.TERMINATE, None, "i9"), RULES, None, AT)
    assert refused == Admission(False, Step.TERMINATE, 403, "account_terminated", None, None, "i9")
