"""`guardrail records export-cases`: the whole way from a refused request to rows that `guardrail train` takes."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import stat
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from typer.testing import CliRunner, Result

from guardrail.cli.records import app
from guardrail.core.admission import Subject
from guardrail.core.appeals import Appeal, Ruling
from guardrail.core.content import Direction
from guardrail.core.incidents import Hit, Incident
from guardrail.core.policy import Action
from guardrail.records.keys import Keyring
from guardrail.stores.sql import SqlStore
from guardrail.training.rows import read_rows
from tests.inference.tiny import write_card, write_model

TEXTS = {
    "granted": "You are a fool, says the clown in act two. Ask liu.wei@example.com for the script.",
    "denied": "你是个笨蛋，电话13812345678，明天就炸了你家。",
    "open": "canary-open",
    "unseen": "canary-unseen",
}


def incident(ident: str, text: str, subject: str = "ab", detector: str = "classifier") -> Incident:
    hit = Hit("mlcommons/vcr-violent-crimes/classifier", "vcr", detector, 0.9, 0, 0, len(text))
    return Incident(
        ident, time.time(), Subject("t", subject * 32, "end_user"), f"r-{ident}", "openai_chat", Direction.PROMPT,
        Action.BLOCK, (hit,), (), "digest", len(text), text,
    )  # fmt: skip


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory with incidents of every standing: an appeal granted, one denied, one open, none."""
    for name in ("GUARDRAIL_STATE_DIR", "GUARDRAIL_DATABASE_URL", "GUARDRAIL_KEYS_DIR"):
        monkeypatch.delenv(name, raising=False)

    async def write() -> None:
        store = SqlStore(f"sqlite:///{tmp_path / 'guardrail.db'}", Keyring.open(tmp_path / "keys").sealer)
        await store.start()
        for ident, text in TEXTS.items():
            await store.refuse(incident(ident, text, "cd" if ident == "denied" else "ab"))
        await store.refuse(incident("phrase", "bomb", detector="keywords"))
        for ident in ("granted", "denied", "open", "phrase"):
            about = incident(ident, "")
            await store.file_appeal(Appeal(f"a-{ident}", time.time(), ident, about.subject, "statement"))
        for ident, ruling in (("granted", Ruling.GRANT), ("phrase", Ruling.GRANT), ("denied", Ruling.DENY)):
            await store.decide_appeal(f"a-{ident}", ruling, at=time.time(), by="Wu Min", reason="looked at")
        await store.close()

    asyncio.run(write())
    return tmp_path


def run(state: Path, *arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments), "--state-dir", str(state)])


def accesses(state: Path) -> list[tuple[str, str, str]]:
    with closing(sqlite3.connect(state / "guardrail.db")) as connection:
        return connection.execute("select what, incident, reason from accesses order by incident").fetchall()


def test_rulings_become_labels_and_personal_data_is_gone(state: Path) -> None:
    file = state / "cases.jsonl"
    result = run(state, "export-cases", file, "--reason", "retraining 3")
    assert result.exit_code == 0, result.output
    assert "1 safe and 1 unsafe rows" in result.stdout
    rows = {row.id: row for row in read_rows(file)}
    assert set(rows) == {"granted", "denied"}
    safe, unsafe = rows["granted"], rows["denied"]
    assert (safe.label, safe.lang, safe.kind, safe.cls, safe.source) == ("safe", "en", "prompt", "safe", "cases")
    assert (unsafe.label, unsafe.lang, unsafe.cls) == ("unsafe", "zh", "violence_terror")
    assert safe.text == "You are a fool, says the clown in act two. Ask [EMAIL] for the script."
    assert "13812345678" not in unsafe.text
    assert "明天就炸了你家" in unsafe.text
    from guardrail.detectors.pii.detector import find

    assert [find(row.text) for row in rows.values()] == [[], []]


def test_the_file_is_its_owners_alone_and_the_command_says_what_it_holds(state: Path) -> None:
    file = state / "cases.jsonl"
    result = run(state, "export-cases", file, "--reason", "retraining 3")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "holds what people wrote" in result.stderr
    for text in ("fool", "笨蛋", "canary"):
        assert text not in result.output
    assert "canary" not in file.read_text()


def test_every_excerpt_that_was_opened_is_noted_with_the_reason(state: Path) -> None:
    run(state, "export-cases", state / "cases.jsonl", "--reason", "retraining 3")
    assert accesses(state) == [("export", ident, "retraining 3") for ident in ("denied", "granted", "phrase")]


def test_what_is_left_out_is_counted_and_phrases_can_be_asked_for(state: Path) -> None:
    result = run(state, "export-cases", state / "one.jsonl", "--reason", "r")
    assert "left out: 1, as the excerpt is a matched phrase alone" in result.stderr
    run(state, "export-cases", state / "two.jsonl", "--reason", "r", "--phrases")
    assert "phrase" in {row.id for row in read_rows(state / "two.jsonl")}


def test_the_words_of_who_opted_out_are_not_opened(state: Path) -> None:
    listed = state / "opted-out.txt"
    listed.write_text("# asked on 3 May\n" + "cd" * 5 + "\n\n")
    result = run(state, "export-cases", state / "cases.jsonl", "--reason", "r", "--opted-out", listed)
    assert result.exit_code == 0
    assert {row.id for row in read_rows(state / "cases.jsonl")} == {"granted"}
    assert "left out: 1, as the person opted out" in result.stderr
    assert "denied" not in {ident for _, ident, _ in accesses(state)}


def test_an_altered_excerpt_is_left_out_and_named(state: Path) -> None:
    with closing(sqlite3.connect(state / "guardrail.db")) as connection, connection:
        connection.execute("update incidents set sealed = zeroblob(64) where id = 'denied'")
    result = run(state, "export-cases", state / "cases.jsonl", "--reason", "r")
    assert result.exit_code == 0
    assert "left out: record denied" in result.stderr
    assert {row.id for row in read_rows(state / "cases.jsonl")} == {"granted"}


def test_without_the_key_nothing_is_written(state: Path, tmp_path: Path) -> None:
    Keyring.open(tmp_path / "other")
    for keys, code in (("other", 1), ("none", 2)):
        result = run(state, "export-cases", state / "cases.jsonl", "--reason", "r", "--keys-dir", tmp_path / keys)
        assert result.exit_code == code
        assert not (state / "cases.jsonl").exists()
    assert accesses(state) == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "--reason is needed"),
        (("--reason", " "), 2, "--reason is needed"),
        (("--reason", "r", "--opted-out", "nowhere.txt"), 2, "nowhere.txt cannot be read"),
    ],
)
def test_bad_usage_ends_with_one_line(state: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    result = run(state, "export-cases", state / "cases.jsonl", *arguments)
    assert (result.exit_code, len(result.stderr.strip().splitlines())) == (code, 1)
    assert said in result.stderr
    assert not (state / "cases.jsonl").exists()


def test_a_file_that_is_there_is_not_written_over_and_a_short_key_is_refused(state: Path) -> None:
    (state / "cases.jsonl").write_text("mine")
    assert run(state, "export-cases", state / "cases.jsonl", "--reason", "r").exit_code == 2
    assert (state / "cases.jsonl").read_text() == "mine"
    (state / "short.txt").write_text("abc\n")
    result = run(state, "export-cases", state / "new.jsonl", "--reason", "r", "--opted-out", state / "short.txt")
    assert (result.exit_code, "8 digits" in result.stderr) == (2, True)


def test_with_nothing_decided_there_is_no_file(state: Path) -> None:
    with closing(sqlite3.connect(state / "guardrail.db")) as connection, connection:
        connection.execute("update appeals set state = 'denied' where state = 'filed'")
        connection.execute("delete from appeals")
    result = run(state, "export-cases", state / "cases.jsonl", "--reason", "r")
    assert result.exit_code == 1
    assert not (state / "cases.jsonl").exists()


POLICY = """
id = "house"
title = "House"

[[rule]]
id = "political"
detector = "classifier"
label = "political"
category = "house-politics"
action = "block"
threshold = 0.000001
"""

TRAINING = """
[model]
id = "ours"
title = "Ours"
license = "Apache-2.0"
languages = ["en"]
backbone = { name = "b", source = "here", license = "MIT" }

[[mix]]
source = "cases"
rows = 100
"""


async def test_the_whole_way_from_refused_requests_to_the_rows_of_a_training_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from guardrail.app import Guard
    from guardrail.testing import ScriptedUpstream, chat, drive
    from guardrail.training.config import load_config
    from guardrail.training.run import gather

    monkeypatch.chdir(tmp_path)
    folder = write_model(tmp_path / "tiny")
    write_card(folder)
    pack = tmp_path / "policies" / "house"
    pack.mkdir(parents=True)
    (pack / "policy.toml").write_text(POLICY)
    (tmp_path / "policies" / "profiles").mkdir()
    (tmp_path / "policies" / "profiles" / "bare.toml").write_text('title = "Bare"\npolicies = ["house"]\n')
    guard = Guard.from_settings(
        profile="bare",
        state_dir=tmp_path / "state",
        policies={"directories": [tmp_path / "policies"]},
        classifier={"model": str(folder), "threads": 1},
        keywords={"enabled": False},
        pii={"enabled": False},
    )
    texts = ("you are a fool", "make a bomb today")
    async with guard:
        proxy = guard.proxy_app(ScriptedUpstream([b'{"choices":[]}'], media="application/json"))
        for text in texts:
            refused = await drive(proxy, "/v1/chat/completions", chat(text), headers={"authorization": "Bearer sk-a"})
            assert refused.status == 400, refused.body
            link = parse_qs(urlsplit(refused.json()["error"]["guardrail"]["appeal_url"]).query)
            filed = await drive(
                proxy,
                "/guardrail/appeals",
                {"incident": link["incident"][0], "capability": link["capability"][0], "statement": "I object"},
            )
            assert filed.status == 201, filed.body
    state = tmp_path / "state"
    listed = json.loads(CliRunner().invoke(app, ["appeals", "--json", "--state-dir", str(state)]).stdout)
    for appeal, ruling in zip(listed, ("--grant", "--deny"), strict=True):
        assert run(state, "decide", appeal["id"], ruling, "--reason", "r", "--by", "Wu Min").exit_code == 0
    cases = tmp_path / "cases.jsonl"
    result = run(state, "export-cases", cases, "--reason", "r", "--policies", tmp_path / "policies")
    assert result.exit_code == 0, result.output

    (tmp_path / "train.toml").write_text(TRAINING)
    material = gather(load_config(tmp_path / "train.toml"), [cases], [])
    assert {(row.text, row.label, row.cls, row.source) for row in material.mix} == {
        (texts[0], "safe", "safe", "cases"),
        (texts[1], "unsafe", "political", "cases"),
    }
