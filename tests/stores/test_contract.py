"""What every store promises, run on each: the rules that strikes, sanctions and incidents keep."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from guardrail.core.admission import Subject
from guardrail.core.policy import Action
from guardrail.core.sanctions import Imposed, Lifted, Standing, Step
from guardrail.protocols import Store
from guardrail.stores.memory import MemoryStore

HOUR, DAY = 3600.0, 86400.0


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, open_store: Any) -> Any:
    return MemoryStore() if request.param == "memory" else await open_store()


async def strike(store: Any, make: Any, times: int, subject: Subject | None = None, at: float | None = None) -> Any:
    for _ in range(times):
        standing = await store.refuse(make.incident(subject, at))
    return standing


def test_both_are_stores(keyring: Any) -> None:
    from guardrail.stores.sql import SqlStore

    assert isinstance(MemoryStore(), Store)
    assert isinstance(SqlStore("sqlite:////nowhere/x.db", keyring.sealer), Store)


async def test_a_stranger_is_in_good_standing(store: Any, make: Any) -> None:
    assert store.standing(make.someone, make.now) == Standing()


async def test_a_refusal_answers_with_the_standing_after_it(store: Any, make: Any) -> None:
    steps = [(await store.refuse(make.incident())).step for _ in range(3)]
    assert steps == [Step.WARN, Step.LIMIT, Step.SUSPEND]
    assert store.standing(make.someone, make.now + 1).step is Step.SUSPEND
    assert store.standing(make.someone, make.now + DAY).step is Step.NONE


async def test_a_suspension_meets_its_subject_and_no_other(store: Any, make: Any) -> None:
    await strike(store, make, 3)
    assert store.standing(Subject("t", "someone else"), make.now).step is Step.NONE
    assert store.standing(Subject("another tenant", "someone"), make.now).step is Step.NONE


async def test_parallel_offences_are_as_many_strikes_and_one_suspension(store: Any, make: Any) -> None:
    await asyncio.gather(*(store.refuse(make.incident()) for _ in range(50)))
    standing = store.standing(make.someone, make.now)
    assert (standing.step, standing.suspensions) == (Step.SUSPEND, 1)


async def test_an_incident_without_a_strike_counts_for_nothing(store: Any, make: Any) -> None:
    for _ in range(10):
        standing = await store.refuse(make.incident(strike=None))
    assert (standing.step, standing.row, standing.day) == (Step.NONE, 0, 0)


async def test_an_allowed_request_ends_a_row(store: Any, make: Any) -> None:
    await strike(store, make, 2)
    store.allow(make.someone, make.now + 1)
    await store.flush()
    assert store.standing(make.someone, make.now + 2).row == 0
    assert (await strike(store, make, 1, at=make.now + 3)).row == 1


async def test_an_allowed_request_counts_before_the_strike_that_follows_at_once(store: Any, make: Any) -> None:
    for number in range(4):
        standing = await store.refuse(make.incident(at=make.now + number))
        store.allow(make.someone, make.now + number + 0.5)
    assert standing.row == 1
    assert standing.step is Step.LIMIT


async def test_a_request_that_was_allowed_before_the_strike_does_not_end_the_row(store: Any, make: Any) -> None:
    await strike(store, make, 2)
    store.allow(make.someone, make.now - 1)
    await store.flush()
    assert store.standing(make.someone, make.now).row == 2


async def test_a_retry_under_one_idempotency_key_is_one_strike(store: Any, make: Any) -> None:
    for _ in range(5):
        standing = await store.refuse(make.incident(idempotency="abc"))
    assert (standing.step, standing.row) == (Step.WARN, 1)


async def test_one_idempotency_key_does_not_cover_other_texts_or_other_subjects(store: Any, make: Any) -> None:
    for excerpt in ("one", "two"):
        await store.refuse(make.incident(idempotency="abc", excerpt=excerpt))
    assert store.standing(make.someone, make.now).row == 2
    other = Subject("t", "other")
    assert (await store.refuse(make.incident(other, idempotency="abc", excerpt="one"))).row == 1


async def test_the_same_incident_given_twice_is_kept_once(store: Any, make: Any) -> None:
    incident = make.incident()
    await store.refuse(incident)
    again = await store.refuse(incident)
    assert (again.row, again.recorded) == (1, incident.id)
    both = make.incident()
    await asyncio.gather(store.refuse(both), store.refuse(make.incident()), store.refuse(both))
    assert store.standing(make.someone, make.now).suspensions == 1


async def test_a_shared_subject_is_limited_and_never_suspended(store: Any, make: Any) -> None:
    standing = await strike(store, make, 30, Subject("t", "key of many", shared=True))
    assert standing.step is Step.LIMIT


async def test_after_twenty_incidents_in_a_minute_further_ones_are_counted_in_one(store: Any, make: Any) -> None:
    minute = make.now // 60 * 60
    recorded = [(await store.refuse(make.incident(at=minute + number, strike=None))).recorded for number in range(30)]
    assert len(set(recorded)) == 21
    assert set(recorded[20:]) == {recorded[20]}
    assert (await store.refuse(make.incident(at=minute + 60, strike=None))).recorded not in recorded
    other = await store.refuse(make.incident(Subject("t", "other"), at=minute + 59, strike=None))
    assert other.recorded not in recorded


async def test_what_is_noted_counts_for_nothing_and_crowds_out_no_refusal(store: Any, make: Any) -> None:
    for _ in range(40):
        store.note(make.incident(action=Action.REDACT, strike=None))
    await store.flush()
    assert store.standing(make.someone, make.now) == Standing()
    refused = make.incident()
    assert (await store.refuse(refused)).recorded == refused.id


async def test_what_a_person_decides_is_an_entry(store: Any, make: Any) -> None:
    await strike(store, make, 3)
    after = await store.enter(make.someone, Lifted(make.now + 1, "operator", "a mistake"))
    assert after.step is Step.NONE
    closed = await store.enter(make.someone, Imposed(make.now + 2, Step.TERMINATE, None, by="two people"))
    assert closed.step is Step.TERMINATE
    assert store.standing(make.someone, make.now + 999 * DAY).step is Step.TERMINATE


async def test_the_steps_in_force_are_counted(store: Any, make: Any) -> None:
    await strike(store, make, 3)
    await strike(store, make, 1, Subject("t", "a"))
    await strike(store, make, 1, Subject("t", "b"))
    assert store.in_force(make.now) == {Step.SUSPEND: 1, Step.WARN: 2}
    assert store.in_force(make.now + DAY) == {}


@pytest.mark.parametrize("seed", range(6))
async def test_every_store_gives_the_same_answers_to_the_same_history(open_store: Any, make: Any, seed: int) -> None:
    dice = random.Random(seed)
    stores: list[Any] = [MemoryStore(), await open_store()]
    subjects = [Subject("t", "a"), Subject("t", "b"), Subject("u", "a"), Subject("t", "many", "api_key", True)]
    at = make.now
    for _ in range(80):
        at += dice.choice([0.0, 1.0, 30.0, 3600.0, 86400.0, -5.0])
        subject = dice.choice(subjects)
        match dice.choice(["refuse", "refuse", "refuse", "allow", "look", "lift"]):
            case "refuse":
                key = dice.choice([None, "k"])
                incident = make.incident(subject, at, idempotency=key, strike=dice.choice(["p/r", "p/r", None]))
                first, second = [await store.refuse(incident) for store in stores]
                assert first == second
            case "allow":
                for store in stores:
                    store.allow(subject, at)
            case "lift":
                entry = Lifted(at, "operator")
                first, second = [await store.enter(subject, entry) for store in stores]
                assert first == second
        for store in stores:
            await store.flush()
        assert [stores[0].standing(each, at) for each in subjects] == [
            stores[1].standing(each, at) for each in subjects
        ]
        assert stores[0].in_force(at) == stores[1].in_force(at)
    await stores[1].close()
    again = await open_store(clock=lambda: at)
    assert [again.standing(each, at).step for each in subjects] == [
        stores[0].standing(each, at).step for each in subjects
    ]


async def test_suspensions_add_up_to_a_closed_account(store: Any, make: Any) -> None:
    at = make.now
    for expected in (DAY, 3 * DAY):
        standing = await strike(store, make, 3, at=at)
        assert standing.until == at + expected
        at = standing.until
    assert (await strike(store, make, 3, at=at)).step is Step.TERMINATE
