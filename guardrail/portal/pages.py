"""Answers of the portal: a page for people, JSON for programs, both with headers that let a browser do nothing else.

Pages hold no scripts and load nothing. Every value in them is escaped by the template engine.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from math import ceil
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from guardrail.portal.words import word
from guardrail.wire.negotiation import language, prefers_page

if TYPE_CHECKING:
    from jinja2 import Environment

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.6 system-ui, "PingFang SC", "Microsoft YaHei", sans-serif; max-width: 46rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; }
dt { font-weight: 600; } dd { margin: 0; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; vertical-align: top; padding: .3rem .5rem;
  border-bottom: 1px solid #8885; } code { overflow-wrap: anywhere; font-size: .85em; }
textarea { width: 100%; box-sizing: border-box; font: inherit; } button { font: inherit; padding: .4rem 1.2rem; }
nav, footer { margin-top: 2.5rem; font-size: .9rem; } .note { border-left: 4px solid #888; padding-left: 1rem; }
"""


def headers(*, page: bool, private: bool) -> dict[str, str]:
    """The headers of an answer. A `private` one is kept nowhere; its address, which holds a secret, goes nowhere."""
    policy = ["default-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"]
    policy += [f"style-src '{_style_hash()}'", "form-action 'self'"] if page else ["form-action 'none'"]
    return {
        "content-security-policy": "; ".join(policy),
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "vary": "accept, accept-language",
        "cache-control": "no-store" if private else "no-cache",
        **({"x-robots-tag": "noindex"} if private else {}),
    }


def language_of(request: Request) -> str:
    """The language that a request asks for: zh or en."""
    return language(request.headers.get("accept-language", "").encode("latin-1"))


def wants_page(request: Request) -> bool:
    """Whether a request comes from a browser."""
    return prefers_page(request.headers.get("accept", "").encode("latin-1"))


def answer(
    request: Request, template: str, data: Mapping[str, Any], *, status: int = 200, private: bool = True, **context: Any
) -> Response:
    """`data` as JSON, or the page `template` makes of `data` and `context`, as the client would rather have it."""
    page = wants_page(request)
    sent = headers(page=page, private=private)
    if not page:
        return JSONResponse(dict(data), status, sent)
    return HTMLResponse(render(template, language_of(request), **data, **context), status, sent)


def problem(request: Request, status: int, code: str, *, retry_after: float | None = None) -> Response:
    """An answer that says in one sentence why there is no other."""
    lang = language_of(request)
    said = word(f"problem.{code}", lang)
    error = {"error": {"message": said, "type": "guardrail", "code": code, "param": None}}
    made = answer(request, "problem.html", error, status=status, said=said)
    if retry_after is not None:
        made.headers["retry-after"] = str(max(1, ceil(retry_after)))
    return made


def see_other(address: str) -> Response:
    """Send a browser on after a form, so that loading the page again files nothing again."""
    return RedirectResponse(address, 303, headers(page=True, private=True))


def render(template: str, lang: str, **context: Any) -> str:
    """A page in a language. Context that the template asks for and does not get is an error of ours."""
    made = _environment().get_template(template)
    # Our own constant, whose hash the policy above names: it has nothing to escape.
    return made.render(lang=lang, t=lambda key, **values: word(key, lang, **values), **context)


def moment(at: float | None) -> str | None:
    """A time as programs read it (ISO 8601, UTC)."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@lru_cache(maxsize=1)
def _style_hash() -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()


@lru_cache(maxsize=1)
def _environment() -> Environment:
    # Imported at the first page: a proxy that shows none need not hold it.
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    made = Environment(
        loader=PackageLoader("guardrail.portal"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.globals["style"] = Markup(STYLE)
    made.filters["readable"] = lambda at: at.replace("T", " ").replace("Z", " UTC")
    return made
