"""What surfaces that answer with no text have in common: their input is screened, and so is every text beside what
they answer with (numbers, pictures, sound), which passes as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from guardrail.core.content import Content, Direction, Path, Segment
from guardrail.core.surface import Ending, Event, Notice, Piece, Prompt, Screened
from guardrail.errors import MalformedRequest, MalformedResponse
from guardrail.wire import fields, json, sse
from guardrail.wire.errors import openai_error

WHOLE = -1  # the choice of text that belongs to the answer as a whole
_IDENTITY = frozenset({"user", "safety_identifier"})
_STOPPED = Notice(400, "content_filter", "The answer was stopped because it goes against the rules of this service.")


class Textless:
    """A dialect whose answers hold no text of a model, but for what stands beside them.

    `inputs` are the request's fields that a model reads, the first of them required; `words` the fields of requests
    and answers that hold a word of the API or a handle, and are texts only where they read like one; `blobs` the
    answer's fields that hold what cannot be read.
    """

    surface: str
    paths: tuple[str, ...]
    screened: Screened
    media: str
    inputs: tuple[str, ...]
    words: frozenset[str]
    blobs: frozenset[str] = frozenset()
    streams = True

    # -- the request ---------------------------------------------------------------------------------------------

    def read_prompt(self, body: bytes) -> Prompt:
        """Read a request body; raises `MalformedRequest`, or `Unreadable` for an input that is not text."""
        request = fields.read_request(body)
        segments = [Segment(text, "user", path) for path, text in self.input_texts(request) if text]
        rest = {key: value for key, value in request.items() if key not in _IDENTITY and key not in self.inputs}
        segments += [Segment(text, "user", path, False) for path, text in fields.texts(rest, self.words)]
        return Prompt(
            content=Content(Direction.PROMPT, tuple(segments)),
            stream=self.streams and fields.flag(request, "stream"),
            choices=fields.count(request, "n"),
            end_user=fields.end_user(request),
            media=self.media,
        )

    def input_texts(self, request: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
        """The texts of `inputs` and where they stand."""
        for key in self.inputs:
            value = request.get(key)
            if isinstance(value, str):
                yield (key,), value
            elif value is not None or key == self.inputs[0]:
                raise MalformedRequest(f"{key}: expected text", param=key)

    def write_prompt(self, body: bytes, texts: Mapping[Path, str]) -> bytes:
        """The request with the texts at these paths changed and every other value as it came."""
        return json.replace(body, texts)

    # -- the answer ----------------------------------------------------------------------------------------------

    def read_reply(self, body: bytes) -> Event:
        """Read a whole answer; raises `MalformedResponse`."""
        return Event(body, tuple(self._pieces(fields.read_answer(body))), last=True)

    def write_reply(
        self,
        event: Event,
        texts: Mapping[Path, str],
        stopped: Mapping[int, Ending],
        affixes: Mapping[int, str],
        member: bytes,
    ) -> bytes:
        """The answer with changed texts, without the blobs of what is stopped, and with the `guardrail` object."""
        changes: dict[Path, Any] = dict(texts)
        if stopped:
            for position, item in enumerate(fields.read_answer(event.raw).get("data") or ()):
                if isinstance(item, dict) and (position in stopped or WHOLE in stopped):
                    changes |= {("data", position, key): None for key in self.blobs & item.keys()}
        return json.add_member(json.replace(event.raw, changes), "guardrail", member)

    def read_event(self, raw: bytes) -> Event:
        """Read one event of a stream; raises `MalformedResponse` for one that cannot be understood."""
        payload = sse.data(raw)
        if payload is None:
            return Event(raw)
        if not self.streams:
            raise MalformedResponse("the upstream sent a stream where its surface has none")
        if payload.strip() == b"[DONE]":
            return Event(raw, last=True)
        chunk = fields.read_answer(payload)
        if "error" in chunk:
            raise MalformedResponse("the upstream reported an error within its stream")
        kind = str(chunk.get("type"))
        pieces = tuple(piece._replace(lane=(WHOLE, *piece.path)) for piece in self._pieces(chunk))
        return Event(raw, pieces, {0: kind} if kind.endswith((".completed", ".done")) else {})

    def write_event(self, event: Event, texts: Mapping[Path, str]) -> bytes:
        """The event with the texts at these paths changed."""
        payload = sse.data(event.raw)
        if payload is None:
            return event.raw
        return sse.event_like(json.replace(payload, texts), event.raw)

    def mark_event(self, raw: bytes, member: bytes) -> bytes:
        """The event with the `guardrail` object spliced into it."""
        return json.add_member(raw, "guardrail", member)

    def delta(self, like: bytes | None, choice: int, text: str) -> bytes:
        """Nothing: there is no text to add to."""
        return b""

    def close(self, like: bytes | None, choices: Sequence[int], member: bytes) -> bytes:
        """The event that ends a stream we stopped: an error, since these surfaces have no other end to give."""
        return b"event: error\n" + self.mark_event(sse.event(openai_error(_STOPPED)), member)

    def note(self, like: bytes | None, member: bytes) -> bytes:
        """Nothing: the `guardrail` object rides on the event that completes an answer, and on no other."""
        return b""

    def _pieces(self, answer: Mapping[str, Any]) -> Iterator[Piece]:
        """Every text beside the blobs; those of one item of `data` are its own choice's."""
        for key, value in answer.items():
            if key == "data" and isinstance(value, list):
                for position, item in enumerate(value):
                    below = item if isinstance(item, dict) else {"item": item}
                    for path, text in self._texts(below, ("data", position)):
                        place = path if isinstance(item, dict) else path[:2] + path[3:]
                        yield Piece((position, *place[2:]), text, place)
            else:
                for path, text in self._texts({key: value}, ()):
                    yield Piece((WHOLE, *path), text, path)

    def _texts(self, holder: Mapping[str, Any], at: Path) -> Iterator[tuple[Path, str]]:
        rest = {key: value for key, value in holder.items() if key not in self.blobs or not is_blob(value)}
        return fields.texts(rest, self.words, at)

    # -- answers of our own --------------------------------------------------------------------------------------

    def answer(self, prompt: Prompt, text: str, reason: str, ident: str, member: bytes) -> None:
        """None: these surfaces have no words to answer with."""
        return

    def error(self, notice: Notice) -> bytes:
        """An error body in the surface's shape."""
        return openai_error(notice)

    def stream_error(self, notice: Notice) -> bytes:
        """An error that breaks a stream already begun."""
        return sse.event(openai_error(notice))


def is_blob(value: Any) -> bool:
    """Whether `value` is base64 or a URL, as far as a glance tells: one word of ASCII."""
    return isinstance(value, str) and value.isascii() and len(value.split(None, 1)) == 1
