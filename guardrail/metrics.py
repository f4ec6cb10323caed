"""Every metric there is, around a registry that is passed in: nothing is registered by importing this.

Labels come from closed lists (surfaces, outcomes, rules that are loaded ...), never from a person: no metric tells
subjects apart. With several workers each process writes files into one folder, and `render` adds them up.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Generic, Literal, NamedTuple, TypeVar

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from guardrail.core.content import Direction
from guardrail.core.policy import Action
from guardrail.core.sanctions import Step
from guardrail.core.verdict import Verdict

MULTIPROC_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""The supervisor sets it in its workers' environment, before they start: the library reads it when it is imported."""

NO_POLICY = "none"
OTHER = "other"
MOST_CHILDREN = 4096
"""Label sets of one metric; what comes after counts as `other`, so that a fault cannot fill the memory."""

_FAST = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)


class Metric(NamedTuple):
    """One line of the documentation: what a scraper sees. `labels` in their order."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


TABLE = (
    Metric("guardrail_requests_total", "counter", ("surface", "outcome"), "Requests, by how they ended."),
    Metric(
        "guardrail_verdicts_total",
        "counter",
        ("direction", "action", "policy"),
        "Verdicts; one that several policies decided counts once for each, one that none did under none.",
    ),
    Metric("guardrail_rule_matches_total", "counter", ("rule", "mode"), "Verdicts in which a rule matched."),
    Metric(
        "guardrail_detector_seconds",
        "histogram",
        ("detector", "phase"),
        "Time a detector took for one text; of a stream every eighth piece is timed, for all eight.",
    ),
    Metric("guardrail_detector_failures_total", "counter", ("detector", "kind"), "Texts a detector had no answer for."),
    Metric("guardrail_overhead_seconds", "histogram", ("phase",), "Time that guarding added to a request."),
    Metric("guardrail_stream_held_seconds", "histogram", (), "Longest time that a stream's text was held back."),
    Metric("guardrail_stream_leaked_characters_total", "counter", (), "Characters sent before a verdict stopped them."),
    Metric("guardrail_queue_depth", "gauge", (), "Texts that wait for the classifier."),
    Metric("guardrail_batch_tokens", "histogram", (), "Tokens in one batch of the classifier, padding included."),
    Metric("guardrail_batch_splits_total", "counter", (), "Batches halved because the device had no memory for them."),
    Metric(
        "guardrail_classifier_cache_total",
        "counter",
        ("result",),
        "Texts that the cache of scores was asked for: hit, miss, or shared (with a scoring that was under way).",
    ),
    Metric("guardrail_sanctions", "gauge", ("step",), "Subjects under a sanction now."),
    Metric("guardrail_sanctions_total", "counter", ("step",), "Sanctions imposed."),
    Metric("guardrail_strikes_total", "counter", ("category",), "Requests that counted against their subject."),
    Metric("guardrail_bypassed_total", "counter", ("reason",), "Requests that passed without being screened."),
    Metric("guardrail_failed_closed_total", "counter", ("reason",), "Requests refused because something was away."),
    Metric("guardrail_records_dropped_total", "counter", (), "Decisions that were not kept: too many waited."),
    Metric("guardrail_policy_reloads_total", "counter", ("result",), "Attempts to load changed policies."),
    Metric("guardrail_label_missing_total", "counter", ("reason",), "Answers that left without a label they need."),
    Metric("guardrail_degraded", "gauge", ("component",), "1 while a part works on without what it needs."),
    Metric("guardrail_lexicon_items", "gauge", ("category",), "Phrases that are looked for."),
    Metric("guardrail_lexicon_age_seconds", "gauge", (), "Age of the phrase list changed last."),
)

# How a gauge of several processes becomes one number: the classifier's queue is the sum of those alive; what all
# workers read from one store or one set of policies is whatever was written last; one degraded worker is enough.
_MODES: dict[str, Literal["livesum", "livemax", "mostrecent"]] = {
    "guardrail_queue_depth": "livesum",
    "guardrail_sanctions": "mostrecent",
    "guardrail_degraded": "livemax",
    "guardrail_lexicon_items": "mostrecent",
    "guardrail_lexicon_age_seconds": "mostrecent",
}
_BUCKETS = {"guardrail_batch_tokens": _TOKENS}

# The library takes a counter's name without `_total` for a family of its own, which the gauge beside it would double;
# in the text format, where a counter's name keeps its ending, both are fine. So the gauge is renamed on its way out.
_RENAMED = {"guardrail_sanctions": "guardrail_sanctions_in_force"}
_OUTWARD = {inner: outer for outer, inner in _RENAMED.items()}

_M = TypeVar("_M", Counter, Gauge, Histogram)


class _Children(Generic[_M]):
    """A metric's children by label values: a dictionary costs a tenth of the library's own look-up."""

    __slots__ = ("_family", "_held", "_width")

    def __init__(self, family: _M, width: int) -> None:
        self._family: _M = family
        self._width = width
        self._held: dict[tuple[str, ...], _M] = {}

    def __call__(self, *values: str) -> _M:
        child = self._held.get(values)
        if child is None:
            if len(self._held) >= MOST_CHILDREN:
                values = (OTHER,) * self._width
            child = self._held[values] = self._family.labels(*values)
        return child


class Metrics:
    """What the parts call when something happened. Cheap enough for every request, safe from any thread."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self._requests = self._counters("guardrail_requests_total")
        self._verdicts = self._counters("guardrail_verdicts_total")
        self._matches = self._counters("guardrail_rule_matches_total")
        self._detectors = self._histograms("guardrail_detector_seconds")
        self._failures = self._counters("guardrail_detector_failures_total")
        self._overhead = self._histograms("guardrail_overhead_seconds")
        self._held = self._histogram("guardrail_stream_held_seconds")
        self._leaked = self._counter("guardrail_stream_leaked_characters_total")
        self._queue = self._gauge("guardrail_queue_depth")
        self._batches = self._histogram("guardrail_batch_tokens")
        self._splits = self._counter("guardrail_batch_splits_total")
        self._cache = self._counters("guardrail_classifier_cache_total")
        self._in_force = self._gauges("guardrail_sanctions")
        self._sanctions = self._counters("guardrail_sanctions_total")
        self._strikes = self._counters("guardrail_strikes_total")
        self._bypassed = self._counters("guardrail_bypassed_total")
        self._failed_closed = self._counters("guardrail_failed_closed_total")
        self._dropped = self._counter("guardrail_records_dropped_total")
        self._reloads = self._counters("guardrail_policy_reloads_total")
        self._unlabelled = self._counters("guardrail_label_missing_total")
        self._degraded = self._gauges("guardrail_degraded")
        self._lexicon = self._gauges("guardrail_lexicon_items")
        self._lexicon_age = self._gauge("guardrail_lexicon_age_seconds")

    # -- a request's way -----------------------------------------------------------------------------------------

    def request(self, surface: str, outcome: str, count: int = 1) -> None:
        """A request ended, or `count` that ended alike."""
        self._requests(surface, outcome).inc(count)

    def cleared(self, direction: str, count: int) -> None:
        """So many texts were judged in which nothing was found."""
        self._verdicts(direction, Action.ALLOW.word, NO_POLICY).inc(count)

    def verdict(self, direction: Direction, verdict: Verdict) -> None:
        """A text was judged: counts the verdict for each policy that decided it, and each rule that matched once."""
        deciding = {rule.id.partition("/")[0] for rule, _ in verdict.deciding} if verdict.action else None
        for policy in deciding or (NO_POLICY,):
            self._verdicts(direction.value, verdict.action.word, policy).inc()
        for rule in {match.rule.id: match.rule for match in verdict.matches}.values():
            self._matches(rule.id, rule.mode.value).inc()

    def overhead(self, phase: str, *seconds: float) -> None:
        """Guarding took so much of a request's time in `phase`, for one request or several."""
        _observe(self._overhead(phase), seconds)

    def bypassed(self, reason: str) -> None:
        """A request passed unread."""
        self._bypassed(reason).inc()

    def failed_closed(self, reason: str) -> None:
        """A request was refused because a part was away."""
        self._failed_closed(reason).inc()

    def records_dropped(self, count: int) -> None:
        """So many decisions were not kept."""
        self._dropped.inc(count)

    def label_missing(self, reason: str) -> None:
        """An answer left without a label that it needs."""
        self._unlabelled(reason).inc()

    # -- streams -------------------------------------------------------------------------------------------------

    def stream_held(self, seconds: float) -> None:
        """A stream ended whose text was held back for `seconds` at the longest."""
        self._held.observe(seconds)

    def stream_leaked(self, characters: int) -> None:
        """So many characters had left before the verdict that stopped them."""
        self._leaked.inc(characters)

    # -- detectors -----------------------------------------------------------------------------------------------

    def detector_ran(self, detector: str, phase: str, *seconds: float) -> None:
        """A detector spent so much on one text, or on each of several."""
        _observe(self._detectors(detector, phase), seconds)

    def detector_failed(self, detector: str, kind: str) -> None:
        """A detector gave no answer; `kind` as in `DetectorError`."""
        self._failures(detector, kind).inc()

    def queue_depth(self, texts: int) -> None:
        """So many texts wait for the classifier."""
        self._queue.set(texts)

    def batch(self, tokens: int) -> None:
        """The classifier ran a batch of `tokens`."""
        self._batches.observe(tokens)

    def batch_split(self) -> None:
        """A batch was halved: the device had no memory for it."""
        self._splits.inc()

    def classifier_cache(self, result: str, count: int) -> None:
        """The cache of scores answered so many texts with `result` (`inference.cache`)."""
        self._cache(result).inc(count)

    # -- standing ------------------------------------------------------------------------------------------------

    def struck(self, category: str) -> None:
        """A request counted against its subject."""
        self._strikes(category).inc()

    def sanctioned(self, step: Step) -> None:
        """A sanction was imposed."""
        self._sanctions(step.word).inc()

    def sanctions_in_force(self, subjects: Mapping[Step, int]) -> None:
        """How many subjects are under each step now; a step that is not named has none."""
        for step in Step:
            if step is not Step.NONE:
                self._in_force(step.word).set(subjects.get(step, 0))

    # -- what is loaded, and how it does -------------------------------------------------------------------------

    def policies_reloaded(self, result: str) -> None:
        """Changed policies were taken (`loaded`) or turned down (`kept`: the last good ones stay)."""
        self._reloads(result).inc()

    def lexicon(self, phrases: Mapping[str, int], age: float) -> None:
        """Phrases looked for, by category, and the seconds since a list last changed."""
        for category, count in phrases.items():
            self._lexicon(category).set(count)
        self._lexicon_age.set(age)

    def degraded(self, component: str, now: bool) -> None:
        """A part does without what it needs, or does so no longer."""
        self._degraded(component).set(int(now))

    # -- making the families -------------------------------------------------------------------------------------

    def _counter(self, name: str) -> Counter:
        row = _row(name, "counter")
        return Counter(name, row.meaning, row.labels, registry=self.registry)

    def _gauge(self, name: str) -> Gauge:
        row = _row(name, "gauge")
        inner, mode = _RENAMED.get(name, name), _MODES[name]
        return Gauge(inner, row.meaning, row.labels, registry=self.registry, multiprocess_mode=mode)

    def _histogram(self, name: str) -> Histogram:
        row = _row(name, "histogram")
        return Histogram(name, row.meaning, row.labels, registry=self.registry, buckets=_BUCKETS.get(name, _FAST))

    def _counters(self, name: str) -> _Children[Counter]:
        return _Children(self._counter(name), len(_row(name, "counter").labels))

    def _gauges(self, name: str) -> _Children[Gauge]:
        return _Children(self._gauge(name), len(_row(name, "gauge").labels))

    def _histograms(self, name: str) -> _Children[Histogram]:
        return _Children(self._histogram(name), len(_row(name, "histogram").labels))


def _observe(histogram: Histogram, values: Sequence[float]) -> None:
    """Observe several values. One by one each costs as much as scanning a text, so they are put into buckets here:
    by way of the library's own fields, as it has no verb for it, and one by one if it has these no longer."""
    bounds, buckets = getattr(histogram, "_upper_bounds", None), getattr(histogram, "_buckets", None)
    if len(values) < 4 or bounds is None or buckets is None:
        for value in values:
            histogram.observe(value)
        return
    histogram._sum.inc(sum(values))
    counts = Counts(bisect_left(bounds, value) for value in values)
    for bucket, count in counts.items():
        buckets[bucket].inc(count)


def _row(name: str, kind: str) -> Metric:
    return next(row for row in TABLE if row.name == name and row.kind == kind)


# -- for whoever scrapes -----------------------------------------------------------------------------------------


def render(source: CollectorRegistry | Path) -> tuple[bytes, str]:
    """The metrics in the Prometheus text format, and its content type: of this process (a registry), or of all
    workers (their folder)."""
    if isinstance(source, Path):
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(source))  # type: ignore[no-untyped-call]
    else:
        registry = source
    return generate_latest(_Outward(registry)), CONTENT_TYPE_PLAIN_0_0_4


class _Outward(CollectorRegistry):
    """A registry as scrapers see it."""

    def __init__(self, inner: CollectorRegistry) -> None:
        super().__init__()
        self._inner = inner

    def collect(self) -> Iterator[Family]:
        for inner in self._inner.collect():
            name = _OUTWARD.get(inner.name, inner.name)
            family = Family(name, inner.documentation, inner.type)
            # When each child was made is noise here, and no worker says it: one look for one process and for many.
            kept = (sample for sample in inner.samples if not sample.name.endswith("_created"))
            family.samples = [sample._replace(name=_OUTWARD.get(sample.name, sample.name)) for sample in kept]
            yield family


def prepare_folder(folder: Path) -> dict[str, str]:
    """Make the workers' folder ready (empty: numbers of an earlier run are not ours); returns what their environment
    needs in addition."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.db"):
        file.unlink()
    return {MULTIPROC_VARIABLE: str(folder)}


def worker_died(folder: Path, pids: Iterable[int]) -> None:
    """Take what dead workers said of the present out of the sums; what they counted stays counted."""
    for pid in pids:
        with contextlib.suppress(FileNotFoundError):
            mark_process_dead(pid, path=str(folder))  # type: ignore[no-untyped-call]
