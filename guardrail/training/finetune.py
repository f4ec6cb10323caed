"""Fine-tune a sequence classifier with one sigmoid head a label: seeded, resumable to the bit, stopped on dev.

The lowest layers and the embeddings stay as the backbone has them, which is what makes a run on one CPU core possible.
What is kept is a running average of the weights (Polyak and Juditsky 1992), which generalises better to texts of other
sources than the last step does. Twins, an unsafe text and a safe one in its words, come in one batch and are pushed
apart: a model that has learnt topics cannot tell them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from guardrail.errors import SettingsError
from guardrail.inference.tokens import TokenEncoder
from guardrail.training.checkpoint import Checkpoint, fingerprint
from guardrail.training.config import TrainConfig
from guardrail.training.rows import Row
from guardrail.training.targets import ANSWER, CLASSES, LABELS, UNSAFE, targets
from guardrail.training.trunk import Trunk, pad


class Progress(NamedTuple):
    """How far a run is: steps done and in all, the running loss, the last dev metric, whether an epoch just ended."""

    step: int
    steps: int
    epoch: int
    loss: float
    dev: float | None
    epoch_ended: bool = False


class Outcome(NamedTuple):
    """A finished run: the model with its best epoch's weights, and each epoch's dev metric."""

    model: Any
    epochs: list[float]
    best_epoch: int
    rows: int


def load_backbone(folder: Path, config: TrainConfig) -> Any:
    """Load the first `layers` layers of a Hugging Face encoder with fresh heads, the lowest ones frozen, in fp32.

    Raises SettingsError when the folder holds no model of that depth.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification
    from transformers.utils import logging

    if not (folder / "config.json").is_file():
        raise SettingsError(f"{folder}: no config.json; expected a Hugging Face encoder to start from (--backbone)")
    # Layers above the cut are "unexpected keys" by design; the long report would hide real messages.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    depth = AutoConfig.from_pretrained(folder).num_hidden_layers
    if config.layers > depth:
        raise SettingsError(f"{folder}: the model has {depth} layers; the training file asks for {config.layers}")
    torch.manual_seed(config.seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder,
        num_hidden_layers=config.layers,
        num_labels=len(LABELS),
        id2label=dict(enumerate(LABELS)),
        label2id={name: i for i, name in enumerate(LABELS)},
        problem_type="multi_label_classification",
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,  # heads of a classifier that is trained further are made anew
    )
    encoder = model.base_model
    for parameter in encoder.embeddings.parameters():
        parameter.requires_grad = False
    for layer in encoder.encoder.layer[: config.frozen_layers]:
        for parameter in layer.parameters():
            parameter.requires_grad = False
    return model


def balance(wanted: Tensor, weights: Tensor) -> Tensor:
    """Weights under which each class says as much as its opposite, and safe rows, which it never names, little."""
    places = [LABELS.index(name) for name in CLASSES]
    safe = (wanted.sum(1, keepdim=True) == 0) & (weights[:, places] > 0)
    known = weights[:, places] * torch.where(safe, 0.1, 1.0)
    yes, no = (wanted[:, places] * known).sum(0), ((1 - wanted[:, places]) * known).sum(0)
    half = (yes + no) / 2
    scaled = torch.where(wanted[:, places] > 0, half / yes.clamp(min=1.0), half / no.clamp(min=1.0)) * known
    result = weights.clone()
    result[:, places] = scaled
    return result


def plan_batches(
    lengths: Sequence[int], batch_size: int, dice: random.Random, together: Sequence[str] = ()
) -> list[list[int]]:
    """Order row indices into batches of similar length (little padding), the batches shuffled, for one epoch.

    Rows with the same key in `together` (not empty) stand side by side. Every batch but one is full.
    """
    groups: dict[str, list[int]] = {}
    for i in range(len(lengths)):
        key = together[i] if together else ""
        groups.setdefault(key or f"\0{i}", []).append(i)
    units = list(groups.values())
    dice.shuffle(units)
    # Sorted inside pools, not over all rows, so that batches differ from epoch to epoch.
    pool = batch_size * 32
    order: list[int] = []
    for begin in range(0, len(units), pool):
        for unit in sorted(units[begin : begin + pool], key=lambda unit: max(lengths[i] for i in unit)):
            order += unit
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    dice.shuffle(batches)
    return batches


def twin_pairs(rows: Sequence[Row], batch: Sequence[int]) -> list[tuple[int, int]]:
    """Places in `batch` of an unsafe row and a safe twin of it, each with each."""
    sides: dict[str, tuple[list[int], list[int]]] = {}
    for place, i in enumerate(batch):
        row = rows[i]
        if row.pair and row.label in ("safe", "unsafe") and "political" not in (row.cls, row.cls2):
            sides.setdefault(_twins(row), ([], []))[row.label == "safe"].append(place)
    return [(bad, good) for unsafe, safe in sides.values() for bad in unsafe for good in safe]


def _twins(row: Row) -> str:
    return f"{row.source}:{row.pair}" if row.pair else ""


def predict(model: Any, ids: Sequence[Sequence[int]], batch_size: int = 32) -> list[list[float]]:
    """Sigmoid scores [n, labels] of token ids, in the order given."""
    device = next(model.parameters()).device
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    scores: list[list[float]] = [[] for _ in ids]
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for begin in range(0, len(order), batch_size):
            batch = order[begin : begin + batch_size]
            tokens, mask = pad([ids[i] for i in batch], model.config.pad_token_id or 0)
            logits = model(input_ids=tokens.to(device), attention_mask=mask.to(device)).logits
            for i, row in zip(batch, logits.float().sigmoid().cpu().tolist(), strict=True):
                scores[i] = row
    model.train(was_training)
    return scores


def score_texts(model: Any, encoder: TokenEncoder, texts: Sequence[str], overlap: int) -> list[list[float]]:
    """Scores [n, labels] as the engine gives them: long texts by overlapping windows, each label's highest score."""
    windows = encoder.windows(texts, overlap)
    scored = iter(predict(model, [window.ids for found in windows for window in found]))
    return [[max(column) for column in zip(*islice(scored, len(found)), strict=True)] for found in windows]


def frozen_states(config: TrainConfig, texts: Sequence[str], backbone: Path) -> list[Tensor]:
    """What the frozen layers make of texts: [tokens, hidden] each, for several runs over the same rows."""
    model = load_backbone(backbone, config)
    encoder = TokenEncoder.load(backbone, config.max_tokens)
    return Trunk(model, config.frozen_layers, config.precision).states(encoder.head_and_tail(texts))


def finetune(
    config: TrainConfig,
    rows: Sequence[Row],
    backbone: Path,
    checkpoint: Path,
    *,
    judge: Callable[[Any], float] | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    stop_after: int | None = None,
    states: Sequence[Tensor] | None = None,
) -> Outcome | None:
    """Train on `rows`, going on from `checkpoint` where one is left, and return the best epoch's model.

    `judge(model)` is the dev metric at each epoch's end (higher is better); without it the last epoch wins. The run
    stops after `patience` epochs without a better one. With `stop_after` it saves after that many steps and returns
    None: what a later call continues ends in the same weights as a run without a break. `states` are what the frozen
    layers make of each row, for a caller that has them (`frozen_states`).
    """
    torch.set_num_threads(config.threads)
    model = load_backbone(backbone, config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    encoder = TokenEncoder.load(backbone, config.max_tokens)
    ids = encoder.head_and_tail([row.text for row in rows])
    trunk = Trunk(model, config.frozen_layers, config.precision)
    if states is None:
        states = trunk.states(ids)
    twins = [_twins(row) for row in rows]
    wanted, weights = (torch.tensor(part) for part in zip(*(targets(row) for row in rows), strict=True))
    if config.balance_classes:
        weights = balance(wanted, weights)
    usual = weights.mean(0)
    driving = [LABELS.index(name) for name in (UNSAFE, ANSWER)]
    others = [place for place in range(len(LABELS)) if place not in driving]
    lengths = [len(row) for row in ids]

    head = [
        p for name, p in model.named_parameters() if p.requires_grad and not name.startswith(model.base_model_prefix)
    ]
    body = [p for p in model.base_model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [{"params": body, "lr": config.learning_rate}, {"params": head, "lr": config.head_learning_rate}],
        weight_decay=config.weight_decay,
    )
    per_epoch = math.ceil(len(rows) / config.batch_size)
    steps = per_epoch * config.epochs
    span = per_epoch * (config.schedule_epochs or config.epochs)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, span, config.warmup))

    state = Checkpoint(checkpoint, fingerprint(config, rows), model, optimizer, schedule)
    state.restore()
    model.train()
    loss_shown = state.loss
    while state.step < steps and not state.finished:
        epoch = state.step // per_epoch
        batches = plan_batches(lengths, config.batch_size, random.Random(f"{config.seed}:{epoch}"), twins)
        for batch in batches[state.step % per_epoch :]:
            logits = trunk.logits([states[i] for i in batch])
            raw = binary_cross_entropy_with_logits(logits, wanted[batch].to(device), reduction="none")
            known = weights[batch].to(device)
            # A rare class keeps its weight only when batches without it count less: divide by what is usual.
            total = usual.to(device) * len(batch) if config.balance_classes else known.sum(0)
            per_head = (raw * known).sum(0) / total.clamp(min=1.0)
            # What drives blocking weighs half as much as all other heads together; where the classes are what is
            # learnt, a fifth.
            loss = per_head[driving].mean() + per_head[others].mean() * (5.0 if config.balance_classes else 2.0)
            pairs = twin_pairs(rows, batch) if config.twin_weight else []
            if pairs:
                bad, good = (list(side) for side in zip(*pairs, strict=True))
                gap = logits[bad][:, driving] - logits[good][:, driving]
                loss = loss + config.twin_weight * softplus(1.0 - gap).sum() / (2 * len(batch))
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(body + head, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            state.step += 1
            state.follow(config.averaging)
            loss_shown = state.loss = 0.98 * loss_shown + 0.02 * loss.item() if loss_shown else loss.item()
            on_progress(Progress(state.step, steps, epoch, loss_shown, state.dev[-1] if state.dev else None))
            if state.step % per_epoch and (state.step == stop_after or state.step % config.checkpoint_steps == 0):
                state.save()
                if state.step == stop_after:
                    return None
        with state.averaged():
            state.end_epoch(judge(model) if judge else float(epoch), config.patience)
        on_progress(Progress(state.step, steps, epoch, loss_shown, state.dev[-1], epoch_ended=True))
        state.save()
        if state.step == stop_after:
            return None
    state.load_best()
    model.eval()
    return Outcome(model, list(state.dev), state.best_epoch, len(rows))


def _rate(step: int, steps: int, warmup: float) -> float:
    """Learning-rate factor: a linear rise over the share `warmup` of all steps, then a linear fall to zero."""
    rise = max(1, int(steps * warmup))
    return (step + 1) / rise if step < rise else max(0.0, (steps - step) / max(1, steps - rise))
