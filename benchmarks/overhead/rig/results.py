"""Everything one run measured, and the medians and ratios of it. A ratio is the median of the rounds' own ratios."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

from rig.load import Sample
from rig.streams import StreamReport


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident MB of guardrail: when ready, after the load, after a text that its PII detector takes to presidio."""

    idle_mb: float
    loaded_mb: float
    presidio_mb: float
    presidio_loaded: bool


@dataclass(slots=True)
class Results:
    samples: dict[tuple[str, str], list[Sample]] = field(default_factory=dict)  # (suite, target) -> one a round
    streams: dict[str, StreamReport] = field(default_factory=dict)
    cold_seconds: dict[str, float] = field(default_factory=dict)
    idle_mb: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)  # target -> why it was not measured
    memory: Memory | None = None

    def add(self, suite: str, target: str, sample: Sample) -> None:
        self.samples.setdefault((suite, target), []).append(sample)

    def median(self, suite: str, target: str, key: str) -> float | None:
        """The median over rounds of one field of `Sample`; None when the target was not measured."""
        samples = self.samples.get((suite, target))
        return statistics.median(getattr(sample, key) for sample in samples) if samples else None

    def ratio(self, suite: str, target: str, base: str, key: str) -> float | None:
        """How many times `base`'s is `target`'s: the median of the ratios of each round."""
        ours, theirs = self.samples.get((suite, target), []), self.samples.get((suite, base), [])
        pairs = [(getattr(a, key), getattr(b, key)) for a, b in zip(ours, theirs, strict=False)]
        ratios = [a / b for a, b in pairs if b > 0]
        return statistics.median(ratios) if ratios else None

    def measured(self, target: str) -> bool:
        """Whether there is any sample of a target."""
        return any(name == target for _, name in self.samples)

    def failures(self, target: str) -> int:
        """How many requests did not get their whole answer, with a 200, in all rounds of all suites."""
        return sum(
            sample.failed + sample.unfinished
            for (_, name), many in self.samples.items()
            if name == target
            for sample in many
        )

    def as_json(self) -> dict[str, Any]:
        """Plain data: every sample, nothing summed up."""
        suites: dict[str, dict[str, Any]] = {}
        for (suite, target), many in self.samples.items():
            suites.setdefault(suite, {})[target] = [asdict(sample) for sample in many]
        return {
            "versions": self.versions,
            "suites": suites,
            "streams": {name: asdict(report) for name, report in self.streams.items()},
            "cold_seconds": self.cold_seconds,
            "idle_mb": self.idle_mb,
            "memory": asdict(self.memory) if self.memory else None,
            "absent": self.absent,
        }
