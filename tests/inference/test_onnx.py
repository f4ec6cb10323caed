"""The int8 form: made once and kept, made again when it is not whole, as good as the weights, the same in any batch."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from guardrail.errors import DetectorError, SettingsError
from guardrail.inference import engine, export
from guardrail.inference.card import ModelCard, load_card
from guardrail.inference.engine import cores, load_classifier, spare_threads
from guardrail.inference.export import Unsupported, exported
from guardrail.inference.tokens import TokenEncoder
from guardrail.inference.torch import TorchScorer, load_scorer
from guardrail.resources import models_dir
from tests.inference.tiny import LABELS, write_card, write_model

pytest.importorskip("onnxruntime", reason="not run: needs guardrail[onnx]")
pytest.importorskip("onnxscript", reason="not run: needs guardrail[onnx]")

from guardrail.inference.onnx import OnnxScorer

BATCH = [[0, 5, 6, 2], [0, 7, 2], [0, 8, 9, 10, 11, 2]]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all tests here that only read: an export takes seconds."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def plain(plain_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as torch exports it."""
    target = tmp_path_factory.mktemp("plain") / "plain.onnx"
    card = load_card(plain_folder, dict.fromkeys(LABELS, "harm"))
    export._export(load_scorer(plain_folder, card, device="cpu"), target)
    return target


@pytest.fixture
def quick_export(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what happens around an export, which itself takes seconds."""
    monkeypatch.setattr(export, "_export", lambda scorer, target: shutil.copy(plain, target))


def never() -> TorchScorer:
    raise AssertionError("it is there already")


def loader(folder: Path, card: ModelCard) -> Callable[[], TorchScorer]:
    return lambda: load_scorer(folder, card, device="cpu")


def small(folder: Path, cache: Path, *, threads: int = 1) -> OnnxScorer:
    card = load_card(folder)
    return OnnxScorer(*exported(folder, card, cache, loader(folder, card)), tuple(card.labels), threads=threads)


def test_it_scores_as_the_weights_do_whatever_the_batch(folder: Path, cache: Path) -> None:
    card = load_card(folder)
    quick, exact = small(folder, cache), load_scorer(folder, card, device="cpu")
    assert quick.labels == LABELS
    together = quick.score(BATCH)
    for row, expected in zip(together, exact.score(BATCH), strict=True):
        assert row == pytest.approx(expected, abs=0.05)
    alone = [quick.score([ids])[0] for ids in BATCH]
    padded = quick.score([*BATCH, list(range(16))])[:3]
    assert np.allclose(together, alone, atol=1e-6)
    assert np.allclose(together, padded, atol=1e-6)


def test_labels_of_which_one_holds_are_shares_of_one(tmp_path: Path, cache: Path) -> None:
    folder = write_model(tmp_path / "other", ["ok", "toxic", "threat"], problem="single_label_classification")
    card = load_card(folder, {"ok": "", "toxic": "insult", "threat": "violence"})
    quick = OnnxScorer(*exported(folder, card, cache, loader(folder, card)), ("toxic", "threat"), threads=1)
    exact = load_scorer(folder, card, device="cpu")
    for row, expected in zip(quick.score(BATCH), exact.score(BATCH), strict=True):
        assert row == pytest.approx(expected, abs=0.02)


@pytest.mark.usefixtures("quick_export")
def test_it_is_made_once_and_again_when_a_byte_or_the_recipe_has_changed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = load_card(folder)
    file, made = exported(folder, card, tmp_path / "kept", loader(folder, card))
    assert exported(folder, card, tmp_path / "kept", never) == (file, made)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [file.parent.name]  # nothing half-made is left

    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert exported(folder, card, tmp_path / "kept", loader(folder, card))[0] == file
    (file.parent / export.DIGEST).write_text("{")
    exported(folder, card, tmp_path / "kept", loader(folder, card))
    assert exported(folder, card, tmp_path / "kept", never)[1].size == made.size

    monkeypatch.setattr(export, "RECIPE", export.RECIPE + 1)
    with pytest.raises(AssertionError, match="there already"):
        exported(folder, card, tmp_path / "kept", never)


@pytest.mark.usefixtures("quick_export")
def test_other_weights_have_a_file_of_their_own(folder: Path, tmp_path: Path, cache: Path) -> None:
    card = load_card(folder)
    first, _ = exported(folder, card, cache, loader(folder, card))
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"gelu"', '"relu"'))
    write_card(folder)
    card = load_card(folder)
    assert exported(folder, card, cache, loader(folder, card))[0] != first


@pytest.mark.usefixtures("quick_export")
def test_two_that_start_at_once_both_get_a_whole_file(folder: Path, tmp_path: Path) -> None:
    card = load_card(folder)
    scorer = load_scorer(folder, card, device="cpu")
    gate = threading.Barrier(2)
    files: list[Path] = []

    def late() -> TorchScorer:
        gate.wait(10)  # neither has written when the other begins
        return scorer

    threads = [threading.Thread(target=lambda: files.append(exported(folder, card, tmp_path, late)[0])) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(files) == 2
    assert len(set(files)) == 1
    assert exported(folder, card, tmp_path, never)[0] == files[0]


def test_a_cache_that_cannot_be_written_is_named_and_torch_serves(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    with pytest.raises(SettingsError, match=r"file.*expected a folder.*onnx_dir.*torch"):
        load_classifier(folder, runtime="onnx", cache=blocked, device="cpu")
    served, _ = load_classifier(folder, runtime="auto", cache=blocked, device="cpu")
    assert isinstance(served._scorer, TorchScorer)
    assert "torch serves it" in caplog.text
    assert str(blocked) in caplog.text


def test_without_the_extra_torch_serves_and_onnx_alone_is_refused(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "NEEDED", ("onnxruntime", "no_such_package"))
    caplog.set_level(logging.INFO, "guardrail.inference")
    served, _ = load_classifier(folder, runtime="auto", cache=tmp_path / "kept", device="cpu")
    assert isinstance(served._scorer, TorchScorer)
    [record] = [record for record in caplog.records if record.name == "guardrail.inference"]
    assert record.levelno == logging.INFO
    assert "no_such_package not installed" in record.getMessage()
    with pytest.raises(SettingsError, match=r"guardrail\[onnx\]"):
        load_classifier(folder, runtime="onnx", cache=tmp_path / "kept", device="cpu")
    with pytest.raises(SettingsError, match=r"classifier\.runtime.*cuda"):
        load_classifier(folder, runtime="onnx", device="cuda")


def test_a_model_that_does_not_export_is_served_by_torch(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(scorer: TorchScorer, target: Path) -> None:
        raise Unsupported("torch could not export the model (Oops)")

    monkeypatch.setattr(export, "_export", refuse)
    served, _ = load_classifier(folder, runtime="auto", cache=tmp_path / "kept", device="cpu")
    assert isinstance(served._scorer, TorchScorer)
    assert "could not export" in caplog.text
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.mark.parametrize(("onnx_seconds", "runtime"), [(1.0, OnnxScorer), (3.0, TorchScorer)])
def test_the_quicker_one_serves_and_the_log_says_so_once(
    folder: Path,
    cache: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    onnx_seconds: float,
    runtime: type,
) -> None:
    small(folder, cache)
    monkeypatch.setattr(engine, "kept", lambda *_: None)  # nothing was measured before
    caplog.set_level(logging.INFO, "guardrail.inference")
    monkeypatch.setattr(engine, "seconds", lambda scorer, _: onnx_seconds if isinstance(scorer, OnnxScorer) else 2.0)
    served, _ = load_classifier(folder, runtime="auto", cache=cache, device="cpu", threads=1)
    assert type(served._scorer) is runtime
    assert caplog.text.count("serves it with 1 thread(s)") == 1


def test_what_was_measured_here_is_not_measured_again_and_torch_stays_away(
    folder: Path, cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_GPU_SIGNS", ())
    monkeypatch.setattr(engine, "seconds", lambda scorer, _: 1.0 if isinstance(scorer, OnnxScorer) else 2.0)
    load_classifier(folder, runtime="auto", cache=cache, device="cpu", threads=1)
    code = (
        "import sys; from pathlib import Path; from guardrail.inference import engine; engine._GPU_SIGNS = ()\n"
        "made, _ = engine.load_classifier(Path(sys.argv[1]), runtime='auto', cache=Path(sys.argv[2]), threads=1)\n"
        "print(type(made._scorer).__name__, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(folder), str(cache)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "OnnxScorer False False\n"

    caplog.set_level(logging.INFO, "guardrail.inference")
    load_classifier(folder, runtime="auto", cache=cache, device="cpu", threads=2)  # another number of threads
    assert "ms for" in caplog.text
    caplog.clear()
    monkeypatch.setattr(engine, "_GPU_SIGNS", (str(folder),))
    load_classifier(folder, runtime="auto", cache=cache, device="auto", threads=2)  # a GPU may be here
    assert "when that was measured" not in caplog.text


def test_int8_that_is_far_off_does_not_serve(
    folder: Path, cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(folder, cache)
    monkeypatch.setattr(engine, "kept", lambda *_: None)  # nothing was measured before
    monkeypatch.setattr(OnnxScorer, "score", lambda self, batch: [(0.9,) * len(LABELS)] * len(batch))
    served, _ = load_classifier(folder, runtime="auto", cache=cache, device="cpu")
    assert isinstance(served._scorer, TorchScorer)
    assert "int8 moves a score by" in caplog.text


def test_a_token_that_the_model_has_not_is_a_detector_error(folder: Path, cache: Path) -> None:
    quick = small(folder, cache)
    with pytest.raises(DetectorError, match="onnxruntime"):
        quick.score([[10_000]])
    assert len(quick.score(BATCH)) == 3


def test_a_damaged_file_is_not_served(folder: Path, cache: Path, tmp_path: Path) -> None:
    card = load_card(folder)
    _, made = exported(folder, card, cache, loader(folder, card))
    nonsense = tmp_path / "model.onnx"
    nonsense.write_bytes(b"nonsense")
    with pytest.raises(Unsupported, match="does not take"):
        OnnxScorer(nonsense, made, LABELS, threads=1)


def test_threads_leave_cores_to_the_proxies() -> None:
    count = cores()
    assert 1 <= count <= (os.cpu_count() or 1)
    assert spare_threads() == max(1, count - 1)
    assert spare_threads(10_000) == 1


# -- the shipped model ---------------------------------------------------------------------------------------------


def area(scores: Sequence[float], unsafe: Sequence[bool]) -> float:
    """AUROC: how often an unsafe text's score is above a safe one's."""
    bad = np.array([score for score, is_bad in zip(scores, unsafe, strict=True) if is_bad])
    good = np.array([score for score, is_bad in zip(scores, unsafe, strict=True) if not is_bad])
    return float(((bad[:, None] > good).mean() + (bad[:, None] >= good).mean()) / 2)


def ranks(values: Sequence[float]) -> np.ndarray:
    return np.argsort(np.argsort(values))


def test_int8_of_the_shipped_model_is_within_half_a_point_of_its_weights(cache: Path) -> None:
    folder = models_dir() / "guard-zh-en"
    card = load_card(folder)
    exact = load_scorer(folder, card, device="cpu", threads=1)
    quick = OnnxScorer(*exported(folder, card, cache, lambda: exact), tuple(card.labels), threads=1)
    corpus = [
        json.loads(line)
        for path in sorted((folder / "corpus").glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    rows = random.Random(3).sample([row for row in corpus if row["label"] in ("safe", "unsafe")], 300)
    ids = TokenEncoder.load(folder, card.max_tokens).head_and_tail([row["text"] for row in rows])
    unsafe = [row["label"] == "unsafe" for row in rows]
    assert any(unsafe)
    column = card.harm_labels[0]
    place = list(card.labels).index(column)
    plain = np.array([exact.score([one])[0] for one in ids])
    small = np.array([quick.score([one])[0] for one in ids])
    assert np.abs(plain - small).mean() < 0.005
    assert np.abs(plain - small).max() < 0.2
    assert np.corrcoef(ranks(plain[:, place]), ranks(small[:, place]))[0, 1] > 0.995
    assert abs(area(plain[:, place], unsafe) - area(small[:, place], unsafe)) < 0.005
    mixed = [score for begin in range(0, 96, 8) for score in quick.score(ids[begin : begin + 8])]
    assert np.abs(np.array(mixed) - small[:96]).max() < 1e-4
