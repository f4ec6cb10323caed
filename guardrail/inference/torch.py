"""Run a sequence classifier with torch: CUDA in bf16 by recorded shapes, or the CPU in fp32."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from guardrail.errors import DetectorError, SettingsError
from guardrail.inference.card import ModelCard
from guardrail.inference.lastlayer import shorten
from guardrail.inference.shapes import Shape, ShapeRunner, fill

GPU_TOKENS = 16_384
"""Most tokens of a batch on CUDA where the settings name no other number."""

_log = logging.getLogger("guardrail.inference")


class TorchScorer:
    """A loaded model on one device. `score` blocks and must be called from one thread at a time.

    On CUDA, `warm` records the shapes that `max_tokens` and `budget` allow; before it, and for a batch that fits
    none, the model is called as it is. A batch that the device has no memory for is halved until it fits, and
    `on_split` is told each time.
    """

    def __init__(
        self,
        model: Any,
        labels: Sequence[str],
        device: torch.device,
        *,
        max_tokens: int = 512,
        budget: int = GPU_TOKENS,
        on_split: Callable[[], None] = lambda: None,
    ) -> None:
        self.labels = tuple(labels)
        self.device = device
        self._model = model
        self._on_split = on_split
        self.pad = model.config.pad_token_id or 0
        self.own_labels = tuple(model.config.id2label[i] for i in range(model.config.num_labels))
        self._columns = [self.own_labels.index(label) for label in labels]
        self.sigmoid = model.config.problem_type == "multi_label_classification" or model.config.num_labels == 1
        self._runner: ShapeRunner | None = None
        if device.type == "cuda":
            self._runner = ShapeRunner(self._wide, device, pad=self.pad, max_tokens=max_tokens, budget=budget)

    def warm(self) -> None:
        """Record the shapes. A model that cannot be recorded is called as it is, and the log says so."""
        if self._runner is None:
            return
        try:
            with torch.inference_mode():
                count = self._runner.warm()
            _log.info("classifier: %d batch shapes are recorded on %s", count, self.device)
        except RuntimeError as error:
            _log.warning(
                "classifier: cannot be recorded on %s (%s); it runs unrecorded", self.device, type(error).__name__
            )
            self._runner = None

    def score(self, batch: Sequence[Sequence[int]]) -> list[tuple[float, ...]]:
        """Probabilities [n, labels] of token ids [n, any length]. Raises DetectorError when the device fails."""
        try:
            with torch.inference_mode():
                logits = self._logits(batch)
                scores = (logits.sigmoid() if self.sigmoid else logits.softmax(-1))[:, self._columns]
            return [tuple(row) for row in scores.tolist()]
        except torch.OutOfMemoryError:
            pass  # handled below, where the failed pass holds its memory no longer
        except (RuntimeError, IndexError) as error:
            raise DetectorError(f"the classifier failed on {self.device}: {type(error).__name__}") from error
        if len(batch) == 1:
            raise DetectorError(f"{self.device} has no memory for one text of {len(batch[0])} tokens")
        self._on_split()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        half = len(batch) // 2
        return self.score(batch[:half]) + self.score(batch[half:])

    def sample(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and a mask [2, n], one row partly padding, to try the model with."""
        return sample(self._model.config)

    @contextmanager
    def exportable(self) -> Iterator[torch.nn.Module]:
        """The model as a module of token ids and mask, in the form that exports to the fewest operations."""
        ids, mask = self.sample()
        self._model.set_attn_implementation("eager")
        try:
            wide = _Wide(self._model)
            with torch.inference_mode():
                plain = self._model(input_ids=ids, attention_mask=mask).logits
                try:
                    same = torch.allclose(wide(ids, mask), plain, atol=1e-4)
                except (RuntimeError, ValueError, IndexError):
                    same = False
            yield wide if same else _Narrow(self._model)
        finally:
            self._model.set_attn_implementation("sdpa")

    def _logits(self, batch: Sequence[Sequence[int]]) -> torch.Tensor:
        if self._runner is not None and (shape := self._runner.fit(batch)) is not None:
            return self._runner.run(batch, shape)
        longest = max(map(len, batch))
        shape = Shape(len(batch), longest)
        cells = shape.rows * shape.length
        ids, mask = fill(
            batch, shape, self.pad, torch.empty(cells, dtype=torch.int64), torch.empty(cells, dtype=torch.bool)
        )
        # Without padding no mask is needed, and attention takes its fastest path.
        padded = any(len(row) < longest for row in batch)
        seen = mask.to(self.device, torch.int64) if padded else None
        logits: torch.Tensor = self._model(input_ids=ids.to(self.device), attention_mask=seen).logits
        return logits.float().cpu()

    def _wide(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        # A mask of four dimensions is taken as it is: of one with two, transformers asks the device whether it pads
        # at all, and what waits for the device cannot be recorded.
        logits: torch.Tensor = self._model(input_ids=ids, attention_mask=mask[:, None, None, :]).logits
        return logits


class _Wide(torch.nn.Module):
    """The model behind a mask that is added to the attention scores once, not turned into one in every layer."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        away = (1.0 - attention_mask[:, None, None, :].to(torch.float32)) * -1e4
        logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=away).logits
        return logits


class _Narrow(torch.nn.Module):
    """The model behind the mask that every architecture takes."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


def load_scorer(
    folder: Path,
    card: ModelCard,
    *,
    device: str = "auto",
    threads: int | None = None,
    budget: int | None = None,
    on_split: Callable[[], None] = lambda: None,
) -> TorchScorer:
    """Load the weights of a folder onto a device: CUDA in bf16 where there is one, else the CPU in fp32.

    `threads` limits torch's CPU threads, so that model and proxy do not fight for cores; `budget` is the most tokens
    of a batch that is worth recording on CUDA. Raises SettingsError when the folder is no sequence classifier, its
    labels are not the card's, or the device does not exist.
    """
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging as library

    if threads:
        torch.set_num_threads(threads)
    target = find_device(device)
    library.set_verbosity_error()
    library.disable_progress_bar()
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
    ids, mask = sample(model.config)
    shorten(model, ids.to(target), mask.to(target))
    return TorchScorer(
        model,
        tuple(card.labels),
        target,
        max_tokens=card.max_tokens,
        budget=budget or GPU_TOKENS,
        on_split=on_split,
    )


def sample(config: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and a mask [2, n], one row partly padding, to try a model with."""
    length = min(17, int(getattr(config, "max_position_embeddings", 512)) - 2)
    ids = torch.arange(2 * length).reshape(2, length) % config.vocab_size
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    ids[1, length // 2 :] = config.pad_token_id or 0
    return ids, mask


def find_device(name: str) -> torch.device:
    """The device that a setting names: auto, cpu, cuda or cuda:N. Raises SettingsError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SettingsError(f'classifier device is "{name}"; expected auto, cpu, cuda or cuda:N') from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError(f'classifier device is "{name}", but torch finds no CUDA device here; expected auto or cpu')
    return device
