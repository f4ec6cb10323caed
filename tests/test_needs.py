"""A test that lacks what it needs says so, is counted, and fails where everything has to run."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

TESTS = """
def test_there(needs):
    needs("a thing that is there", present=True)

def test_one(needs):
    needs("a sky hook", present=None)

def test_two(needs):
    needs("a sky hook")
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest((Path(__file__).parent / "conftest.py").read_text(encoding="utf-8"))
    pytester.makepyfile(TESTS)
    return pytester


def test_what_did_not_run_is_counted_by_what_it_needs(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GUARDRAIL_TEST_ALL", raising=False)
    result = suite.runpytest_subprocess("-p", "no:asyncio")
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(["2 not run: needs a sky hook"])
    assert "1 passed, 2 skipped" in result.outlines[-1]


def test_where_everything_has_to_run_it_is_a_failure(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARDRAIL_TEST_ALL", "1")
    result = suite.runpytest_subprocess("-p", "no:asyncio")
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(["*not run: needs a sky hook*"])
