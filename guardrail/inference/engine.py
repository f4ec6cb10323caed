"""Put a classifier together: a model folder, the runtime that serves it quickest here, and the batching around it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import platform
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from guardrail.errors import SettingsError
from guardrail.inference.batching import BatchingClassifier, Scorer
from guardrail.inference.blend import blended
from guardrail.inference.card import ModelCard, load_card
from guardrail.inference.export import Missing, Unsupported, default_cache, exported, kept
from guardrail.inference.packing import BUCKETS, FINE_BUCKETS
from guardrail.inference.tokens import TokenEncoder
from guardrail.protocols import Classifier

if TYPE_CHECKING:
    from guardrail.inference.torch import TorchScorer

Runtime = Literal["auto", "torch", "onnx"]

CPU_TOKENS = 512
"""Most tokens of a batch on a CPU: bigger ones outgrow its cache, and a stream's window waits for the one before."""

FURTHEST = 0.2
"""How far a probability may move by int8 on the batches tried at the start; further, and torch serves."""

MEASURED = "measured.json"
_GPU_SIGNS = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg")
_TRIED = ((1, 24), (1, 64), (4, 48), (1, 128))  # rows and tokens of the batches that are timed
_ROUNDS = 3

_log = logging.getLogger("guardrail.inference")


def load_classifier(
    folder: Path,
    *,
    label_map: Mapping[str, str] | None = None,
    threshold: float = 0.5,
    runtime: Runtime = "torch",
    cache: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    queue: int = 1_024,
    batch_tokens: int | None = None,
    deadline: float = 10.0,
    on_depth: Callable[[int], None] = lambda depth: None,
    on_batch: Callable[[int], None] = lambda tokens: None,
    on_split: Callable[[], None] = lambda: None,
) -> tuple[Classifier, ModelCard]:
    """Verify and load a model folder and return the engine around it, not yet started, with the folder's card. Where
    the card calibrates scores, or has an n-gram scorer beside the encoder, that is done around the engine.

    `runtime` torch serves the weights as they are; onnx serves an int8 form, on the CPU, which is made once and kept
    under `cache` (default: the user's cache folder); auto takes whichever is quicker here. Blocks for a second or so,
    and for some ten when the int8 form has to be made. `batch_tokens` bounds a batch; on a CPU 512 is the most in
    any case. `threads` None or 0 is one thread less than there are cores. Raises SettingsError.
    """
    card = load_card(folder, label_map, threshold=threshold)
    encoder = TokenEncoder.load(folder, card.max_tokens)
    threads = threads or spare_threads()
    plan = _Plan(folder, card, cache or default_cache(), device, threads, batch_tokens, on_split)
    scorer, on_cpu = {"torch": plan.torch, "onnx": plan.onnx, "auto": plan.quicker}[runtime]()
    budget = min(batch_tokens or CPU_TOKENS, CPU_TOKENS) if on_cpu else batch_tokens or _gpu_tokens()
    engine = BatchingClassifier(
        scorer,
        encoder,
        overlap=card.overlap,
        batch_tokens=max(budget, card.max_tokens),
        queue=queue,
        deadline=deadline,
        buckets=FINE_BUCKETS if on_cpu else BUCKETS,
        on_depth=on_depth,
        on_batch=on_batch,
    )
    return blended(engine, card, folder), card


def cores() -> int:
    """Cores that this process may use: its affinity, and a container's share of time (cgroup v2 `cpu.max`)."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        count = min(count, max(1, int(quota) // int(period)))
    return count


def spare_threads(others: int = 1) -> int:
    """Threads for the model beside so many busy proxies: what cores they leave, and one at least."""
    return max(1, cores() - others)


def seconds(scorer: Scorer, batches: Sequence[Sequence[Sequence[int]]]) -> float:
    """The least time that `scorer` took for all of `batches`, of a few rounds after a first one."""
    best = float("inf")
    for turn in range(_ROUNDS + 1):
        begin = time.perf_counter()
        for batch in batches:
            scorer.score(batch)
        if turn:
            best = min(best, time.perf_counter() - begin)
    return best


class Measured(msgspec.Struct, frozen=True):
    """What was measured last, kept beside the int8 file: seconds of the same batches, and where that was."""

    host: str
    torch: float
    onnx: float


class _Plan:
    """How one folder can be served here."""

    def __init__(
        self,
        folder: Path,
        card: ModelCard,
        cache: Path,
        device: str,
        threads: int,
        budget: int | None,
        on_split: Callable[[], None],
    ) -> None:
        self._folder = folder
        self._card = card
        self._cache = cache
        self._device = device
        self._threads = threads
        self._budget = budget
        self._on_split = on_split
        self._loaded: TorchScorer | None = None

    def torch(self) -> tuple[Scorer, bool]:
        scorer = self._torch()
        return scorer, scorer.device.type == "cpu"

    def onnx(self) -> tuple[Scorer, bool]:
        if self._device not in ("auto", "cpu"):
            raise SettingsError(
                f'classifier.runtime is "onnx" and classifier.device "{self._device}"; expected the device auto or cpu'
            )
        self._device = "cpu"
        try:
            return self._onnx(), True
        except Unsupported as error:
            raise SettingsError(
                f'classifier.runtime is "onnx": {error}; expected that, or runtime auto or torch'
            ) from None

    def quicker(self) -> tuple[Scorer, bool]:
        if (found := self._measured_before()) is not None:
            return found, True
        scorer = self._torch()
        if scorer.device.type != "cpu":
            return scorer, False
        try:
            small = self._onnx()
        except Missing as error:
            _log.info("classifier: torch serves it; ONNX Runtime may be quicker: %s", error)
            return scorer, True
        except (Unsupported, SettingsError) as error:
            _log.warning("classifier: torch serves it, not ONNX Runtime: %s", error)
            return scorer, True
        batches = self._samples()
        moved = max(
            abs(one - other)
            for batch in batches
            for row, same in zip(scorer.score(batch), small.score(batch), strict=True)
            for one, other in zip(row, same, strict=True)
        )
        if not moved <= FURTHEST:
            _log.warning("classifier: torch serves it, not ONNX Runtime: int8 moves a score by %.2f here", moved)
            return scorer, True
        exact, quick = seconds(scorer, batches), seconds(small, batches)
        _log.info(
            "classifier: %s serves it with %d thread(s): ONNX Runtime int8 took %.1f ms, torch %.1f ms for %d batches",
            "ONNX Runtime" if quick < exact else "torch",
            self._threads,
            quick * 1e3,
            exact * 1e3,
            len(batches),
        )
        self._note(Measured(self._host(), exact, quick))
        return (small, True) if quick < exact else (scorer, True)

    def _measured_before(self) -> Scorer | None:
        """ONNX Runtime, if it has been the quicker one on this very host: then torch need not be loaded at all, which
        saves seconds and half the memory."""
        if self._device != "cpu" and (self._device != "auto" or any(Path(path).exists() for path in _GPU_SIGNS)):
            return None
        found = kept(self._folder, self._card, self._cache)
        if found is None:
            return None
        try:
            measured = msgspec.json.decode((found[0].parent / MEASURED).read_bytes(), type=Measured)
        except (OSError, msgspec.MsgspecError):
            return None
        if measured.host != self._host() or measured.onnx >= measured.torch:
            return None
        try:
            scorer = self._onnx()
        except Unsupported:
            return None
        _log.info(
            "classifier: ONNX Runtime serves it with %d thread(s), the quicker one here when that was measured (%s)",
            self._threads,
            found[0].parent / MEASURED,
        )
        return scorer

    def _note(self, measured: Measured) -> None:
        found = kept(self._folder, self._card, self._cache)
        if found is not None:
            fresh = found[0].with_name(f".{MEASURED}-{os.getpid()}")
            with contextlib.suppress(OSError):  # it will be measured again
                fresh.write_bytes(msgspec.json.encode(measured))
                fresh.replace(found[0].with_name(MEASURED))

    def _host(self) -> str:
        """What a measurement holds for."""
        versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "onnxruntime")]
        return ", ".join([_processor(), f"{cores()} core(s), {self._threads} thread(s)", *versions])

    def _torch(self) -> TorchScorer:
        from guardrail.inference.torch import load_scorer

        if self._loaded is None:
            self._loaded = load_scorer(
                self._folder,
                self._card,
                device=self._device,
                threads=self._threads,
                budget=self._budget,
                on_split=self._on_split,
            )
        return self._loaded

    def _onnx(self) -> Scorer:
        from guardrail.inference.onnx import OnnxScorer

        file, made = exported(self._folder, self._card, self._cache, self._torch)
        return OnnxScorer(file, made, tuple(self._card.labels), threads=self._threads)

    def _samples(self) -> list[list[list[int]]]:
        """Batches of the lengths that prompts and stream windows have, of the tokens that some text has."""
        encoder = TokenEncoder.load(self._folder, self._card.max_tokens)
        dice = random.Random(1)
        letters = "abcdefghij klmnop qrstuvwxyz 的一是不了人我在有他这"
        text = "".join(dice.choice(letters) for _ in range(20 * self._card.max_tokens))
        long = encoder.head_and_tail([text])[0]
        batches = []
        for rows, length in _TRIED:
            inner = long[1 : max(2, min(length, len(long)) - 1)]
            batches.append([[long[0], *dice.sample(inner, len(inner)), long[-1]] for _ in range(rows)])
        return batches


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpu_tokens() -> int:
    from guardrail.inference.torch import GPU_TOKENS

    return GPU_TOKENS
