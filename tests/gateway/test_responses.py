"""Responses through the whole middleware: nothing blocked leaves, in whichever of an answer's tellings it stands."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from guardrail.gateway.middleware import GuardrailMiddleware
from guardrail.testing import Answer, ScriptedUpstream, drive
from tests.gateway.conftest import MakeEngine
from tests.gateway.test_middleware import Picky, Slow
from tests.responses import (
    KINDS,
    answer,
    events,
    function_call,
    message,
    output_text,
    reasoning,
    refusal,
    sse,
    stream,
)

PATH = "/v1/responses"
KEY = {"authorization": "Bearer key-1"}
LABEL = "\n\n(AI生成 / AI-generated)"
ASKED = {"model": "m", "input": "hi", "stream": True}


async def ask(make_engine: MakeEngine, chunks: list[bytes], asked: dict[str, Any] | None = None, **more: Any) -> Answer:
    return await drive(GuardrailMiddleware(ScriptedUpstream(chunks), make_engine(**more)), PATH, asked or ASKED)


async def ask_whole(make_engine: MakeEngine, body: dict[str, Any], **more: Any) -> Answer:
    upstream = ScriptedUpstream([json.dumps(body).encode()], media="application/json")
    return await drive(GuardrailMiddleware(upstream, make_engine(**more)), PATH, {"model": "m", "input": "hi"})


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where texts stand in an item that the guard has to screen."""
    if isinstance(value, str):
        if path[-1] not in ("id", "type", "status", "role", "call_id", "file_id", "container_id", "encrypted_content"):
            yield path
    elif isinstance(value, dict | list):
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(below, (*path, key))


def put(items: list[dict[str, Any]], path: tuple[str | int, ...], text: str) -> list[dict[str, Any]]:
    changed: Any = copy.deepcopy(items)
    holder = changed
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = text
    return list(changed)


FIELDS = [(kind, path) for kind, items in KINDS.items() for path in leaves(items)]


def deltas(found: Answer, kind: str = "response.output_text.delta") -> str:
    return "".join(event["delta"] for event in found.events() if isinstance(event, dict) and event.get("type") == kind)


def final_text(response: dict[str, Any]) -> str:
    parts = [part for item in response["output"] if item["type"] == "message" for part in item["content"]]
    return "".join(part.get("text", "") for part in parts)


def check_stream(found: Answer) -> dict[str, Any]:
    """Hold a stream against itself: what its events tell again is what its deltas told; the response it ends with."""
    told: dict[tuple[Any, ...], str] = {}
    opened: set[int] = set()
    done: dict[int, Any] = {}
    number = -1
    for event in found.events():
        assert event["sequence_number"] >= number, "numbers only grow"
        number = event["sequence_number"]
        kind, index = event["type"], event.get("output_index")
        at = (index, event.get("content_index"))
        if kind == "response.output_item.added":
            assert index not in opened
            opened.add(index)
        elif kind in ("response.output_text.delta", "response.refusal.delta"):
            assert index in opened
            assert index not in done
            told[at] = told.get(at, "") + event["delta"]
        elif kind == "response.output_text.done":
            assert event["text"] == told.get(at, "")
        elif kind == "response.content_part.done" and event["part"]["type"] in ("output_text", "refusal"):
            assert event["part"].get("text", event["part"].get("refusal")) == told.get(at, "")
        elif kind == "response.output_item.done":
            done[index] = event["item"]
    last = found.events()[-1]
    assert last["type"] in ("response.completed", "response.incomplete")
    assert last["response"]["output"] == [done[index] for index in sorted(done)]
    assert last["guardrail"] == last["response"]["guardrail"]
    response: dict[str, Any] = last["response"]
    return response


# -- prompts -----------------------------------------------------------------------------------------------------

INPUT: list[tuple[list[dict[str, Any]], str]] = [
    ([{"role": "user", "content": "KABOOM"}], "content"),
    ([{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "KABOOM"}]}], "content[0].text"),
    ([message("KABOOM")], "content[0].text"),
    ([function_call("f", "KABOOM")], "arguments"),
    ([{"type": "function_call_output", "call_id": "c", "output": "KABOOM"}], "output"),
    ([{"type": "function_call_output", "output": [{"type": "input_text", "text": "KABOOM"}]}], "output[0].text"),
    ([{"type": "item_reference", "id": "msg_1", "x": "KABOOM"}], "x"),
]
VARIABLES: list[tuple[Any, str]] = [("KABOOM", "city"), ({"type": "input_text", "text": "KABOOM"}, "city.text")]
TOOL = {"type": "function", "name": "f", "description": "KABOOM", "parameters": {}}
SCHEMA = {"type": "json_schema", "name": "n", "schema": {"description": "KABOOM"}}
PROMPTS: list[tuple[dict[str, Any], str]] = [
    ({"input": "KABOOM"}, "input"),
    *(({"input": items}, f"input[0].{where}") for items, where in INPUT),
    *(
        ({"prompt": {"id": "p", "variables": {"city": value}}}, f"prompt.variables.{where}")
        for value, where in VARIABLES
    ),
    ({"input": "hi", "instructions": "KABOOM"}, "instructions"),
    ({"input": "hi", "metadata": {"note": "KABOOM"}}, "metadata.note"),
    ({"input": "hi", "x_made_up": {"deep": ["KABOOM"]}}, "x_made_up.deep[0]"),
    ({"input": "hi", "tools": [TOOL]}, "tools[0].description"),
    ({"input": "hi", "text": {"format": SCHEMA}}, "text.format.schema.description"),
    ({"input": "hi", "model": "a model called KABOOM"}, "model"),
]


@pytest.mark.parametrize(("body", "param"), PROMPTS, ids=[param for _, param in PROMPTS])
async def test_every_text_of_a_prompt_is_screened(make_engine: MakeEngine, body: dict[str, Any], param: str) -> None:
    upstream = ScriptedUpstream([json.dumps(answer([message("fine")])).encode()], media="application/json")
    found = await drive(GuardrailMiddleware(upstream, make_engine()), PATH, {"model": "m", **body})
    assert (found.status, found.json()["error"]["code"]) == (400, "content_filter")
    assert found.json()["error"]["param"] == param
    assert upstream.bodies == []


@pytest.mark.parametrize("kind", KINDS)
async def test_every_text_of_an_item_that_is_sent_back_is_screened(make_engine: MakeEngine, kind: str) -> None:
    for path in leaves(KINDS[kind]):
        upstream = ScriptedUpstream([json.dumps(answer([])).encode()], media="application/json")
        body = {"model": "m", "input": put(KINDS[kind], path, "a KABOOM")}
        found = await drive(GuardrailMiddleware(upstream, make_engine()), PATH, body)
        assert found.status == 400, path
        assert upstream.bodies == []


REFUSED: list[tuple[Any, int]] = [
    ([{"role": "user", "content": [{"type": "input_image", "image_url": "https://example.org/a.png"}]}], 422),
    ([{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}], 422),
    ([{"role": "user", "content": [{"type": "a_part_nobody_knows", "text": "hi"}]}], 422),
    ([{"type": "an_item_nobody_knows", "text": "hi"}], 422),
    ([{"type": "image_generation_call", "id": "ig_1", "result": "iVBORw0KGgo="}], 422),
    ([{"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": "x"}}], 422),
    ([{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "file_id": "f"}]}], 422),
    ([7], 400),
    ([{"content": "no role"}], 400),
    ([{"role": "user", "content": 7}], 400),
    (7, 400),
]  # fmt: skip


async def test_what_cannot_be_read_is_refused_and_never_passed(make_engine: MakeEngine) -> None:
    cases = [({"input": value}, status) for value, status in REFUSED]
    cases += [({"input": "hi", "stream": "yes"}, 400), ({"input": "hi", "background": True}, 422)]
    for body, status in cases:
        upstream = ScriptedUpstream([json.dumps(answer([])).encode()], media="application/json")
        found = await drive(GuardrailMiddleware(upstream, make_engine()), PATH, {"model": "m", **body})
        assert found.status == status, body
        assert upstream.bodies == []


async def test_a_request_without_input_of_its_own_goes_on(make_engine: MakeEngine) -> None:
    body = b'{"model":"m","previous_response_id":"resp_0","temperature":1.0}'
    upstream = ScriptedUpstream([json.dumps(answer([message("fine")])).encode()], media="application/json")
    assert (await drive(GuardrailMiddleware(upstream, make_engine()), PATH, body)).status == 200
    assert upstream.bodies == [body]


async def test_a_redacted_prompt_goes_on_without_the_text(make_engine: MakeEngine) -> None:
    upstream = ScriptedUpstream([json.dumps(answer([message("fine")])).encode()], media="application/json")
    body = b'{"x":1.0,"input":[{"role":"user","content":"a hush b"}]}'
    await drive(GuardrailMiddleware(upstream, make_engine()), PATH, body)
    assert upstream.bodies == [b'{"x":1.0,"input":[{"role":"user","content":"a [X] b"}]}']


async def test_only_what_the_user_added_is_a_strike(make_engine: MakeEngine) -> None:
    async def struck(body: dict[str, Any]) -> bool:
        engine = make_engine()
        await drive(GuardrailMiddleware(ScriptedUpstream([]), engine), PATH, {"model": "m", **body}, headers=KEY)
        return bool(engine.store.in_force(1_000_000.0))

    user = {"role": "user", "content": "KABOOM"}
    assert await struck({"input": "KABOOM"})
    assert await struck({"input": [message("hi"), user]})
    assert not await struck({"input": [user, message("hi"), {"role": "user", "content": "hi"}]})
    assert not await struck(
        {"input": [user, function_call("f", "{}"), {"type": "function_call_output", "call_id": "c", "output": "x"}]}
    )
    assert not await struck({"input": "hi", "instructions": "KABOOM"})


async def test_a_refusal_can_be_an_assistants_message(make_engine: MakeEngine) -> None:
    app = GuardrailMiddleware(ScriptedUpstream([]), make_engine(refusal="message"))
    whole = (await drive(app, PATH, {"model": "m", "input": "KABOOM"})).json()
    assert (whole["status"], whole["incomplete_details"]) == ("incomplete", {"reason": "content_filter"})
    assert "rules" in final_text(whole)
    streamed = check_stream(await drive(app, PATH, {**ASKED, "input": "KABOOM"}))
    assert (streamed["status"], streamed["incomplete_details"]) == ("incomplete", {"reason": "content_filter"})
    assert final_text(streamed) == final_text(whole)


async def test_a_safe_answer_takes_the_models_place(make_engine: MakeEngine) -> None:
    app = GuardrailMiddleware(ScriptedUpstream([]), make_engine())
    whole = (await drive(app, PATH, {"model": "m", "input": "help me"})).json()
    streamed = check_stream(await drive(app, PATH, {**ASKED, "input": "help me"}))
    assert (
        (whole["status"], final_text(whole))
        == (streamed["status"], final_text(streamed))
        == ("completed", "Here is help.")
    )


# -- plain answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_a_clean_answer_keeps_every_byte_and_gains_one_member(make_engine: MakeEngine, kind: str) -> None:
    body = answer(KINDS[kind])
    found = await ask_whole(make_engine, body)
    assert found.body.startswith(json.dumps(body).encode()[:-1] + b',"guardrail":{"action":"allow"')


@pytest.mark.parametrize(("kind", "path"), FIELDS, ids=str)
async def test_nothing_blocked_leaves_in_any_field_of_a_plain_answer(
    make_engine: MakeEngine, kind: str, path: tuple[str | int, ...]
) -> None:
    found = await ask_whole(make_engine, answer(put(KINDS[kind], path, "well KABOOM rest")))
    body = found.json()
    assert b"KABOOM" not in found.body
    assert b"rest" not in found.body
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "content_filter"})
    assert body["guardrail"]["action"] == "block"
    assert body["output"][: path[0]] == KINDS[kind][: int(path[0])], "what came before stays"
    assert len(body["output"]) <= int(path[0]) + 1


async def test_members_that_the_reference_does_not_name_are_screened(make_engine: MakeEngine) -> None:
    for more in ({"x_made_up": "KABOOM"}, {"output_text": "KABOOM"}, {"error": {"code": "x", "message": "KABOOM"}}):
        found = await ask_whole(make_engine, answer([message("fine")], **more))
        assert b"KABOOM" not in found.body
        assert found.json()["status"] == "incomplete"
        found = await ask(make_engine, stream([message("fine")], **more))
        assert b"KABOOM" not in found.body
        assert found.events()[-1]["type"] == "response.incomplete"


async def test_redaction_changes_the_text_and_takes_its_logprobs_away(make_engine: MakeEngine) -> None:
    part = output_text("a hush b", logprobs=[{"token": "hush", "logprob": -0.1, "bytes": [], "top_logprobs": []}])
    body = (await ask_whole(make_engine, answer([message(part), function_call("f", '{"x":"hush"}')]))).json()
    assert body["output"][0]["content"][0] == output_text("a [X] b")
    assert body["output"][1]["arguments"] == '{"x":"[X]"}'
    assert body["status"] == "completed"


async def test_media_in_an_answer_is_no_answer(make_engine: MakeEngine) -> None:
    picture = {"id": "ig_1", "type": "image_generation_call", "status": "completed", "result": "iVBORw0KGgo="}
    plot = {**KINDS["code"][0], "outputs": [{"type": "image", "url": "data:image/png;base64,iVBORw0KGgo="}]}
    for item in (picture, plot):
        assert (await ask_whole(make_engine, answer([item]))).status == 502
        found = await ask(make_engine, stream([item]))
        assert b"iVBORw0KGgo" not in found.body
        assert found.events()[-1]["error"]["code"] == "bad_upstream_response"


# -- streams -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("piece", [1, 4, 1000])
async def test_a_clean_stream_arrives_event_for_event(make_engine: MakeEngine, kind: str, piece: int) -> None:
    chunks = stream(KINDS[kind], piece=piece)
    found = await ask(make_engine, [b": hello\n\n", *chunks])
    *same, last = [b": hello\n\n", *chunks]
    assert found.body.startswith(b"".join(same)), "all but the last event is byte for byte the upstream's"
    check_stream(found)
    ours, theirs = found.events()[-1], json.loads(last.split(b"data: ")[1])
    assert ours.pop("guardrail")["label"]
    del ours["response"]["guardrail"]
    assert ours == theirs


async def test_a_stream_is_cut_before_the_match_and_closed_in_the_dialect(make_engine: MakeEngine) -> None:
    upstream = ScriptedUpstream(stream([message("good KABOOM and more"), message("never", ident="msg_2")], piece=3))
    found = await drive(GuardrailMiddleware(upstream, make_engine()), PATH, ASKED)
    response = check_stream(found)
    assert deltas(found) == final_text(response) == "good "
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "content_filter"})
    assert response["output"][0]["status"] == "incomplete"
    assert response["guardrail"]["action"] == "block"
    assert response["guardrail"]["incident"]
    assert response["id"] == "resp_1"
    assert upstream.stopped
    assert found.complete


async def test_a_call_that_is_cut_is_never_told_as_done(make_engine: MakeEngine) -> None:
    items = [message("Let me."), function_call("f", '{"x": "KABOOM"}')]
    found = await ask(make_engine, stream(items))
    response = check_stream(found)
    assert [item["type"] for item in response["output"]] == ["message"]
    assert not [event for event in found.events() if event["type"] == "response.function_call_arguments.done"]
    assert (await ask_whole(make_engine, answer(items))).json()["output"] == response["output"]


async def test_a_safe_answer_ends_a_stream_behind_what_was_clean(make_engine: MakeEngine) -> None:
    found = await ask(make_engine, stream([message("Well, help me now")]))
    assert final_text(check_stream(found)) == deltas(found) == "Well, Here is help."
    items = [reasoning("They say help me."), message("no")]
    found = await ask(make_engine, stream(items))
    assert final_text(check_stream(found)) == "Here is help.", "in a message of its own where none is open"
    assert final_text((await ask_whole(make_engine, answer(items))).json()) == "Here is help."
    whole = await ask_whole(make_engine, answer([message("Well, help me now")]))
    assert final_text(whole.json()) == "Well, Here is help."


async def test_redaction_in_a_stream_holds_in_everything_that_is_told_again(make_engine: MakeEngine) -> None:
    items = [reasoning("a hush"), message("one hush two"), function_call("f", '{"x":"hush"}')]
    found = await ask(make_engine, stream(items, piece=3))
    response = check_stream(found)
    assert b"hush" not in found.body
    assert final_text(response) == "one [X] two"
    assert response["output"][0]["summary"][0]["text"] == "a [X]"
    assert response["output"][2]["arguments"] == '{"x":"[X]"}'
    assert response["guardrail"]["action"] == "redact"


async def test_a_picture_passes_only_where_the_settings_say_so(make_engine: MakeEngine) -> None:
    picture = {"id": "ig_1", "type": "image_generation_call", "status": "completed", "result": "iVBORw0KGgo="}
    partial = {"type": "response.image_generation_call.partial_image", "output_index": 0, "item_id": "ig_1"}
    partial |= {"sequence_number": 3, "partial_image_index": 0, "partial_image_b64": "iVBORw0KGgo="}
    asked = {**ASKED, "tools": [{"type": "image_generation"}]}
    chunks = stream([picture, message("fine")])
    chunks.insert(3, sse(partial))
    refused = await ask(make_engine, chunks, asked)
    assert (refused.status, refused.json()["error"]["code"]) == (422, "unreadable")
    passed = await ask(make_engine, chunks, asked, unscreened_media=frozenset({"image"}))
    assert check_stream(passed)["output"][0] == picture
    assert passed.body.startswith(b"".join(chunks[:-1]))
    told = {**picture, "revised_prompt": "a KABOOM"}
    passed = await ask(make_engine, stream([told]), asked, unscreened_media=frozenset({"image"}))
    assert b"KABOOM" not in passed.body


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 8, 1000])
async def test_escapes_in_a_calls_arguments_hide_nothing(make_engine: MakeEngine, piece: int) -> None:
    clean = r'{"a": "\u7981\ud83d\ude00\n\"b\\u0041", "c": "\u0041"}'
    chunks = stream([function_call("f", clean)], piece=piece)
    found = await ask(make_engine, chunks)
    response = check_stream(found)
    assert response["output"][0]["arguments"] == clean
    assert deltas(found, "response.function_call_arguments.delta") == clean
    redacted = r'{"a": "\n\u0068u\u0073h \u7981"}'
    found = await ask(make_engine, stream([function_call("f", redacted)], piece=piece))
    told = check_stream(found)["output"][0]["arguments"]
    assert json.loads(told) == {"a": "\n[X] 禁"}
    assert deltas(found, "response.function_call_arguments.delta") == told
    whole = (await ask_whole(make_engine, answer([function_call("f", redacted)]))).json()
    assert json.loads(whole["output"][0]["arguments"])["a"].strip() == "[X] 禁"
    blocked = r'{"a": "well \u004bAB\u004f\u004fM"}'
    found = await ask(make_engine, stream([function_call("f", blocked)], piece=piece))
    assert found.events()[-1]["type"] == "response.incomplete"
    assert deltas(found, "response.function_call_arguments.delta") == '{"a": "well '
    assert (await ask_whole(make_engine, answer([function_call("f", blocked)]))).json()["output"] == []
    upstream = ScriptedUpstream([])
    body = {"model": "m", "input": [function_call("f", blocked)]}
    assert (await drive(GuardrailMiddleware(upstream, make_engine()), PATH, body)).status == 400


async def test_what_is_told_again_is_screened_once(make_engine: MakeEngine) -> None:
    engine = make_engine()
    decisions: list[Any] = []
    engine.store.record = decisions.append  # type: ignore[method-assign]
    text = "One text of this length."
    asked = {**ASKED, "instructions": "Some instructions of the operator's."}
    await drive(GuardrailMiddleware(ScriptedUpstream(stream([message(text)], asked)), engine), PATH, asked)
    engine.accounts.flush()
    assert [decision.completion_length for decision in decisions] == [len(text)]


@pytest.mark.parametrize("where", ["text", "part", "item", "response"])
async def test_a_telling_that_differs_from_the_first_is_screened_for_itself(
    make_engine: MakeEngine, where: str
) -> None:
    changed = list(events([message("fine")]))
    for event in changed:
        kind = event["type"]
        if where == "text" and kind == "response.output_text.done":
            event["text"] = "fine KABOOM"
        elif where == "part" and kind == "response.content_part.done":
            event["part"] = output_text("other KABOOM")
        elif where == "item" and kind == "response.output_item.done":
            event["item"] = message("fine", "and KABOOM")
        elif where == "response" and kind == "response.completed":
            event["response"] = answer([message("KABOOM")])
    found = await ask(make_engine, [sse(event) for event in changed])
    assert b"KABOOM" not in found.body
    assert found.events()[-1]["type"] == "response.incomplete"


async def test_a_text_that_comes_without_deltas_is_screened_all_the_same(make_engine: MakeEngine) -> None:
    def bare(*items: dict[str, Any]) -> list[bytes]:
        kept = ("response.created", "response.output_item.added", "response.output_item.done", "response.completed")
        return [sse(event) for event in events(items) if event["type"] in kept]

    found = await ask(make_engine, bare(message("a hush b")), position="end")
    assert final_text(found.events()[-1]["response"]) == "a [X] b" + LABEL
    found = await ask(make_engine, bare(message("good KABOOM")))
    assert b"KABOOM" not in found.body
    assert final_text(found.events()[-1]["response"]) == "good "


async def test_events_and_members_that_nobody_knows_are_screened(make_engine: MakeEngine) -> None:
    begun, *rest = stream([message("fine")])
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    delta = {"type": "response.output_text.delta", "sequence_number": 2, **at, "delta": "a"}

    def extra(**members: Any) -> bytes:
        return sse({"type": "response.x_made_up", "sequence_number": 2, **members})

    for chunks in (
        [extra(note="KABOOM")],
        [extra(note="KAB"), extra(note="OOM")],
        [extra(delta={"x": "KAB"}, output_index=3), extra(delta={"x": "OOM"}, output_index=3)],
        [sse({**delta, "delta": "", "x": "KABOOM"})],
        [sse({**delta, "item_id": "not KABOOM"})],
        [sse({**delta, "obfuscation": "not KABOOM"})],
        [b'event: say KABOOM\ndata: {"type":"response.x_made_up","sequence_number":2}\n\n'],
        [sse({"type": "error", "code": "x", "message": "KABOOM", "param": None, "sequence_number": 2})],
    ):  # fmt: skip
        found = await ask(make_engine, [begun, *chunks, *rest])
        assert b"KABOOM" not in found.body
        assert b"KAB" not in found.body


async def test_an_upstreams_failure_reaches_the_client(make_engine: MakeEngine) -> None:
    begun = stream([message("fine")])[:5]
    failed = {**answer([], status="failed"), "error": {"code": "server_error", "message": "The model broke."}}
    event = {"type": "response.failed", "sequence_number": 9, "response": failed}
    found = await ask(make_engine, [*begun, sse(event)])
    last = found.events()[-1]
    assert (last["type"], last["response"]["error"]) == ("response.failed", failed["error"])
    error = {
        "type": "error",
        "code": "server_error",
        "message": "The model broke.",
        "param": None,
        "sequence_number": 9,
    }
    found = await ask(make_engine, [*begun, sse(error)])
    assert {key: value for key, value in found.events()[-1].items() if key != "guardrail"} == error


async def test_nothing_comes_after_the_last_event(make_engine: MakeEngine) -> None:
    late = sse(
        {
            "type": "response.output_text.delta",
            "delta": "late",
            "item_id": "msg_2",
            "output_index": 4,
            "content_index": 0,
        }
    )
    found = await ask(make_engine, [*stream([message("fine")]), late, b"data: [DONE]\n\n", late])
    assert b"late" not in found.body
    assert found.events()[-1] == "[DONE]", "which some servers of this API send"
    assert found.events()[-2]["type"] == "response.completed"


async def test_a_stream_that_breaks_ends_with_an_error_and_without_uncleared_text(make_engine: MakeEngine) -> None:
    chunks = [*stream([message("fine KAB")], piece=8)[:5], b"data: {not json\n\n"]
    found = await ask(make_engine, chunks)
    assert deltas(found) == ""
    assert found.events()[-1]["error"]["code"] == "bad_upstream_response"


async def test_a_late_verdict_ends_a_stream_where_its_text_ends_and_nothing_overtakes_it(
    make_engine: MakeEngine,
) -> None:
    items = [reasoning("A good thought. And a bad one. More."), message("Fine. All fine."), function_call("f", "{}")]
    found = await ask(make_engine, stream(items), detectors={"blocked": Slow(0.02)})
    assert deltas(found, "response.reasoning_summary_text.delta") == "A good thought."
    assert check_stream(found)["output"] == []
    assert deltas(found) == ""
    clean = [reasoning("A good thought. Another."), message("Fine. All fine.")]
    chunks = stream(clean)
    found = await ask(make_engine, chunks, detectors={"blocked": Slow(0.02)})
    assert found.body.startswith(b"".join(chunks[:-1]))
    assert check_stream(found)["output"] == clean


async def test_a_detector_that_fails_in_mid_stream_closes_the_way(make_engine: MakeEngine) -> None:
    found = await ask(make_engine, stream([message("A text.")]), detectors={"blocked": Picky()})
    assert deltas(found) == ""
    assert b"A text" not in found.body
    last = found.events()[-1]
    assert last.get("type") == "response.incomplete" or last["error"]["code"] == "screening_unavailable"


async def test_a_stream_without_its_last_event_is_given_whole_and_labelled_in_a_comment(
    make_engine: MakeEngine,
) -> None:
    *chunks, _ = stream([message("fine")])
    found = await ask(make_engine, chunks)
    assert found.body.startswith(b"".join(chunks))
    assert found.body[len(b"".join(chunks)) :].startswith(b': guardrail {"action":"allow"')
    assert found.complete


@pytest.mark.parametrize("position", ["start", "end"])
async def test_the_visible_label_is_in_everything_that_is_told_again(make_engine: MakeEngine, position: str) -> None:
    items = [reasoning("I look."), message("text"), function_call("f", "{}")]
    labelled = LABEL if position == "end" else LABEL.strip() + "\n\n"
    expected = "text" + labelled if position == "end" else labelled + "text"
    found = await ask(make_engine, stream(items, piece=2), position=position)
    assert deltas(found) == final_text(check_stream(found)) == expected
    whole = (await ask_whole(make_engine, answer(items), position=position)).json()
    assert whole["output"] == check_stream(found)["output"]
    schema = {**ASKED, "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}}}
    found = await ask(make_engine, stream(items), schema, position=position)
    assert deltas(found) == "text", "never in what a machine reads"


BAD = "well KABOOM"  # as words: one alone, where a handle stands, is a handle
JUNK: list[Any] = [BAD, 7, None, True, [], {}, [BAD], {"text": BAD}, {"type": "x", "y": [BAD]}, {"type": [BAD]}]


def garbled(rng: random.Random, value: Any) -> Any:
    """A copy of `value` with something else in one of its places."""
    changed = copy.deepcopy(value)
    places: list[tuple[Any, Any]] = []

    def walk(holder: Any) -> None:
        for key, below in list(holder.items() if isinstance(holder, dict) else enumerate(holder)):
            places.append((holder, key))
            if isinstance(below, dict | list):
                walk(below)

    walk(changed)
    holder, key = rng.choice(places)
    holder[key] = copy.deepcopy(rng.choice(JUNK))
    return changed


async def test_whatever_an_upstream_makes_of_its_shapes_is_answered_and_hides_nothing(make_engine: MakeEngine) -> None:
    rng = random.Random(3)
    closed = 0
    for _ in range(250):
        items = rng.choice(list(KINDS.values()))
        told = list(events(items, piece=5))
        index = rng.randrange(len(told))
        told[index] = garbled(rng, told[index])
        if rng.random() < 0.5:
            told.insert(rng.randrange(index, len(told)), sse_text("KABOOM"))
        found = await ask(make_engine, [sse({"type": "x", **event}) for event in told])
        assert b"KABOOM" not in found.body
        assert found.complete
        last = found.events()[-1]
        closed += last.get("type") == "response.incomplete"
        found = await ask_whole(make_engine, garbled(rng, answer(items)))
        assert b"KABOOM" not in found.body
        assert found.status in (200, 502)
    assert closed > 60


def sse_text(text: str) -> dict[str, Any]:
    """An event that says `text` where no text is open."""
    at = {"item_id": "msg_9", "output_index": 9, "content_index": 0}
    return {"type": "response.output_text.delta", "sequence_number": 99, **at, "delta": text, "logprobs": []}


async def test_what_streams_does_not_depend_on_how_bytes_are_cut(make_engine: MakeEngine) -> None:
    rng = random.Random(11)
    words = ["a ", "KAB", "KABOOM", "hu", "hush", "OOM", "help me", "说", "。", "\u2028", " "]
    weights = [9, 2, 1, 2, 1, 1, 0.3, 4, 2, 1, 4]

    def text() -> str:
        return "".join(rng.choices(words, weights, k=rng.randint(1, 8)))

    cut = 0
    for round_ in range(100):
        kind, path = rng.choice(FIELDS)
        items = [
            reasoning(text()),
            message(text(), refusal(text())),
            function_call(text(), text()),
            message(text(), ident="msg_2"),
        ]
        items = put(KINDS[kind], path, text()) if round_ % 2 else rng.sample(items, rng.randint(1, 4))
        raw = b"".join(stream(items, piece=rng.randint(1, 9)))
        seen = set()
        whole = (await ask_whole(make_engine, answer(items))).json()
        for size in (1, rng.randint(2, 40), rng.randint(41, 4000), len(raw)):
            chunks = [raw[i : i + size] for i in range(0, len(raw), size)]
            if rng.random() < 0.5:
                chunks = [chunk.replace(b"\n", b"\r\n") for chunk in chunks]
            found = await ask(make_engine, chunks)
            assert b"KABOOM" not in found.body
            assert b"hush" not in found.body
            assert b"help me" not in found.body
            last = check_stream(found)
            texts = json.dumps([event for event in found.events() if event["type"].endswith(("delta", "done"))])
            seen.add((texts, last["status"], json.dumps(last["output"])))
            assert last["status"] == whole["status"]
            # Which words of ours stand behind may differ: a whole answer is judged by all its texts at once.
            assert final_text(last).removesuffix("Here is help.") == final_text(whole).removesuffix("Here is help.")
        assert len(seen) == 1, items
        cut += last["status"] == "incomplete"
    assert 20 < cut < 90
