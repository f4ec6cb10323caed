"""A run can be stopped and continued to the same weights; its folder is loaded by guardrail and by Hugging Face."""

from __future__ import annotations

import random
import tomllib
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from guardrail.errors import SettingsError
from guardrail.inference.card import load_card
from guardrail.inference.engine import load_classifier
from guardrail.inference.tokens import TokenEncoder
from guardrail.training import run
from guardrail.training.config import Backbone, Model, Quota, TrainConfig
from guardrail.training.export import choose_thresholds
from guardrail.training.finetune import (
    Progress,
    balance,
    finetune,
    load_backbone,
    plan_batches,
    score_texts,
    twin_pairs,
)
from guardrail.training.rows import Row
from guardrail.training.targets import LABELS, targets
from tests.inference.tiny import write_model

SAFE = ["bake a cake", "make a nice cake today", "the weather nice today", "you bake the nice cake"]
UNSAFE = ["you are a fool", "make a bomb", "you fool bake a bomb today", "a fool you are today"]


def config(**changes: object) -> TrainConfig:
    values: dict[str, object] = {
        "model": Model("tiny", "A tiny guard", "Apache-2.0", ("en",), Backbone("random", "made here", "Apache-2.0")),
        "mix": (Quota("own", 1_000), Quota("other", 1_000)),
        "seed": 5,
        "layers": 2,
        "frozen_layers": 1,
        "max_tokens": 16,
        "epochs": 3,
        "batch_size": 8,
        "learning_rate": 5e-3,
        "head_learning_rate": 5e-3,
        "patience": 9,
        "checkpoint_steps": 3,
        "holdout_source": "own",
        "licenses": {"own": "Apache-2.0"},
        "false_positive_rate": 0.1,
    }
    return TrainConfig(**{**values, **changes})  # type: ignore[arg-type]


def material(count: int = 60) -> list[Row]:
    dice = random.Random(3)
    words = ["today", "nice", "word", "up", "make"]
    rows = []
    for i in range(count):
        base = dice.choice(UNSAFE if i % 2 else SAFE)
        text = f"{base} {dice.choice(words)} {dice.choice(words)} {dice.choice(words)}"
        rows.append(
            Row(text, "unsafe" if i % 2 else "safe", lang="en", kind="prompt", cls="insult" if i % 2 else "safe",
                source="own" if i % 3 else "other", license="" if i % 3 else "MIT", id=str(i))
        )  # fmt: skip
    return rows


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("backbone") / "tiny", ["a", "b"])


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_run_that_was_stopped_ends_in_the_same_weights(backbone: Path, tmp_path: Path) -> None:
    rows = material()
    whole = finetune(config(), rows, backbone, tmp_path / "a", judge=lambda model: 1.0)
    assert whole is not None
    for stop in (2, 3, 8, 13):  # inside an epoch, at a checkpoint, at an epoch's end, in the second one
        assert finetune(config(), rows, backbone, tmp_path / "b", judge=lambda model: 1.0, stop_after=stop) is None
    broken = finetune(config(), rows, backbone, tmp_path / "b", judge=lambda model: 1.0)
    assert broken is not None
    assert broken.epochs == whole.epochs
    for name, value in weights(whole.model).items():
        assert torch.equal(value, weights(broken.model)[name]), name


def test_another_seed_gives_other_weights_and_frozen_parts_stay(backbone: Path, tmp_path: Path) -> None:
    rows = material()
    start = weights(load_backbone(backbone, config()))
    first = finetune(config(epochs=1), rows, backbone, tmp_path / "a")
    second = finetune(config(epochs=1, seed=6), rows, backbone, tmp_path / "b")
    assert first is not None
    assert second is not None
    top = "bert.encoder.layer.1.output.dense.weight"
    assert not torch.equal(weights(first.model)[top], weights(second.model)[top])
    assert not torch.equal(weights(first.model)[top], start[top])
    for name, value in weights(first.model).items():
        if "embeddings" in name or "layer.0." in name:
            assert torch.equal(value, start[name]), name


def test_twins_stand_side_by_side_and_every_row_comes_once() -> None:
    lengths = [dice.randint(3, 60) for dice in [random.Random(2)] for _ in range(203)]
    keys = [f"p{i // 2}" if i < 80 else "" for i in range(203)]
    batches = plan_batches(lengths, 8, random.Random(1), keys)
    order = [i for batch in batches for i in batch]
    assert sorted(order) == list(range(203))
    assert sorted(map(len, batches))[:2] == [3, 8]
    together = sum(any({i, i + 1} <= set(batch) for batch in batches) for i in range(0, 80, 2))
    assert together >= 32  # a batch's end may part a pair


def test_pairs_are_an_unsafe_row_with_each_safe_twin_and_political_ones_push_nothing() -> None:
    rows = [
        Row("a", "unsafe", cls="hate", source="s", pair="1"),
        Row("b", "safe", source="s", pair="1"),
        Row("c", "safe", source="other", pair="1"),
        Row("d", "safe", source="s", pair="1"),
        Row("e", "unsafe", cls="political", source="s", pair="2"),
        Row("f", "safe", source="s", pair="2"),
        Row("g", "unsafe", source="s"),
    ]
    assert twin_pairs(rows, [6, 3, 0, 1, 2, 4, 5]) == [(2, 1), (2, 3)]


def test_twins_are_pushed_apart(backbone: Path, tmp_path: Path) -> None:
    words = ["today", "nice", "word", "up", "make", "cake", "weather", "bake"]
    rows = []
    for i, (one, other) in enumerate([(a, b) for a in words for b in words if a != b]):
        rows.append(Row(f"{one} fool {other}", "unsafe", "en", "prompt", "insult", source="own", pair=str(i)))
        rows.append(Row(f"{one} bomb {other}", "safe", "en", "prompt", "safe", source="own", pair=str(i)))
    gaps = []
    for weight in (0.0, 5.0):
        outcome = finetune(config(epochs=1, twin_weight=weight), rows, backbone, tmp_path / f"twins{weight}")
        assert outcome is not None
        encoder = TokenEncoder.load(backbone, 16)
        scores = [row[0] for row in score_texts(outcome.model, encoder, [row.text for row in rows], 4)]
        gaps.append(sum(bad - good for bad, good in zip(scores[::2], scores[1::2], strict=True)) / len(rows))
    assert gaps[1] > gaps[0]


def test_the_best_epoch_wins_and_patience_ends_the_run(backbone: Path, tmp_path: Path) -> None:
    metrics = iter([0.7, 0.9, 0.8, 0.85, 0.99])
    kept: list[dict[str, torch.Tensor]] = []

    def judge(model: torch.nn.Module) -> float:
        kept.append(weights(model))
        return next(metrics)

    outcome = finetune(config(epochs=5, patience=2), material(), backbone, tmp_path / "c", judge=judge)
    assert outcome is not None
    assert outcome.epochs == [0.7, 0.9, 0.8, 0.85]
    assert outcome.best_epoch == 1
    for name, value in weights(outcome.model).items():
        assert torch.equal(value, kept[1][name]), name


def test_a_checkpoint_of_another_run_or_a_broken_one_is_refused(backbone: Path, tmp_path: Path) -> None:
    finetune(config(), material(), backbone, tmp_path / "c", stop_after=2)
    with pytest.raises(SettingsError, match="other rows or settings; pass --restart"):
        finetune(config(seed=9), material(), backbone, tmp_path / "c")
    (tmp_path / "c" / "state.pt").write_bytes(b"half a file")
    with pytest.raises(SettingsError, match="unreadable checkpoint"):
        finetune(config(), material(), backbone, tmp_path / "c")


def test_a_backbone_that_is_none_or_too_shallow_is_refused(backbone: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no config\.json"):
        load_backbone(tmp_path, config())
    with pytest.raises(SettingsError, match="has 2 layers; the training file asks for 5"):
        load_backbone(backbone, config(layers=5))


def test_balanced_classes_have_as_much_to_say_as_their_opposite() -> None:
    rows = [Row("x", "unsafe", cls="insult")] * 30 + [Row("x", "unsafe", cls="sexual")] * 3
    rows += [Row("x", "unsafe", cls="unsafe_other")] * 5 + [Row("x", "safe", cls="safe")] * 40
    wanted, weights = (torch.tensor(part) for part in zip(*(targets(row) for row in rows), strict=True))
    balanced = balance(wanted, weights)
    for name in ("insult", "sexual"):
        place = LABELS.index(name)
        yes = float((balanced[:, place] * wanted[:, place]).sum())
        assert yes == pytest.approx(float((balanced[:, place] * (1 - wanted[:, place])).sum()))
    unknown = balanced[33:38]
    assert float(unknown[:, LABELS.index("insult")].sum()) == 0.0
    assert torch.equal(balanced[:, 0], weights[:, 0])


def test_batches_hold_every_row_once_and_little_padding() -> None:
    dice = random.Random(1)
    lengths = [dice.randint(1, 128) for _ in range(1_000)]
    batches = plan_batches(lengths, 16, random.Random(1))
    assert sorted(i for batch in batches for i in batch) == list(range(1_000))
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)
    assert plan_batches(lengths, 16, random.Random(1)) == batches


async def test_a_run_learns_and_writes_a_folder_that_both_can_load(backbone: Path, tmp_path: Path) -> None:
    steps: list[Progress] = []
    rows = material(240)
    parts = run.Material(mix=rows[:180], held=rows[180:200], dev=rows[200:])
    output = tmp_path / "out"
    result = run.train(
        config(epochs=6, dropout=0.0, frozen_layers=0),
        parts,
        backbone,
        output,
        tmp_path / "state",
        on_progress=steps.append,
    )
    assert steps[-1].step == steps[-1].steps
    assert [step.epoch for step in steps if step.epoch_ended] == list(range(6))
    assert steps[-1].loss < steps[0].loss
    assert result.metrics["dev"]["auroc"]["en/prompt"] > 0.9
    assert not (tmp_path / "state").exists()

    card = load_card(output)
    assert tuple(card.labels) == LABELS
    assert card.labels["unsafe"].flag <= card.labels["unsafe"].block <= card.labels["unsafe"].strike
    assert card.labels["hate"].block == card.labels["unsafe"].block
    assert {source.name: source.license for source in card.data} == {"own": "Apache-2.0", "other": "MIT"}
    assert {entry.name for entry in card.file} == {"config.json", "model.safetensors", "ngrams.npz", "tokenizer.json"}

    engine, _ = load_classifier(output, device="cpu")
    await engine.start()
    [good], [bad] = await engine.score(["bake a cake"]), await engine.score(["you are a fool"])
    await engine.close()
    unsafe = engine.labels.index("unsafe")
    assert bad[unsafe] > good[unsafe]

    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(output)
    assert model.config.problem_type == "multi_label_classification"
    assert list(model.config.id2label.values()) == list(LABELS)
    assert tomllib.loads((output / "model.toml").read_text())["training"]["rows"] == 180


def test_thresholds_hold_the_rate_in_every_language() -> None:
    dice = random.Random(2)
    rows, scores = [], []
    for i in range(2_000):
        lang = "zh" if i % 2 else "en"
        rows.append(Row("x", "safe" if i % 4 < 2 else "unsafe", lang=lang, kind="prompt"))
        high = dice.random() ** (1 if lang == "zh" else 3)
        scores.append([high, dice.random() / 2] + [dice.random()] * (len(LABELS) - 2))
    chosen = choose_thresholds(rows, scores, 0.04)
    assert chosen["unsafe"].flag < chosen["unsafe"].block < chosen["unsafe"].strike
    assert chosen["insult"] == chosen["unsafe"]
    for name in ("political", "jailbreak"):
        assert all(value >= floor for value, floor in zip(chosen[name], (0.3, 0.5, 0.8), strict=True))
    for lang in ("zh", "en"):
        safe = [max(s[:2]) for s, row in zip(scores, rows, strict=True) if row.label == "safe" and row.lang == lang]
        assert sum(score >= chosen["unsafe"].block for score in safe) <= 0.04 * len(safe)


def test_a_mix_that_names_an_absent_source_or_has_one_label_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "own.jsonl"
    data.write_text('{"text": "x", "label": "safe"}\n')
    with pytest.raises(SettingsError, match=r"names \['other'\], which no --data file holds"):
        run.gather(config(), [data], [])
    with pytest.raises(SettingsError, match="one label only"):
        run.gather(config(mix=(Quota("own", 10),), holdout=0.0), [data], [])


def test_the_command_ends_with_one_line_on_bad_input(tmp_path: Path) -> None:
    import typer

    from guardrail.cli.train import train

    app = typer.Typer()
    app.command()(train)
    missing = tmp_path / "none.toml"
    result = CliRunner().invoke(
        app, [str(missing), "--data", "x.jsonl", "--backbone", str(tmp_path), "--output", str(tmp_path / "o")]
    )
    assert result.exit_code == 2
    assert result.output.strip() == f"guardrail: {missing}: no such file; expected a training file (TOML)"
