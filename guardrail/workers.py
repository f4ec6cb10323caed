"""Several proxy processes on one socket: a supervisor, N workers, and one classifier that they share.

The supervisor owns the public socket, the operators' listener and the folder in which the workers' metrics are added
up. It puts a new process in the place of one that died, and passes SIGTERM on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import uvloop

from guardrail.app import CLASSIFIER_SOCKET, compose, upstream_app
from guardrail.console.app import operators_app
from guardrail.errors import GuardrailError, SettingsError
from guardrail.metrics import Metrics, prepare_folder, render, worker_died
from guardrail.server import Listener, bind, run
from guardrail.settings import Settings

log = logging.getLogger("guardrail")

ARGUMENTS = "GUARDRAIL_INTERNAL_ARGUMENTS"
"""What `serve` was called with, as JSON, for the processes that it starts."""

_START_LIMIT = 120.0  # seconds for a process to become ready
_PAUSE = 1.0  # seconds before a process that died is replaced, so that one that cannot start does not spin


class _Child:
    """One process, and the pipe by which it says that it is ready."""

    def __init__(self, role: str, environment: Mapping[str, str], public: socket.socket | None) -> None:
        self.role = role
        read, write = os.pipe()
        files = [write] + ([public.fileno()] if public is not None else [])
        command = [sys.executable, "-m", "guardrail.workers", role, str(write)]
        if public is not None:
            command.append(str(public.fileno()))
        self.process = subprocess.Popen(command, env={**os.environ, **environment}, pass_fds=files)
        os.close(write)
        os.set_blocking(read, False)
        self._pipe = read
        self._ready = False

    @property
    def ready(self) -> bool:
        if not self._ready:
            with contextlib.suppress(BlockingIOError):
                self._ready = os.read(self._pipe, 1) == b"+"
        return self._ready and self.alive

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        os.close(self._pipe)


class Supervisor:
    """Starts the processes, watches them and ends them."""

    def __init__(self, settings: Settings, arguments: Mapping[str, Any]) -> None:
        self._settings = settings
        self._folder = Path(tempfile.mkdtemp(prefix="guardrail-"))
        self._metrics = self._folder / "metrics"
        self._environment = {ARGUMENTS: json.dumps(arguments), **prepare_folder(self._metrics)}
        self._public = bind(settings.server.address)
        self._operators = bind(settings.server.admin_address)
        self._shared = settings.classifier.enabled and not settings.classifier.url
        if self._shared:
            self._environment[CLASSIFIER_SOCKET] = f"unix:{self._classifier_socket}"
        self._children: list[_Child] = []
        self._draining = False

    @property
    def _classifier_socket(self) -> str:
        return str(self._folder / "classifier.sock")

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Run until told to stop; raises `SettingsError` when a process cannot start."""
        try:
            if self._shared:
                await self._start("classifier")
            for _ in range(self._settings.server.workers):
                self._spawn("proxy")
            await self._wait_ready()
            watch = asyncio.create_task(self._watch())
            operators = Listener(operators_app(lambda: render(self._metrics), self._state), self._operators)
            await run([operators], on_ready=on_ready, on_stop=self._stop)
            watch.cancel()
        finally:
            await self._end()

    def _state(self) -> dict[str, object]:
        ready = sum(child.ready for child in self._children if child.role == "proxy")
        shared = all(child.ready for child in self._children if child.role == "classifier")
        return {
            "ready": ready > 0 and shared and not self._draining,
            "draining": self._draining,
            "workers": self._settings.server.workers,
            "workers_ready": ready,
        }

    async def _start(self, role: str) -> None:
        self._spawn(role)
        await self._wait_ready()

    def _spawn(self, role: str) -> None:
        self._children.append(_Child(role, self._environment, self._public if role == "proxy" else None))

    async def _wait_ready(self) -> None:
        limit = time.monotonic() + _START_LIMIT
        while not all(child.ready for child in self._children):
            if any(not child.alive for child in self._children) or time.monotonic() > limit:
                raise SettingsError("a process could not start; its own message says why")
            await asyncio.sleep(0.02)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            for child in [child for child in self._children if not child.alive]:
                log.error("%s process %d ended with %s", child.role, child.process.pid, child.process.returncode)
                worker_died(self._metrics, [child.process.pid])
                child.close()
                self._children.remove(child)
                await asyncio.sleep(_PAUSE)
                self._spawn(child.role)

    def _stop(self) -> None:
        self._draining = True
        for child in self._children:
            if child.role == "proxy" and child.alive:
                child.process.send_signal(signal.SIGTERM)

    async def _end(self) -> None:
        """Workers first, the classifier that they lean on last; whoever outstays the drain is ended."""
        self._stop()
        for role in ("proxy", "classifier"):
            family = [child for child in self._children if child.role == role]
            limit = time.monotonic() + self._settings.server.drain_seconds + 5
            for child in family:
                if child.alive and role == "classifier":
                    child.process.send_signal(signal.SIGTERM)
            while any(child.alive for child in family) and time.monotonic() < limit:  # noqa: ASYNC110 - no event: processes
                await asyncio.sleep(0.02)
            for child in family:
                if child.alive:
                    child.process.kill()
                child.process.wait()
                child.close()


def main() -> int:
    """The body of a process that the supervisor started: `proxy FD SOCKET` or `classifier FD`."""
    role, ready = sys.argv[1], int(sys.argv[2])
    arguments = json.loads(os.environ[ARGUMENTS])
    try:
        settings = Settings.load(arguments["config"], overrides=arguments["overrides"])

        def on_ready() -> None:
            os.write(ready, b"+")

        if role == "classifier":
            uvloop.run(_classifier(settings, on_ready))
        else:
            uvloop.run(_proxy(settings, socket.socket(fileno=int(sys.argv[3])), on_ready))
    except GuardrailError as error:
        sys.stderr.write(f"guardrail: {error}\n")
        return 2
    return 0


async def _proxy(settings: Settings, public: socket.socket, on_ready: Callable[[], None]) -> None:
    guard = compose(settings)
    await guard.start()
    app = guard.proxy_app(upstream_app(settings))
    listener = Listener(app, public, drain=settings.server.drain_seconds, lifespan=True)
    await run([listener], on_ready=on_ready, on_stop=guard.drain)
    await guard.close()


async def _classifier(settings: Settings, on_ready: Callable[[], None]) -> None:
    from guardrail.app import load_engine
    from guardrail.inference.server import classifier_app

    engine, _ = load_engine(settings, Metrics())
    path = os.environ[CLASSIFIER_SOCKET].removeprefix("unix:")
    await run([Listener(classifier_app(engine), path=path, lifespan=True)], on_ready=on_ready)


if __name__ == "__main__":
    sys.exit(main())
