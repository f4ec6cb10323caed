"""The answer's half of the line: take what the guarded app sends, screen it, release it, label it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope

from guardrail.core.content import Direction, Path
from guardrail.core.frontier import Channel, Cleared
from guardrail.core.policy import Action
from guardrail.core.surface import TOOL_ENDINGS, Ending, Event, Piece, Prompt
from guardrail.core.verdict import Verdict
from guardrail.errors import (
    DetectorError,
    GuardrailError,
    MalformedResponse,
    UpstreamError,
    UpstreamUnavailable,
    WireError,
)
from guardrail.gateway.evidence import safe_answer
from guardrail.gateway.screening import Screening
from guardrail.gateway.streaming import Affix, Relay, StreamStopped, framing_of
from guardrail.protocols import Dialect, Priority, Stream

if TYPE_CHECKING:
    from guardrail.gateway.exchange import Exchange

# Reading a member off its enum is a call in Python 3.11, and these are read for every answer.
_ALLOW, _COMPLETION, _WHOLE, _STREAM = Action.ALLOW, Direction.COMPLETION, Priority.PROMPT, Priority.STREAM


class Reply:
    """One answer. The guarded app runs in the caller's task, so that a stream that is cut can cancel it there."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._engine = exchange.engine
        dialect, prompt = exchange.dialect, exchange.prompt
        # `Following`: asking the protocol itself takes too long here.
        follow: Callable[[Prompt], Dialect] | None = getattr(dialect, "follow", None)
        self._dialect = follow(prompt) if follow is not None and prompt is not None else dialect
        self._start: Message | None = None
        self._begun = False  # whether our answer's headers have been sent
        self._passing = False  # the upstream's own error, which is no model's text
        self._parts: list[bytes] = []
        self._size = 0
        self._relay: Relay | None = None
        self._screening: Screening | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelled = False
        self._failure: GuardrailError | None = None
        self._opaque = False  # bytes that the settings let pass as they are
        self._ended = False  # whether the stream's end has been dealt with

    async def run(self, app: ASGIApp, scope: Scope, receive: Receive) -> None:
        """Run the app and answer with what it makes of the request."""
        self._task = asyncio.current_task(self._engine.late_bodies.loop)
        try:
            await app(scope, receive, self._take)
        except asyncio.CancelledError:
            ours = self._cancelled or (self._engine.draining and not self._ended)
            if not ours or self._task is None:
                self._let_go()
                raise
            self._task.uncancel()
            if not self._cancelled:  # the server's patience with running answers has ended: the client is told
                self._failure = UpstreamUnavailable("the proxy is being stopped")
        except (UpstreamError, WireError) as error:
            self._failure = self._failure or error
        except Exception:
            # What the app made of our cut, or of our failure, is no error of its own; anything else is.
            if not self._told_to_stop:
                self._let_go()
                raise
        finally:
            self._task = None
        if self._ended:
            return
        if self._failure is None:
            await self._end()
        elif self._begun:
            await self._break_off(self._failure)
        else:
            self._let_go()
            raise self._failure

    # -- what the app sends --------------------------------------------------------------------------------------

    async def _take(self, message: Message) -> None:
        """The app's `send`. A failure of ours is kept for `run` to answer: within the app it would look like its own.

        Raises `StreamStopped` when nothing more is wanted.
        """
        relay = self._relay
        if self._failure is not None or self._ended or (relay is not None and relay.stopped):
            raise StreamStopped("the answer was stopped")
        try:
            if relay is not None and message.get("more_body") and message.get("body"):
                await relay.take(message["body"])
            elif message["type"] == "http.response.body":
                await self._take_body(message.get("body", b""), message.get("more_body", False))
            elif message["type"] == "http.response.start":
                self._start = message
                await self._choose(message)
            else:
                raise MalformedResponse("the guarded app sent a message that is no part of an answer")
        except GuardrailError as error:
            self._failure = error
            raise StreamStopped("the answer was stopped") from error

    @property
    def _told_to_stop(self) -> bool:
        return self._failure is not None or (self._relay is not None and self._relay.stopped)

    async def _take_body(self, body: bytes, more: bool) -> None:
        if self._opaque:
            self._ended = not more
            await self._exchange.send({"type": "http.response.body", "body": body, "more_body": more})
            if not more:
                self._exchange.outcome = "allowed"
            return
        if self._relay is not None:
            if body:
                await self._relay.take(body)
            if not more:
                # At once, not when the app returns: what it does in the background is no part of its answer.
                await self._end()
            return
        self._size += len(body)
        if self._size > self._engine.options.max_response:
            raise MalformedResponse("the upstream's answer is larger than accepted")
        if body:
            self._parts.append(body)
        if not more and self._start is not None:
            await self._whole(self._parts[0] if len(self._parts) == 1 else b"".join(self._parts))

    async def _choose(self, start: Message) -> None:
        headers = dict(start["headers"])
        encoding = headers.get(b"content-encoding")
        media = headers.get(b"content-type", b"").split(b";", 1)[0].strip().lower()
        if encoding and encoding.lower() != b"identity":
            raise MalformedResponse("the upstream's answer is compressed and cannot be screened")
        if start["status"] >= 400:
            self._passing = True
        elif media in framing_of(self._exchange.dialect).media:
            await self._begin_stream(start)
        elif self._exchange.media == "audio" and (media.startswith(b"audio/") or media == b"application/octet-stream"):
            await self._begin_opaque(start)
        elif media != b"application/json":
            raise MalformedResponse("the upstream's answer is neither JSON nor a stream as its surface has it")

    def _screen(self, priority: Priority) -> Screening:
        exchange, engine = self._exchange, self._engine
        plan = engine.plan(_COMPLETION, exchange.dialect.surface, exchange.subject.tenant)
        streamed = priority is _STREAM
        on_answer = self._answered if streamed else None
        self._screening = Screening(plan, _COMPLETION, priority, engine.metrics, on_answer)
        exchange.screenings.append(("stream" if streamed else "completion", self._screening))
        return self._screening

    # -- an answer that comes at once ----------------------------------------------------------------------------

    async def _whole(self, body: bytes) -> None:
        exchange, dialect = self._exchange, self._dialect
        assert self._start is not None
        if self._passing:
            await self._pass_error(body)
            return
        started = perf_counter()
        event = dialect.read_reply(body)
        screening = self._screen(_WHOLE)
        shown, ends = _joined(event.pieces)
        await screening.look_at(shown)
        channels = screening.channels
        rest = {channel.segment: (0, text) for text, channel in zip(shown, channels, strict=True)}
        verdict = await self._judge(screening, rest)
        texts: dict[Path, str] = {}
        stopped: dict[int, Ending] = {}
        affixes: dict[int, str] = {}
        if verdict.action is _ALLOW and self._engine.labeller.position == "none":
            exchange.completion_length = screening.length
        else:
            texts, stopped, affixes = self._changes(event, [(channels[number], end) for number, end in ends], verdict)
        exchange.labelled = exchange.media != "vector"
        out = dialect.write_reply(event, texts, stopped, affixes, exchange.member(labelled=exchange.labelled))
        exchange.overhead += perf_counter() - started
        await self._send_start([*self._kept_headers(), (b"content-length", b"%d" % len(out))])
        await exchange.send({"type": "http.response.body", "body": out})
        self._done(verdict)

    def _changes(
        self, event: Event, ends: Sequence[tuple[Channel | Cleared, int]], verdict: Verdict
    ) -> tuple[dict[Path, str], dict[int, Ending], dict[int, str]]:
        """What a whole answer becomes: changed texts by path, and by choice how it ends and its label."""
        if verdict.stops and not verdict.deciding:
            raise DetectorError("the answer could not be screened")
        texts: dict[Path, str] = {}
        stopped: dict[int, Ending] = {}
        shown: dict[int, list[str]] = {}
        for number, (piece, (channel, end)) in enumerate(zip(event.pieces, ends, strict=True)):
            choice = int(piece.lane[0])
            text = channel.take(end)
            self._exchange.completion_length += len(text)
            if text != piece.text:
                texts[piece.path] = text
            if channel.cut is not None and (channel.taken < end or end == channel.received):
                stopped.setdefault(choice, Ending(self._closing_words(verdict), number))
            if piece.lane[1:] == ("content",):
                shown.setdefault(choice, []).append(text)
        return texts, stopped, self._affixes(shown, event.finished)

    async def _pass_error(self, body: bytes) -> None:
        """Give the client the upstream's own error, if it is one that clients of this surface can read."""
        assert self._start is not None
        exchange = self._exchange
        media = dict(self._start["headers"]).get(b"content-type", b"").split(b";", 1)[0].strip().lower()
        exchange.outcome = "upstream_error"
        if media == b"application/json":
            self._engine.metrics.bypassed("upstream_error")
            await self._send_start([*self._kept_headers(), (b"content-length", b"%d" % len(body))])
            await exchange.send({"type": "http.response.body", "body": body})
        else:
            await exchange.answer_notice(exchange.notice(self._start["status"], "bad_upstream_response"))
        self._begun = True

    async def _begin_opaque(self, start: Message) -> None:
        """Let bytes pass as they come: sound, where the settings say so."""
        self._opaque = self._exchange.labelled = True
        length = [item for item in start["headers"] if item[0] == b"content-length"]
        await self._send_start([*self._kept_headers(), *length])

    # -- an answer that is streamed ------------------------------------------------------------------------------

    async def _begin_stream(self, start: Message) -> None:
        exchange = self._exchange
        assert exchange.prompt is not None
        exchange.streamed = exchange.labelled = True
        stream: Callable[[], Stream] | None = getattr(self._dialect, "stream", None)
        self._relay = Relay(
            self._dialect if stream is None else stream(),
            self._screen(_STREAM),
            self._emit,
            choices=exchange.prompt.choices,
            member=self._member,
            affix=self._affix(),
            max_held=self._engine.options.max_held,
            keepalive=self._engine.options.keepalive,
        )
        await self._send_start(self._kept_headers())

    async def _emit(self, data: bytes) -> None:
        await self._exchange.send({"type": "http.response.body", "body": data, "more_body": True})

    def _member(self) -> bytes:
        assert self._screening is not None
        self._exchange.action = max(self._exchange.action, self._screening.verdict.action)
        return self._exchange.member(labelled=True)

    async def _answered(self) -> None:
        """A detector answered while the stream goes on; if that cuts it, stop the app where it waits."""
        assert self._relay is not None
        await self._relay.answered()
        if self._relay.stopped and self._task is not None and not (self._cancelled or self._ended):
            self._cancelled = True
            self._task.cancel()

    async def _end(self) -> None:
        """The stream has ended or was cut: send what is left, and close it."""
        self._ended = True
        relay, screening, exchange = self._relay, self._screening, self._exchange
        if relay is None:
            if not self._begun:
                raise MalformedResponse("the upstream gave no answer")
            return
        assert screening is not None
        try:
            if not relay.stopped:
                await relay.finish()
            verdict = await self._judge(screening, screening.rest())
            if relay.stopped:
                await relay.close(self._closing_words(verdict))
        except GuardrailError as error:
            await self._break_off(error)
            return
        finally:
            relay.let_go()
        await exchange.send({"type": "http.response.body", "body": b""})
        self._engine.metrics.stream_held(relay.held_seconds)
        exchange.completion_length = relay.released
        for _ in range(relay.unlabelled):
            self._engine.metrics.label_missing("code")
        self._done(verdict)

    async def _break_off(self, error: GuardrailError) -> None:
        """The upstream, or we, failed in mid-stream: nothing uncleared leaves, and the client is told."""
        exchange = self._exchange
        status, code = 503, "screening_unavailable"
        if isinstance(error, UpstreamError | WireError):
            status, code = error.status, error.code
        exchange.outcome = code
        self._let_go()
        if self._opaque:
            return  # words within a sound are noise: the connection that breaks says it
        notice = exchange.notice(status, code)
        await exchange.send({"type": "http.response.body", "body": self._dialect.stream_error(notice)})

    def _let_go(self) -> None:
        if self._relay is not None:
            self._relay.let_go()
            self._exchange.completion_length = self._relay.released
        if self._screening is not None:
            self._screening.cancel()

    # -- verdict and labels --------------------------------------------------------------------------------------

    async def _judge(self, screening: Screening, rest: dict[int, tuple[int, str]]) -> Verdict:
        """Draw the verdict; a stop is on record before the client learns of it."""
        exchange = self._exchange
        verdict = screening.draw()
        exchange.action = max(exchange.action, verdict.action)
        if verdict.action is not _ALLOW or verdict.matches:
            incident = exchange.evidence(verdict, Direction.COMPLETION, rest, screening.length)
            if verdict.stops:
                await self._engine.store.refuse(incident)
                if not verdict.deciding:
                    self._engine.metrics.failed_closed("detector")
            else:
                self._engine.store.note(incident)
        return verdict

    def _closing_words(self, verdict: Verdict) -> str:
        return safe_answer(verdict, self._exchange.language) if verdict.action is Action.ANSWER else ""

    def _affix(self) -> Affix | None:
        labeller, prompt = self._engine.labeller, self._exchange.prompt
        if labeller.position == "none" or prompt is None:
            return None
        if prompt.structured:
            self._engine.metrics.label_missing("structured")
            return None
        return Affix(labeller.position, labeller.affix(self._exchange.language), labeller.eye)

    def _affixes(self, shown: Mapping[int, Sequence[str]], finished: Mapping[int, str]) -> dict[int, str]:
        """The visible label of each choice that may have one, for the texts that are shown."""
        affix, found = self._affix(), dict[int, str]()
        if affix is None:
            return found
        for choice, texts in shown.items():
            eye = affix.eye()
            for text in texts:
                eye.see(text)
            if eye.allows_label and finished.get(choice) not in TOOL_ENDINGS:
                found[choice] = affix.text
            else:
                self._engine.metrics.label_missing("code")
        return found

    def _done(self, verdict: Verdict) -> None:
        self._exchange.outcome = "cut" if verdict.stops else "allowed"

    # -- headers -------------------------------------------------------------------------------------------------

    def _kept_headers(self) -> list[tuple[bytes, bytes]]:
        assert self._start is not None
        dropped = (b"content-length", b"transfer-encoding", b"x-request-id", b"connection", b"keep-alive")
        return [item for item in self._start["headers"] if item[0] not in dropped]

    async def _send_start(self, headers: list[tuple[bytes, bytes]]) -> None:
        assert self._start is not None
        exchange, labeller = self._exchange, self._engine.labeller
        headers += exchange.our_headers()
        if self._engine.options.label_headers and exchange.labelled:
            headers += [(b"ai-generated", b"1"), (b"aigc", labeller.header(exchange.aigc))]
        self._begun = exchange.begun = True
        await exchange.send({"type": "http.response.start", "status": self._start["status"], "headers": headers})


def _joined(pieces: Sequence[Piece]) -> tuple[list[str], list[tuple[int, int]]]:
    """The texts that the pieces of a whole answer make; for each piece the number of its text and where it ends."""
    texts: list[list[str]] = []
    ends: list[tuple[int, int]] = []
    lane, length = None, 0
    for piece in pieces:
        if piece.lane != lane:
            texts.append([])
            lane, length = piece.lane, 0
        texts[-1].append(piece.text)
        length += len(piece.text)
        ends.append((len(texts) - 1, length))
    return [parts[0] if len(parts) == 1 else "".join(parts) for parts in texts], ends
