"""Which strings of a Responses body are texts: everything but handles, the API's own words, credentials and blobs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from guardrail.core.content import Path
from guardrail.core.surface import Screened
from guardrail.wire import json
from guardrail.wire.escapes import Unescaped, written

HANDLE = re.compile(r"[A-Za-z0-9_.:|+/=-]{0,200}")
"""What a handle looks like; a handle that does not is read as text."""

BLOB = re.compile(r"[A-Za-z0-9_.:|+/=-]*")

_HANDLES = frozenset(
    {
        "id", "type", "status", "role", "object", "model", "phase", "call_id", "item_id", "response_id", "file_id",
        "container_id", "caller_id", "approval_request_id", "previous_response_id", "created_by", "detail",
        "obfuscation", "size", "quality", "output_format", "execution", "environment", "mode",
    }
)  # fmt: skip
"""Members whose strings are a server's or client's handles, or words that the API itself defines."""

_BLOBS = frozenset({"encrypted_content", "fingerprint"})
_CREDENTIALS = frozenset(
    {"authorization", "headers", "server_url", "connector_id"}
)  # for the tool's server, not the model
_SCHEMA_WORDS = frozenset({"required", "enum", "const", "format", "pattern", "$ref", "$schema"})
_MEDIA = frozenset(
    {"input_image", "input_file", "input_audio", "input_video", "image", "image_url", "computer_screenshot",
     "output_audio", "output_image"}
)  # fmt: skip

SETTINGS = frozenset(
    {
        "access_programs", "background", "background_options", "completed_at", "context_management", "conversation",
        "created_at", "id", "image", "include", "incomplete_details", "input_transformations", "max_output_tokens",
        "max_tool_calls", "model", "moderation", "object", "parallel_tool_calls", "previous_response_id",
        "prompt_cache_diagnostics", "prompt_cache_options", "prompt_cache_retention", "reasoning", "service_tier",
        "status", "store", "stream", "stream_options", "temperature", "tool_choice", "tool_usage", "top_logprobs",
        "top_p", "truncation", "usage",
    }
)  # fmt: skip
"""Members of a request and of a response that choose and count: their strings are words of the API."""

NAMES = frozenset({"user", "safety_identifier", "prompt_cache_key"})
"""Members that name somebody to the provider and never reach a model."""


class Media(ValueError):
    """A picture, sound or file stands at `path`: it cannot be screened as text."""

    def __init__(self, path: Path) -> None:
        super().__init__("media")
        self.path = path


def word(value: Any, key: str) -> str:
    """The text of a member, empty where there is none."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, str) else ""


def texts(value: Any, at: Path, *, pictures: bool = False) -> Iterator[tuple[Path, str]]:
    """Every text within an item, a content part or another member, with where it stands; raises `Media`.

    `pictures` that a tool has made may be there, and are passed by, where they are.
    """
    if isinstance(value, str):
        if value and not _is_handle(at, value):
            yield at, value
    elif isinstance(value, dict):
        kind = word(value, "type")
        if kind in _MEDIA or (kind == "image_generation_call" and value.get("result") and not pictures):
            raise Media(at)
        for key, below in value.items():
            if key == "result" and kind == "image_generation_call" and isinstance(below, str) and BLOB.fullmatch(below):
                continue
            if key != "logprobs" or not is_logprobs(
                below
            ):  # they spell the text beside them, and go where it is changed
                yield from texts(below, (*at, key), pictures=pictures)
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from texts(below, (*at, index), pictures=pictures)


def is_json(path: Path) -> bool:
    """Whether the text at `path` of a body is a call's arguments: JSON text, read as what its escapes mean."""
    return len(path) == 3 and path[0] in ("input", "output") and path[2] == "arguments"


def read_json(path: Path, text: str) -> str:
    """A text of a body as it is to be read."""
    return Unescaped().feed(text)[1] if is_json(path) else text


def write_json(path: Path, text: str) -> str:
    """A text that was read, and changed, as it is to stand in the body."""
    return written(text) if is_json(path) else text


def is_logprobs(value: Any) -> bool:
    """Whether `value` has the shape of log probabilities, token by token."""
    return value is None or (isinstance(value, list) and all(isinstance(item, dict) for item in value))


def tool_texts(value: Any, at: Path) -> Iterator[tuple[Path, str]]:
    """Every text of tool definitions and schemas: names and descriptions, but no schema's words and no credentials."""
    for path, text in json.strings(value, at):
        if "input_image_mask" in path:
            raise Media(path)
        credential = len(path) > len(at) + 1 and path[len(at) + 1] in _CREDENTIALS
        if not credential and not _is_handle(path, text, _SCHEMA_WORDS):
            yield path, text


def setting_texts(value: Any, at: Path) -> Iterator[tuple[Path, str]]:
    """What is text among the API's own words, where there should be none."""
    return ((path, text) for path, text in json.strings(value, at) if not HANDLE.fullmatch(text))


def others(key: str, value: Any, at: Path) -> Iterator[tuple[Path, str]]:
    """The texts of one member of a request or a response, beside `input` and `output`."""
    if key in SETTINGS:
        return setting_texts(value, at)
    if key in ("tools", "text"):
        return tool_texts(value, at)
    return texts(value, at)


def _is_handle(path: Path, text: str, more: frozenset[str] = frozenset()) -> bool:
    key = next((step for step in reversed(path) if isinstance(step, str)), "")
    if key in _BLOBS:
        return bool(BLOB.fullmatch(text))
    return (key in _HANDLES or key in more) and bool(HANDLE.fullmatch(text))


SCREENED = Screened(
    prompt=(
        "*",
        "input[].*",
        "input[].action.commands[]",
        "input[].action.queries[]",
        "input[].action.query",
        "input[].action.url",
        "input[].arguments",
        "input[].code",
        "input[].content",
        "input[].content[].*",
        "input[].content[].annotations[].title",
        "input[].content[].annotations[].url",
        "input[].content[].refusal",
        "input[].content[].text",
        "input[].error",
        "input[].input",
        "input[].name",
        "input[].output",
        "input[].output[].stderr",
        "input[].output[].stdout",
        "input[].output[].text",
        "input[].outputs[].logs",
        "input[].queries[]",
        "input[].reason",
        "input[].results[].filename",
        "input[].results[].text",
        "input[].server_label",
        "input[].summary[].text",
        "input[].tools[].description",
        "input[].tools[].name",
        "instructions",
        "metadata.*",
        "prompt.variables.*",
        "text.format.name",
        "text.format.schema.description",
        "tools[].*",
        "tools[].allowed_tools[]",
        "tools[].description",
        "tools[].format.definition",
        "tools[].name",
        "tools[].parameters.properties.*",
        "tools[].server_description",
        "tools[].server_label",
    ),
    answer=(
        "*",
        "error.code",
        "error.message",
        "instructions",
        "metadata.*",
        "output[].*",
        "output[].action.commands[]",
        "output[].action.queries[]",
        "output[].action.query",
        "output[].action.sources[].url",
        "output[].action.url",
        "output[].arguments",
        "output[].code",
        "output[].content[].*",
        "output[].content[].annotations[].filename",
        "output[].content[].annotations[].title",
        "output[].content[].annotations[].url",
        "output[].content[].refusal",
        "output[].content[].text",
        "output[].error",
        "output[].input",
        "output[].name",
        "output[].output",
        "output[].output[].stderr",
        "output[].output[].stdout",
        "output[].outputs[].logs",
        "output[].queries[]",
        "output[].results[].filename",
        "output[].results[].text",
        "output[].server_label",
        "output[].summary[].text",
        "output[].tools[].description",
        "output[].tools[].name",
        "tools[].description",
        "tools[].name",
    ),
    blocked="what came before it, then `status` `incomplete` and `incomplete_details.reason` `content_filter`; "
    "streamed, `response.incomplete`; a call that was cut is left out",
    passes='encrypted reasoning, `logprobs`, pictures where `media.generated_images = "pass"`',
)
"""What is screened, field by field."""
