"""Packing is a pure choice; the engine answers every caller exactly once, whatever happens around it."""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
import time
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from guardrail.errors import DetectorError, DetectorOverloaded, DetectorTimeout
from guardrail.inference.batching import BatchingClassifier
from guardrail.inference.packing import SEAM, SLICE, Call, Entry, bucket, pack, slices
from guardrail.inference.tokens import TokenEncoder, Window
from guardrail.protocols import Classifier, Priority
from tests.inference.tiny import FakeDevice, eventually


def entry(number: int, length: int, priority: Priority = Priority.PROMPT) -> Entry:
    return Entry(priority, number, [0] * length, 0, None)  # type: ignore[arg-type]


def numbers(batch: Sequence[Entry]) -> list[int]:
    return [item.number for item in batch]


def test_a_batch_takes_entries_of_the_first_ones_length_in_order() -> None:
    waiting = [entry(1, 10), entry(2, 100), entry(3, 12), entry(4, 16), entry(5, 17)]
    assert numbers(pack(waiting, 1_000)) == [1, 3, 4]


def test_a_batch_stays_within_its_token_budget_padding_included() -> None:
    waiting = [entry(1, 20), entry(2, 30), entry(3, 20)]
    assert numbers(pack(waiting, 60)) == [1, 2]
    assert numbers(pack(waiting, 59)) == [1]


def test_the_first_entry_goes_even_when_it_is_over_the_budget() -> None:
    assert numbers(pack([entry(1, 500)], 128)) == [1]


def test_a_prompt_rides_with_a_stream_window_but_never_in_place_of_one() -> None:
    stream, prompt = Priority.STREAM, Priority.PROMPT
    assert numbers(pack([entry(1, 10, stream), entry(2, 10, prompt)], 1_000)) == [1, 2]
    left_out = [entry(1, 10, stream), entry(2, 100, stream), entry(3, 10, prompt)]
    assert numbers(pack(left_out, 1_000)) == [1]


@given(
    st.lists(st.tuples(st.integers(1, 512), st.sampled_from(Priority)), min_size=1, max_size=60), st.integers(64, 4096)
)
def test_packing_holds_its_promises_for_any_queue(items: list[tuple[int, Priority]], budget: int) -> None:
    waiting = sorted(entry(i, length, priority) for i, (length, priority) in enumerate(items))
    batch = pack(waiting, budget)
    longest = max(len(item.ids) for item in batch)
    assert batch[0] is waiting[0]
    assert len(batch) == 1 or longest * len(batch) <= budget
    assert len({bucket(len(item.ids)) for item in batch}) == 1
    assert numbers(batch) == [item.number for item in waiting if item in batch]
    worst = max(item.priority for item in batch)
    same = [item for item in waiting if item.priority < worst]
    assert all(item in batch for item in same)


@pytest_asyncio.fixture
async def engine(device: FakeDevice, encoder: TokenEncoder) -> AsyncIterator[BatchingClassifier]:
    engine = BatchingClassifier(device, encoder, overlap=4, batch_tokens=64, queue=8, deadline=5.0)
    await engine.start()
    device.batches.clear()
    device.entered.clear()
    yield engine
    device.gate.set()
    await engine.close()


async def blocked(engine: BatchingClassifier, device: FakeDevice) -> asyncio.Task[list[tuple[float, ...]]]:
    """Put one text on the device and keep it there."""
    device.gate.clear()
    device.entered.clear()
    task = asyncio.create_task(engine.score(["you"]))
    await eventually(device.entered.is_set)
    return task


async def test_it_is_a_classifier(engine: BatchingClassifier) -> None:
    assert isinstance(engine, Classifier)
    assert engine.labels == ("length", "first")


async def test_scores_come_back_in_the_order_of_the_texts(engine: BatchingClassifier) -> None:
    rows = await engine.score(["a fool", "you", "make a cake today"])
    assert [row[0] for row in rows] == [0.004, 0.003, 0.006]
    assert await engine.score([]) == []


async def test_a_long_text_is_scored_by_windows_and_keeps_the_highest_of_each_label(
    engine: BatchingClassifier, device: FakeDevice
) -> None:
    text = "you " * 14 + "bomb " * 10
    [row] = await engine.score([text])
    windows = [ids for batch in device.batches for ids in batch]
    assert len(windows) == 2
    assert all(len(ids) == 16 for ids in windows)
    assert row == (max(len(ids) for ids in windows) / 1000, max(ids[1] for ids in windows) / 1000)


async def test_what_arrives_while_the_device_is_busy_goes_as_one_batch(
    engine: BatchingClassifier, device: FakeDevice
) -> None:
    first = await blocked(engine, device)
    others = [asyncio.create_task(engine.score([text])) for text in ("a fool", "nice cake", "make bomb")]
    await eventually(lambda: engine.depth == 3)
    device.gate.set()
    await asyncio.gather(first, *others)
    assert [len(batch) for batch in device.batches] == [1, 3]


async def test_an_idle_device_starts_at_once_with_what_is_there(engine: BatchingClassifier, device: FakeDevice) -> None:
    await engine.score(["you"])
    await engine.score(["a"])
    assert [len(batch) for batch in device.batches] == [1, 1]


async def test_stream_windows_go_before_prompts_and_those_before_offline_work(
    engine: BatchingClassifier, device: FakeDevice
) -> None:
    first = await blocked(engine, device)
    tasks = []
    for depth, (text, priority) in enumerate(
        [("word " * 14, Priority.OFFLINE), ("bomb " * 14, Priority.PROMPT), ("cake " * 14, Priority.STREAM)], start=1
    ):
        tasks.append(asyncio.create_task(engine.score([text] * 2, priority)))
        await eventually(lambda depth=depth: engine.depth == depth * 2)
    device.gate.set()
    await asyncio.gather(first, *tasks)
    order = [ids[1] for batch in device.batches[1:] for ids in batch]
    vocabulary = [order[0], order[2], order[4]]
    expected = [ids[1] for ids in engine._encoder.head_and_tail(["cake", "bomb", "word"])]
    assert vocabulary == expected


async def test_a_full_queue_is_refused_at_once(engine: BatchingClassifier, device: FakeDevice) -> None:
    first = await blocked(engine, device)
    waiting = asyncio.create_task(engine.score(["a"] * 8))
    await eventually(lambda: engine.depth == 8)
    loop = asyncio.get_running_loop()
    begin = loop.time()
    with pytest.raises(DetectorOverloaded, match="full"):
        await engine.score(["you"])
    assert loop.time() - begin < 0.05
    device.gate.set()
    assert len(await first) == 1
    assert len(await waiting) == 8


async def test_a_text_of_more_windows_than_the_queue_holds_is_refused(engine: BatchingClassifier) -> None:
    with pytest.raises(DetectorOverloaded):
        await engine.score(["word " * 200])
    with pytest.raises(DetectorOverloaded):
        await engine.score(["x" * 5_000_000])
    assert engine.depth == 0
    assert len(await engine.score(["you"])) == 1


async def test_a_cancelled_callers_entries_leave_the_queue_unscored(
    engine: BatchingClassifier, device: FakeDevice
) -> None:
    first = await blocked(engine, device)
    gone = asyncio.create_task(engine.score(["fool fool"] * 3))
    stays = asyncio.create_task(engine.score(["nice cake"]))
    await eventually(lambda: engine.depth == 4)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert engine.depth == 1
    device.gate.set()
    await first
    assert len(await stays) == 1
    assert [len(batch) for batch in device.batches] == [1, 1]


async def test_a_caller_cancelled_while_its_text_is_on_the_device_harms_nobody(
    engine: BatchingClassifier, device: FakeDevice
) -> None:
    first = await blocked(engine, device)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    device.gate.set()
    assert len(await engine.score(["a"])) == 1


async def test_a_deadline_is_a_timeout_and_frees_the_queue(device: FakeDevice, encoder: TokenEncoder) -> None:
    engine = BatchingClassifier(device, encoder, overlap=4, deadline=0.05)
    await engine.start()
    device.gate.clear()
    with pytest.raises(DetectorTimeout, match=r"0\.05 s"):
        await engine.score(["you"])
    with pytest.raises(DetectorTimeout):
        await engine.score(["you"])
    assert engine.depth == 0
    device.gate.set()
    await engine.close()


async def test_a_scorer_that_raises_fails_its_batch_and_no_other(
    engine: BatchingClassifier, device: FakeDevice
) -> None:
    bad_token = engine._encoder.head_and_tail(["bomb"])[0][1]
    device.fail = lambda batch: ValueError("secret text") if any(bad_token in ids for ids in batch) else None
    first = await blocked(engine, device)
    # Fourteen words fill a batch of 64 tokens in fours: the eight windows go in two batches.
    good = asyncio.create_task(engine.score(["cake " * 14] * 4))
    await eventually(lambda: engine.depth == 4)
    bad = [asyncio.create_task(engine.score(["bomb " * 14])) for _ in range(4)]
    await eventually(lambda: engine.depth == 8)
    device.gate.set()
    for task in bad:
        with pytest.raises(DetectorError, match="ValueError") as caught:
            await task
        assert "secret" not in str(caught.value)
    assert len(await first) == 1
    assert len(await good) == 4
    assert len(await engine.score(["you"])) == 1


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [([], "shape"), ([(0.1,)], "shape"), ([(float("nan"), 0.1)], "NaN"), ([(0.1, 0.2), (0.1, 0.2)], "shape")],
)
async def test_an_answer_that_makes_no_sense_is_an_error(
    engine: BatchingClassifier, device: FakeDevice, answer: list[tuple[float, ...]], complaint: str
) -> None:
    device.answer = lambda batch: answer
    with pytest.raises(DetectorError, match=complaint):
        await engine.score(["you"])


async def test_closing_answers_those_who_wait_and_later_calls(engine: BatchingClassifier, device: FakeDevice) -> None:
    first = await blocked(engine, device)
    waiting = asyncio.create_task(engine.score(["fool"]))
    await eventually(lambda: engine.depth == 1)
    closing = asyncio.create_task(engine.close())
    with pytest.raises(DetectorError, match="closing"):
        await waiting
    device.gate.set()
    await closing
    assert len(await first) == 1  # what is on the device already is still answered
    with pytest.raises(DetectorError, match="not running"):
        await engine.score(["you"])
    await engine.close()


async def test_a_caller_whose_text_is_being_tokenised_is_answered_on_closing(
    engine: BatchingClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, entered, cut = threading.Event(), threading.Event(), engine._encoder.windows

    def slowly(texts: Sequence[str], overlap: int) -> list[list[Window]]:
        entered.set()
        assert gate.wait(10)
        return cut(texts, overlap)

    monkeypatch.setattr(engine._encoder, "windows", slowly)
    callers = [asyncio.create_task(engine.score(["you"])) for _ in range(3)]
    await eventually(entered.is_set)
    await engine.close()
    gate.set()
    for outcome in await asyncio.gather(*callers, return_exceptions=True):
        assert isinstance(outcome, DetectorError)
        assert "closing" in str(outcome)


def longest(words: int) -> int:
    """Tokens of the longest window of so many words, the two special ones with them."""
    return words + 2 if words <= 14 else math.ceil((words - 4) / math.ceil((words - 4) / 10)) + 6


async def test_200_callers_at_once_are_each_answered_exactly_once(device: FakeDevice, encoder: TokenEncoder) -> None:
    engine = BatchingClassifier(device, encoder, overlap=4, batch_tokens=64, queue=120, deadline=5.0)
    await engine.start()
    device.batches.clear()
    calls = iter(range(10_000))
    device.fail = lambda batch: RuntimeError("now and then") if next(calls) % 7 == 3 else None
    outcomes: list[str] = []

    async def caller(i: int) -> None:
        await asyncio.sleep(i % 5 * 0.001)
        try:
            rows = await engine.score(["cake " * (1 + i % 30)], Priority(i % 3))
            assert rows[0][0] == longest(1 + i % 30) / 1000
            outcomes.append("scored")
        except DetectorOverloaded:
            outcomes.append("overloaded")
        except DetectorError:
            outcomes.append("failed")
        except asyncio.CancelledError:
            outcomes.append("cancelled")

    tasks = [asyncio.create_task(caller(i)) for i in range(200)]
    await asyncio.sleep(0.004)
    for task in tasks[::9]:
        task.cancel()
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
    never_begun = sum(task.cancelled() for task in tasks)
    assert len(outcomes) + never_begun == 200
    assert outcomes.count("scored") > 50
    assert engine.depth == 0
    await engine.close()


async def test_depth_and_batch_sizes_are_told(device: FakeDevice, encoder: TokenEncoder) -> None:
    depths: list[int] = []
    tokens: list[int] = []
    engine = BatchingClassifier(device, encoder, on_depth=depths.append, on_batch=tokens.append, overlap=4)
    await engine.start()
    depths.clear()
    tokens.clear()
    await engine.score(["a fool", "make a cake"])
    assert max(depths) == 2
    assert depths[-1] == 0
    assert tokens == [2 * 5]
    await engine.close()


async def test_a_call_keeps_the_best_of_each_label() -> None:
    call = Call(1, 2, asyncio.get_running_loop().create_future())
    call.take(0, (0.1, 0.9))
    assert not call.gone
    call.take(0, (0.3, 0.2))
    assert call.gone
    assert call.rows == [(0.3, 0.9)]


@given(st.lists(st.integers(0, 3 * SLICE), min_size=1, max_size=12))
def test_slices_hold_every_character_of_every_text_and_what_lies_across_their_borders(lengths: list[int]) -> None:
    texts = ["".join(chr(0x4E00 + (i * 31 + n) % 20_000) for i in range(length)) for n, length in enumerate(lengths)]
    jobs = list(slices(texts))
    assert all(sum(len(stretch) for _, stretch in job) <= SLICE for job in jobs)
    for number, text in enumerate(texts):
        stretches = [stretch for job in jobs for owner, stretch in job if owner == number]
        assert stretches[0] + "".join(stretch[SEAM:] for stretch in stretches[1:]) == text
        assert all(before[-SEAM:] == after[:SEAM] for before, after in itertools.pairwise(stretches))


async def test_a_text_that_tokenises_slowly_lets_others_in_between_and_is_refused_once_it_cannot_fit(
    device: FakeDevice, encoder: TokenEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = BatchingClassifier(device, encoder, overlap=4, queue=1_000, deadline=5.0)
    await engine.start()
    cut, seen = engine._encoder.windows, []

    def slowly(texts: Sequence[str], overlap: int) -> list[list[Window]]:
        seen.append(len(texts[0]))
        time.sleep(0.05 if len(texts[0]) > 1_000 else 0)
        return cut(texts, overlap)

    monkeypatch.setattr(engine._encoder, "windows", slowly)
    # Eight slices of some 270 windows each: the fourth shows that the queue cannot hold them.
    slow = asyncio.create_task(engine.score(["you a " * 10_000]))
    await eventually(lambda: len(seen) > 0)
    begin = time.monotonic()
    assert len(await engine.score(["you"])) == 1
    assert time.monotonic() - begin < 0.2
    assert sum(length > 1_000 for length in seen) <= 2
    with pytest.raises(DetectorOverloaded):
        await slow
    assert sum(length > 1_000 for length in seen) == 4
    seen.clear()
    gone = asyncio.create_task(engine.score(["you a " * 10_000]))
    await eventually(lambda: len(seen) > 0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    await engine.score(["you"])
    assert sum(length > 1_000 for length in seen) <= 2
    await engine.close()


async def test_a_scorer_that_wants_warming_gets_it_once_before_its_first_batch(encoder: TokenEncoder) -> None:
    class Cold(FakeDevice):
        def __init__(self) -> None:
            super().__init__()
            self.order: list[str] = []

        def warm(self) -> None:
            self.order.append("warm")

        def score(self, batch: Sequence[Sequence[int]]) -> list[tuple[float, ...]]:
            self.order.append("score")
            return super().score(batch)

    cold = Cold()
    engine = BatchingClassifier(cold, encoder, overlap=4)
    await engine.start()
    assert cold.order[0] == "warm"
    assert cold.order.count("warm") == 1
    await engine.close()
