"""The keys that keep records private: made at first start, one file for each purpose, readable by their owner alone.

    subject.key      names people by a keyed hash, so that a record cannot be tried against a list of names
    digest.key       compares matched texts without keeping them
    capability.key   makes the secret of an appeal link from an incident's id
    seal.key         seals excerpts; `seal-*.key` beside it are older ones, which still open what they sealed

A file holds 32 random bytes as 64 hexadecimal digits. Lose them and old records cannot be opened or matched to
people; copy them and they can. A folder that holds some of the keys and lacks others is refused, since a new key in
the place of a lost one would silently make strangers of everyone who was ever sanctioned.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import logging
import os
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path

from guardrail.errors import SettingsError
from guardrail.records.seal import Sealer

NAMES = ("subject", "digest", "capability", "seal")
SIZE = 32

_log = logging.getLogger(__name__)


class Keyring:
    """The keys in use. `retired` are older sealing keys. Immutable; its `repr` shows key ids alone."""

    __slots__ = ("_capability", "_digest", "_subject", "ids", "sealer")

    def __init__(self, keys: Mapping[str, bytes], retired: tuple[bytes, ...] = ()) -> None:
        self._subject = keys["subject"]
        self._digest = keys["digest"]
        self._capability = keys["capability"]
        self.ids = {name: key_id(keys[name]) for name in NAMES}
        ring = {key_id(key): key for key in (*retired, keys["seal"])}
        self.sealer = Sealer(ring, self.ids["seal"], self.digest)

    def __repr__(self) -> str:
        return f"Keyring({', '.join(f'{name}={ident}' for name, ident in self.ids.items())})"

    @classmethod
    def open(cls, directory: str | os.PathLike[str], *, make: bool = True) -> Keyring:
        """Read the keys of `directory`; if it holds none, `make` them (several processes may try at once).

        Raises `SettingsError`, which names the file, for one that is missing, short, not hexadecimal or unreadable.
        """
        folder = Path(directory)
        try:
            if make:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _alone(folder) as handle:
                if make and not any(folder.glob("*.key")):
                    for name in NAMES:
                        _make(folder / f"{name}.key")
                    os.fsync(handle)  # what is sealed from now on must not outlive its key in a power cut
                _warn_if_open(folder, 0o700)
                keys = {name: _read(folder / f"{name}.key") for name in NAMES}
                retired = tuple(_read(file) for file in sorted(folder.glob("seal-*.key")))
        except OSError as error:
            raise SettingsError(
                f"keys_dir {folder}: cannot be used ({error.strerror}); expected a folder that this user may write, "
                "or one that holds " + ", ".join(f"{name}.key" for name in NAMES)
            ) from error
        return cls(keys, retired)

    @classmethod
    def throwaway(cls) -> Keyring:
        """Keys that exist nowhere else: what they hash and seal means nothing after this process."""
        return cls({name: secrets.token_bytes(SIZE) for name in NAMES})

    def subject(self, tenant: str, kind: str, identity: str) -> str:
        """The name under which records know an identity: keyed BLAKE2b (RFC 7693), 64 hexadecimal digits.

        It is made for every request, and takes a fifth of an HMAC's time.
        """
        return hashlib.blake2b(_joined(tenant, kind, identity), digest_size=32, key=self._subject).hexdigest()

    def digest(self, text: str) -> str:
        """A keyed hash (32 hexadecimal digits) by which texts can be compared without being kept."""
        return hmac.digest(self._digest, text.encode("utf-8", "surrogatepass"), "sha256")[:16].hex()

    def capability(self, ident: str, purpose: str = "appeal") -> str:
        """The unguessable part of a link (43 characters, safe in a URL): an incident's to appeal, or for another
        `purpose`, whose secrets do not open the others."""
        made = hmac.digest(self._capability, _joined(purpose, ident), "sha256")
        return urlsafe_b64encode(made).rstrip(b"=").decode("ascii")

    def check(self, ident: str, capability: str, purpose: str = "appeal") -> bool:
        """Whether `capability` is that of `ident`; takes as long for a wrong one as for the right one."""
        given = capability.encode("utf-8", "surrogatepass")
        return hmac.compare_digest(given, self.capability(ident, purpose).encode("ascii"))


def key_id(key: bytes) -> str:
    """What names a key in records without giving it away."""
    return hashlib.sha256(b"guardrail key id\0" + key).hexdigest()[:16]


def _joined(*parts: str) -> bytes:
    """The parts with their lengths, so that no two lists of parts give the same bytes."""
    return "".join([f"{len(part)}:{part}" for part in parts]).encode("utf-8", "surrogatepass")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """Hold the folder's lock, so that workers which start together make one set of keys between them."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


def _make(file: Path) -> None:
    """Write a new key so that a crash leaves either none or a whole one."""
    fresh = file.with_name(f".{file.name}-{secrets.token_hex(4)}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(handle, secrets.token_hex(SIZE).encode("ascii") + b"\n")
        os.fsync(handle)
    finally:
        os.close(handle)
    fresh.rename(file)


def _read(file: Path) -> bytes:
    try:
        written = file.read_bytes()
    except FileNotFoundError:
        raise SettingsError(
            f"{file}: missing; expected the file from a backup of its folder (a new key in its place would not know "
            "anyone who was sanctioned), or an empty folder to begin anew"
        ) from None
    _warn_if_open(file, 0o600)
    try:
        key = bytes.fromhex(written.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != SIZE:
        raise SettingsError(f"{file}: not a key; expected {2 * SIZE} hexadecimal digits")
    return key


def _warn_if_open(path: Path, expected: int) -> None:
    """Warn, not refuse: a mounted secret often cannot have the mode we would give it."""
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        _log.warning("%s has mode %04o: other users may use these keys; expected %04o", path, mode, expected)
