"""The content blocks of Anthropic's Messages API, in requests and answers: which texts they hold, and where.

Block types and fields follow the API reference for `POST /v1/messages`. A field that the reference does not name is
screened as text if it holds any; a block of a kind that is no text, or that nobody knows, is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from guardrail.core.content import Path, Segment
from guardrail.errors import MalformedRequest, MalformedResponse, Unreadable, WireError
from guardrail.wire import json
from guardrail.wire.fields import is_handle, where

WORDS = "(words)"
"""The last step of the path of all names in one object together: its keys, and the single words in its lists."""

CALLS = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
ROLES = frozenset({"user", "assistant", "system"})

_RESULTS = frozenset(
    {
        "tool_result", "mcp_tool_result", "web_search_tool_result", "web_fetch_tool_result",
        "code_execution_tool_result", "bash_code_execution_tool_result", "text_editor_code_execution_tool_result",
        "tool_search_tool_result", "advisor_tool_result",
    }
)  # fmt: skip
_QUOTED = _RESULTS | {"search_result"}  # nobody's own words: what a tool or a search brought
_READ = _QUOTED | CALLS | {"text", "document", "thinking", "redacted_thinking", "compaction", "mid_conv_system"}
_ACCEPTED = "text, documents of text, search results, thinking, calls of tools and their results"
_MEDIA = frozenset({"image", "audio", "video", "file", "container_upload"})
_MEDIA_SOURCES = frozenset({"base64", "url", "file", "image"})
_HANDLES = frozenset(
    {
        "id", "type", "role", "model", "index", "tool_use_id", "file_id", "media_type", "ttl", "expires_at",
        "service_tier", "inference_geo", "speed", "stop_reason", "stop_sequence", "page_age", "toolset_name",
    }
)  # fmt: skip
_OPAQUE = frozenset({"signature", "encrypted_content", "encrypted_index", "encrypted_stdout", "authorization_token"})
_SEALED = re.compile(r"[A-Za-z0-9_.:|+/=-]*")  # what a server sealed for itself; anything else is read as text
_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")
_LINE = re.compile(r"[\r\n]")

Refuse = Callable[[Path], WireError]
"""Makes the error for a part that cannot be screened, from where it stands."""


def refused(at: Path) -> WireError:
    """The error for a part of a request that cannot be screened."""
    return Unreadable(f"{where(at)}: this kind of content cannot be screened; accepted: {_ACCEPTED}", param=where(at))


def unreadable(at: Path) -> WireError:
    """The error for a part of an answer that cannot be screened."""
    return MalformedResponse(f"the upstream's answer holds media that cannot be screened ({where(at)})")


# -- requests --------------------------------------------------------------------------------------------------------


def message_segments(message: Any, index: int, latest: bool) -> list[Segment]:
    """The texts of one message; `latest` says whether a user's words in it were added by this request."""
    at: Path = ("messages", index)
    if not isinstance(message, dict):
        raise MalformedRequest(f"{where(at)}: expected an object", param=where(at))
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        param = where((*at, "role"))
        raise MalformedRequest(f"{param}: expected user, assistant or system", param=param)
    asked = latest and role == "user"
    segments = content_segments(content, (*at, "content"), role, asked)
    if len(message) > 2:
        others = {key: value for key, value in message.items() if key not in ("role", "content")}
        segments += [Segment(text, role, path, asked) for path, text in texts(others, at, refused)]
    return segments


def content_segments(content: Any, at: Path, role: str, asked: bool) -> list[Segment]:
    """The texts of what a message or the system prompt says: one text, or a list of blocks."""
    if isinstance(content, str):
        return [Segment(content, role, at, asked)] if content else []
    if not isinstance(content, list):
        raise MalformedRequest(f"{where(at)}: expected text or a list of content blocks", param=where(at))
    segments: list[Segment] = []
    for index, block in enumerate(content):
        place: Path = (*at, index)
        kind = block.get("type") if isinstance(block, dict) else None
        if kind not in _READ:
            raise refused(place)
        whose, own = ("tool", False) if kind in _QUOTED else (role, asked)
        segments += [Segment(text, whose, path, own) for path, text in block_texts(block, place, refused)]
    return segments


def definition_segments(tools: Any) -> list[Segment]:
    """The texts of the tools that a request defines: descriptions one by one, names and choices together."""
    if not isinstance(tools, list):
        raise MalformedRequest("tools: expected a list of tools", param="tools")
    return [
        Segment(text, "tools", path, False)
        for index, tool in enumerate(tools)
        for path, text in free_texts(tool, ("tools", index), handles=("type", "ttl"))
    ]


# -- one block -------------------------------------------------------------------------------------------------------


def block_texts(block: Mapping[str, Any], at: Path, refuse: Refuse) -> Iterator[tuple[Path, str]]:
    """Every text of one block with where it stands."""
    if block.get("type") in CALLS:
        rest = {key: value for key, value in block.items() if key != "input"}
        yield from texts(rest, at, refuse)
        yield from free_texts(block.get("input"), (*at, "input"))
    else:
        yield from texts(block, at, refuse)


def texts(value: Any, at: Path, refuse: Refuse) -> Iterator[tuple[Path, str]]:
    """Every text within `value`, but for handles and what the upstream sealed; media are refused."""
    if isinstance(value, str):
        if value:
            yield at, value
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from texts(item, (*at, index), refuse)
    elif isinstance(value, dict):
        kind, source = value.get("type"), value.get("source")
        if kind in _MEDIA or (isinstance(source, dict) and source.get("type") in _MEDIA_SOURCES):
            raise refuse(at)
        for key, item in value.items():
            if isinstance(item, str):
                if key in _HANDLES and is_handle(item):
                    continue
                sealed = key in _OPAQUE or (key == "data" and kind == "redacted_thinking")
                if sealed and _SEALED.fullmatch(item):
                    continue
            yield from texts(item, (*at, key), refuse)


def free_texts(value: Any, at: Path, handles: tuple[str, ...] = ()) -> Iterator[tuple[Path, str]]:
    """Every text within an object that somebody wrote freely, its keys included.

    Keys and single words in lists make one text together, at `(*at, WORDS)`: each alone would be a text to classify.
    """
    words: list[str] = []
    yield from _free(value, at, handles, words)
    if words:
        yield (*at, WORDS), "\n".join(words)


def _free(value: Any, at: Path, handles: tuple[str, ...], words: list[str]) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str):
        if value:
            yield at, value
    elif isinstance(value, dict):
        for key, item in value.items():
            words.append(_LINE.sub(" ", key))
            if not (key in handles and isinstance(item, str) and is_handle(item)):
                yield from _free(item, (*at, key), handles, words)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, str) and _NAME.fullmatch(item):
                words.append(item)
            else:
                yield from _free(item, (*at, index), handles, words)


# -- back into the body ----------------------------------------------------------------------------------------------


def put(body: bytes, changes: Mapping[Path, Any], *, empty: bool = False) -> bytes:
    """`body` with `changes` made and every other value as it came.

    Changed words go back one by one. Where they no longer match the words that were there, the object they stand in
    becomes an empty one if `empty`, else `Unreadable` is raised.
    """
    made = dict(changes)
    for path, text in changes.items():
        if path[-1] == WORDS:
            value, place = msgspec.json.decode(body), path[:-1]
            for step in place:
                value = value[step]
            old: list[str] = []
            for _ in _free(value, (), (), old):
                pass
            new = str(text).split("\n")
            if len(new) != len(old) and not empty:
                name = where(place)
                raise Unreadable(f"{name}: a name in it would have to be removed, which would break it", param=name)
            within = {key: made.pop(key) for key in list(made) if key[: len(place)] == place}
            made[place] = _renamed(value, place, iter(new), within) if len(new) == len(old) else {}
    return json.replace(body, made)


def _renamed(value: Any, at: Path, words: Iterator[str], changes: Mapping[Path, Any]) -> Any:
    """`value` with its words replaced by `words`, in the order in which `_free` meets them, and `changes` made."""
    if isinstance(value, dict):
        return {next(words): _renamed(item, (*at, key), words, changes) for key, item in value.items()}
    if isinstance(value, list):
        return [
            next(words)
            if isinstance(item, str) and _NAME.fullmatch(item)
            else _renamed(item, (*at, index), words, changes)
            for index, item in enumerate(value)
        ]
    return changes.get(at, value)
