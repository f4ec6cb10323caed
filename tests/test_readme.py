"""The README is run: every console line with the output it prints, every Python snippet, every key of its table.

In a console block `$ ` begins a command (a line that ends in a backslash goes on in the next); what follows is what it
prints, in which `...` stands for anything on that line, a line of `...` for any lines, and a line break before two
spaces for none. Runs of spaces count as one.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.conftest import Needs

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
START_LIMIT = 90.0  # seconds

HOUSE = """\
id = "house"
title = "What only an answer says"
applies_to = { directions = ["completion"] }

[[rule]]
id = "marmalade"
detector = "keywords"
phrases = "marmalade.txt"
category = "house"
action = "block"
"""


class Line(NamedTuple):
    """A command of the README and what it is said to print."""

    command: str
    said: str


def blocks(language: str) -> list[str]:
    return re.findall(rf"(?m)^```{language}\n(.*?)^```$", README, re.DOTALL)


def console_lines() -> Iterator[Line]:
    for block in blocks("console"):
        for part in re.split(r"(?m)^\$ ", block)[1:]:
            command, said = re.fullmatch(r"((?:.*\\\n)*.*)\n(.*)", part, re.DOTALL).groups()  # type: ignore[union-attr]
            # The command ends at the first line that no backslash carries on.
            taken, rest = [], [*command.split("\n"), *said.split("\n")]
            while rest:
                taken.append(rest.pop(0))
                if not taken[-1].endswith("\\"):
                    break
            yield Line("\n".join(taken), "\n".join(rest))


def snippet(mark: str) -> str:
    (found,) = [block for block in blocks("python") if mark in block]
    return found


def shape(said: str) -> re.Pattern[str]:
    """A pattern of the outputs that `said` stands for."""
    wild = {"\0": r"[\s\S]*?", "...": r"[^\n]*?"}
    out = []
    for piece in re.split(r"(\0|\.\.\.|\n? +)", re.sub(r"(?m)^\.\.\.$", "\0", said.strip("\n"))):
        if piece.strip(" ") in ("", "\n"):
            out.append(r"\s*" if "\n" in piece else " +" if piece else "")
        else:
            out.append(wild.get(piece, re.escape(piece)))
    return re.compile("".join(out))


def differs(said: str, printed: str) -> str:
    """Nothing, or both texts where `printed` is not what `said` stands for."""
    tidy = "\n".join(line.rstrip() for line in printed.replace("\r", "").strip("\n").split("\n"))
    return "" if shape(said).fullmatch(tidy) else f"\n--- README ---\n{said}\n--- printed ---\n{tidy}"


# -- the processes -----------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Started(NamedTuple):
    """A process that serves, its port and the folder it runs in."""

    port: int
    admin_port: int
    folder: Path
    process: subprocess.Popen[bytes]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def wait(self) -> None:
        limit = time.monotonic() + START_LIMIT
        while time.monotonic() < limit and self.process.poll() is None:
            try:
                if httpx.get(self.url("/readyz"), timeout=5).status_code in (200, 404):
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        pytest.fail(f"it did not start:\n{(self.folder / 'log').read_text()}", pytrace=False)


def environment(*, classifier: bool = True) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GUARDRAIL_")}
    return kept | {"PYTHONPATH": str(ROOT)} | ({} if classifier else {"GUARDRAIL_CLASSIFIER__ENABLED": "false"})


def start(folder: Path, command: Callable[[int, int], list[str]], *, classifier: bool = True) -> Started:
    port, admin_port = free_port(), free_port()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command(port, admin_port),
            cwd=folder,
            env=environment(classifier=classifier),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    return Started(port, admin_port, folder, process)


def start_app(folder: Path, mark: str) -> Started:
    (folder / "app.py").write_text(snippet(mark), encoding="utf-8")
    (folder / "guardrail.toml").write_text('[policies]\ndirectories = ["rules"]\n')
    (folder / "rules/house").mkdir(parents=True)
    (folder / "rules/house/policy.toml").write_text(HOUSE)
    (folder / "rules/house/marmalade.txt").write_text("now marmalade\n")
    # Without the classifier: the proxy beside them runs with it, and three of them take a while to load.
    return start(
        folder, lambda port, _: [sys.executable, "-m", "uvicorn", "app:app", "--port", str(port)], classifier=False
    )


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Started]]:
    """The three services that the README shows, started side by side."""
    fresh = tmp_path_factory.mktemp
    services = {
        "serve": start(
            fresh("serve"),
            lambda port, admin: [
                *(str(BIN / "guardrail"), "serve"),
                *("--listen", f"127.0.0.1:{port}", "--admin-listen", f"127.0.0.1:{admin}"),
            ],
        ),
        "starlette": start_app(fresh("starlette"), "app = Starlette("),
        "fastapi": start_app(fresh("fastapi"), "app = FastAPI("),
    }
    try:
        yield services
    finally:
        for service in services.values():
            service.process.send_signal(signal.SIGTERM)
        for service in services.values():
            try:
                service.process.wait(20)
            except subprocess.TimeoutExpired:
                service.process.kill()
                service.process.wait()


# An answer's first sentence leaves once the classifier has seen it, and it looks at eighty characters or more.
HARMLESS = "This sentence is long enough for the classifier to have a look at it, and quite harmless. "


def ask(service: Started, text: str, **more: Any) -> httpx.Response:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], **more}
    return httpx.post(service.url("/v1/chat/completions"), json=body, timeout=30)


# -- the tour ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tour(started: dict[str, Started], needs: Needs) -> list[tuple[Line, str]]:
    """Every console line of the README in order, with what it printed."""
    needs("bash and curl", shutil.which("bash") and shutil.which("curl"))
    service = started["serve"]
    service.wait()
    found = []
    for line in console_lines():
        command = line.command.replace(".venv/bin/guardrail", shlex.quote(str(BIN / "guardrail")))
        for shown, real in (("8080", service.port), ("8081", service.admin_port)):
            command = command.replace(f"127.0.0.1:{shown}", f"127.0.0.1:{real}")
        done = subprocess.run(
            ["bash", "-c", command], cwd=service.folder, env=environment(), capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{line.command}\n{done.stderr}"
        printed = done.stdout.replace(f"127.0.0.1:{service.port}", "127.0.0.1:8080")
        found.append((line, printed))
    return found


def test_every_console_line_prints_what_the_readme_says(tour: list[tuple[Line, str]]) -> None:
    wrong = [f"$ {line.command}{difference}" for line, printed in tour if (difference := differs(line.said, printed))]
    assert not wrong, "\n\n".join(wrong)


def test_the_tour_shows_each_thing_a_newcomer_asks_for(tour: list[tuple[Line, str]]) -> None:
    printed = "\n".join(output for _, output in tour)
    for sight in (
        '"action":"allow"',
        "ai-generated: 1",
        "[EMAIL]",
        '"code":"content_filter"',
        '"finish_reason":"content_filter"',
        '"code":"rate_limited"',
        '"code":"account_suspended"',
        "guardrail_requests_total{",
        "pii/email",
    ):
        assert sight in printed, sight
    assert "bob" not in printed
    assert "pipe bomb" not in printed.partition("guardrail_requests_total{")[2], "a record shows what somebody wrote"


@pytest.mark.parametrize(
    ("said", "printed", "fits"),
    [
        ("a ... c", "a b c", True),
        ("a ... c", "a b\nc", False),
        ("...\nc", "a\nb\nc", True),
        ("x\n...\n\nc", "x\na\n\nb\n\nc", True),
        ('{"a":1,\n  "b":2}', '{"a":1,"b":2}', True),
        ('{"a":1,"b":2}', '{"a":1,"b":3}', False),
        ("id   time", "id time", True),
        ("400", "4000", False),
        ("(x)", "(x)", True),
        ("a.c", "abc", False),
    ],
)
def test_outputs_are_compared_by_shape_and_not_by_less(said: str, printed: str, fits: bool) -> None:
    assert bool(differs(said, printed)) is not fits


# -- the snippets ------------------------------------------------------------------------------------------------


def run_script(folder: Path, source: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=folder, env=environment(), capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def printed_below(mark: str) -> str:
    """The text block that follows a snippet."""
    return README.partition(snippet(mark))[2].partition("```text\n")[2].partition("```")[0]


def test_every_snippet_is_one_that_a_test_here_runs() -> None:
    marks = ("from openai import", "app = Starlette(", "app = FastAPI(", "asyncio.run(main())")
    assert sorted(blocks("python")) == sorted(snippet(mark) for mark in marks)


def test_the_openai_client_prints_what_the_readme_says(
    started: dict[str, Started], tour: list[tuple[Line, str]], tmp_path: Path
) -> None:
    source = snippet("from openai import").replace("127.0.0.1:8080", f"127.0.0.1:{started['serve'].port}")
    assert not differs(printed_below("from openai import"), run_script(tmp_path, source))


def test_the_guard_as_a_plain_api_prints_what_the_readme_says(tmp_path: Path) -> None:
    assert not differs(printed_below("asyncio.run(main())"), run_script(tmp_path, snippet("asyncio.run(main())")))


def test_the_starlette_app_is_guarded(started: dict[str, Started]) -> None:
    service = started["starlette"]
    service.wait()
    clean = ask(service, "Call 13812345678, please.")
    assert clean.status_code == 200
    assert clean.json()["choices"][0]["message"]["content"] == "You asked: Call [PHONE], please."
    assert clean.json()["guardrail"]["action"] == clean.headers["guardrail-action"] == "redact"
    assert clean.headers["ai-generated"] == "1"
    blocked = ask(service, "How do I make a pipe bomb?")
    assert (blocked.status_code, blocked.json()["error"]["code"]) == (400, "content_filter")
    cut = ask(service, HARMLESS + "Now marmalade.").json()
    assert cut["choices"][0]["message"]["content"] == f"You asked: {HARMLESS}"
    assert cut["choices"][0]["finish_reason"] == "content_filter"
    assert httpx.get(service.url("/livez")).text == "alive\n"
    assert httpx.get(service.url("/readyz")).json()["ready"] is True
    metrics = httpx.get(service.url("/operators/metrics")).text
    assert 'guardrail_requests_total{outcome="blocked",surface="openai_chat"} 1.0' in metrics
    assert (service.folder / "state/guardrail.db").exists()


def test_the_fastapi_app_is_guarded_while_it_streams(started: dict[str, Started]) -> None:
    service = started["fastapi"]
    service.wait()
    clean = ask(service, "Hello there", stream=True)
    assert clean.status_code == 200
    assert "".join(re.findall(r'"content": "(.*?)"', clean.text)) == "You asked: Hello there "
    assert '"finish_reason": "stop"' in clean.text
    cut = ask(service, HARMLESS + "Now marmalade.", stream=True)
    assert "".join(re.findall(r'"content": ?"(.*?)"', cut.text)) == f"You asked: {HARMLESS}"
    assert '"finish_reason":"content_filter"' in cut.text
    assert cut.text.endswith("data: [DONE]\n\n")
    blocked = ask(service, "How do I make a pipe bomb?", stream=True)
    assert (blocked.status_code, blocked.json()["error"]["code"]) == (400, "content_filter")


# -- what it says of settings ------------------------------------------------------------------------------------


def test_the_settings_table_gives_keys_and_defaults_as_they_are() -> None:
    rows = re.findall(r"(?m)^\| `([a-z_.]+)` \| (.+?) \| .+ \|$", README)
    assert len(rows) > 10
    page = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    whole = dict(re.findall(r"(?m)^\| `([a-z_.]+)` \| [^|]+ \| ([^|]+) \| [^|]+ \|$", page))
    for key, default in rows:
        assert whole[key] == default, key


def test_every_option_of_the_settings_table_is_one_of_serve() -> None:
    from tests.test_docs import commands

    serve = dict(commands())["serve"]
    options = {flag for parameter in serve.params for flag in parameter.opts}
    assert set(re.findall(r"\(`(--[a-z-]+)`\)", README)) <= options
    assert set(re.findall(r"scripts/serve (--[a-z-]+)", README)) <= options


# -- what it says it does not do ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/images/edits", 404),
        ("/v1/audio/transcriptions", 404),
        ("/guardrail/complaints", 404),
        ("/guardrail/privacy", 404),
        ("/guardrail/takedowns", 404),
    ],
)
def test_what_the_readme_says_is_not_there_yet_is_not(
    started: dict[str, Started], tour: list[tuple[Line, str]], path: str, status: int
) -> None:
    assert httpx.post(started["serve"].url(path), json={}).status_code == status, "then the README can say more"


def test_media_are_refused_and_tool_definitions_pass_as_the_readme_says(
    started: dict[str, Started], tour: list[tuple[Line, str]]
) -> None:
    service = started["serve"]
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    body = {"model": "m", "messages": [{"role": "user", "content": [image]}]}
    assert httpx.post(service.url("/v1/chat/completions"), json=body).status_code == 422
    tool = {"type": "function", "function": {"name": "f", "description": "How do I make a pipe bomb?"}}
    assert ask(service, "Hello", tools=[tool]).status_code == 200
    result = {"role": "tool", "tool_call_id": "c", "content": "Call 13812345678."}
    asked = {"role": "user", "content": "Hello"}
    answer = httpx.post(service.url("/v1/chat/completions"), json={"model": "m", "messages": [asked, result]})
    assert answer.headers["guardrail-action"] == "redact"
