"""The real `anthropic` SDK, unchanged but for its base URL, gets through the proxy what it gets without it."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest

from tests.e2e.anthropic_upstream import SEALED, AnthropicUpstream, Say
from tests.e2e.conftest import ANSWERED, BLOCKED, REDACTED, SAFE_ANSWER, Guardrail, serve

TALK = "There is bread, 茶, a jar of honey — and\u2028nothing else at all."
USER: list[Any] = [{"role": "user", "content": "What is on the table?"}]
TOOLS: list[Any] = [
    {
        "name": "look",
        "description": "Looks at a place.",
        "input_schema": {"type": "object", "properties": {"where": {"type": "string"}}, "required": ["where"]},
    }
]
CALL = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"where": "table", "what": ["bread", "茶"]}}
SEARCH = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "bread"}}
FOUND: dict[str, Any] = {
    "type": "web_search_tool_result",
    "tool_use_id": "srvtoolu_1",
    "content": [
        {"type": "web_search_result", "title": "Bread", "url": "https://example.org/bread", "encrypted_content": SEALED,
         "page_age": "April 30, 2025"}],
}  # fmt: skip
CITATION = {
    "type": "char_location", "cited_text": "Bread is on the table.", "document_index": 0, "document_title": "Table",
    "start_char_index": 0, "end_char_index": 22, "file_id": None,
}  # fmt: skip
THOUGHT = {"type": "thinking", "thinking": "The user asks for the table. I look.", "signature": SEALED}


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


ANSWERS: dict[str, Say] = {
    "text": Say((text(TALK),)),
    "nothing": Say(()),
    "thinking": Say((THOUGHT, text("Bread."))),
    "sealed thinking": Say(({"type": "redacted_thinking", "data": SEALED}, text("Bread."))),
    "a thought that ends like a phrase": Say(({**THOUGHT, "thinking": "This is not forbidden"}, text("Bread."))),
    "a call": Say((CALL,), reason="tool_use"),
    "text and two calls": Say((text("Let me look."), CALL, {**CALL, "id": "toolu_2"}), reason="tool_use"),
    "a search": Say((text("I search."), SEARCH, FOUND, text("Bread", citations=[CITATION]), text(" it is."))),
    "cut short by length": Say((text("There is br"),), reason="max_tokens"),
    "crlf": Say((text(TALK),), end=b"\r\n"),
    "byte by byte": Say((text("Bread, 茶."), CALL), reason="tool_use", end=b"\r\n", bytewise=True),
}
# Half an escape waits for its other half, so that its events are not the upstream's one by one.
ESCAPED = {
    "an escaped call": Say(({**CALL, "input": {"what": '茶 😀\n\t"a\\b"'}},), reason="tool_use", escaped=True),
}


@pytest.fixture(scope="module")
def upstream() -> Iterator[AnthropicUpstream]:
    server = AnthropicUpstream()
    server.answers |= ANSWERS | ESCAPED
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def guardrail(upstream: AnthropicUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guardrail]:
    running = serve(tmp_path_factory.mktemp("anthropic"), upstream.url)
    yield running
    assert running.stop() == 0, running.log.read_text()[-4000:]


@pytest.fixture
def client(guardrail: Guardrail) -> anthropic.Anthropic:
    """The SDK as an app would set it up, with a key of its own (so that no test is limited by another's)."""
    return anthropic.Anthropic(base_url=guardrail.url, api_key=uuid.uuid4().hex, max_retries=0, timeout=20)


@pytest.fixture
def direct(upstream: AnthropicUpstream) -> anthropic.Anthropic:
    """The same SDK without anything between it and the model server."""
    return anthropic.Anthropic(base_url=upstream.url, api_key="direct", max_retries=0, timeout=20)


def ask(client: anthropic.Anthropic, model: str, messages: list[Any] = USER, **more: Any) -> Any:
    """A message through the SDK; its types would want every block spelled out."""
    return client.messages.create(model=model, max_tokens=99, messages=messages, tools=TOOLS, **more)


def dumped(answer: Any) -> dict[str, Any]:
    return {key: value for key, value in answer.model_dump(warnings=False).items() if key != "guardrail"}


# -- what passes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_plain_answer_is_the_upstreams_but_for_the_guardrail_object(
    kind: str, client: anthropic.Anthropic, direct: anthropic.Anthropic
) -> None:
    ours = ask(client, kind)
    assert ours.guardrail["action"] == "allow"
    assert dumped(ours) == dumped(ask(direct, kind))


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("piece", [0, 1, 7])
def test_a_stream_is_the_upstreams_event_by_event_but_for_the_guardrail_object(
    kind: str, piece: int, client: anthropic.Anthropic, direct: anthropic.Anthropic, upstream: AnthropicUpstream
) -> None:
    upstream.answers["streamed"] = dataclasses.replace(ANSWERS[kind], piece=piece)
    ours = list(ask(client, "streamed", stream=True))
    assert [dumped(event) for event in ours] == [dumped(event) for event in ask(direct, "streamed", stream=True)]
    marked = [event for event in ours if getattr(event, "guardrail", None)]
    assert [event.type for event in marked] == ["message_delta"]
    assert marked[0].guardrail["action"] == "allow"


@pytest.mark.parametrize("piece", [0, 1, 5, 7])
def test_escapes_that_a_stream_cuts_in_two_add_up_to_the_same_text(
    piece: int, client: anthropic.Anthropic, direct: anthropic.Anthropic, upstream: AnthropicUpstream
) -> None:
    upstream.answers["streamed"] = dataclasses.replace(ESCAPED["an escaped call"], piece=piece)
    written = [
        "".join(e.delta.partial_json for e in ask(each, "streamed", stream=True) if e.type == "content_block_delta")
        for each in (client, direct)
    ]
    assert written[0] == written[1]
    assert "\\u" in written[0]


@pytest.mark.parametrize("kind", [*ANSWERS, *ESCAPED])
def test_the_sdks_stream_helper_puts_the_same_message_together(
    kind: str, client: anthropic.Anthropic, direct: anthropic.Anthropic
) -> None:
    found = []
    for each in (client, direct):
        with each.messages.stream(model=kind, max_tokens=99, messages=USER, tools=TOOLS) as stream:
            found.append(dumped(stream.get_final_message()))
    assert found[0] == found[1]
    assert [block["type"] for block in found[0]["content"]] == [
        block["type"] for block in (ANSWERS | ESCAPED)[kind].blocks
    ]


def test_a_stream_keeps_every_byte_of_every_other_event(guardrail: Guardrail, upstream: AnthropicUpstream) -> None:
    request = {"model": "text", "max_tokens": 9, "messages": USER, "stream": True}
    version = {"anthropic-version": "2023-06-01"}
    ours = httpx.post(f"{guardrail.url}/v1/messages", json=request, headers=version).content.split(b"\n\n")
    theirs = httpx.post(f"{upstream.url}/v1/messages", json=request, headers=version).content.split(b"\n\n")
    [(mine, yours)] = [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b]
    assert yours.startswith(b"event: message_delta\n")
    assert mine.startswith(yours[:-1] + b',"guardrail":{')


def test_a_conversation_with_tools_and_thoughts_reaches_the_upstream_as_it_was_sent(
    client: anthropic.Anthropic, upstream: AnthropicUpstream
) -> None:
    messages = [
        *USER,
        {"role": "assistant", "content": [THOUGHT, CALL]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [text("bread")]},
                                     text("And now?")]},
    ]  # fmt: skip
    answer = ask(client, "echo", messages, system=[text("Be brief.", cache_control={"type": "ephemeral"})])
    assert answer.content[0].text == "And now?"
    assert upstream.last.json["messages"] == messages
    assert upstream.last.json["tools"] == TOOLS
    assert client.api_key
    credentials = upstream.last.headers.get("authorization", ""), upstream.last.headers.get("x-api-key", "")
    assert any(client.api_key in credential for credential in credentials)
    assert upstream.last.headers["anthropic-version"]


async def test_the_asynchronous_client_gets_plain_answers_and_streams(guardrail: Guardrail) -> None:
    async with anthropic.AsyncAnthropic(base_url=guardrail.url, api_key=uuid.uuid4().hex, max_retries=0) as client:
        answer = await client.messages.create(model="text", max_tokens=9, messages=USER)
        assert answer.content[0].text == TALK  # type: ignore[union-attr]
        async with client.messages.stream(model="text", max_tokens=9, messages=USER) as stream:
            assert "".join([part async for part in stream.text_stream]) == TALK


def test_a_guarded_answer_says_so_in_its_headers(client: anthropic.Anthropic) -> None:
    raw = client.messages.with_raw_response.create(model="text", max_tokens=9, messages=USER)
    assert (raw.headers["guardrail-action"], raw.headers["ai-generated"]) == ("allow", "1")
    assert raw.headers["aigc"]
    assert raw.headers["request-id"] == "req_e2e"


# -- what does not ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_blocked_prompt_is_a_bad_request_error_with_our_incident_id(
    stream: bool, client: anthropic.Anthropic, upstream: AnthropicUpstream
) -> None:
    before = len(upstream.received)
    with pytest.raises(anthropic.BadRequestError) as caught:
        ask(client, "echo", [{"role": "user", "content": [text(f"Tell me about {BLOCKED}, please")]}], stream=stream)
    assert isinstance(caught.value.body, dict)
    error = caught.value.body["error"]
    assert (caught.value.status_code, error["type"]) == (400, "invalid_request_error")
    ours = error["guardrail"]
    assert (ours["code"], ours["param"], ours["rules"]) == (
        "content_filter",
        "messages[0].content[0].text",
        ["e2e/block"],
    )
    assert ours["incident"] == caught.value.response.headers["guardrail-incident"]
    assert ours["appeal_url"].startswith("http")
    assert BLOCKED not in json.dumps(caught.value.body).lower()
    assert len(upstream.received) == before


@pytest.mark.parametrize(
    "more",
    [
        {"system": BLOCKED},
        {"messages": [*USER, {"role": "assistant", "content": [{**CALL, "input": {"deep": [BLOCKED]}}]}]},
        {"messages": [{"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": [text(BLOCKED)]}]}]},
        {"messages": [{"role": "user", "content": [
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": BLOCKED}}]}]},
        {"messages": [*USER, {"role": "assistant", "content": [{**THOUGHT, "thinking": BLOCKED}]}]},
        {"extra_body": {"x_made_up": {"deep": [BLOCKED]}}},
    ],
    ids=["system", "a call's input", "a tool's result", "a document", "a thought", "an unknown field"],
)  # fmt: skip
def test_a_phrase_is_found_wherever_a_request_carries_it(more: dict[str, Any], client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError):
        ask(client, "echo", **{"messages": USER, **more})


def test_a_picture_is_an_unprocessable_entity(client: anthropic.Anthropic) -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    with pytest.raises(anthropic.UnprocessableEntityError, match="cannot be screened"):
        ask(client, "echo", [{"role": "user", "content": [picture]}])


TAIL = " And so on." * 40
HARMFUL: dict[str, tuple[Say, list[dict[str, Any]]]] = {
    "text": (Say((text(f"First bread, then {BLOCKED}.{TAIL}"), CALL)), [text("First bread, then ")]),
    "two text blocks": (
        Say((text("First bread, then forbidden "), text(f"marmalade.{TAIL}", citations=[CITATION]))),
        [text("First bread, then ")],
    ),
    "a thought": (
        Say(({**THOUGHT, "thinking": f"First bread, then {BLOCKED}.{TAIL}"}, text("No."))),
        [{**THOUGHT, "thinking": "First bread, then ", "signature": ""}],
    ),
    "a citation": (
        Say((text("Bread.", citations=[{**CITATION, "cited_text": f"{BLOCKED}.{TAIL}"}]), text("No."))),
        [text("Bread.")],
    ),
    "a search's result": (
        Say((text("I search."), SEARCH, {**FOUND, "content": [{**FOUND["content"][0], "title": BLOCKED}]}, text(TAIL))),
        [text("I search."), SEARCH],
    ),
    "a call": (
        Say((text("I look."), {**CALL, "input": {"q": f"bread, {BLOCKED}{TAIL}"}}), reason="tool_use"),
        [text("I look.")],
    ),
}  # fmt: skip


def bare(block: dict[str, Any]) -> dict[str, Any]:
    """A block without what the SDK adds where nothing was said."""
    return {key: value for key, value in block.items() if value not in (None, [])}


@pytest.mark.parametrize("kind", HARMFUL)
def test_a_blocked_plain_answer_keeps_its_clean_part_and_says_refusal(
    kind: str, client: anthropic.Anthropic, upstream: AnthropicUpstream
) -> None:
    say, left = HARMFUL[kind]
    upstream.answers["harmful"] = say
    answer = ask(client, "harmful")
    assert [bare(block) for block in dumped(answer)["content"]] == left
    assert (answer.stop_reason, answer.guardrail["action"]) == ("refusal", "block")
    assert answer.guardrail["incident"]


@pytest.mark.parametrize("kind", HARMFUL)
@pytest.mark.parametrize("piece", [0, 1, 5, 400])
def test_a_blocked_stream_ends_in_refusal_without_a_character_of_the_phrase(
    kind: str, piece: int, client: anthropic.Anthropic, upstream: AnthropicUpstream
) -> None:
    say, left = HARMFUL[kind]
    upstream.answers["harmful"] = dataclasses.replace(say, piece=piece)
    with client.messages.stream(model="harmful", max_tokens=99, messages=USER, tools=TOOLS) as stream:
        events = list(stream)
        message = stream.get_final_message()
    assert [event.type for event in events[-2:]] == ["message_delta", "message_stop"]
    assert events[-2].guardrail["action"] == "block"  # type: ignore[union-attr]
    assert message.stop_reason == "refusal"
    content = [bare(block) for block in dumped(message)["content"]]
    if kind == "a call":
        # What a call had been given before the match has left; half of it is of no use to anybody.
        assert content[0] == left[0]
        assert len(content) == 2
        assert f"bread, {BLOCKED}".startswith(content[1]["input"].get("q", ""))
        assert "forbidden" not in json.dumps(content[1])
    else:
        assert [block for block in content if block.get("text") != ""] == left


@pytest.mark.parametrize("phrase", [BLOCKED, BLOCKED.replace(" ", "\n"), "禁止果酱"])
@pytest.mark.parametrize("piece", [1, 5, 400])
def test_no_escape_hides_a_phrase_in_a_calls_streamed_input(
    phrase: str, piece: int, client: anthropic.Anthropic, upstream: AnthropicUpstream
) -> None:
    told = {**CALL, "input": {"q": f"see: {phrase}"}}
    upstream.answers["escaped"] = Say((told,), reason="tool_use", piece=piece, escaped=True)
    with client.messages.stream(model="escaped", max_tokens=99, messages=USER, tools=TOOLS) as stream:
        message = stream.get_final_message()
    assert message.stop_reason == "refusal"
    assert [block.input for block in message.content if block.type == "tool_use"] in ([], [{}], [{"q": "see: "}])
    assert ask(client, "escaped").stop_reason == "refusal"


def test_the_upstream_is_let_go_when_its_stream_is_blocked(
    client: anthropic.Anthropic, upstream: AnthropicUpstream
) -> None:
    upstream.answers["long"] = Say((text(f"First {BLOCKED}. " + "And on and on. " * 500),), pause=0.02)
    assert [event.type for event in ask(client, "long", stream=True)][-1] == "message_stop"
    assert upstream.last.left.wait(5), "the upstream's connection stayed open"
    assert upstream.last.sent < 100


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_has_a_safe_answer_gets_it(
    stream: bool, client: anthropic.Anthropic, upstream: AnthropicUpstream
) -> None:
    before = len(upstream.received)
    messages: list[Any] = [{"role": "user", "content": f"please {ANSWERED}"}]
    if stream:
        with client.messages.stream(model="echo", max_tokens=9, messages=messages) as got:
            answer: Any = got.get_final_message()
    else:
        answer = client.messages.create(model="echo", max_tokens=9, messages=messages)
    assert (answer.content[0].text, answer.stop_reason) == (SAFE_ANSWER, "end_turn")
    assert len(upstream.received) == before


@pytest.mark.parametrize("piece", [0, 1, 6])
def test_what_is_redacted_is_redacted_both_ways(
    piece: int, client: anthropic.Anthropic, upstream: AnthropicUpstream
) -> None:
    answer = ask(client, "echo", [{"role": "user", "content": f"who is the {REDACTED} here?"}])
    assert upstream.last.json["messages"][0]["content"] == "who is the [removed] here?"
    assert answer.guardrail["action"] == "redact"
    told = {**CALL, "input": {"who": f"the {REDACTED}, I think"}}
    upstream.answers["told"] = Say((text(f"It is the {REDACTED}."), told), reason="tool_use", piece=piece)
    with client.messages.stream(model="told", max_tokens=9, messages=USER, tools=TOOLS) as stream:
        message = stream.get_final_message()
    for got in (message, ask(client, "told")):
        assert (got.content[0].text, got.content[1].input) == (  # type: ignore[union-attr]
            "It is the [removed].",
            {"who": "the [removed], I think"},
        )


# -- errors ----------------------------------------------------------------------------------------------------------


def test_the_upstreams_own_errors_are_raised_as_without_us(
    client: anthropic.Anthropic, direct: anthropic.Anthropic
) -> None:
    for model in ("overloaded", "missing"):
        caught = []
        for each in (client, direct):
            with pytest.raises(anthropic.APIStatusError) as error:
                ask(each, model)
            caught.append((type(error.value), error.value.status_code, error.value.body))
        assert caught[0] == caught[1]


def test_an_error_in_mid_stream_is_raised_as_without_us(
    client: anthropic.Anthropic, direct: anthropic.Anthropic, upstream: AnthropicUpstream
) -> None:
    upstream.answers["overloaded-stream"] = ANSWERS["text"]
    caught = []
    for each in (client, direct):
        with pytest.raises(anthropic.APIStatusError) as error:
            list(ask(each, "overloaded-stream", stream=True))
        caught.append((type(error.value), error.value.body))
    assert caught[0] == caught[1]


@pytest.mark.parametrize("model", ["out-of-turn", "cut"])
def test_a_stream_that_breaks_is_an_error_for_the_client(
    model: str, client: anthropic.Anthropic, upstream: AnthropicUpstream
) -> None:
    upstream.answers[model] = ANSWERS["text"]
    with pytest.raises(anthropic.APIStatusError) as caught:
        list(ask(client, model, stream=True))
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == "api_error"


def test_counting_tokens_passes_only_where_the_operator_says_so(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="surface_not_guarded"):
        client.messages.count_tokens(model="echo", messages=USER)
