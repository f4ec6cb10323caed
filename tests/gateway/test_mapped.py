"""An app's own API behind the middleware, in apps as people write them, read as the settings say."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import fastapi
import pytest
from fastapi.responses import StreamingResponse as FastAPIStream
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from guardrail import Guard, GuardrailMiddleware
from guardrail.errors import SettingsError
from guardrail.gateway.middleware import GuardrailMiddleware as Middleware
from guardrail.testing import Answer, ScriptedUpstream, drive
from guardrail.wire.jsonpath import parse
from guardrail.wire.mapped import Layout, Mapped
from tests.gateway.conftest import MakeEngine
from tests.house import BLOCKED, REDACTED, write_policy, write_settings

SURFACES = """
[[surfaces]]
id = "support"
path = "/chat"
prompt = ["$.question"]
context = ["$.history[*].text"]
answer = ["$.reply"]
stream = "sse"
stream_if = "$.stream"
delta = ["$.token"]
finish = "$.done"
terminator = "[DONE]"
ignore = ["$.session"]
error = '{"detail": "{message}", "code": "{code}", "incident": "{incident}"}'
closing = '{"token": "", "done": true, "reason": "{code}", "incident": "{incident}"}'

[[surfaces]]
id = "lines"
path = "/lines"
prompt = ["$[*].text"]
stream = "jsonl"
delta = ["$.t"]
member = false
"""


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    write_policy(tmp_path)
    return Guard.from_settings(write_settings(tmp_path, SURFACES), upstream="")


async def tokens(text: str) -> AsyncIterator[str]:
    for word in text.split(" "):
        yield f"event: token\ndata: {json.dumps({'token': word + ' '})}\n\n"
        await asyncio.sleep(0)
    yield f"event: end\ndata: {json.dumps({'token': '', 'done': True})}\n\ndata: [DONE]\n\n"


async def lines(text: str) -> AsyncIterator[str]:
    for word in text.split(" "):
        yield json.dumps({"t": word + " ", "n": 1.50}) + "\n"
        await asyncio.sleep(0)


def starlette_app() -> Any:
    async def chat(request: Request) -> Response:
        asked = await request.json()
        if not asked.get("stream"):
            return JSONResponse({"reply": asked["say"], "session": asked.get("session")})
        return StreamingResponse(tokens(asked["say"]), media_type="text/event-stream")

    async def jsonl(request: Request) -> Response:
        return StreamingResponse(lines((await request.json())[-1]["text"]), media_type="application/x-ndjson")

    return Starlette(routes=[Route("/chat", chat, methods=["POST"]), Route("/lines", jsonl, methods=["POST"])])


class Ask(BaseModel):
    question: str
    say: str
    history: list[dict[str, str]] = []
    stream: bool = False
    session: str | None = None


def fastapi_app() -> Any:
    app = fastapi.FastAPI()

    @app.post("/chat", response_model=None)
    async def chat(ask: Ask) -> dict[str, Any] | FastAPIStream:
        if not ask.stream:
            return {"reply": ask.say, "session": ask.session}
        return FastAPIStream(tokens(ask.say), media_type="text/event-stream")

    @app.post("/lines")
    async def jsonl(asked: list[dict[str, str]]) -> FastAPIStream:
        return FastAPIStream(lines(asked[-1]["text"]), media_type="application/x-ndjson")

    return app


APPS = pytest.mark.parametrize("make", [starlette_app, fastapi_app])
Make = Callable[[], Any]


def guarded(make: Make, guard: Guard) -> Any:
    app = make()
    app.add_middleware(GuardrailMiddleware, guard=guard)
    return app


def ask(say: str, question: str = "hello?", **more: Any) -> dict[str, Any]:
    return {"question": question, "say": say, **more}


def said(answer: Answer) -> str:
    return "".join(event.get("token", "") for event in answer.events() if isinstance(event, dict))


@APPS
async def test_a_clean_answer_arrives_as_the_app_gave_it(make: Make, guard: Guard) -> None:
    plain = await drive(make(), "/chat", ask("fine"))
    answer = await drive(guarded(make, guard), "/chat", ask("fine"))
    assert answer.body.startswith(plain.body[:-1] + b',"guardrail":{"action":"allow"')
    streamed = await drive(make(), "/chat", ask("one two three", stream=True))
    answer = await drive(guarded(make, guard), "/chat", ask("one two three", stream=True))
    before, after = streamed.body.split(b', "done": true}')
    assert answer.body.startswith(before)
    assert answer.body.endswith(after)
    assert answer.events()[-2]["guardrail"]["action"] == "allow"
    by_line = await drive(make(), "/lines", json.dumps([{"text": "one two"}]).encode())
    answer = await drive(guarded(make, guard), "/lines", json.dumps([{"text": "one two"}]).encode())
    assert answer.body == by_line.body
    assert answer.headers["guardrail-action"] == "allow"


@APPS
async def test_a_blocked_prompt_is_answered_in_the_shape_of_the_settings(make: Make, guard: Guard) -> None:
    app = guarded(make, guard)
    key = {"authorization": "Bearer k"}
    warned = []
    for body in (
        ask("x", history=[{"text": BLOCKED}]),
        ask("x", elsewhere={"deep": [BLOCKED]}),
        ask(BLOCKED),
        ask("x", BLOCKED),
    ):
        answer = await drive(app, "/chat", body, headers=key)
        assert answer.status == 400
        assert answer.json()["code"] == "content_filter"
        assert answer.json()["incident"] == answer.headers["guardrail-incident"]
        assert set(answer.json()) == {"detail", "code", "incident"}
        warned.append("suspend this account" in answer.json()["detail"])
    assert warned == [False, False, False, True], "only what stands at a path of the prompt is a strike"
    lined = await drive(app, "/lines", json.dumps([{"text": BLOCKED}]).encode())
    assert lined.json()["error"]["code"] == "content_filter"
    nothing = await drive(app, "/chat", {"say": "x"})
    assert (nothing.status, nothing.json()["code"]) == (400, "malformed")
    assert "$.question" in nothing.json()["detail"]


@APPS
async def test_a_stream_is_cut_before_the_match_and_ends_as_the_settings_say(make: Make, guard: Guard) -> None:
    app = guarded(make, guard)
    # The app says more than it is told, so that it is its answer that is blocked.
    first, second = BLOCKED.split(" ")

    async def chatty(scope: Any, receive: Any, send: Any) -> None:
        stream = tokens(f"good {first} {second} never")
        await StreamingResponse(stream, media_type="text/event-stream")(scope, receive, send)

    answer = await drive(GuardrailMiddleware(chatty, guard), "/chat", ask("x", stream=True))
    assert said(answer) == "good "
    *_, closing, done = answer.events()
    assert done == "[DONE]"
    assert (closing["token"], closing["done"], closing["reason"]) == ("", True, "content_filter")
    assert closing["incident"]
    clean = await drive(app, "/chat", ask("all fine", stream=True))
    assert said(clean) == "all fine "


@APPS
async def test_redaction_meets_what_goes_in_and_what_comes_out(make: Make, guard: Guard) -> None:
    app = guarded(make, guard)
    assert (await drive(app, "/chat", ask(f"a {REDACTED} b"))).json()["reply"] == "a [removed] b"
    assert said(await drive(app, "/chat", ask(f"a {REDACTED} b", stream=True))) == "a [removed] b "
    answer = await drive(app, "/lines", json.dumps([{"text": f"a {REDACTED} b"}]).encode())
    assert "".join(json.loads(line)["t"] for line in answer.body.splitlines()) == "a [removed] b "


@APPS
async def test_what_is_ignored_is_not_read(make: Make, guard: Guard) -> None:
    answer = await drive(guarded(make, guard), "/chat", ask("fine", session=BLOCKED))
    assert answer.json()["session"] == BLOCKED


async def test_a_surface_is_guarded_under_a_mount_by_its_path_there(guard: Guard) -> None:
    app = Starlette(routes=[Mount("/assistant", GuardrailMiddleware(starlette_app(), guard))])
    assert (await drive(app, "/assistant/chat", ask("x", BLOCKED))).status == 400
    assert (await drive(app, "/assistant/chat", ask("fine"))).json()["reply"] == "fine"


async def test_an_answer_of_a_kind_that_the_surface_has_not_is_no_answer(guard: Guard) -> None:
    for media in ("text/plain", "application/x-ndjson"):
        app = GuardrailMiddleware(ScriptedUpstream([b"{}\n"], media=media), guard)
        answer = await drive(app, "/chat", ask("x", stream=True))
        assert (answer.status, answer.json()["code"]) == (502, "bad_upstream_response")


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ('id = "a"\npath = "/a"\nprompt = ["$.q[?(@.x)]"]\nanswer = ["$.a"]', "surfaces[0].prompt[0]"),
        ('id = "a"\npath = "/a"\nprompt = []\nanswer = ["$.a"]', "surfaces[0].prompt"),
        ('id = "a"\npath = "/a*"\nprompt = ["$.q"]\nanswer = ["$.a"]', "a path without *"),
        ('id = "a"\npath = "/a"\nprompt = ["$.q"]', "surfaces[0].answer: no path"),
        ('id = "a"\npath = "/a"\nprompt = ["$.q"]\nstream = "sse"', "surfaces[0].delta: no path"),
        (
            'id = "a"\npath = "/a"\nprompt = ["$.q"]\nstream = "sse"\ndelta = ["$.x[*]"]',
            "names and indices, such as $.token",
        ),
        (
            'id = "a"\npath = "/a"\nprompt = ["$.q"]\nanswer = ["$.a"]\ndelta = ["$.t"]',
            'surfaces[0].delta: it is set and stream is "none"',
        ),
        (
            'id = "a"\npath = "/a"\nprompt = ["$.q"]\nstream = "jsonl"\ndelta = ["$.t"]\nterminator = "[DONE]"',
            "surfaces[0].terminator",
        ),
        (
            'id = "a"\npath = "/a"\nprompt = ["$.q"]\nstream = "sse"\ndelta = ["$.t"]\nstream_if = "$.s"',
            "surfaces[0].answer: no path and stream_if",
        ),
        ('id = "a"\npath = "/guardrail/a"\nprompt = ["$.q"]\nanswer = ["$.a"]', "surfaces[0].path"),
        (
            'id = "a"\npath = "/a"\nprompt = ["$.q"]\nanswer = ["$.a"]\nerror = \'{"x": "{nobody}"}\'',
            "surfaces[0].error",
        ),
        ('id = "openai_chat"\npath = "/a"\nprompt = ["$.q"]\nanswer = ["$.a"]', "which is one of ours"),
        ('id = "a"\npath = "/a"\nprompt = ["$.q"]\nanswer = ["$.a"]\npromt = []', "the closest known key"),
    ],
)
def test_a_surface_that_cannot_be_read_stops_the_start_and_is_named(written: str, says: str, tmp_path: Path) -> None:
    write_policy(tmp_path)
    file = write_settings(tmp_path, f"\n[[surfaces]]\n{written}\n")
    with pytest.raises(SettingsError) as raised:
        Guard.from_settings(file, upstream="")
    assert says in str(raised.value)


def test_two_surfaces_at_one_path_stop_the_start(tmp_path: Path) -> None:
    write_policy(tmp_path)
    one = '\n[[surfaces]]\nid = "{}"\npath = "{}"\nprompt = ["$.q"]\nanswer = ["$.a"]\n'
    for first, second in ((("a", "/a"), ("b", "/a/")), (("a", "/a"), ("a", "/b"))):
        file = write_settings(tmp_path, one.format(*first) + one.format(*second))
        with pytest.raises(SettingsError, match="twice"):
            Guard.from_settings(file, upstream="")


@pytest.mark.parametrize("stream", ["sse", "jsonl"])
async def test_what_streams_does_not_depend_on_how_bytes_are_cut(stream: Any, make_engine: MakeEngine) -> None:
    rng = random.Random(13)
    words = ["a ", "KAB", "KABOOM", "hu", "hush", "OOM", "说", "。", "\u2028", " "]
    dialect = Mapped(
        Layout(
            surface="own",
            path="/own",
            prompt=(parse("$.q"),),
            stream=stream,
            delta=(parse("$.d.t"), parse("$.d.thought")),
            finish=parse("$.end"),
        )
    )
    cut = 0
    for _ in range(120):
        texts = [
            "".join(rng.choices(words, weights=[9, 2, 1, 2, 1, 1, 4, 2, 1, 4], k=rng.randint(1, 4))) for _ in range(5)
        ]
        field = rng.choice(["t", "thought"])
        events = [{"d": {field: text}, "n": 1.5} for text in texts] + [{"end": True}]
        dumped = [json.dumps(event, ensure_ascii=False).encode() for event in events]
        raw = b"".join(b"id: 1\ndata: " + data + b"\n\n" if stream == "sse" else data + b"\n" for data in dumped)
        seen: set[tuple[str, Any, Any]] = set()
        for size in (1, rng.randint(2, 40), rng.randint(41, 400), len(raw)):
            chunks = [raw[i : i + size] for i in range(0, len(raw), size)]
            if rng.random() < 0.5:
                chunks = [chunk.replace(b"\n", b"\r\n") for chunk in chunks]
            engine = make_engine()
            engine.dialects = {"/own": dialect}
            media = "text/event-stream" if stream == "sse" else "application/x-ndjson"
            answer = await drive(Middleware(ScriptedUpstream(chunks, media=media), engine), "/own", {"q": "hi"})
            got = (
                answer.events() if stream == "sse" else [json.loads(line) for line in answer.body.split(b"\n") if line]
            )
            text = "".join(event.get("d", {}).get(field, "") for event in got)
            seen.add((text, got[-1]["end"], got[-1]["guardrail"]["action"]))
        assert len(seen) == 1, texts
        [(text, end, _)] = seen
        whole = "".join(texts)
        if "KABOOM" in whole:
            cut += 1
            assert end == "content_filter"
            assert text == whole[: whole.index("KABOOM")].replace("hush", "[X]")
        else:
            assert end is True
            assert text == whole.replace("hush", "[X]")
    assert cut > 25


@pytest.mark.parametrize("stream", ["sse", "jsonl"])
async def test_the_visible_label_ends_a_stream_with_or_without_a_field_that_says_so(
    stream: Any, make_engine: MakeEngine
) -> None:
    for finish in (None, parse("$.end")):
        engine = make_engine(position="end")
        layout = Layout(
            surface="own", path="/own", prompt=(parse("$.q"),), stream=stream, delta=(parse("$.t"),), finish=finish
        )
        engine.dialects = {"/own": Mapped(layout)}
        events = [b'{"t":"te","n":1}', b'{"t":"xt","n":2}', b'{"end":true}']
        chunks = [b"data: " + event + b"\n\n" if stream == "sse" else event + b"\n" for event in events]
        media = "text/event-stream" if stream == "sse" else "application/x-ndjson"
        answer = await drive(Middleware(ScriptedUpstream(chunks, media=media), engine), "/own", {"q": "hi"})
        got = answer.events() or [json.loads(line) for line in answer.body.split(b"\n") if line]
        assert "".join(event.get("t", "") for event in got) == "text\n\n(AI生成 / AI-generated)"
