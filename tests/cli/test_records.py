"""`guardrail records` on a database that a store has written."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from guardrail.cli.records import app
from guardrail.core.admission import Subject
from guardrail.core.content import Direction
from guardrail.core.incidents import Hit, Incident
from guardrail.core.policy import Action
from guardrail.core.sanctions import Step
from guardrail.records.keys import Keyring
from guardrail.stores.sql import SqlStore

SECRET = "canary 暗号 \x1b[2J"
RULE = "mlcommons/violent/lexicon"


def incident(ident: str, subject: Subject, at: float, rule: str = RULE, category: str = "violent") -> Incident:
    hit = Hit(rule, category, "keywords", 0.9, 1, 3, 9)
    return Incident(
        ident, at, subject, f"r-{ident}", "openai_chat", Direction.PROMPT, Action.BLOCK, (hit,), (), "digest", 40,
        SECRET, strike=rule,
    )  # fmt: skip


@pytest.fixture
def offender() -> Subject:
    return Subject("t", "ab" * 32, "end_user")


@pytest.fixture
def state(tmp_path: Path, offender: Subject, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory with three strikes of one subject and an old incident of another."""
    for name in ("GUARDRAIL_STATE_DIR", "GUARDRAIL_DATABASE_URL", "GUARDRAIL_KEYS_DIR"):
        monkeypatch.delenv(name, raising=False)

    async def write() -> None:
        store = SqlStore(f"sqlite:///{tmp_path / 'guardrail.db'}", Keyring.open(tmp_path / "keys").sealer)
        await store.start()
        now = time.time()
        await store.refuse(incident("old", Subject("t", "cd" * 32), now - 5 * 86400, "pii/email", "pii"))
        for number in range(3):
            await store.refuse(incident(f"i{number}", offender, now - 10 + number))
        await store.close()

    asyncio.run(write())
    return tmp_path


def run(state: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--state-dir", str(state)])


def ids(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return [json.loads(line)["id"] for line in result.stdout.splitlines()]


def test_list_shows_rules_places_and_lengths_and_never_a_word(state: Path) -> None:
    result = run(state, "list")
    assert result.exit_code == 0
    for shown in ("i0", "i2", "old", RULE, "1:3-9", "40", "abababababab"):
        assert shown in result.stdout
    for form in (("list",), ("list", "--json"), ("list", "--jsonl"), ("show", "i0"), ("show", "i0", "--json")):
        output = run(state, *form).output
        assert "canary" not in output
        assert "暗号" not in output
        assert "\\u6697" not in output


def test_list_filters(state: Path) -> None:
    assert ids(run(state, "list", "--jsonl")) == ["i2", "i1", "i0", "old"]
    assert ids(run(state, "list", "--jsonl", "--limit", "2")) == ["i2", "i1"]
    assert ids(run(state, "list", "--jsonl", "--category", "pii")) == ["old"]
    assert ids(run(state, "list", "--jsonl", "--rule", RULE)) == ["i2", "i1", "i0"]
    assert ids(run(state, "list", "--jsonl", "--rule", "mlcommons")) == ["i2", "i1", "i0"]
    assert ids(run(state, "list", "--jsonl", "--rule", "mlcommons/viol")) == []
    assert ids(run(state, "list", "--jsonl", "--subject", "cdcd")) == ["old"]
    assert ids(run(state, "list", "--jsonl", "--subject", "%")) == []
    assert ids(run(state, "list", "--jsonl", "--since", "24h")) == ["i2", "i1", "i0"]
    assert ids(run(state, "list", "--jsonl", "--since", "2020-01-01")) == ["i2", "i1", "i0", "old"]
    assert ids(run(state, "list", "--jsonl", "--since", "2999-01-01T00:00Z")) == []


def test_json_is_one_document_with_the_documented_keys(state: Path, offender: Subject) -> None:
    listed = json.loads(run(state, "list", "--json", "--limit", "1").stdout)
    assert listed[0]["subject"] == offender.key
    assert listed[0]["hits"] == [
        {"rule": RULE, "category": "violent", "detector": "keywords", "score": 0.9, "segment": 1, "start": 3, "end": 9,
         "digest": None},
    ]  # fmt: skip
    assert listed[0]["at"].endswith("Z")


def test_show_reveals_for_a_reason_and_writes_down_who_and_why(state: Path) -> None:
    result = run(state, "show", "i1", "--reveal", "--reason", "appeal 12", "--json")
    assert json.loads(result.stdout)["excerpt"] == SECRET
    import sqlite3

    [(by, what, ident, reason)] = sqlite3.connect(state / "guardrail.db").execute(
        "select by, what, incident, reason from accesses"
    )
    assert (what, ident, reason) == ("reveal", "i1", "appeal 12")
    assert by


def test_what_is_revealed_cannot_drive_the_terminal(state: Path) -> None:
    result = run(state, "show", "i1", "--reveal", "--reason", "appeal 12")
    assert "canary 暗号" in result.stdout
    assert "\x1b" not in result.stdout


def test_nothing_is_revealed_without_a_reason_or_with_other_keys(state: Path, tmp_path: Path) -> None:
    for arguments in (("--reveal",), ("--reveal", "--reason", "  ")):
        result = run(state, "show", "i1", *arguments)
        assert result.exit_code == 2
        assert "--reason" in result.stderr
    Keyring.open(tmp_path / "other")
    result = run(state, "show", "i1", "--reveal", "--reason", "x", "--keys-dir", str(tmp_path / "other"))
    assert result.exit_code == 1
    assert "not among the keys" in result.stderr
    assert run(state, "show", "i1", "--reveal", "--reason", "x", "--keys-dir", str(tmp_path / "none")).exit_code == 2
    assert not (tmp_path / "none").exists()


def test_an_altered_excerpt_does_not_verify(state: Path) -> None:
    import sqlite3

    with sqlite3.connect(state / "guardrail.db") as connection:
        connection.execute(
            "update incidents set sealed = (select sealed from incidents where id = 'i0') where id = 'i1'"
        )
    result = run(state, "show", "i1", "--reveal", "--reason", "x")
    assert result.exit_code == 1
    assert "altered" in result.stderr


def test_subjects_shows_who_stands_where(state: Path, offender: Subject) -> None:
    rows = {row["subject"]: row for row in json.loads(run(state, "subjects", "--json").stdout)}
    assert rows[offender.key]["step"] == "suspend"
    assert rows[offender.key]["suspensions"] == 1
    assert rows[offender.key]["identity"] == "end_user"
    assert rows["cd" * 32]["step"] == "none"
    assert rows["cd" * 32]["strikes_in_a_row"] == 1
    assert "suspend" in run(state, "subjects").stdout


def test_lift_ends_a_suspension_which_a_running_worker_sees(state: Path, offender: Subject) -> None:
    async def watch() -> tuple[Step, Step]:
        store = SqlStore(f"sqlite:///{state / 'guardrail.db'}", Keyring.open(state / "keys").sealer)
        await store.start()
        before = store.standing(offender, time.time()).step
        result = await asyncio.to_thread(run, state, "lift", offender.key[:10], "--reason", "wrong rule")
        assert result.exit_code == 0, result.output
        assert "suspend lifted" in result.stdout
        await asyncio.sleep(0.5)
        after = store.standing(offender, time.time()).step
        await store.close()
        return before, after

    assert asyncio.run(watch()) == (Step.SUSPEND, Step.NONE)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("show", "nope"), "no incident 'nope'"),
        (("list", "--since", "yesterday"), "expected 90m"),
        (("lift", "abababab"), "--reason"),
        (("lift", "ab", "--reason", "x"), "too short"),
        (("lift", "ffffffff", "--reason", "x"), "no subject begins with"),
        (("list", "--database-url", "mysql://x/y"), "sqlite:///PATH"),
        (("list", "--database-url", "sqlite:////nowhere/x.db"), "no database at /nowhere/x.db"),
        (("list", "--limit", "0"), "--limit"),
    ],
)
def test_bad_input_ends_with_2_and_one_clear_line(state: Path, arguments: tuple[str, ...], says: str) -> None:
    result = run(state, *arguments)
    assert result.exit_code == 2
    assert says in result.stderr
    assert "Traceback" not in result.output


def test_a_file_that_is_no_database_ends_with_2(state: Path) -> None:
    (state / "text.db").write_text("nothing that SQLite knows, though long enough to be looked at\n" * 30)
    result = run(state, "list", "--database-url", f"sqlite:///{state / 'text.db'}")
    assert result.exit_code == 2
    assert "cannot be read" in result.stderr


def test_looking_takes_no_lock_and_changes_nothing(state: Path) -> None:
    import sqlite3

    lock = sqlite3.connect(state / "guardrail.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    assert len(ids(run(state, "list", "--jsonl"))) == 4
    assert time.monotonic() - began < 2
    lock.close()
