"""`guardrail screen`: what it prints, in which shape, and how it ends."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from guardrail import Guard
from tests.cli.conftest import Invoke
from tests.house import BLOCKED, POLICY, REDACTED, run, write_policy, write_settings

MATCH = {"rule", "category", "detector", "score", "start", "end"}


def screened(invoke: Invoke, *arguments: str, given: str = "") -> dict[str, Any]:
    ended = invoke("screen", *arguments, "--json", given=given)
    assert (ended.code, ended.err) == (0, "")
    [line] = ended.out.splitlines()
    answer: dict[str, Any] = json.loads(line)
    return answer


def test_json_has_exactly_the_documented_keys_and_counts_code_points(invoke: Invoke) -> None:
    text = f"😀𠮷 a {BLOCKED}, 文"
    answer = screened(invoke, text)
    assert answer.keys() == {"action", "matches", "failures", "policy"}
    [match] = answer["matches"]
    assert match.keys() == MATCH
    assert text[match["start"] : match["end"]] == BLOCKED
    assert (match["rule"], match["category"], match["detector"], match["score"]) == (
        "house/block", "house-blocked", "keywords", 1.0,
    )  # fmt: skip
    assert (answer["action"], answer["failures"]) == ("block", [])
    assert int(answer["policy"], 16) > 0


def test_only_a_redacted_text_is_printed_again(invoke: Invoke) -> None:
    answer = screened(invoke, f"a {REDACTED} b")
    assert (answer["action"], answer["text"]) == ("redact", "a [removed] b")
    assert "text" not in screened(invoke, "nothing of the kind")
    assert screened(invoke, "nothing of the kind")["action"] == "allow"
    blocked = invoke("screen", f"{REDACTED} and {BLOCKED}", "--json").out
    assert REDACTED not in blocked
    assert BLOCKED not in blocked


@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_without_a_text_standard_input_is_screened(arguments: tuple[str, ...], invoke: Invoke) -> None:
    assert screened(invoke, *arguments, given=f"first line\nsecond {BLOCKED}\n")["action"] == "block"


def test_a_blocked_text_is_no_failure_of_the_command(home: Path) -> None:
    ended = run(home, "screen", given=f"第一行 {BLOCKED}")
    assert (ended.returncode, ended.stderr) == (0, "")
    first, *rows = ended.stdout.splitlines()
    assert first.startswith("block ")
    assert any("house/block" in row and "4-23" in row for row in rows)


def test_people_are_shown_the_action_the_rules_and_the_redacted_text(invoke: Invoke) -> None:
    ended = invoke("screen", f"a {REDACTED} b")
    assert ended.code == 0
    assert ended.out.startswith("redact ")
    assert "house/redact" in ended.out
    assert "sent on as: a [removed] b" in ended.out
    assert invoke("screen", "fine").out.startswith("allow ")


def test_rules_of_one_direction_hold_in_that_direction(invoke: Invoke, home: Path) -> None:
    write_policy(home, policy=POLICY.replace("strike = true\n", 'strike = true\ndirections = ["completion"]\n'))
    assert screened(invoke, BLOCKED)["action"] == "allow"
    assert screened(invoke, BLOCKED, "--direction", "completion")["action"] == "block"
    assert invoke("screen", BLOCKED, "--direction", "sideways").code == 2


def test_a_policy_alone_can_be_asked_for_and_an_unknown_one_ends_with_2(invoke: Invoke, home: Path) -> None:
    write_policy(home, "other", blocked="something else")
    write_settings(home)
    both = ("house/redact", "other/redact")
    assert tuple(match["rule"] for match in screened(invoke, REDACTED)["matches"]) == both
    alone = screened(invoke, REDACTED, "--policy", "other")
    assert tuple(match["rule"] for match in alone["matches"]) == ("other/redact",)
    assert len(screened(invoke, REDACTED, "--policy", "other", "--policy", "house")["matches"]) == 2
    ended = invoke("screen", REDACTED, "--policy", "nope")
    assert ended.code == 2
    assert ended.err == "guardrail: no policy 'nope' is loaded; expected one of house, other\n"
    assert ended.out == ""


def test_a_detector_that_gives_no_answer_is_named_and_on_error_answers(invoke: Invoke, home: Path) -> None:
    write_policy(
        home,
        policy=POLICY + '[[rule]]\nid = "c"\ndetector = "classifier"\nlabel = "x"\ncategory = "x"\naction = "block"\n',
    )
    folder = home / "model"
    folder.mkdir()
    (folder / "model.toml").write_text('id = "m"\ntitle = "M"\n[labels.x]\ncategory = "x"\n')
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    file = write_settings(home)
    away = f'enabled = true\nmodel = "{folder}"\nurl = "http://127.0.0.1:{port}"\n'
    file.write_text(file.read_text().replace("enabled = false\n", away, 1))
    answer = screened(invoke, "harmless")
    assert answer["action"] == "block"
    assert answer["matches"] == []
    assert answer["failures"] == [{"detector": "classifier", "kind": "error"}]
    assert "classifier gave no answer: error" in invoke("screen", "harmless").out


def test_a_file_of_rows_gives_one_verdict_a_line_in_its_order(invoke: Invoke, home: Path) -> None:
    rows = [
        {"text": "fine"},
        {"text": BLOCKED, "id": 7},
        {"text": f"a {REDACTED}", "direction": "completion"},
        *({"text": BLOCKED if number % 3 == 0 else "fine"} for number in range(70)),
    ]
    file = home / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    ended = invoke("screen", "--jsonl", str(file))
    assert (ended.code, ended.err) == (0, "")
    actions = [json.loads(line)["action"] for line in ended.out.splitlines()]
    assert actions[:3] == ["allow", "block", "redact"]
    assert actions[3:] == ["block" if number % 3 == 0 else "allow" for number in range(70)]


@pytest.mark.parametrize(
    "line", ["{", "[]", '"text"', "{}", '{"txt": "a"}', '{"text": 7}', '{"text": "a", "direction": "up"}', "null"]
)
def test_a_row_that_cannot_be_screened_is_named_before_anything_is_printed(
    line: str, invoke: Invoke, home: Path
) -> None:
    file = home / "rows.jsonl"
    file.write_text(f'{{"text": "fine"}}\n\n{line}\n', encoding="utf-8")
    ended = invoke("screen", "--jsonl", str(file))
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"guardrail: {file}:3: expected ")


def test_a_file_that_cannot_be_read_ends_with_2(invoke: Invoke, home: Path) -> None:
    ended = invoke("screen", "--jsonl", str(home / "nowhere.jsonl"))
    assert ended.code == 2
    assert "nowhere.jsonl: No such file or directory" in ended.err
    (home / "latin.jsonl").write_bytes(b'{"text": "\xe9"}\n')
    ended = invoke("screen", "--jsonl", str(home / "latin.jsonl"))
    assert ended.code == 2
    assert "latin.jsonl: not UTF-8" in ended.err


def test_nothing_is_recorded_and_nothing_made(invoke: Invoke, home: Path) -> None:
    before = sorted(home.rglob("*"))
    for _ in range(3):
        screened(invoke, BLOCKED)
    assert sorted(home.rglob("*")) == before


def test_the_endpoint_answers_what_the_command_prints(invoke: Invoke, home: Path) -> None:
    guard = Guard.from_settings(home / "guardrail.toml")
    token = {"authorization": "Bearer " + _token(guard, home)}
    with TestClient(guard.public_app()) as client:
        for text in (BLOCKED, f"😀 {REDACTED}", "fine"):
            answer = client.post("/guardrail/screen", json={"text": text, "direction": "prompt"}, headers=token)
            assert answer.status_code == 200
            assert answer.json() == screened(invoke, text)


def _token(guard: Guard, home: Path) -> str:
    from guardrail.settings import admin_token

    return admin_token(guard.settings)
