"""What the PII scanner costs on text without and with personal information, beside presidio alone in the same run.

    python benchmarks/pii_scan.py [--rounds 300] [--json]

Times are the best of five, in microseconds per 1,000 characters (per feed for the line that feeds four characters at a
time). presidio alone is its AnalyzerEngine with the pattern recognisers it loads for English, on a blank spaCy pipeline
(no model), called on the same text.
"""

from __future__ import annotations

import argparse
import json
import timeit
from collections.abc import Callable
from functools import partial

from guardrail.detectors.pii.labels import THRESHOLDS
from guardrail.detectors.pii.recognise import shapes
from guardrail.detectors.pii.scanner import PiiScanner

LENGTH = 1000
LABELS = frozenset(THRESHOLDS)

ENGLISH = (
    "The committee met twice in March and agreed that the bridge should be repaired before winter. Engineers had found "
    "cracks in 14 of the 52 bearings, most of them on the north side, where water had been standing since 2019. The "
    "mayor said that traffic would be sent over the old road, which is narrow but sound, and that shops by the river "
    "would be helped with their rents. Nobody expected the work to cost less than 3.5 million. "
)
CHINESE = (
    "委员会在三月开了两次会，决定在冬天之前把桥修好。工程师发现52个支座里有14个出现了裂缝，大多在北侧，那里从2019年起一直积水。"
    "市长说车辆将改走老路，老路虽窄但很结实，沿河的商铺可以申请减免租金。没有人相信这项工程的费用会低于350万元。"
)
DENSE = (
    "客户的手机是13800138000，备用010-65529988，身份证11010519491231002X，卡号6225 7583 1490 2769 435。"
    "Write to lin.qing@mail-demo.cn or +44 20 7183 8750, from 203.119.25.7; IBAN GB82 WEST 1234 5698 7654 32. "
)


def best(call: Callable[[], object], rounds: int) -> float:
    """Microseconds of one call, the best of five."""
    return min(timeit.repeat(call, number=rounds, repeat=5)) / rounds * 1e6


def whole(text: str) -> None:
    """Scan `text` as one piece."""
    PiiScanner(LABELS).feed(text, last=True)


def in_fours(text: str) -> None:
    """Feed `text` four characters at a time, asking for the frontier each time, as a stream does."""
    scanner = PiiScanner(LABELS)
    for start in range(0, len(text), 4):
        scanner.feed(text[start : start + 4], last=False)
        scanner.frontier(min(start + 4, len(text)))


def presidio_alone() -> Callable[[str], object]:
    """The analyzer of presidio as it comes, but for the language model."""
    import logging

    import spacy
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    logging.getLogger("tldextract").setLevel(logging.CRITICAL)  # its e-mail recogniser looks for a list on the network
    nlp = SpacyNlpEngine(models=[{"lang_code": "en", "model_name": "blank"}])
    nlp.nlp = {"en": spacy.blank("en")}
    registry = RecognizerRegistry(supported_languages=["en"])
    registry.load_predefined_recognizers(languages=["en"], nlp_engine=nlp)
    engine = AnalyzerEngine(registry=registry, nlp_engine=nlp, supported_languages=["en"])
    return lambda text: engine.analyze(text, "en")


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """For each text: microseconds of the set matcher, of a whole scan, of a feed of four, and of presidio alone."""
    table: dict[str, dict[str, float]] = {}
    texts = {
        name: (text * (LENGTH // len(text) + 1))[:LENGTH]
        for name, text in (("english", ENGLISH), ("chinese", CHINESE), ("dense", DENSE))
    }
    for name, text in texts.items():
        table[name] = {
            "set matcher": best(partial(shapes, text), rounds),
            "whole scan": best(partial(whole, text), rounds),
            "feed of four": best(partial(in_fours, text), max(1, rounds // 30)) / (LENGTH / 4),
        }
    ask = presidio_alone()
    for name, text in texts.items():
        ask(text)
        table[name]["presidio alone"] = best(partial(ask, text), max(1, rounds // 100))
        table[name]["ratio"] = table[name]["presidio alone"] / table[name]["whole scan"]
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=300, help="calls per measurement (default 300)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    chosen = parser.parse_args()
    table = measure(chosen.rounds)
    if chosen.json:
        print(json.dumps(table, indent=2))
        return
    columns = list(next(iter(table.values())))
    print(f"{'microseconds per 1,000 characters':36}" + "".join(f"{column:>16}" for column in columns))
    for name, row in table.items():
        print(f"{name:36}" + "".join(f"{row[column]:16.1f}" for column in columns))


if __name__ == "__main__":
    main()
