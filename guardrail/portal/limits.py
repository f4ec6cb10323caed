"""How often one peer may ask: a bucket of tokens for each, in memory, with no clock of its own."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict


class Buckets:
    """A bucket holds `capacity` requests and fills by `per_second`. The `most` latest peers are remembered."""

    def __init__(self, *, capacity: float = 30, per_second: float = 0.5, most: int = 10_000) -> None:
        self._capacity, self._per_second, self._most = capacity, per_second, most
        self._held: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, peer: str, at: float) -> float:
        """Take one request out of a peer's bucket at `at` (seconds): 0 if there was one, else the seconds to wait."""
        key = network(peer)
        tokens, filled = self._held.get(key, (self._capacity, at))
        # A clock that goes back fills nothing, and takes nothing away.
        tokens = min(self._capacity, tokens + max(0.0, at - filled) * self._per_second)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / self._per_second
        self._held[key] = (tokens - (not wait), at)
        self._held.move_to_end(key)
        if len(self._held) > self._most:
            self._held.popitem(last=False)
        return wait


def network(peer: str) -> str:
    """What counts as one peer: an IPv4 address, or the 64 bits of an IPv6 address that one subscriber is given."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return peer
