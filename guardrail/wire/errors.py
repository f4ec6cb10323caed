"""Error bodies in the shapes clients know."""

from __future__ import annotations

from typing import Any

from guardrail.core.surface import Notice
from guardrail.wire.json import encode


def details(notice: Notice) -> dict[str, Any]:
    """The `guardrail` object of an error: what a program needs to act on it; only what there is."""
    found = {
        "incident": notice.incident,
        "rules": list(notice.rules) or None,
        "categories": list(notice.categories) or None,
        "appeal_url": notice.appeal_url,
        "rules_url": notice.rules_url,
        "until": notice.until,
        "retry_after": notice.retry_after,
    }
    return {key: value for key, value in found.items() if value is not None}


def openai_error(notice: Notice) -> bytes:
    """`{"error": {"message", "type", "code", "param", "guardrail"}}`, as OpenAI's SDKs parse it."""
    error = {"message": notice.message, "type": notice.type, "code": notice.code, "param": notice.param}
    return encode({"error": {**error, "guardrail": details(notice)}})
