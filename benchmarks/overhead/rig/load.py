"""Put load on a target with `native/load_client.c`, and take the CPU time that the target spent on it."""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from rig import build, machine

HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer sk-1234"}
PROMPT = (
    "Please summarise the plan for the garden in a few short lines, then give the list of the tools that we need. "
    "The beds by the wall are dry, the path wants gravel, and the shed has a door that no longer shuts. "
) * 3


@dataclass(frozen=True, slots=True)
class Suite:
    """One kind of load. `requests` are counted, `warmup` more are not; no request begins after `seconds`."""

    name: str
    says: str
    model: str
    stream: bool
    concurrency: int
    requests: int
    warmup: int
    seconds: float


SUITES = (
    Suite("unary-1", "plain answers, one at a time", "mock", False, 1, 1000, 50, 4),
    Suite("unary-32", "plain answers, 32 at once", "mock", False, 32, 3200, 64, 4),
    Suite("stream-1", "streams of 200 tokens without delay, one at a time", "mock", True, 1, 100, 5, 4),
    Suite("stream-32", "streams of 200 tokens without delay, 32 at once", "mock", True, 32, 480, 8, 4),
    Suite("paced-8", "streams of 200 tokens, 5 ms apart, 8 at once", "mock-paced", True, 8, 24, 0, 4),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement. Times in microseconds; `cpu_us` is CPU of the target's process tree per request, and
    `tokens_per_cpu` (paced suites only) the stamped tokens, one event each when they leave the upstream, that it
    carried for each second of CPU. `unfinished` answers had not ended some seconds after the last was asked for."""

    requests: int
    failed: int
    unfinished: int
    rps: float
    p50: float
    p99: float
    first50: float
    lag50: float
    lag99: float
    events_per_second: float
    cpu_us: float
    tokens_per_cpu: float
    resident_mb: float
    load_average: float
    error: str


def body(model: str, *, stream: bool, prompt: str = PROMPT) -> bytes:
    """A chat completion request."""
    messages = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": prompt}]
    return json.dumps({"model": model, "messages": messages, "max_tokens": 200, "stream": stream}).encode()


def post(port: int, path: str, data: bytes, timeout: float = 30.0) -> http.client.HTTPResponse:
    """One request on a connection of its own; the caller reads the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    connection.request("POST", path, data, HEADERS)
    return connection.getresponse()


def try_once(port: int, path: str) -> int:
    """The status of one small request; 0 when nobody answers."""
    try:
        response = post(port, path, body("mock", stream=False))
        response.read()
    except (OSError, http.client.HTTPException):
        return 0
    return response.status


def measure(suite: Suite, port: int, path: str, pid: int, work: Path) -> Sample:
    """Run `suite` once against the server on `port` whose process is `pid`."""
    request = work / f"{suite.model}-{'stream' if suite.stream else 'plain'}.json"
    request.write_bytes(body(suite.model, stream=suite.stream))
    numbers = (suite.concurrency, suite.requests, suite.warmup, suite.seconds)
    command = [str(build.compiled("load_client")), str(port), path, *map(str, numbers), str(request)]
    before = machine.cpu_seconds(pid)
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=suite.seconds + 30)
    time.sleep(0.15)  # what a server writes after its answer (records, logs) is part of the answer's cost
    cpu = machine.cpu_seconds(pid) - before
    seen = json.loads(done.stdout)
    return Sample(
        requests=seen["requests"],
        failed=seen["failed"],
        rps=seen["rps"],
        p50=seen["p50"],
        p99=seen["p99"],
        first50=seen["first50"],
        lag50=seen["lag50"],
        lag99=seen["lag99"],
        unfinished=seen["unfinished"],
        events_per_second=seen["events"] / max(1e-9, seen["seconds"]),
        cpu_us=cpu * 1e6 / max(1, seen["sent"]),
        tokens_per_cpu=seen["tokens"] / max(1e-9, cpu),
        resident_mb=machine.resident_mb(pid),
        load_average=machine.load_average(),
        error=seen["error"],
    )
