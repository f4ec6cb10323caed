"""OpenAI chat completions, plain and streamed: which texts a body holds, and how to put changed ones back.

Fields follow the API reference for `POST /v1/chat/completions`. A field of a message or a delta that the reference
does not name is screened as text if it holds any, so that a dialect's extension cannot carry text past the guard.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from guardrail.core.content import Content, Direction, Path, Segment
from guardrail.core.surface import Ending, Event, Notice, Piece, Prompt, Screened
from guardrail.errors import MalformedRequest, MalformedResponse, Unreadable
from guardrail.wire import json, sse
from guardrail.wire.errors import openai_error
from guardrail.wire.fields import latest_turn, where

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
_ROLE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,31}")
_ID = re.compile(r"[A-Za-z0-9_.:|+/=-]{0,200}")
_TEXT_PARTS = {"text": "text", "refusal": "refusal", "input_text": "text", "output_text": "text"}
_IDS = frozenset({"id", "type", "index", "tool_call_id"})  # a server's or client's handles, unless they read like text
_JSON_FORMATS = frozenset({"json_object", "json_schema"})
_BODY = frozenset(
    {"id", "object", "created", "model", "choices", "usage", "system_fingerprint", "service_tier", "obfuscation"}
)
_CHOICE = frozenset({"index", "message", "delta", "finish_reason", "logprobs"})
_WHOLE = -1  # the choice of text that belongs to the answer as a whole


class _Text(msgspec.Struct, forbid_unknown_fields=True):
    content: str


class _Choice(msgspec.Struct, forbid_unknown_fields=True):
    delta: _Text
    index: int = 0
    finish_reason: None = None
    logprobs: None = None


class _TextEvent(msgspec.Struct, forbid_unknown_fields=True):
    """What nearly every event of a stream is: a stretch of one choice's text and nothing else that could hold any."""

    choices: tuple[_Choice]
    id: msgspec.Raw = msgspec.Raw()
    object: msgspec.Raw = msgspec.Raw()
    created: msgspec.Raw = msgspec.Raw()
    model: msgspec.Raw = msgspec.Raw()
    usage: msgspec.Raw = msgspec.Raw()
    system_fingerprint: msgspec.Raw = msgspec.Raw()
    service_tier: msgspec.Raw = msgspec.Raw()
    obfuscation: msgspec.Raw = msgspec.Raw()


_read_text_event = msgspec.json.Decoder(_TextEvent).decode
_CONTENT = ("choices", 0, "delta", "content")


class OpenAIChat:
    """The dialect of `/v1/chat/completions`."""

    surface = "openai_chat"
    paths: tuple[str, ...] = ("/v1/chat/completions",)
    screened = Screened(
        prompt=(
            "messages[].content",
            "messages[].content[].text",
            "messages[].content[].refusal",
            "messages[].name",
            "messages[].refusal",
            "messages[].reasoning_content",
            "messages[].tool_calls[].function.name",
            "messages[].tool_calls[].function.arguments",
            "messages[].function_call.name",
            "messages[].function_call.arguments",
            "messages[].*",
            "messages[].content[].*",
            "prediction.content",
        ),
        answer=(
            "choices[].message.content",
            "choices[].message.reasoning_content",
            "choices[].message.refusal",
            "choices[].message.tool_calls[].function.name",
            "choices[].message.tool_calls[].function.arguments",
            "choices[].message.function_call.name",
            "choices[].message.function_call.arguments",
            "choices[].message.*",
            "choices[].*",
            "*",
        ),
        blocked="the clean part, then `finish_reason` `content_filter`",
    )

    # -- the request ---------------------------------------------------------------------------------------------

    def read_prompt(self, body: bytes) -> Prompt:
        """Read a request body; raises `MalformedRequest` or, for a part that cannot be screened, `Unreadable`."""
        request = json.decode(body)
        if not isinstance(request, dict):
            raise MalformedRequest("the body is not a JSON object")
        messages = request.get("messages")
        if not isinstance(messages, list) or not messages:
            raise MalformedRequest("messages: expected a list of at least one message", param="messages")
        roles = [_role(message, index) for index, message in enumerate(messages)]
        latest = latest_turn(roles)
        segments: list[Segment] = []
        for index, message in enumerate(messages):
            role = roles[index]
            asked = index >= latest and role == "user"
            content = message.get("content")
            if type(content) is str and len(message) == 2:  # nearly every message: a role and a text
                if content:
                    segments.append(Segment(content, role, ("messages", index, "content"), asked))
            else:
                texts = _message_texts(message, ("messages", index))
                segments += [Segment(text, role, path, asked) for path, text in texts]
        prediction = request.get("prediction")
        if prediction is not None:
            segments += [Segment(t, "assistant", p, False) for p, t in json.strings(prediction, ("prediction",))]
        stream, choices = request.get("stream") or False, request.get("n")
        if type(stream) is not bool:
            raise MalformedRequest("stream: expected true or false", param="stream")
        if choices is None:
            choices = 1
        elif type(choices) is not int or choices < 1:
            raise MalformedRequest("n: expected a whole number of at least 1", param="n")
        wanted = request.get("response_format")
        end_user = request.get("safety_identifier") or request.get("user")
        return Prompt(
            content=Content(Direction.PROMPT, tuple(segments)),
            stream=stream,
            choices=choices,
            structured=isinstance(wanted, dict) and wanted.get("type") in _JSON_FORMATS,
            tools=bool(request.get("tools") or request.get("functions")),
            end_user=end_user if isinstance(end_user, str) and end_user else None,
        )

    def write_prompt(self, body: bytes, texts: Mapping[Path, str]) -> bytes:
        """The request with the texts at these paths changed and every other value as it came."""
        return json.replace(body, texts)

    # -- an answer that comes at once ----------------------------------------------------------------------------

    def read_reply(self, body: bytes) -> Event:
        """Read a whole answer; raises `MalformedResponse`."""
        try:
            answer = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise MalformedResponse("the upstream's answer is not JSON") from None
        choices = _choices(answer)
        pieces: list[Piece] = []
        finished: dict[int, str] = {}
        for position, choice in enumerate(choices):
            number = _number(choice, position)
            finished[number] = str(choice.get("finish_reason") or "stop")
            pieces += _pieces(choice.get("message"), number, ("choices", position, "message"))
            pieces += _others(choice, _CHOICE, number, ("choices", position))
        pieces += _others(answer, _BODY, _WHOLE, ())
        return Event(body, tuple(pieces), finished, last=True)

    def write_reply(
        self,
        event: Event,
        texts: Mapping[Path, str],
        stopped: Mapping[int, Ending],
        affixes: Mapping[int, str],
        member: bytes,
    ) -> bytes:
        """The answer with changed texts, stopped choices closed, affixes added and the `guardrail` object spliced in.

        `affixes` maps a choice to its label: text that begins with a line break goes behind, other text in front.
        """
        body = event.raw
        changes: dict[Path, Any] = dict(texts)
        if texts or stopped or affixes:
            choices = msgspec.json.decode(body)["choices"]
            touched = {path[1] for path in texts if path[0] == "choices"}
            for position, choice in enumerate(choices):
                number, at = _number(choice, position), ("choices", position)
                content_at = (*at, "message", "content")
                content = changes.get(content_at, choice["message"].get("content"))
                ending = stopped.get(number, stopped.get(_WHOLE))
                if ending is not None:
                    content = (content if isinstance(content, str) else "") + ending.answer
                    calls = (*at, "message", "tool_calls")
                    changes = {path: text for path, text in changes.items() if path[:4] != calls}
                    changes[(*at, "finish_reason")] = "content_filter"
                    for key in ("tool_calls", "function_call"):
                        if choice["message"].get(key) is not None:
                            changes[(*at, "message", key)] = None
                if number in affixes and isinstance(content, str):
                    content = join_affix(content, affixes[number])
                if isinstance(content, str) and content != choice["message"].get("content"):
                    changes[content_at] = content
                if (ending is not None or position in touched) and choice.get("logprobs") is not None:
                    changes[(*at, "logprobs")] = None  # they spell the text that was taken out
        return json.add_member(json.replace(body, changes), "guardrail", member)

    # -- an answer that is streamed ------------------------------------------------------------------------------

    def read_event(self, raw: bytes) -> Event:
        """Read one event of a stream; raises `MalformedResponse` for one that cannot be understood."""
        payload = sse.data(raw)
        if payload is None:
            return Event(raw)
        try:
            (choice,) = _read_text_event(payload).choices
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return self._read_any(raw, payload)
        text = choice.delta.content
        return Event(raw, (Piece((choice.index, "content"), text, _CONTENT),) if text else ())

    def _read_any(self, raw: bytes, payload: bytes) -> Event:
        if payload.strip() == b"[DONE]":
            return Event(raw, last=True)
        try:
            chunk = msgspec.json.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise MalformedResponse("the upstream sent an event that is not JSON") from None
        if isinstance(chunk, dict) and "error" in chunk and "choices" not in chunk:
            raise MalformedResponse("the upstream reported an error within its stream")
        pieces: list[Piece] = []
        finished: dict[int, str] = {}
        for position, choice in enumerate(_choices(chunk)):
            number = _number(choice, position)
            delta = choice.get("delta")
            if delta:
                pieces += _pieces(delta, number, ("choices", position, "delta"))
            pieces += _others(choice, _CHOICE, number, ("choices", position))
            reason = choice.get("finish_reason")
            if reason:
                finished[number] = str(reason)
        pieces += _others(chunk, _BODY, _WHOLE, ())
        return Event(raw, tuple(pieces), finished)

    def write_event(self, event: Event, texts: Mapping[Path, str]) -> bytes:
        """The event with the texts at these paths changed."""
        payload = sse.data(event.raw)
        if payload is None:
            return event.raw
        changes: dict[Path, Any] = dict(texts)
        chunk = msgspec.json.decode(payload)
        for path in texts:
            if path[0] == "choices" and chunk["choices"][path[1]].get("logprobs") is not None:
                changes[(*path[:2], "logprobs")] = None  # they spell the text that was taken out
        return sse.event(json.replace(payload, changes))

    def mark_event(self, raw: bytes, member: bytes) -> bytes:
        """The event with the `guardrail` object spliced into it."""
        return json.add_member(raw, "guardrail", member)

    def delta(self, like: bytes | None, choice: int, text: str) -> bytes:
        """A new event that adds `text` to a choice, dressed like the upstream's own event `like`."""
        return _chunk(like, [{"index": choice, "delta": {"content": text}, "finish_reason": None}])

    def close(self, like: bytes | None, choices: Sequence[int], member: bytes) -> bytes:
        """The events that end a stream we stopped: `finish_reason` for each open choice, then the terminator."""
        ends = [{"index": choice, "delta": {}, "finish_reason": "content_filter"} for choice in choices]
        return self.mark_event(_chunk(like, ends), member) + sse.DONE

    def note(self, like: bytes | None, member: bytes) -> bytes:
        """An event of no choice that carries the `guardrail` object, where the upstream gave no finish to ride on."""
        return self.mark_event(_chunk(like, []), member)

    # -- answers of our own --------------------------------------------------------------------------------------

    def answer(self, prompt: Prompt, text: str, reason: str, ident: str, member: bytes) -> bytes:
        """A whole answer (or stream, if one was asked for) that we give in the model's place."""
        base = {"id": f"chatcmpl-{ident}", "created": int(time.time()), "model": "guardrail"}
        if not prompt.stream:
            message = {"role": "assistant", "content": text, "refusal": None}
            choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
            usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
            body = {**base, "object": "chat.completion", "choices": [choice], "usage": usage}
            return json.add_member(json.encode(body), "guardrail", member)
        like = sse.event(json.encode({**base, "object": "chat.completion.chunk"}))
        delta = {"role": "assistant", "content": text}
        opening = _chunk(like, [{"index": 0, "delta": delta, "finish_reason": None}])
        closing = _chunk(like, [{"index": 0, "delta": {}, "finish_reason": reason}])
        return opening + self.mark_event(closing, member) + sse.DONE

    def error(self, notice: Notice) -> bytes:
        """An error body in the surface's shape."""
        return openai_error(notice)

    def stream_error(self, notice: Notice) -> bytes:
        """An error that breaks a stream already begun."""
        return sse.event(openai_error(notice))


def join_affix(content: str, affix: str) -> str:
    """The text with its label behind it (an affix that begins with a line break) or in front of it."""
    return content + affix if affix.startswith("\n") else affix + content


def _role(message: Any, index: int) -> str:
    if not isinstance(message, dict):
        raise MalformedRequest(f"messages[{index}]: expected an object", param=f"messages[{index}]")
    role = message.get("role")
    if not isinstance(role, str) or not (role in _ROLES or _ROLE.fullmatch(role)):
        raise MalformedRequest(f"messages[{index}].role: expected a role name", param=f"messages[{index}].role")
    return role


def _message_texts(message: dict[str, Any], at: Path) -> Iterator[tuple[Path, str]]:
    for key, value in message.items():
        if key == "role" or value is None:
            continue
        if key == "content" and isinstance(value, list):
            for index, part in enumerate(value):
                yield from _part_texts(part, (*at, "content", index))
        elif key == "content" and not isinstance(value, str):
            raise MalformedRequest(f"{where((*at, key))}: expected text or a list of parts", param=where((*at, key)))
        elif key == "audio" and at[0] == "messages":
            continue  # a handle of an earlier spoken answer, which the upstream holds
        else:
            yield from _plain_texts(value, (*at, key))


def _part_texts(part: Any, at: Path) -> Iterator[tuple[Path, str]]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in _TEXT_PARTS:
        raise Unreadable(
            f"{where(at)}: this kind of content part cannot be screened; accepted: text, refusal", param=where(at)
        )
    yield from _plain_texts({key: value for key, value in part.items() if key != "type"}, at)


def _plain_texts(value: Any, at: Path) -> Iterator[tuple[Path, str]]:
    for path, text in json.strings(value, at):
        if path[-1] in _IDS and _ID.fullmatch(text):
            continue
        yield path, text


def _choices(body: Any) -> list[dict[str, Any]]:
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise MalformedResponse("the upstream's answer has no list of choices")
    return choices


def _number(choice: dict[str, Any], position: int) -> int:
    number = choice.get("index", position)
    if not isinstance(number, int):
        raise MalformedResponse("the upstream's answer has a choice whose index is not a number")
    return number


def _pieces(message: Any, choice: int, at: Path) -> Iterator[Piece]:
    if not isinstance(message, dict):
        raise MalformedResponse("the upstream's answer has a choice without a message")
    for key, value in message.items():
        if isinstance(value, str):
            if value and key != "role":
                yield Piece((choice, key), value, (*at, key))
        elif key == "tool_calls" and isinstance(value, list):
            for position, call in enumerate(value):
                yield from _call_pieces(call, choice, position, (*at, key, position))
        elif key == "audio" and value:
            raise MalformedResponse("the upstream's answer holds audio, which cannot be screened")
        elif value:
            for path, text in _plain_texts(value, (*at, key)):
                yield Piece((choice, *path[len(at) :]), text, path)


def _call_pieces(call: Any, choice: int, position: int, at: Path) -> Iterator[Piece]:
    number = call.get("index", position) if isinstance(call, dict) else position
    for path, text in _plain_texts(call, at):
        yield Piece((choice, "tool_calls", number, *path[len(at) :]), text, path)


def _others(holder: dict[str, Any], known: frozenset[str], choice: int, at: Path) -> Iterator[Piece]:
    """Texts in fields that the reference does not name."""
    for key in holder.keys() - known:
        for path, text in _plain_texts(holder[key], (*at, key)):
            yield Piece((choice, *path[len(at) :]), text, path)


def _chunk(like: bytes | None, choices: list[dict[str, Any]]) -> bytes:
    payload = sse.data(like) if like else None
    base = msgspec.json.decode(payload) if payload else {"id": "chatcmpl-guardrail", "created": int(time.time())}
    kept = {key: base[key] for key in ("id", "object", "created", "model", "system_fingerprint") if key in base}
    return sse.event(json.encode({"object": "chat.completion.chunk", **kept, "choices": choices}))
