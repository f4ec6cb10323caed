"""Anthropic's Messages API, plain and streamed: which texts a body holds, and how to put changed ones back.

Fields follow the API reference for `POST /v1/messages`; what content blocks hold is in `anthropic_blocks`, what the
events of a stream hold in `anthropic_stream`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from guardrail.core.content import Content, Direction, Path, Segment
from guardrail.core.surface import Ending, Event, Notice, Piece, Prompt, Screened
from guardrail.errors import MalformedRequest, MalformedResponse
from guardrail.wire import json, sse
from guardrail.wire.anthropic_blocks import (
    block_texts,
    content_segments,
    definition_segments,
    message_segments,
    put,
    refused,
    texts,
    unreadable,
)
from guardrail.wire.anthropic_stream import CONTENT, AnthropicStream, ending, opening, read_event
from guardrail.wire.errors import anthropic_error
from guardrail.wire.fields import flag, is_handle, latest_turn, read_answer, read_request

_REASONS = {"stop": "end_turn", "content_filter": "refusal"}
_SAID = frozenset({"messages", "system", "tools"})
_OPTIONS = frozenset(
    {
        "model", "metadata", "stop_sequences", "service_tier", "thinking", "tool_choice", "container", "mcp_servers",
        "output_config", "output_format", "cache_control", "context_management", "inference_geo", "speed", "betas",
        "diagnostics", "anthropic_version", "anthropic_beta", "fallbacks",
    }
)  # fmt: skip
_HELD = ("text", "thinking")  # blocks of which a clean beginning is of use


class AnthropicMessages:
    """The dialect of `/v1/messages`."""

    surface = "anthropic_messages"
    paths: tuple[str, ...] = ("/v1/messages",)
    screened = Screened(
        prompt=(
            "system",
            "system[].text",
            "messages[].content",
            "messages[].content[].text",
            "messages[].content[].title",
            "messages[].content[].context",
            "messages[].content[].source",
            "messages[].content[].source.data",
            "messages[].content[].source.content",
            "messages[].content[].source.content[].text",
            "messages[].content[].thinking",
            "messages[].content[].name",
            "messages[].content[].input.*",
            "messages[].content[].content",
            "messages[].content[].content[].text",
            "messages[].content[].content[].title",
            "messages[].content[].content[].url",
            "messages[].content[].content.stdout",
            "messages[].content[].content.stderr",
            "messages[].content[].*",
            "messages[].*",
            "tools[].name",
            "tools[].description",
            "tools[].input_schema.properties.*",
            "tools[].*",
            "*",
        ),
        answer=(
            "content[].text",
            "content[].citations[].cited_text",
            "content[].citations[].document_title",
            "content[].thinking",
            "content[].name",
            "content[].input.*",
            "content[].content[].title",
            "content[].content[].url",
            "content[].content.stdout",
            "content[].content.stderr",
            "content[].*",
            "stop_details.explanation",
            "*",
        ),
        blocked="the clean part, then `stop_reason` `refusal`",
        passes="`redacted_thinking`, `encrypted_content` and signatures, which only the upstream can read",
    )

    # -- the request ---------------------------------------------------------------------------------------------

    def read_prompt(self, body: bytes) -> Prompt:
        """Read a request body; raises `MalformedRequest` or, for a part that cannot be screened, `Unreadable`."""
        request = read_request(body)
        messages = request.get("messages")
        if not isinstance(messages, list) or not messages:
            raise MalformedRequest("messages: expected a list of at least one message", param="messages")
        latest = latest_turn([message.get("role") if isinstance(message, dict) else None for message in messages])
        segments: list[Segment] = []
        if request.get("system"):
            segments += content_segments(request["system"], ("system",), "system", False)
        for index, message in enumerate(messages):
            segments += message_segments(message, index, index >= latest)
        if request.get("tools"):
            segments += definition_segments(request["tools"])
        for key, value in request.items():
            if key not in _SAID and isinstance(value, str | dict | list):
                # Choices in the API's own words, unless somebody wrote a text there.
                words = key in _OPTIONS
                found = texts(value, (key,), refused)
                segments += [Segment(t, "request", p, False) for p, t in found if not (words and is_handle(t))]
        metadata = request.get("metadata")
        end_user = metadata.get("user_id") if isinstance(metadata, dict) else None
        output = request.get("output_config")
        wanted = output.get("format") if isinstance(output, dict) else None
        return Prompt(
            content=Content(Direction.PROMPT, tuple(segments)),
            stream=flag(request, "stream"),
            structured=bool(wanted or request.get("output_format")),
            tools=bool(request.get("tools") or request.get("mcp_servers")),
            end_user=end_user if isinstance(end_user, str) and end_user else None,
        )

    def write_prompt(self, body: bytes, texts: Mapping[Path, str]) -> bytes:
        """The request with the texts at these paths changed and every other value as it came."""
        return put(body, texts)

    # -- an answer that comes at once ----------------------------------------------------------------------------

    def read_reply(self, body: bytes) -> Event:
        """Read a whole answer; raises `MalformedResponse`.

        Text blocks that follow each other are one text: the API cuts one where its citations change.
        """
        answer = read_answer(body)
        blocks = answer.get("content")
        if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
            raise MalformedResponse("the upstream's answer has no list of content blocks")
        pieces: list[Piece] = []
        behind: list[Piece] = []  # what else the blocks of one text hold
        for index, block in enumerate(blocks):
            shown = block.get("type") == "text"
            if not shown:
                pieces += behind
                behind = []
            for path, text in block_texts(block, ("content", index), unreadable):
                if shown and path[2:] == ("text",):
                    pieces.append(Piece(CONTENT, text, path))
                else:
                    (behind if shown else pieces).append(Piece((0, "blocks", *path[1:]), text, path))
        pieces += behind
        others = {key: value for key, value in answer.items() if key != "content"}
        pieces += [Piece((0, "event", *path), text, path) for path, text in texts(others, (), unreadable)]
        return Event(body, tuple(pieces), {0: str(answer.get("stop_reason") or "end_turn")}, last=True)

    def write_reply(
        self,
        event: Event,
        texts: Mapping[Path, str],
        stopped: Mapping[int, Ending],
        affixes: Mapping[int, str],
        member: bytes,
    ) -> bytes:
        """The answer with changed texts, cut where it was stopped, labelled, with the `guardrail` object spliced in."""
        body = event.raw
        if 0 in stopped:
            body = _cut(event, texts, stopped[0])
        elif texts:
            body = put(body, texts, empty=True)
        if 0 in affixes:
            body = _labelled(body, affixes[0])
        return json.add_member(body, "guardrail", member)

    # -- an answer that is streamed ------------------------------------------------------------------------------

    def stream(self) -> AnthropicStream:
        """What reads and writes the events of one stream."""
        return AnthropicStream()

    def read_event(self, raw: bytes) -> Event:
        """Read one event by itself; raises `MalformedResponse` for one that cannot be understood."""
        return read_event(raw)

    def write_event(self, event: Event, texts: Mapping[Path, str]) -> bytes:
        """The event with the texts at these paths changed; its `event:` line stays."""
        return self.stream().write_event(event, texts)

    def mark_event(self, raw: bytes, member: bytes) -> bytes:
        """The event with the `guardrail` object spliced into it."""
        return self.stream().mark_event(raw, member)

    def delta(self, like: bytes | None, choice: int, text: str) -> bytes:
        """The events of a text block of its own, the first of its message."""
        return self.stream().delta(like, choice, text)

    def close(self, like: bytes | None, choices: Sequence[int], member: bytes) -> bytes:
        """The events of a message that is refused before it has said anything."""
        return self.stream().close(like, choices, member)

    def note(self, like: bytes | None, member: bytes) -> bytes:
        """A ping that carries the `guardrail` object."""
        return self.stream().note(like, member)

    # -- answers of our own --------------------------------------------------------------------------------------

    def answer(self, prompt: Prompt, text: str, reason: str, ident: str, member: bytes) -> bytes:
        """A whole answer (or stream, if one was asked for) that we give in the model's place."""
        name, stop = f"msg_{ident}", _REASONS.get(reason, reason)
        if prompt.stream:
            return opening(name) + self.delta(None, 0, text) + ending(stop, 0, member)
        body = {
            "id": name,
            "type": "message",
            "role": "assistant",
            "model": "guardrail",
            "content": [{"type": "text", "text": text}],
            "stop_reason": stop,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
        return json.add_member(json.encode(body), "guardrail", member)

    def error(self, notice: Notice) -> bytes:
        """An error body in the surface's shape."""
        return anthropic_error(notice)

    def stream_error(self, notice: Notice) -> bytes:
        """An error that breaks a stream already begun."""
        return b"event: error\n" + sse.event(anthropic_error(notice))


def _cut(event: Event, texts: Mapping[Path, str], ending: Ending) -> bytes:
    """The answer up to the block in which it was stopped, the clean beginning of that block and the safe answer."""
    path = event.pieces[ending.piece].path
    last = int(path[1]) if path[0] == "content" else 0
    kept = {key: text for key, text in texts.items() if key[0] != "content" or int(key[1]) < last}
    members = msgspec.json.decode(put(event.raw, kept, empty=True), type=dict[str, msgspec.Raw])
    blocks = msgspec.json.decode(members["content"], type=list[msgspec.Raw])
    stopped: dict[str, Any] = msgspec.json.decode(blocks[last]) if path[0] == "content" else {}
    out = blocks[:last]
    form = str(stopped.get("type"))
    if form in _HELD:
        clean = texts.get(("content", last, form), stopped.get(form))
        if clean:
            block = {"type": form, form: clean}
            out.append(msgspec.Raw(json.encode(block if form == "text" else {**block, "signature": ""})))
    if ending.answer:
        out.append(msgspec.Raw(json.encode({"type": "text", "text": ending.answer})))
    members["content"] = msgspec.Raw(json.encode(out))
    members["stop_reason"], members["stop_sequence"] = msgspec.Raw(b'"refusal"'), msgspec.Raw(b"null")
    return json.encode(members)


def _labelled(body: bytes, affix: str) -> bytes:
    """The answer with its label behind its last text (an affix that begins with a line break) or before its first."""
    blocks = msgspec.json.decode(body)["content"]
    shown = [index for index, block in enumerate(blocks) if block.get("type") == "text"]
    if not shown:
        return body
    behind = affix.startswith("\n")
    index = shown[-1 if behind else 0]
    text = str(blocks[index]["text"])
    return json.replace(body, {("content", index, "text"): text + affix if behind else affix + text})
