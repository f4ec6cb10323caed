"""Run an exported classifier with ONNX Runtime on the CPU: the only file that imports onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from guardrail.errors import DetectorError
from guardrail.inference.export import Made, Unsupported


class OnnxScorer:
    """An int8 model in ONNX Runtime with `threads` threads of its own. A text's scores do not depend on its batch.

    Raises Unsupported when onnxruntime does not take the file.
    """

    def __init__(self, file: Path, made: Made, labels: Sequence[str], *, threads: int) -> None:
        import onnxruntime as ort

        self.labels = tuple(labels)
        self._columns = [made.labels.index(label) for label in labels]
        self._pad = made.pad
        self._sigmoid = made.sigmoid
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Every batch has a shape of its own: plans of memory made for one shape would only pile up.
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        try:
            # The fused skip-and-normalise is scalar code: taken apart it takes two thirds of the time.
            self._session = ort.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"], disabled_optimizers=["SkipLayerNormFusion"]
            )
        except Exception as error:  # the runtime has a kind for each of its status codes
            raise Unsupported(f"onnxruntime does not take {file} ({type(error).__name__})") from error

    def score(self, batch: Sequence[Sequence[int]]) -> list[tuple[float, ...]]:
        """Probabilities [n, labels] of token ids [n, any length]. Raises DetectorError when the runtime fails."""
        longest = max(map(len, batch))
        ids = np.full((len(batch), longest), self._pad, dtype=np.int64)
        mask = np.zeros((len(batch), longest), dtype=np.int64)
        for i, row in enumerate(batch):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        try:
            [logits] = self._session.run(["logits"], {"input_ids": ids, "attention_mask": mask})
        except Exception as error:  # as above
            raise DetectorError(f"the classifier failed in onnxruntime: {type(error).__name__}") from error
        scores = _probabilities(logits.astype(np.float64), self._sigmoid)[:, self._columns]
        return [tuple(row) for row in scores.tolist()]


def _probabilities(logits: NDArray[np.float64], sigmoid: bool) -> NDArray[np.float64]:
    if sigmoid:
        return np.exp(-np.logaddexp(0.0, -logits))
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return shares
