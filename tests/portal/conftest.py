"""A guard with a policy of its own, asked message by message as a server would ask it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from guardrail.app import Guard, compose
from guardrail.records.keys import Keyring
from guardrail.settings import Settings
from guardrail.stores.memory import MemoryStore
from guardrail.testing import Answer, ScriptedUpstream, chat, drive

BLOCKED = "forbidden marmalade"
SECRET = "canary-83d1"
TITLE = '<script>alert("title")</script>'
PAGE = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
FORM = {"content-type": "application/x-www-form-urlencoded"}
POLICY = """
id = "house"
title = '<script>alert("title")</script>'

[[rule]]
id = "marmalade"
detector = "keywords"
phrases = "marmalade.txt"
category = "<b>category</b>"
action = "block"
strike = true
severity = "high"
articles = ["House rule 1 & 2"]
because = "No <i>marmalade</i>."

[[rule]]
id = "watched"
detector = "keywords"
phrases = "observed.txt"
category = "observed"
action = "block"
mode = "observe"
because = "Only watched."
"""


class Portal:
    """The public listener of one guard, and a clock that the test moves."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.now = 1_790_000_000.0
        guard.clock = lambda: self.now
        answer = (
            b'{"choices": [{"index": 0, "message": {"role": "assistant", "content": "well"}, "finish_reason": "stop"}]}'
        )
        self.app = guard.proxy_app(ScriptedUpstream([answer], media="application/json"))

    async def get(self, path: str, *, page: bool = False, peer: str = "10.0.0.1", **headers: str) -> Answer:
        sent = (PAGE if page else {}) | {name.replace("_", "-"): value for name, value in headers.items()}
        return await drive(self.app, path, method="GET", headers=sent, peer=peer)

    async def post(self, body: Any, *, page: bool = False, peer: str = "10.0.0.1", **headers: str) -> Answer:
        """File an appeal with a form (`page`) or as JSON."""
        sent = (PAGE | FORM if page else {}) | {name.replace("_", "-"): value for name, value in headers.items()}
        if page and isinstance(body, dict):
            body = urlencode(body).encode()
        return await drive(self.app, "/guardrail/appeals", body, headers=sent, peer=peer)

    async def ask(self, text: str, user: str = "someone") -> Answer:
        """A chat completion of a user, 20 seconds after the last one."""
        self.now += 20
        return await drive(
            self.app,
            "/v1/chat/completions",
            chat(text),
            headers={"authorization": f"Bearer sk-{user}"},
            peer="10.9.9.9",
        )

    async def offend(self, user: str = "someone") -> str:
        """A refused request; its appeal link without the host."""
        answer = await self.ask(f"{SECRET} and {BLOCKED}", user)
        assert answer.status == 400, answer.body
        return local(answer.json()["error"]["guardrail"]["appeal_url"])


def local(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


Maker = Callable[..., Awaitable[Portal]]


@pytest.fixture
async def make_portal(tmp_path: Path) -> AsyncIterator[Maker]:
    """Start guards with settings of the test's own."""
    started: list[Guard] = []
    pack = tmp_path / "policies" / "house"
    pack.mkdir(parents=True)
    (pack / "policy.toml").write_text(POLICY, encoding="utf-8")
    (pack / "marmalade.txt").write_text(f"{BLOCKED}\n", encoding="utf-8")
    (pack / "observed.txt").write_text("merely observed\n", encoding="utf-8")

    async def make(store: Any = None, **overrides: Any) -> Portal:
        settings = Settings.load(
            None,
            {},
            {
                "classifier": {"enabled": False},
                "pii": {"enabled": False},
                "policies": {"directories": [str(tmp_path / "policies")]},
                "state_dir": str(tmp_path / "state"),
                **overrides,
            },
        )
        guard = compose(settings, store=store or MemoryStore(), keyring=Keyring.throwaway())
        await guard.start()
        started.append(guard)
        return Portal(guard)

    yield make
    for guard in started:
        await guard.close()


@pytest.fixture
async def portal(make_portal: Maker) -> Portal:
    return await make_portal()
