"""What a surface says it screens is what it screens: its `screened` table against a body that holds every field.

`surfaces/<surface>.json` has one request (or several, where fields exclude each other), one answer and, where there
are streams, their events (each an object, or an SSE event as text), with every field of the API's reference and one
unknown field (`x_unknown`) beside each group of them. `TEXT` is what must be screened; every other text in there is a
handle or a choice of the API's own words.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from guardrail.app import own_dialects
from guardrail.core.content import Path as Place
from guardrail.protocols import Dialect
from guardrail.wire import jsonl, sse

SURFACES = Path(__file__).parent / "surfaces"
DIALECTS = pytest.mark.parametrize("dialect", own_dialects(), ids=lambda dialect: dialect.surface)


def sample(dialect: Dialect) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SURFACES / f"{dialect.surface}.json").read_text(encoding="utf-8"))
    return found


def pattern(path: Place) -> str:
    """A path as the tables write it: `choices[].message.content`."""
    out = ""
    for step in path:
        if isinstance(step, int):
            out += "[]"
        elif step.startswith("x_"):
            return f"{out}.*".lstrip(".")
        else:
            out += f".{step}"
    return out.lstrip(".")


def event(dialect: Dialect, raw: dict[str, Any] | str) -> bytes:
    if isinstance(raw, str):
        return raw.encode()
    frame = jsonl.event if getattr(dialect, "framing", None) is jsonl.FRAMING else sse.event
    return frame(json.dumps(raw).encode())


def fields(value: Any) -> set[str]:
    """Every place in `value` that holds TEXT, as the tables write it."""

    def walk(item: Any, path: Place) -> Any:
        if item == "TEXT" or (isinstance(item, dict) and path[-1:] == ("arguments",) and "TEXT" in json.dumps(item)):
            yield pattern(path)  # a call's arguments are one text, with their names
        elif isinstance(item, dict | list):
            for key, below in item.items() if isinstance(item, dict) else enumerate(item):
                yield from walk(below, (*path, key))

    return set(walk(value, ()))


@DIALECTS
def test_every_text_of_a_prompt_is_screened_and_the_table_says_so(dialect: Dialect) -> None:
    written = sample(dialect)["prompt"]
    found = set()
    for body in written if isinstance(written, list) else [written]:
        segments = dialect.read_prompt(json.dumps(body).encode()).content.segments
        screened = {pattern(segment.path) for segment in segments if "TEXT" in segment.text}
        assert screened == fields(body)
        found |= screened
    assert found == set(dialect.screened.prompt)  # type: ignore[attr-defined]


@DIALECTS
def test_every_text_of_an_answer_is_screened_and_the_table_says_so(dialect: Dialect) -> None:
    body = sample(dialect)["reply"]
    if body is None:
        return  # it answers for itself
    pieces = dialect.read_reply(json.dumps(body).encode()).pieces
    found = {pattern(piece.path) for piece in pieces if "TEXT" in piece.text}
    assert found == fields(body)
    assert found == set(dialect.screened.answer)  # type: ignore[attr-defined]


@DIALECTS
def test_every_text_of_a_stream_is_screened(dialect: Dialect) -> None:
    for raw in sample(dialect).get("events", ()):
        pieces = dialect.read_event(event(dialect, raw)).pieces
        texts = [pattern(piece.path) for piece in pieces if "TEXT" in piece.text]
        if isinstance(raw, dict):
            assert set(texts) == fields(raw)
        else:
            assert len(texts) == raw.count("TEXT")


def test_every_sample_is_of_a_surface_that_there_is() -> None:
    assert {path.stem for path in SURFACES.glob("*.json")} == {dialect.surface for dialect in own_dialects()}
