"""`guardrail check`: everything a start would load, and every case of every policy, without starting."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from guardrail.app import Guard
    from guardrail.cases import Report


def check(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Settings file [default: guardrail.toml, if there is one].")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="Check this profile instead of the settings' own.")] = None,
) -> None:
    """Load settings, policies and models, run every policy's cases, and do not start.

    Ends with 1 when a case fails or a rule lacks a match or a near miss, with 2 when something cannot be loaded.
    """
    from guardrail.app import compose
    from guardrail.records.keys import Keyring
    from guardrail.settings import Settings
    from guardrail.stores.memory import MemoryStore

    settings = Settings.load(config, overrides={"profile": profile})
    guard = compose(settings, store=MemoryStore(), keyring=Keyring.throwaway())
    report, lacking = asyncio.run(_run(guard))
    console = Console(highlight=False, markup=False, soft_wrap=True)
    table = Table("policy", "rules", "cases", "failed", box=None, header_style="bold")
    for policy in guard.policies.policies:
        rules = len({rule.id for rule in policy.rules})
        table.add_row(policy.id, str(rules), str(report.run[policy.id]), str(report.wrong[policy.id]))
    console.print(table)
    for outcome in report.failed:
        console.print(f"FAILED  {outcome}")
    for rule, what in sorted(lacking.items()):
        console.print(f"LACKING {rule}: {what}")
    if guard.policies.not_enforced:
        console.print(
            f"{len(guard.policies.not_enforced)} rules are not enforced: their "
            "detector is switched off, or its model has no such label"
        )
    console.print(f"profile {settings.profile}, policy {guard.policies.short_digest}")
    if report.failed or lacking:
        raise typer.Exit(1)


async def _run(guard: Guard) -> tuple[Report, dict[str, str]]:
    from guardrail.cases import Report, read_cases, run, uncovered
    from guardrail.core.content import Direction
    from guardrail.core.verdict import Verdict
    from guardrail.resources import policies_dir

    directories = [policies_dir(), *guard.settings.policies.directories]
    cases = read_cases(directories, guard.policies.policies, guard.policies.not_enforced)
    report = Report()

    async def screen(text: str, direction: Direction) -> Verdict:
        return await guard.screen(text, direction=direction)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    async with guard:
        stderr = Console(stderr=True)
        with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
            task = progress.add_task("cases", total=len(cases))
            async for outcome in run(cases, screen):
                report.add(outcome)
                progress.advance(task)
    return report, uncovered(cases, guard.policies.policies)
