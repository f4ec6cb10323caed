"""What a client says it would rather have: Accept and Accept-Language (RFC 9110, 12.5)."""

from __future__ import annotations

from collections.abc import Iterator

LANGUAGES = ("en", "zh")


def language(accept: bytes) -> str:
    """The better of our languages for an Accept-Language header; English if it says nothing."""
    if not accept:
        return "en"
    best, best_weight = "en", 0.0
    for tag, weight in _weighed(accept):
        primary = tag.split("-", 1)[0]
        if primary in LANGUAGES and weight > best_weight:
            best, best_weight = primary, weight
    return best


def prefers_page(accept: bytes) -> bool:
    """Whether an Accept header asks for a page (`text/html`) at least as much as for JSON; a program that takes
    anything (`*/*`) gets JSON."""
    page = data = 0.0
    for media, weight in _weighed(accept):
        if media in ("text/html", "application/xhtml+xml"):
            page = max(page, weight)
        elif media == "application/json":
            data = max(data, weight)
    return page > 0 and page >= data


def _weighed(header: bytes) -> Iterator[tuple[str, float]]:
    for item in header.decode("latin-1").split(","):
        name, *parameters = item.split(";")
        weight = 1.0
        for parameter in parameters:
            key, _, value = parameter.strip().partition("=")
            if key.lower() == "q":
                try:
                    weight = float(value)
                except ValueError:
                    weight = 0.0
        yield name.strip().lower(), weight
