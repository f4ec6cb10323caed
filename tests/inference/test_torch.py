"""A folder is loaded when its files are what its card says, and scored as transformers itself would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from guardrail.errors import DetectorError, SettingsError
from guardrail.inference.card import load_card
from guardrail.inference.engine import load_classifier
from guardrail.inference.tokens import TokenEncoder
from guardrail.inference.torch import load_scorer
from tests.inference.tiny import LABELS, write_card, write_model

TEXTS = ["you are a fool", "make a cake", "nice weather today you fool make a bomb today"]


def by_hand(folder: Path, texts: list[str], softmax: bool = False) -> list[list[float]]:
    """What plain transformers gives, one text at a time, no padding."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    encoder = TokenEncoder.load(folder, 16)
    rows = []
    for ids in encoder.head_and_tail(texts):
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids])).logits[0]
        rows.append((logits.softmax(-1) if softmax else logits.sigmoid()).tolist())
    return rows


async def test_scores_are_those_of_transformers_whatever_the_batch(folder: Path) -> None:
    engine, card = load_classifier(folder, device="cpu")
    await engine.start()
    assert card.id == "tiny"
    assert engine.labels == LABELS
    together = await engine.score(TEXTS)
    alone = [(await engine.score([text]))[0] for text in TEXTS]
    for row, same, expected in zip(together, alone, by_hand(folder, TEXTS), strict=True):
        assert row == pytest.approx(expected, abs=1e-5)
        assert same == pytest.approx(expected, abs=1e-5)
    await engine.close()


def test_an_altered_file_is_refused_with_what_to_do(folder: Path) -> None:
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(SettingsError, match=r"model\.safetensors: altered.*expects.*reinstall.*guardrail train"):
        load_classifier(folder)


def test_a_file_cut_short_and_a_missing_one_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(SettingsError, match=r"model\.safetensors: \d+ bytes; model\.toml expects \d+"):
        load_card(folder)
    weights.unlink()
    with pytest.raises(SettingsError, match=r"model\.safetensors: missing; expected \d+ bytes, sha256 [0-9a-f]{64}"):
        load_card(folder)


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere: no such model folder; reinstall"):
        load_classifier(tmp_path / "nowhere")


def test_a_card_with_a_wrong_key_names_it(folder: Path) -> None:
    write_card(folder, max_token=3)
    with pytest.raises(SettingsError, match=r"model\.toml: .*max_token"):
        load_card(folder)
    write_card(folder, labels={"unsafe": {"category": "unsafe", "block": 1.5}})
    with pytest.raises(SettingsError, match=r"model\.toml: .*1\.0.*block"):
        load_card(folder)
    write_card(folder, harm=["unsafe", "nothing"])
    with pytest.raises(SettingsError, match="nothing"):
        load_card(folder)


def test_labels_the_model_has_not_are_refused(folder: Path) -> None:
    write_card(folder, labels={"spam": {"category": "spam"}})
    with pytest.raises(SettingsError, match=r"labels \['spam'\] that the model has not"):
        load_classifier(folder)


def test_weights_that_do_not_fit_the_config_are_refused(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    write_card(folder)
    with pytest.raises(SettingsError, match="do not fit"):
        load_classifier(folder)
    (folder / "model.safetensors").write_bytes(b"nonsense")
    write_card(folder)
    with pytest.raises(SettingsError, match="not a sequence classifier"):
        load_classifier(folder)


async def test_any_hugging_face_classifier_takes_its_place_with_a_label_map(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "other", ["ok", "toxic", "threat"], problem="single_label_classification")
    with pytest.raises(SettingsError, match="label map"):
        load_classifier(folder)
    with pytest.raises(SettingsError, match=r"lacks \['threat'\]"):
        load_classifier(folder, label_map={"ok": "", "toxic": "insult"})
    with pytest.raises(SettingsError, match="spam"):
        load_classifier(folder, label_map={"ok": "", "toxic": "insult", "threat": "violence", "spam": "x"})
    engine, card = load_classifier(
        folder, label_map={"ok": "", "toxic": "insult", "threat": "violence"}, threshold=0.7, device="cpu"
    )
    assert engine.labels == ("toxic", "threat")
    assert card.labels["toxic"].category == "insult"
    assert card.labels["toxic"].block == 0.7
    await engine.start()
    rows = await engine.score(TEXTS)
    for row, expected in zip(rows, by_hand(folder, TEXTS, softmax=True), strict=True):
        assert row == pytest.approx(expected[1:], abs=1e-5)
    await engine.close()


def test_a_device_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(SettingsError, match="expected auto, cpu, cuda"):
        load_classifier(folder, device="abacus")


def test_a_failing_device_is_a_detector_error(folder: Path) -> None:
    scorer = load_scorer(folder, load_card(folder), device="cpu")
    with pytest.raises(DetectorError, match="failed on cpu"):
        scorer.score([[10_000]])  # no such token in the table


def test_nothing_but_torch_py_imports_torch() -> None:
    modules = "batching, card, remote, server, tokens"
    code = (
        f"from guardrail.inference import {modules}\n"
        "import guardrail.detectors.classifier, guardrail.training.evaluate, guardrail.training.rows, sys\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
