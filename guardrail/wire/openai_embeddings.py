"""OpenAI embeddings: texts in, numbers out. Inputs as token ids are refused: nobody can screen what nobody can read.

Fields follow the API reference for `POST /v1/embeddings`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from guardrail.core.content import Path
from guardrail.core.surface import Event, Piece, Screened
from guardrail.errors import MalformedRequest, MalformedResponse, Unreadable
from guardrail.wire import fields
from guardrail.wire.textless import WHOLE, Textless

_BASE64 = re.compile(rb'"[A-Za-z0-9+/]*={0,2}"')


class OpenAIEmbeddings(Textless):
    """The dialect of `/v1/embeddings`."""

    surface = "openai_embeddings"
    paths: tuple[str, ...] = ("/v1/embeddings",)
    screened = Screened(
        prompt=("input", "input[]", "*"),
        answer=("data[].*", "*"),
        blocked="the vectors, with the text beside them cut",
        passes="the vectors, which hold no text",
    )
    media = "vector"
    inputs = ("input",)
    words = frozenset({"model", "encoding_format", "object"})
    streams = False

    def input_texts(self, request: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
        """The text or texts to embed; raises `MalformedRequest`, or `Unreadable` for token ids."""
        value = request.get("input")
        if isinstance(value, str):
            yield ("input",), value
            return
        if not isinstance(value, list) or not value:
            raise MalformedRequest("input: expected text or a list of texts", param="input")
        for index, item in enumerate(value):
            if not isinstance(item, str):
                at = "input" if isinstance(item, int) else f"input[{index}]"
                raise Unreadable(f"{at}: token ids cannot be screened; accepted: text or a list of texts", param=at)
            yield ("input", index), item

    def read_reply(self, body: bytes) -> Event:
        """Read a whole answer, without making numbers of its numbers; raises `MalformedResponse`."""
        try:
            answer = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
            items = msgspec.json.decode(answer.pop("data", b""), type=list[dict[str, msgspec.Raw]])
            pieces = [Piece((WHOLE, *path), text, path) for path, text in self._found(answer, ())]
            for position, item in enumerate(items):
                if "embedding" in item and _is_vector(bytes(item["embedding"])):
                    del item["embedding"]
                pieces += [Piece((position, *path), text, path) for path, text in self._found(item, ("data", position))]
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise MalformedResponse("the upstream's answer is not a list of embeddings") from None
        return Event(body, tuple(pieces), last=True)

    def _found(self, holder: Mapping[str, msgspec.Raw], at: Path) -> Iterator[tuple[Path, str]]:
        return fields.texts({key: msgspec.json.decode(raw) for key, raw in holder.items()}, self.words, at)


def _is_vector(raw: bytes) -> bool:
    """Whether JSON holds numbers and nothing else: a list without any text, or the base64 of 32-bit floats."""
    if raw.startswith(b"["):
        return b'"' not in raw
    return len(raw) % 4 == 2 and _BASE64.fullmatch(raw) is not None
