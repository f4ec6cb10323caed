"""Say who asks, from headers and peer address, before the body is read. Raw credentials go no further than here."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from guardrail.core.admission import Subject
from guardrail.errors import GuardrailError

DEFAULT_TENANT = "default"


class Unauthorized(GuardrailError):
    """Tenants are configured and the request carries no key of any of them."""


@dataclass(frozen=True, slots=True)
class TenantKey:
    """A tenant as identification needs it. `shared_key`: its key stands for many people."""

    id: str
    shared_key: bool = False


class Addresses:
    """Whose address a request comes from, where proxies of ours stand before us: `trusted` are their networks."""

    def __init__(self, trusted: tuple[str, ...] = ()) -> None:
        self._trusted = tuple(ipaddress.ip_network(network, strict=False) for network in trusted)

    def trusts(self, peer: str | None) -> bool:
        """Whether a peer is a proxy of ours."""
        if not self._trusted or not peer:
            return False
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self._trusted)

    def client(self, headers: Mapping[bytes, bytes], peer: str | None) -> str:
        """The nearest address that is not a proxy of ours: what a client writes further left is not believed."""
        hops = [hop.strip() for hop in headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")]
        address = peer
        while self.trusts(address) and hops:
            address = hops.pop() or address
        return address or "unknown"


_ANYBODY = TenantKey(DEFAULT_TENANT)


class HeaderIdentifier:
    """The default `Identifier`.

    The subject is the end user named by a trusted header, else the API key, else the peer's address (an address
    alone stands for many people: it is never suspended). The header counts only from `trusted_proxies`, or with
    `signature_header`: hex HMAC-SHA256 of the header's value under `secret`.
    """

    def __init__(
        self,
        subject_key: Callable[[str, str, str], str],
        *,
        header: str | None = "x-end-user-id",
        signature_header: str = "x-end-user-signature",
        trusted_proxies: tuple[str, ...] = (),
        secret: bytes = b"",
        tenants: Mapping[str, TenantKey] | None = None,
    ) -> None:
        self._subject_key = subject_key
        self._header = header.lower().encode() if header else None
        self._signature_header = signature_header.lower().encode()
        self._addresses = Addresses(trusted_proxies)
        self._secret = secret
        self._tenants = tenants or {}

    def identify(self, headers: Mapping[bytes, bytes], peer: str | None) -> Subject:
        """The subject of a request; raises `Unauthorized`."""
        credential = _credential(headers)
        tenant = _ANYBODY
        if self._tenants:
            found = self._tenants.get(hashlib.sha256(credential).hexdigest()) if credential else None
            if found is None:
                raise Unauthorized("the request carries no key of a tenant")
            tenant = found
        end_user = headers.get(self._header, b"") if self._header else b""
        if end_user and self._believes(end_user, headers, peer):
            return self.end_user(tenant.id, end_user.decode("latin-1"))
        if credential:
            return self._subject(tenant.id, "api_key", credential.decode("latin-1"), shared=tenant.shared_key)
        return self._subject(tenant.id, "address", self._addresses.client(headers, peer), shared=True)

    def end_user(self, tenant: str, name: str) -> Subject:
        """The subject for an end user's name that is believed."""
        return self._subject(tenant, "end_user", name, shared=False)

    def _subject(self, tenant: str, kind: str, identity: str, *, shared: bool) -> Subject:
        return Subject(tenant, self._subject_key(tenant, kind, identity), kind, shared)

    def _believes(self, end_user: bytes, headers: Mapping[bytes, bytes], peer: str | None) -> bool:
        if self._secret:
            signature = headers.get(self._signature_header, b"").decode("latin-1").lower()
            expected = hmac.new(self._secret, end_user, hashlib.sha256).hexdigest()
            if signature and hmac.compare_digest(signature, expected):
                return True
        return self._addresses.trusts(peer)


def _credential(headers: Mapping[bytes, bytes]) -> bytes:
    authorization = headers.get(b"authorization", b"")
    if authorization[:7].lower() == b"bearer ":
        return authorization[7:].strip()
    return headers.get(b"x-api-key", b"") or authorization
