"""Draw what evaluation measured as PNG files: the ROC curve and the reliability diagram of one file's scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardrail.errors import SettingsError
from guardrail.training.metrics import BINS, auroc, calibration_error, reliability

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZE, _DPI = (5.0, 5.0), 144  # inches, dots an inch


def require() -> None:
    """Raise SettingsError, which names the extra, where plots cannot be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise SettingsError("plots need matplotlib: pip install 'guardrail[train]'") from None


def plot_roc(labels: Sequence[bool], scores: Sequence[float], threshold: float, path: Path) -> None:
    """Write the ROC curve, the shipped threshold marked, to `path`. Both classes must be there (True = unsafe).

    Raises SettingsError where the file cannot be written.
    """
    from sklearn.metrics import roc_curve

    false, true, _ = roc_curve(labels, scores)
    figure, axes = _figure("safe rows flagged", "unsafe rows flagged")
    axes.plot([0, 1], [0, 1], color="0.75", linewidth=1, linestyle="--")
    axes.plot(false, true, linewidth=2)
    flagged = [score >= threshold for score in scores]
    safe, unsafe = labels.count(False), labels.count(True)
    here = (
        sum(flag and not label for label, flag in zip(labels, flagged, strict=True)) / safe,
        sum(flag and label for label, flag in zip(labels, flagged, strict=True)) / unsafe,
    )
    axes.plot(*here, marker="o", color="C3", linestyle="none", label=f"threshold {threshold:g}")
    axes.legend(loc="lower right", frameon=False)
    axes.set_title(f"ROC: area {auroc(labels, scores):.3f}, {unsafe} unsafe and {safe} safe rows", fontsize="medium")
    _write(figure, path)


def plot_reliability(labels: Sequence[bool], scores: Sequence[float], path: Path) -> None:
    """Write the reliability diagram, the bins of the calibration error with their sizes below, to `path`.

    Raises SettingsError where the file cannot be written.
    """
    figure, axes = _figure("score (mean of its bin)", "share of rows that are unsafe")
    bins = reliability(labels, scores)
    axes.plot([0, 1], [0, 1], color="0.75", linewidth=1, linestyle="--")
    axes.plot([each.score for each in bins], [each.unsafe for each in bins], marker="o", linewidth=1.5)
    sizes = axes.twinx()
    sizes.bar([(each.low + each.high) / 2 for each in bins], [each.rows for each in bins], width=0.9 / BINS, alpha=0.2)
    sizes.set_yscale("log")
    sizes.set_ylabel("rows", fontsize="small")
    title = f"Calibration error {calibration_error(labels, scores):.3f} over {BINS} bins, {len(labels)} rows"
    axes.set_title(title, fontsize="medium")
    _write(figure, path)


def _figure(x: str, y: str) -> tuple[Figure, Any]:
    # The Agg canvas by itself: no pyplot, and so neither a display nor a list of open figures.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return figure, axes


def _write(figure: Figure, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png")
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror or error}; expected a folder that can be written") from None
