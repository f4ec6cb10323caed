"""Batches are padded to recorded shapes without changing a score; a batch that memory does not hold is halved.

No GPU is needed: off CUDA the same buffers are filled and the model is called, and on `meta` nothing is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrail.errors import DetectorError
from guardrail.inference.card import load_card
from guardrail.inference.shapes import Shape, ShapeRunner, fill, shapes
from guardrail.inference.torch import TorchScorer, load_scorer
from tests.conftest import Needs
from tests.inference.tiny import LABELS

CPU = torch.device("cpu")
BATCH = [[0, 5, 6, 2], [0, 7, 2], [0, 8, 9, 10, 11, 2]]


@pytest.fixture
def scorer(folder: Path) -> TorchScorer:
    return load_scorer(folder, load_card(folder), device="cpu")


def runner(scorer: TorchScorer, *, budget: int = 256, max_tokens: int = 16) -> ShapeRunner:
    made = ShapeRunner(scorer._wide, CPU, pad=scorer.pad, max_tokens=max_tokens, budget=budget)
    with torch.inference_mode():
        made.warm()
    return made


def test_shapes_come_greatest_first_and_stay_within_the_budget_but_for_single_rows() -> None:
    plan = list(shapes(512, 4_096))
    cells = [shape.rows * shape.length for shape in plan]
    assert cells == sorted(cells, reverse=True)
    assert all(shape.rows == 1 or shape.rows * shape.length <= 4_096 for shape in plan)
    assert {shape.length for shape in plan} == {16, 32, 64, 128, 256, 512}
    assert Shape(1, 512) in plan
    assert len(plan) == len(set(plan)) < 100
    assert {shape.length for shape in shapes(100, 64)} == {16, 32, 64, 100}


BIG = ShapeRunner(lambda ids, mask: ids.float(), CPU, pad=0, max_tokens=512, budget=32 * 512)
BIG.warm()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 512), min_size=1, max_size=32))
def test_a_batch_that_packing_allows_fits_a_shape_of_less_than_twice_its_rows(lengths: list[int]) -> None:
    shape = BIG.fit([[1] * length for length in lengths])
    assert shape is not None
    assert shape.rows >= len(lengths)
    assert shape.length >= max(lengths)
    assert shape.rows < 2 * len(lengths) or len(lengths) == 1
    assert shape.length < 2 * max(lengths) or shape.length == 16


def test_padding_to_a_shape_changes_no_score_and_buffers_are_used_again(scorer: TorchScorer) -> None:
    made = runner(scorer)
    plain = scorer.score(BATCH)
    for batch, expected in ((BATCH, plain), (BATCH[::-1], plain[::-1]), (BATCH[:1], plain[:1])):
        shape = made.fit(batch)
        assert shape is not None
        with torch.inference_mode():
            scores = made.run(batch, shape).sigmoid()
        assert scores.shape == (len(batch), len(LABELS))
        torch.testing.assert_close(scores, torch.tensor(expected), atol=1e-5, rtol=0)


def test_what_fits_no_shape_is_left_to_the_model_itself(scorer: TorchScorer) -> None:
    made = runner(scorer, budget=64)
    assert made.fit([[1] * 17]) is None
    assert made.fit([[1] * 16] * 5) is None
    assert made.fit([[1] * 16] * 4) == Shape(4, 16)
    cold = ShapeRunner(scorer._wide, CPU, pad=1, max_tokens=16, budget=64)
    assert cold.fit([[1] * 16]) is None  # nothing is recorded yet


def test_rows_of_padding_attend_to_something() -> None:
    ids, mask = torch.empty(64, dtype=torch.int64), torch.empty(64, dtype=torch.bool)
    wide, seen = fill([[3, 4]], Shape(4, 16), 9, ids, mask)
    assert wide[0, :3].tolist() == [3, 4, 9]
    assert bool((wide[1:] == 9).all())
    assert seen.sum(1).tolist() == [2, 1, 1, 1]


def test_shapes_that_memory_does_not_hold_are_left_out(scorer: TorchScorer, caplog: pytest.LogCaptureFixture) -> None:
    def scarce(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return scorer._wide(ids, mask)

    made = ShapeRunner(scarce, CPU, pad=1, max_tokens=16, budget=256)
    record = made._record

    def limited(shape: Shape) -> Any:
        if shape.rows > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return record(shape)

    made._record = limited  # type: ignore[method-assign]
    assert made.warm() == sum(shape.rows <= 4 for shape in shapes(16, 256))
    assert "no memory for batches of 16 x 16" in caplog.text
    assert made.fit([[1] * 16] * 8) is None


def test_the_model_gives_one_row_for_each_text_at_every_shape(folder: Path) -> None:
    scorer = load_scorer(folder, load_card(folder), device="cpu")
    scorer._model.to("meta")
    for shape in shapes(16, 1 << 20):
        ids = torch.empty(shape, dtype=torch.int64, device="meta")
        mask = torch.empty(shape, dtype=torch.bool, device="meta")
        assert scorer._wide(ids, mask).shape == (shape.rows, len(LABELS))


class Scarce:
    """Stands before a model and has memory for so many tokens, padding included."""

    def __init__(self, model: Any, tokens: int) -> None:
        self.model, self.config, self.tokens = model, model.config, tokens
        self.sizes: list[int] = []

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> Any:
        self.sizes.append(len(input_ids))
        if input_ids.numel() > self.tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.model(input_ids=input_ids, attention_mask=attention_mask)


def scarce(scorer: TorchScorer, tokens: int) -> tuple[TorchScorer, Scarce, list[int]]:
    splits: list[int] = []
    model = Scarce(scorer._model, tokens)
    return TorchScorer(model, LABELS, CPU, on_split=lambda: splits.append(1)), model, splits


def test_a_batch_that_memory_does_not_hold_is_halved_until_it_fits_and_counted(scorer: TorchScorer) -> None:
    batch: Sequence[Sequence[int]] = [[0, 4 + i % 8, 2] for i in range(10)]
    short, model, splits = scarce(scorer, 9)
    rows = short.score(batch)
    assert model.sizes == [10, 5, 2, 3, 5, 2, 3]
    assert len(splits) == 3
    for row, expected in zip(rows, scorer.score(batch), strict=True):
        assert row == pytest.approx(expected, abs=1e-5)


def test_one_text_that_memory_does_not_hold_is_a_detector_error(scorer: TorchScorer) -> None:
    short, model, splits = scarce(scorer, 5)
    with pytest.raises(DetectorError, match="no memory for one text of 6 tokens"):
        short.score([[0, 5, 6, 7, 8, 2]])
    assert (model.sizes, splits) == ([1], [])
    assert len(short.score([[0, 5, 2]])) == 1  # and it lives on


@pytest.mark.gpu
def test_graphs_on_cuda_give_the_scores_of_the_cpu(folder: Path, scorer: TorchScorer, needs: Needs) -> None:
    needs("a CUDA device", torch.cuda.is_available())
    card = load_card(folder)
    cuda = load_scorer(folder, card, device="cuda", budget=256)
    cuda.warm()
    assert cuda._runner is not None
    assert cuda._runner.fit(BATCH) is not None
    for row, expected in zip(cuda.score(BATCH), scorer.score(BATCH), strict=True):
        assert row == pytest.approx(expected, abs=0.03)
