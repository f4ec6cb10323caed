"""What was measured, for people: two tables on the terminal, or the same as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rig.goals import GOALS, Outcome
from rig.load import SUITES
from rig.ours import PHRASE
from rig.results import Results
from rig.targets import Target

_DASH = "-"
BEGIN, END = "<!-- overhead:begin -->", "<!-- overhead:end -->"

COLUMNS = (
    "target", "it screens", "plain c=1: p50 ms", "times nginx", "plain c=32: requests/s", "CPU us/request",
    "times pass-through", "stream c=1: p50 ms", "stream c=32: events/s", "paced: events per CPU-s",
    "times pass-through", "first char late, ms", f"leaked of {len(PHRASE)}", "blocked stream ends with",
    "RSS MB idle, loaded",
)  # fmt: skip


def _number(value: float | None, digits: int = 2, scale: float = 1.0) -> str:
    return _DASH if value is None or value != value else f"{value * scale:,.{digits}f}"


def rows(results: Results, targets: Iterable[Target]) -> list[list[str]]:
    """One row of `COLUMNS` for each target, as text. Ratios are of this run."""
    out = []
    for target in targets:
        name = target.name
        if name in results.absent:
            out.append([name, target.looks_at, *[_DASH] * (len(COLUMNS) - 3), "did not run"])
            continue
        heard = results.streams.get(name)
        idle, loaded = results.idle_mb.get(name), results.median("unary-32", name, "resident_mb")
        proxied = name != "direct"  # the upstream's own CPU is no proxy's
        out.append(
            [
                name,
                target.looks_at,
                _number(results.median("unary-1", name, "p50"), 2, 1e-3),
                _number(results.ratio("unary-1", name, "nginx", "p50"), 1),
                _number(results.median("unary-32", name, "rps"), 0),
                _number(results.median("unary-32", name, "cpu_us") if proxied else None, 0),
                _number(results.ratio("unary-32", name, "pass-through", "cpu_us") if proxied else None),
                _number(results.median("stream-1", name, "p50"), 1, 1e-3),
                _number(results.median("stream-32", name, "events_per_second"), 0),
                _number(results.median("paced-8", name, "tokens_per_cpu") if proxied else None, 0),
                _number(results.ratio("paced-8", name, "pass-through", "tokens_per_cpu") if proxied else None),
                _number(heard.first_ms if heard else None, 1),
                str(heard.leaked) if heard else _DASH,
                heard.ending.replace("_", " ") if heard else _DASH,
                f"{_number(idle, 0)}, {_number(loaded, 0)}",
            ]
        )
    return out


def goal_rows(results: Results) -> tuple[list[list[str]], bool]:
    """The goals as text (goal, limit, measured, outcome), and whether one was missed."""
    judged = [(goal, *goal.judge(results)) for goal in GOALS]
    text = [[goal.says, goal.limit, _number(value), str(outcome)] for goal, value, outcome in judged]
    return text, any(outcome is Outcome.MISSED for _, _, outcome in judged)


def notes(results: Results, rounds: int, loads: tuple[float, float]) -> list[str]:
    """What the tables do not say."""
    said = []
    if results.memory is not None:
        memory = results.memory
        loaded = "presidio is loaded then" if memory.presidio_loaded else "presidio was NOT loaded by it"
        said.append(
            f"guardrail, resident MB: {memory.idle_mb:.0f} when ready, {memory.loaded_mb:.0f} after the load, "
            f"{memory.presidio_mb:.0f} after a prompt with an IBAN and a US SSN ({loaded})"
        )
    said += [f"{name} was not measured: {why}" for name, why in results.absent.items()]
    for (suite, name), samples in results.samples.items():
        failed, unfinished = sum(sample.failed for sample in samples), sum(sample.unfinished for sample in samples)
        if failed:
            error = next((sample.error for sample in samples if sample.error), "the connection was closed")
            said.append(f"{name}, {suite}: {failed} requests failed: {error}")
        if unfinished:
            said.append(f"{name}, {suite}: {unfinished} answers had not ended in time")
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items() if version)
    said.append(f"versions: {versions}")
    said.append(
        f"rounds: {rounds}; load average {loads[0]:.2f} before, {loads[1]:.2f} after (this run's own load included)"
    )
    return said


def show(
    console: Console, results: Results, targets: Sequence[Target], rounds: int, loads: tuple[float, float]
) -> bool:
    """Print everything; returns whether a goal was missed."""
    table = Table(title="Gateways side by side: medians over rounds", title_justify="left", pad_edge=False)
    for number, heading in enumerate(COLUMNS):
        if number < 2:
            table.add_column(heading, no_wrap=number == 0, max_width=18)
        else:
            table.add_column(heading, justify="right", max_width=12)
    for row in rows(results, targets):
        table.add_row(*row)
    console.print(table)
    for note in notes(results, rounds, loads):
        console.print(note, markup=False)
    console.print("; ".join(f"{suite.name}: {suite.says}" for suite in SUITES), style="dim")
    text, missed = goal_rows(results)
    goals = Table(title="Goals", title_justify="left", pad_edge=False)
    goals.add_column("goal")
    for heading in ("limit", "measured", ""):
        goals.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for *start, outcome in text:
        style = {Outcome.OK: "green", Outcome.MISSED: "bold red"}.get(Outcome(outcome), "dim")
        goals.add_row(*start, f"[{style}]{outcome}[/]")
    console.print(goals)
    return missed


def markdown(results: Results, targets: Sequence[Target], rounds: int, loads: tuple[float, float]) -> str:
    """The same as Markdown, for a page of the documentation."""

    def table(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
        lines = [header, ["---"] * len(header), *body]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    return "\n\n".join(
        [
            table(COLUMNS, rows(results, targets)),
            "\n".join(f"- {note}" for note in notes(results, rounds, loads)),
            table(("goal", "limit", "measured", "outcome"), goal_rows(results)[0]),
        ]
    )


def put(path: Path, text: str) -> None:
    """Write `text` to `path`; into the place between the two marks where the file is there and has them."""
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    page = f"{before}{BEGIN}\n{text}\n{END}{after}" if begin and end else f"{text}\n"
    path.write_text(page, encoding="utf-8")
