"""Measure detectors on labelled files: harm scores on {text, label} rows, personal-data spans on {text, spans} rows.

It needs no torch: what scores arrives as an argument.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypedDict

from guardrail.core.content import Direction
from guardrail.errors import SettingsError
from guardrail.inference.card import ModelCard
from guardrail.protocols import Classifier, Priority
from guardrail.training.metrics import Metrics, measure
from guardrail.training.rows import Row, read_objects, read_rows

Span = tuple[int, int, str]
SpanFinder = Callable[[str], Sequence[Span]]
"""Finds personal data in a text: (start, end, type), offsets in code points."""

PII_ALIASES: Mapping[str, str] = {
    "EMAIL_ADDRESS": "EMAIL",
    "IP_ADDRESS": "IP",
    "PHONE_NUMBER": "PHONE",
    "CN_MOBILE": "PHONE",
    "CN_PHONE": "PHONE",
    "MOBILE": "PHONE",
    "IBAN_CODE": "IBAN",
    "CREDIT_CARD": "BANK_CARD",
    "CN_BANK_CARD": "BANK_CARD",
    "CN_ID_CARD": "ID_CARD",
    "CN_RESIDENT_ID": "ID_CARD",
    "RESIDENT_ID": "ID_CARD",
    "CN_PASSPORT": "PASSPORT",
    "CN_USCC": "USCC",
    "CN_LICENSE_PLATE": "LICENSE_PLATE",
    "CN_LANDLINE": "LANDLINE",
}
"""presidio's and our recognisers' names -> the names the span sets use; every other name stands for itself."""


class HarmScorer(Protocol):
    """Gives each text one harm score in [0, 1]. `threshold` is the shipped one: from it a text is blocked."""

    @property
    def threshold(self) -> float: ...

    async def score(self, texts: Sequence[str], directions: Sequence[Direction]) -> Sequence[float]: ...

    async def start(self) -> None: ...

    async def close(self) -> None: ...


class Report(Metrics):
    """A file's metrics, and the same for each of its languages and kinds."""

    by_lang: dict[str, Metrics]
    by_kind: dict[str, Metrics]


class SpanMetrics(TypedDict):
    """How well one type of personal data is found; None where nothing was predicted, or nothing was there."""

    precision: float | None
    recall: float | None
    f1: float | None
    support: int


class SpanRow(NamedTuple):
    """A text with its true spans."""

    text: str
    spans: list[Span]


class ClassifierScorer:
    """A `HarmScorer` around a classifier: the highest of the labels that its card calls harm."""

    def __init__(self, classifier: Classifier, card: ModelCard) -> None:
        self._classifier = classifier
        self._places = [classifier.labels.index(label) for label in card.harm_labels]
        self.threshold: float = card.labels[card.harm_labels[0]].block

    async def score(self, texts: Sequence[str], directions: Sequence[Direction]) -> list[float]:
        rows = await self._classifier.score(texts, Priority.OFFLINE)
        return [max(row[place] for place in self._places) for row in rows]

    async def start(self) -> None:
        await self._classifier.start()

    async def close(self) -> None:
        await self._classifier.close()


async def score_rows(
    scorer: HarmScorer, rows: Sequence[Row], *, batch: int = 64, on_done: Callable[[int], None] = lambda count: None
) -> list[float]:
    """Score rows through a started scorer, sorted by length (little padding), and return scores in the rows' order."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].text))
    scores = [0.0] * len(rows)
    for begin in range(0, len(order), batch):
        chunk = order[begin : begin + batch]
        directions = [Direction.COMPLETION if rows[i].kind == "response" else Direction.PROMPT for i in chunk]
        found = await scorer.score([rows[i].text for i in chunk], directions)
        for i, score in zip(chunk, found, strict=True):
            scores[i] = score
        on_done(len(chunk))
    return scores


def read_labelled(path: Path, where: Mapping[str, str], limit: int | None = None) -> list[Row]:
    """Rows of a file that can be judged (none borderline). Raises SettingsError, also where none is left."""
    rows = [row for row in read_rows(path, where, strict=True) if row.label != "borderline"][:limit]
    if not rows:
        asked = " and ".join(f"{key}={value}" for key, value in where.items())
        raise SettingsError(f"{path}: no row labelled safe or unsafe" + (f" with {asked}" if asked else ""))
    return rows


def report(rows: Sequence[Row], scores: Sequence[float], threshold: float) -> Report:
    """Metrics of all rows, and by language and by kind ('unknown' where a row names none)."""
    return Report(
        **_measured(rows, scores, threshold),
        by_lang=grouped(rows, scores, threshold, lambda row: row.lang),
        by_kind=grouped(rows, scores, threshold, lambda row: row.kind),
    )


def grouped(
    rows: Sequence[Row], scores: Sequence[float], threshold: float, key: Callable[[Row], str]
) -> dict[str, Metrics]:
    """Metrics of each group of rows, groups in alphabetical order."""
    parts: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        parts[key(row) or "unknown"].append(i)
    return {
        name: _measured([rows[i] for i in parts[name]], [scores[i] for i in parts[name]], threshold)
        for name in sorted(parts)
    }


def read_spans(path: Path, where: Mapping[str, str], limit: int | None = None) -> list[SpanRow]:
    """Read {text, spans: [{start, end, type}]} rows. Raises SettingsError with file, line and what was expected."""
    rows = []
    for number, value in read_objects(path):
        if any(str(value.get(key)) != wanted for key, wanted in where.items()):
            continue
        text, spans = value.get("text"), value.get("spans")
        if not isinstance(text, str) or not isinstance(spans, list):
            raise SettingsError(f"{path}: line {number}: expected text and spans: [{{start, end, type}}]")
        found = []
        for span in spans:
            start, end, kind = (
                (span.get(key) for key in ("start", "end", "type")) if isinstance(span, dict) else [None] * 3
            )
            if not (isinstance(start, int) and isinstance(end, int) and isinstance(kind, str)):
                raise SettingsError(f"{path}: line {number}: a span is no {{start, end, type}}")
            if not 0 <= start < end <= len(text):
                raise SettingsError(f"{path}: line {number}: span {start}..{end} lies outside the text of {len(text)}")
            found.append((start, end, kind))
        rows.append(SpanRow(text, found))
    if not rows:
        raise SettingsError(f"{path}: no row to measure on; expected {{text, spans}} rows")
    return rows[:limit]


def measure_spans(rows: Iterable[SpanRow], predictions: Iterable[Sequence[Span]]) -> dict[str, SpanMetrics]:
    """Precision, recall and F1 by type, names made alike by PII_ALIASES.

    A prediction is right when it covers at least half of a true span of its type; a true span is found when some
    prediction does that. Types come in alphabetical order, predicted ones without a true span among them.
    """
    support: dict[str, int] = defaultdict(int)
    predicted: dict[str, int] = defaultdict(int)
    right: dict[str, int] = defaultdict(int)
    found: dict[str, int] = defaultdict(int)
    for row, spans in zip(rows, predictions, strict=True):
        truths = {_renamed(span) for span in row.spans}
        guesses = {_renamed(span) for span in spans}
        for truth in truths:
            support[truth[2]] += 1
            found[truth[2]] += any(_covers(guess, truth) for guess in guesses)
        for guess in guesses:
            predicted[guess[2]] += 1
            right[guess[2]] += any(_covers(guess, truth) for truth in truths)
    result = {}
    for kind in sorted({*support, *predicted}):
        precision = right[kind] / predicted[kind] if predicted[kind] else None
        recall = found[kind] / support[kind] if support[kind] else None
        both = (precision or 0.0) + (recall or 0.0)
        f1 = None if recall is None else 2 * (precision or 0.0) * recall / both if both else 0.0
        result[kind] = SpanMetrics(precision=precision, recall=recall, f1=f1, support=support[kind])
    return result


def _measured(rows: Sequence[Row], scores: Sequence[float], threshold: float) -> Metrics:
    return measure([row.label == "unsafe" for row in rows], scores, threshold)


def _renamed(span: Span) -> Span:
    return span[0], span[1], PII_ALIASES.get(span[2], span[2])


def _covers(guess: Span, truth: Span) -> bool:
    shared = min(guess[1], truth[1]) - max(guess[0], truth[0])
    return guess[2] == truth[2] and shared * 2 >= truth[1] - truth[0]
