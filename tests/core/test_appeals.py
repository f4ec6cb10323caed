"""Appeals as data: the table of states, who may decide, and what a granted one adds to a ledger."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from guardrail.core.admission import Subject
from guardrail.core.appeals import (
    MOST_APPEALS,
    TRANSITIONS,
    Appeal,
    Ruling,
    State,
    barred,
    decide,
    file,
    may_file,
    remedies,
)
from guardrail.core.sanctions import LADDER, Imposed, Ladder, Lifted, Step, Strike, Voided, standing
from guardrail.errors import CaseError

NOW = 1_790_000_000.0
FILED = Appeal("a1", NOW, "i1", Subject("t", "s"))
DENIED = replace(FILED, state=State.DENIED, decided_by="first")
GRANTED = replace(FILED, state=State.GRANTED, decided_at=NOW + 9, decided_by="second", reason="a quotation")
SANCTION = Imposed(NOW, Step.SUSPEND, NOW + 100, "i1", by="first")


def test_only_an_open_appeal_can_be_decided_and_a_decision_stays() -> None:
    for state, ruling in product(State, Ruling):
        appeal = replace(FILED, state=state)
        after = TRANSITIONS.get((state, ruling))
        if after is not None:
            decided = decide(appeal, ruling, at=NOW, by="b", reason="r")
            assert decided == replace(appeal, state=after, decided_at=NOW, decided_by="b", reason="r")
        elif state is TRANSITIONS[State.FILED, ruling]:
            assert decide(appeal, ruling, at=NOW, by="b", reason="r") is appeal
        else:
            with pytest.raises(CaseError, match="already"):
                decide(appeal, ruling, at=NOW, by="b", reason="r")


def test_the_diagram_of_the_docs_is_the_table() -> None:
    lines = ["stateDiagram-v2", "    [*] --> filed"]
    lines += [f"    {state} --> {after}: {ruling}" for (state, ruling), after in TRANSITIONS.items()]
    page = (Path(__file__).parents[2] / "docs/sanctions.md").read_text(encoding="utf-8")
    assert "\n".join(lines) in page


def test_filing_gives_what_stands() -> None:
    new = replace(FILED, id="a2")
    assert file(new, []) is new
    assert file(new, [FILED]) is FILED
    assert file(new, [DENIED, GRANTED]) is GRANTED
    assert file(new, [DENIED] * (MOST_APPEALS - 1)) is new
    with pytest.raises(CaseError) as caught:
        file(new, [DENIED] * MOST_APPEALS)
    assert caught.value.code == "too_many"
    assert [may_file(earlier) for earlier in ([], [FILED], [DENIED], [GRANTED], [DENIED] * MOST_APPEALS)] == [
        True, False, True, False, False,
    ]  # fmt: skip


def test_whoever_decided_before_is_barred_and_the_ladder_is_nobody() -> None:
    entries = [SANCTION, replace(SANCTION, by=LADDER), replace(SANCTION, by="other", incident="i2")]
    assert barred(FILED, [DENIED, replace(DENIED, decided_by="third")], entries) == {"first", "third"}
    for name in ("first", " FIRST", "Fir\u0073t"):
        with pytest.raises(CaseError, match="second person"):
            decide(FILED, Ruling.GRANT, at=NOW, by=name, reason="r", barred={"first"})
    assert decide(FILED, Ruling.GRANT, at=NOW, by="firsts", reason="r", barred={"first"}).state is State.GRANTED


def test_a_granted_appeal_voids_what_was_not_voided_yet() -> None:
    entries = [Strike(NOW, "i1", "p/r")]
    [voided] = remedies(GRANTED, ["i1"], entries, NOW + 9)
    assert voided == Voided(NOW + 9, "i1", "second", "a quotation")
    assert remedies(GRANTED, ["i1"], [*entries, voided], NOW + 9) == ()
    assert remedies(GRANTED, [], entries, NOW + 9) == ()


def test_what_a_person_imposed_for_the_incident_is_lifted_while_it_is_in_force() -> None:
    lifted = (Lifted(NOW + 9, "second", "a quotation"),)
    assert remedies(GRANTED, [], [SANCTION], NOW + 9) == lifted
    assert remedies(GRANTED, [], [replace(SANCTION, until=None, step=Step.TERMINATE)], NOW + 9) == lifted
    assert remedies(GRANTED, [], [SANCTION], NOW + 100) == ()
    assert remedies(GRANTED, [], [SANCTION, Lifted(NOW + 1)], NOW + 9) == ()
    assert remedies(GRANTED, [], [replace(SANCTION, incident="i2")], NOW + 9) == ()
    assert remedies(GRANTED, [], [replace(SANCTION, by=LADDER)], NOW + 9) == (), "voiding judges the ladder's anew"


def test_after_the_remedies_the_subject_stands_as_if_it_had_not_been() -> None:
    entries = [Strike(NOW, "i1", "p/r"), Imposed(NOW, Step.WARN, NOW + 86400, "i1"), replace(SANCTION, until=None)]
    assert standing(entries, Ladder(), NOW + 9).step is Step.SUSPEND
    after = [*entries, *remedies(GRANTED, ["i1"], entries, NOW + 9)]
    found = standing(after, Ladder(), NOW + 10)
    assert (found.step, found.row, found.day) == (Step.NONE, 0, 0)
