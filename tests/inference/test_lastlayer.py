"""The shortened last layer gives the logits of the whole one; a model that it does not suit is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from guardrail.inference.lastlayer import FirstTokenLayer, shorten
from guardrail.inference.torch import sample
from tests.inference.tiny import LABELS

IDS = torch.tensor([[0, 5, 6, 7, 2], [0, 8, 2, 1, 1]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


@pytest.fixture
def model(plain_folder: Path) -> Any:
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(plain_folder).eval()


def logits(model: Any, mask: torch.Tensor | None) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=IDS, attention_mask=mask).logits
    return found


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_stay_with_any_form_of_mask(model: Any, attention: str) -> None:
    model.set_attn_implementation(attention)
    added = (1.0 - MASK[:, None, None, :].float()) * -1e4
    seen = MASK.bool()[:, None, None, :]
    masks = [None, MASK, added] + ([seen] if attention == "sdpa" else [])
    before = [logits(model, mask) for mask in masks]
    assert shorten(model, *sample(model.config))
    assert isinstance(model.bert.encoder.layer[-1], FirstTokenLayer)
    for mask, expected in zip(masks, before, strict=True):
        torch.testing.assert_close(logits(model, mask), expected, atol=1e-5, rtol=0)


def test_the_last_layer_works_on_one_token_of_each_row(model: Any) -> None:
    assert shorten(model, *sample(model.config))
    seen: list[torch.Size] = []
    model.bert.encoder.layer[-1].layer.intermediate.register_forward_hook(
        lambda _, inputs, __: seen.append(inputs[0].shape)
    )
    logits(model, MASK)
    assert [tuple(shape[:2]) for shape in seen] == [(2, 1)]


def test_a_head_that_reads_more_than_the_first_token_keeps_its_layer(model: Any) -> None:
    class Mean(torch.nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, hidden: torch.Tensor) -> Any:
            return self.inner(hidden.mean(1, keepdim=True).expand_as(hidden))

    model.bert.pooler = Mean(model.bert.pooler)
    before = logits(model, MASK)
    assert not shorten(model, *sample(model.config))
    assert not isinstance(model.bert.encoder.layer[-1], FirstTokenLayer)
    torch.testing.assert_close(logits(model, MASK), before)


def test_another_architecture_is_left_alone() -> None:
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    config = DistilBertConfig(vocab_size=32, dim=16, n_heads=2, n_layers=2, hidden_dim=32, num_labels=len(LABELS))
    model = DistilBertForSequenceClassification(config).eval()
    before = logits(model, MASK)
    assert not shorten(model, *sample(model.config))
    torch.testing.assert_close(logits(model, MASK), before)
