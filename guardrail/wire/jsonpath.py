"""Where texts stand in a JSON body, as people write it: the part of JSONPath (RFC 9535) that names places.

`$` is the body; behind it come names (`.question`, `['a name']`), indices (`[0]`, `[-1]`) and wildcards (`.*`, `[*]`).
Slices, filters, unions and descendants (`..`) are refused: what they choose is hard to foresee and costly to look for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from guardrail.core.content import Path

WORDS = "a JSONPath of names, indices and wildcards, such as $.question or $.history[*].text"

_NAME = re.compile(r"\.([A-Za-z_\u0080-\ud7ff\ue000-\U0010ffff][0-9A-Za-z_\u0080-\ud7ff\ue000-\U0010ffff]*)")
_INDEX = re.compile(r"\[\s*(0|-?[1-9][0-9]{0,8})\s*\]")
_WILDCARD = re.compile(r"\.\*|\[\s*\*\s*\]")
_DOUBLE = re.compile(r"\[\s*(\"(?:[^\"\\]|\\.)*\")\s*\]")
_SINGLE = re.compile(r"\[\s*'((?:[^'\\]|\\.)*)'\s*\]")


class JSONPath(NamedTuple):
    """A path that was read: a name, an index, or none for a wildcard at each step."""

    text: str
    steps: tuple[str | int | None, ...]

    @property
    def singular(self) -> bool:
        """Whether it names one place at most."""
        return None not in self.steps

    def find(self, value: Any) -> Iterator[tuple[Path, Any]]:
        """Every place in `value` that it names, in the order of the body, with what stands there."""
        yield from _find(value, self.steps, ())

    def holding(self, value: Any) -> Any:
        """The smallest body that has `value` there; a wildcard is the only item of a list."""
        for step in reversed(self.steps):
            if isinstance(step, str):
                value = {step: value}
            else:
                value = [None] * (step or 0) + [value]
        return value


def parse(text: str) -> JSONPath:
    """Read a path; raises `ValueError`, which says where it cannot be read and what is accepted."""
    at = 1
    if not text.startswith("$"):
        raise ValueError(f'"{text}": expected $ at the start, for the body')
    steps: list[str | int | None] = []
    while at < len(text):
        if match := _NAME.match(text, at):
            steps.append(match[1])
        elif match := _INDEX.match(text, at):
            steps.append(int(match[1]))
        elif match := _WILDCARD.match(text, at):
            steps.append(None)
        elif match := _DOUBLE.match(text, at):
            steps.append(_unescaped(match[1], text))
        elif match := _SINGLE.match(text, at):
            inner = re.sub(r"\\(.)|\"", lambda found: _requoted(found), match[1])
            steps.append(_unescaped(f'"{inner}"', text))
        else:
            raise ValueError(f'"{text}": cannot be read from "{text[at:]}" on; expected {WORDS}')
        at = match.end()
    return JSONPath(text, tuple(steps))


def _find(value: Any, steps: tuple[str | int | None, ...], at: Path) -> Iterator[tuple[Path, Any]]:
    if not steps:
        yield at, value
        return
    step, rest = steps[0], steps[1:]
    if isinstance(value, dict):
        if step is None:
            for name, item in value.items():
                yield from _find(item, rest, (*at, name))
        elif isinstance(step, str) and step in value:
            yield from _find(value[step], rest, (*at, step))
    elif isinstance(value, list):
        if step is None:
            for index, item in enumerate(value):
                yield from _find(item, rest, (*at, index))
        elif isinstance(step, int) and -len(value) <= step < len(value):
            index = step % len(value)
            yield from _find(value[index], rest, (*at, index))


def _requoted(found: re.Match[str]) -> str:
    """One character of a name in single quotes, as it stands in double quotes."""
    if found[0] == '"':
        return '\\"'
    return "'" if found[1] == "'" else found[0]


def _unescaped(quoted: str, text: str) -> str:
    try:
        return str(json.loads(quoted))
    except ValueError:
        raise ValueError(f'"{text}": {quoted} is no name in quotes; expected the escapes of JSON') from None
