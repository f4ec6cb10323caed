"""The numbers that guardrail promises, each as a ratio to something measured in the same run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from rig.results import Results


class Outcome(StrEnum):
    OK = "ok"
    MISSED = "MISSED"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Goal:
    """`value` must be at least `least`, or at most `most`."""

    says: str
    value: Callable[[Results], float | None]
    least: float | None = None
    most: float | None = None

    @property
    def limit(self) -> str:
        return f">= {self.least:g}" if self.least is not None else f"<= {self.most:g}"

    def judge(self, results: Results) -> tuple[float | None, Outcome]:
        value = self.value(results)
        if value is None:
            return None, Outcome.NOT_MEASURED
        good = (self.least is None or value >= self.least) and (self.most is None or value <= self.most)
        return value, Outcome.OK if good else Outcome.MISSED


def _against_the_quicker_litellm(results: Results) -> float | None:
    ratios = [results.ratio("unary-32", "guardrail", peer, "rps") for peer in ("litellm", "litellm-filter")]
    known = [ratio for ratio in ratios if ratio is not None]
    return min(known) if known else None


GOALS = (
    Goal(
        "CPU per plain request, times the bare pass-through's (32 at once)",
        lambda results: results.ratio("unary-32", "guardrail", "pass-through", "cpu_us"),
        most=2,
    ),
    Goal(
        "streamed events per CPU-second, times the bare pass-through's (5 ms apart)",
        lambda results: results.ratio("paced-8", "guardrail", "pass-through", "tokens_per_cpu"),
        least=0.5,
    ),
    Goal(
        "median time of a plain request, times nginx's (one at a time)",
        lambda results: results.ratio("unary-1", "guardrail", "nginx", "p50"),
        most=8,
    ),
    Goal(
        "requests per second, times NeMo IORails' (32 at once)",
        lambda results: results.ratio("unary-32", "guardrail", "nemo-iorails", "rps"),
        least=4,
    ),
    Goal(
        "requests per second, times LiteLLM's, the quicker of its two (32 at once)",
        _against_the_quicker_litellm,
        least=15,
    ),
    Goal(
        "resident MB when ready, before presidio",
        lambda results: results.memory.idle_mb if results.memory else None,
        most=160,
    ),
    Goal(
        "characters of a blocked phrase that leave",
        lambda results: results.streams["guardrail"].leaked if "guardrail" in results.streams else None,
        most=0,
    ),
    Goal(
        "guardrail's requests that did not get their answer",
        lambda results: results.failures("guardrail") if results.measured("guardrail") else None,
        most=0,
    ),
)
