"""The pages that everybody may read, and the headers that every page carries."""

from __future__ import annotations

import base64
import hashlib
import re
import string

import pytest

from guardrail.core.sanctions import Ladder
from guardrail.portal.words import WORDS, duration, ladder_words
from tests.portal.conftest import Maker, Portal


async def test_the_rules_name_what_is_enforced_and_give_no_phrase_and_no_threshold_away(portal: Portal) -> None:
    answer = await portal.get("/guardrail/rules")
    house = next(policy for policy in answer.json()["policies"] if policy["id"] == "house")
    assert [rule["rule"] for rule in house["rules"]] == ["house/marmalade"], "what is only observed is no rule yet"
    assert house["rules"][0]["strike"] is True
    assert {"mlcommons", "prompt-injection"} <= {policy["id"] for policy in answer.json()["policies"]}
    assert answer.json()["digest"] == portal.guard.policies.digest
    page = await portal.get("/guardrail/rules", page=True)
    for body in (answer.body.decode(), page.body.decode()):
        assert "forbidden marmalade" not in body
        assert "threshold" not in body
    assert "No &lt;i&gt;marmalade&lt;/i&gt;." in page.body.decode()
    assert "<script" not in page.body.decode()


async def test_the_rules_follow_a_policy_set_that_is_swapped(portal: Portal) -> None:
    from dataclasses import replace

    before = await portal.get("/guardrail/rules", page=True)
    assert (await portal.get("/guardrail/rules", page=True)).body == before.body
    portal.guard.policies = replace(portal.guard.policies, policies=(), digest="another")
    assert "No rule is enforced" in (await portal.get("/guardrail/rules", page=True)).body.decode()


async def test_the_ladder_is_said_with_the_numbers_in_force(make_portal: Maker) -> None:
    portal = await make_portal(sanctions={"suspend_row": 7, "suspend_seconds": [90.0, 172800.0]})
    said = (await portal.get("/guardrail/rules")).json()["sanctions"]
    assert any("7 strikes in a row" in step and "90 seconds, then 2 days" in step for step in said)
    off = await make_portal(sanctions={"enabled": False})
    assert (await off.get("/guardrail/rules")).json()["sanctions"] == []


async def test_about_names_the_provider_and_how_answers_are_labelled(make_portal: Maker) -> None:
    code = "00119144030011223344X000001"
    portal = await make_portal(profile="cn_2026", provider={"name": "某某公司", "code": code})
    page = (await portal.get("/guardrail/about", page=True, accept_language="zh")).body.decode()
    for said in ("某某公司", code, "回答由人工智能模型生成", "内容由AI生成", "末尾", "12377", "appeal_url"):
        assert said in page
    neutral = await make_portal()
    told = (await neutral.get("/guardrail/about")).json()
    assert (told["provider"], told["profile"], told["authority"]) == (None, "neutral", None)
    assert any("header AIGC" in sentence for sentence in told["labels"])


async def test_a_page_carries_headers_that_let_it_run_and_load_nothing(portal: Portal) -> None:
    link = await portal.offend()
    for path in (link, "/guardrail/rules", "/guardrail/about", "/guardrail/appeals"):
        answer = await portal.get(path, page=True)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "script-src" not in policy
        assert "unsafe" not in policy
        styles = re.findall(r"<style>(.*?)</style>", answer.body.decode(), re.DOTALL)
        assert len(styles) == 1
        digest = base64.b64encode(hashlib.sha256(styles[0].encode()).digest()).decode()
        assert f"style-src 'sha256-{digest}'" in policy
        body = answer.body.decode()
        assert not re.search(r"<script|\son\w+=|style=|<img|<link|src=", body)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-frame-options"] == "DENY"
    private = await portal.get(link)
    assert private.headers["cache-control"] == "no-store"
    assert private.headers["content-type"].startswith("application/json")
    assert "'none'" in private.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("accept", "page"),
    [
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", True),
        ("application/json", False),
        ("*/*", False),
        ("", False),
        ("application/json, text/html;q=0.5", False),
        ("text/html;q=0.9, application/json;q=0.3", True),
        ("text/html;q=0", False),
    ],
)
async def test_a_browser_gets_a_page_and_a_program_gets_json(portal: Portal, accept: str, page: bool) -> None:
    answer = await portal.get("/guardrail/about", accept=accept)
    assert answer.headers["content-type"].startswith("text/html" if page else "application/json")


async def test_no_address_is_made_of_the_host_header(portal: Portal) -> None:
    for path in ("/guardrail/rules/", "/guardrail/appeals/", "/guardrail/about"):
        answer = await portal.get(path, host="evil.example")
        assert "evil.example" not in answer.body.decode() + str(answer.headers)


def test_every_sentence_is_there_in_both_languages_with_the_same_values() -> None:
    for key, said in WORDS.items():
        assert set(said) == {"en", "zh"}, key
        values = {
            lang: {name for _, name, _, _ in string.Formatter().parse(text) if name} for lang, text in said.items()
        }
        assert values["en"] == values["zh"], key
        assert re.search(r"[一-鿿]", said["zh"]), key


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_every_number_of_the_ladder_is_said(lang: str) -> None:
    ladder = Ladder(warn_day=2, limit_row=4, limit_day=5, suspend_row=7, suspend_day=8, terminate_suspensions=9)
    said = " ".join(ladder_words(ladder, lang))
    for number in (2, 4, 5, 7, 8, 9, 10, 90):
        assert re.search(rf"(?<!\d){number}(?!\d)", said), number
    assert ladder_words(ladder, lang) != ladder_words(Ladder(terminate_by_person=True, day_offset=28800), lang)


def test_a_span_of_time_is_said_in_the_largest_unit_that_fits() -> None:
    spans = (10, 90, 60, 3600, 86400, 259200, 604800, 0.5)
    assert [duration(seconds, "en") for seconds in spans] == [
        "10 seconds", "90 seconds", "1 minute", "1 hour", "24 hours", "3 days", "7 days", "0.5 seconds",
    ]  # fmt: skip
    assert duration(86400, "zh") == "24小时"
