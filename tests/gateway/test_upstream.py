"""The forwarder against a server that really listens: what arrives there, what comes back, and when it lets go."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
import uvicorn
from starlette.types import Message, Receive, Scope, Send

from guardrail.errors import UpstreamTimeout, UpstreamUnavailable
from guardrail.gateway.body import ClientGone
from guardrail.gateway.upstream import Target, Upstream
from guardrail.testing import Answer, chat, drive

CHAT = "/v1/chat/completions"
EVENTS = [b"data: 1\n\n", b"data: \xe4\xb8", b"\xad\n", b"\n", b"data: [DONE]\n\n"]


class Server:
    """A server that tells what it was asked, in JSON, or does as the path says; it runs in a thread of its own."""

    def __init__(self) -> None:
        self.peers: list[tuple[str, int]] = []
        self.asked = threading.Event()
        self.left: float | None = None  # when the client of /wait, /drip or /silent hung up
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.root = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(self._app, interface="asgi3", log_level="critical", lifespan="off")
        config.timeout_graceful_shutdown = 1
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.peers.append(scope["client"])
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.asked.set()
        kind = scope["path"].rpartition("/")[2]
        if kind == "wait":
            return await self._leave(receive)
        if kind == "redirect":
            return await self._send(send, 307, b"", location=b"/v1/echo")
        if kind == "big":
            return await self._send(send, 200, b"x" * (8 << 20))
        if kind in ("drip", "silent", "events", "cut"):
            return await self._stream(kind, receive, send)
        told = {
            "method": scope["method"],
            "path": scope["raw_path"].decode(),
            "query": scope["query_string"].decode(),
            "headers": [[name.decode(), value.decode("latin-1")] for name, value in scope["headers"]],
            "length": len(body),
            "digest": hash(body),
        }
        return await self._send(send, 200, json.dumps(told).encode(), server_timing=b"x", set_cookie=b"session=1")

    async def _stream(self, kind: str, receive: Receive, send: Send) -> None:
        length = [(b"content-length", b"100")] if kind == "cut" else []
        headers = [(b"content-type", b"text/event-stream"), *length]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if kind == "cut":
            await send({"type": "http.response.body", "body": b"data: half", "more_body": True})
            raise ConnectionError("as asked")
        if kind == "events":
            for event in EVENTS:
                await send({"type": "http.response.body", "body": event, "more_body": True})
                await asyncio.sleep(0.03)
            return await send({"type": "http.response.body", "body": b""})
        await send({"type": "http.response.body", "body": b"data: 0\n\n", "more_body": True})
        return await self._leave(receive)

    async def _leave(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.left = time.monotonic()

    async def _send(self, send: Send, status: int, body: bytes, **headers: bytes) -> None:
        given = [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
        given += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": given})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def _afresh(server: Server) -> None:
    server.peers.clear()
    server.asked.clear()
    server.left = None


@pytest_asyncio.fixture
async def upstream(server: Server) -> AsyncIterator[Upstream]:
    app = Upstream(Target(server.root), private_headers=("X-End-User-Id", "x-end-user-signature"))
    yield app
    await app.close()


def headers_of(answer: Answer) -> dict[str, str]:
    return dict(answer.json()["headers"])


async def test_connections_are_used_again(upstream: Upstream, server: Server) -> None:
    for _ in range(5):
        assert (await drive(upstream, "/v1/echo", chat("hi"))).status == 200
    assert len(server.peers) == 5
    assert len(set(server.peers)) == 1


async def test_as_many_connections_as_requests_at_once_and_no_more_than_allowed(server: Server) -> None:
    app = Upstream(Target(server.root), connections=3)
    await asyncio.gather(*(drive(app, "/v1/events", chat("hi")) for _ in range(9)))
    assert len(server.peers) == 9
    assert len(set(server.peers)) <= 3
    await app.close()


async def test_what_concerns_one_hop_or_says_who_asks_goes_no_further(upstream: Upstream) -> None:
    sent = {
        "authorization": "Bearer sk-1",
        "x-custom": "kept",
        "cookie": "a=b",
        "accept-encoding": "identity",
        "host": "guard.test",
        "connection": "keep-alive, X-Hop",
        "x-hop": "1",
        "keep-alive": "timeout=5",
        "te": "trailers",
        "trailer": "x",
        "upgrade": "h2c",
        "expect": "100-continue",
        "proxy-authorization": "Basic x",
        "x-end-user-id": "alice",
        "x-end-user-signature": "00",
    }
    answer = await drive(upstream, "/v1/echo", chat("hi"), headers=sent)
    got = headers_of(answer)
    for name in ("authorization", "x-custom", "cookie", "accept-encoding"):
        assert got[name] == sent[name]
    assert got["content-type"] == "application/json"
    assert got["host"].startswith("127.0.0.1:")
    assert not set(got) & {
        "keep-alive", "te", "trailer", "upgrade", "expect", "proxy-authorization", "x-end-user-id", "x-hop",
        "x-end-user-signature",
    }  # fmt: skip
    assert "user-agent" not in got, "nothing is said that the client did not say"


async def test_the_answers_headers_come_back_without_those_of_its_hop(upstream: Upstream) -> None:
    answer = await drive(upstream, "/v1/echo", chat("hi"))
    assert answer.headers["server-timing"] == "x"
    assert answer.headers["set-cookie"] == "session=1"
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert not set(answer.headers) & {"transfer-encoding", "connection", "date", "server"}
    again = await drive(upstream, "/v1/echo", chat("hi"))
    assert "cookie" not in headers_of(again), "one client's cookie must not become another's"


async def test_a_header_that_comes_twice_goes_on_twice(upstream: Upstream) -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    bodies: list[bytes] = []

    async def send(message: Message) -> None:
        bodies.append(message.get("body", b""))

    headers = [(b"x-twice", b"1"), (b"x-twice", b"2"), (b"content-type", b"application/json")]
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/v1/echo", "query_string": b""}
    await upstream({**scope, "headers": headers}, receive, send)
    got = json.loads(b"".join(bodies))["headers"]
    assert [value for name, value in got if name == "x-twice"] == ["1", "2"]


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/v1/models/meta-llama%2FLlama-3", ""),
        ("/v1/models/a%20b%25c", ""),
        ("/v1/files/%E6%96%87%E4%BB%B6/content", "limit=2&after=%2B1&x[]=a&x[]=b"),
        ("/v1/models/gpt:4@x", "a=b?c/d"),
    ],
)
async def test_paths_and_queries_arrive_as_they_were_encoded(path: str, query: str, upstream: Upstream) -> None:
    answer = await drive(upstream, f"{path}?{query}" if query else path, method="GET")
    told = answer.json()
    assert (told["method"], told["path"], told["query"]) == ("GET", path, query)


async def test_a_root_with_a_path_of_its_own_stands_before_the_requests(server: Server) -> None:
    app = Upstream(Target(server.root + "/openai"))
    assert (await drive(app, "/v1/echo", chat("hi"))).json()["path"] == "/openai/v1/echo"
    await app.close()


async def test_the_operators_key_takes_the_place_of_the_clients(server: Server) -> None:
    app = Upstream(Target(server.root, api_key="sk-operator"))
    for theirs in ({"authorization": "Bearer sk-client"}, {"x-api-key": "sk-client"}, {"api-key": "sk-client"}, {}):
        got = headers_of(await drive(app, "/v1/echo", chat("hi"), headers=theirs))
        assert got["authorization"] == "Bearer sk-operator"
        assert "sk-client" not in json.dumps(got)
    await app.close()


async def test_requests_are_routed_by_path_then_by_model_and_each_gets_its_own_key(server: Server) -> None:
    def to(name: str, **by: tuple[str, ...]) -> Target:
        return Target(f"{server.root}/{name}", f"sk-{name}", **by)

    app = Upstream(
        Target(server.root + "/default"),
        [to("images", paths=("/v1/images/*",)), to("local", models=("qwen*", "llama")), to("late", models=("qwen3",))],
    )

    async def where(path: str, body: bytes | dict[str, Any]) -> tuple[str, str | None]:
        answer = await drive(app, path, body, headers={"authorization": "Bearer sk-client"})
        return answer.json()["path"].split("/")[1], headers_of(answer).get("authorization")

    assert await where("/v1/echo", {"model": "gpt"}) == ("default", "Bearer sk-client")
    assert await where("/v1/images/echo", {"model": "qwen3"}) == ("images", "Bearer sk-images")
    assert await where("/v1/echo", {"model": "qwen3"}) == ("local", "Bearer sk-local")
    assert await where("/v1/echo", {"model": "llama"}) == ("local", "Bearer sk-local")
    for other in (b"", b"{", b"[]", b'{"model": 7}', b'{"model": "\xff"}', {"model": "llama2"}):
        assert await where("/v1/echo", other) == ("default", "Bearer sk-client")
    await app.close()


async def test_a_redirect_is_the_clients_to_follow(upstream: Upstream, server: Server) -> None:
    answer = await drive(upstream, "/v1/redirect", chat("hi"))
    assert (answer.status, answer.headers["location"]) == (307, "/v1/echo")
    assert len(server.peers) == 1


async def test_large_bodies_arrive_whole_both_ways(upstream: Upstream) -> None:
    body = b"y" * (20 << 20)
    pieces = [body[start : start + 65536] for start in range(0, len(body), 65536)]
    told = (await drive(upstream, "/v1/echo", pieces=pieces)).json()
    assert (told["length"], told["digest"]) == (len(body), hash(body))
    assert (await drive(upstream, "/v1/big", chat("hi"))).body == b"x" * (8 << 20)


async def test_a_streams_pieces_are_passed_on_as_they_come(upstream: Upstream) -> None:
    answer = await drive(upstream, "/v1/events", chat("hi"))
    assert answer.chunks == EVENTS
    assert answer.complete


# -- what goes wrong -------------------------------------------------------------------------------------------------


async def test_a_refused_connection_means_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    app = Upstream(Target(f"http://127.0.0.1:{port}"))
    with pytest.raises(UpstreamUnavailable):
        await drive(app, CHAT, chat("hi"))
    await app.close()


async def test_a_name_that_does_not_resolve_means_unavailable() -> None:
    app = Upstream(Target("http://nowhere.invalid"))
    with pytest.raises(UpstreamUnavailable):
        await drive(app, CHAT, chat("hi"))
    await app.close()


@pytest.mark.parametrize("path", ["/v1/wait", "/v1/silent"])
async def test_silence_that_lasts_too_long_is_a_timeout(path: str, server: Server) -> None:
    app = Upstream(Target(server.root), read_timeout=0.2)
    began = time.monotonic()
    with pytest.raises(UpstreamTimeout):
        await drive(app, path, chat("hi"))
    assert 0.15 < time.monotonic() - began < 3
    await app.close()


async def test_a_connection_that_breaks_within_the_answer_means_unavailable(upstream: Upstream) -> None:
    with pytest.raises(UpstreamUnavailable):
        await drive(upstream, "/v1/cut", chat("hi"))


async def test_what_is_no_http_means_unavailable() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(talk, "127.0.0.1", 0)
    app = Upstream(Target(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"))
    with pytest.raises(UpstreamUnavailable) as caught:
        await drive(app, CHAT, chat("hi"))
    assert "SSH" not in str(caught.value), "what an upstream wrote is not repeated"
    await app.close()
    listening.close()


async def leaving(upstream: Upstream, server: Server, path: str, after: float) -> float:
    """Ask, leave `after` seconds after the server was asked; how many seconds later the server noticed."""
    parts: list[Message] = [{"type": "http.request", "body": b'{"model": "m"}', "more_body": False}]
    gone = asyncio.Event()

    async def receive() -> Message:
        if parts:
            return parts.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        assert not gone.is_set(), "something was sent to a client that has left"

    scope: Scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "headers": []}
    server.asked.clear()
    server.left = None
    task = asyncio.create_task(upstream(scope, receive, send))
    await asyncio.to_thread(server.asked.wait, 5)
    await asyncio.sleep(after)
    assert server.left is None
    gone.set()
    left = time.monotonic()
    with pytest.raises(ClientGone):
        await asyncio.wait_for(task, 5)
    while server.left is None:
        assert time.monotonic() < left + 5, "the upstream was never let go"
        await asyncio.sleep(0.005)
    return server.left - left


@pytest.mark.parametrize("path", ["/v1/wait", "/v1/drip"])
@pytest.mark.parametrize("after", [0.0, 0.3])
async def test_a_client_that_leaves_takes_the_upstream_connection_with_it_within_100_ms(
    path: str, after: float, upstream: Upstream, server: Server
) -> None:
    # The best of a few: what is measured is the way it works, not how busy the machine is.
    assert min([await leaving(upstream, server, path, after) for _ in range(3)]) < 0.1
    assert (await drive(upstream, "/v1/echo", chat("hi"))).status == 200, "the pool is whole afterwards"


async def test_a_client_that_leaves_within_its_body_asks_nothing(upstream: Upstream, server: Server) -> None:
    parts: list[Message] = [
        {"type": "http.disconnect"},
        {"type": "http.request", "body": b"{", "more_body": True},
    ]

    async def receive() -> Message:
        return parts.pop()

    async def send(message: Message) -> None:
        pytest.fail("nobody is there")

    with pytest.raises(ClientGone):
        await upstream({"type": "http", "method": "POST", "path": CHAT, "headers": []}, receive, send)
    assert server.peers == []


async def test_a_cancellation_from_outside_stays_one_and_lets_the_upstream_go(
    upstream: Upstream, server: Server
) -> None:
    task = asyncio.create_task(drive(upstream, "/v1/wait", chat("hi")))
    await asyncio.to_thread(server.asked.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while server.left is None:
        await asyncio.sleep(0.01)
