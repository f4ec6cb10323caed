"""Relay a streamed answer: hold each event until every text in it is cleared, then send it on as it came.

Events leave in the order in which they came. One whose texts are unchanged leaves byte for byte; only a text that is
cut or redacted makes us write an event anew.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import NamedTuple, cast

from guardrail.core.content import Path
from guardrail.core.frontier import Channel
from guardrail.core.surface import TOOL_ENDINGS, Event, Framing, Lane, Piece
from guardrail.errors import MalformedResponse
from guardrail.gateway.screening import Screening
from guardrail.protocols import CodeEye, Retelling, Staged, Stream
from guardrail.wire import sse

Emit = Callable[[bytes], Awaitable[None]]


def framing_of(dialect: Stream) -> Framing:
    """How a dialect's streams are cut into events: as server-sent events, unless it says otherwise (`Framed`)."""
    framing: Framing = getattr(dialect, "framing", sse.FRAMING)
    return framing


class StreamStopped(ConnectionAbortedError):
    """Raised into the guarded app's `send` when its stream was cut: an `OSError`, as when a client leaves."""


class _Held(NamedTuple):
    """An event that waits, and where each of its pieces ends in its lane's text."""

    event: Event
    ends: tuple[tuple[Piece, Channel, int], ...]
    at: float


@dataclass(slots=True)
class Affix:
    """The visible label of a stream: where it goes and what it says."""

    position: str
    text: str
    eye: Callable[[], CodeEye]
    eyes: dict[int, CodeEye] = field(default_factory=dict)
    placed: set[int] = field(default_factory=set)


class Relay:
    """One streamed answer on its way through."""

    def __init__(
        self,
        dialect: Stream,
        screening: Screening,
        emit: Emit,
        *,
        choices: int,
        member: Callable[[], bytes],
        affix: Affix | None,
        max_held: int,
        keepalive: float,
    ) -> None:
        self.stopped = False
        self.released = 0
        self.held_seconds = 0.0
        self._dialect = dialect
        # Asking the protocols themselves takes longer than twenty events do.
        self._staged = cast(Staged, dialect) if hasattr(dialect, "sent") else None
        self._retelling = cast(Retelling, dialect) if hasattr(dialect, "tell") else None
        self._screening = screening
        self._emit = emit
        self._choices = choices
        self._member = member
        self._affix = affix
        self._max_held = max_held
        framing = framing_of(dialect)
        self._splitter = framing.splitter()
        self._comment = framing.keepalive
        self._lanes: dict[Lane, Channel] = {}
        self._whole: list[Channel] = []  # of lanes that have ended, while anything may still come of them
        self._orders: set[Lane] = set()  # the lanes, those of one tool call as one
        self._queue: deque[_Held] = deque()
        self._run: tuple[Channel, list[str]] | None = None  # consecutive text of one lane, scanned at once
        self._run_length = 0
        self._open: set[int] = set()
        self._finished: set[int] = set()
        self._begun: set[int] = set()  # choices whose text has begun, for a label in front of it
        self._like: bytes | None = None
        self._marked = False
        self._over = False
        self._lock = asyncio.Lock()
        self._keepalive = keepalive
        self._sent_at = perf_counter()
        self._timer = asyncio.get_running_loop().call_later(keepalive, self._tick)
        self._ticking: asyncio.Task[None] | None = None

    # -- what the guarded app sends ------------------------------------------------------------------------------

    async def take(self, data: bytes) -> None:
        """Take bytes of the upstream's stream and send on what is cleared; raises `StreamStopped`, `WireError`."""
        await self._lock.acquire()
        try:
            for raw in self._splitter.feed(data):
                self._read(raw)
            if self._run is not None:
                self._end_run()
            self._screening.dispatch()
            await self._flush()
        finally:
            self._lock.release()
        if self._queue:
            while not self.stopped and self._held_characters() > self._max_held and self._screening.pending:
                await self._screening.progress()
        if self.stopped:
            raise StreamStopped("the stream was cut")

    async def answered(self) -> None:
        """A detector answered: more may leave now. Sets `stopped` when the answer cuts the stream."""
        async with self._lock:
            if not self.stopped:
                await self._flush()

    async def finish(self) -> None:
        """The upstream's stream has ended: wait for what is owed and send the rest; sets `stopped` if that cuts it."""
        async with self._lock:
            rest = self._splitter.finish()
            if rest:
                self._read(rest)
            self._end_run()
            self._end_lanes(None)
            self._screening.dispatch()
        await self._screening.settled()
        async with self._lock:
            await self._flush()
            if self._queue and not self.stopped:
                raise MalformedResponse("the upstream sent text after it had finished that text")
            if not self.stopped and not self._marked:
                self._marked = True
                await self._send(b"".join([*self._last_affixes(), self._dialect.note(self._like, self._member())]))

    # -- when it is cut ------------------------------------------------------------------------------------------

    async def close(self, answer: str) -> None:
        """Send the clean part that is left, `answer` behind it, and the events that end the surface's stream."""
        async with self._lock:
            self._screening.cancel()
            out = self._clean_rest()
            choices = sorted(self._open - self._finished) or [0]
            for choice in choices:
                if answer:
                    out.append(self._dialect.delta(self._like, choice, answer))
                    if self._retelling is not None:
                        answer = ""  # its choices are the texts of one answer
                out += self._affix_events(choice)
            out.append(self._dialect.close(self._like, choices, self._member()))
            await self._send(b"".join(out))

    def _clean_rest(self) -> list[bytes]:
        out: list[bytes] = []
        if self._retelling is not None:
            for held in self._releasable():
                self._release(held, out)  # what came before the cut leaves as if it had come by itself
        for held in self._queue:
            taken = [(piece, channel.take(end)) for piece, channel, end in held.ends]
            for piece, text in taken:
                self.released += len(text)
                self._see(piece, text)
            if held.event.finished or held.event.last:
                # The ending is ours to write; only the text that came with it may go.
                out += [
                    self._dialect.delta(self._like, int(piece.lane[0]), text)
                    for piece, text in taken
                    if text and piece.lane[1:] == ("content",)
                ]
                break
            texts = {piece.path: text for piece, text in taken if text != piece.text}
            if not texts or any(texts.values()):
                out.append(self._written(held.event, texts))
                self._note_sent(held.event)
            if any(channel.taken < end for _, channel, end in held.ends):
                break
        self._queue.clear()
        return out

    def let_go(self) -> None:
        """Stop the keep-alive clock; the stream is over."""
        self._timer.cancel()
        if self._ticking is not None:
            self._ticking.cancel()

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._keepalive, self._tick)
        quiet = perf_counter() - self._sent_at >= self._keepalive
        if self._comment and self._queue and quiet and not self._lock.locked():
            self._ticking = asyncio.create_task(self._send_comment())

    async def _send_comment(self) -> None:
        async with self._lock:
            if not self.stopped:
                await self._send(self._comment)

    async def _send(self, data: bytes) -> None:
        if data:  # a dialect may have no way to say something
            self._sent_at = perf_counter()
            await self._emit(data)

    # -- reading -------------------------------------------------------------------------------------------------

    def _read(self, raw: bytes) -> None:
        if self._over:
            return  # nothing comes after the surface's own end
        event = self._dialect.read_event(raw)
        ends: list[tuple[Piece, Channel, int]] = []
        for piece in event.pieces:
            channel = self._lanes.get(piece.lane)
            if channel is None:
                channel = self._lanes[piece.lane] = self._screening.channel()
                self._orders.add(_order(piece.lane))
                self._end_name(piece.lane)
                self._open.add(int(piece.lane[0]))
            if self._run is None or self._run[0] is not channel:
                self._end_run()
                self._run = (channel, [])
                self._run_length = channel.received
            self._run[1].append(piece.text)
            self._run_length += len(piece.text)
            ends.append((piece, channel, self._run_length))
        for lane in event.ended:
            self._end_lane(lane)
        if self._like is None and event.pieces:
            self._like = raw
        if event.finished or event.last:
            self._end_run()
            if event.last:
                self._over = True
            self._end_lanes(None if event.last else event.finished)
        self._queue.append(_Held(event, tuple(ends), perf_counter()))

    def _end_name(self, lane: Lane) -> None:
        """A call's name is whole once its arguments begin: what ends like the beginning of a phrase waits no longer."""
        if lane[1] == "tool_calls" and lane[-1] == "arguments":
            name = self._lanes.get((*lane[:-1], "name"))
            if name is not None:
                self._end_run()
                self._screening.feed(name, "", last=True)

    def _end_run(self) -> None:
        if self._run is not None:
            channel, texts = self._run
            self._run = None
            self._screening.feed(channel, texts[0] if len(texts) == 1 else "".join(texts))
            if self._staged is not None and channel.cut is not None and not self._over:
                self._over = True  # what comes after it will not leave, and what is found there is not to be judged
                self._end_lanes(None)  # nor can it become a part of what waits before the cut

    def _end_lane(self, begins: Lane) -> None:
        """The texts of the lanes that begin so are whole: what comes there later is another text."""
        self._end_run()
        for lane in [lane for lane in self._lanes if lane[: len(begins)] == begins]:
            channel = self._lanes.pop(lane)
            self._screening.feed(channel, "", last=True)
            self._whole.append(channel)

    def _end_lanes(self, choices: Mapping[int, str] | None) -> None:
        for lane, channel in self._lanes.items():
            if choices is None or lane[0] in choices:
                self._screening.feed(channel, "", last=True)

    # -- releasing -----------------------------------------------------------------------------------------------

    async def _flush(self) -> None:
        for channel in self._lanes.values() if self._staged is None else ():
            if channel.cut is not None:
                self.stopped = True
                return
        if self._whole:
            if self._staged is None and any(channel.cut is not None for channel in self._whole):
                self.stopped = True
                return
            self._whole = [c for c in self._whole if not c.settled or c.taken < c.received]
        out: list[bytes] = []
        now = perf_counter()
        for held in self._releasable():
            if now - held.at > self.held_seconds and held.ends:
                self.held_seconds = now - held.at
            self._release(held, out)
        if out:
            self._sent_at = now
            await self._emit(out[0] if len(out) == 1 else b"".join(out))
        if self._staged is not None and self._queue:
            # What waits before the cut is owed its own answer first: where it ends must not depend on what came when.
            ends = self._queue[0].ends
            self.stopped = any(channel.cut is not None and channel.clear < end for _, channel, end in ends)

    def _written(self, event: Event, texts: Mapping[Path, str] | None) -> bytes:
        """The event with the texts at these paths changed."""
        if self._retelling is not None:
            return self._retelling.tell(event, {**{piece.path: piece.text for piece in event.pieces}, **(texts or {})})
        return self._dialect.write_event(event, texts) if texts else event.raw

    def _releasable(self) -> Sequence[_Held]:
        """Take from the queue what may leave now: in order, but for texts that wait for nothing of their own.

        A reasoning text that ends like the beginning of a phrase must wait for its end; the answer behind it need not.
        The parts of one tool call stay in order.
        """
        found: list[_Held] = []
        if self._staged is not None or len(self._orders) < 2:  # one text: nothing can overtake anything
            while self._queue and self._ready(self._queue[0]):
                found.append(self._queue.popleft())
            return found
        kept: list[_Held] = []
        blocked: set[Lane] = set()
        while self._queue:
            held = self._queue.popleft()
            orders = {_order(piece.lane) for piece, _, _ in held.ends}
            ends = bool(held.event.finished) or held.event.last
            if (ends and kept) or orders & blocked or not self._ready(held):
                kept.append(held)
                blocked |= orders
                if ends or len(blocked) == len(self._orders):
                    break
            else:
                found.append(held)
        self._queue.extendleft(reversed(kept))
        return found

    def _ready(self, held: _Held) -> bool:
        for _, channel, end in held.ends:
            if channel.clear < end:
                return False
        if held.event.finished or held.event.last:
            return not any(
                channel.waiting or channel.clear < channel.received
                for lane, channel in self._lanes.items()
                if held.event.last or lane[0] in held.event.finished
            )
        return True

    def _release(self, held: _Held, out: list[bytes]) -> None:
        event = held.event
        texts: dict[Path, str] | None = None
        for piece, channel, end in held.ends:
            text = channel.take(end)
            self.released += len(text)
            if self._affix is not None:
                self._see(piece, text)
            if text != piece.text:
                texts = texts or {}
                texts[piece.path] = text
        affix = self._affix
        if affix is None and not (texts or event.finished or event.last or event.step) and self._retelling is None:
            out.append(event.raw)  # nearly every event
            return
        # A retelling stream is given the label first: what it tells again has to have it.
        raw = self._written(event, texts) if self._retelling is None else b""
        if affix is not None and affix.position == "start":
            for piece, _, _ in held.ends:
                choice = int(piece.lane[0])
                if piece.lane[1:] == ("content",) and choice not in affix.placed and choice not in self._begun:
                    self._begun.add(choice)
                    if affix.eyes[choice].allows_label:
                        affix.placed.add(choice)
                        if event.step:  # it opens what the text stands in: there is no place before it
                            texts = {
                                **(texts or {}),
                                piece.path: affix.text + (texts or {}).get(piece.path, piece.text),
                            }
                            raw = self._dialect.write_event(event, texts)
                        else:
                            out.append(self._dialect.delta(event.raw, choice, affix.text))
        if event.finished:
            self._finished.update(event.finished)
            for choice, reason in event.finished.items():
                if reason not in TOOL_ENDINGS:
                    out += self._affix_events(choice)
        if self._retelling is not None:
            raw = self._written(event, texts)
        if event.closing or (event.finished and 0 < self._choices <= len(self._finished)):
            if not self._marked:
                self._marked = True
                raw = self._dialect.mark_event(raw, self._member())
        elif event.last and not self._marked:
            self._marked = True
            out += self._last_affixes()
            out.append(self._dialect.note(self._like, self._member()))
        out.append(raw)
        if event.step:
            self._note_sent(event)

    def _note_sent(self, event: Event) -> None:
        if self._staged is not None and event.step:
            self._staged.sent(event.step)

    def _see(self, piece: Piece, text: str) -> None:
        if self._affix is not None and piece.lane[1:] == ("content",):
            choice = int(piece.lane[0])
            eye = self._affix.eyes.get(choice)
            if eye is None:
                eye = self._affix.eyes[choice] = self._affix.eye()
            eye.see(text)

    @property
    def unlabelled(self) -> int:
        """Choices that a visible label was meant for and could not be put on."""
        return len(self._affix.eyes.keys() - self._affix.placed) if self._affix is not None else 0

    def _affix_events(self, choice: int) -> list[bytes]:
        affix = self._affix
        if affix is None or affix.position != "end" or choice in affix.placed:
            return []
        eye = affix.eyes.get(choice)
        if eye is None or not eye.allows_label:
            return []
        affix.placed.add(choice)
        return [self._dialect.delta(self._like, choice, affix.text)]

    def _last_affixes(self) -> list[bytes]:
        """The labels of choices that the upstream never said were finished, at the end of its stream."""
        if self._affix is None or self._staged is not None:
            return []
        return [event for choice in sorted(self._open - self._finished) for event in self._affix_events(choice)]

    def _held_characters(self) -> int:
        return sum(channel.received - channel.taken for channel in (*self._lanes.values(), *self._whole))


def _order(lane: Lane) -> Lane:
    """What a lane keeps in order with: its tool call, or itself."""
    return lane[:3] if lane[1] == "tool_calls" else lane
