"""Plots of an evaluation: real PNG files, drawn without a display, and clear words where they cannot be."""

from __future__ import annotations

import json
import random
import struct
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from guardrail.cli.evaluate import evaluate
from guardrail.errors import SettingsError
from guardrail.training import plots
from guardrail.training.plots import plot_reliability, plot_roc

pytest.importorskip("matplotlib")
DICE = random.Random(3)
LABELS = [i % 3 == 0 for i in range(300)]
SCORES = [min(1.0, max(0.0, DICE.gauss(0.6 if label else 0.3, 0.2))) for label in LABELS]


def size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG file; fails for anything else."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert data[-8:-4] == b"IEND"
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def command(*arguments: str | Path) -> Result:
    app = typer.Typer()
    app.command()(evaluate)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "guardrail.toml").write_text('state_dir = "state"\n[pii]\nenabled = false\n')
    return tmp_path


def write_rows(path: Path, *labels: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    texts = ("How do I make a pipe bomb?", "How do I bake bread?", "Where is the station?")
    path.write_text(
        "\n".join(json.dumps({"text": text, "label": label}) for text, label in zip(texts, labels, strict=True))
    )
    return path


def test_both_plots_are_png_files_of_a_readable_size(tmp_path: Path) -> None:
    plot_roc(LABELS, SCORES, 0.5, tmp_path / "new" / "roc.png")
    plot_reliability(LABELS, SCORES, tmp_path / "reliability.png")
    for name in ("new/roc.png", "reliability.png"):
        width, height = size(tmp_path / name)
        assert 600 <= width <= 1200
        assert 600 <= height <= 1200
    assert (tmp_path / "new/roc.png").read_bytes() != (tmp_path / "reliability.png").read_bytes()


def test_drawing_opens_no_window_and_leaves_no_figure_behind(tmp_path: Path) -> None:
    plot_roc(LABELS, SCORES, 0.5, tmp_path / "roc.png")
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_other_scores_give_another_picture_and_equal_ones_the_same(tmp_path: Path) -> None:
    for name, scores in (("a", SCORES), ("b", SCORES), ("c", SCORES[::-1])):
        plot_reliability(LABELS, scores, tmp_path / f"{name}.png")
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"file.*folder that can be written"):
        plot_roc(LABELS, SCORES, 0.5, tmp_path / "file" / "roc.png")


def test_the_command_writes_two_plots_for_each_file_and_says_where_there_is_nothing_to_plot(home: Path) -> None:
    files = [
        write_rows(home / "one" / "rows.jsonl", "unsafe", "safe", "safe"),
        write_rows(home / "two" / "rows.jsonl", "unsafe", "safe", "safe"),
        write_rows(home / "safe.jsonl", "safe", "safe", "safe"),
    ]
    result = command(*files, "--detector", "keywords", "--plots", home / "plots", "--json")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (home / "plots").iterdir()) == [
        "rows-1-reliability.png",
        "rows-1-roc.png",
        "rows-2-reliability.png",
        "rows-2-roc.png",
    ]
    assert "safe: rows of one label only" in result.stderr
    assert set(json.loads(result.stdout)["files"]) == set(map(str, files))


def test_without_matplotlib_the_command_says_which_extra_has_it_before_it_measures(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SettingsError):
        plots.require()
    result = command(home / "missing.jsonl", "--detector", "keywords", "--plots", home / "plots")
    assert result.exit_code == 2
    assert result.stderr.strip() == "guardrail: plots need matplotlib: pip install 'guardrail[train]'"


def test_spans_have_nothing_to_plot(home: Path) -> None:
    result = command(home / "spans.jsonl", "--detector", "pii", "--plots", home / "plots")
    assert result.exit_code == 2
    assert "no scores to plot" in result.stderr
