"""Metrics are what the documentation says, in one process and added up over many."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from guardrail import metrics as module
from guardrail.core.content import Direction
from guardrail.core.findings import Failure, Finding
from guardrail.core.policy import Action, Mode, Rule
from guardrail.core.sanctions import Step
from guardrail.core.verdict import Match, Verdict
from guardrail.metrics import TABLE, Metrics, prepare_folder, render, worker_died

ROOT = Path(__file__).resolve().parent.parent
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(source: CollectorRegistry | Path) -> Samples:
    """Every sample of a scrape, by name and labels, read back by the library's own parser."""
    text, content_type = render(source)
    assert content_type.startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def rule(ident: str, action: Action, mode: Mode = Mode.ENFORCE) -> Rule:
    return Rule(ident, "keywords", frozenset({"x"}), "c", 0.5, action, mode=mode)


FINDING = Finding("keywords", "x", 1.0, 0, 1, 1)


def verdict(action: Action, *rules: Rule) -> Verdict:
    return Verdict(action, tuple(Match(item, FINDING) for item in rules), (), "digest")


def use_all(metrics: Metrics) -> None:
    """Call every method once."""
    metrics.request("chat", "allowed")
    metrics.verdict(Direction.PROMPT, verdict(Action.BLOCK, rule("p/r", Action.BLOCK)))
    metrics.overhead("prompt", 0.001)
    metrics.bypassed("passthrough")
    metrics.failed_closed("store")
    metrics.label_missing("code")
    metrics.stream_held(0.2)
    metrics.stream_leaked(3)
    metrics.detector_ran("keywords", "prompt", 0.0002)
    metrics.detector_failed("classifier", "timeout")
    metrics.queue_depth(4)
    metrics.batch(700)
    metrics.batch_split()
    metrics.classifier_cache("hit", 1)
    metrics.records_dropped(2)
    metrics.struck("c")
    metrics.sanctioned(Step.WARN)
    metrics.sanctions_in_force({Step.LIMIT: 2})
    metrics.policies_reloaded("loaded")
    metrics.lexicon({"violence": 12}, 60.0)
    metrics.degraded("store", True)


# -- one process -------------------------------------------------------------------------------------------------


def test_every_metric_of_the_table_is_exported_with_its_type_and_labels_and_no_other() -> None:
    metrics = Metrics()
    use_all(metrics)
    lines = render(metrics.registry)[0].decode().splitlines()
    types = dict(line.split()[2:4] for line in lines if line.startswith("# TYPE"))
    assert types == {row.name: row.kind for row in TABLE}
    seen = samples(metrics.registry)
    for row in TABLE:
        name = row.name + ("_count" if row.kind == "histogram" else "")
        labels = {tuple(key for key, _ in labels) for sample, labels in seen if sample == name}
        assert labels == {tuple(sorted(row.labels))}, row.name


def test_sanctions_in_force_and_sanctions_imposed_stand_side_by_side() -> None:
    metrics = Metrics()
    metrics.sanctions_in_force({Step.SUSPEND: 2})
    metrics.sanctioned(Step.SUSPEND)
    seen = samples(metrics.registry)
    assert seen["guardrail_sanctions", (("step", "suspend"),)] == 2
    assert seen["guardrail_sanctions", (("step", "warn"),)] == 0
    assert seen["guardrail_sanctions_total", (("step", "suspend"),)] == 1
    metrics.sanctions_in_force({})
    assert samples(metrics.registry)["guardrail_sanctions", (("step", "suspend"),)] == 0


def test_a_verdict_counts_for_each_policy_that_decided_it_and_each_rule_once() -> None:
    metrics = Metrics()
    block, other, observed = (
        rule("a/one", Action.BLOCK),
        rule("b/two", Action.BLOCK),
        rule("c/three", Action.BLOCK, Mode.OBSERVE),
    )
    metrics.verdict(Direction.PROMPT, verdict(Action.BLOCK, block, block, other, observed, rule("a/f", Action.FLAG)))
    metrics.verdict(Direction.COMPLETION, verdict(Action.ALLOW, observed))
    metrics.verdict(Direction.PROMPT, Verdict(Action.BLOCK, (), (Failure("classifier", "error"),), "digest"))
    seen = samples(metrics.registry)
    verdicts = {labels: value for (name, labels), value in seen.items() if name == "guardrail_verdicts_total"}
    assert verdicts == {
        (("action", "block"), ("direction", "prompt"), ("policy", "a")): 1,
        (("action", "block"), ("direction", "prompt"), ("policy", "b")): 1,
        (("action", "block"), ("direction", "prompt"), ("policy", "none")): 1,
        (("action", "allow"), ("direction", "completion"), ("policy", "none")): 1,
    }
    rules = {labels: value for (name, labels), value in seen.items() if name == "guardrail_rule_matches_total"}
    assert rules == {
        (("mode", "enforce"), ("rule", "a/one")): 1,
        (("mode", "enforce"), ("rule", "b/two")): 1,
        (("mode", "enforce"), ("rule", "a/f")): 1,
        (("mode", "observe"), ("rule", "c/three")): 2,
    }


def test_two_instances_know_nothing_of_each_other() -> None:
    one, two = Metrics(), Metrics()
    one.stream_leaked(5)
    assert samples(one.registry)["guardrail_stream_leaked_characters_total", ()] == 5
    assert samples(two.registry)["guardrail_stream_leaked_characters_total", ()] == 0


def test_importing_registers_nothing() -> None:
    code = (
        "import prometheus_client, guardrail.metrics\n"
        "print([family.name for family in prometheus_client.REGISTRY.collect() if 'guardrail' in family.name])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_label_values_without_end_end_as_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CHILDREN", 5)
    metrics = Metrics()
    for number in range(50):
        metrics.request(f"surface{number}", "allowed")
    requests = {labels: value for (name, labels), value in samples(metrics.registry).items() if "requests" in name}
    assert len(requests) == 6
    assert requests[("outcome", "other"), ("surface", "other")] == 45


# -- many processes ----------------------------------------------------------------------------------------------

WORKER = textwrap.dedent(
    """
    import sys
    from guardrail.core.sanctions import Step
    from guardrail.metrics import Metrics
    metrics = Metrics()
    for _ in range(int(sys.argv[1])):
        metrics.request("chat", "allowed")
        metrics.detector_ran("keywords", "prompt", 0.0002)
    metrics.stream_leaked(2)
    metrics.queue_depth(int(sys.argv[2]))
    metrics.degraded("store", sys.argv[3] == "degraded")
    metrics.sanctions_in_force({Step.LIMIT: 7})
    metrics.sanctioned(Step.LIMIT)
    print("ready", flush=True)
    sys.stdin.read()
    """
)


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[tuple[Path, list[subprocess.Popen[str]]]]:
    """Two live workers that write into one folder."""
    folder = tmp_path / "metrics"
    env = os.environ | prepare_folder(folder)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, *arguments],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for arguments in (("3", "10", "degraded"), ("4", "1", "well"))
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    yield folder, started
    for process in started:
        process.kill()
        process.communicate()


def test_workers_are_added_up(workers: tuple[Path, list[subprocess.Popen[str]]]) -> None:
    seen = samples(workers[0])
    keywords = (("detector", "keywords"), ("phase", "prompt"))
    assert seen["guardrail_requests_total", (("outcome", "allowed"), ("surface", "chat"))] == 7
    assert seen["guardrail_detector_seconds_count", keywords] == 7
    assert seen["guardrail_detector_seconds_bucket", (*keywords[:1], ("le", "0.00025"), *keywords[1:])] == 7
    assert seen["guardrail_detector_seconds_sum", keywords] == pytest.approx(0.0014)
    assert seen["guardrail_stream_leaked_characters_total", ()] == 4
    assert seen["guardrail_queue_depth", ()] == 11
    assert seen["guardrail_degraded", (("component", "store"),)] == 1
    # Each worker reads the same ledger: what it says is not to be added up.
    assert seen["guardrail_sanctions", (("step", "limit"),)] == 7
    assert seen["guardrail_sanctions_total", (("step", "limit"),)] == 2


def test_a_dead_worker_keeps_its_counts_and_loses_its_say_about_now(
    workers: tuple[Path, list[subprocess.Popen[str]]],
) -> None:
    folder, (first, _) = workers
    first.send_signal(signal.SIGKILL)
    first.wait(30)
    worker_died(folder, [first.pid])
    seen = samples(folder)
    assert seen["guardrail_requests_total", (("outcome", "allowed"), ("surface", "chat"))] == 7
    assert seen["guardrail_queue_depth", ()] == 1
    assert seen["guardrail_degraded", (("component", "store"),)] == 0
    assert seen["guardrail_sanctions", (("step", "limit"),)] == 7
    worker_died(folder, [first.pid])


def test_types_and_names_are_the_same_with_workers(workers: tuple[Path, list[subprocess.Popen[str]]]) -> None:
    lines = render(workers[0])[0].decode().splitlines()
    types = dict(line.split()[2:4] for line in lines if line.startswith("# TYPE"))
    known = {row.name: row.kind for row in TABLE}
    assert types
    assert types.items() <= known.items()


def test_numbers_of_an_earlier_run_are_not_counted(workers: tuple[Path, list[subprocess.Popen[str]]]) -> None:
    folder, processes = workers
    for process in processes:
        process.kill()
        process.wait(30)
    assert prepare_folder(folder) == {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    assert samples(folder) == {}
