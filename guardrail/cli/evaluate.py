"""`guardrail evaluate`: how well a detector tells safe from unsafe on labelled files, as a table or as JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from guardrail.errors import DetectorError, SettingsError
from guardrail.resources import model_path
from guardrail.settings import Settings
from guardrail.training.evaluate import (
    ClassifierScorer,
    HarmScorer,
    SpanFinder,
    grouped,
    measure_spans,
    read_labelled,
    read_spans,
    report,
    score_rows,
)
from guardrail.training.metrics import Metrics
from guardrail.training.plots import plot_reliability, plot_roc, require
from guardrail.training.rows import Row

COLUMNS: Mapping[str, str | tuple[str, ...]] = {
    "n": "n",
    "auroc": "auroc",
    "auprc": "auprc",
    "f1": "f1",
    "prec": "precision",
    "recall": "recall",
    "fpr": "fpr",
    "95% of fpr": ("fpr_low", "fpr_high"),
    "r@1%": "recall_at_fpr_1",
    "r@2%": "recall_at_fpr_2",
    "r@5%": "recall_at_fpr_5",
    "ece": "ece",
}
"""Headings of the table for people, and the keys that stand below them."""

WIDTH = 120

GROUPS = {"by_lang": "lang", "by_kind": "kind", "by_cls": "cls", "by_source": "source"}


def evaluate(
    files: Annotated[list[Path], typer.Argument(help="Labelled rows: JSON Lines, plain or .gz.", show_default=False)],
    detector: Annotated[
        Literal["classifier", "keywords", "pii", "guard"],
        typer.Option(help="What is measured. guard: everything the policies enforce; pii: rows {text, spans}."),
    ] = "classifier",
    where: Annotated[
        list[str] | None,
        typer.Option(help="Only rows in which FIELD is VALUE; may be repeated.", metavar="FIELD=VALUE"),
    ] = None,
    by: Annotated[Literal["source"] | None, typer.Option(help="Also by each value of this field.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many rows of each file.")] = None,
    model: Annotated[
        str | None, typer.Option(help="The id of a model that comes with the package, or a folder.", show_default=False)
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Settings file (default: guardrail.toml if there is one).")
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option(help="Write a ROC curve and a reliability diagram of each file here (PNG).", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Measure a detector on FILES of {text, label: safe|unsafe|borderline, lang?, kind?, cls?} rows.

    Borderline rows are left out. auroc, auprc, recall at 1, 2 and 5 % of safe rows flagged (r@1%) and the calibration
    error (ece) judge the scores; f1, precision, recall and fpr (safe rows flagged, with 95 % Wilson bounds) the shipped
    threshold. A class (cls) is its unsafe rows beside all safe ones. With --detector pii the rows are
    {text, spans: [{start, end, type}]}, and precision, recall and f1 are given by type and in all; a prediction counts
    when it covers at least half of a true span of its type.
    """
    try:
        wanted = _conditions(where or [])
        overrides = {"classifier.model": model} if model is not None else {}
        settings = Settings.load(config, overrides=overrides)
        if detector == "pii":
            if plots is not None:
                raise SettingsError("--plots: spans have no scores to plot; expected another --detector")
            answer = _evaluate_spans(files, wanted, limit, settings)
        else:
            answer = asyncio.run(_evaluate(files, detector, wanted, by, limit, settings, plots))
    except (SettingsError, DetectorError) as error:
        Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"guardrail: {error}")
        raise typer.Exit(2) from None
    if as_json:
        print(json.dumps({"files": answer}, ensure_ascii=False, indent=2))
    else:
        _show(answer)


async def _evaluate(
    files: list[Path],
    detector: str,
    where: Mapping[str, str],
    by: str | None,
    limit: int | None,
    settings: Settings,
    plots: Path | None,
) -> dict[str, Any]:
    if plots is not None:
        require()
    # Every file is read before anything is loaded: a bad line is told at once, not after minutes.
    rows = {path: read_labelled(path, where, limit) for path in files}
    scorer = _scorer(detector, settings)
    answer: dict[str, Any] = {}
    with _progress() as progress:
        try:
            await scorer.start()
            for path, found in rows.items():
                task = progress.add_task(path.name, total=len(found))
                scores = await score_rows(scorer, found, on_done=lambda n, task=task: progress.advance(task, n))  # type: ignore[misc]
                result: dict[str, Any] = {**report(found, scores, scorer.threshold)}
                if by is not None:
                    result[f"by_{by}"] = grouped(found, scores, scorer.threshold, _source)
                answer[str(path)] = result
                if plots is not None:
                    _plot(plots / _stem(path, files), found, scores, scorer.threshold, progress.console)
        finally:
            await scorer.close()
    return answer


def _evaluate_spans(
    files: list[Path], where: Mapping[str, str], limit: int | None, settings: Settings
) -> dict[str, Any]:
    rows = {path: read_spans(path, where, limit) for path in files}
    from guardrail import app

    find: SpanFinder = app.scorer("pii", settings)
    answer: dict[str, Any] = {}
    with _progress() as progress:
        for path, found in rows.items():
            predictions = [find(row.text) for row in progress.track(found, description=path.name)]
            answer[str(path)] = measure_spans(found, predictions)
    return answer


def _plot(stem: Path, rows: list[Row], scores: list[float], threshold: float, console: Console) -> None:
    labels = [row.label == "unsafe" for row in rows]
    if len(set(labels)) < 2:
        console.print(f"{stem.name}: rows of one label only, nothing to plot", markup=False, highlight=False)
        return
    plot_roc(labels, scores, threshold, stem.with_name(f"{stem.name}-roc.png"))
    plot_reliability(labels, scores, stem.with_name(f"{stem.name}-reliability.png"))


def _stem(path: Path, files: list[Path]) -> str:
    """What a file's plots are called: its name without `.jsonl`, numbered where another file has the same one."""
    name = path.name.removesuffix(".gz").removesuffix(".jsonl")
    alike = [each for each in files if each.name.removesuffix(".gz").removesuffix(".jsonl") == name]
    return name if len(alike) == 1 else f"{name}-{alike.index(path) + 1}"


def _scorer(detector: str, settings: Settings) -> HarmScorer:
    if detector != "classifier":
        from guardrail import app

        harm: HarmScorer = app.scorer(detector, settings)
        return harm
    # Nobody waits here: a batch may take as long as it takes.
    chosen = msgspec.structs.replace(settings.classifier, queue=1 << 20, deadline=3600.0)
    if chosen.engine != "guardrail":
        from guardrail.engines import served_classifier

        return ClassifierScorer(*served_classifier(msgspec.structs.replace(settings, classifier=chosen)))
    # torch takes a second to import, and the other detectors need none of it.
    from guardrail.inference.engine import load_classifier

    engine, card = load_classifier(
        model_path(chosen.model),
        label_map=chosen.labels or None,
        threshold=chosen.threshold,
        device=chosen.device,
        threads=chosen.threads,
        batch_tokens=chosen.batch_tokens,
        queue=chosen.queue,
        deadline=chosen.deadline,
    )
    return ClassifierScorer(engine, card)


def _source(row: Row) -> str:
    return row.source


def _conditions(where: list[str]) -> dict[str, str]:
    wanted = {}
    for condition in where:
        field, equals, value = condition.partition("=")
        if not (field and equals):
            raise SettingsError(f'--where: got "{condition}"; expected FIELD=VALUE, such as lic=permissive')
        wanted[field] = value
    return wanted


def _progress() -> Progress:
    """A bar on stderr, so that stdout holds nothing but the answer; rich hides it where stderr is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _show(answer: Mapping[str, Any]) -> None:
    console = Console()
    if not console.is_terminal:
        # Piped into a file or a pager there is no width to keep to but the table's own.
        console = Console(width=max(console.width, WIDTH))
    for path, result in answer.items():
        if "types" in result:
            title = path
            table = _table("type", "precision", "recall", "f1", "support")
            for name, found in (*result["types"].items(), ("micro", result["micro"]), ("macro", result["macro"])):
                table.add_row(name, *(_cell(found[key]) for key in ("precision", "recall", "f1", "support")))
        else:
            title = f"{path} at threshold {result['threshold']}"
            table = _table("rows", *COLUMNS)
            _add(table, "all", result)
            for group, heading in GROUPS.items():
                for name, part in result.get(group, {}).items():
                    _add(table, f"{heading} {name}", part)
        console.print(title, soft_wrap=True, markup=False, highlight=False)
        console.print(table)


def _table(first: str, *others: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column(first, no_wrap=True, max_width=24)
    for heading in others:
        table.add_column(heading, no_wrap=True, justify="right")
    return table


def _add(table: Table, name: str, metrics: Metrics) -> None:
    table.add_row(name, *(_cells(metrics, keys) for keys in COLUMNS.values()))


def _cells(metrics: Mapping[str, Any], keys: str | tuple[str, ...]) -> str:
    if isinstance(keys, str):
        return _cell(metrics[keys])
    shown = [_cell(metrics[key]) for key in keys]
    return "-" if set(shown) == {"-"} else "-".join(shown)


def _cell(value: object) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
