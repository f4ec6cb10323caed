"""A request to OpenAI's Responses API: which texts it holds and whose they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from guardrail.core.content import Content, Direction, Path, Segment
from guardrail.core.surface import Prompt
from guardrail.errors import MalformedRequest, Unreadable
from guardrail.wire import json
from guardrail.wire.fields import latest_turn
from guardrail.wire.openai_responses_fields import HANDLE, NAMES, Media, others, read_json, texts, word

_ROLE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,31}")
_PARTS = frozenset({"input_text", "output_text", "text", "refusal", "reasoning_text", "summary_text"})
_FROM_MODEL = frozenset(
    {
        "function_call", "reasoning", "file_search_call", "web_search_call", "computer_call", "image_generation_call",
        "code_interpreter_call", "local_shell_call", "shell_call", "apply_patch_call", "mcp_call", "mcp_list_tools",
        "mcp_approval_request", "custom_tool_call", "tool_search_call", "program", "compaction",
    }
)  # fmt: skip
_FROM_TOOLS = frozenset(
    {
        "function_call_output", "computer_call_output", "local_shell_call_output", "shell_call_output",
        "apply_patch_call_output", "custom_tool_call_output", "tool_search_output", "program_output",
        "mcp_approval_response", "item_reference", "additional_tools", "compaction_trigger", "configuration_update",
    }
)  # fmt: skip
_JSON_FORMATS = frozenset({"json_object", "json_schema"})


def read_request(body: bytes) -> Prompt:
    """What is asked; raises `MalformedRequest` or, for a part that cannot be screened, `Unreadable`."""
    request = json.decode(body)
    if not isinstance(request, dict):
        raise MalformedRequest("the body is not a JSON object")
    stream = request.get("stream") or False
    if type(stream) is not bool:
        raise MalformedRequest("stream: expected true or false", param="stream")
    if request.get("background"):
        raise Unreadable(
            "background: an answer that is fetched later cannot be screened; accepted: false", param="background"
        )
    try:
        segments = list(_segments(request))
    except Media as media:
        where = _where(media.path)
        raise Unreadable(f"{where}: this kind of part cannot be screened; accepted: text", param=where) from None
    wanted = request.get("text")
    form = wanted.get("format") if isinstance(wanted, dict) else None
    end_user = request.get("safety_identifier") or request.get("user")
    return Prompt(
        content=Content(Direction.PROMPT, tuple(segments)),
        stream=stream,
        choices=0,
        structured=word(form, "type") in _JSON_FORMATS,
        tools=bool(request.get("tools")),
        end_user=end_user if isinstance(end_user, str) and end_user else None,
        media="image" if _makes_pictures(request.get("tools")) else "text",
        told=frozenset(text for _, text in json.strings(request, ())),
    )


def _makes_pictures(tools: Any) -> bool:
    """Whether a picture may be part of the answer."""
    return isinstance(tools, list) and any(
        isinstance(tool, dict) and tool.get("type") == "image_generation" for tool in tools
    )


def _segments(request: dict[str, Any]) -> Iterator[Segment]:
    for key, value in request.items():
        if value is None or key in NAMES:
            continue
        if key == "input":
            yield from _input(value)
        elif key == "instructions":
            yield from (Segment(text, "system", path, False) for path, text in texts(value, (key,)))
        elif key == "prompt" and isinstance(value, dict):
            variables = value.get("variables")
            yield from (Segment(text, "user", path) for path, text in texts(variables, (key, "variables")))
            version = value.get("version")
            if isinstance(version, str) and HANDLE.fullmatch(version):
                value = {**value, "version": None}
            rest = {name: below for name, below in value.items() if name != "variables"}
            yield from (Segment(text, "user", path, False) for path, text in texts(rest, (key,)))
        else:
            role = "developer" if key in ("tools", "text") else "user"
            yield from (Segment(text, role, path, False) for path, text in others(key, value, (key,)))


def _input(value: Any) -> Iterator[Segment]:
    if isinstance(value, str):
        if value:
            yield Segment(value, "user", ("input",))
        return
    if not isinstance(value, list):
        raise MalformedRequest("input: expected text or a list of items", param="input")
    roles = [_role(item, ("input", index)) for index, item in enumerate(value)]
    latest = latest_turn(roles)
    for index, item in enumerate(value):
        role = roles[index]
        asked = index >= latest and role == "user"
        at: Path = ("input", index)
        if item.get("type", "message") == "message":
            content = item.get("content")
            if isinstance(content, list):
                _check_parts(content, (*at, "content"))
            elif content is not None and not isinstance(content, str):
                where = _where((*at, "content"))
                raise MalformedRequest(f"{where}: expected text or a list of parts", param=where)
        yield from (Segment(read_json(path, text), role, path, asked) for path, text in texts(item, at))


def _role(item: Any, at: Path) -> str:
    """Whose item it is: what its message says, the assistant for what a model makes, `tool` for what comes back."""
    where = _where(at)
    if not isinstance(item, dict):
        raise MalformedRequest(f"{where}: expected an object", param=where)
    kind = word(item, "type") if "type" in item else "message"
    if kind == "message":
        role = item.get("role")
        if not isinstance(role, str) or not _ROLE.fullmatch(role):
            raise MalformedRequest(f"{where}.role: expected a role name", param=f"{where}.role")
        return role
    if kind in _FROM_MODEL:
        return "assistant"
    if kind in _FROM_TOOLS:
        return "tool"
    raise Unreadable(f"{where}: this kind of item cannot be screened; accepted: those of the API", param=where)


def _check_parts(parts: list[Any], at: Path) -> None:
    for index, part in enumerate(parts):
        if word(part, "type") not in _PARTS:
            raise Media((*at, index))


def _where(path: Path) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")
