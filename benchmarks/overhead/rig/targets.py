"""What is compared: for each target the command that starts it, and what it has to look at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from rig import build, load, machine, ours

PEERS = build.HERE / "peers"
PATH = "/v1/chat/completions"
READY_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Target:
    """One server to be measured. `looks_at` says in a few words what it screens."""

    name: str
    looks_at: str
    command: tuple[str, ...]
    port: int
    environment: dict[str, str] = field(default_factory=dict)
    package: str = ""
    python: str = sys.executable


class Server:
    """A target that runs in a process group of its own. `cold_seconds` is the time to its first good answer."""

    def __init__(self, target: Target, log: Path) -> None:
        self.target = target
        self.log = log
        self.cold_seconds = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers a chat completion; raises `RuntimeError` with its log's last line."""
        begun = time.monotonic()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self.target.command,
                env={**os.environ, **self.target.environment},
                cwd=self.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        status = 0
        while time.monotonic() - begun < READY_SECONDS and self._process.poll() is None:
            status = load.try_once(self.target.port, PATH)
            if status == 200:
                self.cold_seconds = time.monotonic() - begun
                return
            time.sleep(0.05 if status == 0 else 0.5)
        self.stop()
        lines = self.log.read_text(errors="replace").strip().splitlines()
        raise RuntimeError(
            f"{self.target.name} did not start (last status {status}): {lines[-1] if lines else 'no log'}"
        )

    def stop(self) -> None:
        """End the process group: politely, then not."""
        if self._process is None:
            return
        for number, seconds in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            try:
                os.killpg(self._process.pid, number)
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                continue
            except ProcessLookupError:
                return


def _filled(template: str, run: Path, name: str, port: int, upstream: int) -> Path:
    """A peer's configuration with its ports and paths put in, under `run`."""
    text = (PEERS / template).read_text()
    for mark, value in {"RUN": run, "PORT": port, "UPSTREAM": upstream, "PHRASE": ours.PHRASE}.items():
        text = text.replace(f"@{mark}@", str(value))
    path = run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def direct(port: int) -> Target:
    return Target("direct", "nothing: no proxy", (str(build.compiled("mock_upstream")), str(port)), port)


def nginx(run: Path, upstream: int) -> Target:
    port = machine.free_port()
    config = _filled("nginx.conf", run, "nginx.conf", port, upstream)
    return Target(
        "nginx", "nothing", (build.find("nginx") or "nginx", "-c", str(config), "-e", f"{run}/nginx.log"), port
    )


def pass_through(run: Path, upstream: int) -> Target:
    port = machine.free_port()
    command = (
        sys.executable, "-m", "uvicorn", "pass_through:app", "--app-dir", str(PEERS), "--host", "127.0.0.1",
        "--port", str(port), "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning",
    )  # fmt: skip
    return Target("pass-through", "nothing", command, port, {"UPSTREAM": f"http://127.0.0.1:{upstream}"}, "aiohttp")


def litellm(run: Path, upstream: int, *, screens: bool) -> Target:
    name = "litellm-filter" if screens else "litellm"
    home, port = build.environment("litellm") / "bin", machine.free_port()
    config = _filled(f"{name}.yaml", run, f"{name}.yaml", port, upstream)
    environment = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_TELEMETRY": "False",
        "LITELLM_MASTER_KEY": "sk-1234",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }
    command = (
        str(home / "litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port),
        "--num_workers", "1",
    )  # fmt: skip
    looks_at = "2 patterns, 1 phrase" if screens else "nothing"
    return Target(name, looks_at, command, port, environment, "litellm", str(home / "python"))


def nemo(run: Path, upstream: int) -> Target:
    python, port = str(build.environment("nemo") / "bin" / "python"), machine.free_port()
    _filled("nemo/config.yml", run, "nemo/iorails/config.yml", port, upstream)
    url = f"http://127.0.0.1:{upstream}/v1"
    environment = {
        "NEMO_GUARDRAILS_IORAILS_ENGINE": "1",  # its quick engine; the default one is several times slower
        "MAIN_MODEL_ENGINE": "openai",
        "MAIN_MODEL_BASE_URL": url,
        "OPENAI_BASE_URL": url,
        "OPENAI_API_KEY": "x",
        "HF_HUB_OFFLINE": "1",
        "DISABLE_TELEMETRY": "1",
    }
    command = (
        python, str(PEERS / "nemo_serve.py"), "server", "--config", str(run / "nemo"), "--port", str(port),
        "--default-config-id", "iorails",
    )  # fmt: skip
    return Target("nemo-iorails", "2 patterns", command, port, environment, "nemoguardrails", python)


def guardrail(run: Path, upstream: int) -> Target:
    port, admin = machine.free_port(), machine.free_port()
    settings = ours.write_settings(run / "guardrail")
    command = (
        str(Path(sys.executable).with_name("guardrail")), "serve", "--upstream", f"http://127.0.0.1:{upstream}",
        "--listen", f"127.0.0.1:{port}", "--admin-listen", f"127.0.0.1:{admin}",
        "--state-dir", str(run / "guardrail" / "state"),
    )  # fmt: skip
    environment = {"GUARDRAIL_CONFIG": str(settings)}
    return Target("guardrail", "20,000 terms, PII, all as shipped", command, port, environment, "guardrail")
