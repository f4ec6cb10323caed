"""A runtime guardrail for services built on generative models: the public names, and nothing else.

Names are loaded when they are first used (PEP 562), so that `import guardrail` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guardrail.app import Guard
    from guardrail.core.content import Direction
    from guardrail.core.findings import Finding
    from guardrail.core.policy import Action
    from guardrail.core.verdict import Verdict
    from guardrail.gateway.middleware import GuardrailMiddleware
    from guardrail.settings import Settings

__version__ = "0.1.0"

__all__ = ["Action", "Direction", "Finding", "Guard", "GuardrailMiddleware", "Settings", "Verdict", "__version__"]

_HOMES = {
    "Action": "guardrail.core.policy",
    "Direction": "guardrail.core.content",
    "Finding": "guardrail.core.findings",
    "Guard": "guardrail.app",
    "GuardrailMiddleware": "guardrail.gateway.middleware",
    "Settings": "guardrail.settings",
    "Verdict": "guardrail.core.verdict",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'guardrail' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
