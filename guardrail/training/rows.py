"""Labelled rows: reading them from JSON Lines, and drawing a capped and balanced mix of them. It knows no model."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from guardrail.errors import SettingsError
from guardrail.training.config import Quota

LABELS = ("safe", "unsafe", "borderline")
_EXPECTED = "expected one JSON object a line"


class Row(msgspec.Struct, frozen=True):
    """One labelled text. `cls` is its harm ('' unknown), `cls2` the harm under a jailbreak, `pair` its twin's key."""

    text: str
    label: str
    lang: str = ""
    kind: str = ""
    cls: str = ""
    cls2: str = ""
    source: str = ""
    pair: str = ""
    id: str = ""
    license: str = ""


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, JSON object) of a .jsonl or .jsonl.gz file; blank lines are passed over.

    Raises SettingsError naming file and line where the file is missing, is no gzip, or a line is no JSON object.
    """
    line_number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
            for line_number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)
                except ValueError as error:
                    raise SettingsError(f"{path}: line {line_number}: not JSON ({error}); {_EXPECTED}") from None
                if not isinstance(value, dict):
                    raise SettingsError(f"{path}: line {line_number}: a JSON {type(value).__name__}; {_EXPECTED}")
                yield line_number, value
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file; expected JSON Lines, plain or .gz") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: after line {line_number}: not UTF-8 ({error.reason})") from None
    except (EOFError, zlib.error) as error:
        raise SettingsError(f"{path}: after line {line_number}: broken gzip data ({error})") from None
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror or error}; expected JSON Lines, plain or .gz") from None


def read_rows(path: Path, where: Mapping[str, str] | None = None, *, strict: bool = False) -> list[Row]:
    """Read labelled rows, keeping those whose fields hold the values of `where`.

    A row without a field of `where` is kept, or with `strict` left out. A row without `source` takes the file's
    name, so that quotas can name it. Raises SettingsError with file, line, and what was expected.
    """
    rows = []
    name = path.name.split(".")[0]
    for number, value in read_objects(path):
        if any(str(value[key]) != wanted if key in value else strict for key, wanted in (where or {}).items()):
            continue
        text, label = value.get("text"), value.get("label")
        if not isinstance(text, str):
            raise SettingsError(f'{path}: line {number}: "text" is {_shown(text)}; expected a string')
        if label not in LABELS:
            raise SettingsError(f'{path}: line {number}: "label" is {_shown(label)}; expected {", ".join(LABELS)}')
        for key in ("lang", "kind", "cls", "cls2", "source", "pair", "license"):
            if not isinstance(value.get(key) or "", str):
                raise SettingsError(f'{path}: line {number}: "{key}" is {_shown(value[key])}; expected a string')
        rows.append(
            Row(
                text=text,
                label=label,
                lang=value.get("lang") or "",
                kind=value.get("kind") or "",
                cls=value.get("cls") or "",
                cls2=value.get("cls2") or "",
                source=value.get("source") or name,
                pair=value.get("pair") or "",
                id=str(value.get("id") or number),
                license=value.get("license") or "",
            )
        )
    return rows


def split_holdout(rows: Iterable[Row], source: str | None, share: float) -> tuple[list[Row], list[Row]]:
    """Part the rows of `source` into (kept, held back), twins always together.

    The choice hangs on the pair's own name and nothing else: more rows, another order or another seed move none.
    """
    kept: list[Row] = []
    held: list[Row] = []
    for row in rows:
        if row.source == source:
            digest = hashlib.blake2b((row.pair or row.id).encode(), digest_size=8).digest()
            if int.from_bytes(digest) < share * 2**64:
                held.append(row)
                continue
        kept.append(row)
    return kept, held


def draw_mix(rows: Sequence[Row], mix: Sequence[Quota], limit: int, seed: int) -> list[Row]:
    """Draw at most `limit` rows under the quotas, each spread evenly over the classes it holds, texts once only."""
    pools: dict[int, list[Row]] = defaultdict(list)
    seen: set[str] = set()
    for row in rows:
        place = next((i for i, quota in enumerate(mix) if _fits(quota, row)), None)
        if place is not None and row.text not in seen:
            seen.add(row.text)
            pools[place].append(row)
    drawn: list[Row] = []
    for place in sorted(pools):
        dice = random.Random(f"{seed}:{place}")
        by_class: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in pools[place]:
            by_class[row.cls, row.cls2].append(row)
        queues = [by_class[key] for key in sorted(by_class)]
        for queue in queues:
            dice.shuffle(queue)
        room = mix[place].rows
        # Round robin: a rare class is taken whole before a common one fills the quota.
        while room and queues:
            for queue in queues[:room]:
                drawn.append(queue.pop())
                room -= 1
            queues = [queue for queue in queues if queue]
    random.Random(f"{seed}:mix").shuffle(drawn)
    return drawn[:limit]


def _fits(quota: Quota, row: Row) -> bool:
    return quota.source == row.source and all(
        wanted is None or wanted == got
        for wanted, got in (
            (quota.label, row.label),
            (quota.lang, row.lang),
            (quota.kind, row.kind),
            (quota.cls, row.cls),
        )
    )


def _shown(value: object) -> str:
    """A value as it may appear in an error: its type and, when short, itself (texts stay out of logs)."""
    if value is None:
        return "missing"
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return shown if len(shown) <= 24 else f"a {type(value).__name__} of {len(shown)} characters"
