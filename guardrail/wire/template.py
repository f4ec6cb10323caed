"""A JSON body that an operator wrote with places for what we say: `{"detail": "{message}", "id": "{incident}"}`.

A text that is one place alone becomes the value itself (a list, a number, null); within a longer text it becomes text.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from guardrail.core.surface import Notice
from guardrail.errors import WireError
from guardrail.wire import json
from guardrail.wire.errors import details

_PLACE = re.compile(r"\{([a-z_]+)\}")

NOTICE = frozenset(Notice._fields) | {"guardrail"}
"""What an error body can hold: the fields of a notice, and all of them as one object."""

CLOSING = frozenset({"code", "action", "incident", "guardrail"})
"""What the last event of a stopped stream can hold; `guardrail` is the object that answers carry."""


def parse(text: str, names: Collection[str]) -> Any:
    """Read a template; raises `ValueError` for what is not a JSON object or names a place that there is not."""
    try:
        template = json.decode(text.encode())
    except WireError as error:
        raise ValueError(str(error)) from None
    if not isinstance(template, dict):
        raise ValueError("expected a JSON object")
    for _, said in json.strings(template, ()):
        for name in _PLACE.findall(said):
            if name not in names:
                raise ValueError(f"{{{name}}} is not known; expected one of {', '.join(sorted(names))}")
    return template


def fill(template: Any, values: Mapping[str, Any]) -> Any:
    """The body with the values in their places; one that there is not is null, or nothing within a text."""
    if isinstance(template, dict):
        return {key: fill(item, values) for key, item in template.items()}
    if isinstance(template, list):
        return [fill(item, values) for item in template]
    if not isinstance(template, str):
        return template
    if match := _PLACE.fullmatch(template):
        return values.get(match[1])
    return _PLACE.sub(lambda found: _said(values.get(found[1])), template)


def of_notice(notice: Notice) -> dict[str, Any]:
    """The values of a notice, by the names of its places."""
    return {**notice._asdict(), "guardrail": {"type": notice.type, "code": notice.code, **details(notice)}}


def _said(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.encode(value).decode()
