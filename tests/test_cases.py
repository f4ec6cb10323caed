"""Running the cases beside a policy: what counts as passed, what is refused, what a rule still lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from guardrail.cases import Case, Outcome, Report, read_cases, run, uncovered
from guardrail.core.content import Direction
from guardrail.core.findings import Finding
from guardrail.core.policy import Action, Policy, Rule
from guardrail.core.verdict import Match, Verdict
from guardrail.errors import PolicyError


def rule(name: str, detector: str = "keywords") -> Rule:
    return Rule(name, detector, frozenset({name}), "test", 1.0, Action.BLOCK)


PACK = Policy("one", "T", (rule("one/word"), rule("one/model", "classifier")))
OTHER = Policy("two", "T", (rule("two/word"),))


def verdict(*rules: Rule) -> Verdict:
    return Verdict(Action.BLOCK, tuple(Match(r, Finding(r.detector, r.id, 1.0, 0, 1, 1)) for r in rules), (), "digest")


def write(tmp_path: Path, text: str) -> Path:
    (tmp_path / "one").mkdir(exist_ok=True)
    (tmp_path / "one" / "cases.toml").write_text(text, encoding="utf-8")
    return tmp_path


MATCH = '[[case]]\ndesc = "word: a match"\nprompt = "sesame"\nexpect = ["word"]\n'
NEAR = '[[case]]\ndesc = "word: near miss"\ncompletion = "sesam"\nexpect = []\n'


def test_cases_are_read_with_direction_full_rule_ids_and_the_files_detector(tmp_path: Path) -> None:
    both = MATCH + NEAR + '[[case]]\ndesc = "all"\ndetector = ""\nprompt = "x"\nexpect = []\n'
    cases = read_cases([write(tmp_path, 'detector = "keywords"\n' + both)], [PACK])
    assert [case.direction for case in cases] == [Direction.PROMPT, Direction.COMPLETION, Direction.PROMPT]
    assert cases[0] == Case("one", "word: a match", "sesame", Direction.PROMPT, frozenset({"one/word"}), "keywords")
    assert [case.detector for case in cases] == ["keywords", "keywords", ""]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[case]]\ndesc = "d"\nexpect = []\n', 'case "d": expected either prompt or completion'),
        ('[[case]]\ndesc = "d"\nprompt = "p"\ncompletion = "c"\nexpect = []\n', "expected either prompt or completion"),
        ('[[case]]\ndesc = "d"\nprompt = "p"\nexpect = ["wrd"]\n', 'expect names "wrd"; expected model or word'),
        ('[[case]]\ndesc = "d"\nprompt = "p"\n', 'key "expect" is missing; expected a list of: text'),
        ('[[case]]\ndesc = "d"\nprompt = "p"\nexpects = []\n', 'unknown key "expects"; known keys: desc, prompt,'),
        ('[[case]]\nprompt = "p"\nexpect = []\n', 'case 1: key "desc" is missing'),
        (MATCH + MATCH, "desc is there already; expected each once"),
        ('detector = "classifier"\n' + MATCH, 'expect names "word", which is no rule of detector "classifier"'),
        ("[[case]]\ndesc = \n", "cases.toml: not valid TOML"),
    ],
)
def test_a_case_that_cannot_be_run_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        read_cases([write(tmp_path, text)], [PACK])
    assert message in str(caught.value)


def test_a_policy_without_cases_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"cases.toml is missing; expected a match and a near miss per rule"):
        read_cases([write(tmp_path, MATCH)], [PACK, OTHER])


def test_cases_of_rules_that_are_not_enforced_are_left_out(tmp_path: Path) -> None:
    model = '[[case]]\ndesc = "model: a match"\nprompt = "x"\nexpect = ["model"]\n'
    near = '[[case]]\ndesc = "model: near miss"\ndetector = "classifier"\nprompt = "y"\nexpect = []\n'
    words = Policy("one", "T", (rule("one/word"),))
    directory = write(tmp_path, MATCH + model + near)
    assert [case.desc for case in read_cases([directory], [words], ["one/model"])] == ["word: a match"]
    assert len(read_cases([directory], [PACK])) == 3


async def test_a_case_passes_when_exactly_its_rules_match(tmp_path: Path) -> None:
    cases = read_cases([write(tmp_path, MATCH + NEAR)], [PACK])

    async def screen(text: str, direction: Direction) -> Verdict:
        return verdict(rule("one/word"))

    outcomes = [outcome async for outcome in run(cases, screen)]
    assert [outcome.passed for outcome in outcomes] == [True, False]
    assert str(outcomes[1]) == "one: word: near miss: expected nothing; got one/word"


async def test_rules_of_other_policies_and_other_detectors_do_not_count(tmp_path: Path) -> None:
    cases = read_cases([write(tmp_path, 'detector = "keywords"\n' + MATCH)], [PACK])

    async def screen(text: str, direction: Direction) -> Verdict:
        return verdict(rule("one/word"), rule("one/model", "classifier"), rule("two/word"))

    assert [outcome.passed async for outcome in run(cases, screen)] == [True]


def test_an_outcome_says_what_went_wrong_without_the_text() -> None:
    case = Case("one", "word: a match", "secret words", Direction.PROMPT, frozenset({"one/word"}))
    assert "secret" not in str(Outcome(case, frozenset()))
    assert str(Outcome(case, frozenset())) == "one: word: a match: expected one/word; got nothing"


def test_a_report_counts_by_policy_and_by_rule() -> None:
    wanted = Case("one", "word: a match", "a", Direction.PROMPT, frozenset({"one/word"}))
    near = Case("one", "word: near miss", "b", Direction.PROMPT, frozenset())
    report = Report()
    for outcome in (
        Outcome(wanted, frozenset({"one/word"})),
        Outcome(wanted, frozenset()),
        Outcome(near, frozenset({"one/model"})),
    ):
        report.add(outcome)
    assert (report.run["one"], report.wrong["one"], report.passed) == (3, 2, False)
    assert (report.expected["one/word"], report.matched["one/word"], report.surplus["one/model"]) == (2, 1, 1)
    assert len(report.failed) == 2


def test_a_rule_lacks_what_no_case_is_about(tmp_path: Path) -> None:
    match = 'detector = "keywords"\n' + MATCH
    assert uncovered(read_cases([write(tmp_path, match + NEAR)], [PACK]), [PACK]) == {
        "one/model": "a match and a near miss"
    }
    assert uncovered(read_cases([write(tmp_path, match)], [PACK]), [PACK])["one/word"] == "a near miss"
    stray = '[[case]]\ndesc = "something harmless"\nprompt = "b"\nexpect = []\n'
    assert uncovered(read_cases([write(tmp_path, match + stray)], [PACK]), [PACK])["one/word"] == "a near miss"


def test_a_near_miss_of_a_family_counts_for_each_of_its_rules() -> None:
    family = Policy("one", "T", (rule("one/a/word"), rule("one/a/other")))
    cases = [
        Case("one", "x", "a", Direction.PROMPT, frozenset({"one/a/word", "one/a/other"})),
        Case("one", "a/: near both", "b", Direction.PROMPT, frozenset()),
    ]
    assert uncovered(cases, [family]) == {}
