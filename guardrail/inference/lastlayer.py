"""Compute a BERT-like classifier's last layer for its first token alone, which is all that its head reads.

The other tokens of that layer only serve as keys and values: its queries, its output and its feed-forward part, ten
twelfths of its arithmetic, are left out for them. Nothing is approximated.
"""

from __future__ import annotations

from typing import Any

import torch


class FirstTokenLayer(torch.nn.Module):
    """Stands in the place of a BERT-like layer (`attention.self`, `attention.output`, `intermediate`, `output`).

    Takes hidden states [rows, length, width] and a mask that broadcasts to [rows, heads, length, length], boolean
    (True: seen) or added to the scores; returns [rows, 1, width]. Only for inference: it drops nothing out.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None = None, *_: Any, **__: Any) -> torch.Tensor:
        own = self.layer.attention.self
        heads, size = own.num_attention_heads, own.attention_head_size
        first = hidden[:, :1]

        def split(states: torch.Tensor, length: int) -> torch.Tensor:
            return states.view(states.shape[0], length, heads, size).transpose(1, 2)

        query = split(own.query(first), 1)
        key, value = split(own.key(hidden), hidden.shape[1]), split(own.value(hidden), hidden.shape[1])
        scores = torch.matmul(query, key.transpose(-1, -2)) * size**-0.5
        if mask is not None:
            mask = mask[:, :, :1]
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        context = torch.matmul(scores.softmax(-1), value).transpose(1, 2).reshape(hidden.shape[0], 1, heads * size)
        attended = self.layer.attention.output(context, first)
        result: torch.Tensor = self.layer.output(self.layer.intermediate(attended), attended)
        return result


def shorten(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> bool:
    """Shorten the last layer of `model` in place, if that leaves its logits for `ids` and `mask` as they are.

    Returns whether it did: a model of another architecture, or one whose head reads more than the first token, is
    left alone.
    """
    layers = getattr(getattr(model.base_model, "encoder", None), "layer", None)
    if not isinstance(layers, torch.nn.ModuleList) or not len(layers) or model.config.is_decoder:
        return False
    with torch.inference_mode():
        before = model(input_ids=ids, attention_mask=mask).logits
        whole = layers[-1]
        layers[-1] = FirstTokenLayer(whole)
        try:
            after = model(input_ids=ids, attention_mask=mask).logits
            same = bool(
                torch.allclose(after.float(), before.float(), atol=1e-4 if before.dtype == torch.float32 else 0.05)
            )
        except (RuntimeError, AttributeError, TypeError, ValueError):
            same = False
        if not same:
            layers[-1] = whole
    return same
