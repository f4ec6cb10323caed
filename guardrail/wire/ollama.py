"""Ollama's `/api/chat` and `/api/generate`, plain and streamed (its default): which texts a body holds, and back.

Fields follow Ollama's API reference (docs/api.md of its repository). A field that it does not name is screened as text
if it holds any. What no text can be read from is refused: pictures, and token ids in place of text (`context`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from guardrail.core.content import Content, Direction, Path, Segment
from guardrail.core.surface import Ending, Event, Framing, Notice, Piece, Prompt, Screened
from guardrail.errors import MalformedRequest, MalformedResponse, Unreadable
from guardrail.wire import json, jsonl
from guardrail.wire.errors import details
from guardrail.wire.ollama_fields import (
    CALLS,
    HANDLE,
    changes_of,
    decoded,
    message_segments,
    no_images,
    standing_at,
    texts_in,
    unspelled,
    value_of,
    without_calls,
)

_NO_PROMPT = frozenset({"model", "options", "keep_alive", "messages", "context", "images"})  # read apart, or no text
_OPERATORS = frozenset({"system", "template", "tools", "format"})
_NO_REPLY = frozenset({"logprobs", "context"})  # they spell the text again, and go where it goes
_STOPPED = "content_filter"
_TOOLS = (
    "tools[].function.name",
    "tools[].function.description",
    "tools[].function.parameters.properties.*",
    "format.properties.*",
)
_BLOCKED = "the clean part, then `done` with `done_reason` `content_filter`"
_CHOICE = 0
_SHOWN = (_CHOICE, "content")


class _Message(msgspec.Struct, forbid_unknown_fields=True):
    content: str
    role: str = ""


class _ChatLine(msgspec.Struct, forbid_unknown_fields=True):
    """What nearly every line of a stream is: a stretch of text and nothing else that could hold any."""

    message: _Message
    model: str = ""
    created_at: str = ""
    done: bool = False

    @property
    def said(self) -> tuple[str, str]:
        """The text, and all else that is text."""
        return self.message.content, self.model + self.created_at + self.message.role


class _GenerateLine(msgspec.Struct, forbid_unknown_fields=True):
    """The same of `/api/generate`."""

    response: str
    model: str = ""
    created_at: str = ""
    done: bool = False

    @property
    def said(self) -> tuple[str, str]:
        """The text, and all else that is text."""
        return self.response, self.model + self.created_at


class _Ollama(ABC):
    """What both surfaces have in common. `text` is where an answer's text stands in its body."""

    surface: str
    paths: tuple[str, ...]
    framing: Framing = jsonl.FRAMING
    text: Path
    _line: Callable[[bytes], _ChatLine | _GenerateLine]

    # -- the request ---------------------------------------------------------------------------------------------

    def read_prompt(self, body: bytes) -> Prompt:
        """Read a request body; raises `MalformedRequest` or, for what cannot be screened, `Unreadable`."""
        request = json.decode(body)
        if not isinstance(request, dict):
            raise MalformedRequest("the body is not a JSON object")
        stream = request.get("stream")
        if stream is not None and type(stream) is not bool:
            raise MalformedRequest("stream: expected true or false", param="stream")
        no_images(request, ())
        if request.get("context"):
            raise Unreadable(
                "context: token ids cannot be screened; send the conversation as messages of /api/chat", param="context"
            )
        return Prompt(
            content=Content(Direction.PROMPT, tuple(self._segments(request))),
            stream=stream is not False,
            structured=bool(request.get("format")),
            tools=bool(request.get("tools")),
        )

    def _segments(self, request: dict[str, Any]) -> Iterator[Segment]:
        yield from message_segments(request.get("messages"))
        for key, value in request.items():
            if key not in _NO_PROMPT:
                role = "system" if key in _OPERATORS else "user"
                for path, text in texts_in(value, (key,)):
                    yield Segment(text, role, path, key in ("prompt", "suffix"))

    def write_prompt(self, body: bytes, texts: Mapping[Path, str]) -> bytes:
        """The request with the texts at these paths changed and every other value as it came."""
        return json.replace(body, {path: value_of(path, text, {}) for path, text in texts.items()})

    # -- an answer that comes at once ----------------------------------------------------------------------------

    def read_reply(self, body: bytes) -> Event:
        """Read a whole answer; raises `MalformedResponse`."""
        answer = decoded(body, self.text[0])
        return Event(body, tuple(self._pieces(answer)), {_CHOICE: str(answer.get("done_reason") or "stop")}, last=True)

    def write_reply(
        self,
        event: Event,
        texts: Mapping[Path, str],
        stopped: Mapping[int, Ending],
        affixes: Mapping[int, str],
        member: bytes,
    ) -> bytes:
        """The answer with changed texts, its end where it was stopped, its label and the `guardrail` object.

        `affixes` is as for other dialects: text that begins with a line break goes behind, other text in front.
        """
        body = event.raw
        if texts or stopped or affixes:
            answer = msgspec.json.decode(body)
            changes = changes_of(texts)
            content = changes.get(self.text, standing_at(answer, self.text)) or ""
            for ending in stopped.values():
                content += ending.answer
                changes |= {("done",): True, ("done_reason",): _STOPPED}
                if standing_at(answer, CALLS) is not None:
                    changes = without_calls(changes)
            affix = affixes.get(_CHOICE)
            if affix is not None:
                content = content + affix if affix.startswith("\n") else affix + content
            if content != (standing_at(answer, self.text) or ""):
                changes[self.text] = content
            if texts or stopped:
                changes |= unspelled(answer)
            body = json.replace(body, changes)
        return json.add_member(body, "guardrail", member)

    # -- an answer that is streamed ------------------------------------------------------------------------------

    def read_event(self, raw: bytes) -> Event:
        """Read one line of a stream; raises `MalformedResponse` for one that cannot be understood."""
        try:
            line = self._line(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return self._read_any(raw)
        text, handles = line.said
        if line.done or not HANDLE.fullmatch(handles):
            return self._read_any(raw)
        return Event(raw, (Piece(_SHOWN, text, self.text),) if text else ())

    def _read_any(self, raw: bytes) -> Event:
        payload = jsonl.data(raw)
        if payload is None:
            return Event(raw)
        answer = decoded(payload, self.text[0])
        pieces = tuple(self._pieces(answer))
        if answer.get("done"):
            return Event(raw, pieces, {_CHOICE: str(answer.get("done_reason") or "stop")}, last=True)
        # A call comes whole, and the next one may stand at the same place.
        return Event(raw, pieces, ended=() if standing_at(answer, CALLS) is None else ((_CHOICE, "tool_calls"),))

    def write_event(self, event: Event, texts: Mapping[Path, str]) -> bytes:
        """The line with the texts at these paths changed."""
        payload = jsonl.data(event.raw)
        if payload is None:
            return event.raw
        changes = changes_of(texts) | unspelled(msgspec.json.decode(payload))
        return jsonl.event(json.replace(payload, changes))

    def mark_event(self, raw: bytes, member: bytes) -> bytes:
        """The line with the `guardrail` object spliced into it; token ids of a text that was changed are taken out."""
        if b'"context"' in raw and msgspec.json.decode(member)["action"] not in ("allow", "flag"):
            payload = jsonl.data(raw) or b""
            if isinstance(msgspec.json.decode(payload).get("context"), list):
                raw = jsonl.event(json.replace(payload, {("context",): []}))
        return json.add_member(raw, "guardrail", member)

    def delta(self, like: bytes | None, choice: int, text: str) -> bytes:
        """A new line that adds `text`, dressed like the upstream's own line `like`."""
        return jsonl.event(json.encode({**_base(like), **self._holding(text), "done": False}))

    def close(self, like: bytes | None, choices: Sequence[int], member: bytes) -> bytes:
        """The line that ends a stream we stopped: `done` with the reason `content_filter`."""
        line = {**_base(like), **self._holding(""), "done": True, "done_reason": _STOPPED}
        return json.add_member(jsonl.event(json.encode(line)), "guardrail", member)

    def note(self, like: bytes | None, member: bytes) -> bytes:
        """A line without text that carries the `guardrail` object, where the upstream gave no last line to ride on."""
        line = {**_base(like), **self._holding(""), "done": False}
        return json.add_member(jsonl.event(json.encode(line)), "guardrail", member)

    # -- answers of our own --------------------------------------------------------------------------------------

    def answer(self, prompt: Prompt, text: str, reason: str, ident: str, member: bytes) -> bytes:
        """A whole answer (or stream, if one was asked for) that we give in the model's place."""
        end = {"done": True, "done_reason": reason}
        if not prompt.stream:
            return json.add_member(json.encode({**_base(None), **self._holding(text), **end}), "guardrail", member)
        closing = jsonl.event(json.encode({**_base(None), **self._holding(""), **end}))
        return self.delta(None, _CHOICE, text) + json.add_member(closing, "guardrail", member)

    def error(self, notice: Notice) -> bytes:
        """`{"error": message, "guardrail": {...}}`: Ollama's errors are a sentence and nothing else."""
        more = {"type": notice.type, "code": notice.code, "param": notice.param, **details(notice)}
        return json.encode({"error": notice.message, "guardrail": more})

    def stream_error(self, notice: Notice) -> bytes:
        """An error that breaks a stream already begun."""
        return jsonl.event(self.error(notice))

    # -- texts ---------------------------------------------------------------------------------------------------

    def _pieces(self, answer: dict[str, Any]) -> Iterator[Piece]:
        if answer.get("image"):
            raise MalformedResponse("the upstream's answer holds a picture, which cannot be screened")
        for key, value in answer.items():
            if key in _NO_REPLY:
                continue
            if key == "message" and self.text[0] == "message" and value.get("images"):
                raise MalformedResponse("the upstream's answer holds a picture, which cannot be screened")
            for path, text in texts_in(value, (key,)):
                lane = ("content",) if path == self.text else path[1:] if path[0] == "message" else path
                yield Piece((_CHOICE, *lane), text, path)

    @abstractmethod
    def _holding(self, text: str) -> dict[str, Any]:
        """The part of a body that holds `text`."""


class OllamaChat(_Ollama):
    """The dialect of `/api/chat`."""

    surface = "ollama_chat"
    _line = staticmethod(msgspec.json.Decoder(_ChatLine).decode)
    paths: tuple[str, ...] = ("/api/chat",)
    screened = Screened(
        prompt=(
            "messages[].content",
            "messages[].thinking",
            "messages[].tool_name",
            "messages[].tool_calls[].function.name",
            "messages[].tool_calls[].function.arguments",
            "messages[].*",
            *_TOOLS,
            "*",
        ),
        answer=(
            "message.content",
            "message.thinking",
            "message.tool_calls[].function.name",
            "message.tool_calls[].function.arguments",
            "message.*",
            "*",
        ),
        blocked=_BLOCKED,
    )
    text: Path = ("message", "content")

    def _holding(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text}}


class OllamaGenerate(_Ollama):
    """The dialect of `/api/generate`."""

    surface = "ollama_generate"
    _line = staticmethod(msgspec.json.Decoder(_GenerateLine).decode)
    paths: tuple[str, ...] = ("/api/generate",)
    screened = Screened(
        prompt=("prompt", "suffix", "system", "template", "format.properties.*", "*"),
        answer=("response", "thinking", "*"),
        blocked=_BLOCKED,
    )
    text: Path = ("response",)

    def _holding(self, text: str) -> dict[str, Any]:
        return {"response": text}


def _base(like: bytes | None) -> dict[str, Any]:
    payload = jsonl.data(like) if like else None
    given = msgspec.json.decode(payload) if payload else {}
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return {"model": given.get("model", "guardrail"), "created_at": given.get("created_at", now)}
