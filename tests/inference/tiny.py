"""A real, tiny classifier for tests: transformers' own classes, random weights, and a tokenizer of a few words."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import tomli_w
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from guardrail.inference.card import file_sha256

WORDS = "you are a fool bomb cake bake make the weather nice today word warm up 你 好 笨 蛋 炸 弹 天 气 。".split()
LABELS = ("unsafe", "political", "insult", "violence_terror")


def tiny_tokenizer() -> Tokenizer:
    vocab = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def write_model(folder: Path, labels: Sequence[str] = LABELS, *, problem: str = "multi_label_classification") -> Path:
    """Write a random BERT of one layer with `labels` into `folder`, as Hugging Face writes it."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(WORDS) + 4,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        pad_token_id=1,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        problem_type=problem,
        initializer_range=0.5,
    )
    folder.mkdir(parents=True, exist_ok=True)
    BertForSequenceClassification(config).save_pretrained(folder)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def write_card(folder: Path, **changes: object) -> None:
    """Write a model card for `folder` with the digests of its files; `changes` replace top-level keys."""
    roles = {"unsafe": "unsafe", "political": "own"}
    card = {
        "id": "tiny",
        "title": "A tiny classifier",
        "max_tokens": 16,
        "overlap": 4,
        "labels": {label: {"category": label, "role": roles.get(label, "class"), "block": 0.6} for label in LABELS},
        "file": [
            {"name": path.name, "sha256": file_sha256(path), "size": path.stat().st_size}
            for path in sorted(folder.iterdir())
            if path.suffix in (".json", ".safetensors")
        ],
        **changes,
    }
    (folder / "model.toml").write_text(tomli_w.dumps(card), encoding="utf-8")


class FakeDevice:
    """A scorer that records its batches; `gate` holds it back, `fail` makes it raise, and scores name the text."""

    labels = ("length", "first")

    def __init__(self) -> None:
        self.batches: list[list[list[int]]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.fail: Callable[[list[list[int]]], BaseException | None] = lambda batch: None
        self.answer: Callable[[list[list[int]]], list[tuple[float, ...]]] = lambda batch: [
            (len(ids) / 1000, ids[1] / 1000) for ids in batch
        ]
        self.busy = 0

    def score(self, batch: Sequence[Sequence[int]]) -> list[tuple[float, ...]]:
        self.busy += 1
        assert self.busy == 1, "two batches at once on one device"
        rows = [list(ids) for ids in batch]
        self.batches.append(rows)
        self.entered.set()
        try:
            assert self.gate.wait(10)
            error = self.fail(rows)
            if error is not None:
                raise error
            return self.answer(rows)
        finally:
            self.busy -= 1


async def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until a condition holds; fail when it does not within `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        await asyncio.sleep(0.002)
