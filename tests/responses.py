"""What a Responses server says: whole answers and their streams, each event as the API's reference has it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

CREATED = 1_767_225_600


def message(*parts: str | dict[str, Any], ident: str = "msg_1") -> dict[str, Any]:
    """A message of the assistant's; a part given as text is output text."""
    content = [output_text(part) if isinstance(part, str) else part for part in parts]
    return {"id": ident, "type": "message", "status": "completed", "role": "assistant", "content": content}


def output_text(text: str, *annotations: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": list(annotations), "logprobs": [], **more}


def refusal(text: str) -> dict[str, Any]:
    return {"type": "refusal", "refusal": text}


def reasoning(*summary: str, content: Sequence[str] = (), ident: str = "rs_1") -> dict[str, Any]:
    item: dict[str, Any] = {
        "id": ident, "type": "reasoning", "status": "completed", "encrypted_content": "gAAAAA==",
        "summary": [{"type": "summary_text", "text": text} for text in summary],
    }  # fmt: skip
    if content:
        item["content"] = [{"type": "reasoning_text", "text": text} for text in content]
    return item


def function_call(name: str, arguments: str, ident: str = "fc_1") -> dict[str, Any]:
    call = {"id": ident, "type": "function_call", "status": "completed", "call_id": f"call_{ident}"}
    return {**call, "name": name, "arguments": arguments}


CITATION = {"type": "url_citation", "start_index": 0, "end_index": 5, "title": "A page", "url": "https://example.org/a"}

KINDS: dict[str, list[dict[str, Any]]] = {
    "text": [message("There is bread, 茶 and\u2028nothing else.")],
    "two parts": [message("First of all.", "And then.")],
    "two messages": [message("One."), message("Two.", ident="msg_2")],
    "a refusal": [message(refusal("I would rather not say."))],
    "reasoning": [reasoning("I look.", "I see.", content=["All of it."]), message("Bread.")],
    "function calls": [function_call("look", '{"where": "table"}'), function_call("count", '{"n": 3}', "fc_2")],
    "text and a call": [message("Let me look."), function_call("look", "{}")],
    "annotations": [message(output_text("Bread, says a page.", CITATION, {**CITATION, "title": "Another"}))],
    "a custom tool": [
        {"id": "ct_1", "type": "custom_tool_call", "status": "completed", "call_id": "c", "name": "sh", "input": "ls"}
    ],
    "code": [
        {
            "id": "ci_1", "type": "code_interpreter_call", "status": "completed", "container_id": "cntr_1",
            "code": "print(6 * 7)", "outputs": [{"type": "logs", "logs": "42\n"}],
        },
        message("It is 42."),
    ],
    "a web search": [
        {
            "id": "ws_1", "type": "web_search_call", "status": "completed",
            "action": {"type": "search", "query": "what is on tables", "sources": [{"type": "url", "url": "https://example.org/a"}]},
        },
        message("Bread."),
    ],
    "a file search": [
        {
            "id": "fs_1", "type": "file_search_call", "status": "completed", "queries": ["tables"],
            "results": [{"file_id": "file-1", "filename": "notes.txt", "score": 0.90, "text": "Bread is on it."}],
        },
        message("Bread."),
    ],
    "a shell": [
        {
            "id": "sh_1", "type": "shell_call", "status": "completed", "call_id": "call_4",
            "action": {"commands": ["ls /tmp", "cat notes"], "timeout_ms": 100},
        }
    ],
    "mcp": [
        {
            "id": "ml_1", "type": "mcp_list_tools", "server_label": "kitchen",
            "tools": [{"name": "look", "description": "Looks at a table.", "input_schema": {"type": "object"}}],
        },
        {
            "id": "mc_1", "type": "mcp_call", "status": "completed", "server_label": "kitchen", "name": "look",
            "arguments": '{"where": "table"}', "output": "bread and tea", "error": None,
        },
        message("Bread and tea."),
    ],
    "an approval": [
        {"id": "ma_1", "type": "mcp_approval_request", "server_label": "kitchen", "name": "eat", "arguments": "{}"}
    ],
}  # fmt: skip
"""Answers with items of every kind that holds text, by what they show."""


def answer(items: Sequence[dict[str, Any]], asked: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A whole response; what it tells again of `asked` it tells as a server does."""
    asked = asked or {}
    told = {key: asked.get(key) for key in ("instructions", "previous_response_id", "user", "prompt")}
    return {
        "id": "resp_1", "object": "response", "created_at": CREATED, "status": "completed", "error": None,
        "incomplete_details": None, **told, "max_output_tokens": None, "model": asked.get("model", "m"),
        "output": list(items), "parallel_tool_calls": True, "reasoning": {"effort": "low", "summary": None},
        "store": True, "temperature": 1.0, "text": asked.get("text", {"format": {"type": "text"}}),
        "tool_choice": "auto", "tools": asked.get("tools", []), "top_p": 1.0, "truncation": "disabled",
        "metadata": asked.get("metadata", {}), "x_made_up": 1.10,
        "usage": {
            "input_tokens": 3, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 7,
            "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 10,
        },
        **more,
    }  # fmt: skip


def events(
    items: Sequence[dict[str, Any]], asked: Mapping[str, Any] | None = None, piece: int = 4, **more: Any
) -> Iterator[dict[str, Any]]:
    """The events of a streamed response, whose texts come in pieces of `piece` characters."""
    numbers = count()

    def say(kind: str, **members: Any) -> dict[str, Any]:
        return {"type": f"response.{kind}", "sequence_number": next(numbers), **members}

    begun = {**answer([], asked, **more), "status": "in_progress", "usage": None}
    yield say("created", response=begun)
    yield say("in_progress", response=begun)
    for index, item in enumerate(items):
        yield say("output_item.added", output_index=index, item=_begun(item))
        at = {"item_id": item["id"], "output_index": index}
        for kind, members in _inner(item, piece):
            yield say(kind, **at, **members)
        yield say("output_item.done", output_index=index, item=item)
    yield say("completed", response=answer(items, asked, **more))


def sse(event: Mapping[str, Any]) -> bytes:
    """An event as its bytes."""
    return f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n".encode()


def stream(
    items: Sequence[dict[str, Any]], asked: Mapping[str, Any] | None = None, piece: int = 4, **more: Any
) -> list[bytes]:
    return [sse(event) for event in events(items, asked, piece, **more)]


def _begun(item: dict[str, Any]) -> dict[str, Any]:
    """An item as it is when it begins: what comes in deltas is empty, and results are not there."""
    begun = {key: value for key, value in item.items() if key not in ("output", "outputs", "results", "error")}
    for key in ("content", "summary", "tools"):
        if key in begun:
            begun[key] = []
    for key in ("arguments", "input", "code"):
        if key in begun and item["type"] != "mcp_approval_request":
            begun[key] = ""
    if item["type"] == "shell_call":
        begun["action"] = {**item["action"], "commands": []}
    if item["type"] == "web_search_call":
        del begun["action"]
    return begun | ({"status": "in_progress"} if "status" in item else {})


def _pieces(text: str, piece: int) -> list[str]:
    return [text[start : start + piece] for start in range(0, len(text), piece)]


def _text(stem: str, member: str, text: str, piece: int, **at: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    more = {"logprobs": []} if stem == "output_text" else {}
    for part in _pieces(text, piece):
        yield f"{stem}.delta", {**at, "delta": part, **more}
    yield f"{stem}.done", {**at, member: text, **more}


def _inner(item: dict[str, Any], piece: int) -> Iterator[tuple[str, dict[str, Any]]]:
    kind = item["type"]
    for index, part in enumerate(item.get("summary", ())):
        yield "reasoning_summary_part.added", {"summary_index": index, "part": {**part, "text": ""}}
        yield from _text("reasoning_summary_text", "text", part["text"], piece, summary_index=index)
        yield "reasoning_summary_part.done", {"summary_index": index, "part": part}
    for index, part in enumerate(item.get("content", ())):
        stem = part["type"]
        member = "refusal" if stem == "refusal" else "text"
        empty = {**part, member: ""} | ({"annotations": []} if stem == "output_text" else {})
        yield "content_part.added", {"content_index": index, "part": empty}
        text = list(_text(stem, member, part[member], piece, content_index=index))
        yield from text[:-1]
        for number, note in enumerate(part.get("annotations", ())):
            members = {"content_index": index, "annotation_index": number, "annotation": note}
            yield "output_text.annotation.added", members
        yield text[-1]
        yield "content_part.done", {"content_index": index, "part": part}
    if kind in ("function_call", "mcp_call"):
        yield from _text(f"{kind}_arguments", "arguments", item["arguments"], piece)
    elif kind == "custom_tool_call":
        yield from _text("custom_tool_call_input", "input", item["input"], piece)
    elif kind == "code_interpreter_call":
        yield f"{kind}.in_progress", {}
        yield from _text("code_interpreter_call_code", "code", item["code"], piece)
        yield f"{kind}.interpreting", {}
    elif kind == "shell_call":
        for index, command in enumerate(item["action"]["commands"]):
            yield "shell_call_command.added", {"command_index": index, "command": ""}
            yield from _text("shell_call_command", "command", command, piece, command_index=index)
    elif kind in ("web_search_call", "file_search_call"):
        yield f"{kind}.in_progress", {}
        yield f"{kind}.searching", {}
    if kind in ("web_search_call", "file_search_call", "code_interpreter_call", "mcp_call", "mcp_list_tools"):
        yield f"{kind}.completed", {}
