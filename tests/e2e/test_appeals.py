"""From three strikes to an appeal that is granted, with the real command, server, database and workers' polling."""

from __future__ import annotations

import json
import secrets
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.conftest import SETTINGS, Guardrail, command, environment

WORDS = "strikeable rhubarb"
SANCTIONS = f"{SETTINGS}\n[sanctions]\nlimit_interval = 0.2\n"
POLICY = """\
id = "appealed"
title = "What is appealed against"

[[rule]]
id = "rhubarb"
detector = "keywords"
phrases = "rhubarb.txt"
category = "e2e-struck"
action = "block"
strike = true
because = "Names the rhubarb."
"""


@pytest.fixture
def running(start: Callable[..., Guardrail], tmp_path: Path) -> Guardrail:
    pack = tmp_path / "policies" / "appealed"
    pack.mkdir(parents=True)
    (pack / "policy.toml").write_text(POLICY, encoding="utf-8")
    (pack / "rhubarb.txt").write_text(f"{WORDS}\n", encoding="utf-8")
    return start(settings=SANCTIONS)


def records(running: Guardrail, *arguments: str) -> str:
    """What the command prints, run as an operator would."""
    done = subprocess.run(
        command("records", *arguments, "--state-dir", str(running.state_dir)),
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def ask(client: openai.OpenAI, text: str) -> str:
    answer = client.chat.completions.create(model="echo", messages=[{"role": "user", "content": text}])
    return answer.choices[0].message.content or ""


def refusal(client: openai.OpenAI, text: str) -> Any:
    """The `guardrail` object of the error that a request is answered with, and its code."""
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client, text)
    body: Any = caught.value.body
    return body["code"], body["guardrail"]


def suspend(client: openai.OpenAI) -> str:
    """Offend three times in a row; the appeal link of the third refusal."""
    for _ in range(3):
        code, about = refusal(client, f"please, {WORDS}")
        assert code == "content_filter"
        time.sleep(0.25)
    assert refusal(client, "hello")[0] == "account_suspended"
    return str(about["appeal_url"])


def test_a_suspended_user_appeals_by_the_link_and_is_served_after_it_is_granted(running: Guardrail) -> None:
    client, canary = running.client(), secrets.token_hex(12)
    link = suspend(client)
    assert link.startswith(running.url)
    assert refusal(client, "hello")[1]["appeal_url"] == link
    shown = httpx.get(link).json()
    assert [rule["because"] for rule in shown["incident"]["rules"]] == ["Names the rhubarb."]
    assert shown["standing"]["step"] == "suspend"
    page = httpx.get(link, headers={"accept": "text/html", "accept-language": "zh"})
    assert "账号已暂停使用" in page.text

    query = dict(httpx.URL(link).params)
    form = query | {"statement": f"引文, not a wish: {canary}"}
    browser = httpx.Client(headers={"accept": "text/html"}, follow_redirects=True)
    filed = browser.post(f"{running.url}/guardrail/appeals", data=form)
    assert filed.status_code == 200
    assert "/guardrail/tickets/" in filed.url.path
    ticket = str(filed.url)
    again = httpx.post(f"{running.url}/guardrail/appeals", json=form)
    assert (again.status_code, again.json()["ticket_url"]) == (200, ticket)

    [waiting] = json.loads(records(running, "appeals", "--json"))
    assert waiting["incident"] == query["incident"]
    shown = json.loads(records(running, "show", waiting["incident"], "--reveal", "--reason", "appeal", "--json"))
    assert shown["appeals"][0]["statement"] == form["statement"]
    records(running, "decide", waiting["id"], "--grant", "--reason", "a quotation", "--by", "Wu Min")
    until = time.monotonic() + 10
    while httpx.get(link).json()["standing"]["step"] == "suspend":
        assert time.monotonic() < until, "the decision was not seen"
        time.sleep(0.05)
    assert ask(client, "hello") == "hello"

    told = httpx.get(ticket).json()
    assert (told["state"], told["reason"]) == ("granted", "a quotation")
    kept = json.loads(records(running, "show", waiting["incident"], "--json"))
    assert (kept["strike"], kept["appeals"][0]["state"]) == ("appealed/rhubarb", "granted")
    assert json.loads(records(running, "appeals", "--json")) == []

    assert running.stop() == 0
    home = running.log.parent
    for file in (file for file in home.rglob("*") if file.is_file()):
        data = file.read_bytes()
        assert canary.encode() not in data, file
        assert query["capability"].encode() not in data, file


def test_the_rules_and_about_are_there_and_nobody_else_opens_an_incident(running: Guardrail) -> None:
    mine, other = running.client(), running.client()
    link = suspend(mine)
    _, about = refusal(other, WORDS)
    rules = httpx.get(about["rules_url"])
    assert rules.status_code == 200
    assert any(rule["rule"] == "appealed/rhubarb" for policy in rules.json()["policies"] for rule in policy["rules"])
    assert httpx.get(f"{running.url}/guardrail/about").json()["profile"] == "neutral"
    query, stolen = dict(httpx.URL(link).params), dict(httpx.URL(about["appeal_url"]).params)
    form = {"incident": query["incident"], "capability": stolen["capability"], "statement": "mine"}
    assert httpx.post(f"{running.url}/guardrail/appeals", json=form).status_code == 404
    assert httpx.get(f"{running.url}/guardrail/appeals", params=form).status_code == 404
    assert json.loads(records(running, "appeals", "--json")) == []
