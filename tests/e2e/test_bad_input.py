"""What a client may send that is no proper request: each gets its answer, and the process stays healthy."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import BLOCKED, Guardrail, command, environment
from tests.e2e.upstream import Upstream

JSON = {"content-type": "application/json"}
MESSAGES = [{"role": "user", "content": "hello"}]
GOOD = json.dumps({"model": "echo", "messages": MESSAGES}).encode()


def nested(depth: int) -> bytes:
    return b'{"model": "echo", "messages": [{"role": "user", "content": "hello"}], "x": %b%b}' % (
        b"[" * depth,
        b"]" * depth,
    )


def saying(text: bytes) -> bytes:
    """A request whose one message holds these bytes as its text."""
    return b'{"model": "echo", "messages": [{"role": "user", "content": "' + text + b'"}]}'


def messages(value: Any) -> bytes:
    return json.dumps({"model": "echo", "messages": value}).encode()


def content(part: Any) -> bytes:
    return messages([{"role": "user", "content": [{"type": "text", "text": "hello"}, part]}])


REFUSED: dict[str, tuple[bytes, dict[str, str], int, str]] = {
    "an empty body": (b"", JSON, 400, "malformed"),
    "no JSON": (b"model=echo", JSON, 400, "malformed"),
    "JSON that ends too soon": (GOOD[:-2], JSON, 400, "malformed"),
    "JSON with something behind it": (GOOD + b"x", JSON, 400, "malformed"),
    "a list": (b"[]", JSON, 400, "malformed"),
    "invalid UTF-8": (saying(b"\xff\xfe"), JSON, 400, "malformed"),
    "an overlong UTF-8 form": (saying(b"\xc0\xaf"), JSON, 400, "malformed"),
    "UTF-16": (GOOD.decode().encode("utf-16"), JSON, 400, "malformed"),
    "a lone surrogate": (saying(b"\\ud800"), JSON, 400, "malformed"),
    "a key twice": (saying(b'a", "content": "b'), JSON, 400, "malformed"),
    "a key twice at the top": (b'{"model": "echo", "messages": [], "messages": []}', JSON, 400, "malformed"),
    "NaN": (GOOD[:-1] + b', "temperature": NaN}', JSON, 400, "malformed"),
    "a hundred thousand brackets": (nested(100_000), JSON, 400, "malformed"),
    "brackets that never close": (b'{"messages": ' + b"[" * 1_000_000, JSON, 400, "malformed"),
    "no messages": (b'{"model": "echo"}', JSON, 400, "malformed"),
    "an empty list of messages": (messages([]), JSON, 400, "malformed"),
    "a message that is text": (messages(["hello"]), JSON, 400, "malformed"),
    "a message without a role": (messages([{"content": "hello"}]), JSON, 400, "malformed"),
    "a role that is no name": (messages([{"role": BLOCKED, "content": "hello"}]), JSON, 400, "malformed"),
    "content that is a number": (messages([{"role": "user", "content": 7}]), JSON, 400, "malformed"),
    "n that is a word": (GOOD[:-1] + b', "n": "two"}', JSON, 400, "malformed"),
    "stream that is a word": (GOOD[:-1] + b', "stream": "yes"}', JSON, 400, "malformed"),
    "plain text": (GOOD, {"content-type": "text/plain"}, 415, "unreadable"),
    "a form": (b"a=b", {"content-type": "application/x-www-form-urlencoded"}, 415, "unreadable"),
    "no content type": (GOOD, {}, 415, "unreadable"),
    "gzip": (gzip.compress(GOOD), {**JSON, "content-encoding": "gzip"}, 415, "unreadable"),
    "a made-up encoding": (GOOD, {**JSON, "content-encoding": "x-own"}, 415, "unreadable"),
    "an image": (content({"type": "image_url", "image_url": {"url": "data:,x"}}), JSON, 422, "unreadable"),
    "audio": (content({"type": "input_audio", "input_audio": {"data": "AA=="}}), JSON, 422, "unreadable"),
    "a part of an unknown kind": (content({"type": "hologram", "text": "hello"}), JSON, 422, "unreadable"),
}  # fmt: skip


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


@pytest.fixture(autouse=True)
def _healthy_afterwards(guardrail: Guardrail) -> Iterator[None]:
    yield
    guardrail.assert_healthy()


def post(guardrail: Guardrail, body: bytes, headers: dict[str, str] = JSON) -> httpx.Response:
    with httpx.Client(timeout=30) as client:
        request = client.build_request("POST", f"{guardrail.url}/v1/chat/completions", content=body, headers=headers)
        return client.send(request)


@pytest.mark.parametrize("kind", REFUSED)
def test_a_body_that_cannot_be_read_is_refused_and_goes_nowhere(
    kind: str, guardrail: Guardrail, upstream: Upstream
) -> None:
    body, headers, status, code = REFUSED[kind]
    before = len(upstream.received)
    answer = post(guardrail, body, headers)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert (error["code"], error["type"]) == (code, "guardrail")
    assert error["message"]
    assert "hello" not in error["message"]
    assert BLOCKED not in answer.text
    assert len(upstream.received) == before


def test_deep_but_sane_nesting_passes(guardrail: Guardrail) -> None:
    assert post(guardrail, nested(50)).status_code == 200


def test_fifty_megabytes_are_refused(guardrail: Guardrail, upstream: Upstream) -> None:
    before = len(upstream.received)
    body = json.dumps({"model": "echo", "messages": [{"role": "user", "content": "x" * 50_000_000}]}).encode()
    try:
        answer = post(guardrail, body)
    except httpx.TransportError:
        pass  # a server may refuse and hang up before the client has sent it all
    else:
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "too_large"
    # Without a length, so that only counting can tell.
    try:
        answer = httpx.post(
            f"{guardrail.url}/v1/chat/completions",
            content=(body[i : i + 65536] for i in range(0, len(body), 65536)),
            headers=JSON,
        )
    except httpx.TransportError:
        pass
    else:
        assert answer.status_code == 413
    assert len(upstream.received) == before


def test_the_refusal_of_a_large_body_can_be_read_by_a_client_that_waits_for_it(guardrail: Guardrail) -> None:
    answer = raw(guardrail, HEAD % 50_000_000 + b"{")
    assert answer.startswith(b"HTTP/1.1 413")
    assert b'"too_large"' in answer


def raw(guardrail: Guardrail, data: bytes, seconds: float = 5.0) -> bytes:
    """Send bytes, and return what comes until the answer's headers and some body are there, or the time is over."""
    host, _, port = guardrail.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        connection.sendall(data)
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
                if b"}}" in answer:
                    break
        except TimeoutError:
            pass
        return answer


def test_a_body_that_is_cut_off_reaches_nobody(guardrail: Guardrail, upstream: Upstream) -> None:
    before = len(upstream.received)
    host, _, port = guardrail.url.removeprefix("http://").partition(":")
    for _ in range(20):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(HEAD % len(GOOD) + GOOD[:20])
    time.sleep(0.3)
    assert len(upstream.received) == before


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/9.9\r\n\r\n", b"\x00" * 4096]
)
def test_what_is_not_http_is_turned_away(data: bytes, guardrail: Guardrail) -> None:
    assert not raw(guardrail, data, 1.0).startswith(b"HTTP/1.1 2")


def test_ten_thousand_messages_are_screened(guardrail: Guardrail, upstream: Upstream) -> None:
    many = [{"role": "user" if i % 2 else "assistant", "content": f"line {i} of a long talk"} for i in range(9_999)]
    assert post(guardrail, messages([*many, {"role": "user", "content": "and the last"}])).status_code == 200
    assert len(upstream.last.json["messages"]) == 10_000
    many[7]["content"] = f"now {BLOCKED}"
    answer = post(guardrail, messages([*many, {"role": "user", "content": "and the last"}]))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages[7].content"


def test_one_message_of_a_million_characters_is_screened_to_its_end(guardrail: Guardrail) -> None:
    long = "all is well and nothing is wrong here, " * 27_000
    assert post(guardrail, messages([{"role": "user", "content": long}])).status_code == 200
    assert post(guardrail, messages([{"role": "user", "content": long + BLOCKED}])).status_code == 400


@pytest.mark.parametrize(
    "path",
    [
        "/v1/images/edits", "/v1/audio/transcriptions", "/v1/completion", "/v2/chat/completions",
        "/v1/chat/completions/x", "/", "/v1/../v1/models",
    ],
)  # fmt: skip
def test_a_path_that_no_dialect_reads_is_refused(path: str, guardrail: Guardrail, upstream: Upstream) -> None:
    before = len(upstream.received)
    answer = httpx.post(f"{guardrail.url}{path}", json={"model": "echo", "input": "hello"})
    assert answer.status_code in (404, 405)
    assert len(upstream.received) == before
    if path.startswith("/v"):
        assert answer.json()["error"]["code"] == "surface_not_guarded"


def test_a_get_where_a_post_belongs_reaches_nobody(guardrail: Guardrail, upstream: Upstream) -> None:
    before = len(upstream.received)
    assert httpx.get(f"{guardrail.url}/v1/chat/completions").status_code in (404, 405)
    assert len(upstream.received) == before


def test_a_websocket_is_refused(guardrail: Guardrail) -> None:
    handshake = (
        "GET /v1/realtime HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert not raw(guardrail, handshake.encode(), 1.0).startswith(b"HTTP/1.1 101")


def test_the_operators_pages_are_not_on_the_public_listener(guardrail: Guardrail) -> None:
    assert httpx.get(f"{guardrail.url}/metrics").status_code == 404
    assert httpx.get(f"{guardrail.admin_url}/metrics").status_code == 200


def test_an_unknown_setting_names_file_and_key_and_nothing_starts(tmp_path: Path) -> None:
    file = tmp_path / "guardrail.toml"
    file.write_text("[server]\nlissen = '127.0.0.1:0'\n")
    done = subprocess.run(
        command("serve", "--state-dir", str(tmp_path / "state")), cwd=tmp_path,
        env=environment(GUARDRAIL_CONFIG=str(file)), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "guardrail.toml" in done.stderr
    assert "server.lissen" in done.stderr
    assert "listen" in done.stderr.replace("lissen", "")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "state").exists()
