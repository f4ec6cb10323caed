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


_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    451: "permission_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def anthropic_error(notice: Notice) -> bytes:
    """`{"type": "error", "error": {"type", "message", "guardrail"}}`, as Anthropic's SDKs parse it.

    The type is the API's own word for the status; our reason code and the field it is about are in `guardrail`.
    """
    ours = {"code": notice.code, **({"param": notice.param} if notice.param else {}), **details(notice)}
    kind = _ANTHROPIC_TYPES.get(notice.status, "api_error")
    return encode({"type": "error", "error": {"type": kind, "message": notice.message, "guardrail": ours}})
