"""Write a trained model as a folder that `guardrail` and Hugging Face both load: fp16 weights, tokenizer, card."""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import tomli_w
import torch

from guardrail.errors import SettingsError
from guardrail.inference.card import CARD, Calibration, file_sha256
from guardrail.inference.ngrams import FILE as NGRAMS
from guardrail.training.config import TrainConfig
from guardrail.training.metrics import auroc, threshold_at
from guardrail.training.rows import Row
from guardrail.training.targets import ANSWER, CLASSES, JAILBREAK, LABELS, POLITICAL, UNSAFE

HARM = (UNSAFE, ANSWER, POLITICAL)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
# Shares of `false_positive_rate`: a flag may be wrong more often than a block, a strike hardly ever.
FLAG_FACTOR, STRIKE_FACTOR, OWN_FACTOR = 2.5, 0.25, 0.5
# What has a head of its own is rare: safe text hardly scores there, and the quantile alone would be reckless.
OWN_FLOOR = (0.1, 0.2, 0.5)


def harm_places(kind: str) -> list[int]:
    """The places in LABELS whose highest score is the harm score of a row of this kind."""
    return [LABELS.index(ANSWER if kind == "response" else UNSAFE), LABELS.index(POLITICAL)]


class Thresholds(NamedTuple):
    """From which score a label is flagged, blocked, and counted against a user."""

    flag: float
    block: float
    strike: float


def write_weights(model: Any, backbone: Path, output: Path) -> None:
    """Save config, fp16 weights and the backbone's tokenizer into `output`. Raises SettingsError if it cannot."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        model.to("cpu").to(torch.float16).save_pretrained(output)
        for name in TOKENIZER_FILES:
            if (backbone / name).is_file():
                # copyfile: the permissions of the source, read-only perhaps, are not ours to keep.
                shutil.copyfile(backbone / name, output / name)
        for path in output.glob("*.safetensors"):
            path.chmod(0o644)  # safetensors writes for the owner alone; a model is for whoever runs the service
    except OSError as error:
        raise SettingsError(f"{output}: {error.strerror or error}; expected a folder that can be written") from None


def choose_thresholds(rows: Sequence[Row], scores: Sequence[Sequence[float]], rate: float) -> dict[str, Thresholds]:
    """Choose each label's thresholds on the safe prompts of `rows`; scores are [n, labels] in the order of LABELS.

    A threshold holds in every language: it is the highest of those that let at most the share asked for be flagged.
    `unsafe` is chosen on the harm score, the higher of `unsafe` and `political`, so that the rate holds for both
    together; a class shares its thresholds, as its findings carry the `unsafe` score.
    """
    by_lang: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        if row.label == "safe" and row.kind in ("prompt", ""):
            by_lang[row.lang].append(i)

    def at(places: Sequence[int], share: float) -> float:
        return max(
            (threshold_at([max(scores[i][p] for p in places) for i in chosen], share) for chosen in by_lang.values()),
            default=0.5,
        )

    harm = harm_places("prompt")
    unsafe = Thresholds(at(harm, rate * FLAG_FACTOR), at(harm, rate), at(harm, rate * STRIKE_FACTOR))
    chosen = dict.fromkeys((UNSAFE, ANSWER, *CLASSES), unsafe)
    for name in (POLITICAL, JAILBREAK):
        place = [LABELS.index(name)]
        shares = (rate, rate * OWN_FACTOR, rate * STRIKE_FACTOR)
        floors = zip(OWN_FLOOR, shares, strict=True)
        chosen[name] = Thresholds(*(max(floor, at(place, share)) for floor, share in floors))
    return chosen


def cell_metrics(rows: Sequence[Row], scores: Sequence[Sequence[float]], least: int = 15) -> dict[str, float]:
    """AUROC of the harm score by "language/kind", for cells with at least `least` rows of each label."""
    cells: dict[str, list[tuple[bool, float]]] = defaultdict(list)
    for row, score in zip(rows, scores, strict=True):
        if row.label != "borderline":
            harm = max(score[place] for place in harm_places(row.kind))
            cells[f"{row.lang}/{row.kind}"].append((row.label == "unsafe", harm))
    result = {}
    for name, pairs in sorted(cells.items()):
        positives = sum(label for label, _ in pairs)
        if min(positives, len(pairs) - positives) >= least:
            value = auroc([label for label, _ in pairs], [score for _, score in pairs])
            result[name] = round(value or 0.0, 4)
    return result


def write_card(
    output: Path,
    config: TrainConfig,
    rows: Sequence[Row],
    thresholds: Mapping[str, Thresholds],
    calibrations: Mapping[str, Calibration],
    metrics: Mapping[str, Any],
    training: Mapping[str, Any],
) -> None:
    """Write `model.toml`: what the model is, its labels' thresholds, its data, and the digest of every loaded file."""
    roles = {UNSAFE: "unsafe", ANSWER: "unsafe", POLITICAL: "own", JAILBREAK: "own"}
    sides = {UNSAFE: ["prompt"], ANSWER: ["completion"]}
    licences: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        licences[row.source][row.license or config.licenses.get(row.source, "not stated")] += 1
    files = [
        path for path in sorted(output.iterdir()) if path.suffix in (".json", ".safetensors") or path.name == NGRAMS
    ]
    card = {
        "id": config.model.id,
        "title": config.model.title,
        "license": config.model.license,
        "languages": list(config.model.languages),
        "max_tokens": config.max_tokens,
        "overlap": config.max_tokens // 4,
        "harm": list(HARM),
        "backbone": {
            "name": config.model.backbone.name,
            "source": config.model.backbone.source,
            "license": config.model.backbone.license,
        },
        "labels": {
            name: {
                "category": UNSAFE if name == ANSWER else name,
                "role": roles.get(name, "class"),
                **thresholds[name]._asdict(),
                **({"directions": sides[name]} if name in sides else {}),
                **({"calibration": msgspec.to_builtins(calibrations[name])} if name in calibrations else {}),
            }
            for name in LABELS
        },
        "metrics": dict(metrics),
        "training": dict(training),
        "data": [
            {"name": source, "rows": count.total(), "license": "; ".join(sorted(count))}
            for source, count in sorted(licences.items())
        ],
        "file": [{"name": p.name, "sha256": file_sha256(p), "size": p.stat().st_size} for p in files],
    }
    header = "# Written by `guardrail train`. The digests are checked whenever the model is loaded.\n"
    (output / CARD).write_text(header + tomli_w.dumps(card), encoding="utf-8")
