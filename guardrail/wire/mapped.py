"""An app's own JSON API as a surface: where its texts stand is said by paths in the settings.

What no path names is screened all the same, so that a path that is wrong or missing lets nothing pass; only what
`ignore` names, and handles that read like handles, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from guardrail.core.content import Content, Direction, Path, Segment
from guardrail.core.surface import Ending, Event, Framing, Lane, Notice, Piece, Prompt
from guardrail.errors import MalformedRequest, MalformedResponse
from guardrail.wire import json, jsonl, sse, template
from guardrail.wire.errors import openai_error
from guardrail.wire.fields import is_handle
from guardrail.wire.jsonpath import JSONPath

_HANDLES = frozenset({"id", "type", "index", "role", "event", "model", "object", "created_at"})
_SHOWN = (0, "content")
_STOPPED = "content_filter"
_FRAMINGS = {
    "sse": sse.FRAMING,
    "jsonl": jsonl.FRAMING,
    "none": Framing(frozenset(), b"application/json", sse.Splitter),  # no stream is an answer of such a surface
}
Roles = dict[Path, tuple[str, bool]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the settings say about one surface: a path for each thing that the gateway has to know.

    `delta`, `finish`, `stream_if` and `end_user` name one place each. `error` and `closing` are templates that were
    read, or none for our own shapes.
    """

    surface: str
    path: str
    prompt: tuple[JSONPath, ...]
    context: tuple[JSONPath, ...] = ()
    answer: tuple[JSONPath, ...] = ()
    ignore: tuple[JSONPath, ...] = ()
    stream: Literal["none", "sse", "jsonl"] = "none"
    stream_if: JSONPath | None = None
    delta: tuple[JSONPath, ...] = ()
    finish: JSONPath | None = None
    terminator: str = ""
    end_user: JSONPath | None = None
    error: Any = None
    closing: Any = None
    member: bool = True


class Mapped:
    """The dialect of one such API. Offsets, lanes and endings are as for every other: the answer is one choice."""

    def __init__(self, layout: Layout) -> None:
        self._map = layout
        self.surface = layout.surface
        self.paths: tuple[str, ...] = (layout.path.rstrip("/") or "/",)
        self._lines = layout.stream == "jsonl"
        self.framing = _FRAMINGS[layout.stream]
        self._terminator = layout.terminator.encode()

    # -- the request ---------------------------------------------------------------------------------------------

    def read_prompt(self, body: bytes) -> Prompt:
        """Read a request body; raises `MalformedRequest`, also where no path of the prompt leads to a text."""
        request = json.decode(body)
        roles: Roles = {}
        if not _assign(roles, self._map.prompt, request, ("user", True)):
            paths = " or ".join(path.text for path in self._map.prompt)
            raise MalformedRequest(f"the body has no text at {paths}", param=self._map.prompt[0].text)
        _assign(roles, self._map.context, request, ("context", False))
        segments = []
        for path, text in self._texts(request, roles):
            role, latest = roles.get(path, ("other", False))
            segments.append(Segment(text, role, path, latest))
        asks = self._map.stream != "none"
        if asks and self._map.stream_if is not None:
            asks = any(value for _, value in self._map.stream_if.find(request))
        return Prompt(content=Content(Direction.PROMPT, tuple(segments)), stream=asks, end_user=self._end_user(request))

    def _end_user(self, request: Any) -> str | None:
        named = self._map.end_user.find(request) if self._map.end_user is not None else ()
        return next((value for _, value in named if isinstance(value, str) and value), None)

    def write_prompt(self, body: bytes, texts: Mapping[Path, str]) -> bytes:
        """The request with the texts at these paths changed and every other value as it came."""
        return json.replace(body, texts)

    # -- an answer that comes at once ----------------------------------------------------------------------------

    def read_reply(self, body: bytes) -> Event:
        """Read a whole answer; raises `MalformedResponse`."""
        answer = _decoded(body)
        roles: Roles = {}
        _assign(roles, self._map.answer, answer, ("", True))
        found = list(self._texts(answer, roles))
        # The answer's own texts stand together: what is split over two of them is one text.
        pieces = [Piece(_SHOWN, text, path) for path, text in found if path in roles]
        pieces += [Piece((0, "$", *path), text, path) for path, text in found if path not in roles]
        return Event(body, tuple(pieces), {0: "stop"}, last=True)

    def write_reply(
        self,
        event: Event,
        texts: Mapping[Path, str],
        stopped: Mapping[int, Ending],
        affixes: Mapping[int, str],
        member: bytes,
    ) -> bytes:
        """The answer with changed texts, the safe answer behind the clean part, the label and the `guardrail` object.

        An affix that begins with a line break goes behind the last of the answer's texts, another before the first.
        """
        changes: dict[Path, Any] = dict(texts)
        shown = [piece for piece in event.pieces if piece.lane == _SHOWN]
        ending = next(iter(stopped.values()), None)
        affix = affixes.get(0, "")
        if ending is not None and ending.answer and shown:
            at = shown[min(ending.piece, len(shown) - 1)]
            changes[at.path] = changes.get(at.path, at.text) + ending.answer
        if affix and shown:
            at = shown[-1] if affix.startswith("\n") else shown[0]
            said = changes.get(at.path, at.text)
            changes[at.path] = said + affix if affix.startswith("\n") else affix + said
        return self._marked(json.replace(event.raw, changes), member)

    # -- an answer that is streamed ------------------------------------------------------------------------------

    def read_event(self, raw: bytes) -> Event:
        """Read one event of a stream; raises `MalformedResponse` for one that cannot be understood."""
        payload = self._data(raw)
        if payload is None:
            return Event(raw)
        if self._terminator and payload.strip() == self._terminator:
            return Event(raw, last=True)
        value = _decoded(payload)
        finished = next((item for _, item in self._map.finish.find(value) if item), None) if self._map.finish else None
        pieces = tuple(self._pieces(value))
        if finished is None:
            return Event(raw, pieces)
        return Event(raw, pieces, {0: finished if isinstance(finished, str) else "stop"})

    def _pieces(self, value: Any) -> Iterator[Piece]:
        lanes: dict[Path, Lane] = {}
        for number, delta in enumerate(self._map.delta):
            for path, _ in delta.find(value):
                lanes.setdefault(path, _SHOWN if number == 0 else (0, "delta", number))
        for path, text in self._texts(value, lanes):
            yield Piece(lanes.get(path, (0, "$", *path)), text, path)

    def write_event(self, event: Event, texts: Mapping[Path, str]) -> bytes:
        """The event with the texts at these paths changed; its other lines (a name, an id) stay."""
        payload = self._data(event.raw)
        return event.raw if payload is None else self._event(json.replace(payload, texts), event.raw)

    def mark_event(self, raw: bytes, member: bytes) -> bytes:
        """The event with the `guardrail` object in it, if it is an object and may have one."""
        payload = self._data(raw)
        return raw if payload is None or not self._map.member else self._event(self._marked(payload, member), raw)

    def delta(self, like: bytes | None, choice: int, text: str) -> bytes:
        """A new event that adds `text`, with the fields of the upstream's own event `like` but none of its texts."""
        delta = self._map.delta[0]
        payload = self._data(like) if like else None
        if like and payload is not None:
            event = self.read_event(like)
            place = next((path for path, _ in delta.find(_decoded(payload))), None)
            if place is not None and not event.finished:
                changes = {piece.path: "" for piece in event.pieces}
                return self._event(json.replace(payload, {**changes, place: text}), sse.without_id(like))
        return self._event(json.encode(delta.holding(text)))

    def close(self, like: bytes | None, choices: Sequence[int], member: bytes) -> bytes:
        """The events that end a stream we stopped: the closing one of the settings, or ours, then the terminator."""
        return self._ending(_STOPPED, member)

    def _ending(self, reason: str, member: bytes) -> bytes:
        end = self._event(self._terminator) if self._terminator else b""
        if self._map.closing is not None and reason == _STOPPED:
            given = msgspec.json.decode(member)
            values = {**given, "code": reason, "guardrail": given}
            return self._event(json.encode(template.fill(self._map.closing, values))) + end
        if self._map.finish is None and not self._map.member:
            return end
        last = self._map.finish.holding(reason) if self._map.finish is not None else {}
        return self._event(self._marked(json.encode(last), member)) + end

    def note(self, like: bytes | None, member: bytes) -> bytes:
        """Where the upstream gave no end to ride on: a comment, which no client reads as an event of its own."""
        return b"" if self._lines or not self._map.member else sse.comment("guardrail " + member.decode())

    # -- answers of our own --------------------------------------------------------------------------------------

    def answer(self, prompt: Prompt, text: str, reason: str, ident: str, member: bytes) -> bytes:
        """A whole answer (or stream, if one was asked for) that we give in the app's place."""
        if prompt.stream:
            return self.delta(None, 0, text) + self._ending(reason, member)
        return self._marked(json.encode(self._map.answer[0].holding(text)), member)

    def error(self, notice: Notice) -> bytes:
        """An error body of the shape that the settings give, or of OpenAI's."""
        if self._map.error is None:
            return openai_error(notice)
        return json.encode(template.fill(self._map.error, template.of_notice(notice)))

    def stream_error(self, notice: Notice) -> bytes:
        """An error that breaks a stream already begun."""
        return self._event(self.error(notice))

    # -- texts and events ----------------------------------------------------------------------------------------

    def _texts(self, value: Any, named: Mapping[Path, object]) -> Iterator[tuple[Path, str]]:
        """Every text that is screened: those that are named, and of the others all that is neither ignored nor a
        handle."""
        ignored = {path for query in self._map.ignore for path, _ in query.find(value)}
        for path, text in json.strings(value, ()):
            if path not in named:
                if ignored and any(path[:length] in ignored for length in range(len(path) + 1)):
                    continue
                if path and path[-1] in _HANDLES and is_handle(text):
                    continue
            yield path, text

    def _data(self, raw: bytes) -> bytes | None:
        return jsonl.data(raw) if self._lines else sse.data(raw)

    def _event(self, payload: bytes, like: bytes = b"") -> bytes:
        return jsonl.event(payload) if self._lines else sse.event_like(payload, like)

    def _marked(self, body: bytes, member: bytes) -> bytes:
        if not self._map.member or not body.rstrip().endswith(b"}"):
            return body
        return json.add_member(body, "guardrail", member)


def _assign(roles: Roles, queries: Sequence[JSONPath], value: Any, role: tuple[str, bool]) -> bool:
    """Give `role` to every text that the queries name, or that stands below what they name; false if there is none."""
    found = False
    for query in queries:
        for path, item in query.find(value):
            found = found or isinstance(item, str)
            for below, _ in json.strings(item, path):
                found = True
                roles.setdefault(below, role)
    return found


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise MalformedResponse("the app's answer is not JSON") from None
