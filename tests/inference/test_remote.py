"""The same engine in another process: with a real server on a Unix socket, and against one that misbehaves."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvicorn
from aiohttp import web

from guardrail.errors import DetectorError, DetectorOverloaded, DetectorTimeout, SettingsError
from guardrail.inference.batching import BatchingClassifier
from guardrail.inference.remote import RemoteClassifier
from guardrail.inference.server import classifier_app
from guardrail.inference.tokens import TokenEncoder
from guardrail.protocols import Classifier, Priority
from tests.inference.tiny import FakeDevice, eventually


@asynccontextmanager
async def serving(classifier: Classifier, socket: str) -> AsyncIterator[None]:
    server = uvicorn.Server(uvicorn.Config(classifier_app(classifier), uds=socket, log_level="error"))
    task = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    try:
        yield
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def connected(address: str, labels: Sequence[str], deadline: float = 5.0) -> AsyncIterator[RemoteClassifier]:
    client = RemoteClassifier(address, labels, deadline=deadline)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture
def socket() -> AsyncIterator[str]:
    # Not tmp_path: a Unix socket's path may be 107 bytes long at most.
    with tempfile.TemporaryDirectory(prefix="gr") as folder:
        yield str(Path(folder) / "s")


@pytest.fixture
def engine(device: FakeDevice, encoder: TokenEncoder) -> BatchingClassifier:
    return BatchingClassifier(device, encoder, overlap=4, queue=8, deadline=5.0)


async def test_scores_over_a_unix_socket_are_the_engines_own(
    engine: BatchingClassifier, device: FakeDevice, socket: str
) -> None:
    async with serving(engine, socket), connected(f"unix:{socket}", ["first", "length"]) as client:
        assert isinstance(client, Classifier)
        assert await client.healthy()
        texts = ["a fool", "you", "make a cake"]
        remote = await client.score(texts, Priority.STREAM)
        assert remote == [(first, length) for length, first in await engine.score(texts)]
        assert await client.score([]) == []


async def test_a_full_queue_over_there_is_overload_here(
    engine: BatchingClassifier, device: FakeDevice, socket: str
) -> None:
    async with serving(engine, socket), connected(f"unix:{socket}", ["length"]) as client:
        with pytest.raises(DetectorOverloaded):
            await client.score(["a"] * 9)


async def test_a_failing_device_over_there_is_an_error_here(
    engine: BatchingClassifier, device: FakeDevice, socket: str
) -> None:
    async with serving(engine, socket), connected(f"unix:{socket}", ["length"]) as client:
        device.fail = lambda batch: RuntimeError("out of memory")
        with pytest.raises(DetectorError, match="424"):
            await client.score(["a"])


async def test_a_caller_that_goes_is_dropped_over_there_too(
    engine: BatchingClassifier, device: FakeDevice, socket: str
) -> None:
    async with serving(engine, socket), connected(f"unix:{socket}", ["length"]) as client:
        device.gate.clear()
        device.entered.clear()
        first = asyncio.create_task(client.score(["you"]))
        await eventually(device.entered.is_set)
        gone = asyncio.create_task(client.score(["fool"] * 3))
        await eventually(lambda: engine.depth == 3)
        gone.cancel()
        await eventually(lambda: engine.depth == 0)
        device.gate.set()
        assert len(await first) == 1


async def test_a_slow_server_is_a_timeout(engine: BatchingClassifier, device: FakeDevice, socket: str) -> None:
    async with serving(engine, socket), connected(f"unix:{socket}", ["length"], deadline=0.1) as client:
        device.gate.clear()
        with pytest.raises(DetectorTimeout):
            await client.score(["you"])
        device.gate.set()


async def test_a_server_that_is_away_is_an_error(socket: str) -> None:
    async with connected(f"unix:{socket}", ["length"]) as client:
        assert not await client.healthy()
        with pytest.raises(DetectorError, match="away"):
            await client.score(["you"])
    with pytest.raises(DetectorError, match="not running"):
        await client.score(["you"])


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ("<html>", "no prediction"),
        ("[]", "answered 0 texts"),
        ('[[{"label": "other", "score": 0.5}]]', "no score for"),
        ('[[{"label": "length", "score": 1.5}]]', "outside"),
        ('[[{"label": "length", "score": "high"}]]', "no prediction"),
    ],
)
async def test_a_server_that_talks_nonsense_is_an_error(answer: str, complaint: str) -> None:
    asked: list[object] = []

    async def predict(request: web.Request) -> web.Response:
        asked.append(json.loads(await request.text())["inputs"])
        return web.Response(text=answer)

    app = web.Application()
    app.router.add_post("/predict", predict)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    try:
        async with connected(address, ["length"]) as client:
            with pytest.raises(DetectorError, match=complaint):
                await client.score(["you"])
        assert asked == [[["you"]]]
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"inputs": 3}',
        b'{"inputs": [["a", "b"]]}',
        b'{"inputs": [null]}',
        b"\xff",
        b'{"inputs": ["a"], "raw_scores": true}',
    ],
)
async def test_a_body_that_is_no_request_is_refused(engine: BatchingClassifier, socket: str, body: bytes) -> None:
    async with serving(engine, socket), connected(f"unix:{socket}", ["length"]) as client:
        status, answer = await client._endpoint.request("POST", "/predict", data=body)
        assert status == 422
        assert json.loads(answer)["error_type"] == "validation"


async def test_one_text_and_plain_lists_are_taken_as_tei_takes_them(engine: BatchingClassifier, socket: str) -> None:
    async with serving(engine, socket), connected(f"unix:{socket}", ["length"]) as client:
        for body, texts in ((b'{"inputs": "you"}', 1), (b'{"inputs": ["a", "b", "c"]}', 3)):
            status, answer = await client._endpoint.request("POST", "/predict", data=body)
            assert status == 200
            rows = json.loads(answer)
            assert len(rows) == texts
            assert {item["label"] for item in rows[0]} == {"length", "first"}


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(SettingsError, match="expected unix:"):
        RemoteClassifier("localhost:80", ["length"])
