"""The ladder's rules, with a frozen clock: nothing here waits, and no number is read from the code it tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrail.core.admission import admit
from guardrail.core.sanctions import (
    LADDER,
    TRANSITIONS,
    Allowed,
    Entry,
    Event,
    Imposed,
    Ladder,
    Lifted,
    Standing,
    Step,
    Strike,
    Voided,
    diagram,
    next_sanction,
    outlook,
    standing,
)
from guardrail.errors import SettingsError

HOUR, DAY = 3600.0, 86400.0
NOON = 1_790_000_000.0
RULES = Ladder()


class Account:
    """A subject's ledger, written as the store writes it."""

    def __init__(self, ladder: Ladder = RULES, shared: bool = False) -> None:
        self.entries: list[Entry] = []
        self.ladder, self.shared = ladder, shared

    def strike(self, at: float) -> Step:
        """Offend at `at`; returns where that leaves the subject."""
        self.entries.append(Strike(at, f"i{len(self.entries)}", "p/r"))
        imposed = next_sanction(self.entries, self.ladder, at, shared=self.shared)
        if imposed is not None:
            self.entries.append(imposed)
        return self.standing(at).step

    def allow(self, at: float) -> None:
        self.entries.append(Allowed(at))

    def standing(self, at: float) -> Standing:
        return standing(self.entries, self.ladder, at)

    def imposed(self, step: Step) -> list[Imposed]:
        return [entry for entry in self.entries if isinstance(entry, Imposed) and entry.step is step]

    def suspend(self, at: float) -> float:
        """Three strikes in a row from `at` on; returns when the suspension ends."""
        for second in range(3):
            self.strike(at + second)
        until = self.standing(at + 2).until
        assert until is not None
        return until


def test_a_subject_without_entries_is_in_good_standing() -> None:
    assert standing((), RULES, NOON) == Standing()


def test_the_first_second_and_third_strike_in_a_row_warn_limit_and_suspend() -> None:
    account = Account()
    assert [account.strike(NOON + second) for second in range(3)] == [Step.WARN, Step.LIMIT, Step.SUSPEND]
    assert account.standing(NOON + 2) == Standing(Step.SUSPEND, NOON + 2 + DAY, "i4", 0, 0, 1)


def test_five_strikes_in_a_day_suspend_although_each_is_followed_by_an_allowed_request() -> None:
    account, steps = Account(), []
    for number in range(5):
        steps.append(account.strike(NOON + number * HOUR))
        account.allow(NOON + number * HOUR + 60)
    assert steps == [Step.WARN, Step.WARN, Step.LIMIT, Step.LIMIT, Step.SUSPEND]


def test_a_row_ends_with_an_allowed_request_and_not_with_time() -> None:
    patient = Account()
    for month in range(3):
        patient.strike(NOON + month * 30 * DAY)
    assert patient.standing(NOON + 60 * DAY).step is Step.SUSPEND

    better = Account()
    for month in range(3):
        better.strike(NOON + month * 30 * DAY)
        better.allow(NOON + month * 30 * DAY + 1)
    assert better.standing(NOON + 60 * DAY).step is Step.WARN
    assert better.standing(NOON + 60 * DAY).row == 0


@pytest.mark.parametrize(("gap", "step"), [(DAY - 1, Step.SUSPEND), (DAY, Step.LIMIT), (DAY + 1, Step.LIMIT)])
def test_a_strike_is_of_the_day_for_twenty_four_hours_and_not_a_second_longer(gap: float, step: Step) -> None:
    account = Account()
    for second in (0, 10, 20, 30):
        account.strike(NOON + second)
        account.allow(NOON + second + 1)
    assert account.strike(NOON + gap) is step


def test_a_calendar_day_counts_by_the_local_midnight_when_the_operator_says_so() -> None:
    shanghai = Ladder(day_offset=8 * 3600)
    midnight = 1_790_006_400.0  # 2026-09-22 00:00 in Shanghai
    assert (midnight + 8 * 3600) % DAY == 0

    def four_before_one_after(ladder: Ladder) -> Step:
        account = Account(ladder)
        for second in (4, 3, 2, 1):
            account.strike(midnight - second)
            account.allow(midnight - second + 0.5)
        return account.strike(midnight + 1)

    assert four_before_one_after(shanghai) is Step.LIMIT  # the limit of the day before is still in force
    assert four_before_one_after(RULES) is Step.SUSPEND


def test_the_request_after_the_third_strike_is_refused_with_403_however_harmless() -> None:
    account = Account()
    account.strike(NOON)
    account.strike(NOON + 11)
    assert admit(account.standing(NOON + 22), RULES, NOON + 11, NOON + 22).allowed
    account.strike(NOON + 22)
    refused = admit(account.standing(NOON + 23), RULES, NOON + 22, NOON + 23)
    assert (refused.allowed, refused.status, refused.code) == (False, 403, "account_suspended")


def test_strikes_of_a_suspended_subject_are_kept_and_impose_nothing_further() -> None:
    account = Account()
    for number in range(100):
        account.strike(NOON + number / 1000)
    assert sum(isinstance(entry, Strike) for entry in account.entries) == 100
    assert len(account.imposed(Step.SUSPEND)) == 1
    assert account.standing(NOON + 1).suspensions == 1


@pytest.mark.parametrize(("after", "step"), [(-1.0, Step.SUSPEND), (0.0, Step.NONE), (1.0, Step.NONE)])
def test_a_suspension_ends_at_its_hour_and_service_returns(after: float, step: Step) -> None:
    account = Account()
    until = account.suspend(NOON)
    assert until == NOON + 2 + DAY
    assert account.standing(until + after).step is step


def test_strikes_that_led_to_a_suspension_are_spent_and_so_are_those_under_way_when_it_fell() -> None:
    account = Account()
    until = account.suspend(NOON)
    account.strike(NOON + 3)
    account.strike(NOON + 4)
    assert account.strike(until) is Step.WARN
    assert account.standing(until).row == 1


def test_suspensions_grow_longer_and_the_third_in_ninety_days_closes_the_account() -> None:
    account = Account()
    first = account.suspend(NOON)
    second = account.suspend(first + DAY)
    assert first - (NOON + 2) == DAY
    assert second - (first + DAY + 2) == 3 * DAY
    account.strike(second + DAY)
    account.strike(second + DAY + 1)
    assert account.strike(second + DAY + 2) is Step.TERMINATE
    assert account.standing(second + 3650 * DAY).step is Step.TERMINATE
    assert account.standing(second + 3650 * DAY).until is None


def test_a_termination_may_be_left_to_a_person_and_the_third_suspension_is_then_seven_days() -> None:
    account = Account(Ladder(terminate_by_person=True))
    first = account.suspend(NOON)
    second = account.suspend(first)
    third = account.suspend(second)
    fourth = account.suspend(third)
    assert third - (second + 2) == 7 * DAY
    assert fourth - (third + 2) == 7 * DAY
    account.entries.append(Imposed(fourth, Step.TERMINATE, None, by="second reviewer"))
    assert account.standing(fourth + 400 * DAY).step is Step.TERMINATE


def test_a_suspension_is_forgotten_after_ninety_days() -> None:
    def third(at: float) -> Step:
        account = Account()
        account.suspend(NOON)
        account.suspend(NOON + 45 * DAY)
        for second in range(2):
            account.strike(at + second)
        return account.strike(at + 2)

    imposed_at = NOON + 2
    assert third(imposed_at + 90 * DAY - 3) is Step.TERMINATE
    assert third(imposed_at + 90 * DAY) is Step.SUSPEND


def test_a_shared_subject_is_limited_and_never_suspended() -> None:
    account = Account(shared=True)
    steps = [account.strike(NOON + second) for second in range(200)]
    assert set(steps[2:]) == {Step.LIMIT}
    assert account.standing(NOON + 199 + DAY).step is Step.NONE


def test_a_renewed_limit_lasts_from_the_last_strike_that_called_for_it() -> None:
    account = Account()
    for hour in range(3):
        account.strike(NOON + hour * HOUR)
        account.allow(NOON + hour * HOUR + 1)
    account.strike(NOON + 4 * HOUR)
    assert account.standing(NOON + 4 * HOUR).until == NOON + 4 * HOUR + DAY


def test_a_clock_that_goes_back_neither_loses_a_strike_nor_frees_a_suspended_subject() -> None:
    account = Account()
    account.strike(NOON)
    account.strike(NOON - 2 * HOUR)
    assert account.strike(NOON - 4 * HOUR) is Step.SUSPEND
    account.strike(NOON - 6 * HOUR)
    assert len(account.imposed(Step.SUSPEND)) == 1
    assert account.standing(NOON - 8 * HOUR).step is Step.SUSPEND
    assert account.standing(NOON - 4 * HOUR + DAY).step is Step.NONE


def test_lifting_ends_what_is_in_force_and_cleans_the_slate_but_the_suspension_still_counts() -> None:
    account = Account()
    account.suspend(NOON)
    account.entries.append(Lifted(NOON + HOUR, "operator", "agreed on the telephone"))
    assert account.standing(NOON + HOUR) == Standing(suspensions=1)
    assert account.strike(NOON + 2 * HOUR) is Step.WARN


def test_voiding_one_of_three_strikes_ends_the_suspension_that_rested_on_it() -> None:
    account = Account()
    account.suspend(NOON)
    account.entries.append(Voided(NOON + HOUR, "i2", "reviewer"))
    after = account.standing(NOON + HOUR)
    assert (after.step, after.row, after.day, after.suspensions) == (Step.LIMIT, 2, 2, 0)
    assert account.strike(NOON + 2 * HOUR) is Step.SUSPEND


def test_voiding_every_strike_leaves_nothing() -> None:
    account = Account()
    account.suspend(NOON)
    strikes = [entry.incident for entry in account.entries if isinstance(entry, Strike)]
    account.entries += [Voided(NOON + HOUR, incident) for incident in strikes]
    assert account.standing(NOON + HOUR) == Standing()


def test_voiding_a_strike_that_a_suspension_did_not_need_leaves_it_in_force() -> None:
    account = Account()
    for number in range(4):
        account.strike(NOON + number * HOUR)
        account.allow(NOON + number * HOUR + 1)
    account.strike(NOON + 5 * HOUR)
    late = Account()
    late.entries = [Strike(NOON - DAY, "old"), *account.entries]
    assert late.standing(NOON + 5 * HOUR).step is Step.SUSPEND
    late.entries.append(Voided(NOON + 6 * HOUR, "old"))
    assert late.standing(NOON + 6 * HOUR).step is Step.SUSPEND


def test_voiding_an_earlier_suspension_turns_a_termination_into_a_suspension() -> None:
    account = Account()
    until = account.suspend(NOON)
    account.strike(account.suspend(until))
    close = account.standing(until).suspensions
    assert close == 1 + 1
    at = NOON + 10 * DAY
    account.strike(at)
    assert account.strike(at + 1) is Step.TERMINATE
    account.entries.append(Voided(at + 2, "i0"))
    after = account.standing(at + 2)
    assert (after.step, after.suspensions) == (Step.SUSPEND, 2)
    assert after.until == at + 1 + 3 * DAY


def test_a_persons_sanction_does_not_rest_on_strikes() -> None:
    account = Account()
    account.strike(NOON)
    account.entries += [Imposed(NOON + 1, Step.SUSPEND, NOON + HOUR, "i0", by="operator"), Voided(NOON + 2, "i0")]
    assert account.standing(NOON + 3).step is Step.SUSPEND


def test_a_milder_sanction_does_not_replace_a_harder_one_in_force() -> None:
    entries: list[Entry] = [Imposed(NOON, Step.SUSPEND, NOON + DAY), Imposed(NOON + 1, Step.WARN, NOON + 2 * DAY)]
    assert standing(entries, RULES, NOON + 2).step is Step.SUSPEND


def test_only_a_strike_calls_for_a_sanction() -> None:
    account = Account()
    account.strike(NOON)
    account.strike(NOON + 1)
    account.allow(NOON + 2)
    assert next_sanction(account.entries, RULES, NOON + 2) is None


def test_an_operator_may_warn_from_the_second_strike_of_a_day_on() -> None:
    account = Account(Ladder(warn_day=2, limit_row=3, suspend_row=4))
    assert [account.strike(NOON + second) for second in range(4)] == [Step.NONE, Step.WARN, Step.LIMIT, Step.SUSPEND]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("suspend_row", 0),
        ("limit_interval", 0.0),
        ("suspend_seconds", ()),
        ("terminate_days", -1),
        ("day_offset", 90_000),
    ],
)
def test_numbers_that_make_no_ladder_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=name):
        Ladder(**{name: value})  # type: ignore[arg-type]


def test_every_step_but_none_can_be_left_by_a_person_and_every_one_but_termination_by_time() -> None:
    for step in Step:
        assert ((step, Event.LIFTED) in TRANSITIONS) is (step is not Step.NONE)
        assert ((step, Event.EXPIRED) in TRANSITIONS) is (step not in (Step.NONE, Step.TERMINATE))


def test_the_diagram_in_the_documentation_is_the_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "sanctions.md"
    assert f"```mermaid\n{diagram()}\n```" in page.read_text(encoding="utf-8")


def test_the_numbers_in_the_documentation_are_the_defaults() -> None:
    page = (Path(__file__).parents[2] / "docs" / "sanctions.md").read_text(encoding="utf-8")
    for name in Ladder.__dataclass_fields__:
        value = getattr(RULES, name)
        shown = ", ".join(f"{part:g}" for part in value) if isinstance(value, tuple) else str(value)
        shown = f"{value:g}" if isinstance(value, float) else shown
        assert f"| `{name}` | {shown} |" in page, name


# -- properties ------------------------------------------------------------------------------------------------------

moments = st.integers(-2, 40).map(lambda hours: hours * HOUR)
actions = st.lists(st.tuples(st.sampled_from(["strike", "strike", "allow", "lift", "void"]), moments), max_size=25)


def played(script: list[tuple[str, float]], shared: bool = False) -> tuple[Account, float]:
    account, now = Account(shared=shared), NOON
    for verb, gap in script:
        now += gap
        if verb == "strike":
            account.strike(now)
        elif verb == "allow":
            account.allow(now)
        elif verb == "lift":
            account.entries.append(Lifted(now))
        elif strikes := [entry.incident for entry in account.entries if isinstance(entry, Strike)]:
            account.entries.append(Voided(now, strikes[int(gap) % len(strikes)]))
    return account, now


@given(actions, st.floats(0.001, 0.999))
def test_a_standing_does_not_change_before_the_moment_that_the_outlook_names(
    script: list[tuple[str, float]], part: float
) -> None:
    account, now = played(script)
    seen, changes = outlook(account.entries, RULES, now)
    assert changes > now
    later = now + min(changes - now, 400 * DAY) * part
    assert standing(account.entries, RULES, later) == seen


@given(actions)
def test_nobody_is_suspended_for_fewer_strikes_than_the_ladder_says(script: list[tuple[str, float]]) -> None:
    account, _ = played(script)
    since = 0
    for entry in account.entries:
        if isinstance(entry, Strike):
            since += 1
        elif isinstance(entry, Imposed) and entry.step >= Step.SUSPEND:
            assert since >= RULES.suspend_row
            assert entry.by == LADDER
            since = 0


@given(actions)
def test_a_shared_subject_never_gets_further_than_a_limit(script: list[tuple[str, float]]) -> None:
    account, now = played(script, shared=True)
    assert account.standing(now).step <= Step.LIMIT
