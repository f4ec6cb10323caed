"""A small policy of the tests' own with settings around it, and `guardrail serve` as a process under a folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

BLOCKED = "forbidden marmalade"
REDACTED = "secret badger"

POLICY = """\
id = "{id}"
title = "What these tests forbid"
on_error = "block"

[[rule]]
id = "block"
detector = "keywords"
phrases = "block.txt"
category = "house-blocked"
action = "block"
strike = true
because = "The tests say so."

[[rule]]
id = "redact"
detector = "keywords"
phrases = "redact.txt"
category = "house-redacted"
action = "redact"
placeholder = "[removed]"
"""

SETTINGS = """\
profile = "bare"
state_dir = "state"

[policies]
directories = ["policies"]

[classifier]
enabled = false

[pii]
enabled = false
"""


def write_policy(home: Path, name: str = "house", blocked: str = BLOCKED, policy: str = POLICY) -> Path:
    """A policy `name` under `home/policies` that blocks `blocked` and redacts `REDACTED`; its folder."""
    folder = home / "policies" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "policy.toml").write_text(policy.replace("{id}", name), encoding="utf-8")
    (folder / "block.txt").write_text(f"{blocked}\n", encoding="utf-8")
    (folder / "redact.txt").write_text(f"{REDACTED}\n", encoding="utf-8")
    return folder


def write_settings(home: Path, more: str = "", settings: str = SETTINGS, top: str = "") -> Path:
    """`home/guardrail.toml` with the profile "bare", which is the policies under `home` alone: it loads in no time."""
    profiles = home / "policies" / "profiles"
    if not (home / "policies" / "house").is_dir():
        write_policy(home)
    profiles.mkdir(exist_ok=True)
    names = sorted(file.parent.name for file in home.glob("policies/*/policy.toml"))
    (profiles / "bare.toml").write_text(f'title = "Bare"\npolicies = {names}\n', encoding="utf-8")
    file = home / "guardrail.toml"
    file.write_text(f"{top}\n{settings}\n{more}", encoding="utf-8")
    return file


def command(*arguments: str) -> list[str]:
    """The installed command, beside the interpreter that runs the tests."""
    return [str(Path(sys.executable).with_name("guardrail")), *arguments]


def environment(**more: str) -> dict[str, str]:
    """This process's environment without settings of whoever runs the tests."""
    return {key: value for key, value in os.environ.items() if not key.startswith("GUARDRAIL_")} | more


def run(home: Path, *arguments: str, given: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command under `home` to its end."""
    return subprocess.run(
        command(*arguments), cwd=home, env=environment(**env), input=given, capture_output=True, text=True, timeout=90
    )


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Running:
    """A `guardrail serve` process under `home`. `url` is its public listener, `admin` its operators'."""

    process: subprocess.Popen[bytes]
    url: str
    admin: str
    home: Path

    @property
    def log(self) -> str:
        return (self.home / "serve.log").read_text()

    def ready(self, seconds: float = 60.0) -> Running:
        """Wait until it says that it is ready."""
        until = time.monotonic() + seconds
        while True:
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.log}"
            try:
                if httpx.get(f"{self.admin}/readyz", timeout=2).status_code == 200:
                    return self
            except httpx.TransportError:
                pass
            assert time.monotonic() < until, f"it was not ready in {seconds:.0f} s:\n{self.log}"
            time.sleep(0.05)

    def ask(
        self, text: str, key: str = "sk-someone", headers: Mapping[str, str] | None = None, **more: Any
    ) -> httpx.Response:
        """One chat completion with one user message, by the API key `key`."""
        body = {"model": "m", "messages": [{"role": "user", "content": text}], **more}
        sent = {"authorization": f"Bearer {key}", **(headers or {})}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, headers=sent, timeout=20)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels; 0 if there are none."""
        families = text_string_to_metric_families(httpx.get(f"{self.admin}/metrics").text)
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    def counts(self, expected: float, name: str, **labels: str) -> bool:
        """Whether a metric comes to `expected`: what is counted is counted once the answer has left."""
        until = time.monotonic() + 5
        while (found := self.metric(name, **labels)) != expected and time.monotonic() < until:
            time.sleep(0.05)
        return found == expected

    def terminate(self) -> None:
        """Ask it to end, as a service manager would."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = 45.0) -> int:
        """The exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def serve(home: Path, *arguments: str, **env: str) -> Running:
    """Start `guardrail serve` under `home`, where `write_settings` was; does not wait."""
    public, admin = free_port(), free_port()
    listen = ("--listen", f"127.0.0.1:{public}", "--admin-listen", f"127.0.0.1:{admin}")
    with (home / "serve.log").open("ab") as log:
        process = subprocess.Popen(
            command("serve", *listen, *arguments),
            cwd=home, env=environment(**env), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    return Running(process, f"http://127.0.0.1:{public}", f"http://127.0.0.1:{admin}", home)
