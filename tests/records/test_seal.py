"""What is sealed opens with its key for its record, and in no other way."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from guardrail.errors import RecordError
from guardrail.records.keys import Keyring

TEXT = "把猫放进 the box".encode()


def test_what_was_sealed_opens_for_its_record() -> None:
    sealer = Keyring.throwaway().sealer
    sealed = sealer.seal(TEXT, "i1")
    assert TEXT not in sealed
    assert sealer.open(sealed, "i1", sealer.key) == TEXT
    assert sealer.open(sealer.seal(b"", "i2"), "i2", sealer.key) == b""


def test_the_same_text_is_sealed_differently_each_time() -> None:
    sealer = Keyring.throwaway().sealer
    assert len({sealer.seal(TEXT, "i1") for _ in range(100)}) == 100


def test_it_does_not_open_for_another_record_or_with_one_bit_changed_or_cut() -> None:
    sealer = Keyring.throwaway().sealer
    sealed = sealer.seal(TEXT, "i1")
    with pytest.raises(RecordError, match="i2"):
        sealer.open(sealed, "i2", sealer.key)
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(RecordError):
            sealer.open(bytes(changed), "i1", sealer.key)
    for length in (0, 5, 12, 27, len(sealed) - 1):
        with pytest.raises(RecordError):
            sealer.open(sealed[:length], "i1", sealer.key)


def test_it_is_aes_256_gcm_as_any_other_library_opens_it(tmp_path: Path) -> None:
    sealer = Keyring.open(tmp_path).sealer
    sealed = sealer.seal(TEXT, "i1")
    key = bytes.fromhex((tmp_path / "seal.key").read_text().strip())
    assert len(key) == 32
    assert AESGCM(key).decrypt(sealed[:12], sealed[12:], b"i1") == TEXT


def test_a_retired_key_still_opens_and_no_longer_seals(tmp_path: Path) -> None:
    before = Keyring.open(tmp_path).sealer
    sealed = before.seal(TEXT, "i1")
    (tmp_path / "seal.key").rename(tmp_path / "seal-2026.key")
    (tmp_path / "seal.key").write_text(secrets.token_hex(32))
    after = Keyring.open(tmp_path).sealer
    assert after.key != before.key
    assert after.open(sealed, "i1", before.key) == TEXT


def test_a_key_that_is_not_here_is_named() -> None:
    sealer = Keyring.throwaway().sealer
    with pytest.raises(RecordError, match="0123abcd"):
        sealer.open(sealer.seal(TEXT, "i1"), "i1", "0123abcd")
