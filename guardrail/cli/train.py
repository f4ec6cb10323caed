"""`guardrail train`: fine-tune a classifier from a training file, labelled rows and an encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from guardrail.errors import SettingsError

_EXPECTED_SEED = "Seed of the mix, the order and the heads (default: the file's)."


def train(
    config: Annotated[
        Path, typer.Argument(help="Training file, such as models/guard-zh-en/train.toml.", show_default=False)
    ],
    data: Annotated[
        list[Path],
        typer.Option(
            help="Labelled rows to train on (JSON Lines, plain or .gz); may be repeated. Rows without a source "
            "take the file's name for one.",
            show_default=False,
        ),
    ],
    backbone: Annotated[
        Path, typer.Option(help="Folder of the Hugging Face encoder to start from.", show_default=False)
    ],
    output: Annotated[Path, typer.Option(help="Folder of the finished model.", show_default=False)],
    dev: Annotated[
        list[Path] | None,
        typer.Option(help="Labelled rows to judge epochs and choose thresholds with; may be repeated."),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Where a run's state is kept (default: OUTPUT.training).", show_default=False)
    ] = None,
    seed: Annotated[int | None, typer.Option(help=_EXPECTED_SEED, show_default=False)] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Most epochs (default: the file's).", show_default=False)
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads (default: the file's).", show_default=False)
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Drop a checkpoint and start again.")] = False,
) -> None:
    """Fine-tune a classifier. A run that is stopped goes on where it was when the same command is given again.

    The folder it writes is loaded by `guardrail` ([classifier] model = "OUTPUT") and by Hugging Face's
    AutoModelForSequenceClassification alike.
    """
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        _train(config, data, dev or [], backbone, output, checkpoint, (seed, epochs, threads), restart, console)
    except SettingsError as error:
        console.print(f"guardrail: {error}", markup=False)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        console.print("Stopped. The same command goes on from the last checkpoint.")
        raise typer.Exit(130) from None


def _train(
    config: Path,
    data: list[Path],
    dev: list[Path],
    backbone: Path,
    output: Path,
    checkpoint: Path | None,
    changes: tuple[int | None, int | None, int | None],
    restart: bool,
    console: Console,
) -> None:
    # torch takes a second to import: bad usage and --help answer without it.
    from guardrail.training import run
    from guardrail.training.config import load_config
    from guardrail.training.finetune import Progress as Step

    settings = load_config(config)
    named = dict(zip(("seed", "epochs", "threads"), changes, strict=True))
    settings = msgspec.structs.replace(settings, **{key: value for key, value in named.items() if value is not None})
    material = run.gather(settings, data, dev)
    console.print(
        f"{len(material.mix)} rows to train on, {len(material.held)} of our own held back, {len(material.dev)} dev rows"
    )
    if material.left_out:
        left = ", ".join(f"{source} ({count})" for source, count in sorted(material.left_out.items()))
        console.print(f"left out, as no [[mix]] names their source: {left}", markup=False)
    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  dev {task.fields[dev]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("train", total=None, epoch=1, loss=0.0, dev="-")

        def show(step: Step) -> None:
            dev_metric = "-" if step.dev is None else f"{step.dev:.4f}"
            bar.update(
                task, completed=step.step, total=step.steps, epoch=step.epoch + 1, loss=step.loss, dev=dev_metric
            )
            if step.epoch_ended:
                # A line that stays, also where stderr is a file and no bar is drawn.
                bar.console.print(f"epoch {step.epoch + 1}: loss {step.loss:.3f}, dev {dev_metric}")

        result = run.train(
            settings,
            material,
            backbone,
            output,
            checkpoint or output.with_name(output.name + ".training"),
            restart=restart,
            on_progress=show,
        )
    table = Table("set", "language/kind", "AUROC")
    for name in ("held_back", "dev"):
        for cell, value in result.metrics.get(name, {}).get("auroc", {}).items():
            table.add_row(name, cell, f"{value:.4f}")
    console.print(table)
    console.print(f"Wrote {output}", markup=False)
