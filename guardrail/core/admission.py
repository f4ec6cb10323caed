"""Who asks, and whether they may. Pure."""

from __future__ import annotations

from typing import NamedTuple


class Subject(NamedTuple):
    """Whom a request is counted against.

    `key` is a keyed hash (hex) of the strongest identity the request carries, never a raw credential. `kind` names
    that identity: end_user, api_key or address. A `shared` subject stands for many people (a key that is shared, an
    address alone): it may be limited, never suspended.
    """

    tenant: str
    key: str
    kind: str = "api_key"
    shared: bool = False
