"""The shipped policies against the real detectors: each rule's matches and near misses, and what no rule may do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date

import pytest

from guardrail.cases import Case, Outcome, read_cases, run, uncovered
from guardrail.core.content import Direction
from guardrail.core.findings import Finding
from guardrail.core.policy import Action, Policy, Rule
from guardrail.core.verdict import Verdict, judge
from guardrail.detectors.keywords import KeywordDetector
from guardrail.policyset import Loaded, load, profile_names
from guardrail.protocols import Detector, Priority
from guardrail.resources import models_dir, policies_dir
from guardrail.text.normalize import normalise

from .conftest import Needs

MODEL = "guard-zh-en"
DIRECTORIES = [policies_dir()]
WIDEST = "cn_2026"
HAN = re.compile(r"[\u4e00-\u9fff]")
# What the shipped classifier tells apart; each has a rule, and `political` only where state security is law.
LABELS = (
    "unsafe",
    "political",
    "jailbreak",
    "violence_terror",
    "hate",
    "sexual",
    "self_harm",
    "illegal",
    "fraud_misinfo",
    "privacy",
    "insult",
    "ip_commercial",
)


def loaded(profile: str = WIDEST, *off: str) -> Loaded:
    """The policies of a profile without personal information, at made-up thresholds of the classifier."""
    scores = {"classifier": dict.fromkeys(LABELS, 0.5)}
    return load(DIRECTORIES, profile, defaults=scores, strike_defaults=scores, disabled_detectors=["pii", *off])


SET = loaded()
WORDS = loaded(WIDEST, "classifier")
POLICIES = {policy.id: policy for policy in SET.policies.policies}
PHRASED = ("cn-genai", "mlcommons", "prompt-injection")


@pytest.fixture(scope="module")
def keywords() -> KeywordDetector:
    return KeywordDetector(SET.phrases)


async def screen(
    detectors: Mapping[str, Detector], set_: Loaded, text: str, direction: Direction, pieces: Sequence[str] = ()
) -> Verdict:
    """Everything that every detector finds in a text, judged: unlike a stream, nothing ends at the first stop."""
    book = set_.policies.rulebook(direction, "direct", "default", date(2026, 12, 1))
    findings: list[Finding] = []
    for name, labels in book.labels.items():
        scanner = detectors[name].scanner(direction, labels)
        feeds = pieces or [text]
        for number, piece in enumerate(feeds, 1):
            scan = scanner.feed(piece, last=number == len(feeds))
            findings.extend(scan.findings)
            if scan.windows:
                answers = await detectors[name].examine(scan.windows, Priority.OFFLINE)
                findings.extend(finding for answer in answers for finding in answer)
    return judge(book, findings)


async def outcomes(cases: Sequence[Case], detectors: Mapping[str, Detector], set_: Loaded) -> list[str]:
    """What went wrong, a line for each case that failed."""

    async def one(text: str, direction: Direction) -> Verdict:
        return await screen(detectors, set_, text, direction)

    failed: list[Outcome] = [outcome async for outcome in run(cases, one) if not outcome.passed]
    return [str(outcome) for outcome in failed]


def cases_of(policy: Policy, detector: str, not_enforced: Sequence[str] = ()) -> list[Case]:
    return [case for case in read_cases(DIRECTORIES, [policy], not_enforced) if case.detector == detector]


def rules_of(detector: str) -> Iterator[Rule]:
    return (rule for policy in POLICIES.values() for rule in policy.rules if rule.detector == detector)


# -- cases -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", PHRASED)
async def test_each_phrase_list_finds_its_matches_and_passes_its_near_misses(
    policy: str, keywords: KeywordDetector
) -> None:
    cases = cases_of(POLICIES[policy], "keywords")
    assert len(cases) >= 4 * len({rule.id for rule in POLICIES[policy].rules if rule.detector == "keywords"})
    assert await outcomes(cases, {"keywords": keywords}, WORDS) == []


async def test_a_phrase_is_found_however_the_text_is_cut(keywords: KeywordDetector) -> None:
    for policy in PHRASED:
        for case in cases_of(POLICIES[policy], "keywords"):
            whole = await screen({"keywords": keywords}, WORDS, case.text, case.direction)
            cut = await screen({"keywords": keywords}, WORDS, case.text, case.direction, list(case.text))
            assert {match.rule.id for match in cut.matches} == {match.rule.id for match in whole.matches}, case.id


async def test_each_rule_on_personal_information_passes_its_cases() -> None:
    from guardrail.detectors.pii.detector import PiiDetector

    detector = PiiDetector()
    set_ = load(DIRECTORIES, "neutral", defaults={"pii": detector.thresholds}, disabled_detectors=["classifier"])
    policy = next(policy for policy in set_.policies.policies if policy.id == "pii")
    cases = cases_of(policy, "pii")
    words = KeywordDetector(set_.phrases)
    await detector.start()
    try:
        assert await outcomes(cases, {"pii": detector, "keywords": words}, set_) == []
    finally:
        await detector.close()
    assert uncovered(cases, [policy]) == {}


@pytest.mark.slow
async def test_each_rule_of_the_classifier_passes_its_cases_with_the_shipped_model(needs: Needs) -> None:
    folder = models_dir() / MODEL
    needs(f"the shipped model {MODEL}", (folder / "model.toml").is_file())
    from guardrail.detectors.classifier import ClassifierDetector
    from guardrail.inference.engine import load_classifier

    engine, card = load_classifier(folder)
    detector = ClassifierDetector(engine, card.labels)
    set_ = load(
        DIRECTORIES,
        WIDEST,
        defaults={"classifier": detector.thresholds},
        strike_defaults={"classifier": detector.strike_thresholds},
        flag_defaults={"classifier": detector.flag_thresholds},
        disabled_detectors=["pii"],
    )
    left_out = set_.policies.not_enforced
    cases = [case for policy in set_.policies.policies for case in cases_of(policy, "classifier", left_out)]
    words = KeywordDetector(set_.phrases)
    await detector.start()
    try:
        assert await outcomes(cases, {"classifier": detector, "keywords": words}, set_) == []
    finally:
        await detector.close()


@pytest.mark.parametrize("policy", PHRASED)
def test_every_rule_has_a_match_and_a_near_miss_in_each_language(policy: str) -> None:
    cases = read_cases(DIRECTORIES, [POLICIES[policy]])
    for chinese in (True, False):
        spoken = [case for case in cases if bool(HAN.search(case.text)) is chinese]
        assert uncovered(spoken, [POLICIES[policy]]) == {}


# -- what the policies say -------------------------------------------------------------------------------------------


def test_every_profile_loads_and_every_policy_is_in_one() -> None:
    profiles = profile_names(DIRECTORIES)
    assert profiles == ("cn_2026", "cn_draft_2023", "eu_2026", "neutral")
    named = {policy.id for profile in profiles for policy in loaded(profile).policies.policies}
    assert named == {path.parent.name for path in policies_dir().glob("*/policy.toml")}


def test_only_the_chinese_profiles_bring_duties_of_a_provider() -> None:
    duties = {profile: loaded(profile).defaults for profile in profile_names(DIRECTORIES)}
    assert {profile for profile, found in duties.items() if found.requires_provider} == {"cn_2026", "cn_draft_2023"}
    assert {found.affix for profile, found in duties.items() if profile.startswith("cn_")} == {"end"}
    assert {duties[profile].affix for profile in ("neutral", "eu_2026")} == {"none"}


def test_no_profile_but_the_chinese_ones_judges_political_speech() -> None:
    for profile in profile_names(DIRECTORIES):
        rules = [rule for policy in loaded(profile).policies.policies for rule in policy.rules]
        assert any("political" in rule.labels for rule in rules) is profile.startswith("cn_")


def test_every_label_of_the_classifier_has_a_rule() -> None:
    assert {label for rule in rules_of("classifier") for label in rule.labels} == set(LABELS)


def test_the_twelve_hazards_of_ailuminate_are_all_there() -> None:
    hazards = {"vcr", "ncr", "src", "cse", "iwp", "ssh", "hte", "spc", "prv", "ipv", "dfm", "sxc"}
    assert {rule.category for rule in POLICIES["mlcommons"].rules} == hazards | {"unsafe", "insult"}


def test_every_class_of_the_chinese_rules_that_can_be_told_has_a_rule_that_names_its_article() -> None:
    rules = POLICIES["cn-genai"].rules
    categories = {rule.category for rule in rules}
    assert categories >= {f"A1{letter}" for letter in "abcdefgh"} | {"A2", "A3a", "A3b", "A3c"}
    assert categories >= {"A4a", "A4b", "A4c", "A4d", "A4e", "P4", "M1"}
    item = {"A1": "IM 4(1)", "A2": "IM 4(2)", "A3": "IM 4(3)", "A4": "IM 4(4)", "M1": "Draft 19", "P4": "LM 10"}
    for rule in rules:
        assert item[rule.category[:2]] in rule.articles, rule.id


def test_every_rule_says_why() -> None:
    assert [rule.id for policy in POLICIES.values() for rule in policy.rules if not rule.because] == []


def test_injections_self_harm_and_rudeness_never_strike() -> None:
    striking = {rule.id for policy in POLICIES.values() for rule in policy.rules if rule.strike is not None}
    assert striking
    for rule in striking:
        assert not rule.startswith(("prompt-injection/", "mlcommons/ssh-", "cn-genai/a4", "mlcommons/insult"))


def test_people_in_distress_are_answered_in_both_languages_with_a_number_to_call() -> None:
    answering = [rule for policy in POLICIES.values() for rule in policy.rules if rule.action is Action.ANSWER]
    assert len(answering) == 4
    for rule in answering:
        assert set(rule.answer) == {"zh", "en"}
        assert "12356" in rule.answer["zh"]
        assert HAN.search(rule.answer["zh"])
        assert not HAN.search(rule.answer["en"])


def test_insults_are_flagged_at_most() -> None:
    insulted = [rule for rule in rules_of("classifier") if "insult" in rule.labels]
    assert {rule.action for rule in insulted} == {Action.FLAG}


def test_patterns_are_kept_to_prompts_because_they_hold_streams_back() -> None:
    for policy in POLICIES.values():
        prompts_only = policy.applies_to.directions == frozenset({Direction.PROMPT})
        for rule in policy.rules:
            found = SET.phrases.get(rule.id)
            if found and found.patterns:
                assert prompts_only or rule.directions == frozenset({Direction.PROMPT}), rule.id


def test_every_list_speaks_both_languages_in_phrases_long_enough_to_mean_one_thing() -> None:
    for label, found in SET.phrases.items():
        chinese = [term for term in found.terms if HAN.search(term)]
        english = [term for term in found.terms if not HAN.search(term)]
        assert len(chinese) >= 15, label
        assert len(english) >= 15, label
        assert [term for term in chinese if len(term) < 3] == [], label
        assert [term for term in english if len(normalise(term).text) < 8] == [], label
