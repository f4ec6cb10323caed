"""What the public pages work with and tell: made by the composition root, shared by every request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from guardrail.core.policy import PolicySet
from guardrail.core.sanctions import Ladder
from guardrail.protocols import Store

APPEAL = "appeal"
"""The purpose of the secret that opens an incident."""
TICKET = "ticket"
"""The purpose of the secret that opens a ticket."""


@dataclass(frozen=True, slots=True)
class Service:
    """`capability(id, purpose)` is the secret of a link and `check(id, given, purpose)` compares one in constant time;
    `address(headers, peer)` is the client's address. `ladder` is none where strikes lead to nothing.

    `label_position` is none, start or end; `label_text(language)` what the visible label says.
    """

    store: Store
    policies: Callable[[], PolicySet]
    capability: Callable[[str, str], str]
    check: Callable[[str, str, str], bool]
    address: Callable[[Mapping[bytes, bytes], str | None], str]
    clock: Callable[[], float]
    new_id: Callable[[], str]
    public_url: str
    ladder: Ladder | None
    provider: str
    provider_code: str
    provider_rules: str
    profile: str
    profile_title: str
    regulated: bool
    label_headers: bool
    label_position: str
    label_text: Callable[[str], str]
