"""OpenAI moderations from our own verdicts: which result a finding counts for, and in whose words."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from guardrail.core.findings import Finding
from guardrail.core.policy import Action, Mode, Rule
from guardrail.core.surface import Prompt
from guardrail.core.verdict import Match, Verdict
from guardrail.errors import MalformedRequest, Unreadable
from guardrail.wire.openai_moderations import CATEGORIES, OpenAIModerations

DIALECT = OpenAIModerations()
POLICIES = Path(__file__).resolve().parents[2] / "policies"


def read(given: Any, **more: Any) -> Prompt:
    return DIALECT.read_prompt(json.dumps({"input": given, **more}).encode())


def match(category: str, segment: int = 0, score: float = 0.9, label: str = "phrase", **rule: Any) -> Match:
    action = rule.pop("action", Action.BLOCK)
    made = Rule(f"p/{category}", "d", frozenset({label}), category, 0.5, action, **rule)
    return Match(made, Finding("d", label, score, 0, 1, 1, segment))


def moderate(prompt: Prompt, *matches: Match) -> list[dict[str, Any]]:
    verdict = Verdict(Action.BLOCK if matches else Action.ALLOW, matches, (), "digest")
    body = json.loads(DIALECT.moderate(prompt, verdict, "ID1"))
    assert (body["id"], body["model"]) == ("modr-ID1", "guardrail")
    results: list[dict[str, Any]] = body["results"]
    return results


def named(result: dict[str, Any]) -> set[str]:
    return {name for name, flagged in result["categories"].items() if flagged}


def test_a_result_has_every_category_of_the_reference() -> None:
    [result] = moderate(read("hi"))
    for key in ("categories", "category_scores", "category_applied_input_types"):
        assert tuple(result[key]) == CATEGORIES
    assert result["flagged"] is False
    assert set(result["category_scores"].values()) == {0.0}
    assert result["guardrail"] == {"action": "allow", "rules": [], "categories": []}


def test_each_text_of_a_list_has_a_result_of_its_own() -> None:
    prompt = read(["fine", "", "bad"])
    assert prompt.choices == 3
    assert [segment.text for segment in prompt.content.segments] == ["fine", "bad"]
    first, second, third = moderate(prompt, match("hte", segment=1))
    assert (first["flagged"], second["flagged"], third["flagged"]) == (False, False, True)
    assert named(third) == {"hate"}
    assert third["category_scores"]["hate"] == 0.9
    assert third["guardrail"] == {"action": "block", "rules": ["p/hte"], "categories": ["hte"]}


def test_the_parts_of_one_message_have_one_result() -> None:
    prompt = read([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])
    [result] = moderate(prompt, match("vcr", segment=1), match("ssh", segment=0, score=0.7))
    assert named(result) == {"violence", "illicit/violent", "self-harm"}


def test_text_beside_the_input_counts_for_all_of_it() -> None:
    prompt = read(["a", "b"], note="bad")
    assert prompt.content.segments[2].path == ("note",)
    assert [result["flagged"] for result in moderate(prompt, match("hte", segment=2))] == [True, True]


def test_a_label_of_the_classifier_says_more_than_a_rule_that_listens_to_several() -> None:
    [result] = moderate(read("x"), match("A1f", label="sexual"))
    assert named(result) == {"sexual"}
    [result] = moderate(read("x"), match("A1f"))
    assert named(result) == {"sexual", "violence"}


def test_what_openai_has_no_word_for_is_flagged_in_ours() -> None:
    [result] = moderate(read("x"), match("jailbreak"))
    assert (result["flagged"], named(result)) == (True, set())
    assert result["guardrail"]["categories"] == ["jailbreak"]


def test_redaction_alone_flags_nothing_and_a_flag_does_where_there_is_a_word_for_it() -> None:
    [result] = moderate(read("x"), match("privacy", action=Action.REDACT))
    assert (result["flagged"], result["guardrail"]["action"]) == (False, "redact")
    [result] = moderate(read("x"), match("insult", action=Action.FLAG))
    assert (result["flagged"], named(result)) == (True, {"harassment"})


def test_an_observing_rule_has_a_score_and_flags_nothing() -> None:
    [result] = moderate(read("x"), match("hte", mode=Mode.OBSERVE))
    assert (result["flagged"], result["category_scores"]["hate"]) == (False, 0.9)
    assert result["guardrail"]["rules"] == []


def test_of_two_findings_the_surer_one_is_the_score() -> None:
    [result] = moderate(read("x"), match("hte", score=0.8), match("hte", score=0.6))
    assert result["category_scores"]["hate"] == 0.8


@pytest.mark.parametrize(
    "given", [None, 7, [], {}, ["a", {"type": "text", "text": "b"}], [{"type": "text", "text": "b"}, "a"]]
)
def test_what_the_surface_does_not_define_is_malformed(given: Any) -> None:
    with pytest.raises(MalformedRequest):
        read(given)


@pytest.mark.parametrize(
    "part", [{"type": "image_url", "image_url": {"url": "https://x.example/y"}}, {"type": "text"}, 7]
)
def test_a_part_that_is_no_text_is_refused(part: Any) -> None:
    with pytest.raises(Unreadable):
        read([part])


def test_the_table_names_no_category_that_the_shipped_policies_do_not_have() -> None:
    from guardrail.wire import openai_moderations

    known: set[str] = set()
    for file in POLICIES.glob("*/policy.toml"):
        for rule in tomllib.loads(file.read_text(encoding="utf-8"))["rule"]:
            known |= {rule["category"], rule.get("label", ""), *rule.get("labels", ())}
    table = openai_moderations._SAME
    assert table.keys() <= known
    assert {name for names in table.values() for name in names} <= set(CATEGORIES)
