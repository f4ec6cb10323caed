"""`Guard` as a Python API: made of settings, started and closed, asked about single texts, bound to tenants."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest
import uvicorn

from guardrail import Guard
from guardrail.core.admission import Subject
from guardrail.core.content import Direction
from guardrail.core.policy import Action
from guardrail.errors import PolicyError, SettingsError
from guardrail.inference.server import classifier_app
from guardrail.protocols import Priority
from guardrail.testing import Answer, ScriptedUpstream, chat, drive
from tests.house import BLOCKED, POLICY, REDACTED, free_port, write_policy, write_settings

ACME = Subject("acme", "someone")
CHAT = "/v1/chat/completions"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith("GUARDRAIL_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_settings(tmp_path)


# -- from settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "override",
    [{"stream__keepalive_seconds": 3}, {"stream.keepalive_seconds": 3}, {"stream": {"keepalive_seconds": 3}}],
)
def test_an_override_names_its_key_in_each_documented_form(override: dict[str, object], file: Path) -> None:
    assert Guard.from_settings(file, **override).options.keepalive == 3.0


def test_overrides_win_over_the_environment_and_that_over_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('refusal = "message"\n' + file.read_text())
    assert Guard.from_settings(file).options.refusal == "message"
    monkeypatch.setenv("GUARDRAIL_REFUSAL", "error")
    assert Guard.from_settings(file).options.refusal == "error"
    assert Guard.from_settings(file, refusal="message").options.refusal == "message"
    assert Guard.from_settings(file, refusal=None).options.refusal == "error", "None says nothing"


def test_without_a_path_the_working_directorys_file_is_read(file: Path) -> None:
    assert Guard.from_settings().settings.profile == "bare"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ({"upstraem": "http://x"}, "arguments: upstraem: unknown key"),
        ({"upstream": "ftp://x"}, "arguments: upstream.url"),
        ({"server": {"workers": 0}}, "arguments: server.workers: got 0"),
        ({"profile": "nope"}, 'got "nope"'),
    ],
)
def test_an_override_that_cannot_be_used_is_named(override: dict[str, object], says: str, file: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        Guard.from_settings(file, **override)
    assert says in str(caught.value)


def test_two_guards_of_the_same_state_know_people_by_the_same_name(file: Path, tmp_path: Path) -> None:
    names = [Guard.from_settings(file).identifier.end_user("acme", "alice").key for _ in range(2)]
    other = Guard.from_settings(file, state_dir=str(tmp_path / "elsewhere")).identifier.end_user("acme", "alice").key
    assert names[0] == names[1] != other
    assert "alice" not in names[0]


# -- start and close -----------------------------------------------------------------------------------------------


async def test_a_guard_is_started_and_closed_by_async_with_and_may_be_used_again(file: Path) -> None:
    guard = Guard.from_settings(file)
    for _ in range(2):
        async with guard as same:
            assert same is guard
            assert guard.started
            assert guard.ready()["ready"] is True
            assert (await guard.screen(BLOCKED)).action is Action.BLOCK
        assert not guard.started
        assert guard.ready()["ready"] is False


async def test_an_error_within_async_with_still_closes_it(file: Path) -> None:
    guard = Guard.from_settings(file)
    with pytest.raises(KeyError):
        async with guard:
            raise KeyError
    assert not guard.started
    assert len(asyncio.all_tasks()) == 1, "nothing of it goes on"


async def test_readiness_says_what_is_loaded_and_falls_with_draining(file: Path) -> None:
    async with Guard.from_settings(file) as guard:
        state = guard.ready()
        assert state["profile"] == "bare"
        assert state["policies"] == ["house"]
        assert state["detectors"] == ["keywords"]
        guard.drain()
        assert (guard.ready()["ready"], guard.ready()["draining"]) == (False, True)
        assert (await drive(guard.public_app(), "/readyz", method="GET")).status == 503
        assert (await drive(guard.public_app(), "/livez", method="GET")).status == 200


# -- screening single texts ----------------------------------------------------------------------------------------


async def test_a_text_is_screened_and_the_verdict_says_what_and_where(file: Path) -> None:
    async with Guard.from_settings(file) as guard:
        verdict = await guard.screen(f"𠮷 a {BLOCKED}!")
        assert (verdict.action, verdict.stops, verdict.failures) == (Action.BLOCK, True, ())
        [match] = verdict.matches
        assert (match.rule.id, match.finding.start, match.finding.end) == ("house/block", 4, 4 + len(BLOCKED))
        assert (await guard.screen("")).action is Action.ALLOW
        assert (await guard.screen("nothing of the kind")).matches == ()
        verdict, text = await guard.screen_and_redact(f"a {REDACTED} b")
        assert (verdict.action, text) == (Action.REDACT, "a [removed] b")


async def test_many_texts_at_once_keep_apart(file: Path) -> None:
    async with Guard.from_settings(file) as guard:
        texts = [f"{number} {BLOCKED if number % 7 == 0 else 'fine'}" for number in range(200)]
        verdicts = await asyncio.gather(*map(guard.screen, texts))
    assert [verdict.stops for verdict in verdicts] == [number % 7 == 0 for number in range(200)]


async def test_a_direction_is_a_word_or_a_member_and_no_other(tmp_path: Path) -> None:
    write_policy(tmp_path, policy=POLICY.replace("strike = true\n", 'strike = true\ndirections = ["completion"]\n'))
    async with Guard.from_settings(write_settings(tmp_path)) as guard:
        assert not (await guard.screen(BLOCKED)).stops
        for way in ("completion", Direction.COMPLETION):
            assert (await guard.screen(BLOCKED, direction=way)).stops
        with pytest.raises(ValueError, match="sideways"):
            await guard.screen(BLOCKED, direction="sideways")


async def test_policies_can_be_named_and_an_unknown_one_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    write_policy(tmp_path, "house")
    write_policy(tmp_path, "other", blocked="something else")
    async with Guard.from_settings(write_settings(tmp_path)) as guard:
        assert (await guard.screen("something else")).stops
        assert not (await guard.screen("something else", policies=["house"])).stops
        assert (await guard.screen("something else", policies=["house", "other"])).stops
        with pytest.raises(PolicyError, match="no policy 'nope' is loaded; expected one of house, other"):
            await guard.screen("x", policies=["house", "nope"])


async def test_screening_alone_records_nothing_and_sanctions_nobody(file: Path) -> None:
    async with Guard.from_settings(file) as guard:
        for _ in range(10):
            assert (await guard.screen(BLOCKED, subject=ACME)).stops
        await guard.store.flush()  # type: ignore[attr-defined]
        assert sum(guard.store.in_force(guard.clock()).values()) == 0
        assert guard.admit(ACME).allowed


async def test_observing_finds_and_enforces_nothing(file: Path) -> None:
    async with Guard.from_settings(file, observe=True) as guard:
        verdict, text = await guard.screen_and_redact(f"{BLOCKED} and {REDACTED}")
    assert verdict.action is Action.ALLOW
    assert {match.rule.id for match in verdict.matches} == {"house/block", "house/redact"}
    assert text == f"{BLOCKED} and {REDACTED}"


# -- tenants -------------------------------------------------------------------------------------------------------


def tenant(name: str, more: str = "") -> str:
    return f'[[tenants]]\nid = "{name}"\nkey_hashes = ["{sha256(name.encode()).hexdigest()}"]\n{more}\n'


class Sure:
    """A classifier that gives every text the same score."""

    labels = ("odd",)

    async def score(self, texts: Sequence[str], priority: Priority = Priority.PROMPT) -> list[tuple[float, ...]]:
        return [(0.7,)] * len(texts)

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass


@pytest.fixture
def classifier() -> Iterator[str]:
    """The URL of a classifier's server that finds every text odd by 0.7."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(classifier_app(Sure()), port=port, log_level="critical", lifespan="on"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


async def test_a_tenants_own_threshold_takes_the_place_of_the_rules(tmp_path: Path, classifier: str) -> None:
    rule = '[[rule]]\nid = "odd"\ndetector = "classifier"\nlabel = "odd"\ncategory = "odd"\naction = "block"\n'
    write_policy(tmp_path, policy=POLICY + rule)
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.toml").write_text('id = "m"\ntitle = "M"\n[labels.odd]\ncategory = "odd"\nblock = 0.6\n')
    tenants = tenant("lenient", 'thresholds = { "house/odd" = 0.8 }') + tenant("plain")
    file = write_settings(tmp_path, tenants)
    on = {"enabled": True, "model": str(model), "url": classifier}
    async with Guard.from_settings(file, classifier=on) as guard:
        assert (await guard.screen("anything")).stops
        assert (await guard.screen("anything", subject=Subject("plain", "x"))).stops
        lenient = await guard.screen("anything", subject=Subject("lenient", "x"))
        assert (lenient.action, lenient.matches, lenient.failures) == (Action.ALLOW, (), ())
        assert (await guard.screen(BLOCKED, subject=Subject("lenient", "x"))).stops, "no other rule is touched"


def at(day: str) -> float:
    return datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()


async def test_an_exception_holds_for_its_tenant_to_the_end_of_its_last_day_and_no_longer(tmp_path: Path) -> None:
    excepted = '[[tenants.exceptions]]\nrule = "house/block"\nuntil = 2026-03-31\nbecause = "a cookery school"\n'
    async with Guard.from_settings(write_settings(tmp_path, tenant("acme", excepted) + tenant("other"))) as guard:

        async def stops(moment: str, who: Subject | None) -> bool:
            guard.clock = lambda: at(moment)
            return (await guard.screen(BLOCKED, subject=who)).stops

        assert not await stops("2026-01-01T00:00:00", ACME)
        assert not await stops("2026-03-31T23:59:59", ACME)
        assert await stops("2026-04-01T00:00:00", ACME)
        assert not await stops("2026-03-31T23:59:59", ACME), "a clock that goes back is believed, too"
        assert await stops("2026-01-01T00:00:00", Subject("other", "x"))
        assert await stops("2026-01-01T00:00:00", None)


async def test_a_tenant_may_have_some_of_the_policies(tmp_path: Path) -> None:
    write_policy(tmp_path, "house")
    write_policy(tmp_path, "other", blocked="something else")
    file = write_settings(tmp_path, tenant("acme", 'policies = ["other"]') + tenant("all"))
    async with Guard.from_settings(file) as guard:
        assert not (await guard.screen(BLOCKED, subject=ACME)).stops
        assert (await guard.screen("something else", subject=ACME)).stops
        assert (await guard.screen(BLOCKED, subject=Subject("all", "x"))).stops


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ('thresholds = { "house/nope" = 0.5 }', 'tenant "acme": thresholds names "house/nope"'),
        ('policies = ["nope"]', 'tenant "acme": policies names "nope"; expected house'),
        (
            '[[tenants.exceptions]]\nrule = "nope/x"\nuntil = 2026-03-31\nbecause = "b"',
            'tenant "acme": exceptions names "nope/x"',
        ),
    ],
)
def test_terms_that_name_what_is_not_there_are_refused(more: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(PolicyError) as caught:
        Guard.from_settings(write_settings(tmp_path, tenant("acme", more)))
    assert says in str(caught.value)


# -- across a restart ----------------------------------------------------------------------------------------------

WHOLE = {
    "id": "c",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
}


class Days:
    """A proxy whose clock is set by hand, and which can be restarted on its state."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.now = at("2026-01-01T08:00:00")
        self.guard = Guard.from_settings(file)

    async def restart(self) -> None:
        await self.guard.close()
        self.guard = Guard.from_settings(self.file)

    async def ask(self, text: str, key: str = "sk-culprit") -> Answer:
        self.guard.clock = lambda: self.now
        upstream = ScriptedUpstream([json.dumps(WHOLE).encode()], media="application/json")
        app = self.guard.proxy_app(upstream)
        return await drive(app, CHAT, chat(text), headers={"authorization": f"Bearer {key}"})

    async def status(self, text: str, key: str = "sk-culprit") -> int:
        return (await self.ask(text, key)).status


@pytest.mark.parametrize("restarted", [False, True])
async def test_three_strikes_in_a_row_suspend_for_a_day_and_a_restart_forgets_none(restarted: bool, file: Path) -> None:
    days = Days(file)

    async def perhaps() -> None:
        if restarted:
            await days.restart()

    for strike in range(3):
        while (answer := await days.ask(BLOCKED)).status == 429:
            days.now += int(answer.headers["retry-after"])
        assert answer.status == 400, strike
        await perhaps()
        days.now += 11
    suspended = await days.ask("harmless")
    assert (suspended.status, suspended.json()["error"]["code"]) == (403, "account_suspended")
    assert await days.status("harmless", "sk-other") == 200
    until = suspended.json()["error"]["guardrail"]["until"]
    await perhaps()
    for _ in range(3):
        assert await days.status(BLOCKED) == 403, "what is turned away at the door is no strike"
    await perhaps()
    assert (await days.ask("harmless")).json()["error"]["guardrail"]["until"] == until
    days.now = until + 1
    assert await days.status("harmless") == 200
    await days.guard.close()


@pytest.mark.parametrize("restarted", [False, True])
async def test_five_strikes_in_a_day_suspend_though_requests_passed_between(restarted: bool, file: Path) -> None:
    days = Days(file)
    for strike in range(5):
        assert await days.status("harmless") == 200, strike
        days.now += 11
        assert await days.status(BLOCKED) == 400, strike
        days.now += 11
        if restarted:
            await days.restart()
    assert await days.status("harmless") == 403
    await days.guard.close()
