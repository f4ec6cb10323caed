"""The real `ollama` SDK, unchanged but for its host, gets through the proxy what it gets without it."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import ollama
import pytest

from tests.e2e.conftest import ANSWERED, BLOCKED, REDACTED, SAFE_ANSWER, Guardrail, serve
from tests.e2e.ollama_upstream import OllamaUpstream, Say

TALK = "There is bread, 茶, a jar of honey — and\u2028nothing else at all."
USER: list[Any] = [{"role": "user", "content": "What is on the table?"}]
CALLS = (
    {"function": {"name": "look", "arguments": {"where": "table", "what": ["bread", "茶"]}}},
    {"function": {"name": "count", "arguments": {"n": 3}}},
)
ANSWERS = {
    "text": Say(TALK),
    "nothing": Say(""),
    "thinking": Say("Bread.", thinking="The user asks for the table. I look. I see bread."),
    "calls": Say("", calls=CALLS),
    "text-and-call": Say("Let me look.", calls=CALLS[:1]),
    "logprobs": Say(TALK, logprobs=True),
    "length": Say("There is br", reason="length"),
    "crlf": Say(TALK, end=b"\r\n"),
}


@pytest.fixture(scope="module")
def upstream() -> Iterator[OllamaUpstream]:
    server = OllamaUpstream()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def guardrail(upstream: OllamaUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guardrail]:
    running = serve(tmp_path_factory.mktemp("ollama"), upstream.url)
    yield running
    assert running.stop() == 0, running.log.read_text()[-4000:]


@pytest.fixture
def client(guardrail: Guardrail) -> ollama.Client:
    return ollama.Client(guardrail.url, headers={"authorization": f"Bearer {uuid.uuid4().hex}"}, timeout=20)


@pytest.fixture
def direct(upstream: OllamaUpstream) -> ollama.Client:
    return ollama.Client(upstream.url, timeout=20)


def dumped(answer: Any) -> Any:
    return [part.model_dump() for part in answer] if isinstance(answer, Iterator) else answer.model_dump()


def by_lane(lines: list[dict[str, Any]]) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    """Lines by the text that they add to: a text that waits to be cleared does not hold up another one."""
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for line in lines:
        said = line.get("message") or line
        lane = tuple(key for key in ("thinking", "content", "response", "tool_calls") if said.get(key))
        found.setdefault(lane, []).append(line)
    return found


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_plain_answer_is_the_upstreams(
    kind: str, client: ollama.Client, direct: ollama.Client, upstream: OllamaUpstream
) -> None:
    upstream.answers[kind] = ANSWERS[kind]
    request: dict[str, Any] = {"model": kind, "messages": USER, "options": {"temperature": 0.7}, "keep_alive": "5m"}
    assert dumped(client.chat(**request)) == dumped(direct.chat(**request))
    if not ANSWERS[kind].calls:
        request = {"model": kind, "prompt": "On the table is", "suffix": ".", "system": "Be brief.", "raw": False}
        assert dumped(client.generate(**request)) == dumped(direct.generate(**request))


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("piece", [0, 1, 7])
def test_a_stream_is_the_upstreams_line_by_line(
    kind: str, piece: int, client: ollama.Client, direct: ollama.Client, upstream: OllamaUpstream
) -> None:
    upstream.answers[kind] = dataclasses.replace(ANSWERS[kind], piece=piece)
    request: dict[str, Any] = {"model": kind, "messages": USER, "stream": True, "think": kind == "thinking"}
    ours, theirs = dumped(client.chat(**request)), dumped(direct.chat(**request))
    assert by_lane(ours) == by_lane(theirs)
    assert ours[-1]["done"]
    if not ANSWERS[kind].calls:
        request = {"model": kind, "prompt": "On the table is", "template": "{{ .Prompt }}", "stream": True}
        assert by_lane(dumped(client.generate(**request))) == by_lane(dumped(direct.generate(**request)))


def test_a_stream_keeps_every_byte_but_for_the_object_in_its_last_line(
    guardrail: Guardrail, upstream: OllamaUpstream
) -> None:
    upstream.answers["bytes"] = Say(TALK)
    request = {"model": "bytes", "messages": USER}  # a stream is the default
    ours = httpx.post(f"{guardrail.url}/api/chat", json=request)
    theirs = httpx.post(f"{upstream.url}/api/chat", json=request)
    assert ours.headers["content-type"] == theirs.headers["content-type"] == "application/x-ndjson"
    *same, last = ours.content.splitlines(keepends=True)
    *expected, end = theirs.content.splitlines(keepends=True)
    assert same == expected
    assert last.startswith(end[:-2] + b',"guardrail":{"action":"allow"')
    assert "eval_count" in json.loads(last)


def test_the_request_reaches_the_upstream_as_it_was_sent(guardrail: Guardrail, upstream: OllamaUpstream) -> None:
    body = b'{ "model":"echo", "prompt":"caf\\u00e9", "options":{"temperature":0.70,"num_ctx":4.096e3,"stop":["\\n"]} }'
    assert httpx.post(f"{guardrail.url}/api/generate", content=body, headers={"content-type": "application/json"})
    assert upstream.last.body == body
    assert upstream.last.path == "/api/generate"


def test_a_model_can_be_loaded_without_a_prompt(client: ollama.Client) -> None:
    assert client.generate("any", keep_alive=60).done_reason == "load"
    assert client.chat("any", messages=[]).done_reason == "load"


def test_a_blocked_prompt_raises_what_the_sdk_raises(client: ollama.Client, upstream: OllamaUpstream) -> None:
    before = len(upstream.received)
    for ask in (
        lambda: client.chat("echo", messages=[{"role": "user", "content": BLOCKED}]),
        lambda: list(client.chat("echo", messages=[{"role": "user", "content": BLOCKED}], stream=True)),
    ):
        with pytest.raises(ollama.ResponseError) as raised:
            ask()
        assert raised.value.status_code in (400, 429)  # the second strike in a row limits
        assert BLOCKED not in raised.value.error
    assert len(upstream.received) == before


@pytest.mark.parametrize(
    "request_",
    [{"prompt": BLOCKED}, {"prompt": "x", "suffix": BLOCKED}, {"prompt": "x", "system": BLOCKED},
     {"prompt": "x", "template": BLOCKED}],
)  # fmt: skip
def test_every_field_of_generate_is_screened(request_: dict[str, str], client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError) as raised:
        client.generate("echo", **request_)
    assert raised.value.status_code == 400


def test_a_picture_is_refused_and_named(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError) as raised:
        client.chat("echo", messages=[{"role": "user", "content": "see", "images": [b"\x89PNG"]}])
    assert raised.value.status_code == 422
    assert "messages[0].images" in raised.value.error


@pytest.mark.parametrize("piece", [0, 1, 5])
def test_a_blocked_stream_ends_with_its_reason_and_the_upstream_is_let_go(
    piece: int, client: ollama.Client, upstream: OllamaUpstream
) -> None:
    upstream.answers["bad"] = Say(f"Clean words, then {BLOCKED} and {'more ' * 500}", piece=piece, pause=0.005)
    *said, last = client.chat("bad", messages=USER, stream=True)
    assert "".join(part.message.content or "" for part in said) == "Clean words, then "
    assert (last.done, last.done_reason) == (True, "content_filter")
    assert upstream.last.left.wait(5)
    *parts, end = client.generate("bad", prompt="x", stream=True)
    assert "".join(part.response or "" for part in parts) == "Clean words, then "
    assert end.done_reason == "content_filter"


def test_a_blocked_plain_answer_keeps_its_clean_part(client: ollama.Client, upstream: OllamaUpstream) -> None:
    upstream.answers["bad"] = Say(f"Clean words, then {BLOCKED} and more", logprobs=True)
    answer = client.chat("bad", messages=USER)
    assert answer.message.content == "Clean words, then "
    assert (answer.done_reason, answer.logprobs) == ("content_filter", None)
    plain = client.generate("bad", prompt="x")
    assert (plain.response, plain.context) == ("Clean words, then ", [])


@pytest.mark.parametrize("arguments", [{"a": BLOCKED}, {BLOCKED: 1}, {"a": ["x", BLOCKED.replace(" ", "\n")]}])
def test_a_blocked_call_is_not_delivered(
    arguments: dict[str, Any], client: ollama.Client, upstream: OllamaUpstream
) -> None:
    upstream.answers["bad"] = Say("Let me see.", calls=({"function": {"name": "f", "arguments": arguments}},))
    assert client.chat("bad", messages=USER).message.tool_calls is None
    parts = list(client.chat("bad", messages=USER, stream=True))
    assert not any(part.message.tool_calls for part in parts)
    assert parts[-1].done_reason == "content_filter"


def test_redaction_and_safe_answers_reach_the_sdk(client: ollama.Client, upstream: OllamaUpstream) -> None:
    upstream.answers["badger"] = Say(f"The {REDACTED} sleeps.", piece=3)
    stream = client.chat("badger", messages=USER, stream=True)
    assert "".join(part.message.content or "" for part in stream) == "The [removed] sleeps."
    assert client.generate("badger", prompt="x").response == "The [removed] sleeps."
    assert client.chat("echo", messages=[{"role": "user", "content": ANSWERED}]).message.content == SAFE_ANSWER
    parts = list(client.generate("echo", prompt=ANSWERED, stream=True))
    assert ("".join(part.response or "" for part in parts), parts[-1].done) == (SAFE_ANSWER, True)


def test_the_upstreams_own_errors_reach_the_sdk(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError) as raised:
        client.chat("missing", messages=USER)
    assert (raised.value.status_code, raised.value.error) == (404, "model 'missing' not found")


def test_an_error_in_mid_stream_is_raised_by_the_sdk(client: ollama.Client, upstream: OllamaUpstream) -> None:
    upstream.answers["breaks"] = Say("one two three four")
    parts: list[str] = []
    with pytest.raises(ollama.ResponseError):
        parts.extend(part.message.content or "" for part in client.chat("breaks", messages=USER, stream=True))
    assert "one two three".startswith("".join(parts))


async def test_the_asynchronous_client_streams_too(guardrail: Guardrail, upstream: OllamaUpstream) -> None:
    upstream.answers["text"] = Say(TALK, piece=2)
    client = ollama.AsyncClient(guardrail.url, timeout=20)
    parts = [part async for part in await client.chat("text", messages=USER, stream=True)]
    assert "".join(part.message.content or "" for part in parts) == TALK
    assert (await client.generate("text", prompt="x")).response == TALK
