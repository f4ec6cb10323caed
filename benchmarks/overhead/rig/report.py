"""One table of what was measured and one of the goals, for people."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from rig.goals import GOALS, Outcome
from rig.load import SUITES
from rig.ours import PHRASE
from rig.results import Results
from rig.targets import Target

_DASH = "-"


def _number(value: float | None, digits: int = 2, scale: float = 1.0) -> str:
    return _DASH if value is None or value != value else f"{value * scale:,.{digits}f}"


def comparison(results: Results, targets: Iterable[Target]) -> Table:
    """The table of all targets. Ratios to nginx and to the bare pass-through are of this run."""
    table = Table(title="Gateways side by side (medians over rounds)", title_justify="left", pad_edge=False)
    table.add_column("target", no_wrap=True)
    table.add_column("it screens", max_width=22)
    for heading in (
        "plain c=1\np50 ms", "x nginx", "plain c=32\nrequests/s", "CPU\nus/request", "x pass-\nthrough",
        "streams c=1\np50 ms", "streams c=32\nevents/s", "paced: events\nper CPU-s", "x pass-\nthrough",
        "first char\nlate, ms", "leaked of\nphrase", "blocked stream\nends with", "RSS MB\nidle, load",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for target in targets:
        name = target.name
        if name in results.absent:
            table.add_row(name, target.looks_at, *[_DASH] * 12, "did not run")
            continue
        heard = results.streams.get(name)
        table.add_row(
            name,
            target.looks_at,
            _number(results.median("unary-1", name, "p50"), 2, 1e-3),
            _number(results.ratio("unary-1", name, "nginx", "p50"), 1),
            _number(results.median("unary-32", name, "rps"), 0),
            _number(results.median("unary-32", name, "cpu_us"), 0),
            _number(results.ratio("unary-32", name, "pass-through", "cpu_us"), 2),
            _number(results.median("stream-1", name, "p50"), 1, 1e-3),
            _number(results.median("stream-32", name, "events_per_second"), 0),
            _number(results.median("paced-8", name, "tokens_per_cpu"), 0),
            _number(results.ratio("paced-8", name, "pass-through", "tokens_per_cpu"), 2),
            _number(heard.first_ms if heard else None, 2),
            f"{heard.leaked}/{len(PHRASE)}" if heard else _DASH,
            heard.ending if heard else _DASH,
            f"{_number(results.idle_mb.get(name), 0)}, {_number(results.median('unary-32', name, 'resident_mb'), 0)}",
        )
    return table


def goals(results: Results) -> tuple[Table, bool]:
    """The table of the goals, and whether one was missed."""
    table = Table(title="Goals", title_justify="left", pad_edge=False)
    for heading, justify in (("goal", "left"), ("limit", "right"), ("measured", "right"), ("", "left")):
        table.add_column(heading, justify="right" if justify == "right" else "left")
    missed = False
    for goal in GOALS:
        value, outcome = goal.judge(results)
        missed = missed or outcome is Outcome.MISSED
        style = {"ok": "green", "MISSED": "bold red"}.get(outcome, "dim")
        table.add_row(goal.says, goal.limit, _number(value), f"[{style}]{outcome}[/]")
    return table, missed


def show(
    console: Console, results: Results, targets: Iterable[Target], rounds: int, loads: tuple[float, float]
) -> bool:
    """Print everything; returns whether a goal was missed."""
    console.print(comparison(results, targets))
    if results.memory is not None:
        memory = results.memory
        loaded = "presidio is loaded then" if memory.presidio_loaded else "presidio was NOT loaded by it"
        console.print(
            f"guardrail, resident MB: {memory.idle_mb:.0f} when ready, {memory.loaded_mb:.0f} after the load, "
            f"{memory.presidio_mb:.0f} after a prompt with an IBAN and a US SSN ({loaded})"
        )
    for name, why in results.absent.items():
        console.print(f"{name} was not measured: {why}", style="yellow", markup=False)
    for (suite, name), samples in results.samples.items():
        failed, unfinished = sum(sample.failed for sample in samples), sum(sample.unfinished for sample in samples)
        if failed:
            error = next((sample.error for sample in samples if sample.error), "the connection was closed")
            console.print(f"{name}, {suite}: {failed} requests failed: {error}", style="yellow", markup=False)
        if unfinished:
            console.print(f"{name}, {suite}: {unfinished} answers had not ended in time", style="yellow", markup=False)
    console.print(f"rounds {rounds}; load average {loads[0]:.2f} before, {loads[1]:.2f} after, this run's own included")
    console.print("; ".join(f"{suite.name}: {suite.says}" for suite in SUITES), style="dim")
    table, missed = goals(results)
    console.print(table)
    return missed
