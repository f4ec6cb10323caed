"""What a person writes in an allowed request is found nowhere afterwards: not in the state, the logs or the metrics."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.conftest import BLOCKED, OBSERVED, Guardrail
from tests.e2e.upstream import Call, Say, Upstream, script


def forms(secret: str) -> dict[str, bytes]:
    """The ways in which a text may lie in a file."""
    raw = secret.encode()
    # Base64 depends on where the text begins: the middle of it, for each of the three places.
    shifted = {f"base64, place {i}": base64.b64encode(b"\x00" * i + raw)[4 if i else 0 : -4] for i in range(3)}
    return {
        "plain": raw,
        "upper case": raw.upper(),
        "reversed": raw[::-1],
        "UTF-16": secret.encode("utf-16-le"),
        "hex": raw.hex().encode(),
        "spaced out": " ".join(secret).encode(),
        **shifted,
    }


def found(secret: str, where: dict[str, bytes]) -> list[str]:
    """Where a text lies, in which form; letter case is no disguise."""
    return [
        f"{place}: {form}"
        for place, data in where.items()
        for form, needle in forms(secret).items()
        if needle in data or needle.lower() in data.lower()
    ]


def everything_kept(running: Guardrail) -> dict[str, bytes]:
    """Every byte that a process left behind under its home, its log included."""
    home = running.log.parent
    return {str(file.relative_to(home)): file.read_bytes() for file in home.rglob("*") if file.is_file()}


def everything_told(running: Guardrail) -> dict[str, bytes]:
    """What a running process tells operators who ask."""
    return {path: httpx.get(f"{running.admin_url}{path}").content for path in ("/metrics",)} | {
        path: httpx.get(f"{running.url}{path}").content for path in ("/readyz", "/livez")
    }


@pytest.mark.parametrize("arguments", [(), ("--observe",)], ids=["enforcing", "observing"])
def test_a_secret_in_an_allowed_prompt_is_found_nowhere(
    arguments: tuple[str, ...], start: Callable[..., Guardrail], upstream: Upstream
) -> None:
    canary = secrets.token_hex(12)
    key = secrets.token_hex(12)
    user = secrets.token_hex(12)
    running = start(*arguments)
    client = running.client(api_key=f"sk-{key}", default_headers={"X-End-User-Id": user, "X-Own": canary})
    said = f"my secret is {canary} and nobody may know"
    messages: list[Any] = [{"role": "system", "content": f"keep {canary}"}, {"role": "user", "content": said}]
    for stream in (False, True):
        answer: Any = client.chat.completions.create(
            model="echo", messages=messages, stream=stream, user=user, extra_query={"q": canary}
        )
        if stream:
            assert canary in "".join(chunk.choices[0].delta.content or "" for chunk in answer)
        else:
            assert canary in answer.choices[0].message.content
            assert answer.model_dump()["guardrail"]["action"] == "allow"
    assert canary in upstream.last.body.decode()
    # Where something is noted, or goes wrong, on its way.
    client.chat.completions.create(model="echo", messages=[*messages, {"role": "user", "content": OBSERVED}])
    client.chat.completions.create(
        model="any", messages=messages, **script(Say(None, calls=(Call("look", f'{{"q": "{canary}"}}'),)))
    )
    for model in ("error-500", "html", "not-json", "down", "cut", canary):
        try:
            client.chat.completions.create(model=model, messages=messages)
        except openai.APIStatusError:
            pass
    for body in (said.encode(), b'{"messages": "' + canary.encode() + b'"}', b'{"a": 1, "a": "' + canary.encode()):
        httpx.post(
            f"{running.url}/v1/chat/completions?q={canary}", content=body, headers={"content-type": "application/json"}
        )
    httpx.post(f"{running.url}/v1/{canary}", json={"model": canary})
    httpx.get(f"{running.url}/v1/models/{canary}")
    told = everything_told(running)
    assert running.stop() == 0
    kept = everything_kept(running)
    for secret in (canary, key, user):
        assert found(secret, told | kept) == []
    assert any(len(data) > 1000 for place, data in kept.items() if place.startswith("state")), "nothing was kept at all"


def test_of_a_blocked_prompt_the_incident_is_kept_and_its_words_are_sealed(start: Callable[..., Guardrail]) -> None:
    canary = secrets.token_hex(12)
    running = start()
    with pytest.raises(openai.BadRequestError) as caught:
        running.client().chat.completions.create(
            model="echo", messages=[{"role": "user", "content": f"{canary} says {BLOCKED} to {canary}"}]
        )
    body: Any = caught.value.body
    told = everything_told(running)
    assert running.stop() == 0
    kept = everything_kept(running)
    state = {place: data for place, data in kept.items() if place.startswith("state")}
    assert found(canary, told | kept) == []
    assert found(BLOCKED, state) == []
    # The search would have found them: it finds what is kept in the clear.
    assert any(body["guardrail"]["incident"].encode() in data for data in state.values())


def test_the_search_itself_finds_a_text_in_every_form_it_knows() -> None:
    secret = secrets.token_hex(12)
    for form, data in forms(secret).items():
        assert found(secret, {"file": b"\x00 before " + data + b" after"}), form
    encoded = base64.b64encode(b"xy" + secret.encode() + b"tail")
    assert found(secret, {"file": encoded})
    assert found(secret, {"file": b"nothing of the kind"}) == []
