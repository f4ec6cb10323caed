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
    """A file's metrics, and the same for each of its languages, kinds and classes of harm.

    A class's metrics are of its unsafe rows beside every safe row of the file: safe rows are of no class.
    """

    by_lang: dict[str, Metrics]
    by_kind: dict[str, Metrics]
    by_cls: dict[str, Metrics]


class SpanMetrics(TypedDict):
    """How well one type of personal data is found; None where nothing was predicted, or nothing was there."""

    precision: float | None
    recall: float | None
    f1: float | None
    support: int


class SpanReport(TypedDict):
    """A file's span metrics by type, over all spans alike (micro), and the mean over the types that it holds (macro).

    In the mean a type of which nothing was predicted has a precision of 0.
    """

    types: dict[str, SpanMetrics]
    micro: SpanMetrics
    macro: SpanMetrics


class SpanRow(NamedTuple):
    """A text with its true spans."""

    text: str
    spans: list[Span]


class ClassifierScorer:
    """A `HarmScorer` around a classifier: the highest of the labels that its card calls harm."""

    def __init__(self, classifier: Classifier, card: ModelCard) -> None:
        self._classifier = classifier
        self._places = {
            way: [
                classifier.labels.index(label)
                for label in card.harm_labels
                if way in (card.labels[label].directions or (way,))
            ]
            for way in Direction
        }
        self.threshold: float = card.labels[card.harm_labels[0]].block

    async def score(self, texts: Sequence[str], directions: Sequence[Direction]) -> list[float]:
        rows = await self._classifier.score(texts, Priority.OFFLINE)
        return [
            max((row[place] for place in self._places[way]), default=0.0)
            for row, way in zip(rows, directions, strict=True)
        ]

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
    """Metrics of all rows, and by language, by kind and by class of harm ('unknown' where a row names none)."""
    return Report(
        **_measured(rows, scores, threshold),
        by_lang=grouped(rows, scores, threshold, lambda row: row.lang),
        by_kind=grouped(rows, scores, threshold, lambda row: row.kind),
        by_cls=_by_class(rows, scores, threshold),
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


def measure_spans(rows: Iterable[SpanRow], predictions: Iterable[Sequence[Span]]) -> SpanReport:
    """Precision, recall and F1 by type, names made alike by PII_ALIASES, and in all.

    A prediction is right when it covers at least half of a true span of its type; a true span is found when some
    prediction does that. Types come in alphabetical order, predicted ones without a true span among them.
    """
    counts: dict[str, _SpanCounts] = defaultdict(_SpanCounts)
    for row, spans in zip(rows, predictions, strict=True):
        truths = {_renamed(span) for span in row.spans}
        guesses = {_renamed(span) for span in spans}
        for truth in truths:
            counts[truth[2]].support += 1
            counts[truth[2]].found += any(_covers(guess, truth) for guess in guesses)
        for guess in guesses:
            counts[guess[2]].predicted += 1
            counts[guess[2]].right += any(_covers(guess, truth) for truth in truths)
    types = {kind: counts[kind].metrics() for kind in sorted(counts)}
    whole = _SpanCounts()
    for each in counts.values():
        whole.add(each)
    held = [found for found in types.values() if found["support"]]
    macro = SpanMetrics(
        precision=_mean([found["precision"] or 0.0 for found in held]),
        recall=_mean([found["recall"] or 0.0 for found in held]),
        f1=_mean([found["f1"] or 0.0 for found in held]),
        support=whole.support,
    )
    return SpanReport(types=types, micro=whole.metrics(), macro=macro)


class _SpanCounts:
    """True spans and how many of them were found; predictions and how many of them were right."""

    def __init__(self) -> None:
        self.support = self.found = self.predicted = self.right = 0

    def add(self, other: _SpanCounts) -> None:
        self.support += other.support
        self.found += other.found
        self.predicted += other.predicted
        self.right += other.right

    def metrics(self) -> SpanMetrics:
        precision = self.right / self.predicted if self.predicted else None
        recall = self.found / self.support if self.support else None
        both = (precision or 0.0) + (recall or 0.0)
        f1 = None if recall is None else 2 * (precision or 0.0) * recall / both if both else 0.0
        return SpanMetrics(precision=precision, recall=recall, f1=f1, support=self.support)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _by_class(rows: Sequence[Row], scores: Sequence[float], threshold: float) -> dict[str, Metrics]:
    safe = [i for i, row in enumerate(rows) if row.label == "safe"]
    parts: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        if row.label == "unsafe":
            parts[row.cls or "unknown"].append(i)
    return {
        name: _measured([rows[i] for i in chosen], [scores[i] for i in chosen], threshold)
        for name, chosen in ((name, [*parts[name], *safe]) for name in sorted(parts))
    }


def _measured(rows: Sequence[Row], scores: Sequence[float], threshold: float) -> Metrics:
    return measure([row.label == "unsafe" for row in rows], scores, threshold)


def _renamed(span: Span) -> Span:
    return span[0], span[1], PII_ALIASES.get(span[2], span[2])


def _covers(guess: Span, truth: Span) -> bool:
    shared = min(guess[1], truth[1]) - max(guess[0], truth[0])
    return guess[2] == truth[2] and shared * 2 >= truth[1] - truth[0]
