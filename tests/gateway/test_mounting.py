"""The middleware in apps as people write them: Starlette and FastAPI, around an app, added to it, under a mount."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import fastapi
import httpx
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from guardrail import Guard, GuardrailMiddleware
from guardrail.core.sanctions import Step
from guardrail.errors import StoreError
from guardrail.testing import Answer, ScriptedUpstream, chat, delta, drive
from tests.house import BLOCKED, REDACTED, write_policy, write_settings

PATH = "/v1/chat/completions"


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    return Guard.from_settings(write_settings(tmp_path), upstream="")


def reply(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"id": "c", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


async def echo(request: Request) -> Response:
    """A model that says what it was told, in one piece or word by word."""
    asked = await request.json()
    said = asked["messages"][-1]["content"]
    if not asked.get("stream"):
        return JSONResponse(reply(said))

    async def events() -> AsyncIterator[bytes]:
        yield delta("", role="assistant")
        for word in said.split(" "):
            yield delta(word + " ")
            await asyncio.sleep(0)
        yield delta(finish="stop")
        yield b"data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


async def page(request: Request) -> Response:
    return PlainTextResponse(f"a page about {BLOCKED}")


ROUTES = [Route(PATH, echo, methods=["POST"]), Route("/page", page)]


def fastapi_app() -> fastapi.FastAPI:
    app = fastapi.FastAPI()

    @app.post(PATH)
    async def completions(request: Request) -> Response:
        return await echo(request)

    @app.get("/page")
    def about() -> dict[str, str]:
        return {"about": BLOCKED}

    return app


def added_to_starlette(guard: Guard) -> Any:
    app = Starlette(routes=ROUTES)
    app.add_middleware(GuardrailMiddleware, guard=guard)
    return app


def added_to_fastapi(guard: Guard) -> Any:
    app = fastapi_app()
    app.add_middleware(GuardrailMiddleware, guard=guard)
    return app


def listed(guard: Guard) -> Any:
    return Starlette(routes=ROUTES, middleware=[Middleware(GuardrailMiddleware, guard=guard)])


def around_starlette(guard: Guard) -> Any:
    return GuardrailMiddleware(Starlette(routes=ROUTES), guard)


def around_fastapi(guard: Guard) -> Any:
    return GuardrailMiddleware(fastapi_app(), guard)


@pytest.mark.parametrize("build", [added_to_starlette, added_to_fastapi, listed, around_starlette, around_fastapi])
def test_wherever_it_is_put_it_screens_the_models_routes_and_leaves_the_pages_alone(
    build: Callable[[Guard], Any], guard: Guard
) -> None:
    with TestClient(build(guard)) as client:
        assert guard.started
        answer = client.post(PATH, json=chat("hello"))
        assert answer.json()["choices"][0]["message"]["content"] == "hello"
        assert answer.json()["guardrail"]["action"] == "allow"
        assert answer.headers["ai-generated"] == "1"
        refused = client.post(PATH, json=chat(f"hello {BLOCKED}"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "content_filter")
        changed = client.post(PATH, json=chat(f"a {REDACTED} b"))
        assert changed.json()["choices"][0]["message"]["content"] == "a [removed] b"
        about = client.get("/page")
        assert BLOCKED in about.text
        assert "guardrail-action" not in about.headers
        assert client.get("/nowhere").status_code == 404
    assert not guard.started, "it ends with the app"


def model(text: str, *, pause: float = 0.0) -> Any:
    """An app whose model streams `text` word by word, whatever it is asked."""

    async def completions(request: Request) -> Response:
        async def events() -> AsyncIterator[bytes]:
            for word in text.split(" "):
                yield delta(word + " ")
                await asyncio.sleep(pause)
            yield delta(finish="stop")
            yield b"data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return Starlette(routes=[Route(PATH, completions, methods=["POST"])])


async def test_an_apps_stream_arrives_as_it_comes_and_is_cut_where_it_must_be(guard: Guard) -> None:
    async with guard:
        app = GuardrailMiddleware(model("one two three"), guard)
        answer = await drive(app, PATH, chat("hi", stream=True))
        assert answer.text() == "one two three "
        assert len(answer.chunks) > 3
        assert answer.events()[-1] == "[DONE]"
        app = GuardrailMiddleware(model(f"one {BLOCKED} two"), guard)
        answer = await drive(app, PATH, chat("hi", stream=True))
        assert answer.text() == "one "
        assert answer.events()[-2]["choices"][0]["finish_reason"] == "content_filter"
        assert answer.events()[-1] == "[DONE]"
        assert answer.complete


# -- under a mount -------------------------------------------------------------------------------------------------


def mounted(guard: Guard) -> Starlette:
    inner = GuardrailMiddleware(Starlette(routes=ROUTES), guard)
    return Starlette(routes=[Mount("/models", app=inner), Route("/page", page)])


async def test_under_a_mount_it_starts_at_the_first_request_for_all_that_come_at_once(guard: Guard) -> None:
    app = mounted(guard)
    starts = 0
    begin = guard.store.start

    async def start() -> None:
        nonlocal starts
        starts += 1
        await asyncio.sleep(0.05)
        await begin()

    guard.store.start = start  # type: ignore[method-assign]
    assert not guard.started
    answers = await asyncio.gather(*(drive(app, "/models" + PATH, chat(f"{BLOCKED} {n}")) for n in range(5)))
    assert [answer.status for answer in answers] == [400] * 5
    assert starts == 1
    someone_else = {"authorization": "Bearer sk-else"}
    assert (await drive(app, "/models" + PATH, chat("fine"), headers=someone_else)).status == 200
    assert (await drive(app, "/page", method="GET")).status == 200
    await guard.close()


async def test_two_mounts_share_one_guard(guard: Guard) -> None:
    one, two = (GuardrailMiddleware(Starlette(routes=ROUTES), guard) for _ in range(2))
    app = Starlette(routes=[Mount("/one", app=one), Mount("/two", app=two)])
    answers = await asyncio.gather(*(drive(app, f"/{name}{PATH}", chat("fine")) for name in ("one", "two") * 3))
    assert [answer.status for answer in answers] == [200] * 6
    await guard.close()


async def test_a_guard_that_cannot_start_lets_nothing_through(guard: Guard) -> None:
    async def start() -> None:
        raise StoreError("no disk")

    guard.store.start = start  # type: ignore[method-assign]
    upstream = ScriptedUpstream([json.dumps(reply("x")).encode()], media="application/json")
    app = Starlette(routes=[Mount("/models", app=GuardrailMiddleware(upstream, guard))])
    for _ in range(2):
        with pytest.raises(StoreError):
            await drive(app, "/models" + PATH, chat("fine"))
    assert upstream.bodies == []


# -- the app's own life --------------------------------------------------------------------------------------------


def living(said: list[str], *, starts: bool = True, ends: bool = True) -> Starlette:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
        said.append("up")
        if not starts:
            raise RuntimeError("no start")
        yield {"key": "value"}
        said.append("down")
        if not ends:
            raise RuntimeError("no end")

    async def state(request: Request) -> Response:
        return PlainTextResponse(request.state.key)

    return Starlette(routes=[*ROUTES, Route("/state", state)], lifespan=lifespan)


def test_the_apps_own_start_and_end_run_and_its_state_is_there(guard: Guard) -> None:
    said: list[str] = []
    with TestClient(GuardrailMiddleware(living(said), guard)) as client:
        assert said == ["up"]
        assert client.get("/state").text == "value"
        assert client.post(PATH, json=chat("fine")).status_code == 200
    assert said == ["up", "down"]


def test_an_app_that_cannot_start_or_end_says_so(guard: Guard) -> None:
    with (
        pytest.raises(RuntimeError, match="no start"),
        TestClient(GuardrailMiddleware(living([], starts=False), guard)),
    ):
        pass
    assert not guard.started
    with pytest.raises(RuntimeError, match="no end"), TestClient(GuardrailMiddleware(living([], ends=False), guard)):
        assert guard.started
    assert not guard.started


def test_a_guard_that_cannot_start_keeps_the_app_from_starting(guard: Guard) -> None:
    async def start() -> None:
        raise StoreError("no disk")

    guard.store.start = start  # type: ignore[method-assign]
    with pytest.raises(StoreError, match="no disk"), TestClient(GuardrailMiddleware(living([]), guard)):
        pass


def test_websockets_pass_untouched_and_are_counted(guard: Guard) -> None:
    async def talk(websocket: WebSocket) -> None:
        await websocket.accept(subprotocol="chat")
        await websocket.send_text(BLOCKED + await websocket.receive_text())
        await websocket.close()

    app = Starlette(routes=[WebSocketRoute("/live", talk)])
    app.add_middleware(GuardrailMiddleware, guard=guard)
    with TestClient(app) as client:
        with client.websocket_connect("/live", subprotocols=["chat"]) as socket:
            socket.send_text("?")
            assert socket.receive_text() == BLOCKED + "?"
            assert socket.accepted_subprotocol == "chat"
        metrics = TestClient(guard.operators_app()).get("/metrics").text
    assert 'guardrail_bypassed_total{reason="websocket"} 1.0' in metrics


# -- what else lives in an app -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_background_tasks_run_and_keep_no_answer_waiting(stream: bool, guard: Guard) -> None:
    done = asyncio.Event()
    finished = asyncio.Event()

    async def completions(request: Request) -> Response:
        task = BackgroundTask(done.wait)
        if not stream:
            return JSONResponse(reply("fine"), background=task)
        chunks = [delta("fine"), delta(finish="stop"), b"data: [DONE]\n\n"]
        return StreamingResponse(iter(chunks), media_type="text/event-stream", background=task)

    app = Starlette(routes=[Route(PATH, completions, methods=["POST"])])
    app.add_middleware(GuardrailMiddleware, guard=guard)

    def complete(answer: Answer) -> bool:
        if answer.complete:
            finished.set()
        return False

    async with guard:
        task = asyncio.create_task(drive(app, PATH, chat("hi", stream=stream), leave_after=complete))
        await asyncio.wait_for(finished.wait(), 5)
        assert not task.done(), "the background task is still running"
        done.set()
        answer = await asyncio.wait_for(task, 5)
    assert "fine" in answer.body.decode()
    if stream:
        assert answer.events()[-1] == "[DONE]"


class Stamp(BaseHTTPMiddleware):
    """As many apps have one: adds a header, and reads what was asked."""

    async def dispatch(self, request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        body = await request.body()
        response = await call_next(request)
        response.headers["x-stamp"] = str(len(body))
        return response


@pytest.mark.parametrize("outside", [True, False])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_middleware_of_the_apps_own_works_outside_and_inside(stream: bool, outside: bool, guard: Guard) -> None:
    order: list[Any] = [Middleware(Stamp), Middleware(GuardrailMiddleware, guard=guard)]
    app = Starlette(routes=ROUTES, middleware=order if outside else order[::-1])
    async with guard:
        body = json.dumps(chat("one two", stream=stream)).encode()
        answer = await drive(app, PATH, body)
        assert answer.headers["x-stamp"] == str(len(body))
        assert answer.headers["guardrail-action"] == "allow"
        assert "one" in answer.body.decode()
        assert answer.complete
        refused = await drive(app, PATH, chat(BLOCKED, stream=stream))
        assert refused.status == 400
        assert ("x-stamp" in refused.headers) is outside


@pytest.mark.parametrize("outside", [True, False])
async def test_a_stream_is_cut_through_a_middleware_of_the_apps_own(outside: bool, guard: Guard) -> None:
    inner = model(f"one {BLOCKED} two three four", pause=0.001)
    app = GuardrailMiddleware(Stamp(inner), guard) if not outside else Stamp(GuardrailMiddleware(inner, guard))
    async with guard:
        answer = await asyncio.wait_for(drive(app, PATH, chat("hi", stream=True)), 5)
    assert answer.text() == "one "
    assert answer.events()[-2]["choices"][0]["finish_reason"] == "content_filter"
    assert answer.complete


def test_compression_outside_compresses_what_was_screened(guard: Guard) -> None:
    app = Starlette(routes=ROUTES)
    app.add_middleware(GuardrailMiddleware, guard=guard)
    app.add_middleware(GZipMiddleware, minimum_size=10)
    with TestClient(app) as client:
        answer = client.post(PATH, json=chat("word " * 500 + REDACTED))
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.json()["choices"][0]["message"]["content"].endswith("word [removed]")
        assert client.post(PATH, json=chat("word " * 500 + BLOCKED)).status_code == 400


def test_compression_inside_is_not_asked_for(guard: Guard) -> None:
    app = GuardrailMiddleware(GZipMiddleware(Starlette(routes=ROUTES), minimum_size=10), guard)
    with TestClient(app) as client:
        answer = client.post(PATH, json=chat("word " * 500), headers={"accept-encoding": "gzip"})
        assert "content-encoding" not in answer.headers
        assert answer.status_code == 200
        assert client.get("/page", headers={"accept-encoding": "gzip"}).headers["content-encoding"] == "gzip"


def test_cors_works_outside_and_inside(guard: Guard) -> None:
    cors = Middleware(CORSMiddleware, allow_origins=["https://app.test"], allow_methods=["POST"])
    own = Middleware(GuardrailMiddleware, guard=guard)
    preflight = {"origin": "https://app.test", "access-control-request-method": "POST"}
    for order in ([cors, own], [own, cors]):
        with TestClient(Starlette(routes=ROUTES, middleware=order)) as client:
            asked = client.options(PATH, headers=preflight)
            assert asked.headers["access-control-allow-origin"] == "https://app.test"
            answer = client.post(PATH, json=chat("fine"), headers={"origin": "https://app.test"})
            assert answer.headers["access-control-allow-origin"] == "https://app.test"


def test_the_apps_errors_reach_its_own_handlers(guard: Guard) -> None:
    class Odd(Exception):
        pass

    async def completions(request: Request) -> Response:
        kind = (await request.json())["messages"][0]["content"]
        raise {"odd": Odd(), "http": HTTPException(418, "teapot"), "plain": ValueError("oops")}[kind]

    async def odd(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": "odd"}, 409)

    async def crash(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": "crashed"}, 500)

    app = Starlette(
        routes=[Route(PATH, completions, methods=["POST"])], exception_handlers={Odd: odd, Exception: crash}
    )
    app.add_middleware(GuardrailMiddleware, guard=guard)
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.post(PATH, json=chat("odd")).json() == {"error": "odd"}
        assert client.post(PATH, json=chat("plain")).json() == {"error": "crashed"}
        teapot = client.post(PATH, json=chat("http"))
        assert teapot.status_code == 418
        assert client.post(PATH, json=chat("odd")).status_code == 409
    with TestClient(app) as client, pytest.raises(ValueError, match="oops"):
        client.post(PATH, json=chat("plain"))


async def test_several_guards_with_policies_of_their_own_live_in_one_app(tmp_path: Path) -> None:
    guards = []
    for name, word in (("north", "cold words"), ("south", "warm words")):
        home = tmp_path / name
        home.mkdir()
        write_policy(home, blocked=word)
        guards.append(Guard.from_settings(write_settings(home)))
    app = Starlette(
        routes=[
            Mount(f"/{name}", app=GuardrailMiddleware(Starlette(routes=ROUTES), guard))
            for name, guard in zip(("north", "south"), guards, strict=True)
        ]
    )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://app.test") as client:

        async def status(name: str, text: str) -> int:
            return (await client.post(f"/{name}{PATH}", json=chat(text))).status_code

        assert [await status("north", "cold words"), await status("south", "cold words")] == [400, 200]
        assert [await status("north", "warm words"), await status("south", "warm words")] == [200, 400]
    for guard in guards:
        assert guard.store.in_force(guard.clock())[Step.WARN] == 1
        await guard.close()


async def test_the_public_and_the_operators_app_can_be_mounted_beside_it(guard: Guard) -> None:
    app = Starlette(
        routes=[
            Mount("/ops", app=guard.operators_app()),
            Mount("/", app=guard.public_app()),
        ]
    )
    app.add_middleware(GuardrailMiddleware, guard=guard)
    async with guard:
        assert (await drive(app, "/livez", method="GET")).status == 200
        assert (await drive(app, "/readyz", method="GET")).json()["ready"] is True
        assert b"guardrail_requests_total" in (await drive(app, "/ops/metrics", method="GET")).body
        assert (await drive(app, "/metrics", method="GET")).status == 404
        assert (await drive(app, "/guardrail/screen", {"text": "x"})).status == 401
