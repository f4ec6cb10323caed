"""Texts in fields of a JSON body: which are a server's handles, which are somebody's words, where they stand."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from guardrail.core.content import Path
from guardrail.errors import MalformedRequest, MalformedResponse
from guardrail.wire import json

_WORD = re.compile(r"[A-Za-z0-9_.:|+/=-]{0,200}")


def is_handle(value: Any) -> bool:
    """Whether `value` reads like an id, a name or a word of an API (or is no text at all), not like a sentence."""
    return not isinstance(value, str) or _WORD.fullmatch(value) is not None


def texts(holder: Mapping[str, Any], handles: Collection[str], at: Path = ()) -> Iterator[tuple[Path, str]]:
    """Every text in `holder` with where it stands; `handles` are left out for as long as they read like handles."""
    for key, value in holder.items():
        if key in handles and is_handle(value):
            continue
        yield from json.strings(value, (*at, key))


def latest_turn(roles: Sequence[object]) -> int:
    """Where what a request adds to a conversation begins: after the model's last answer.

    An answer at the very end was begun by the client, for the model to go on with: it makes no history of the question
    before it.
    """
    end = len(roles)
    while end and roles[end - 1] == "assistant":
        end -= 1
    said = roles[:end]
    return end - said[::-1].index("assistant") if "assistant" in said else 0


def where(path: Path) -> str:
    """A path as people write it: `input[0]`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


def read_request(body: bytes) -> dict[str, Any]:
    """The object that a request is; raises `MalformedRequest`."""
    request = json.decode(body)
    if not isinstance(request, dict):
        raise MalformedRequest("the body is not a JSON object")
    return request


def read_answer(body: bytes) -> dict[str, Any]:
    """The object that an answer or the data of an event is; raises `MalformedResponse`."""
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise MalformedResponse("the upstream's answer is not JSON") from None
    if not isinstance(answer, dict):
        raise MalformedResponse("the upstream's answer is not a JSON object")
    return answer


def flag(request: Mapping[str, Any], key: str) -> bool:
    """A field that is true, false or not there; raises `MalformedRequest`."""
    value = request.get(key) or False
    if type(value) is not bool:
        raise MalformedRequest(f"{key}: expected true or false", param=key)
    return value


def count(request: Mapping[str, Any], key: str) -> int:
    """A field that is a whole number of at least 1, and 1 when it is not there; raises `MalformedRequest`."""
    value = request.get(key)
    if value is None:
        return 1
    if type(value) is not int or value < 1:
        raise MalformedRequest(f"{key}: expected a whole number of at least 1", param=key)
    return value


def end_user(request: Mapping[str, Any]) -> str | None:
    """Who the body says is asking, by OpenAI's names for it."""
    name = request.get("safety_identifier") or request.get("user")
    return name if isinstance(name, str) and name else None
