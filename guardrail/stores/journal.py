"""Keep what must not be lost while the database cannot be written: one sealed line each, on the disk before it counts.

Each process has a file of its own and holds its lock while it lives, so that others can tell a journal in use from
one that a killed process left behind. Lines are kept until a transaction that holds them has been committed; whoever
reads them may meet one twice, and must know it by its id.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
from base64 import b64decode, b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from guardrail.errors import RecordError, StoreError
from guardrail.stores.rows import Sealer

_log = logging.getLogger(__name__)


class Journal:
    """A journal in `directory`, made at the first write. Not for several threads at once."""

    def __init__(self, directory: Path, sealer: Sealer) -> None:
        self._directory = directory
        self._sealer = sealer
        self._file: Path | None = None
        self._handle = -1
        self._torn = False
        self._adopted: list[tuple[Path, int]] = []

    def write(self, items: Sequence[dict[str, Any]]) -> None:
        """Append items and wait for the disk. Raises `StoreError` when that fails: then none of them counts."""
        try:
            if self._handle < 0:
                self._open()
            before = os.lseek(self._handle, 0, os.SEEK_END)
            lines = b"\n" * self._torn + b"".join(self._line(item) for item in items)
            try:
                written = 0
                while written < len(lines):
                    written += os.write(self._handle, lines[written:])
                os.fsync(self._handle)
            except OSError:
                self._torn = True  # the next write begins on a line of its own, should the cut below fail as well
                os.ftruncate(self._handle, before)
                raise
            self._torn = False
        except OSError as error:
            raise StoreError(f"journal {self._directory}: cannot be written ({error.strerror})") from error

    def read(self) -> list[dict[str, Any]]:
        """Every item of this process and of those that are gone, in the order of each one's writing."""
        self._adopt()
        items: list[dict[str, Any]] = []
        files = [*self._adopted, (self._file, self._handle)]
        for file, handle in files:
            if file is not None:
                items += self._items(file, os.pread(handle, os.fstat(handle).st_size, 0))
        return items

    def clear(self) -> None:
        """Remove what `read` returned, once it is committed elsewhere."""
        for file, _ in self._adopted:
            file.unlink(missing_ok=True)
        if self._file is not None:
            self._file.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go of the files; what is in them stays for the next process."""
        for _, handle in self._adopted:
            os.close(handle)
        self._adopted = []
        if self._handle >= 0:
            os.close(self._handle)
        self._file, self._handle, self._torn = None, -1, False

    def _open(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = self._directory / f"journal-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(folder)  # or the file's name may be lost with the power, and its lines with it
        finally:
            os.close(folder)
        self._file, self._handle = file, handle

    def _adopt(self) -> None:
        """Take over the journals whose writers are gone."""
        for file in sorted(self._directory.glob("journal-*.jsonl")):
            if file == self._file or any(file == held for held, _ in self._adopted):
                continue
            try:
                handle = os.open(file, os.O_RDWR)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                continue
            if not file.exists():  # another process adopted and removed it between our opening and our lock
                os.close(handle)
                continue
            self._adopted.append((file, handle))

    def _line(self, item: dict[str, Any]) -> bytes:
        about = secrets.token_hex(8)
        sealed = self._sealer.seal(json.dumps(item).encode(), _about(about))
        line = {"id": about, "key": self._sealer.key, "sealed": b64encode(sealed).decode()}
        return json.dumps(line).encode() + b"\n"

    def _items(self, file: Path, written: bytes) -> list[dict[str, Any]]:
        items = []
        whole, _, rest = written.rpartition(b"\n")
        if rest:
            _log.warning("%s: the last line is cut off; it was never acknowledged, and is left out", file)
        for number, line in enumerate(whole.split(b"\n"), start=1):
            if not line:
                continue
            try:
                outer = json.loads(line)
                opened = self._sealer.open(b64decode(outer["sealed"]), _about(outer["id"]), outer["key"])
                items.append(json.loads(opened))
            except (ValueError, KeyError, TypeError, RecordError) as error:
                kept = file.with_suffix(".damaged")
                _log.error("%s: line %d cannot be read (%s); kept in %s", file, number, type(error).__name__, kept)
                with kept.open("ab") as damaged:
                    damaged.write(line + b"\n")
        return items


def _about(ident: str) -> str:
    return f"journal {ident}"
