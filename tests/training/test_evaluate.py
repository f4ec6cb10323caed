"""`guardrail evaluate`: the numbers and keys it promises, on files whose answers are known by hand."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from guardrail.cli.evaluate import evaluate
from guardrail.core.content import Direction
from guardrail.errors import SettingsError
from guardrail.training.evaluate import SpanRow, measure_spans, read_labelled, read_spans, score_rows
from guardrail.training.rows import Row
from tests.inference.tiny import write_card, write_model

FIRST = {"n", "threshold", "auroc", "auprc", "f1", "precision", "recall", "fpr"}
KEYS = FIRST | {"fpr_low", "fpr_high", "recall_at_fpr_1", "recall_at_fpr_2", "recall_at_fpr_5", "ece"}


class Lengths:
    """A harm scorer that goes by a text's length alone: ten characters are certain harm."""

    threshold = 0.5

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.directions: list[Direction] = []
        self.state = "new"

    async def start(self) -> None:
        self.state = "started"

    async def close(self) -> None:
        self.state = "closed"

    async def score(self, texts: Sequence[str], directions: Sequence[Direction]) -> list[float]:
        assert self.state == "started"
        self.batches.append(list(texts))
        self.directions += directions
        return [min(len(text) / 10, 1.0) for text in texts]


@pytest.fixture
def scorer(monkeypatch: pytest.MonkeyPatch) -> Lengths:
    """Put a known scorer where the application makes its own."""
    made = Lengths()

    def find(text: str) -> list[tuple[int, int, str]]:
        return [(text.index("@") - 2, text.index("@") + 3, "EMAIL_ADDRESS")] if "@" in text else []

    module = types.ModuleType("guardrail.app")
    module.scorer = lambda detector, settings: find if detector == "pii" else made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "guardrail.app", module)
    import guardrail

    monkeypatch.setattr(guardrail, "app", module, raising=False)
    return made


def command(*arguments: str | Path) -> Result:
    app = typer.Typer()
    app.command()(evaluate)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    lines = [
        {"text": "x" * 9, "label": "unsafe", "lang": "zh", "kind": "prompt", "source": "a", "lic": "permissive"},
        {"text": "x" * 8, "label": "safe", "lang": "en", "kind": "prompt", "source": "b", "lic": "permissive"},
        {"text": "x" * 4, "label": "unsafe", "lang": "en", "kind": "response", "source": "a", "lic": "permissive"},
        {"text": "x" * 1, "label": "safe", "lang": "zh", "source": "b", "lic": "unstated"},
        {"text": "x" * 10, "label": "borderline", "lang": "zh", "source": "b", "lic": "permissive"},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_json_has_the_keys_and_numbers_promised(rows: Path, scorer: Lengths) -> None:
    result = command(rows, "--detector", "keywords", "--json", "--by", "source")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    found = answer["files"][str(rows)]
    assert set(answer) == {"files"}
    assert set(found) == KEYS | {"by_lang", "by_kind", "by_cls", "by_source"}
    assert found["n"] == 4  # the borderline row is left out
    assert found["threshold"] == 0.5
    assert found["auroc"] == 0.75
    assert found["precision"] == found["recall"] == found["f1"] == found["fpr"] == 0.5
    assert set(found["by_lang"]) == {"en", "zh"}
    assert set(found["by_lang"]["zh"]) == KEYS
    assert found["by_lang"]["zh"]["auroc"] == 1.0
    assert set(found["by_kind"]) == {"prompt", "response", "unknown"}
    assert found["by_kind"]["response"]["auroc"] is None
    assert found["by_kind"]["response"]["fpr"] is None
    assert found["by_kind"]["unknown"]["fpr"] == 0.0
    assert found["by_source"]["a"]["recall"] == 0.5
    assert found["fpr_low"] < 0.5 < found["fpr_high"]
    assert found["recall_at_fpr_1"] == 0.5  # of the two unsafe rows one is above every safe one
    assert found["ece"] == pytest.approx((0.1 + 0.8 + 0.6 + 0.1) / 4)  # each row in a bin of its own
    for part in ("by_lang", "by_kind", "by_cls", "by_source"):
        assert all(set(metrics) == KEYS for metrics in found[part].values())
    assert scorer.state == "closed"


def test_a_class_of_harm_is_measured_beside_all_safe_rows(tmp_path: Path, scorer: Lengths) -> None:
    path = tmp_path / "classes.jsonl"
    lines = [
        {"text": "x" * 9, "label": "unsafe", "cls": "hate"},
        {"text": "x" * 3, "label": "unsafe", "cls": "fraud"},
        {"text": "x" * 2, "label": "unsafe"},
        {"text": "x" * 4, "label": "safe", "cls": "safe"},
        {"text": "x" * 1, "label": "safe", "cls": "hate"},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    found = json.loads(command(path, "--detector", "guard", "--json").stdout)["files"][str(path)]["by_cls"]
    assert {name: (part["n"], part["auroc"], part["recall"]) for name, part in found.items()} == {
        "fraud": (3, 0.5, 0.0),
        "hate": (3, 1.0, 1.0),
        "unknown": (3, 0.5, 0.0),
    }


def test_a_file_of_one_class_has_every_key_and_null_where_it_cannot_tell(tmp_path: Path, scorer: Lengths) -> None:
    path = tmp_path / "safe.jsonl"
    path.write_text("\n".join(json.dumps({"text": "x" * n, "label": "safe"}) for n in (1, 2, 7)))
    found = json.loads(command(path, "--detector", "guard", "--json").stdout)["files"][str(path)]
    assert found["by_cls"] == {}
    assert found["fpr"] == pytest.approx(1 / 3)
    for key in KEYS - {"n", "threshold", "fpr", "fpr_low", "fpr_high"}:
        assert found[key] is None, key


def test_where_and_limit_choose_rows(rows: Path, scorer: Lengths) -> None:
    result = command(rows, "--detector", "guard", "--json", "--where", "lic=permissive", "--where", "lang=en")
    assert json.loads(result.stdout)["files"][str(rows)]["n"] == 2
    result = command(rows, "--detector", "guard", "--json", "--limit", "1")
    assert json.loads(result.stdout)["files"][str(rows)]["n"] == 1


def test_tables_are_for_people(rows: Path, scorer: Lengths) -> None:
    result = command(rows, "--detector", "keywords")
    assert result.exit_code == 0
    for word in ("rows.jsonl at threshold 0.5", "auroc", "lang zh", "kind response", "0.750", "0.095-0.905"):
        assert word in result.stdout


@pytest.mark.parametrize("columns", ["120", "60"])
def test_a_table_fits_in_120_columns_and_no_number_is_cut(
    tmp_path: Path, scorer: Lengths, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)  # what is written into a file is as wide as it must be
    path = tmp_path / "rows.jsonl"
    labels = ("safe", "unsafe")
    path.write_text(
        "\n".join(
            json.dumps({"text": "x" * (i % 12), "label": labels[i % 2], "cls": "a class with a name that never ends"})
            for i in range(400)
        )
    )
    lines = command(path, "--detector", "guard").stdout.splitlines()[1:]
    assert max(map(len, lines)) <= 120
    assert len({line.count(".") for line in lines if line.lstrip().startswith(("all", "cls"))}) == 1
    assert [line.count("…") for line in lines if line.lstrip().startswith("cls")] == [1], "only the name is cut"
    assert not any("…" in line for line in lines if not line.lstrip().startswith("cls"))


async def test_texts_go_in_batches_sorted_by_length_and_scores_come_back_in_order() -> None:
    scorer = Lengths()
    await scorer.start()
    done: list[int] = []
    lengths = [5, 1, 9, 3, 7]
    given = [Row("x" * n, "safe", kind="response" if n == 9 else "prompt") for n in lengths]
    assert await score_rows(scorer, given, batch=2, on_done=done.append) == [n / 10 for n in lengths]
    assert [[len(text) for text in batch] for batch in scorer.batches] == [[1, 3], [5, 7], [9]]
    assert scorer.directions[-1] is Direction.COMPLETION
    assert done == [2, 2, 1]


def test_the_classifier_is_scored_by_what_its_card_calls_harm(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "tiny")
    write_card(folder, harm=["unsafe", "political"])
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "make a cake", "label": "safe"}\n{"text": "you are a fool", "label": "unsafe"}\n')
    result = command(path, "--model", str(folder), "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["files"][str(path)]
    assert found["threshold"] == 0.6
    assert found["auroc"] in (0.0, 1.0)


@pytest.mark.parametrize(
    ("content", "options", "complaint"),
    [
        (None, [], "no such file"),
        ("{", [], "line 1: not JSON"),
        ('{"text": "x", "label": "maybe"}', [], 'line 1: "label" is "maybe"; expected safe, unsafe, borderline'),
        ('{"text": "x", "label": "safe"}', ["--where", "lic"], "expected FIELD=VALUE"),
        ('{"text": "x", "label": "safe"}', ["--where", "lic=mit"], "no row labelled safe or unsafe with lic=mit"),
        ('{"text": "x", "label": "safe"}', ["--model", "nowhere"], "nowhere"),
        ('{"text": "x", "label": "safe"}', ["--detector", "pii"], "line 1: expected text and spans"),
        ('{"text": "x", "spans": [{"start": 0, "end": 5, "type": "A"}]}', ["--detector", "pii"], "outside the text"),
        ('{"text": "x", "spans": [{"start": 0}]}', ["--detector", "pii"], "no {start, end, type}"),
    ],
)
def test_bad_input_ends_with_one_line_and_code_2(
    tmp_path: Path, content: str | None, options: list[str], complaint: str
) -> None:
    path = tmp_path / "bad.jsonl"
    if content is not None:
        path.write_text(content)
    result = command(path, *options)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("guardrail: ")
    assert len(result.stderr.strip().splitlines()) == 1
    assert complaint in result.stderr


def test_personal_data_is_measured_by_type(tmp_path: Path, scorer: Lengths) -> None:
    path = tmp_path / "pii.jsonl"
    lines = [
        {"text": "ab@cd", "spans": [{"start": 0, "end": 5, "type": "EMAIL"}]},
        {"text": "no one", "spans": [{"start": 0, "end": 2, "type": "PERSON"}]},
        {"text": "xy@zw", "spans": []},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    result = command(path, "--detector", "pii", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {
        "files": {
            str(path): {
                "types": {
                    "EMAIL": {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1},
                    "PERSON": {"precision": None, "recall": 0.0, "f1": 0.0, "support": 1},
                },
                "micro": {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2},
                "macro": {"precision": 0.25, "recall": 0.5, "f1": pytest.approx(1 / 3), "support": 2},
            }
        }
    }
    shown = command(path, "--detector", "pii").stdout
    for word in ("EMAIL", "micro", "macro", "0.333"):
        assert word in shown


def test_totals_count_every_prediction_and_average_the_types_that_are_there() -> None:
    rows = [SpanRow("0123456789", [(0, 4, "PHONE"), (5, 9, "PHONE")]), SpanRow("0123456789", [(0, 9, "EMAIL")])]
    found = measure_spans(rows, [[(0, 4, "PHONE"), (5, 9, "IP")], []])
    assert found["micro"] == {"precision": 0.5, "recall": pytest.approx(1 / 3), "f1": pytest.approx(0.4), "support": 3}
    assert found["macro"] == {"precision": 0.5, "recall": 0.25, "f1": pytest.approx(1 / 3), "support": 3}
    nothing = measure_spans([SpanRow("text", [])], [[]])
    assert nothing["types"] == {}
    assert nothing["micro"]["recall"] is nothing["macro"]["recall"] is None


def test_a_prediction_counts_when_it_covers_half_of_a_true_span() -> None:
    row = SpanRow("0123456789", [(0, 4, "PHONE")])
    assert measure_spans([row], [[(2, 9, "PHONE_NUMBER")]])["types"]["PHONE"]["recall"] == 1.0
    assert measure_spans([row], [[(3, 9, "PHONE_NUMBER")]])["types"]["PHONE"]["recall"] == 0.0
    other = measure_spans([row], [[(0, 4, "EMAIL")]])["types"]
    assert other["PHONE"] == {"precision": None, "recall": 0.0, "f1": 0.0, "support": 1}
    assert other["EMAIL"] == {"precision": 0.0, "recall": None, "f1": None, "support": 0}
    twice = measure_spans([row], [[(0, 4, "PHONE"), (0, 3, "PHONE"), (6, 9, "PHONE")]])["types"]
    assert twice["PHONE"]["precision"] == pytest.approx(2 / 3)


def test_files_without_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text("\n")
    with pytest.raises(SettingsError, match="no row"):
        read_labelled(path, {})
    with pytest.raises(SettingsError, match="no row"):
        read_spans(path, {})


def test_measuring_other_detectors_needs_no_torch(rows: Path) -> None:
    import subprocess

    code = (
        "import guardrail.cli.evaluate, guardrail.cli.train, sys; "
        "sys.exit(not {'torch', 'transformers', 'sklearn', 'matplotlib'}.isdisjoint(sys.modules))"
    )
    root = Path(evaluate.__code__.co_filename).parents[2]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=root).returncode == 0
