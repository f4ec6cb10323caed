"""Seal excerpts so that a copy of the database shows no text: AES-256-GCM, bound to the record they belong to.

A sealed excerpt is a 12-byte random nonce, the ciphertext and its 16-byte tag (NIST SP 800-38D). The id of its record
is the associated data: moved to another record, it does not open. One key seals at most 2**32 excerpts, far from what
a service refuses in its life; rotate by renaming `seal.key` to `seal-<anything>.key` and starting again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from guardrail.errors import RecordError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE = 12


class Sealer:
    """Seals with the current key and opens with any it knows. `digest` is the keyed hash of texts."""

    __slots__ = ("_ciphers", "_keys", "digest", "key")

    def __init__(self, keys: Mapping[str, bytes], current: str, digest: Callable[[str], str]) -> None:
        self._keys = dict(keys)
        self._ciphers: dict[str, AESGCM] = {}
        self.key = current
        self.digest = digest

    def seal(self, text: bytes, about: str) -> bytes:
        """Seal `text` for the record with id `about`, with the key called `self.key`."""
        nonce = secrets.token_bytes(NONCE)
        return nonce + self._cipher(self.key).encrypt(nonce, text, about.encode("utf-8"))

    def open(self, sealed: bytes, about: str, key: str) -> bytes:
        """What was sealed for `about` with the key called `key`.

        Raises `RecordError` when the key is not known here, or the bytes are not what was sealed for this record.
        """
        if key not in self._keys:
            raise RecordError(f"record {about}: sealed with key {key}, which is not among the keys of this folder")
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher(key).decrypt(sealed[:NONCE], sealed[NONCE:], about.encode("utf-8"))
        except (InvalidTag, ValueError):
            raise RecordError(f"record {about}: the sealed excerpt was altered, or belongs to another record") from None

    def _cipher(self, key: str) -> AESGCM:
        cipher = self._ciphers.get(key)
        if cipher is None:
            # Imported at the first refusal: 7 MB that a process which refuses nothing does not need.
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM

            cipher = self._ciphers[key] = AESGCM(self._keys[key])
        return cipher
