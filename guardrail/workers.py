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
import shutil
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
from guardrail.server import Listener, bind, run, start_logging
from guardrail.settings import Settings

log = logging.getLogger("guardrail")

ARGUMENTS = "GUARDRAIL_INTERNAL_ARGUMENTS"
"""What `serve` was called with, as JSON, for the processes that it starts."""

_START_LIMIT = 120.0  # seconds for a process to become ready
_TOLD = 2  # the exit code of a process that has said why it cannot start
_PAUSE = 1.0  # seconds before a process that died is replaced, so that one that cannot start does not spin


class _Child:
    """One process, and the pipe by which it says that it is ready.

    `lifeline` is the end of another pipe, which breaks when this process ends however it ends.
    """

    def __init__(self, role: str, environment: Mapping[str, str], lifeline: int, public: socket.socket | None) -> None:
        self.role = role
        read, write = os.pipe()
        files = [write, lifeline] + ([public.fileno()] if public is not None else [])
        command = [sys.executable, "-m", "guardrail.workers", role, str(write), str(lifeline)]
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
        self._public = bind(settings.server.address)
        self._operators = bind(settings.server.admin_address)
        self._folder = Path(tempfile.mkdtemp(prefix="guardrail-"))
        self._metrics = self._folder / "metrics"
        self._environment = {ARGUMENTS: json.dumps(arguments), **prepare_folder(self._metrics)}
        self._shared = settings.classifier.enabled and not settings.classifier.url
        if self._shared:
            self._environment[CLASSIFIER_SOCKET] = f"unix:{self._folder / 'classifier.sock'}"
        self._lifeline, self._held = os.pipe()
        self._children: list[_Child] = []
        self._draining = False

    async def run(self, on_ready: Callable[[], None]) -> bool:
        """Run until told to stop; false when a process could not start and has said why itself.

        Raises `SettingsError` when one could not start and said nothing.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        try:
            if not await self._all_started(stop):
                return False
            watch = asyncio.create_task(self._watch())
            operators = Listener(operators_app(lambda: render(self._metrics), self._state), self._operators)
            await run([operators], on_ready=on_ready, on_stop=self._end, stop=stop)
            watch.cancel()
        finally:
            await self._end()
            shutil.rmtree(self._folder, ignore_errors=True)
        return True

    def _state(self) -> dict[str, object]:
        ready = sum(child.ready for child in self._children if child.role == "proxy")
        classifies = not self._shared or any(child.ready for child in self._children if child.role == "classifier")
        return {
            "ready": ready > 0 and classifies and not self._draining,
            "draining": self._draining,
            "workers": self._settings.server.workers,
            "workers_ready": ready,
        }

    async def _all_started(self, stop: asyncio.Event) -> bool:
        """Start the classifier, one worker and then the others: what keeps one from starting is said once, and keys
        and tables are made once."""
        workers = self._settings.server.workers
        for roles in (["classifier"] * self._shared, ["proxy"], ["proxy"] * (workers - 1)):
            for role in roles:
                self._spawn(role)
            limit = time.monotonic() + _START_LIMIT
            while not (stop.is_set() or all(child.ready for child in self._children)):
                for child in self._children:
                    if child.process.poll() == _TOLD:
                        return False
                    if not child.alive:
                        code = child.process.returncode
                        raise SettingsError(f"the {child.role} process ended with {code} before it was ready")
                if time.monotonic() > limit:
                    raise SettingsError(f"a process was not ready after {_START_LIMIT:.0f} s")
                await asyncio.sleep(0.02)
        return True

    def _spawn(self, role: str) -> None:
        public = self._public if role == "proxy" else None
        self._children.append(_Child(role, self._environment, self._lifeline, public))

    async def _watch(self) -> None:
        while not self._draining:
            await asyncio.sleep(0.1)
            for child in [child for child in self._children if not (child.alive or self._draining)]:
                log.error("%s process %d ended with %s", child.role, child.process.pid, child.process.returncode)
                worker_died(self._metrics, [child.process.pid])
                child.close()
                self._children.remove(child)
                await asyncio.sleep(_PAUSE)
                if not self._draining:
                    self._spawn(child.role)

    async def _end(self) -> None:
        """Workers first, the classifier that they lean on last; whoever outstays the drain is ended."""
        self._draining = True
        self._public.close()  # or the kernel would go on taking connections that nobody accepts
        for role in ("proxy", "classifier"):
            family = [child for child in self._children if child.role == role]
            for child in family:
                if child.alive:
                    child.process.send_signal(signal.SIGTERM)
            limit = time.monotonic() + self._settings.server.drain_seconds + 5
            while any(child.alive for child in family) and time.monotonic() < limit:  # noqa: ASYNC110 - no event: processes
                await asyncio.sleep(0.02)
            for child in family:
                if child.alive:
                    child.process.kill()
                child.process.wait()
                child.close()
                self._children.remove(child)


def main() -> int:
    """The body of a process that the supervisor started: `proxy READY LIFELINE SOCKET` or `classifier READY LIFELINE`.

    The three are file descriptors.
    """
    role, ready, lifeline = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    arguments = json.loads(os.environ[ARGUMENTS])
    start_logging(arguments["log_level"])
    try:
        settings = Settings.load(arguments["config"], overrides=arguments["overrides"])

        def on_ready() -> None:
            os.write(ready, b"+")

        if role == "classifier":
            uvloop.run(_classifier(settings, lifeline, on_ready))
        else:
            uvloop.run(_proxy(settings, lifeline, socket.socket(fileno=int(sys.argv[4])), on_ready))
    except GuardrailError as error:
        sys.stderr.write(f"guardrail: {error}\n")
        return _TOLD
    return 0


async def _proxy(settings: Settings, lifeline: int, public: socket.socket, on_ready: Callable[[], None]) -> None:
    guard = compose(settings)
    await guard.start()
    app = guard.proxy_app(upstream_app(settings))
    listener = Listener(app, public, drain=settings.server.drain_seconds, lifespan=True)
    await run([listener], on_ready=on_ready, on_stop=guard.drain, stop=_orphaned(lifeline))
    await guard.close()


async def _classifier(settings: Settings, lifeline: int, on_ready: Callable[[], None]) -> None:
    from guardrail.app import load_engine
    from guardrail.inference.server import classifier_app

    engine, _ = load_engine(settings, Metrics())
    path = os.environ[CLASSIFIER_SOCKET].removeprefix("unix:")
    listener = Listener(classifier_app(engine), path=path, lifespan=True)
    await run([listener], on_ready=on_ready, stop=_orphaned(lifeline))


def _orphaned(lifeline: int) -> asyncio.Event:
    """An event that comes when the supervisor is gone: nobody else would end this process, or free its address."""
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()

    def broken() -> None:
        loop.remove_reader(lifeline)
        gone.set()

    loop.add_reader(lifeline, broken)
    return gone


if __name__ == "__main__":
    sys.exit(main())
