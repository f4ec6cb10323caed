"""What every test may ask for: a way to say that something it needs is absent."""

from __future__ import annotations

import os
from collections import Counter
from typing import Protocol

import pytest

NOT_RUN = "not run: needs "


class Needs(Protocol):
    """`needs("nginx", shutil.which("nginx"))`: go on if the second is true, else end the test as not run."""

    def __call__(self, what: str, present: object = None) -> None: ...


@pytest.fixture(scope="session")
def needs() -> Needs:
    """End a test whose requirement is absent. With GUARDRAIL_TEST_ALL=1 an absent requirement is a failure."""

    def need(what: str, present: object = None) -> None:
        if present:
            return
        if os.environ.get("GUARDRAIL_TEST_ALL") == "1":
            pytest.fail(NOT_RUN + what, pytrace=False)
        pytest.skip(NOT_RUN + what)

    return need


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count what did not run, by what it needs, so that a green run never hides it."""
    absent: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _, marker, what = reason.partition(NOT_RUN)
        if marker:
            absent[what.strip()] += 1
    if absent:
        terminalreporter.section("not run")
        for what, count in sorted(absent.items()):
            terminalreporter.line(f"{count} {NOT_RUN}{what}")
