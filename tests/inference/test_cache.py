"""The cache in front of a classifier: what it asks for, what it keeps, and what callers do to one another."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from pathlib import Path

import pytest

from guardrail.errors import DetectorError, DetectorOverloaded, DetectorTimeout
from guardrail.inference.cache import VerdictCache, digest_of
from guardrail.inference.card import LabelUse, ModelCard
from guardrail.metrics import Metrics, render
from guardrail.protocols import Classifier, Priority
from guardrail.stores.memory import MemoryStore
from tests.inference.tiny import write_card, write_model


class Lengths:
    """A classifier whose score is a text's length; it waits at `gate` and notes what it was asked, and what left."""

    labels = ("length",)

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], Priority]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fails: dict[str, DetectorError] = {}
        self.cancelled = 0
        self.state = "new"

    @property
    def asked(self) -> list[str]:
        return [text for texts, _ in self.calls for text in texts]

    async def start(self) -> None:
        self.state = "started"

    async def close(self) -> None:
        self.state = "closed"

    async def score(self, texts: Sequence[str], priority: Priority = Priority.PROMPT) -> list[tuple[float, ...]]:
        self.calls.append((list(texts), priority))
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        for text in texts:
            if text in self.fails:
                raise self.fails[text]
        return [(float(len(text)),) for text in texts]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_text_that_comes_again_is_scored_once_and_answers_are_in_order() -> None:
    inner = Lengths()
    cache = VerdictCache(inner, "m")
    assert isinstance(cache, Classifier)
    assert cache.labels == ("length",)
    assert await cache.score(["aa", "b", "aa"]) == [(2.0,), (1.0,), (2.0,)]
    assert await cache.score(["ccc", "b"]) == [(3.0,), (1.0,)]
    assert await cache.score(["aa", "b"]) == [(2.0,), (1.0,)]
    assert await cache.score([]) == []
    assert [texts for texts, _ in inner.calls] == [["aa", "b"], ["ccc"]]


async def test_starting_and_closing_reach_the_classifier_and_closing_forgets() -> None:
    inner = Lengths()
    cache = VerdictCache(inner, "m")
    await cache.start()
    assert inner.state == "started"
    await cache.score(["a"])
    assert len(cache) == 1
    await cache.close()
    assert (inner.state, len(cache)) == ("closed", 0)


async def test_it_holds_so_many_texts_and_lets_go_of_the_one_used_longest_ago() -> None:
    inner = Lengths()
    cache = VerdictCache(inner, "m", entries=3)
    await cache.score(["a", "b", "c"])
    await cache.score(["a"])
    await cache.score(["d"])
    assert len(cache) == 3
    inner.calls.clear()
    await cache.score(["a", "c", "d"])
    assert inner.asked == []
    await cache.score(["b"])
    assert inner.asked == ["b"]


async def test_a_call_with_more_texts_than_it_holds_is_answered_whole() -> None:
    cache = VerdictCache(Lengths(), "m", entries=2)
    assert await cache.score(["a", "bb", "ccc", "dddd"]) == [(1.0,), (2.0,), (3.0,), (4.0,)]
    assert len(cache) == 2


async def test_equal_texts_asked_about_at_once_are_scored_once() -> None:
    inner = Lengths()
    inner.gate.clear()
    cache = VerdictCache(inner, "m")
    calls = [asyncio.create_task(cache.score(["same", f"other {i}"])) for i in range(20)]
    await settle()
    inner.gate.set()
    answers = await asyncio.gather(*calls)
    assert all(answer[0] == (4.0,) for answer in answers)
    assert [answer[1] for answer in answers] == [(float(len(f"other {i}")),) for i in range(20)]
    assert inner.asked.count("same") == 1
    assert len(inner.asked) == 21


@pytest.mark.parametrize("goes", [0, 1])
async def test_a_caller_that_goes_leaves_the_others_their_answer(goes: int) -> None:
    inner = Lengths()
    inner.gate.clear()
    cache = VerdictCache(inner, "m")
    calls = [asyncio.create_task(cache.score(["same"])) for _ in range(2)]
    await settle()
    calls[goes].cancel()
    await settle()
    assert calls[goes].cancelled()
    inner.gate.set()
    assert await calls[1 - goes] == [(4.0,)]
    assert (inner.cancelled, len(inner.calls)) == (0, 1)


async def test_when_the_last_caller_goes_the_work_is_given_up_and_the_next_one_starts_afresh() -> None:
    inner = Lengths()
    inner.gate.clear()
    cache = VerdictCache(inner, "m")
    calls = [asyncio.create_task(cache.score(["same"])) for _ in range(2)]
    await settle()
    for call in calls:
        call.cancel()
    # Before the cancelled call has ended, somebody asks again.
    await asyncio.sleep(0)
    late = asyncio.create_task(cache.score(["same"]))
    await settle()
    assert inner.cancelled == 1
    inner.gate.set()
    assert await late == [(4.0,)]
    assert len(inner.calls) == 2


async def test_a_failure_reaches_its_caller_and_is_not_kept() -> None:
    inner = Lengths()
    inner.fails["bad"] = DetectorOverloaded("full")
    cache = VerdictCache(inner, "m")
    with pytest.raises(DetectorOverloaded):
        await cache.score(["bad", "good"])
    assert len(cache) == 0
    inner.fails.clear()
    assert await cache.score(["bad"]) == [(3.0,)]


async def test_what_somebody_else_asked_about_cannot_fail_a_text() -> None:
    inner = Lengths()
    inner.fails["poison"] = DetectorError("it broke")
    inner.gate.clear()
    cache = VerdictCache(inner, "m")
    first = asyncio.create_task(cache.score(["poison", "hello"]))
    await settle()
    second = asyncio.create_task(cache.score(["hello"]))
    await settle()
    assert len(inner.calls) == 1, "the second waits for the first"
    inner.gate.set()
    with pytest.raises(DetectorError, match="it broke"):
        await first
    assert await second == [(5.0,)]
    assert inner.asked == ["poison", "hello", "hello"]


async def test_a_deadline_that_passed_is_everybodys_as_a_second_one_would_double_the_wait() -> None:
    inner = Lengths()
    inner.fails["slow"] = DetectorTimeout("too late")
    inner.gate.clear()
    cache = VerdictCache(inner, "m")
    calls = [asyncio.create_task(cache.score(["slow"])) for _ in range(2)]
    await settle()
    inner.gate.set()
    assert [type(error) for error in await asyncio.gather(*calls, return_exceptions=True)] == [DetectorTimeout] * 2
    assert len(inner.calls) == 1


async def test_a_prompt_does_not_wait_for_offline_work_on_the_same_text() -> None:
    inner = Lengths()
    inner.gate.clear()
    cache = VerdictCache(inner, "m")
    calls = [asyncio.create_task(cache.score(["same"], way)) for way in (Priority.OFFLINE, Priority.PROMPT)]
    await settle()
    calls.append(asyncio.create_task(cache.score(["same"], Priority.OFFLINE)))
    await settle()
    assert [way for _, way in inner.calls] == [Priority.OFFLINE, Priority.PROMPT], "the third shares the prompt's"
    inner.gate.set()
    assert await asyncio.gather(*calls) == [[(4.0,)]] * 3


async def test_windows_of_streams_are_neither_looked_up_nor_kept() -> None:
    inner = Lengths()
    results: list[tuple[str, int]] = []
    cache = VerdictCache(inner, "m", on_result=lambda result, count: results.append((result, count)))
    for _ in range(2):
        assert await cache.score(["window"], Priority.STREAM) == [(6.0,)]
    assert [way for _, way in inner.calls] == [Priority.STREAM] * 2
    assert (len(cache), results) == (0, [])


async def test_too_few_scores_are_a_failure() -> None:
    class Short(Lengths):
        async def score(self, texts: Sequence[str], priority: Priority = Priority.PROMPT) -> list[tuple[float, ...]]:
            return []

    with pytest.raises(DetectorError, match="0 scores; expected 1"):
        await VerdictCache(Short(), "m").score(["a"])


async def test_hits_misses_and_shared_scorings_are_counted_text_by_text() -> None:
    inner = Lengths()
    inner.gate.clear()
    metrics = Metrics()
    cache = VerdictCache(inner, "m", on_result=metrics.classifier_cache)
    calls = [asyncio.create_task(cache.score(texts)) for texts in (["a", "b"], ["a"])]
    await settle()
    inner.gate.set()
    await asyncio.gather(*calls)
    await cache.score(["a", "b", "c"])
    shown = render(metrics.registry)[0].decode()
    assert 'guardrail_classifier_cache_total{result="miss"} 3.0' in shown
    assert 'guardrail_classifier_cache_total{result="shared"} 1.0' in shown
    assert 'guardrail_classifier_cache_total{result="hit"} 2.0' in shown


async def test_no_text_is_kept() -> None:
    cache = VerdictCache(Lengths(), "m")
    # Made here, so that no constant of this module holds them.
    texts = ["".join(["canary", str(i), "暗号", "\ud800"]) for i in range(3)]
    inner = cache._classifier
    assert isinstance(inner, Lengths)
    await cache.score(texts)
    inner.calls.clear()
    del texts
    await settle()
    gc.collect()
    reached, waiting = set(), [cache]
    while waiting:
        thing = waiting.pop()
        if id(thing) in reached or isinstance(thing, type):
            continue
        reached.add(id(thing))
        assert not (isinstance(thing, str) and "canary" in thing and len(thing) < 20)
        assert not (isinstance(thing, bytes) and b"canary" in thing)
        if isinstance(thing, dict | list | tuple | set | VerdictCache | Lengths) or hasattr(thing, "items"):
            waiting += gc.get_referents(thing)
    assert len(cache) == 3


async def test_keys_are_of_this_cache_alone() -> None:
    one, other = VerdictCache(Lengths(), "m"), VerdictCache(Lengths(), "m")
    await one.score(["hello"])
    await other.score(["hello"])
    assert not set(one._held) & set(other._held), "the same text has another key in another process"


def test_a_models_digest_changes_with_its_card() -> None:
    uses = {"toxic": LabelUse("insult")}
    card = ModelCard(id="a", title="A", labels=uses)
    assert digest_of(card) == digest_of(ModelCard(id="a", title="A", labels=dict(uses)))
    assert digest_of(card) != digest_of(ModelCard(id="b", title="A", labels=uses))


@pytest.mark.parametrize("entries", [4096, 0])
async def test_a_guard_remembers_texts_unless_its_settings_say_none(tmp_path: Path, entries: int) -> None:
    from guardrail.app import Guard

    folder = write_model(tmp_path / "tiny")
    write_card(folder)
    pack = tmp_path / "policies" / "house"
    pack.mkdir(parents=True)
    (pack / "policy.toml").write_text(
        'id = "house"\ntitle = "House"\n[[rule]]\nid = "unsafe"\ndetector = "classifier"\nlabel = "unsafe"\n'
        'category = "unsafe"\naction = "block"\n'
    )
    (tmp_path / "policies" / "profiles").mkdir()
    (tmp_path / "policies" / "profiles" / "bare.toml").write_text('title = "Bare"\npolicies = ["house"]\n')
    guard = Guard.from_settings(
        store=MemoryStore(),
        profile="bare",
        state_dir=tmp_path / "state",
        policies={"directories": [tmp_path / "policies"]},
        classifier={"model": str(folder), "cache": entries, "threads": 1},
        keywords={"enabled": False},
        pii={"enabled": False},
    )
    async with guard:
        for _ in range(2):
            await guard.screen("you are a fool")
        shown = render(guard.metrics.registry)[0].decode()
    for result in ("hit", "miss"):
        assert (f'guardrail_classifier_cache_total{{result="{result}"}} 1.0' in shown) is (entries > 0)
