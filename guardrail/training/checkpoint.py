"""The state of a training run on disk, so that it can be stopped and continued to the same weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from guardrail.errors import SettingsError
from guardrail.training.config import TrainConfig
from guardrail.training.rows import Row


class Checkpoint:
    """The state of a run on disk: trained weights, optimiser, dice and dev history. Written whole, then renamed."""

    def __init__(self, folder: Path, digest: str, model: Any, optimizer: Any, schedule: Any) -> None:
        self.path = folder / "state.pt"
        self.digest = digest
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        self.step = 0
        self.loss = 0.0
        self.dev: list[float] = []
        self.average: dict[str, Tensor] = {}
        self.best: dict[str, Tensor] = {}
        self.best_epoch = -1
        self.finished = False

    def _trained(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}

    def restore(self) -> None:
        """Take up what is on disk. Raises SettingsError when it belongs to other rows or another training file."""
        if not self.path.is_file():
            return
        try:
            saved = torch.load(self.path, weights_only=True)
            found = saved["fingerprint"]
        except Exception as error:  # torch raises half a dozen kinds for a damaged file
            raise SettingsError(f"{self.path}: unreadable checkpoint ({error}); delete it to start again") from None
        if found != self.digest:
            raise SettingsError(
                f"{self.path}: belongs to a run with other rows or settings; pass --restart to start again, "
                "or --checkpoint to keep both"
            )
        self.model.load_state_dict(saved["weights"], strict=False)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        torch.set_rng_state(saved["dice"])
        self.step, self.loss, self.dev = saved["step"], saved["loss"], saved["dev"]
        self.best, self.best_epoch, self.finished = saved["best"], saved["best_epoch"], saved["finished"]
        self.average = saved["average"]

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        torch.save(
            {
                "fingerprint": self.digest,
                "weights": self._trained(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "dice": torch.get_rng_state(),
                "step": self.step,
                "loss": self.loss,
                "dev": self.dev,
                "average": self.average,
                "best": self.best,
                "best_epoch": self.best_epoch,
                "finished": self.finished,
            },
            partial,
        )
        os.replace(partial, self.path)

    def follow(self, decay: float) -> None:
        """Let the running average of the weights follow the last step; it forgets quicker while it is young."""
        decay = min(decay, (self.step + 1) / (self.step + 10))
        trained = self._trained()
        if not self.average:
            self.average = {name: p.clone() for name, p in trained.items()}
        for name, p in trained.items():
            self.average[name].lerp_(p, 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model with the averaged weights for a while."""
        trained = self._trained()
        live = {name: p.clone() for name, p in trained.items()}
        for name, p in trained.items():
            p.copy_(self.average.get(name, p))
        try:
            yield
        finally:
            for name, p in trained.items():
                p.copy_(live[name])

    def end_epoch(self, metric: float, patience: int) -> None:
        self.dev.append(metric)
        if self.best_epoch < 0 or metric > self.dev[self.best_epoch]:
            self.best_epoch = len(self.dev) - 1
            self.best = {name: p.clone().cpu() for name, p in self._trained().items()}
        self.finished = len(self.dev) - 1 - self.best_epoch >= patience

    def load_best(self) -> None:
        if self.best:
            self.model.load_state_dict(self.best, strict=False)


def fingerprint(config: TrainConfig, rows: Sequence[Row]) -> str:
    """SHA-256, in hex, of all that a run depends on: its settings and its rows in order."""
    digest = hashlib.sha256(msgspec.json.encode(config, order="deterministic"))
    digest.update(msgspec.json.encode(list(rows)))
    return digest.hexdigest()
