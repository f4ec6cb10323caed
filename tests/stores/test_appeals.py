"""What every store promises about appeals: filed once, decided once, and what a granted one undoes."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from guardrail.core.admission import Subject
from guardrail.core.appeals import MOST_APPEALS, Appeal, Ruling, State
from guardrail.core.policy import Action
from guardrail.core.sanctions import Imposed, Step
from guardrail.errors import CaseError, RecordError, StoreError
from guardrail.records.keys import Keyring
from guardrail.stores.appeals import read_statement
from guardrail.stores.engine import open_engine
from guardrail.stores.memory import MemoryStore

SAID = "what I wrote was 引文, from a novel"


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, open_store: Any) -> Any:
    return MemoryStore() if request.param == "memory" else await open_store()


async def refused(store: Any, make: Any, times: int = 1, **changes: Any) -> list[str]:
    ids = []
    for _ in range(times):
        incident = make.incident(**changes)
        await store.refuse(incident)
        ids.append(incident.id)
    return ids


def appeal(ident: str, incident: str, make: Any, **changes: Any) -> Appeal:
    return replace(Appeal(ident, make.now + 5, incident, make.someone, SAID), **changes)


async def decide(store: Any, ident: str, ruling: Ruling, make: Any, by: str = "reviewer", reason: str = "r") -> Appeal:
    decided: Appeal = await store.decide_appeal(ident, ruling, at=make.now + 60, by=by, reason=reason)
    return decided


async def test_an_incident_is_read_without_its_excerpt(store: Any, make: Any) -> None:
    incident = make.incident()
    await store.refuse(incident)
    assert await store.incident(incident.id) == replace(incident, excerpt="", idempotency=None)
    assert await store.incident("another") is None


async def test_what_is_filed_is_found_by_its_id_and_by_its_incident_and_shows_no_statement(
    store: Any, make: Any
) -> None:
    one, two = await refused(store, make, 2)
    filed = await store.file_appeal(appeal("a1", one, make))
    assert filed.state is State.FILED
    assert await store.appeals() == [appeal("a1", one, make, statement="")]
    assert await store.appeals(ident="a1") == await store.appeals(incident=one) == await store.appeals()
    assert await store.appeals(incident=two) == await store.appeals(ident="a2") == []


async def test_an_appeal_against_nothing_is_not_filed(store: Any, make: Any) -> None:
    with pytest.raises(CaseError) as caught:
        await store.file_appeal(appeal("a1", "no such incident", make))
    assert caught.value.code == "unknown"
    assert await store.appeals() == []


async def test_filing_again_is_filing_once(store: Any, make: Any) -> None:
    [incident] = await refused(store, make)
    filed = await asyncio.gather(*(store.file_appeal(appeal(f"a{n}", incident, make)) for n in range(20)))
    assert {each.id for each in filed} == {"a0"}
    assert len(await store.appeals()) == 1


async def test_a_granted_appeal_gives_the_account_back_and_keeps_the_record(store: Any, make: Any) -> None:
    [*_, last] = await refused(store, make, 3)
    assert store.standing(make.someone, make.now + 10).step is Step.SUSPEND
    await store.file_appeal(appeal("a1", last, make))
    decided = await decide(store, "a1", Ruling.GRANT, make, reason="a quotation")
    assert (decided.state, decided.decided_at, decided.decided_by, decided.reason) == (
        State.GRANTED, make.now + 60, "reviewer", "a quotation",
    )  # fmt: skip
    standing = store.standing(make.someone, make.now + 61)
    assert (standing.step, standing.row, standing.suspensions) == (Step.LIMIT, 2, 0)
    assert await store.appeals() == [decided]
    assert await store.incident(last) is not None


async def test_a_denied_appeal_leaves_everything_as_it_is(store: Any, make: Any) -> None:
    [*_, last] = await refused(store, make, 3)
    before = store.standing(make.someone, make.now + 61)
    await store.file_appeal(appeal("a1", last, make))
    assert (await decide(store, "a1", Ruling.DENY, make)).state is State.DENIED
    assert store.standing(make.someone, make.now + 61) == before


async def test_an_appeal_is_decided_once(store: Any, make: Any) -> None:
    [incident] = await refused(store, make)
    await store.file_appeal(appeal("a1", incident, make))
    first = await decide(store, "a1", Ruling.DENY, make)
    assert await decide(store, "a1", Ruling.DENY, make, by="another", reason="other") == first
    with pytest.raises(CaseError) as caught:
        await decide(store, "a1", Ruling.GRANT, make)
    assert caught.value.code == "decided"
    with pytest.raises(CaseError) as caught:
        await decide(store, "a2", Ruling.GRANT, make)
    assert caught.value.code == "unknown"
    assert await store.appeals() == [first]


async def test_granting_twice_voids_once(store: Any, make: Any) -> None:
    [incident] = await refused(store, make)
    await store.file_appeal(appeal("a1", incident, make))
    first, second = await asyncio.gather(*(decide(store, "a1", Ruling.GRANT, make) for _ in range(2)))
    assert first == second
    assert store.standing(make.someone, make.now + 61).row == 0
    # Nothing is left to appeal against: filing anew gives the one that was granted.
    assert (await store.file_appeal(appeal("a2", incident, make))).id == "a1"


async def test_after_a_denial_another_appeal_goes_to_another_person(store: Any, make: Any) -> None:
    [incident] = await refused(store, make)
    for number in range(MOST_APPEALS):
        ident = f"a{number}"
        assert (await store.file_appeal(appeal(ident, incident, make))).id == ident
        if number:
            with pytest.raises(CaseError) as caught:
                await decide(store, ident, Ruling.DENY, make, by="  Reviewer  0 ")
            assert caught.value.code == "barred"
        await decide(store, ident, Ruling.DENY, make, by=f"reviewer {number}")
    with pytest.raises(CaseError) as caught:
        await store.file_appeal(appeal("one more", incident, make))
    assert caught.value.code == "too_many"


async def test_what_a_person_imposed_is_lifted_by_a_second_person(store: Any, make: Any) -> None:
    [incident] = await refused(store, make)
    await store.enter(make.someone, Imposed(make.now + 1, Step.TERMINATE, None, incident, by="first"))
    await store.file_appeal(appeal("a1", incident, make))
    with pytest.raises(CaseError, match="second person"):
        await decide(store, "a1", Ruling.GRANT, make, by="First")
    assert store.standing(make.someone, make.now + 61).step is Step.TERMINATE
    await decide(store, "a1", Ruling.GRANT, make, by="second")
    assert store.standing(make.someone, make.now + 61).step is Step.NONE


async def test_an_appeal_of_a_retry_voids_the_strike_that_it_repeated(store: Any, make: Any) -> None:
    await refused(store, make, excerpt="something else")
    first, retry = await refused(store, make, 2, idempotency="k")
    assert first != retry
    assert store.standing(make.someone, make.now + 10).row == 2
    await store.file_appeal(appeal("a1", retry, make))
    await decide(store, "a1", Ruling.GRANT, make)
    assert store.standing(make.someone, make.now + 61).row == 1


async def test_an_appeal_of_what_was_no_strike_voids_none(store: Any, make: Any) -> None:
    await refused(store, make)
    [incident] = await refused(store, make, strike=None, action=Action.ANSWER)
    await store.file_appeal(appeal("a1", incident, make))
    await decide(store, "a1", Ruling.GRANT, make)
    assert store.standing(make.someone, make.now + 61).row == 1


async def test_an_appeal_of_one_person_does_nothing_for_another(store: Any, make: Any) -> None:
    other = Subject("t", "other")
    [*_, last] = await refused(store, make, 3)
    await refused(store, make, 3, subject=other)
    await store.file_appeal(appeal("a1", last, make))
    await decide(store, "a1", Ruling.GRANT, make)
    assert store.standing(other, make.now + 61).step is Step.SUSPEND


# -- on a database -------------------------------------------------------------------------------------------------


async def test_a_statement_is_sealed_and_opens_for_its_own_appeal_alone(
    open_store: Any, make: Any, state: Path, keyring: Keyring
) -> None:
    store = await open_store()
    one, two = await refused(store, make, 2)
    await store.file_appeal(appeal("a1", one, make))
    await store.file_appeal(appeal("a2", two, make, statement="other"))
    await store.close()
    held = b"".join(file.read_bytes() for file in state.glob("guardrail.db*"))
    assert b"from a novel" not in held
    assert "引文".encode() not in held
    url = f"sqlite:///{state / 'guardrail.db'}"
    with open_engine(url, read_only=True).begin() as connection:
        assert read_statement(connection, "a1", keyring.sealer) == SAID
    with closing(sqlite3.connect(state / "guardrail.db")) as raw, raw:
        raw.execute("update appeals set sealed = (select sealed from appeals where id = 'a1') where id = 'a2'")
    with open_engine(url, read_only=True).begin() as connection, pytest.raises(RecordError, match="a2"):
        read_statement(connection, "a2", keyring.sealer)


async def test_another_process_sees_what_was_decided(open_store: Any, make: Any) -> None:
    here, there = await open_store(poll=0.02), await open_store(poll=0.02)
    [*_, last] = await refused(here, make, 3)
    await here.file_appeal(appeal("a1", last, make))
    await there.flush()
    assert there.standing(make.someone, make.now + 10).step is Step.SUSPEND
    await decide(there, "a1", Ruling.GRANT, make)
    for _ in range(200):
        if here.standing(make.someone, make.now + 61).step is Step.LIMIT:
            break
        await asyncio.sleep(0.02)
    else:
        pytest.fail("the decision was not seen")
    assert (await here.appeals(ident="a1"))[0].state is State.GRANTED


async def test_the_database_itself_holds_one_open_appeal_for_an_incident(
    open_store: Any, make: Any, state: Path
) -> None:
    store = await open_store()
    [incident] = await refused(store, make)
    await store.file_appeal(appeal("a1", incident, make))
    await store.close()
    columns = "at, incident, tenant, subject, identity, state, sealed, seal_key"
    with closing(sqlite3.connect(state / "guardrail.db")) as raw, pytest.raises(sqlite3.IntegrityError):
        raw.execute(f"insert into appeals (id, {columns}) select 'a2', {columns} from appeals")


async def test_a_refused_appeal_does_not_undo_what_was_written_with_it(open_store: Any, make: Any) -> None:
    store = await open_store()
    incidents = [make.incident() for _ in range(3)]
    results = await asyncio.gather(
        store.refuse(incidents[0]),
        store.file_appeal(appeal("a1", "no such incident", make)),
        store.refuse(incidents[1]),
        store.decide_appeal("nothing", Ruling.GRANT, at=make.now, by="r", reason="r"),
        store.refuse(incidents[2]),
        return_exceptions=True,
    )
    assert [type(result).__name__ for result in results] == [
        "Standing", "CaseError", "Standing", "CaseError", "Standing",
    ]  # fmt: skip
    assert store.standing(make.someone, make.now + 1).step is Step.SUSPEND


async def test_while_the_database_is_away_an_appeal_is_refused_and_not_lost_silently(
    open_store: Any, make: Any, state: Path
) -> None:
    store = await open_store(patience=0.05)
    [incident] = await refused(store, make)
    with closing(sqlite3.connect(state / "guardrail.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError):
            await store.file_appeal(appeal("a1", incident, make))
        assert store.degraded
        with pytest.raises(StoreError):
            await store.appeals()
        other.execute("ROLLBACK")
    for _ in range(100):
        await store.flush()
        if not store.degraded:
            break
        await asyncio.sleep(0.05)
    assert (await store.file_appeal(appeal("a1", incident, make))).id == "a1"
