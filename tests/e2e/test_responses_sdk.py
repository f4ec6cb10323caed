"""The real `openai` SDK on the Responses API gets through a real proxy what it gets without it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pydantic
import pytest

from tests.e2e.conftest import ANSWERED, BLOCKED, REDACTED, SAFE_ANSWER, Guardrail, serve
from tests.e2e.responses_upstream import ResponsesUpstream
from tests.responses import KINDS, function_call, message, reasoning, refusal

MORE = " And more." * 40
HARMFUL = f"First comes bread, then {BLOCKED}, then tea.{MORE}"
CLEAN = "First comes bread, then "
LOOK: Any = {
    "type": "function", "name": "look", "description": "Looks at something.", "strict": True,
    "parameters": {"type": "object", "properties": {"where": {"type": "string"}}, "required": ["where"],
                   "additionalProperties": False},
}  # fmt: skip
ASKED: dict[str, Any] = {
    "input": "What is on the table?", "instructions": "You lay tables.", "metadata": {"app": "a table app"},
    "tools": [LOOK], "user": "jane",
}  # fmt: skip


@pytest.fixture(scope="module")
def upstream() -> Iterator[ResponsesUpstream]:
    server = ResponsesUpstream()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def guardrail(upstream: ResponsesUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guardrail]:
    running = serve(tmp_path_factory.mktemp("guardrail-responses"), upstream.url)
    yield running
    assert running.stop() == 0, running.log.read_text()[-4000:]


@pytest.fixture
def client(guardrail: Guardrail) -> openai.OpenAI:
    return guardrail.client()


@pytest.fixture
def direct(upstream: ResponsesUpstream) -> openai.OpenAI:
    return openai.OpenAI(base_url=upstream.url, api_key="sk-direct", max_retries=0, timeout=20.0)


def dumped(thing: Any) -> Any:
    """A response or an event without the member that the guard adds to it."""
    if isinstance(thing, pydantic.BaseModel):
        thing = thing.model_dump(mode="json", warnings=False)
    if isinstance(thing, dict):
        return {key: dumped(value) for key, value in thing.items() if key != "guardrail"}
    return [dumped(item) for item in thing] if isinstance(thing, list) else thing


# -- what is clean ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_response_is_the_upstreams_but_for_the_guardrail_object(
    kind: str, client: openai.OpenAI, direct: openai.OpenAI, upstream: ResponsesUpstream
) -> None:
    model = upstream.arrange("plain", KINDS[kind])
    ours = client.responses.create(model=model, **ASKED)
    assert ours.model_dump()["guardrail"]["action"] == "allow"
    assert dumped(ours) == dumped(direct.responses.create(model=model, **ASKED))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("piece", [1, 6, 400])
def test_a_stream_is_the_upstreams_event_by_event_but_for_the_guardrail_object(
    kind: str, piece: int, client: openai.OpenAI, direct: openai.OpenAI, upstream: ResponsesUpstream
) -> None:
    model = upstream.arrange("stream", KINDS[kind], piece=piece)
    ours = list(client.responses.create(model=model, stream=True, **ASKED))
    theirs = list(direct.responses.create(model=model, stream=True, **ASKED))
    assert [dumped(event) for event in ours] == [dumped(event) for event in theirs]
    marked = [event for event in ours if "guardrail" in event.model_dump(warnings=False)]
    assert marked == ours[-1:], "labels ride on response.completed"
    assert ours[-1].model_dump(warnings=False)["response"]["guardrail"]["label"]["aigc"]["Label"] == "1"


@pytest.mark.parametrize("kind", KINDS)
def test_the_sdks_stream_helper_puts_the_response_together(
    kind: str, client: openai.OpenAI, direct: openai.OpenAI, upstream: ResponsesUpstream
) -> None:
    model = upstream.arrange("helper", KINDS[kind])

    def final(asking: openai.OpenAI) -> Any:
        with asking.responses.stream(model=model, **ASKED) as stream:
            return stream.until_done().get_final_response()

    ours = final(client)
    assert ours.output_text == final(direct).output_text
    assert dumped(ours) == dumped(final(direct))


def test_tools_are_called_and_their_results_go_back(client: openai.OpenAI, upstream: ResponsesUpstream) -> None:
    asked: Any = [{"role": "user", "content": "What is on the table?"}]
    model = upstream.arrange("tools", [reasoning("I look."), function_call("look", '{"where": "table"}')])
    first = client.responses.create(model=model, input=asked, tools=[LOOK])
    calls = [item for item in first.output if item.type == "function_call"]
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [("look", {"where": "table"})]
    asked += [item.model_dump(exclude_none=True) for item in first.output]
    asked.append({"type": "function_call_output", "call_id": calls[0].call_id, "output": "bread"})
    upstream.arrange("tools", [message("There is bread.")])
    second = client.responses.create(model=model, input=asked, tools=[LOOK], previous_response_id=first.id)
    assert second.output_text == "There is bread."
    assert upstream.last.json["input"] == asked
    asked[-1]["output"] = f"it says {BLOCKED}"
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model=model, input=asked, tools=[LOOK])


def test_structured_output_is_parsed(client: openai.OpenAI, upstream: ResponsesUpstream) -> None:
    class Table(pydantic.BaseModel):
        on: list[str]

    model = upstream.arrange("parse", [message('{"on": ["bread", "茶"]}')])
    parsed = client.responses.parse(model=model, input="What is on the table?", text_format=Table)
    assert parsed.output_parsed == Table(on=["bread", "茶"])
    with client.responses.stream(model=model, input="What is on the table?", text_format=Table) as stream:
        assert stream.until_done().get_final_response().output_parsed == Table(on=["bread", "茶"])


async def test_the_asynchronous_client_gets_plain_answers_and_streams(
    guardrail: Guardrail, upstream: ResponsesUpstream
) -> None:
    model = upstream.arrange("async", [message("Bread and 茶.")])
    async with guardrail.async_client() as client:
        assert (await client.responses.create(model=model, input="well?")).output_text == "Bread and 茶."
        stream = await client.responses.create(model=model, input="well?", stream=True)
        deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        assert "".join(deltas) == "Bread and 茶."


def test_the_request_reaches_the_upstream_as_it_was_sent(guardrail: Guardrail, upstream: ResponsesUpstream) -> None:
    model = upstream.arrange("bytes", [message("Bread.")])
    body = f'{{ "model":"{model}", "input":"caf\\u00e9 茶", "x_unknown": 1.10 }}'.encode()
    headers = {"content-type": "application/json", "authorization": "Bearer sk-mine"}
    ours = httpx.post(f"{guardrail.url}/v1/responses", content=body, headers=headers)
    assert upstream.last.body == body
    theirs = httpx.post(f"{upstream.url}/responses", content=body, headers=headers)
    kept, _ = ours.text.split(',"guardrail":')
    assert kept == theirs.text[:-1], "byte for byte, but for one member"


# -- what is blocked -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "asked",
    [
        {"input": f"Tell me about {BLOCKED}"},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": BLOCKED}]}]},
        {"input": [{"type": "mcp_call", "id": "m", "name": "f", "server_label": "s", "output": BLOCKED}]},
        {"input": "hm", "instructions": BLOCKED},
        {"prompt": {"id": "pmpt_1", "variables": {"what": BLOCKED}}},
    ],
    ids=["text", "part", "tool result", "instructions", "variable"],
)  # fmt: skip
def test_a_blocked_prompt_is_a_bad_request_error_with_our_incident_id(
    asked: dict[str, Any], stream: bool, guardrail: Guardrail, upstream: ResponsesUpstream
) -> None:
    before = len(upstream.received)
    with pytest.raises(openai.BadRequestError) as caught:
        guardrail.client().responses.create(model="any", stream=stream, **asked)
    error = caught.value
    assert (error.status_code, error.code, error.type) == (400, "content_filter", "guardrail")
    assert isinstance(error.body, dict)
    assert error.body["guardrail"]["incident"] == error.response.headers["guardrail-incident"]
    assert len(upstream.received) == before


def test_a_safe_answer_takes_the_models_place(guardrail: Guardrail) -> None:
    asking = guardrail.client()
    assert asking.responses.create(model="any", input=f"please {ANSWERED}").output_text == SAFE_ANSWER
    with asking.responses.stream(model="any", input=f"please {ANSWERED}") as stream:
        assert stream.until_done().get_final_response().output_text == SAFE_ANSWER


SAYINGS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "text": ([message(HARMFUL)], "response.output_text.delta"),
    "refusal": ([message(refusal(HARMFUL))], "response.refusal.delta"),
    "reasoning summary": ([reasoning(HARMFUL), message("No.")], "response.reasoning_summary_text.delta"),
    "reasoning": ([reasoning("Well.", content=[HARMFUL]), message("No.")], "response.reasoning_text.delta"),
    "arguments": ([function_call("look", HARMFUL)], "response.function_call_arguments.delta"),
    "custom input": ([{**KINDS["a custom tool"][0], "input": HARMFUL}], "response.custom_tool_call_input.delta"),
    "code": ([{**KINDS["code"][0], "code": HARMFUL}], "response.code_interpreter_call_code.delta"),
}


@pytest.mark.parametrize("kind", SAYINGS)
@pytest.mark.parametrize("piece", [1, 5, 1000])
def test_a_blocked_stream_ends_incomplete_and_without_a_character_of_the_phrase(
    kind: str, piece: int, guardrail: Guardrail, upstream: ResponsesUpstream
) -> None:
    items, delta = SAYINGS[kind]
    model = upstream.arrange("harm", items, piece=piece)
    events = list(guardrail.client().responses.create(model=model, input="well?", stream=True))
    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.status == "incomplete"
    assert last.response.incomplete_details is not None
    assert last.response.incomplete_details.reason == "content_filter"
    ours = last.model_dump(warnings=False)["guardrail"]
    assert (ours["action"], bool(ours["incident"])) == ("block", True)
    assert "".join(getattr(event, "delta", "") for event in events if event.type == delta) == CLEAN
    everything = json.dumps([dumped(event) for event in events])
    assert BLOCKED not in everything
    assert "forbidden" not in everything
    assert "more" not in everything
    if kind == "text":
        assert last.response.output_text == CLEAN


@pytest.mark.parametrize("kind", SAYINGS)
def test_a_blocked_plain_response_ends_as_its_stream_does(
    kind: str, guardrail: Guardrail, upstream: ResponsesUpstream
) -> None:
    model = upstream.arrange("harm", SAYINGS[kind][0])
    asking = guardrail.client()
    plain = asking.responses.create(model=model, input="well?")
    assert BLOCKED not in plain.model_dump_json(warnings=False)
    with asking.responses.stream(model=model, input="well?") as stream:
        last = list(stream)[-1]
    assert last.type == "response.incomplete"
    assert plain.status == last.response.status
    assert plain.output_text == last.response.output_text
    assert [item.type for item in plain.output] == [item.type for item in last.response.output]


def test_what_is_redacted_is_redacted_in_everything_that_is_told_again(
    client: openai.OpenAI, upstream: ResponsesUpstream
) -> None:
    model = upstream.arrange(
        "redact", [reasoning(f"a {REDACTED}"), message(f"one {REDACTED} two"), message("x", ident="m2")]
    )
    with client.responses.stream(model=model, input="well?") as stream:
        events = list(stream)
    final = stream.get_final_response()
    assert REDACTED not in json.dumps([dumped(event) for event in events])
    assert final.output_text == "one [removed] twox"
    assert final.model_dump(warnings=False)["guardrail"]["action"] == "redact"
    assert final.output_text == client.responses.create(model=model, input="well?").output_text


def test_what_is_clean_arrives_while_the_rest_is_still_to_come(
    guardrail: Guardrail, upstream: ResponsesUpstream
) -> None:
    model = upstream.arrange("slow", [message("one two three four five six seven " * 3)], pause=0.05)
    began, arrived = time.monotonic(), []
    for _ in guardrail.client().responses.create(model=model, input="well?", stream=True):
        arrived.append(time.monotonic() - began)
    assert arrived[-1] > 1
    assert arrived[len(arrived) // 2] < 0.75 * arrived[-1]


def test_the_upstream_is_let_go_when_its_stream_is_blocked(guardrail: Guardrail, upstream: ResponsesUpstream) -> None:
    model = upstream.arrange("long", [message(f"First {BLOCKED}. " + "On and on. " * 500)], pause=0.02)
    events = list(guardrail.client().responses.create(model=model, input="well?", stream=True))
    assert events[-1].type == "response.incomplete"
    assert upstream.last.left.wait(5), "the upstream's connection stayed open"
    assert upstream.last.sent < 100


# -- what goes wrong -------------------------------------------------------------------------------------------------


def test_the_upstreams_own_errors_reach_the_client(client: openai.OpenAI, upstream: ResponsesUpstream) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(model="nobody", input="well?")
    assert caught.value.code == "no_model"
    model = upstream.arrange("failing", [message("Bread and tea.")], fault="failed")
    last = list(client.responses.create(model=model, input="well?", stream=True))[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.message == "as asked"
    upstream.arrange("failing", [message("Bread and tea.")], fault="error")
    last = list(client.responses.create(model=model, input="well?", stream=True))[-1]
    assert (last.type, getattr(last, "code", "")) == ("error", "overloaded")


def test_what_cannot_be_screened_is_refused_with_what_would_be_accepted(guardrail: Guardrail) -> None:
    picture: Any = [{"role": "user", "content": [{"type": "input_image", "image_url": "https://example.org/a.png"}]}]
    for asked in ({"input": picture}, {"input": "hm", "background": True}):
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            guardrail.client().responses.create(model="any", **asked)
        assert caught.value.code == "unreadable"
        assert "accepted" in caught.value.message
    with pytest.raises(openai.NotFoundError) as missing:
        guardrail.client().responses.retrieve("resp_1")
    assert missing.value.code == "surface_not_guarded"
