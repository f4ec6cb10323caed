"""An API of an app's own through a real `guardrail serve`: JSON, server-sent events and JSON lines, read by paths."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import ANSWERED, BLOCKED, REDACTED, SAFE_ANSWER, SETTINGS, Guardrail, serve
from tests.e2e.upstream import Received, Upstream, _Out

TALK = "There is bread, 茶, a jar of honey — and nothing else at all."
SURFACES = """
[[surfaces]]
id = "events"
path = "/api/ask"
prompt = ["$.question"]
context = ["$.turns[*].said"]
answer = ["$.answer.parts[*]"]
stream = "sse"
stream_if = "$.live"
delta = ["$.piece"]
finish = "$.over"
terminator = "END"
error = '{{"ok": false, "why": "{{message}}", "code": "{{code}}"}}'
closing = '{{"over": "{{code}}"}}'

[[surfaces]]
id = "lines"
path = "/api/lines"
prompt = ["$.question"]
stream = "jsonl"
delta = ["$.piece"]
"""


class App(Upstream):
    """The app: it says `says`, or what it was asked, word by word."""

    says = ""

    async def _answer(self, request: Received, out: _Out) -> None:
        asked = request.json
        said = self.says or asked["question"]
        lines = request.path == "/api/lines"
        if not lines and not asked.get("live"):
            half = len(said) // 2
            body = {"answer": {"parts": [said[:half], said[half:]]}, "score": 1.5}
            return await out.whole(200, "application/json", json.dumps(body, ensure_ascii=False).encode())
        await out.start(200, "application/jsonl" if lines else "text/event-stream")
        for number, word in enumerate(said.split(" ")):
            data = json.dumps({"n": number, "piece": word + " "}, ensure_ascii=False).encode()
            await out.piece(data + b"\n" if lines else b"id: %d\nevent: piece\ndata: %s\n\n" % (number, data))
            if request.left.is_set():
                return None
        if not lines:
            await out.piece(b'event: over\ndata: {"over": true}\n\ndata: END\n\n')
        return await out.end()


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    server = App()
    server.url = f"http://127.0.0.1:{server.port}"
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def guardrail(app: App, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guardrail]:
    running = serve(tmp_path_factory.mktemp("own"), app.url, settings=SETTINGS + SURFACES)
    yield running
    assert running.stop() == 0, running.log.read_text()[-4000:]


@pytest.fixture(autouse=True)
def echoes(app: App) -> None:
    app.says = ""


def ask(base: str, question: str, path: str = "/api/ask", **more: Any) -> httpx.Response:
    return httpx.post(f"{base}{path}", json={"question": question, **more}, timeout=20)


def events(answer: httpx.Response) -> list[Any]:
    found = [line[6:] for line in answer.text.split("\n") if line.startswith("data: ")]
    return [json.loads(data) if data != "END" else data for data in found]


def test_what_is_clean_arrives_as_the_app_sent_it(guardrail: Guardrail, app: App) -> None:
    ours, theirs = ask(guardrail.url, TALK), ask(app.url, TALK)
    assert ours.text.startswith(theirs.text[:-1] + ',"guardrail":{"action":"allow"')
    ours, theirs = ask(guardrail.url, TALK, live=True), ask(app.url, TALK, live=True)
    assert ours.text.split('{"over": true')[0] == theirs.text.split('{"over": true')[0]
    assert events(ours)[-2]["guardrail"]["action"] == "allow"
    assert events(ours)[-1] == "END"
    ours, theirs = ask(guardrail.url, TALK, "/api/lines"), ask(app.url, TALK, "/api/lines")
    assert ours.content == theirs.content
    assert ours.headers["content-type"] == "application/jsonl"


def test_a_blocked_prompt_never_reaches_the_app(guardrail: Guardrail, app: App) -> None:
    before = len(app.received)
    for more in (
        {"question": BLOCKED},
        {"question": "x", "turns": [{"said": BLOCKED}]},
        {"question": "x", "y": BLOCKED},
    ):
        answer = httpx.post(f"{guardrail.url}/api/ask", json=more)
        assert (answer.status_code, answer.json()["ok"], answer.json()["code"]) == (400, False, "content_filter")
    assert len(app.received) == before


def test_a_blocked_answer_is_cut_wherever_it_is_split(guardrail: Guardrail, app: App) -> None:
    first, second = BLOCKED.split(" ")
    app.says = f"Clean {first} {second} " + "more " * 3
    whole = ask(guardrail.url, "x").json()
    assert "".join(whole["answer"]["parts"]) == "Clean "
    assert whole["guardrail"]["action"] == "block"
    *said, over, end = events(ask(guardrail.url, "x", live=True))
    assert "".join(event["piece"] for event in said) == "Clean "
    assert (over, end) == ({"over": "content_filter"}, "END")
    *lines, last = map(json.loads, ask(guardrail.url, "x", "/api/lines").text.splitlines())
    assert "".join(line["piece"] for line in lines) == "Clean "
    assert last["guardrail"]["action"] == "block"


def test_redaction_and_safe_answers_take_the_apps_shape(guardrail: Guardrail, app: App) -> None:
    ask(guardrail.url, f"a {REDACTED} b")
    assert app.last.json["question"] == "a [removed] b"
    app.says = f"a {REDACTED} b"
    assert "".join(ask(guardrail.url, "x").json()["answer"]["parts"]) == "a [removed] b"
    assert (
        "".join(event.get("piece", "") for event in events(ask(guardrail.url, "x", live=True))[:-1]) == "a [removed] b "
    )
    assert ask(guardrail.url, ANSWERED).json()["answer"]["parts"] == [SAFE_ANSWER]
    said, over, end = events(ask(guardrail.url, ANSWERED, live=True))
    assert (said, over["over"], end) == ({"piece": SAFE_ANSWER}, "stop", "END")


def test_a_surface_of_the_settings_has_its_own_name_in_the_metrics(guardrail: Guardrail) -> None:
    ask(guardrail.url, "well?", "/api/lines")
    assert guardrail.metric("guardrail_requests_total", surface="lines", outcome="allowed") > 0
