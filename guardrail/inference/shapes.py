"""Run a model at a few fixed shapes, each recorded once: on CUDA as a graph that is replayed without Python.

A batch is padded to the least shape that holds it. Off CUDA the same buffers are filled and the model is called, so
that everything but the recording is the same everywhere.
"""

from __future__ import annotations

import bisect
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from guardrail.inference.packing import BUCKETS

Forward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Token ids [rows, length] and a mask of the same shape (True: a token, False: padding) to logits [rows, labels]."""

_ROWS = (1, 2, 4, *(rows for power in range(3, 12) for rows in (1 << power, 3 << (power - 1))))
_WARM_RUNS = 3  # what libraries choose on a first call must not be chosen inside a graph

_log = logging.getLogger("guardrail.inference")


class Shape(NamedTuple):
    """Rows and tokens of a padded batch."""

    rows: int
    length: int


def shapes(max_tokens: int, budget: int) -> Iterator[Shape]:
    """The shapes worth recording, the greatest first (its memory serves the others): every padded length a window
    can have, with rows in steps of a third to a half, as many as `budget` tokens hold and one at least."""
    lengths = [size for size in BUCKETS if size < max_tokens] + [max_tokens]
    found = {Shape(rows, length) for length in lengths for rows in _ROWS if rows == 1 or rows * length <= budget}
    yield from sorted(found, key=lambda shape: (shape.rows * shape.length, shape), reverse=True)


class Recorded(NamedTuple):
    """One shape ready to run: fill `ids` and `mask` (on the device), call `replay`, read the logits it returns."""

    ids: torch.Tensor
    mask: torch.Tensor
    replay: Callable[[], torch.Tensor]


class ShapeRunner:
    """Runs `forward` on one device at the shapes of `max_tokens` and `budget`. For one thread at a time.

    Ids travel through one host buffer, pinned where the device is CUDA, so that the copy needs no pause of the host.
    """

    def __init__(self, forward: Forward, device: torch.device, *, pad: int, max_tokens: int, budget: int) -> None:
        self._forward = forward
        self._device = device
        self._cuda = device.type == "cuda"
        self._pad = pad
        plan = list(shapes(max_tokens, budget))
        self._plan = plan
        self._lengths = sorted({shape.length for shape in plan})
        self._rows = {
            length: sorted(shape.rows for shape in plan if shape.length == length) for length in self._lengths
        }
        cells = max(shape.rows * shape.length for shape in plan)
        self._host_ids = torch.empty(cells, dtype=torch.int64, pin_memory=self._cuda)
        self._host_mask = torch.empty(cells, dtype=torch.bool, pin_memory=self._cuda)
        self._recorded: dict[Shape, Recorded] = {}
        self._pool: Any = None

    def warm(self) -> int:
        """Record every shape; those that memory does not hold are left out. Returns how many there are."""
        for shape in self._plan:
            if shape not in self._recorded:
                try:
                    self._recorded[shape] = self._record(shape)
                except torch.OutOfMemoryError:
                    _log.warning("classifier: no memory for batches of %d x %d tokens", *shape)
        return len(self._recorded)

    def fit(self, batch: Sequence[Sequence[int]]) -> Shape | None:
        """The least recorded shape that holds a batch; none where it is longer or has more rows than any."""
        longest = max(map(len, batch))
        place = bisect.bisect_left(self._lengths, longest)
        if place == len(self._lengths):
            return None
        length = self._lengths[place]
        rows = self._rows[length]
        place = bisect.bisect_left(rows, len(batch))
        shape = Shape(rows[place], length) if place < len(rows) else None
        return shape if shape in self._recorded else None

    def run(self, batch: Sequence[Sequence[int]], shape: Shape) -> torch.Tensor:
        """Logits [len(batch), labels] in fp32 on the host."""
        recorded = self._recorded[shape]
        ids, mask = fill(batch, shape, self._pad, self._host_ids, self._host_mask)
        recorded.ids.copy_(ids, non_blocking=self._cuda)
        recorded.mask.copy_(mask, non_blocking=self._cuda)
        # Copying back waits for all that went before, so the buffers are free again when this returns.
        return recorded.replay()[: len(batch)].float().cpu()

    def _record(self, shape: Shape) -> Recorded:
        ids = torch.full(shape, self._pad, dtype=torch.int64, device=self._device)
        mask = torch.ones(shape, dtype=torch.bool, device=self._device)
        if not self._cuda:
            return Recorded(ids, mask, lambda: self._forward(ids, mask))
        side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_RUNS):
                self._forward(ids, mask)
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use CUDA meanwhile, so only this one is watched for calls that cannot be recorded.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            logits = self._forward(ids, mask)
        self._pool = self._pool or graph.pool()

        def replay() -> torch.Tensor:
            graph.replay()
            return logits

        return Recorded(ids, mask, replay)


def fill(
    batch: Sequence[Sequence[int]], shape: Shape, pad: int, ids: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Write a batch into the beginning of two flat buffers and return them as [rows, length].

    Rows that are padding throughout keep one token in the mask: attention over nothing is not a number.
    """
    cells = shape.rows * shape.length
    wide, seen = ids[:cells].view(shape), mask[:cells].view(shape)
    wide.fill_(pad)
    seen.zero_()
    for i, row in enumerate(batch):
        wide[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
        seen[i, : len(row)] = True
    seen[len(batch) :, 0] = True
    return wide, seen
