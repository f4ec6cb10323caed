"""Run a sequence classifier with torch: the only file outside training that imports torch and transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from guardrail.errors import DetectorError, SettingsError
from guardrail.inference.batching import BatchingClassifier
from guardrail.inference.card import ModelCard, load_card
from guardrail.inference.tokens import TokenEncoder


class TorchScorer:
    """A loaded model on one device. `score` blocks and must be called from one thread at a time."""

    def __init__(self, model: Any, labels: Sequence[str], device: torch.device) -> None:
        self.labels = tuple(labels)
        self.device = device
        self._model = model
        self._pad = model.config.pad_token_id or 0
        own = [model.config.id2label[i] for i in range(model.config.num_labels)]
        self._columns = [own.index(label) for label in labels]
        self._activate = _activation(model.config)

    def score(self, batch: Sequence[Sequence[int]]) -> list[tuple[float, ...]]:
        """Probabilities [n, labels] of token ids [n, any length]. Raises DetectorError when the device fails."""
        longest = max(map(len, batch))
        tokens = torch.full((len(batch), longest), self._pad, dtype=torch.int64)
        for i, ids in enumerate(batch):
            tokens[i, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
        padded = any(len(ids) < longest for ids in batch)
        # Without padding no mask is needed, and attention takes its fastest path.
        mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in batch]) if padded else None
        try:
            with torch.inference_mode():
                logits = self._model(
                    input_ids=tokens.to(self.device),
                    attention_mask=None if mask is None else mask.to(self.device),
                ).logits.float()
                scores = self._activate(logits)[:, self._columns].cpu().tolist()
        except (RuntimeError, IndexError) as error:
            raise DetectorError(f"the classifier failed on {self.device}: {type(error).__name__}") from error
        return [tuple(row) for row in scores]


def load_scorer(folder: Path, card: ModelCard, *, device: str = "auto", threads: int | None = None) -> TorchScorer:
    """Load the weights of a folder onto a device: CUDA in bf16 where there is one, else the CPU in fp32.

    `threads` limits torch's CPU threads, so that model and proxy do not fight for cores. Raises SettingsError when
    the folder is no sequence classifier, its labels are not the card's, or the device does not exist.
    """
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    if threads:
        torch.set_num_threads(threads)
    target = _device(device)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=torch.bfloat16 if target.type == "cuda" else torch.float32,
            attn_implementation="sdpa",
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # transformers and safetensors raise many kinds for a damaged folder
        raise SettingsError(f"{folder}: not a sequence classifier that transformers can load ({error})") from None
    if report["missing_keys"] or report["mismatched_keys"]:
        lacking = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
        raise SettingsError(f"{folder}: the weights do not fit the model's config; missing or misshapen: {lacking[:4]}")
    own = set(model.config.id2label.values())
    if unknown := [label for label in card.labels if label not in own]:
        raise SettingsError(f"{folder}: the card names labels {unknown} that the model has not; it has {sorted(own)}")
    model.eval()
    model.to(target)
    return TorchScorer(model, tuple(card.labels), target)


def load_classifier(
    folder: Path,
    *,
    label_map: Mapping[str, str] | None = None,
    threshold: float = 0.5,
    device: str = "auto",
    threads: int | None = None,
    queue: int = 1_024,
    batch_tokens: int | None = None,
    deadline: float = 10.0,
    on_depth: Callable[[int], None] = lambda depth: None,
    on_batch: Callable[[int], None] = lambda tokens: None,
) -> tuple[BatchingClassifier, ModelCard]:
    """Verify and load a model folder and return the engine around it, not yet started, with the folder's card.

    Blocks for a second or so. `batch_tokens` bounds a batch (default 16,384); on a CPU 1,024 is the most in any
    case. `threads` None or 0 leaves torch its own choice. Raises SettingsError.
    """
    card = load_card(folder, label_map, threshold=threshold)
    encoder = TokenEncoder.load(folder, card.max_tokens)
    scorer = load_scorer(folder, card, device=device, threads=threads)
    budget = batch_tokens or 16_384
    if scorer.device.type == "cpu":
        # A CPU gains little from bigger batches, and a stream's window waits for the batch before it.
        budget = min(budget, 1_024)
    engine = BatchingClassifier(
        scorer,
        encoder,
        overlap=card.overlap,
        batch_tokens=max(budget, card.max_tokens),
        queue=queue,
        deadline=deadline,
        on_depth=on_depth,
        on_batch=on_batch,
    )
    return engine, card


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SettingsError(f'classifier device is "{name}"; expected auto, cpu, cuda or cuda:N') from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError(f'classifier device is "{name}", but torch finds no CUDA device here; expected auto or cpu')
    return device


def _activation(config: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Sigmoid where labels are independent, softmax where one of them holds."""
    if config.problem_type == "multi_label_classification" or config.num_labels == 1:
        return torch.sigmoid
    return lambda logits: torch.softmax(logits, dim=-1)
