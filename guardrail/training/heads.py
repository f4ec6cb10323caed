"""Refit the class heads on a finished encoder, every class weighing the same however rare its rows are.

Fine-tuning is driven by the `unsafe` head; classes with few rows learn little beside it. What tells them apart is in the
encoder's output all the same, and a linear head is fitted to it in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from guardrail.inference.tokens import TokenEncoder
from guardrail.training.finetune import predict
from guardrail.training.rows import Row
from guardrail.training.targets import CLASSES, LABELS, targets

STEPS = 300
SHRINKAGE = 1e-3


def refit_class_heads(model: Any, encoder: TokenEncoder, rows: Sequence[Row]) -> None:
    """Fit the class heads of `model` anew, in place, on the unsafe rows whose class is known.

    They answer "which harm, if it is one": whether it is one is the `unsafe` head's to say. Positive and negative rows
    of each class weigh the same, so 0.5 is where a row is as likely to be of the class as not. Deterministic.
    """
    places = [LABELS.index(name) for name in CLASSES]
    chosen = [row for row in rows if row.label == "unsafe" and {row.cls, row.cls2} & set(CLASSES)]
    if not chosen:
        return
    features = _features(model, encoder, [row.text for row in chosen])
    asked = [targets(row) for row in chosen]
    wanted = torch.tensor([[row[place] for place in places] for row, _ in asked])
    known = torch.tensor([[row[place] for place in places] for _, row in asked])
    yes, no = wanted * known, (1 - wanted) * known
    weight = yes / yes.sum(0).clamp(min=1.0) + no / no.sum(0).clamp(min=1.0)

    mean, spread = features.mean(0), features.std(0).clamp(min=1e-6)
    scaled = (features - mean) / spread
    slope = torch.zeros(len(CLASSES), features.shape[1], requires_grad=True)
    base = torch.zeros(len(CLASSES), requires_grad=True)
    optimizer = torch.optim.LBFGS([slope, base], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        raw = binary_cross_entropy_with_logits(scaled @ slope.T + base, wanted, reduction="none")
        value = (raw * weight).sum() + SHRINKAGE * (slope**2).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        head = model.classifier
        plain = slope / spread
        head.weight[places] = plain.to(head.weight)
        head.bias[places] = (base - plain @ mean).to(head.bias)


def _features(model: Any, encoder: TokenEncoder, texts: Sequence[str]) -> Tensor:
    """What reaches the heads, [n, width], in the order of the texts."""
    ids = encoder.head_and_tail(texts)
    seen: list[Tensor] = []
    hook = model.classifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].float().cpu()))
    try:
        predict(model, ids)
    finally:
        hook.remove()
    # `predict` goes by length, shortest first.
    order = torch.tensor(sorted(range(len(ids)), key=lambda i: len(ids[i])))
    features = torch.empty(len(ids), seen[0].shape[1])
    features[order] = torch.cat(seen)
    return features
