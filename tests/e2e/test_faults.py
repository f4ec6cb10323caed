"""What an upstream may do wrong: the client is told in words it understands, and the process stays healthy."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.conftest import BLOCKED, Guardrail
from tests.e2e.upstream import Say, Upstream, script

USER: list[Any] = [{"role": "user", "content": "What is on the table?"}]
TALK = "There is bread, 茶, a jar of honey and\u2028nothing else."


@pytest.fixture(autouse=True)
def _healthy_afterwards(guardrail: Guardrail) -> Iterator[None]:
    yield
    guardrail.assert_healthy()


def ask(guardrail: Guardrail, model: str, say: str = TALK, **more: Any) -> Any:
    return guardrail.client().chat.completions.create(model=model, messages=USER, **script(Say(say)), **more)


def read(guardrail: Guardrail, model: str, say: str = TALK, piece: int = 0) -> tuple[list[Any], openai.APIError | None]:
    """A stream's chunks, and the error that ended it if one did."""
    chunks: list[Any] = []
    request = script(Say(say), piece=piece)
    try:
        for chunk in guardrail.client().chat.completions.create(model=model, messages=USER, stream=True, **request):
            chunks.append(chunk)
    except openai.APIError as error:
        return chunks, error
    return chunks, None


def text_of(chunks: list[Any]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        ("down", 502, "upstream_unavailable"),
        ("slow", 504, "upstream_timeout"),
        ("html", 502, "bad_upstream_response"),
        ("html-error", 503, "bad_upstream_response"),
        ("not-json", 502, "bad_upstream_response"),
        ("no-choices", 502, "bad_upstream_response"),
    ],
)
def test_an_upstream_that_gives_no_answer_is_an_error_in_the_surfaces_shape(
    model: str, status: int, code: str, stream: bool, guardrail: Guardrail
) -> None:
    began = time.monotonic()
    with pytest.raises(openai.InternalServerError) as caught:
        ask(guardrail, model, stream=stream)
    assert (caught.value.status_code, caught.value.code, caught.value.type) == (status, code, "guardrail")
    assert "<html" not in str(caught.value)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("model", ["cut", "compressed"])
def test_a_plain_answer_that_breaks_off_or_cannot_be_read_is_a_bad_gateway(model: str, guardrail: Guardrail) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        ask(guardrail, model)
    assert caught.value.status_code == 502


def test_the_upstreams_own_error_arrives_as_its_own(guardrail: Guardrail) -> None:
    with pytest.raises(openai.RateLimitError) as limited:
        ask(guardrail, "error-429")
    assert (limited.value.code, limited.value.type) == ("code_429", "e2e")
    assert limited.value.response.headers["retry-after"] == "7"
    with pytest.raises(openai.InternalServerError) as failed:
        ask(guardrail, "error-500", stream=True)
    assert (failed.value.status_code, failed.value.code) == (500, "code_500")


@pytest.mark.parametrize("model", ["cut", "slow-stream", "broken-sse", "error-event", "after-finish"])
def test_a_stream_that_goes_wrong_ends_with_an_error_and_never_looks_complete(model: str, guardrail: Guardrail) -> None:
    began = time.monotonic()
    chunks, error = read(guardrail, model)
    assert error is not None, "the client cannot tell this stream from a whole one"
    assert TALK.startswith(text_of(chunks)) or model == "after-finish"
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("model", ["no-done", "crlf", "bytewise", "bytewise-crlf", "comments"])
@pytest.mark.parametrize("piece", [0, 1])
def test_an_odd_but_lawful_stream_arrives_whole(model: str, piece: int, guardrail: Guardrail) -> None:
    chunks, error = read(guardrail, model, piece=piece)
    assert error is None
    assert text_of(chunks) == TALK
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert sum("guardrail" in chunk.model_dump() for chunk in chunks) == 1


@pytest.mark.parametrize("model", ["no-done", "crlf", "bytewise", "bytewise-crlf", "comments", "cut", "broken-sse"])
@pytest.mark.parametrize("piece", [0, 1, 3])
def test_no_character_of_a_blocked_phrase_leaves_however_the_stream_comes(
    model: str, piece: int, guardrail: Guardrail
) -> None:
    chunks, error = read(guardrail, model, f"a b {BLOCKED} c d e", piece=piece)
    assert "a b ".startswith(text_of(chunks))
    if error is None:
        assert text_of(chunks) == "a b "
        assert chunks[-1].choices[0].finish_reason == "content_filter"


@pytest.mark.parametrize("model", ["crlf", "bytewise-crlf", "comments"])
def test_the_bytes_of_an_odd_stream_are_kept(model: str, guardrail: Guardrail, upstream: Upstream) -> None:
    request = {"model": model, "messages": USER, "stream": True, **script(Say(TALK))}
    ours = httpx.post(f"{guardrail.url}/v1/chat/completions", json=request).content
    theirs = httpx.post(f"{upstream.url}/chat/completions", json=request).content
    start = ours.index(b',"guardrail":')
    member = ours[start:].split(b"\n")[0].rstrip(b"\r")[:-1]
    assert ours.replace(member, b"", 1) == theirs
    assert json.loads(b"{" + member[1:] + b"}")["guardrail"]["action"] == "allow"


def test_many_faults_at_once_leave_nothing_open(guardrail: Guardrail) -> None:
    async def one(client: openai.AsyncOpenAI, model: str) -> None:
        try:
            stream = await client.chat.completions.create(
                model=model, messages=USER, stream=True, **script(Say(TALK * 20), pause=0.001)
            )
            async for _ in stream:
                pass
        except openai.APIError:
            pass

    async def all_of_them() -> None:
        models = ["cut", "down", "broken-sse", "error-event", "html", "echo", "no-done"] * 5
        async with guardrail.async_client() as client:
            await asyncio.wait_for(asyncio.gather(*(one(client, model) for model in models)), 60)

    def descriptors() -> int:  # Linux
        return len(list(Path(f"/proc/{guardrail.process.pid}/fd").iterdir()))

    asyncio.run(all_of_them())
    before = descriptors()
    for _ in range(3):
        asyncio.run(all_of_them())
    time.sleep(1)
    assert descriptors() <= before + 20
