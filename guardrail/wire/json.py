"""JSON without surprises: read strictly, change only what must change, leave every other byte of a value as it came."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from guardrail.core.content import Path
from guardrail.errors import MalformedRequest

encode = msgspec.json.encode


class _Repeated(ValueError):
    """A key that stands twice in one object: readers disagree on which counts, so neither is trusted."""


def decode(body: bytes) -> Any:
    """Decode one JSON text; raises `MalformedRequest` for what two readers could understand differently.

    Refused: bytes that are not UTF-8, a repeated key, NaN and infinities, a lone surrogate, nesting beyond what the
    interpreter reads (RFC 8259 section 4 and 8, RFC 7493).
    """
    try:
        text = body.decode("utf-8").strip(" \t\r\n")
        value, end = _DECODER.raw_decode(text)
        if end != len(text):
            raise json.JSONDecodeError("more follows", text, end)
        if "\\u" in text:
            # Only an escape can smuggle in a lone surrogate: UTF-8 itself has none.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedRequest(f"the body is not UTF-8 (byte {error.start})") from None
    except UnicodeEncodeError:
        raise MalformedRequest("the body has a lone surrogate escape; expected Unicode text") from None
    except json.JSONDecodeError as error:
        raise MalformedRequest(f"the body is not JSON (line {error.lineno}, column {error.colno})") from None
    except _Repeated:
        raise MalformedRequest("the body repeats a key within one object; each key may stand once") from None
    except RecursionError:
        raise MalformedRequest("the body is nested too deeply") from None
    except ValueError:
        raise MalformedRequest("the body has a number JSON does not define") from None
    return value


def replace(body: bytes, changes: Mapping[Path, Any]) -> bytes:
    """Put new values at `changes`' paths; values beside them keep their bytes (number forms, escapes, order).

    A member that is not there yet is added at the end of its object.
    """
    if not changes:
        return body
    if () in changes:
        return encode(changes[()])
    inner: dict[str | int, dict[Path, Any]] = {}
    for path, value in changes.items():
        inner.setdefault(path[0], {})[path[1:]] = value
    if isinstance(next(iter(inner)), str):
        members = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        for key, below in inner.items():
            members[str(key)] = msgspec.Raw(replace(bytes(members.get(str(key), b"{}")), below))
        return encode(members)
    items = msgspec.json.decode(body, type=list[msgspec.Raw])
    for index, below in inner.items():
        items[int(index)] = msgspec.Raw(replace(bytes(items[int(index)]), below))
    return encode(items)


def add_member(text: bytes, key: str, value: bytes) -> bytes:
    """Add `"key": value` as the last member of the object that ends last in `text`, leaving all else as it is."""
    end = text.rindex(b"}")
    before = text[:end]
    comma = b"" if before.rstrip().endswith(b"{") else b","
    return b"".join((before, comma, encode(key), b":", value, text[end:]))


def strings(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Every text within `value`, with where it lives; keys are the API's words, not anybody's text."""
    if isinstance(value, str):
        if value:
            yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from strings(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from strings(item, (*path, index))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _Repeated
    return value


def _constant(name: str) -> Any:
    raise ValueError(name)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
