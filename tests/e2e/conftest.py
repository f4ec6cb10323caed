"""A `guardrail serve` process that really runs, in front of a model server that really answers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.upstream import Upstream

BLOCKED = "forbidden marmalade"
REDACTED = "secret badger"
ANSWERED = "answer me instead"
OBSERVED = "merely observed"
SAFE_ANSWER = "Let us talk about something else."

POLICY = f"""\
id = "e2e"
title = "What these tests forbid"
on_error = "block"

[[rule]]
id = "block"
detector = "keywords"
phrases = "block.txt"
category = "e2e-blocked"
action = "block"
because = "The tests say so."

[[rule]]
id = "redact"
detector = "keywords"
phrases = "redact.txt"
category = "e2e-redacted"
action = "redact"
placeholder = "[removed]"

[[rule]]
id = "answer"
detector = "keywords"
phrases = "answer.txt"
category = "e2e-answered"
action = "answer"
answer = {{ en = "{SAFE_ANSWER}", zh = "我们换个话题吧。" }}

[[rule]]
id = "observe"
detector = "keywords"
phrases = "observe.txt"
category = "e2e-observed"
action = "block"
mode = "observe"
"""

PHRASES = {
    "block.txt": [BLOCKED, "禁止果酱"],
    "redact.txt": [REDACTED],
    "answer.txt": [ANSWERED],
    "observe.txt": [OBSERVED],
}

SETTINGS = """\
[policies]
directories = ["policies"]

[classifier]
enabled = false

[upstream]
read_timeout = 3
connect_timeout = 3

[[upstreams]]
id = "nobody"
url = "http://127.0.0.1:{closed}"
models = ["down"]
"""

START_SECONDS = 60.0


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Guardrail:
    """A running `guardrail serve`: where it listens, where it keeps its state, what it printed."""

    process: subprocess.Popen[bytes]
    url: str
    admin_url: str
    state_dir: Path
    log: Path

    def client(self, **options: object) -> openai.OpenAI:
        """The SDK as an app would set it up, with a key of its own (so that no test is limited by another's)."""
        options = {"api_key": f"sk-{uuid.uuid4().hex}", "max_retries": 0, "timeout": 20.0, **options}
        return openai.OpenAI(base_url=f"{self.url}/v1", **options)  # type: ignore[arg-type]

    def async_client(self) -> openai.AsyncOpenAI:
        key = f"sk-{uuid.uuid4().hex}"
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=20.0)

    def assert_healthy(self) -> None:
        """It is ready, and a request that it should let pass does."""
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        assert httpx.get(f"{self.url}/livez").status_code == 200
        assert httpx.get(f"{self.url}/readyz").status_code == 200
        answer = self.client().chat.completions.create(model="echo", messages=[{"role": "user", "content": "well?"}])
        assert answer.choices[0].message.content == "well?"

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of a metric that carry these labels; 0 if there are none."""
        families = text_string_to_metric_families(httpx.get(f"{self.admin_url}/metrics").text)
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    def stop(self, seconds: float = 40.0) -> int:
        """Ask it to end, as a service manager would, and wait; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def command(*arguments: str) -> list[str]:
    """The installed command, beside the interpreter that runs the tests."""
    return [str(Path(sys.executable).with_name("guardrail")), *arguments]


def environment(**more: str) -> dict[str, str]:
    """The process's environment without settings of whoever runs the tests."""
    return {key: value for key, value in os.environ.items() if not key.startswith("GUARDRAIL_")} | more


def serve(home: Path, upstream_url: str, *arguments: str, settings: str = SETTINGS) -> Guardrail:
    """Start `guardrail serve` under `home` with the tests' policy, and wait until it is ready."""
    pack = home / "policies" / "e2e"
    pack.mkdir(parents=True, exist_ok=True)
    (pack / "policy.toml").write_text(POLICY, encoding="utf-8")
    for name, phrases in PHRASES.items():
        (pack / name).write_text("\n".join(phrases) + "\n", encoding="utf-8")
    (home / "guardrail.toml").write_text(settings.format(closed=free_port()))
    port, admin = free_port(), free_port()
    log = home / "serve.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            command(
                "serve", "--upstream", upstream_url, "--listen", f"127.0.0.1:{port}",
                "--admin-listen", f"127.0.0.1:{admin}", "--state-dir", str(home / "state"), *arguments,
            ),
            cwd=home, env=environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        )  # fmt: skip
    running = Guardrail(process, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin}", home / "state", log)
    until = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None, f"guardrail serve ended with {process.returncode}:\n{log.read_text()}"
        try:
            if httpx.get(f"{running.url}/readyz", timeout=1).status_code == 200:
                return running
        except httpx.TransportError:
            pass
        if time.monotonic() > until:
            process.kill()
            pytest.fail(f"guardrail serve was not ready in {START_SECONDS:.0f} s:\n{log.read_text()}")
        time.sleep(0.05)


@pytest.fixture(scope="session")
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def guardrail(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guardrail]:
    """One process for all tests that leave it as they found it."""
    running = serve(tmp_path_factory.mktemp("guardrail"), upstream.url)
    yield running
    assert running.stop() == 0, running.log.read_text()[-4000:]


@pytest.fixture
def start(upstream: Upstream, tmp_path: Path) -> Iterator[Callable[..., Guardrail]]:
    """Start a process of the test's own; whatever still runs afterwards is ended."""
    started: list[Guardrail] = []

    def start(*arguments: str, settings: str = SETTINGS, home: Path = tmp_path) -> Guardrail:
        started.append(serve(home, upstream.url, *arguments, settings=settings))
        return started[-1]

    yield start
    for running in started:
        running.process.kill()
        running.process.wait()


@pytest.fixture
def client(guardrail: Guardrail) -> openai.OpenAI:
    return guardrail.client()


@pytest.fixture
def direct(upstream: Upstream) -> openai.OpenAI:
    """The same SDK without anything between it and the model server."""
    return openai.OpenAI(base_url=upstream.url, api_key="sk-direct", max_retries=0, timeout=20.0)
