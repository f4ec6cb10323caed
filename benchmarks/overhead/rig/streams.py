"""One stream at a time: how late its first character comes, and how much leaks of a phrase that is to be blocked."""

from __future__ import annotations

import http.client
import json
import statistics
import time
from dataclasses import dataclass

from rig import load
from rig.ours import PHRASE

_MARK, _DIGITS = "zqx", 12


@dataclass(frozen=True, slots=True)
class Heard:
    """A stream as its reader saw it: its text, how it ended, how many seconds each stamped token was under way."""

    text: str
    ending: str
    lags: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class StreamReport:
    """`first_ms`: from the moment the upstream sent the first token to the moment its first character was there;
    `leaked`: how many characters of the phrase were delivered, of `len(PHRASE)`."""

    first_ms: float
    lag50_ms: float
    lag99_ms: float
    tokens: int
    leaked: int
    ending: str


def listen(port: int, path: str, model: str) -> Heard:
    """Read one stream. `ending` is the finish reason, `error event` or `cut`, whatever came last."""
    response = load.post(port, path, load.body(model, stream=True))
    text, ending, lags, buffer = "", "cut", [], b""
    pending = ""  # text since the last whole stamp: a proxy may cut a token in two
    if response.status != 200:
        response.read()
        return Heard("", f"status {response.status}", ())
    try:
        while piece := response.read1(65536):
            at = time.monotonic_ns()
            *events, buffer = (buffer + piece).replace(b"\r\n", b"\n").split(b"\n\n")
            for event in events:
                if not event.startswith(b"data: {"):
                    continue
                said = json.loads(event.removeprefix(b"data: "))
                if said.get("error"):
                    ending = "error event"
                for choice in (said.get("choices") or [])[:1]:
                    if choice.get("finish_reason"):
                        ending = choice["finish_reason"]
                    delta = (choice.get("delta") or {}).get("content") or ""
                    text += delta
                    pending += delta
            while (mark := pending.find(_MARK)) >= 0 and len(pending) >= mark + len(_MARK) + _DIGITS:
                stamp = 0
                for letter in pending[mark + len(_MARK) : mark + len(_MARK) + _DIGITS]:
                    stamp = stamp << 4 | (ord(letter) - ord("a"))
                lags.append(((at & 0xFFFFFFFFFFFF) - stamp) / 1e9)
                pending = pending[mark + len(_MARK) + _DIGITS :]
    except (OSError, http.client.HTTPException):
        ending = "cut"
    return Heard(text, ending, tuple(lags))


def leaked(text: str) -> int:
    """How many characters of the phrase are in `text`: all of it, or a beginning of it at the text's end."""
    lowered = text.lower()
    if PHRASE in lowered:
        return len(PHRASE)
    for length in range(len(PHRASE) - 1, 0, -1):
        # With the space before it: a stamp may end in a letter that the phrase begins with.
        if lowered.endswith(f" {PHRASE[:length]}"):
            return length
    return 0


def report(port: int, path: str, rounds: int) -> StreamReport:
    """Medians over `rounds` paced streams, after one that is not counted, and the worst leak seen in two."""
    listen(port, path, "mock-paced")
    heard = [listen(port, path, "mock-paced") for _ in range(rounds)]
    harmful = [listen(port, path, "mock-phrase") for _ in range(2)]
    firsts = [each.lags[0] for each in heard if each.lags]
    lags = sorted(lag for each in heard for lag in each.lags)
    return StreamReport(
        first_ms=statistics.median(firsts) * 1e3 if firsts else float("nan"),
        lag50_ms=lags[len(lags) // 2] * 1e3 if lags else float("nan"),
        lag99_ms=lags[int(len(lags) * 0.99)] * 1e3 if lags else float("nan"),
        tokens=min((len(each.lags) for each in heard), default=0),
        leaked=max(leaked(each.text) for each in harmful),
        ending=harmful[-1].ending,
    )
