"""Loading policies: what is enforced is what was written, and what cannot be enforced is refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from guardrail.cases import read_cases, uncovered
from guardrail.core.content import Direction
from guardrail.core.lexicon import PhraseError
from guardrail.core.policy import Action, Mode, Severity, TenantTerms
from guardrail.detectors.keywords import KeywordDetector
from guardrail.errors import PolicyError
from guardrail.policyfile import CaseFile, CasesFile, PolicyFile, ProfileDefaults, ProfileFile, RuleFile
from guardrail.policyset import OWN_LABELS, Loaded, load, profile_names
from guardrail.resources import policies_dir

SCORES = {"classifier": {"unsafe": 0.6, "hate": 0.7, "sexual": 0.7}, "pii": {"EMAIL": 0.5, "PHONE": 0.4}}
STRIKES = {"classifier": {"unsafe": 0.9, "hate": 0.95}}

RULE = """
[[rule]]
id = "phrases"
detector = "keywords"
phrases = "phrases.txt"
category = "test"
action = "block"
"""


class Pack:
    """A policies directory on disk, written piece by piece."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.policy("one", RULE)
        self.phrases("one", "open sesame\n芝麻开门\n")
        self.profile("plain", 'title = "Plain"\npolicies = ["one"]\n')

    def policy(self, name: str, rules: str, head: str = "") -> None:
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "policy.toml").write_text(f'id = "{name}"\ntitle = "T"\n{head}\n{rules}', encoding="utf-8")

    def phrases(self, name: str, text: str, file: str = "phrases.txt") -> None:
        (self.root / name / file).write_text(text, encoding="utf-8")

    def profile(self, name: str, text: str) -> None:
        (self.root / "profiles").mkdir(exist_ok=True)
        (self.root / "profiles" / f"{name}.toml").write_text(text, encoding="utf-8")

    def load(self, *more: Path, profile: str = "plain", **options: Any) -> Loaded:
        options = {"defaults": SCORES, "strike_defaults": STRIKES, **options}
        return load([self.root, *more], profile, **options)

    def refusal(self, *more: Path, **options: Any) -> str:
        with pytest.raises(PolicyError) as caught:
            self.load(*more, **options)
        return str(caught.value).replace(str(self.root), "policies")


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    root = tmp_path / "policies"
    root.mkdir()
    return Pack(root)


def classifier(keys: str) -> str:
    return f'[[rule]]\nid = "model"\ndetector = "classifier"\ncategory = "test"\n{keys}\n'


def test_a_keyword_rule_listens_for_its_own_list_under_its_full_id(pack: Pack) -> None:
    loaded = pack.load()
    (policy,) = loaded.policies.policies
    (rule,) = policy.rules
    assert (rule.id, rule.labels, rule.action) == ("one/phrases", frozenset({"one/phrases"}), Action.BLOCK)
    assert loaded.phrases["one/phrases"].terms == ("open sesame", "芝麻开门")
    assert policy.on_error is Action.BLOCK


def test_every_key_of_a_rule_reaches_the_rule_that_judges(pack: Pack) -> None:
    pack.policy(
        "one",
        classifier(
            'labels = ["hate"]\naction = "block"\nseverity = "critical"\nmode = "observe"\nthreshold = 0.8\n'
            'strike = 0.9\narticles = ["IM 4(2)"]\nbecause = "Why."\ndirections = ["prompt"]'
        ),
        head='on_error = "flag"\napplies_to = { directions = ["prompt"], surfaces = ["chat"], tenants = ["t"] }',
    )
    (policy,) = pack.load().policies.policies
    (rule,) = policy.rules
    assert (rule.threshold, rule.strike, rule.severity, rule.mode) == (0.8, 0.9, Severity.CRITICAL, Mode.OBSERVE)
    assert (rule.articles, rule.because, rule.directions) == (("IM 4(2)",), "Why.", frozenset({Direction.PROMPT}))
    assert policy.on_error is Action.FLAG
    assert policy.applies_to.holds(Direction.PROMPT, "chat", "t")
    assert not policy.applies_to.holds(Direction.COMPLETION, "chat", "t")


def test_a_phrase_file_holds_terms_patterns_exceptions_and_comments(pack: Pack) -> None:
    pack.phrases("one", "# a comment\n\nopen sesame\nre: sesame .{0,4}seed\n! open sesame oil\n")
    found = pack.load().phrases["one/phrases"]
    assert (found.terms, found.patterns, found.exceptions) == (
        ("open sesame",),
        ("sesame .{0,4}seed",),
        ("open sesame oil",),
    )


def test_a_rule_may_use_several_files_and_those_of_a_neighbour(pack: Pack) -> None:
    pack.policy("two", RULE.replace('"phrases.txt"', '["own.txt", "../one/phrases.txt"]'))
    pack.phrases("two", "abracadabra\n", "own.txt")
    pack.profile("plain", 'title = "P"\npolicies = ["two"]\n')
    assert pack.load().phrases["two/phrases"].terms == ("abracadabra", "open sesame", "芝麻开门")


def test_a_rule_says_whether_its_phrases_may_lie_inside_words(pack: Pack) -> None:
    assert pack.load().phrases["one/phrases"].match == "auto"
    pack.policy("one", RULE + 'match = "substring"\n')
    assert pack.load().phrases["one/phrases"].match == "substring"


def test_an_omitted_threshold_is_the_detectors_own_for_each_label(pack: Pack) -> None:
    pack.policy("one", classifier('labels = ["unsafe", "hate", "sexual"]\naction = "block"'))
    (policy,) = pack.load().policies.policies
    assert {(rule.id, tuple(sorted(rule.labels)), rule.threshold) for rule in policy.rules} == {
        ("one/model", ("unsafe",), 0.6),
        ("one/model", ("hate", "sexual"), 0.7),
    }


def test_a_rule_that_only_flags_takes_the_looser_threshold_where_there_is_one(pack: Pack) -> None:
    pack.policy("one", classifier('labels = ["unsafe", "hate"]\naction = "flag"'))
    (policy,) = pack.load(flag_defaults={"classifier": {"unsafe": 0.3}}).policies.policies
    assert {rule.threshold for rule in policy.rules} == {0.3, 0.7}


def test_strike_true_is_the_detectors_own_strike_threshold(pack: Pack) -> None:
    pack.policy(
        "one",
        classifier('label = "hate"\naction = "block"\nstrike = true') + RULE.replace('block"', 'block"\nstrike = true'),
    )
    (policy,) = pack.load().policies.policies
    assert [rule.strike for rule in policy.rules] == [0.95, 1.0]


def test_a_strike_never_counts_below_the_threshold_that_blocks(pack: Pack) -> None:
    pack.policy("one", classifier('label = "hate"\naction = "block"\nthreshold = 0.99\nstrike = true'))
    (policy,) = pack.load().policies.policies
    assert policy.rules[0].strike == 0.99


def test_a_rule_holds_only_in_the_directions_it_names(pack: Pack) -> None:
    pack.policy("one", RULE + 'directions = ["prompt"]\n')
    policies = pack.load().policies
    day = date(2026, 12, 1)
    assert policies.rulebook(Direction.PROMPT, "chat", "t", day).labels
    assert not policies.rulebook(Direction.COMPLETION, "chat", "t", day).labels


def test_rules_of_a_detector_that_is_off_are_left_out_and_named(pack: Pack) -> None:
    pack.policy("one", RULE + classifier('label = "anything"\naction = "block"'))
    loaded = pack.load(disabled_detectors=["classifier"], defaults={}, strike_defaults={})
    assert loaded.policies.not_enforced == ("one/model",)
    assert [rule.id for rule in loaded.policies.policies[0].rules] == ["one/phrases"]


def test_shipped_rules_for_labels_that_another_model_has_not_are_left_out_and_named(pack: Pack) -> None:
    other = classifier('id = "other"\nlabel = "threats"\naction = "block"').replace('id = "model"\n', "")
    pack.policy("one", RULE + classifier('labels = ["hate", "threats"]\naction = "block"') + other)
    assert 'label is "threats"; expected hate, sexual or unsafe' in pack.refusal()
    loaded = pack.load(other_models=["classifier"])
    assert loaded.policies.not_enforced == ("one/other",)
    rules = {rule.id: rule for rule in loaded.policies.policies[0].rules}
    assert set(rules) == {"one/phrases", "one/model"}
    assert rules["one/model"].labels == {"hate"}


def test_an_operators_own_rule_names_labels_that_the_model_has_whichever_it_is(pack: Pack, tmp_path: Path) -> None:
    folder = tmp_path / "own" / "two"
    folder.mkdir(parents=True)
    rule = classifier('label = "threats"\naction = "block"')
    (folder / "policy.toml").write_text(f'id = "two"\ntitle = "T"\n{rule}')
    assert 'label is "threats"' in pack.refusal(folder.parent, other_models=["classifier"])


def test_observing_turns_every_rule_to_observe_mode_and_changes_the_digest(pack: Pack) -> None:
    observed = pack.load(observe_all=True).policies
    assert {rule.mode for policy in observed.policies for rule in policy.rules} == {Mode.OBSERVE}
    assert observed.digest != pack.load().policies.digest


def test_the_profile_names_the_policies_and_brings_its_defaults(pack: Pack) -> None:
    pack.policy("two", RULE)
    pack.phrases("two", "abracadabra\n")
    pack.profile("cn", 'title = "CN"\npolicies = ["two", "one"]\n[defaults]\naffix = "end"\nrequires_provider = true\n')
    loaded = pack.load(profile="cn")
    assert [policy.id for policy in loaded.policies.policies] == ["two", "one"]
    assert (loaded.title, loaded.defaults.affix, loaded.defaults.requires_provider) == ("CN", "end", True)
    assert not loaded.defaults.reports_to_authority
    assert [policy.id for policy in pack.load().policies.policies] == ["one"]
    assert profile_names([pack.root]) == ("cn", "plain")


def test_every_policy_of_an_operators_own_directory_is_enforced(pack: Pack, tmp_path: Path) -> None:
    own = Pack(tmp_path / "own")
    own.policy("house", RULE)
    own.phrases("house", "open house\n")
    (own.root / "one" / "policy.toml").unlink()
    (own.root / "one" / "phrases.txt").unlink()
    (own.root / "one").rmdir()
    (own.root / "profiles" / "plain.toml").unlink()
    assert [policy.id for policy in pack.load(own.root).policies.policies] == ["one", "house"]


def test_an_id_of_a_shipped_policy_cannot_be_taken_by_another_directory(pack: Pack, tmp_path: Path) -> None:
    own = Pack(tmp_path / "own")
    (own.root / "profiles" / "plain.toml").unlink()
    assert 'policy "one" is there already, at policies/one; expected a new id' in pack.refusal(own.root)


def _change_phrases(pack: Pack) -> dict[str, Any]:
    pack.phrases("one", "open sesame\n")
    return {}


def _change_rule(pack: Pack) -> dict[str, Any]:
    pack.policy("one", RULE.replace("block", "flag"))
    return {}


def _change_profile(pack: Pack) -> dict[str, Any]:
    pack.profile("plain", 'title = "Plain"\npolicies = ["one", "two"]\n[defaults]\naffix = "end"\n')
    return {}


def _change_default(pack: Pack) -> dict[str, Any]:
    return {"defaults": {"classifier": {"hate": 0.71}}}


def _change_tenant(pack: Pack) -> dict[str, Any]:
    return {"tenants": {"t": TenantTerms(exceptions={"one/phrases": date(2027, 1, 1)})}}


@pytest.mark.parametrize(
    "change",
    [_change_phrases, _change_rule, _change_profile, _change_default, _change_tenant],
    ids=lambda f: f.__name__,
)
def test_the_digest_changes_with_everything_that_decides_a_verdict(
    pack: Pack, change: Callable[[Pack], dict[str, Any]]
) -> None:
    pack.policy("two", classifier('label = "hate"\naction = "block"'))
    pack.profile("plain", 'title = "Plain"\npolicies = ["one", "two"]\n')
    before = pack.load().policies.digest
    options = change(pack)
    assert pack.load(**options).policies.digest != before


def test_the_digest_is_the_same_wherever_the_directory_lives(pack: Pack, tmp_path: Path) -> None:
    elsewhere = Pack(tmp_path / "elsewhere")
    policies = pack.load().policies
    assert elsewhere.load().policies.digest == policies.digest
    assert policies.short_digest == policies.digest[:16]
    assert len(policies.digest) == 64


def test_cases_are_not_enforced_and_leave_the_digest_alone(pack: Pack) -> None:
    before = pack.load().policies.digest
    (pack.root / "one" / "cases.toml").write_text("[[case]]\n", encoding="utf-8")
    assert pack.load().policies.digest == before


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            RULE.replace("block", "blok"),
            'policies/one/policy.toml: rule "phrases": action is "blok"; expected allow, flag, redact, answer or block',
        ),
        (RULE + "severty = 3\n", 'rule "phrases": unknown key "severty"; known keys: id, detector, category, action,'),
        (RULE + 'severity = "grave"\n', 'severity is "grave"; expected low, medium, high or critical'),
        (RULE + 'directions = ["promt"]\n', 'directions[0] is "promt"; expected prompt or completion'),
        (RULE + 'strike = "yes"\n', 'strike is "yes"; expected true, false or a number'),
        (RULE + "articles = 4\n", "articles is 4; expected a list of: text"),
        (RULE + "threshold = 0.5\n", "threshold is 0.5; expected none, since a phrase is found or it is not"),
        (RULE + 'label = "x"\n', "label is set; expected phrases only"),
        (RULE.replace('category = "test"\n', ""), 'rule "phrases": key "category" is missing; expected text'),
        (RULE.replace('id = "phrases"\n', ""), 'policies/one/policy.toml: rule 1: key "id" is missing; expected text'),
        (RULE.replace('phrases"\ndet', 'Phrases!"\ndet'), 'id is "Phrases!"; expected lower-case words'),
        (RULE + RULE, 'rule "phrases": id is "phrases", as of rule 1; expected each id once'),
        (
            RULE.replace("phrases.txt", "fone.txt"),
            'phrases is "fone.txt", which is no phrase file; expected phrases.txt',
        ),
        (RULE.replace("phrases.txt", "../../x.txt"), 'phrases is "../../x.txt"; expected a file inside policies'),
        (RULE.replace('phrases = "phrases.txt"\n', ""), 'key "phrases" is missing; expected a phrase file'),
        (
            RULE.replace("keywords", "keyword"),
            'phrases or match is set; expected label or labels, since detector is "keyword"',
        ),
        (
            '[[rule]]\nid = "k"\ndetector = "keywords"\nlabel = "zzz"\ncategory = "c"\naction = "block"\n',
            'label is "zzz"; expected hidden-characters (the labels of keywords)',
        ),
        (
            classifier('label = "hte"\naction = "block"'),
            'label is "hte"; expected hate, sexual or unsafe (the labels of',
        ),
        (
            '[[rule]]\nid = "m"\ndetector = "clasifier"\nlabel = "hate"\ncategory = "c"\naction = "block"\n',
            'detector is "clasifier"; expected classifier, keywords or pii',
        ),
        (classifier('action = "block"'), "expected either label (one) or labels (a list)"),
        (classifier('labels = ["hate", "hate"]\naction = "block"'), "labels names one twice"),
        (
            classifier('label = "hate"\naction = "block"\nthreshold = 1.5'),
            "threshold is 1.5; expected a number above 0",
        ),
        (
            classifier('label = "hate"\naction = "flag"\nstrike = true'),
            'strike is set with action = "flag"; expected it with',
        ),
        (
            classifier('label = "hate"\naction = "block"\nthreshold = 0.8\nstrike = 0.5'),
            "strike is 0.5; expected true, false or",
        ),
        (
            classifier('label = "sexual"\naction = "block"\nstrike = true'),
            'no strike threshold of its own for "sexual"',
        ),
        (classifier('label = "hate"\naction = "redact"'), 'placeholder is ""; expected a text with action = "redact"'),
        (classifier('label = "hate"\naction = "answer"\nanswer = { en = "x" }'), 'expected { zh = "...", en = "..." }'),
        (
            classifier('label = "hate"\naction = "block"\nanswer = { en = "x" }'),
            'expected it with action = "answer" only',
        ),
        ("rule = []\n", "rule is []; expected at least one [[rule]]"),
    ],
)
def test_a_rule_that_cannot_be_enforced_is_refused_with_what_would_be_accepted(
    pack: Pack, rules: str, message: str
) -> None:
    pack.policy("one", rules)
    assert message in pack.refusal()


def test_a_key_of_the_policy_itself_is_refused_by_name(pack: Pack) -> None:
    pack.policy("one", RULE, head='on_eror = "block"')
    assert 'unknown key "on_eror"; known keys: id, title, applies_to, on_error, rule' in pack.refusal()
    pack.policy("one", RULE, head='applies_to = { direction = ["prompt"] }')
    assert 'unknown key "direction" in applies_to; known keys: directions, surfaces, tenants' in pack.refusal()
    pack.policy("one", RULE, head='on_error = "answer"')
    assert 'on_error is "answer"; expected allow, flag or block' in pack.refusal()


def test_a_policy_bears_the_name_of_its_folder(pack: Pack) -> None:
    (pack.root / "one").rename(pack.root / "uno")
    pack.profile("plain", 'title = "P"\npolicies = ["uno"]\n')
    assert 'uno/policy.toml: id is "one"; expected "uno", the name of its folder' in pack.refusal()


def test_broken_toml_is_refused_with_its_line(pack: Pack) -> None:
    (pack.root / "one" / "policy.toml").write_text('id = "one"\ntitle = \n', encoding="utf-8")
    assert "policies/one/policy.toml: not valid TOML" in (message := pack.refusal())
    assert "line 2" in message


def test_a_key_that_is_written_twice_is_refused_with_its_line(pack: Pack) -> None:
    pack.policy("one", RULE + 'action = "flag"\n')
    assert "Cannot overwrite a value (at line" in pack.refusal()


def test_a_file_that_is_not_utf8_is_refused(pack: Pack) -> None:
    (pack.root / "one" / "phrases.txt").write_bytes("芝麻".encode("gbk"))
    assert "policies/one/phrases.txt: byte 2 is not UTF-8; expected a text file in UTF-8" in pack.refusal()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("open sesame\nOpen  Sesame\n", 'line 2: "Open  Sesame" is there already, at policies/one/phrases.txt: line 1'),
        ("# nothing\n", "phrases.txt: holds no phrase; expected at least one term, or one pattern after re:"),
        (
            "open sesame\n!close sesame\n",
            'line 2: "!close sesame" excepts nothing; expected a phrase that holds a term',
        ),
    ],
)
def test_a_phrase_that_says_nothing_is_refused_with_its_line(pack: Pack, text: str, message: str) -> None:
    pack.phrases("one", text)
    assert message in pack.refusal()


def test_what_the_detector_refuses_is_located_by_file_and_line(pack: Pack) -> None:
    pack.phrases("one", "open sesame\n\nre:sesame .*seed\n")
    loaded = pack.load()
    with pytest.raises(PhraseError) as caught:
        KeywordDetector(loaded.phrases)
    assert str(loaded.locate(caught.value)).startswith(f"{pack.root}/one/phrases.txt: line 3: matches any length")


def test_the_detector_reports_the_labels_that_need_no_list() -> None:
    assert set(OWN_LABELS) == set(KeywordDetector({}).thresholds)


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ('title = "P"\npolicies = ["too"]\n', 'plain.toml: policies names "too"; expected one'),
        ('title = "P"\npolicies = ["one", "one"]\n', 'policies names "one" twice; expected each once'),
        (
            'title = "P"\npolicies = ["one"]\n[defaults]\naffix = "top"\n',
            'defaults.affix is "top"; expected none, start or end',
        ),
        (
            'title = "P"\npolicies = ["one"]\n[defaults]\naffx = 1\n',
            'unknown key "affx" in defaults; known keys: affix, reports',
        ),
        ('policies = ["one"]\n', 'key "title" is missing; expected text'),
    ],
)
def test_a_profile_that_cannot_be_used_is_refused(pack: Pack, profile: str, message: str) -> None:
    pack.profile("plain", profile)
    assert message in pack.refusal()


def test_an_unknown_profile_is_refused_with_the_known_ones(pack: Pack) -> None:
    pack.profile("other", 'title = "O"\npolicies = ["one"]\n')
    assert 'no profile "plane" in policies/profiles; expected other or plain' in pack.refusal(profile="plane")


def test_a_directory_that_is_not_there_is_refused(pack: Pack) -> None:
    assert "nowhere: no such directory" in pack.refusal(Path("nowhere"))


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (TenantTerms(policies=frozenset({"won"})), 'tenant "t": policies names "won"; expected one'),
        (TenantTerms(thresholds={"one/x": 0.5}), 'thresholds names "one/x"; expected one/phrases'),
        (TenantTerms(exceptions={"phrases": date(2027, 1, 1)}), 'exceptions names "phrases"; expected one/phrases'),
    ],
)
def test_tenant_terms_name_only_what_is_loaded(pack: Pack, terms: TenantTerms, message: str) -> None:
    assert message in pack.refusal(tenants={"t": terms})


# -- docs/policies.md ------------------------------------------------------------------------------------------------

DOCS = (Path(__file__).parent.parent / "docs" / "policies.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("## policy.toml", PolicyFile),
        ("### A rule", RuleFile),
        ("## cases.toml", CasesFile),
        ("### A case", CaseFile),
        ("## Profiles", ProfileFile),
        ("### Defaults", ProfileDefaults),
    ],
)
def test_the_documentation_has_every_key_and_no_other(heading: str, kind: type) -> None:
    section = DOCS.partition(heading + "\n")[2]
    table = re.search(r"\| key \|.*?\n\n", section, re.DOTALL)
    assert table is not None
    rows = [line.split("|")[1] for line in table[0].splitlines()[2:] if line]
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(kind.__struct_fields__)


def test_the_documented_policy_loads_and_its_phrases_pass_its_cases(tmp_path: Path) -> None:
    written = re.findall(r"```\w+\n# policies/(\S+)\n(.*?)```", DOCS, re.DOTALL)
    assert len(written) == 4
    for name, text in written:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    house = (tmp_path / "profiles" / "house.toml").read_text(encoding="utf-8")
    assert house.count('"house-rules"') == 1
    (tmp_path / "profiles" / "house.toml").write_text('title = "H"\npolicies = ["house-rules"]\n', encoding="utf-8")
    loaded = load([tmp_path], "house", defaults={"classifier": {"self_harm": 0.5}})
    assert [rule.id for rule in loaded.policies.policies[0].rules] == [
        "house-rules/refund-promises",
        "house-rules/despair",
    ]
    cases = read_cases([tmp_path], loaded.policies.policies)
    assert uncovered(cases, loaded.policies.policies) == {}
    scanner = KeywordDetector(loaded.phrases)
    for case in cases:
        if case.detector == "keywords":
            found = scanner.scanner(case.direction, frozenset(loaded.phrases)).feed(case.text, last=True).findings
            assert {finding.category for finding in found} == case.expect


def test_the_documented_profiles_are_the_shipped_ones() -> None:
    rows = dict(
        re.findall(r"^\| `(\w+)`(?: \(default\))? \| (`[^|]*`) \|$", DOCS.partition("| profile |")[2], re.MULTILINE)
    )
    assert tuple(sorted(rows)) == profile_names([policies_dir()])
    for profile, policies in rows.items():
        found = load([policies_dir()], profile, defaults={}, disabled_detectors=["classifier", "pii"])
        assert [policy.id for policy in found.policies.policies] == re.findall(r"`([^`]+)`", policies)
