"""The texts in Ollama's bodies: where they stand, and how changed ones are put back."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from guardrail.core.content import Path, Segment
from guardrail.errors import MalformedRequest, MalformedResponse, Unreadable
from guardrail.wire import json
from guardrail.wire.fields import latest_turn

_ROLE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,31}")
HANDLE = re.compile(r"[A-Za-z0-9_.:|+/=-]{0,200}")
"""What a server's or client's own word may look like."""
_HANDLES = frozenset(
    {
        "id", "type", "index", "format", "role", "tool_call_id", "model", "created_at", "done_reason", "remote_model",
        "remote_host",
    }
)  # fmt: skip
CALLS: Path = ("message", "tool_calls")
"""Where an answer has the calls that a model makes."""
_ESCAPE = re.compile(r"\\.")
_SPACES = {r"\n": "\v", r"\r": "\v", r"\t": "\f"}
_WRITTEN = str.maketrans({"\v": r"\n", "\f": r"\t"})


def message_segments(messages: Any) -> Iterator[Segment]:
    """The texts of a request's messages; raises `MalformedRequest`, or `Unreadable` for a picture."""
    if messages is None:
        return
    if not isinstance(messages, list):
        raise MalformedRequest("messages: expected a list", param="messages")
    roles = [_role(message, index) for index, message in enumerate(messages)]
    latest = latest_turn(roles)
    for index, message in enumerate(messages):
        at, role = f"messages[{index}]", roles[index]
        no_images(message, ("messages", index))
        if not isinstance(message.get("content"), str | None):
            raise MalformedRequest(f"{at}.content: expected text", param=f"{at}.content")
        for path, text in texts_in(message, ("messages", index)):
            yield Segment(text, role, path, index >= latest and role == "user")


def _role(message: Any, index: int) -> str:
    if not isinstance(message, dict):
        raise MalformedRequest(f"messages[{index}]: expected an object", param=f"messages[{index}]")
    role = message.get("role")
    if not isinstance(role, str) or not _ROLE.fullmatch(role):
        raise MalformedRequest(f"messages[{index}].role: expected a role name", param=f"messages[{index}].role")
    return role


def no_images(holder: dict[str, Any], at: Path) -> None:
    """Raise `Unreadable` if a message (or a request, where `at` is empty) carries pictures."""
    if holder.get("images"):
        where = f"messages[{at[1]}].images" if at else "images"
        raise Unreadable(f"{where}: pictures cannot be screened; accepted: text", param=where)


def texts_in(value: Any, at: Path) -> Iterator[tuple[Path, str]]:
    """Every text within `value`. A call's arguments are one, as JSON: a model chooses their names as well.

    White space that JSON writes as escapes stands there as white space that it does not: a phrase may lie across it.
    """
    if isinstance(value, dict) and at[-1] == "arguments":
        if value:
            yield at, _ESCAPE.sub(_read, json.encode(value).decode())
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from texts_in(item, (*at, key))
    elif isinstance(value, str) and value and not (at[-1] in _HANDLES and HANDLE.fullmatch(value)):
        yield at, value


def _read(escape: re.Match[str]) -> str:
    return _SPACES.get(escape[0], escape[0])


def value_of(path: Path, text: str, otherwise: Any) -> Any:
    """What to put at a path of `texts_in` for a text that was changed: JSON again where it was, if it still is."""
    if path[-1] != "arguments":
        return text
    try:
        written = text.translate(_WRITTEN).encode()
        return msgspec.Raw(written) if isinstance(msgspec.json.decode(written), dict) else otherwise
    except msgspec.DecodeError:
        return otherwise


def changes_of(texts: Mapping[Path, str]) -> dict[Path, Any]:
    """What to change in an answer. Where a call's arguments were cut no calls are left: half a call is none."""
    changes = {path: value_of(path, text, None) for path, text in texts.items()}
    return without_calls(changes) if None in changes.values() else changes


def without_calls(changes: dict[Path, Any]) -> dict[Path, Any]:
    """The same changes, and no calls."""
    return {path: value for path, value in changes.items() if path[:2] != CALLS} | {CALLS: None}


def decoded(body: bytes, key: str | int) -> dict[str, Any]:
    """An answer, or a line of one, that has its text in `key`; raises `MalformedResponse`."""
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise MalformedResponse("the upstream's answer is not JSON") from None
    if isinstance(answer, dict) and "error" in answer and key not in answer:
        raise MalformedResponse("the upstream reported an error in its answer")
    holder = answer.get(key) if isinstance(answer, dict) else None
    if not isinstance(holder, dict if key == "message" else str):
        raise MalformedResponse(f"the upstream's answer has no {key}")
    if isinstance(holder, dict) and not isinstance(holder.get("content"), str | None):
        raise MalformedResponse("the upstream's answer has a message whose content is no text")
    return dict(answer)


def unspelled(answer: dict[str, Any]) -> dict[Path, Any]:
    """What takes out the fields that spell a text again, token by token."""
    found: dict[Path, Any] = {}
    if answer.get("logprobs") is not None:
        found[("logprobs",)] = None
    if answer.get("context") is not None:
        found[("context",)] = []
    return found


def standing_at(value: Any, path: Path) -> Any:
    """What stands at a path of names; none if nothing does."""
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value
