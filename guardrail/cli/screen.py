"""`guardrail screen`: what the policies say of a text."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from guardrail.core.content import Direction
from guardrail.core.verdict import Verdict
from guardrail.errors import SettingsError

if TYPE_CHECKING:
    from guardrail.app import Guard


def screen(
    text: Annotated[str | None, typer.Argument(help="The text; - or nothing reads standard input.")] = None,
    direction: Annotated[Direction, typer.Option(help="Which way it would travel.")] = Direction.PROMPT,
    policy: Annotated[list[str] | None, typer.Option(help="Only this policy; may be given again.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
    jsonl: Annotated[
        Path | None,
        typer.Option(help='Screen each row {"text": ..., "direction"?: ...} of this file; one verdict a line.'),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Settings file [default: guardrail.toml, if there is one].")
    ] = None,
) -> None:
    """Screen a text and print the verdict: the action, and which rules match where.

    Nothing is recorded. Ends with 0 whatever the verdict is; with 2 on bad input.
    """
    if jsonl is not None:
        rows = _rows(jsonl, direction)
        asyncio.run(_screen_rows(rows, policy, config))
        return
    if text is None or text == "-":
        text = sys.stdin.read()
    verdict, redacted = asyncio.run(_screen_one(text, direction, policy, config))
    if as_json:
        print(_line(verdict, redacted))
    else:
        _show(verdict, redacted, text)


async def _screen_one(
    text: str, direction: Direction, policies: list[str] | None, config: Path | None
) -> tuple[Verdict, str]:
    async with _guard(config) as guard:
        return await guard.screen_and_redact(text, direction=direction, policies=policies)


async def _screen_rows(rows: list[tuple[str, Direction]], policies: list[str] | None, config: Path | None) -> None:
    from guardrail.protocols import Priority

    async with _guard(config) as guard:
        for start in range(0, len(rows), 32):
            # A few at once, so that the classifier can batch them; printed in the file's order.
            answers = await asyncio.gather(
                *(
                    guard.screen_and_redact(text, direction=way, policies=policies, priority=Priority.OFFLINE)
                    for text, way in rows[start : start + 32]
                )
            )
            for verdict, redacted in answers:
                print(_line(verdict, redacted))


def _guard(config: Path | None) -> Guard:
    from guardrail.app import compose
    from guardrail.records.keys import Keyring
    from guardrail.settings import Settings
    from guardrail.stores.memory import MemoryStore

    return compose(Settings.load(config), store=MemoryStore(), keyring=Keyring.throwaway())


def _rows(path: Path, direction: Direction) -> list[tuple[str, Direction]]:
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {getattr(error, 'strerror', None) or 'not UTF-8'}; expected JSON Lines") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
            rows.append((_text(row["text"]), Direction(row.get("direction", direction))))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise SettingsError(
                f'{path}:{number}: expected {{"text": "...", "direction"?: "prompt" | "completion"}}'
            ) from None
    return rows


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("text")
    return value


def _line(verdict: Verdict, redacted: str) -> str:
    from guardrail.portal.app import verdict_json

    return json.dumps(verdict_json(verdict, redacted), ensure_ascii=False)


def _show(verdict: Verdict, redacted: str, text: str) -> None:
    console = Console(highlight=False, markup=False)
    console.print(f"{verdict.action.word}   (policy {verdict.policies})")
    if verdict.matches:
        table = Table("rule", "category", "score", "at", "mode", box=None, header_style="bold")
        for rule, finding in verdict.matches:
            span = f"{finding.start}-{finding.end}"
            table.add_row(rule.id, rule.category, f"{finding.score:.3f}", span, rule.mode.value)
        console.print(table)
    for failure in verdict.failures:
        console.print(f"{failure.detector} gave no answer: {failure.kind}")
    if redacted != text and not verdict.stops:
        console.print(f"sent on as: {redacted}")
