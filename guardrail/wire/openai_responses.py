"""OpenAI responses, plain: which texts a request and an answer hold, and how to put changed ones back.

Items and members follow the API reference for `POST /v1/responses`. What stands at the upstream alone (the turns behind
`previous_response_id` or `conversation`, a stored prompt template, an item that is referred to) is not in the body and
was screened when it went through here, if it did.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from guardrail.core.content import Path
from guardrail.core.surface import Ending, Event, Notice, Piece, Prompt
from guardrail.errors import MalformedResponse
from guardrail.wire import json
from guardrail.wire.errors import openai_error
from guardrail.wire.openai_chat import join_affix
from guardrail.wire.openai_responses_events import response, written_message
from guardrail.wire.openai_responses_fields import HANDLE, SCREENED, Media, others, read_json, texts, word, write_json
from guardrail.wire.openai_responses_request import read_request
from guardrail.wire.openai_responses_stream import ResponseStream


class OpenAIResponses:
    """The dialect of `/v1/responses`."""

    surface = "openai_responses"
    paths: tuple[str, ...] = ("/v1/responses",)
    screened = SCREENED

    def __init__(self, told: frozenset[str] = frozenset(), *, pictures: bool = False) -> None:
        self._told = told  # texts of the request, which an answer may tell again
        self._pictures = pictures  # whether a picture was asked for, which passes where the settings say so

    # -- the request ---------------------------------------------------------------------------------------------

    def read_prompt(self, body: bytes) -> Prompt:
        """Read a request body; raises `MalformedRequest` or, for a part that cannot be screened, `Unreadable`."""
        return read_request(body)

    def write_prompt(self, body: bytes, texts: Mapping[Path, str]) -> bytes:
        """The request with the texts at these paths changed and every other value as it came."""
        return json.replace(body, {path: write_json(path, text) for path, text in texts.items()})

    def follow(self, prompt: Prompt) -> OpenAIResponses:
        """The dialect of the one answer to `prompt`."""
        return OpenAIResponses(prompt.told, pictures=prompt.media == "image")

    # -- an answer that comes at once ----------------------------------------------------------------------------

    def read_reply(self, body: bytes) -> Event:
        """Read a whole answer; raises `MalformedResponse`. Each text is a choice of its own, in the body's order."""
        try:
            answer = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise MalformedResponse("the upstream's answer is not JSON") from None
        output = answer.get("output") if isinstance(answer, dict) else None
        if not isinstance(output, list) or not all(isinstance(item, dict) for item in output):
            raise MalformedResponse("the upstream's answer has no list of output items")
        pieces: list[Piece] = []
        try:
            for key, value in answer.items():
                if key == "output":
                    found = list(texts(value, (key,), pictures=self._pictures))
                else:
                    found = [item for item in others(key, value, (key,)) if item[1] not in self._told]
                for path, text in found:
                    lane = ("content",) if _is_shown(output, path) else path
                    pieces.append(Piece((len(pieces), *lane), read_json(path, text), path))
        except Media:
            raise MalformedResponse("the upstream's answer holds media, which cannot be screened") from None
        return Event(body, tuple(pieces), dict.fromkeys(range(len(pieces)), "stop"), last=True)

    def write_reply(
        self,
        event: Event,
        texts: Mapping[Path, str],
        stopped: Mapping[int, Ending],
        affixes: Mapping[int, str],
        member: bytes,
    ) -> bytes:
        """The answer with changed texts, its end where it was stopped, labels and the `guardrail` object spliced in.

        A stopped answer keeps the items before the stop and, of a message, the part before it; calls and results that
        would not be whole are left out. It is `incomplete`, and `incomplete_details.reason` is `content_filter`.
        """
        changes: dict[Path, Any] = {path: write_json(path, text) for path, text in texts.items()}
        if texts or stopped or affixes:
            body = msgspec.json.decode(event.raw)
            for piece in event.pieces:
                text = changes.get(piece.path, piece.text)
                if piece.lane[0] in affixes:
                    text = changes[piece.path] = join_affix(text, affixes[int(piece.lane[0])])
                if text != piece.text and _at(body, piece.path[:-1]).get("logprobs"):
                    changes[(*piece.path[:-1], "logprobs")] = []  # they spell the text that was taken out
            if stopped:
                changes |= _stop(event, body, changes, stopped)
        return json.add_member(json.replace(event.raw, changes), "guardrail", member)

    # -- an answer that is streamed ------------------------------------------------------------------------------

    def stream(self) -> ResponseStream:
        """What one streamed answer takes."""
        return ResponseStream(self._told, pictures=self._pictures)

    def read_event(self, raw: bytes) -> Event:
        """Read one event by itself, as if nothing had come before it."""
        return self.stream().read_event(raw)

    def write_event(self, event: Event, texts: Mapping[Path, str]) -> bytes:
        """The event with the texts at these paths changed."""
        return self.stream().tell(event, {**{piece.path: piece.text for piece in event.pieces}, **texts})

    def mark_event(self, raw: bytes, member: bytes) -> bytes:
        """The event with the `guardrail` object spliced into it and into its response."""
        return self.stream().mark_event(raw, member)

    def delta(self, like: bytes | None, choice: int, text: str) -> bytes:
        """Nothing: where a text can be added is known to its stream alone."""
        return self.stream().delta(like, choice, text)

    def close(self, like: bytes | None, choices: Sequence[int], member: bytes) -> bytes:
        """The events that end a stream of which nothing has been told."""
        return self.stream().close(like, choices, member)

    def note(self, like: bytes | None, member: bytes) -> bytes:
        """A comment that carries the `guardrail` object."""
        return self.stream().note(like, member)

    # -- answers of our own --------------------------------------------------------------------------------------

    def answer(self, prompt: Prompt, text: str, reason: str, ident: str, member: bytes) -> bytes:
        """A whole answer (or stream, if one was asked for) that we give in the model's place."""
        base = response(f"resp_{ident}", int(time.time()), "guardrail")
        if prompt.stream:
            return self.stream().answer(base, text, reason, member)
        item = written_message(f"msg_{ident}", text, "completed")
        body = {**base, "status": "completed", "output": [item]}
        if reason == "content_filter":
            body |= {"status": "incomplete", "incomplete_details": {"reason": reason}}
        return json.add_member(json.encode(body), "guardrail", member)

    def error(self, notice: Notice) -> bytes:
        """An error body in the surface's shape."""
        return openai_error(notice)

    def stream_error(self, notice: Notice) -> bytes:
        """An error that breaks a stream already begun."""
        return b"event: error\ndata: " + openai_error(notice) + b"\n\n"


# -- answers ---------------------------------------------------------------------------------------------------------


def _is_shown(output: Sequence[dict[str, Any]], path: Path) -> bool:
    """Whether a text is what a user is shown as the answer."""
    if len(path) != 5 or path[0] != "output" or path[2] != "content" or path[4] != "text":
        return False
    item = output[int(path[1])]
    return item.get("type") == "message" and item["content"][path[3]].get("type") == "output_text"


def _stop(
    event: Event, body: dict[str, Any], changes: dict[Path, Any], stopped: Mapping[int, Ending]
) -> dict[Path, Any]:
    """What changes when an answer ends at its first text that was stopped."""
    ends = [piece for piece in event.pieces if piece.lane[0] in stopped]
    words = next((ending.answer for ending in stopped.values() if ending.answer), "")
    first = next((piece.path for piece in ends if piece.path[0] == "output"), None)
    output = body["output"]
    raws = msgspec.json.decode(
        msgspec.json.decode(event.raw, type=dict[str, msgspec.Raw])["output"], type=list[msgspec.Raw]
    )
    end = len(output) if first is None else int(first[1])
    kept: list[Any] = []
    for index in range(end):
        inner = {path[2:]: value for path, value in changes.items() if path[:2] == ("output", index)}
        kept.append(msgspec.Raw(json.replace(bytes(raws[index]), inner)))
    if first is not None and output[end].get("type") == "message":
        kept.append(_cut_message(output[end], first, changes, words))
        words = ""
    if words:
        kept.append(written_message("msg_guardrail", words, "completed"))
    for path in [path for path in changes if path[0] == "output"]:
        del changes[path]
    return {
        ("output",): kept,
        ("status",): "incomplete",
        ("incomplete_details",): {"reason": "content_filter"},
    }


def _cut_message(item: dict[str, Any], first: Path, changes: Mapping[Path, Any], words: str) -> dict[str, Any]:
    """A message up to the text at `first`, and `words` behind what is left of it."""
    content = item.get("content")
    parts: list[dict[str, Any]] = []
    if len(first) > 3 and first[2] == "content" and isinstance(content, list):
        for index, part in enumerate(content[: int(first[3]) + 1]):
            field = "refusal" if word(part, "type") == "refusal" else "text"
            text = changes.get((*first[:3], index, field), word(part, field))
            # What stands beside the text (notes to sources, a vendor's members) stays behind.
            more: dict[str, Any] = {"annotations": []} if field == "text" else {}
            parts.append({"type": "refusal" if field == "refusal" else "output_text", field: text, **more})
    if words:
        if parts and parts[-1]["type"] == "output_text":
            parts[-1]["text"] += words
        else:
            parts.append({"type": "output_text", "text": words, "annotations": []})
    ident = item.get("id")
    return {
        "type": "message",
        "id": ident if isinstance(ident, str) and HANDLE.fullmatch(ident) else "msg_guardrail",
        "role": "assistant",
        "status": "incomplete",
        "content": parts,
    }


def _at(value: Any, path: Path) -> Any:
    for step in path:
        value = value[step]
    return value if isinstance(value, dict) else {}
