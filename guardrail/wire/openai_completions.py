"""OpenAI's legacy completions, plain and streamed: prompts as text, answers as `text`.

Fields follow the API reference for `POST /v1/completions`; vLLM, llama.cpp and others speak it too, with fields of
their own. Prompts as token ids or embeddings are refused: nobody can screen what nobody can read.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from guardrail.core.content import Content, Direction, Path, Segment
from guardrail.core.surface import Ending, Event, Notice, Piece, Prompt, Screened
from guardrail.errors import MalformedRequest, MalformedResponse, Unreadable
from guardrail.wire import fields, json, sse
from guardrail.wire.errors import openai_error

_READ_APART = frozenset({"prompt", "suffix", "user", "safety_identifier", "stop"})  # no model reads the last three
_WORDS = frozenset({"model"})
_JSON_FORMATS = frozenset({"json_object", "json_schema"})
_ANSWER = frozenset({"id", "object", "model", "system_fingerprint", "service_tier"})
_CHOICE = frozenset({"finish_reason"})
_SPELLED = ("logprobs", "token_ids")
"""What says the same as a choice's text in other words: it goes when the text is changed."""
_WHOLE = -1  # the choice of text that belongs to the answer as a whole


class _Choice(msgspec.Struct, forbid_unknown_fields=True):
    text: str
    index: int = 0
    logprobs: None = None
    finish_reason: None = None
    stop_reason: None = None


class _TextEvent(msgspec.Struct, forbid_unknown_fields=True):
    """What nearly every event of a stream is: a stretch of one choice's text and nothing else that could hold any."""

    choices: tuple[_Choice]
    id: msgspec.Raw = msgspec.Raw()
    object: msgspec.Raw = msgspec.Raw()
    created: msgspec.Raw = msgspec.Raw()
    model: msgspec.Raw = msgspec.Raw()
    usage: msgspec.Raw = msgspec.Raw()
    system_fingerprint: msgspec.Raw = msgspec.Raw()


_read_text_event = msgspec.json.Decoder(_TextEvent).decode
_TEXT = ("choices", 0, "text")


class OpenAICompletions:
    """The dialect of `/v1/completions`."""

    surface = "openai_completions"
    paths: tuple[str, ...] = ("/v1/completions",)
    screened = Screened(
        prompt=("prompt", "prompt[]", "suffix", "*"),
        answer=("choices[].text", "choices[].*", "*"),
        blocked="the clean part, then `finish_reason` `content_filter`",
    )

    # -- the request ---------------------------------------------------------------------------------------------

    def read_prompt(self, body: bytes) -> Prompt:
        """Read a request body; raises `MalformedRequest`, or `Unreadable` for a prompt that is not text."""
        request = fields.read_request(body)
        if request.get("prompt_embeds") is not None:
            raise Unreadable("prompt_embeds: embeddings cannot be screened; accepted: prompt", param="prompt_embeds")
        prompts = list(_prompts(request.get("prompt")))
        segments = [Segment(text, "user", path) for path, text in prompts if text]
        suffix = request.get("suffix")
        if suffix is not None and not isinstance(suffix, str):
            raise MalformedRequest("suffix: expected text", param="suffix")
        if suffix:
            segments.append(Segment(suffix, "user", ("suffix",)))
        rest = {key: value for key, value in request.items() if key not in _READ_APART}
        segments += [Segment(text, "user", path, False) for path, text in fields.texts(rest, _WORDS)]
        wanted = request.get("response_format")
        structured = isinstance(wanted, dict) and wanted.get("type") in _JSON_FORMATS
        return Prompt(
            content=Content(Direction.PROMPT, tuple(segments)),
            stream=fields.flag(request, "stream"),
            choices=fields.count(request, "n") * max(len(prompts), 1),
            structured=structured or bool(suffix),  # what is put in between two texts has no place for a label
            end_user=fields.end_user(request),
        )

    def write_prompt(self, body: bytes, texts: Mapping[Path, str]) -> bytes:
        """The request with the texts at these paths changed and every other value as it came."""
        return json.replace(body, texts)

    # -- an answer that comes at once ----------------------------------------------------------------------------

    def read_reply(self, body: bytes) -> Event:
        """Read a whole answer; raises `MalformedResponse`."""
        answer = fields.read_answer(body)
        pieces: list[Piece] = []
        finished: dict[int, str] = {}
        for position, choice in enumerate(_choices(answer)):
            number = _number(choice, position)
            if not isinstance(choice.get("text"), str):
                raise MalformedResponse("the upstream's answer has a choice without text")
            finished[number] = str(choice.get("finish_reason") or "stop")
            tokens = _tokens(choice)
            spelled = "".join(token for _, token in tokens) == choice["text"]
            pieces += _pieces(choice, number, position, () if spelled else tokens)
        pieces += _others(answer)
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
            changes = _without_spelling(texts, choices)
            for position, choice in enumerate(choices):
                number, at = _number(choice, position), ("choices", position)
                text = texts.get((*at, "text"), choice["text"])
                ending = stopped.get(number, stopped.get(_WHOLE))
                if ending is not None:
                    text += ending.answer
                    changes[(*at, "finish_reason")] = "content_filter"
                    _drop_spelling(changes, choice, at)
                affix = affixes.get(number, "")
                text = text + affix if affix.startswith("\n") else affix + text
                if text != choice["text"]:
                    changes[(*at, "text")] = text
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
        return Event(raw, (Piece((choice.index, "content"), choice.text, _TEXT),) if choice.text else ())

    def _read_any(self, raw: bytes, payload: bytes) -> Event:
        if payload.strip() == b"[DONE]":
            return Event(raw, last=True)
        chunk = fields.read_answer(payload)
        if "error" in chunk and "choices" not in chunk:
            raise MalformedResponse("the upstream reported an error within its stream")
        pieces: list[Piece] = []
        finished: dict[int, str] = {}
        for position, choice in enumerate(_choices(chunk)):
            number = _number(choice, position)
            # Some servers spell a token before they give its text: each spelling waits for a verdict of its own.
            pieces += _pieces(choice, number, position, _tokens(choice))
            if reason := choice.get("finish_reason"):
                finished[number] = str(reason)
        pieces += _others(chunk)
        return Event(raw, tuple(pieces), finished)

    def write_event(self, event: Event, texts: Mapping[Path, str]) -> bytes:
        """The event with the texts at these paths changed."""
        payload = sse.data(event.raw)
        if payload is None:
            return event.raw
        changes = _without_spelling(texts, msgspec.json.decode(payload).get("choices", []))
        return sse.event_like(json.replace(payload, changes), event.raw)

    def mark_event(self, raw: bytes, member: bytes) -> bytes:
        """The event with the `guardrail` object spliced into it."""
        return json.add_member(raw, "guardrail", member)

    def delta(self, like: bytes | None, choice: int, text: str) -> bytes:
        """A new event that adds `text` to a choice, dressed like the upstream's own event `like`."""
        return _chunk(like, [_end(max(choice, 0), text, None)])

    def close(self, like: bytes | None, choices: Sequence[int], member: bytes) -> bytes:
        """The events that end a stream we stopped: `finish_reason` for each open choice, then the terminator."""
        ends = [_end(choice, "", "content_filter") for choice in sorted({max(c, 0) for c in choices})]
        return self.mark_event(_chunk(like, ends), member) + sse.DONE

    def note(self, like: bytes | None, member: bytes) -> bytes:
        """An event of no choice that carries the `guardrail` object, where the upstream gave no finish to ride on."""
        return self.mark_event(_chunk(like, []), member)

    # -- answers of our own --------------------------------------------------------------------------------------

    def answer(self, prompt: Prompt, text: str, reason: str, ident: str, member: bytes) -> bytes:
        """A whole answer (or stream, if one was asked for) that we give in the model's place."""
        base = {"id": f"cmpl-{ident}", "object": "text_completion", "created": int(time.time()), "model": "guardrail"}
        if not prompt.stream:
            usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
            body = {**base, "choices": [_end(0, text, reason)], "usage": usage}
            return json.add_member(json.encode(body), "guardrail", member)
        like = sse.event(json.encode(base))
        closing = self.mark_event(_chunk(like, [_end(0, "", reason)]), member)
        return _chunk(like, [_end(0, text, None)]) + closing + sse.DONE

    def error(self, notice: Notice) -> bytes:
        """An error body in the surface's shape."""
        return openai_error(notice)

    def stream_error(self, notice: Notice) -> bytes:
        """An error that breaks a stream already begun."""
        return sse.event(openai_error(notice))


def _prompts(value: Any) -> Iterator[tuple[Path, str]]:
    if value is None:
        return
    if isinstance(value, str):
        yield ("prompt",), value
        return
    if not isinstance(value, list):
        raise MalformedRequest("prompt: expected text or a list of texts", param="prompt")
    for index, item in enumerate(value):
        if not isinstance(item, str):
            at = "prompt" if isinstance(item, int) else f"prompt[{index}]"
            raise Unreadable(f"{at}: token ids cannot be screened; accepted: text or a list of texts", param=at)
        yield ("prompt", index), item


def _choices(body: dict[str, Any]) -> list[dict[str, Any]]:
    choices = body.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise MalformedResponse("the upstream's answer has no list of choices")
    return choices


def _number(choice: dict[str, Any], position: int) -> int:
    number = choice.get("index", position)
    if not isinstance(number, int):
        raise MalformedResponse("the upstream's answer has a choice whose index is not a number")
    return number


def _tokens(choice: dict[str, Any]) -> list[tuple[int, str]]:
    """The tokens that `logprobs` spell a choice's text with, and their places."""
    logprobs = choice.get("logprobs")
    tokens = logprobs.get("tokens") if isinstance(logprobs, dict) else None
    if not isinstance(tokens, list):
        return []
    return [(index, token) for index, token in enumerate(tokens) if isinstance(token, str) and token]


def _pieces(choice: dict[str, Any], number: int, position: int, tokens: Sequence[tuple[int, str]]) -> Iterator[Piece]:
    at = ("choices", position)
    text = choice.get("text")
    if isinstance(text, str) and text:
        yield Piece((number, "content"), text, (*at, "text"))
    for index, token in tokens:
        yield Piece((number, "tokens"), token, (*at, "logprobs", "tokens", index))
    rest = {key: value for key, value in choice.items() if key not in ("text", "logprobs")}
    for path, found in fields.texts(rest, _CHOICE, at):
        yield Piece((number, *path[len(at) :]), found, path)


def _others(answer: dict[str, Any]) -> Iterator[Piece]:
    """Texts beside the choices."""
    rest = {key: value for key, value in answer.items() if key not in ("choices", "usage")}
    for path, found in fields.texts(rest, _ANSWER):
        yield Piece((_WHOLE, *path), found, path)


def _without_spelling(texts: Mapping[Path, str], choices: Sequence[dict[str, Any]]) -> dict[Path, Any]:
    """The changes, with everything dropped that spells the text of a choice as it was."""
    changes: dict[Path, Any] = {path: text for path, text in texts.items() if path[2:3] != ("logprobs",)}
    for position in {int(path[1]) for path in texts if path[0] == "choices"}:
        _drop_spelling(changes, choices[position], ("choices", position))
    return changes


def _drop_spelling(changes: dict[Path, Any], choice: Mapping[str, Any], at: Path) -> None:
    for key in _SPELLED:
        if choice.get(key) is not None:
            changes[(*at, key)] = None


def _end(choice: int, text: str, reason: str | None) -> dict[str, Any]:
    return {"text": text, "index": choice, "logprobs": None, "finish_reason": reason}


def _chunk(like: bytes | None, choices: list[dict[str, Any]]) -> bytes:
    payload = sse.data(like) if like else None
    base = msgspec.json.decode(payload) if payload else {"id": "cmpl-guardrail", "created": int(time.time())}
    kept = {key: base[key] for key in ("id", "object", "created", "model", "system_fingerprint") if key in base}
    return sse.event(json.encode({"object": "text_completion", **kept, "choices": choices}))
