"""How a recipe fares on sources it has not seen: train without them, test on them, source by source and topic by topic.

    python benchmarks/generalisation.py --config models/guard-zh-en/next.toml --backbone FOLDER
        --data train.jsonl.gz --data dev.jsonl.gz [--processes 2] [--json FILE] [--markdown docs/generalisation.md]

A random split of the rows that a model is trained on flatters: near copies lie on both sides. Here the sources are
dealt into folds; each fold's model is trained by the training file's own mix without the fold's sources, and without
a fifth of the topics of our own corpus, and is then tested on just these. Leaving out several sources at once is
harder than leaving out one. A source with one label only is tested against benign prompts that no model here is
trained on. Rows whose licence is not stated are for testing alone.

Scores are the encoder's, the n-gram scorer's, and both blended, where the blend's weights are fitted on the other
folds' tests. Exit codes: 0 done, 2 bad usage.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import multiprocessing
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression

from guardrail.errors import SettingsError
from guardrail.inference.tokens import TokenEncoder
from guardrail.training.config import TrainConfig, load_config
from guardrail.training.export import harm_places
from guardrail.training.finetune import finetune, frozen_states, score_texts
from guardrail.training.metrics import auroc
from guardrail.training.ngrams import fit_ngrams
from guardrail.training.rows import Row, draw_mix, read_objects, read_rows
from guardrail.training.run import with_variants
from guardrail.training.targets import ANSWER, POLITICAL, UNSAFE

ROOT = Path(__file__).resolve().parent.parent
CORPUS = ROOT / "models" / "guard-zh-en" / "corpus"
OWN = ("corpus", "twins", "everyday")
FOLDS = (
    ("jailbench", "jailbench_seed", "davidson"),
    ("harmfulqa", "aisafetylab", "surge_toxicity"),
    ("catqa", "cold_train"),
    ("advbench", "gptfuzz_responses", "toxigen_demo"),
    ("xsafety", "bipia_train", "jb_templates_en", "piguard_valid", "diasafety"),
)
"""Sources that are left out together: none of a fold is made from another fold's."""
NEVER_TRAINED = ("neuron_llmsec", "aig_eval", "cnsafe", "refusal_direction_harmful")
BENIGN = ("llamafactory_demo", "llama2zh_sft")
"""Ordinary prompts and answers that nothing is trained on: what a source of harmful texts alone is tested against."""
MISLABELLED = (("aisafetylab", "en", "response"),)
"""Left out: its labels are those of the prompts, so that its unsafe answers are refusals."""
LEAST = 30


@dataclass
class Test:
    """One source, language and kind that a fold is tested on."""

    name: str
    lang: str
    kind: str
    rows: list[Row]
    encoder: np.ndarray
    spelling: np.ndarray

    @property
    def truth(self) -> np.ndarray:
        return np.array([row.label == "unsafe" for row in self.rows])


_STATES: dict[str, torch.Tensor] = {}  # by text, shared with the workers by fork


def main() -> int:
    options = _options()
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    try:
        config = msgspec.structs.replace(
            load_config(options.config), max_rows=options.rows, epochs=options.epochs, schedule_epochs=options.epochs
        )
        config = msgspec.structs.replace(config, frozen_layers=max(config.frozen_layers, options.frozen))
        rows, topics = read(options.data, options.corpus, config)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    began = time.monotonic()
    mixes = [training_rows(config, rows, topics, fold) for fold in range(len(FOLDS))]
    texts = list(dict.fromkeys(row.text for mix in mixes for row in mix))
    console.print(f"{len(texts)} texts through the frozen layers ...", style="dim")
    _STATES.update(zip(texts, frozen_states(config, texts, options.backbone), strict=True))
    jobs = [
        (fold, config, options.backbone, mixes[fold], tests(rows, topics, fold, options.most)) for fold in options.folds
    ]
    found: list[Test] = []
    with multiprocessing.get_context("fork").Pool(options.processes) as pool:
        for fold, results in pool.imap_unordered(_run, jobs, chunksize=1):
            console.print(f"fold {fold} after {time.monotonic() - began:.0f} s", style="dim")
            found += results
    summary = report(console, sorted(found, key=lambda test: (test.kind, test.lang, test.name)))
    if options.json:
        options.json.write_text(json.dumps(summary, indent=1))
    if options.markdown:
        put(options.markdown, summary)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train without sources, test on them.")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--backbone", type=Path, required=True)
    parser.add_argument("--data", type=Path, action="append", required=True, help="public rows (.jsonl, .jsonl.gz)")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="folder of our own rows")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rows", type=int, default=18_000, help="most rows a fold is trained on (default 18,000)")
    parser.add_argument("--epochs", type=int, default=1, help="epochs a fold is trained for (default 1)")
    parser.add_argument("--frozen", type=int, default=3, help="at least so many layers are left alone (default 3)")
    parser.add_argument("--folds", default=",".join(map(str, range(len(FOLDS)))), help="which folds (default all)")
    parser.add_argument("--most", type=int, default=300, help="rows of each label a source is tested with")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    options.folds = [int(fold) for fold in options.folds.split(",")]
    return options


def read(data: Sequence[Path], corpus: Path, config: TrainConfig) -> tuple[list[Row], dict[str, str]]:
    """All rows, and for our own the topic (the risk's code) by the row's id."""
    rows = [row for path in data for row in read_rows(path)]
    topics = {}
    for path in sorted(corpus.glob("*.jsonl")):
        rows += [row for row in read_rows(path) if row.source in OWN]
        for number, value in read_objects(path):
            topics[str(value.get("id") or number)] = str(value.get("risk") or "none")
    return rows, topics


def part(row: Row, topics: dict[str, str]) -> int:
    """The fold that tests a row of ours: by its topic; a row of no topic by its pair or id."""
    topic = topics.get(row.id, "none")
    key = topic if topic != "none" else row.pair or row.id
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest()) % len(FOLDS)


def training_rows(config: TrainConfig, rows: Sequence[Row], topics: dict[str, str], fold: int) -> list[Row]:
    """The training file's mix without what the fold is tested on."""
    kept = [
        row
        for row in rows
        if row.source not in (*FOLDS[fold], *NEVER_TRAINED, *BENIGN)
        and not (row.source in OWN and part(row, topics) == fold)
        and (row.source, row.lang, row.kind) not in MISLABELLED
    ]
    mix = draw_mix(kept, config.mix, config.max_rows, config.seed)
    return with_variants(mix, config) if config.augment else mix


def tests(rows: Sequence[Row], topics: dict[str, str], fold: int, most: int) -> list[tuple[str, str, str, list[Row]]]:
    """What a fold is tested on: (source, language, kind, rows)."""
    sources = FOLDS[fold] + (NEVER_TRAINED if fold == 0 else ())
    cells: dict[tuple[str, str, str], dict[str, list[Row]]] = defaultdict(lambda: {"safe": [], "unsafe": []})
    benign: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.label == "borderline" or (row.source, row.lang, row.kind) in MISLABELLED:
            continue
        if row.source in BENIGN and row.label == "safe":
            benign[row.lang, row.kind].append(row)
        elif row.source in sources:
            cells[row.source, row.lang, row.kind][row.label].append(row)
        elif row.source in OWN and part(row, topics) == fold:
            cells["our own topics", row.lang, row.kind][row.label].append(row)
    found = []
    for (source, lang, kind), by_label in sorted(cells.items()):
        dice = random.Random(f"{source}:{lang}:{kind}")
        safe, unsafe = by_label["safe"], by_label["unsafe"]
        if len(safe) < LEAST:
            safe = benign[lang, kind]
        if min(len(safe), len(unsafe)) < LEAST:
            continue
        few = len(safe) + len(unsafe) if source == "our own topics" else most
        for side in (safe, unsafe):
            dice.shuffle(side)
        found.append((source, lang, kind, [*safe[:few], *unsafe[:few]]))
    return found


def _run(
    job: tuple[int, TrainConfig, Path, list[Row], list[tuple[str, str, str, list[Row]]]],
) -> tuple[int, list[Test]]:
    fold, config, backbone, mix, cells = job
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        states = [_STATES[row.text] for row in mix]
        outcome = finetune(config, mix, backbone, Path(folder), states=states)
    assert outcome is not None
    ngrams = fit_ngrams(mix, (UNSAFE, ANSWER, POLITICAL), seed=config.seed)
    encoder = TokenEncoder.load(backbone, config.max_tokens)
    results = []
    for source, lang, kind, rows in cells:
        texts = [row.text for row in rows]
        scores = np.array(score_texts(outcome.model, encoder, texts, config.max_tokens // 4))
        places = harm_places(kind)
        spelt = ngrams.score(texts)
        column = [ANSWER if kind == "response" else UNSAFE, POLITICAL]
        results.append(
            Test(
                source,
                lang,
                kind,
                rows,
                scores[:, places].max(1),
                np.array([spelt[:, ngrams.labels.index(name)] for name in column]).max(0),
            )
        )
    return fold, results


def _logit(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(p / (1 - p)))


def blend(found: Sequence[Test], test: Test) -> np.ndarray:
    """The blended score of one test, its weights fitted on all the other sources' tests, each source alike."""
    others = [other for other in found if other.name != test.name]
    x = np.concatenate([np.column_stack([_logit(o.encoder), o.spelling]) for o in others])
    y = np.concatenate([o.truth for o in others])
    weight = np.concatenate([np.full(len(o.rows), 1 / len(o.rows)) for o in others])
    model = LogisticRegression(C=100.0, max_iter=500).fit(x, y, sample_weight=weight * len(y) / weight.sum())
    return np.asarray(model.decision_function(np.column_stack([_logit(test.encoder), test.spelling])))


def twins(test: Test, score: np.ndarray) -> tuple[int, int]:
    """Pairs of an unsafe text and its safe twin in a test, and how many have the unsafe one higher."""
    sides: dict[str, dict[str, list[float]]] = defaultdict(lambda: {"safe": [], "unsafe": []})
    for row, value in zip(test.rows, score, strict=True):
        if row.pair:
            sides[f"{row.source}:{row.pair}"][row.label].append(float(value))
    whole = [side for side in sides.values() if side["safe"] and side["unsafe"]]
    return len(whole), sum(min(side["unsafe"]) > max(side["safe"]) for side in whole)


def report(console: Console, found: Sequence[Test]) -> dict[str, Any]:
    """Print the table; returns what it holds."""
    table = Table("kind", "lang", "source", "safe", "unsafe", "encoder", "n-grams", "both")
    lines, pairs = [], defaultdict(lambda: [0, 0])
    weights = _weights(found)
    for test in found:
        truth = test.truth
        both = blend(found, test)
        values = [
            auroc(list(truth), list(map(float, score))) or math.nan for score in (test.encoder, test.spelling, both)
        ]
        lines.append(
            {"kind": test.kind, "lang": test.lang, "source": test.name, "safe": int((~truth).sum()),
             "unsafe": int(truth.sum()), "encoder": values[0], "ngrams": values[1], "both": values[2]}
        )  # fmt: skip
        table.add_row(
            test.kind, test.lang, test.name, str((~truth).sum()), str(truth.sum()), *(f"{v:.3f}" for v in values)
        )
        if test.name == "our own topics":
            count, right = twins(test, both)
            pairs[test.lang][0] += count
            pairs[test.lang][1] += right
    console.print(table)
    means = {}
    for name, kinds in (("prompts", {"prompt"}), ("posts and answers", {"social", "response"})):
        chosen = [line for line in lines if line["kind"] in kinds and line["source"] != "our own topics"]
        ours = [line for line in lines if line["kind"] in kinds and line["source"] == "our own topics"]
        for label, group in ((name, chosen), (f"{name}, our own topics", ours)):
            if group:
                means[label] = {
                    key: float(np.mean([line[key] for line in group])) for key in ("encoder", "ngrams", "both")
                }
                console.print(f"{label}: mean AUROC " + ", ".join(f"{k} {v:.3f}" for k, v in means[label].items()))
    told = {lang: {"pairs": count, "right": right / max(1, count)} for lang, (count, right) in sorted(pairs.items())}
    for lang, value in told.items():
        console.print(f"twins told apart, {lang}: {value['right']:.1%} of {value['pairs']}")
    console.print(f"blend over all sources: {weights}")
    return {"lines": lines, "means": means, "twins": told, "blend": weights}


def _weights(found: Sequence[Test]) -> dict[str, float]:
    x = np.concatenate([np.column_stack([_logit(o.encoder), o.spelling]) for o in found])
    y = np.concatenate([o.truth for o in found])
    weight = np.concatenate([np.full(len(o.rows), 1 / len(o.rows)) for o in found])
    model = LogisticRegression(C=100.0, max_iter=500).fit(x, y, sample_weight=weight * len(y) / weight.sum())
    return {"scale": float(model.coef_[0][0]), "ngrams": float(model.coef_[0][1]), "bias": float(model.intercept_[0])}


def put(path: Path, summary: dict[str, Any]) -> None:
    """Write the tables between the marks of a Markdown page."""
    head = "| kind | lang | source | safe | unsafe | encoder | n-grams | both |\n" + "| --- " * 8 + "|\n"
    body = "".join(
        f"| {line['kind']} | {line['lang']} | {line['source']} | {line['safe']} | {line['unsafe']} | "
        f"{line['encoder']:.3f} | {line['ngrams']:.3f} | {line['both']:.3f} |\n"
        for line in summary["lines"]
    )
    means = "".join(
        f"- {name}: mean AUROC {value['both']:.3f} (encoder {value['encoder']:.3f}, n-grams {value['ngrams']:.3f})\n"
        for name, value in summary["means"].items()
    )
    told = "".join(
        f"- twins of held-back topics told apart, {lang}: {value['right']:.1%} of {value['pairs']}\n"
        for lang, value in summary["twins"].items()
    )
    begin, end = "<!-- generalisation:begin -->", "<!-- generalisation:end -->"
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(begin)
    path.write_text(f"{before}{begin}\n{head}{body}\n{means}{told}{end}{rest.partition(end)[2]}", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
