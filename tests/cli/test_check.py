"""`guardrail check`: everything a start would load and every case, without a start."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Invoke
from tests.house import BLOCKED, POLICY, REDACTED, run, write_policy, write_settings

CASES = f"""
[[case]]
desc = "block: what the tests forbid"
prompt = "a {BLOCKED}"
expect = ["block"]

[[case]]
desc = "block: something else"
prompt = "a permitted marmalade"
expect = []

[[case]]
desc = "redact: what goes out"
completion = "a {REDACTED}"
expect = ["redact"]

[[case]]
desc = "redact: a badger that is none"
completion = "a badger"
expect = []
"""

CLASSIFIER_RULE = """
[[rule]]
id = "insult"
detector = "classifier"
label = "insult"
category = "insult"
action = "block"
"""
CLASSIFIER_CASES = """
[[case]]
desc = "insult: a plain one"
prompt = "you fool"
detector = "classifier"
expect = ["insult"]
"""


@pytest.fixture
def cases(home: Path) -> Path:
    """The file of the cases of the policy "house", in which all is well."""
    file = home / "policies" / "house" / "cases.toml"
    file.write_text(CASES, encoding="utf-8")
    return file


def rows(out: str) -> list[list[str]]:
    """The table: policy, rules, cases, failed."""
    table = out.splitlines()[1:]
    return [line.split() for line in table if len(line.split()) == 4 and line.split()[1].isdigit()]


def test_when_all_is_well_it_counts_rules_and_cases_and_ends_with_0(invoke: Invoke, cases: Path) -> None:
    ended = invoke("check")
    assert (ended.code, ended.err) == (0, "")
    assert rows(ended.out) == [["house", "2", "4", "0"]]
    assert "profile bare, policy " in ended.out


def test_a_case_of_an_operators_own_policy_that_fails_ends_with_1_and_shows_no_text(
    invoke: Invoke, cases: Path
) -> None:
    cases.write_text(CASES.replace("a permitted marmalade", f"a quite {BLOCKED}"), encoding="utf-8")
    ended = invoke("check")
    assert ended.code == 1
    assert "FAILED  house: block: something else: expected nothing; got house/block" in ended.out
    assert rows(ended.out) == [["house", "2", "4", "1"]]
    assert "quite" not in ended.out + ended.err


@pytest.mark.parametrize(
    ("without", "says"),
    [
        ("block: something else", "LACKING house/block: a near miss"),
        ("block: what the tests forbid", "LACKING house/block: a match"),
    ],
)
def test_a_rule_without_a_match_or_a_near_miss_ends_with_1(
    without: str, says: str, invoke: Invoke, cases: Path
) -> None:
    kept = [case for case in CASES.split("[[case]]")[1:] if without not in case]
    cases.write_text("".join(f"[[case]]{case}" for case in kept), encoding="utf-8")
    ended = invoke("check")
    assert ended.code == 1
    assert says in ended.out


def test_cases_of_a_detector_that_is_switched_off_are_left_out(invoke: Invoke, home: Path, cases: Path) -> None:
    write_policy(home, policy=POLICY + CLASSIFIER_RULE)
    cases.write_text(CASES + CLASSIFIER_CASES, encoding="utf-8")
    ended = invoke("check")
    assert ended.code == 0, ended.out
    assert rows(ended.out) == [["house", "2", "4", "0"]]
    assert "1 rules are not enforced" in ended.out


@pytest.mark.slow
def test_the_shipped_policies_pass_without_a_model(home: Path) -> None:
    file = write_settings(home)
    file.write_text(file.read_text().replace('"bare"', '"cn_2026"'))
    ended = run(
        home, "check", GUARDRAIL_PROVIDER__NAME="Tests", GUARDRAIL_PROVIDER__CODE="A" * 27,
        GUARDRAIL_POLICIES__DIRECTORIES="[]",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "FAILED" not in ended.stdout
    assert {name for name, _, cases, failed in rows(ended.stdout) if int(cases) and failed == "0"} == {
        "mlcommons", "cn-genai", "prompt-injection",
    }  # fmt: skip
    assert not (home / "state").exists(), "nothing is started, and nothing made"


@pytest.mark.parametrize(
    ("change", "arguments", "says"),
    [
        ("", ("--profile", "nope"), 'profile: got "nope"; expected'),
        ("", ("--config", "nowhere.toml"), "nowhere.toml: no such file"),
        ("[[case]]\ndesc = 'x'\nprompt = 'y'\nexpect = ['z']\n", (), 'expect names "z"; expected block or redact'),
        ("[[case]]\ndesc = 'x'\nexpect = []\n", (), "expected either prompt or completion"),
        ("[[case]]\n[[case]]\n", (), "desc"),
    ],
)
def test_what_cannot_be_loaded_ends_with_2_and_one_line(
    change: str, arguments: tuple[str, ...], says: str, invoke: Invoke, cases: Path
) -> None:
    cases.write_text(CASES + change, encoding="utf-8")
    ended = invoke("check", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("guardrail: ")
    assert says in ended.err
    assert len(ended.err.splitlines()) == 1


def test_a_policy_without_cases_ends_with_2(invoke: Invoke) -> None:
    ended = invoke("check")
    assert ended.code == 2
    assert "house: cases.toml is missing" in ended.err
