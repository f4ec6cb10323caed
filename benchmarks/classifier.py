"""What the classifier costs, beside plain transformers on the same texts with the same number of threads.

    python benchmarks/classifier.py                          # one thread; 2 to 3 minutes
    python benchmarks/classifier.py --threads 2
    python benchmarks/classifier.py --labelled rows.jsonl    # and what int8 costs in AUROC on rows with text and label
    python benchmarks/classifier.py --device cuda            # where there is one: fractions of its floors as well

Texts are distinct, no cache is in the way. *Plain* is `AutoTokenizer` and `AutoModelForSequenceClassification` in
fp32, one text at a time, cut at 512 tokens, as a model's card shows it. Rounds alternate between the contestants, a
ratio is the median of the rounds' own ratios; the load average is printed beside, and above 1 run it again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import operator
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import uvloop
from texts import Texts

from guardrail.core.content import Direction
from guardrail.detectors.classifier import ClassifierDetector
from guardrail.inference.batching import BatchingClassifier
from guardrail.inference.card import ModelCard, load_card
from guardrail.inference.engine import load_classifier
from guardrail.protocols import Priority
from guardrail.resources import model_path

AT_ONCE = 32
SPANS = 40
PEAKS = {  # dense bf16 operations and bytes of memory a second, of the makers' data sheets
    "H200": (989e12, 4.8e12),
    "H100": (989e12, 3.35e12),
    "A100": (312e12, 2.0e12),
    "L40S": (362e12, 0.86e12),
    "L4": (121e12, 0.3e12),
    "A10": (125e12, 0.6e12),
    "T4": (65e12, 0.32e12),
}
Score = Callable[[str], Awaitable[Any]]


def plain(folder: Path) -> Score:
    """The library as its documentation shows it."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()

    async def score(text: str) -> Any:
        with torch.inference_mode():
            return model(**tokenizer(text, truncation=True, max_length=512, return_tensors="pt")).logits.sigmoid()

    return score


async def one_by_one(score: Score, texts: Sequence[str]) -> list[float]:
    """Seconds of each text."""
    taken = []
    for text in texts:
        begin = time.perf_counter()
        await score(text)
        taken.append(time.perf_counter() - begin)
    return taken


async def at_once(score: Score, texts: Sequence[str], callers: int = AT_ONCE) -> tuple[float, list[float]]:
    """Seconds for all texts with so many callers at once, and the seconds of each."""
    waiting = iter(texts)
    taken: list[float] = []

    async def caller() -> None:
        for text in waiting:
            begin = time.perf_counter()
            await score(text)
            taken.append(time.perf_counter() - begin)

    begin = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return time.perf_counter() - begin, taken


def of_engine(engine: BatchingClassifier) -> Score:
    async def score(text: str) -> Any:
        return await engine.score([text])

    return score


def load() -> str:
    return f"load average {os.getloadavg()[0]:.2f}"


async def latency(contestants: dict[str, Score], texts: Texts, rounds: int) -> None:
    print(f"\nOne prompt of 64 tokens at a time, p50 in ms, best of {rounds} runs of 40 distinct texts ({load()})")
    best = dict.fromkeys(contestants, float("inf"))
    for _ in range(rounds):
        run = [texts.of(62) for _ in range(40)]  # and two special tokens
        for name, score in contestants.items():
            best[name] = min(best[name], statistics.median(await one_by_one(score, run)))
    for name, seconds in best.items():
        print(f"  {name:24} {seconds * 1e3:7.1f}")


async def throughput(contestants: dict[str, Score], texts: Texts, rounds: int, count: int) -> dict[str, float]:
    """Texts a second of every contestant, one by one and at once."""
    rates: dict[str, list[float]] = {}
    burnt: dict[str, list[float]] = {}
    tails: list[float] = []
    counted = 0
    seconds_at_once = 0.0
    for _ in range(rounds):
        run = texts.many(count)
        for name, score in contestants.items():
            begin = time.process_time()
            rates.setdefault(f"{name}, one by one", []).append(count / sum(await one_by_one(score, run)))
            burnt.setdefault(f"{name}, one by one", []).append((time.process_time() - begin) / count)
            if name == "plain transformers":
                continue
            begin = time.process_time()
            seconds, taken = await at_once(score, run)
            burnt.setdefault(f"{name}, {AT_ONCE} at once", []).append((time.process_time() - begin) / count)
            rates.setdefault(f"{name}, {AT_ONCE} at once", []).append(count / seconds)
            if name == list(contestants)[-1]:
                tails += taken
                counted += sum(map(texts.tokens, run))
                seconds_at_once += seconds
    print(f"\n{count} distinct texts of 16 to 512 tokens, log-uniform; median of {rounds} rounds ({load()})")
    first, *_, last = rates
    print(f"  {'':36} texts/s   to plain   to one by one   CPU ms a text")
    for name, found in rates.items():
        to_plain = statistics.median(one / other for one, other in zip(found, rates[first], strict=True))
        alone = rates[f"{name.rpartition(', ')[0]}, one by one"]
        to_self = statistics.median(one / other for one, other in zip(found, alone, strict=True))
        cpu = statistics.median(burnt[name]) * 1e3
        print(f"  {name:36} {statistics.median(found):7.1f}   {to_plain:8.2f}   {to_self:13.2f}   {cpu:13.1f}")
    p99 = statistics.quantiles(tails, n=100)[98]
    print(f"  {last}: {counted / seconds_at_once:,.0f} tokens/s, p99 {p99 * 1e3:.0f} ms")
    return {name: statistics.median(found) for name, found in rates.items()} | {"tokens": counted / seconds_at_once}


def floors(tokens_per_second: float, engine: BatchingClassifier, batch_tokens: int) -> None:
    """How near a GPU comes to what its arithmetic and its memory allow at the least."""
    model = engine._scorer._model  # type: ignore[attr-defined]
    name = torch.cuda.get_device_name()
    peak = next((peak for word, peak in PEAKS.items() if word in name), None)
    if peak is None:
        print(f"  {name}: no peak numbers known; expected one of {', '.join(PEAKS)}")
        return
    encoder = [part for key, part in model.named_parameters() if "embeddings" not in key]
    size = sum(part.numel() for part in encoder)
    arithmetic = 2 * size * tokens_per_second / peak[0]
    memory = 2 * size * tokens_per_second / batch_tokens / peak[1]
    print(f"  {name}: {arithmetic:.1%} of the arithmetic floor, {memory:.1%} of the memory floor")


async def stream(detector: ClassifierDetector, text: str) -> tuple[float, list[Any]]:
    """Seconds for an answer that arrives a few characters at a time, and all findings over their thresholds."""
    labels = frozenset(detector.thresholds)
    scanner = detector.scanner(Direction.COMPLETION, labels)
    found: list[Any] = []
    begin = time.perf_counter()
    for place in range(0, len(text), 4):
        piece = text[place : place + 4]
        scan = scanner.feed(piece, last=place + 4 >= len(text))
        if scan.windows:
            for findings in await detector.examine(scan.windows, Priority.STREAM):
                found += [item for item in findings if item.score >= detector.thresholds[item.category]]
    return time.perf_counter() - begin, found


async def streams(engine: BatchingClassifier, card: ModelCard, texts: Texts, rounds: int) -> None:
    detector = ClassifierDetector(engine, card.labels)
    ratios = []
    for _ in range(rounds):
        per_token = []
        for tokens in (500, 4_000):
            answers = [texts.of(tokens) for _ in range(8 if tokens == 500 else 1)]
            seconds = [(await stream(detector, answer))[0] for answer in answers]
            per_token.append(sum(seconds) / len(answers) / tokens)
        ratios.append(per_token[1] / per_token[0])
    print(f"\nA streamed answer of 4,000 tokens to one of 500, cost of a token ({load()})")
    print(f"  {statistics.median(ratios):.2f} (rounds {', '.join(f'{ratio:.2f}' for ratio in ratios)})")
    spans = texts.unsafe(SPANS)
    caught: dict[int, list[bool]] = {100: [], 3_900: []}
    for span in spans:
        near, after = texts.of(95), texts.of(60)  # the same neighbours at both places
        for at, hits in caught.items():
            before = f"{texts.of(at - 100)}\n{near}。\n" if at > 100 else f"{near}。\n"
            _, found = await stream(detector, f"{before}{span}\n{after}")
            hits.append(any(item.start < len(before) + len(span) and item.end > len(before) for item in found))
    alike = sum(map(operator.eq, *caught.values()))
    print(
        f"  of {len(spans)} unsafe spans found at token 100: {sum(caught[100])}, at 3,900: {sum(caught[3_900])}; ",
        end="",
    )
    print(f"the same answer at both: {alike}")


def read_labelled(path: Path) -> list[dict[str, str]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row.get("label") in ("safe", "unsafe")]


async def labelled(rows: list[dict[str, str]], engines: dict[str, BatchingClassifier], card: ModelCard) -> None:
    """What int8 moves, on rows with `text` and `label`."""
    from sklearn.metrics import roc_auc_score

    truth = [row["label"] == "unsafe" for row in rows]
    places = [list(card.labels).index(label) for label in card.harm_labels]
    harm: dict[str, list[float]] = {}
    for name, engine in engines.items():
        scores = await engine.score([row["text"] for row in rows], Priority.OFFLINE)
        harm[name] = [max(row[place] for place in places) for row in scores]
    print(f"\n{len(rows)} labelled rows: AUROC of the harm score")
    for name, found in harm.items():
        print(f"  {name:24} {roc_auc_score(truth, found):.4f}")
    first, *others = harm
    for name in others:
        moved = [abs(one - other) for one, other in zip(harm[first], harm[name], strict=True)]
        print(f"  {name} to {first}: scores move by {statistics.fmean(moved):.4f} on average, {max(moved):.3f} at most")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="guard-zh-en")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=96, help="texts of a round")
    parser.add_argument("--labelled", type=Path)
    parser.add_argument("--only", choices=("latency", "throughput", "streams", "labelled"))
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    folder = model_path(chosen.model)
    card = load_card(folder)
    texts = Texts(folder, model_path("guard-zh-en") / "corpus")
    on_cpu = chosen.device == "cpu"
    engines = {}
    for runtime in ("torch", "onnx") if on_cpu else ("torch",):
        engines[f"guardrail, {runtime}"], _ = load_classifier(
            folder, runtime=runtime, device=chosen.device, threads=chosen.threads, queue=1 << 17, deadline=3600
        )
    for engine in engines.values():
        await engine.start()
    contestants = {"plain transformers": plain(folder)} | {name: of_engine(engine) for name, engine in engines.items()}
    print(f"{chosen.model} on {chosen.device}, {chosen.threads} thread(s), torch {torch.__version__}; {load()}")
    *_, quickest = engines.values()
    if chosen.only in (None, "latency"):
        await latency(contestants, texts, chosen.rounds)
    if chosen.only in (None, "throughput"):
        rates = await throughput(contestants, texts, chosen.rounds, chosen.texts)
        if not on_cpu:
            floors(rates["tokens"], quickest, quickest._batch_tokens)
    if chosen.only in (None, "streams"):
        await streams(quickest, card, texts, max(1, chosen.rounds // 2))
    if chosen.labelled is not None and chosen.only in (None, "labelled"):
        await labelled(read_labelled(chosen.labelled), engines, card)
    for engine in engines.values():
        await engine.close()


if __name__ == "__main__":
    uvloop.run(main())
