"""One training run from files to a finished model folder: read, draw the mix, fine-tune, choose thresholds, write."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from guardrail.errors import SettingsError
from guardrail.inference.blend import columns, mix
from guardrail.inference.tokens import TokenEncoder
from guardrail.training.augment import TRICKS, augment
from guardrail.training.calibrate import calibrate
from guardrail.training.config import TrainConfig
from guardrail.training.export import cell_metrics, choose_thresholds, write_card, write_weights
from guardrail.training.finetune import Progress, finetune, score_texts
from guardrail.training.ngrams import fit_ngrams
from guardrail.training.rows import Row, draw_mix, read_rows, split_holdout
from guardrail.training.targets import ANSWER, LABELS, POLITICAL, UNSAFE


class Result(NamedTuple):
    """What a run came to: rows trained on, the dev metric by epoch, and the metrics written to the card."""

    rows: int
    epochs: list[float]
    metrics: dict[str, Any]


class Material(NamedTuple):
    """The rows of a run: what trains, what of our own is held back, the dev rows, and how many rows of which source
    no quota took."""

    mix: list[Row]
    held: list[Row]
    dev: list[Row]
    left_out: Mapping[str, int] = {}


BLENDED = (UNSAFE, ANSWER, POLITICAL)
"""The labels that the n-gram scorer scores too."""


def gather(config: TrainConfig, data: Sequence[Path], dev: Sequence[Path]) -> Material:
    """Read the files and draw the mix. Raises SettingsError for a bad file, or when a quota's source is in none."""
    rows = [row for path in data for row in read_rows(path, config.where)]
    kept, held = split_holdout(rows, config.holdout_source, config.holdout)
    mix = draw_mix(kept, config.mix, config.max_rows, config.seed)
    sources = Counter(row.source for row in rows)
    absent = sorted({quota.source for quota in config.mix if quota.rows} - set(sources))
    if absent:
        raise SettingsError(f"the mix names {absent}, which no --data file holds; the files hold {sorted(sources)}")
    if {row.label for row in mix} < {"safe", "unsafe"}:
        raise SettingsError("the mix holds rows of one label only; expected safe and unsafe ones")
    named = {quota.source for quota in config.mix}
    left_out = Counter(row.source for row in kept if row.source not in named)
    if config.augment:
        mix = with_variants(mix, config)
    return Material(mix, held, [row for path in dev for row in read_rows(path)], left_out)


def with_variants(mix: Sequence[Row], config: TrainConfig) -> list[Row]:
    """The mix and `config.augment` of hard variants. Base64 is none of them: an encoder cannot read it, and would learn
    that a label hangs on letters that say nothing."""
    tricks = [name for name in (*TRICKS, "context") if name != "base64"]
    return augment(mix, config.augment, config.seed, [row for row in mix if row.label == "safe"], tricks=tricks)


def train(
    config: TrainConfig,
    material: Material,
    backbone: Path,
    output: Path,
    checkpoint: Path,
    *,
    restart: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Result:
    """Run or go on with a run and write the model folder; the checkpoint stays until the folder is complete."""
    if restart:
        shutil.rmtree(checkpoint, ignore_errors=True)
    encoder = TokenEncoder.load(backbone, config.max_tokens)
    sample = list(material.dev)
    random.Random(config.seed).shuffle(sample)
    sample = sample[: config.dev_rows]
    judged = [*material.held, *sample]
    overlap = config.max_tokens // 4

    def judge(model: Any) -> float:
        scores = score_texts(model, encoder, [row.text for row in judged], overlap)
        split = len(material.held)
        cells = [
            *cell_metrics(judged[:split], scores[:split]).values(),
            *cell_metrics(judged[split:], scores[split:]).values(),
        ]
        return sum(cells) / len(cells) if cells else 0.0

    outcome = finetune(
        config, material.mix, backbone, checkpoint, judge=judge if judged else None, on_progress=on_progress
    )
    assert outcome is not None  # only stop_after, which is not used here, returns nothing
    write_weights(outcome.model, backbone, output)
    # Measured as shipped: on the weights rounded to fp16.
    model = outcome.model.to(torch.float32)
    ngrams = fit_ngrams(material.mix, BLENDED, seed=config.seed)
    ngrams.save(output)
    metrics: dict[str, Any] = {"dev_auroc_by_epoch": [round(value, 4) for value in outcome.epochs]}
    raw = score_texts(model, encoder, [row.text for row in judged], overlap)
    spelt = ngrams.score([row.text for row in judged])
    calibrations = calibrate(judged, raw, spelt, ngrams.labels)
    made = columns(LABELS, calibrations, ngrams)
    scored: dict[str, list[tuple[float, ...]]] = {}
    for name, rows in (("held_back", material.held), ("dev", material.dev)):
        texts = [row.text for row in rows]
        odds = ngrams.score(texts).tolist()
        found = score_texts(model, encoder, texts, overlap)
        scored[name] = [mix(row, z, made) for row, z in zip(found, odds, strict=True)]
        metrics[name] = {"rows": len(rows), "auroc": cell_metrics(rows, scored[name])}
    # Thresholds come from dev, which is nearer to traffic; our own held-back rows are all hard ones.
    basis = "dev" if material.dev else "held_back"
    rows = material.dev or material.held
    thresholds = choose_thresholds(rows, scored[basis], config.false_positive_rate)
    training = {
        "rows": len(material.mix),
        "epochs": len(outcome.epochs),
        "best_epoch": outcome.best_epoch + 1,
        "seed": config.seed,
        "layers": config.layers,
        "false_positive_rate": config.false_positive_rate,
        "thresholds_from": basis,
    }
    write_card(output, config, material.mix, thresholds, calibrations, metrics, training)
    shutil.rmtree(checkpoint, ignore_errors=True)
    return Result(len(material.mix), outcome.epochs, metrics)
