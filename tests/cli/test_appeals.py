"""`guardrail records appeals` and `decide` on a database that a store has written."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from guardrail.cli.records import app
from guardrail.core.admission import Subject
from guardrail.core.appeals import Appeal
from guardrail.core.content import Direction
from guardrail.core.incidents import Hit, Incident
from guardrail.core.policy import Action
from guardrail.records.keys import Keyring
from guardrail.stores.sql import SqlStore

RULE = "mlcommons/violent/lexicon"
STATEMENT = "it was 引文 \x1b[2J of a novel"
OFFENDER = Subject("t", "ab" * 32, "end_user")


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory with a suspended subject who has appealed."""
    for name in ("GUARDRAIL_STATE_DIR", "GUARDRAIL_DATABASE_URL", "GUARDRAIL_KEYS_DIR"):
        monkeypatch.delenv(name, raising=False)

    async def write() -> None:
        store = SqlStore(f"sqlite:///{tmp_path / 'guardrail.db'}", Keyring.open(tmp_path / "keys").sealer)
        await store.start()
        now = time.time()
        hit = Hit(RULE, "violent", "keywords", 0.9, 1, 3, 9)
        for number in range(3):
            await store.refuse(
                Incident(
                    f"i{number}", now - 10 + number, OFFENDER, f"r{number}", "openai_chat", Direction.PROMPT,
                    Action.BLOCK, (hit,), (), "digest", 40, "excerpt", strike=RULE,
                )
            )  # fmt: skip
        await store.file_appeal(Appeal("a1", now, "i2", OFFENDER, STATEMENT))
        await store.close()

    asyncio.run(write())
    return tmp_path


def run(state: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--state-dir", str(state)])


def listed(state: Path, *arguments: str) -> Any:
    return json.loads(run(state, "appeals", "--json", *arguments).stdout)


def test_open_appeals_are_listed_without_a_word_of_them(state: Path) -> None:
    [only] = listed(state)
    assert (only["id"], only["incident"], only["subject"], only["state"]) == ("a1", "i2", OFFENDER.key, "filed")
    for form in (("appeals",), ("appeals", "--json"), ("show", "i2"), ("show", "i2", "--json")):
        result = run(state, *form)
        assert result.exit_code == 0
        assert "a1" in result.stdout
        assert "novel" not in result.output


def test_what_an_appeal_says_is_revealed_with_its_incident_for_a_reason_that_is_kept(state: Path) -> None:
    shown = json.loads(run(state, "show", "i2", "--reveal", "--reason", "review", "--json").stdout)
    assert shown["appeals"][0]["statement"] == STATEMENT
    plain = run(state, "show", "i2", "--reveal", "--reason", "review").stdout
    assert "引文" in plain
    assert "\x1b" not in plain
    with closing(sqlite3.connect(state / "guardrail.db")) as connection:
        assert connection.execute("select count(*) from accesses").fetchone() == (2,)


def test_granting_voids_the_strike_and_marks_the_record(state: Path) -> None:
    result = run(state, "decide", "a1", "--grant", "--reason", "a quotation", "--by", "Wu Min")
    assert result.exit_code == 0, result.output
    assert "a1: granted by Wu Min" in result.stdout
    assert result.stdout.strip().endswith("limit")
    assert listed(state) == []
    [decided] = listed(state, "--all")
    assert (decided["state"], decided["decided_by"], decided["reason"]) == ("granted", "Wu Min", "a quotation")
    incident = json.loads(run(state, "show", "i2", "--json").stdout)
    assert incident["appeals"][0]["state"] == "granted"
    with closing(sqlite3.connect(state / "guardrail.db")) as connection:
        entries = connection.execute("select kind, incident, by from ledger order by id").fetchall()
    assert entries[-1] == ("voided", "i2", "Wu Min")
    assert sum(kind == "strike" for kind, _, _ in entries) == 3, "what was stays in the ledger"


def test_deciding_again_changes_nothing_and_otherwise_is_refused(state: Path) -> None:
    for _ in range(2):
        assert run(state, "decide", "a1", "--deny", "--reason", "no quotation").exit_code == 0
    result = run(state, "decide", "a1", "--grant", "--reason", "after all")
    assert result.exit_code == 2
    assert "denied already" in result.stderr
    subjects = json.loads(run(state, "subjects", "--json").stdout)
    assert subjects[0]["step"] == "suspend"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a1", "--reason", "r"), "--grant or --deny"),
        (("a1", "--grant"), "--reason"),
        (("a1", "--grant", "--reason", "  "), "--reason"),
        (("a1", "--grant", "--reason", "r", "--by", "x" * 129), "128 at most"),
        (("a9", "--grant", "--reason", "r"), "no appeal 'a9'"),
    ],
)
def test_a_decision_that_lacks_something_is_refused_in_one_line(
    state: Path, arguments: tuple[str, ...], said: str
) -> None:
    result = run(state, "decide", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert listed(state)[0]["state"] == "filed"


def test_a_statement_that_was_altered_is_not_shown(state: Path) -> None:
    with closing(sqlite3.connect(state / "guardrail.db")) as connection, connection:
        connection.execute("update appeals set sealed = zeroblob(64)")
    result = run(state, "show", "i2", "--reveal", "--reason", "review")
    assert result.exit_code == 1
    assert "a1" in result.stderr
