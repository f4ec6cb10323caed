"""An engine with a detector that finds given words, a store in memory and rules of our own."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest

from guardrail.app import own_dialects
from guardrail.core.policy import Action, Mode, Policy, PolicySet, Rule
from guardrail.core.sanctions import Ladder
from guardrail.gateway.engine import Engine, Options
from guardrail.gateway.identity import HeaderIdentifier
from guardrail.labels.answer import AnswerLabeller
from guardrail.metrics import Metrics
from guardrail.stores.memory import MemoryStore
from guardrail.testing import WordDetector

WORDS = ("KABOOM", "help me", "hush", "eyes")


def rules() -> tuple[Rule, ...]:
    """One rule an action; `word` is the label of the detector of the same name."""

    def rule(name: str, action: Action, **more: object) -> Rule:
        return Rule(f"test/{name}", name, frozenset({"word"}), name, 1.0, action, **more)  # type: ignore[arg-type]

    return (
        rule("blocked", Action.BLOCK, strike=1.0),
        rule("answered", Action.ANSWER, answer={"en": "Here is help.", "zh": "这里有帮助。"}),
        rule("masked", Action.REDACT, placeholder="[X]"),
        rule("watched", Action.BLOCK, mode=Mode.OBSERVE),
    )


MakeEngine = Callable[..., Engine]


@pytest.fixture
def make_engine() -> MakeEngine:
    """Make an engine; keyword arguments are `Options`, or `detectors`, `clock`, `position`."""

    def make(**more: object) -> Engine:
        detectors = more.pop("detectors", None) or {
            name: WordDetector([word], name=name)
            for name, word in zip(("blocked", "answered", "masked", "watched"), WORDS, strict=True)
        }
        numbers = count(1)
        clock = more.pop("clock", lambda: 1_000_000.0)
        position = more.pop("position", "none")
        ladder = Ladder()
        return Engine(
            policies=PolicySet((Policy("test", "Test", rules()),), "0123456789abcdef"),
            detectors=detectors,  # type: ignore[arg-type]
            store=MemoryStore(ladder=ladder),
            metrics=Metrics(),
            identifier=HeaderIdentifier(lambda *parts: "/".join(parts), trusted_proxies=("10.0.0.0/8",)),
            labeller=AnswerLabeller("", str(position)),
            dialects={path: dialect for dialect in own_dialects() for path in dialect.paths},
            new_id=lambda: f"ID{next(numbers):06}",
            appeal_url=lambda incident: f"https://guard.test/guardrail/appeals?incident={incident}&capability=c",
            digest=lambda text: f"digest of {len(text)}",
            ladder=ladder,
            options=Options(**more),  # type: ignore[arg-type]
            clock=clock,  # type: ignore[arg-type]
        )

    return make
