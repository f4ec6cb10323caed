"""Run the listeners of one process, and end them in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from guardrail.errors import SettingsError
from guardrail.sections import Address

log = logging.getLogger("guardrail")


class Listener(NamedTuple):
    """An app and where it is served: a bound socket, or the path of a Unix socket. `drain` is how many seconds
    running requests get once it is told to stop."""

    app: ASGIApp
    socket: socket.socket | None = None
    path: str | None = None
    drain: float = 1.0
    lifespan: bool = False


def start_logging(level: str) -> None:
    """Log to standard error from `level` (debug, info, warning, error) on; libraries only what is amiss."""
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for library in ("uvicorn", "alembic"):
        logging.getLogger(library).setLevel(logging.WARNING)


def bind(address: Address) -> socket.socket:
    """A listening socket; raises `SettingsError` when the address cannot be had."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        bound = socket.create_server((address.host, address.port), family=family, backlog=2048)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {address}: {error.strerror}; expected an address of this machine that is free"
        ) from None
    bound.set_inheritable(True)
    return bound


async def run(
    listeners: list[Listener],
    *,
    on_ready: Callable[[], None] = lambda: None,
    on_stop: Callable[[], Awaitable[None] | None] = lambda: None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until SIGTERM, SIGINT or `stop`; then end the listeners one after the other, the first first.

    `on_stop` is called (and awaited) before anything ends, so that readiness falls while running answers go on.
    """
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    servers = [_server(listener) for listener in listeners]
    tasks = [
        asyncio.create_task(server.serve([listener.socket] if listener.socket else None))
        for server, listener in zip(servers, listeners, strict=True)
    ]
    stopped = asyncio.create_task(stop.wait())
    try:
        # uvicorn has no event for it.
        while not all(server.started for server in servers) and not any(task.done() for task in tasks):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        if not any(task.done() for task in tasks):
            _settle_heap()
            on_ready()
        await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        ending = on_stop()
        if ending is not None:
            await ending
        stopped.cancel()
        for server, task in zip(servers, tasks, strict=True):
            server.should_exit = True
            await asyncio.wait([task])
    for task in tasks:
        task.result()


def _settle_heap() -> None:
    """Take what was loaded (phrases, policies, code) out of the collector's sight, and let it look less often.

    A request makes a few hundred objects that die with it; looking through everything that stays at every 700th
    costs a tenth of a request's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


class _OneWrite:
    """A transport that sends an answer's head together with the body that follows it at once, in one system call.

    A head that nothing follows (a stream's, while its model thinks) goes by itself in the loop's next turn. Between
    the head of one answer and that of the next, `write` is the transport's own.
    """

    __slots__ = ("_head", "_loop", "_transport", "write")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._head = b""
        self.write: Callable[[bytes], None] = self._write

    def expect_head(self) -> None:
        """A request has begun: what is written next may be its answer's head."""
        self.write = self._write

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _write(self, data: bytes) -> None:
        if self._head:
            head, self._head = self._head, b""
            self.write = self._transport.write
            self._transport.writelines((head, data))
        elif data.startswith(b"HTTP/1."):
            self._head = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def _flush(self) -> None:
        if self._head and not self._transport.is_closing():
            head, self._head = self._head, b""
            self.write = self._transport.write
            self._transport.write(head)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Protocol(HttpToolsProtocol):
    """uvicorn's own, on such a transport."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._one_write = _OneWrite(transport)
        super().connection_made(cast(asyncio.Transport, self._one_write))

    def on_message_begin(self) -> None:
        self._one_write.expect_head()
        super().on_message_begin()


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to `run`, which has more than one server to end in order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _server(listener: Listener) -> _Server:
    return _Server(
        uvicorn.Config(
            listener.app,
            uds=listener.path,
            loop="uvloop",
            http=_Protocol,
            lifespan="on" if listener.lifespan else "off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=max(1, round(listener.drain)),
            timeout_keep_alive=75,
        )
    )
