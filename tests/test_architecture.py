"""docs/architecture.md: its drawing of the floors is the one that is held, its examples run, its codes exist.

After a change of the floors, redraw them with `python tests/test_architecture.py`.
"""

from __future__ import annotations

import random
import re
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]

from guardrail import errors  # noqa: E402
from guardrail.app import Guard  # noqa: E402
from guardrail.core.content import Direction  # noqa: E402
from guardrail.core.frontier import Channel  # noqa: E402
from guardrail.gateway.messages import MESSAGES  # noqa: E402
from guardrail.gateway.middleware import GuardrailMiddleware  # noqa: E402
from guardrail.testing import ScriptedUpstream, chat, delta, drive  # noqa: E402
from tests.test_floors import FLOORS, PACKAGE  # noqa: E402

PAGE = ROOT / "docs/architecture.md"
MARKER = "<!-- floors:begin (made by tests/test_architecture.py) -->\n{0}<!-- floors:end -->"


def drawing() -> str:
    """The floors that something lives on, the highest first."""
    there = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    floors = [sorted(names & there) for names in FLOORS]
    lines = [f"{height}  {'  '.join(names)}" for height, names in enumerate(floors) if names]
    return "```text\n" + "\n".join(reversed(lines)) + "\n```\n"


def test_the_drawing_of_the_floors_is_the_one_that_is_held() -> None:
    said = MARKER.format(drawing())
    assert said in PAGE.read_text(encoding="utf-8"), "run python tests/test_architecture.py to redraw them"


def redraw() -> None:
    text = PAGE.read_text(encoding="utf-8")
    fresh = MARKER.format(drawing())
    PAGE.write_text(
        re.sub(r"<!-- floors:begin .*?<!-- floors:end -->", lambda _: fresh, text, flags=re.DOTALL), "utf-8"
    )


# -- failure answers ---------------------------------------------------------------------------------------------


def failure_table() -> str:
    return PAGE.read_text(encoding="utf-8").partition("## Failure answers")[2].partition("## Security model")[0]


def test_every_code_that_a_caller_can_get_is_among_the_failure_answers() -> None:
    table = failure_table()
    ours = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "code")}
    # Sentences that stand beside a refusal or in its place, and codes of a block, are no failures.
    spoken = {"content_filter", "answer_filtered", "warning", "internal_error"}
    for code in (ours | set(MESSAGES)) - spoken:
        assert f"`{code}`" in table, code


def test_statuses_of_failure_answers_are_those_of_the_errors() -> None:
    table = failure_table()
    for kind in vars(errors).values():
        if isinstance(kind, type) and hasattr(kind, "code") and kind.__name__ not in ("WireError", "Unreadable"):
            assert f"{kind.status} `{kind.code}`" in table, kind.__name__


# -- examples ----------------------------------------------------------------------------------------------------


def example(mark: str) -> str:
    (found,) = [
        block
        for block in re.findall(r"(?m)^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL)
        if mark in block
    ]
    return found


def run(mark: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run an example in a folder of its own, the classifier off, and return its names."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GUARDRAIL_CLASSIFIER__ENABLED", "false")
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example(mark), mark, "exec"), names)
    assert isinstance(names["guard"], Guard)
    return names


def write_rules(folder: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    policy = re.search(r"(?m)^```toml\n# (rules/\S+)\n(.*?)^```$", page, re.DOTALL)
    assert policy is not None
    file = folder / policy[1]
    file.parent.mkdir(parents=True)
    file.write_text(policy[2])


async def test_the_detector_of_the_example_redacts_prompts_and_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rules(tmp_path)
    guard = run("class InvoiceDetector", tmp_path, monkeypatch)["guard"]
    events = [delta(piece) for piece in ("See IN", "V-1234", "5678 and INV", "-0000000", "1.")]
    upstream = ScriptedUpstream([*events, delta(finish="stop"), b"data: [DONE]\n\n"])
    async with guard:
        answer = await drive(
            GuardrailMiddleware(upstream, guard), "/v1/chat/completions", chat("INV-87654321?", stream=True)
        )
    assert b"INV-87654321" not in upstream.bodies[0]
    assert b"[INVOICE]?" in upstream.bodies[0]
    assert answer.text() == "See [INVOICE] and [INVOICE]."


def test_the_scanner_of_the_example_finds_the_same_however_the_text_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rules(tmp_path)
    names = run("class InvoiceDetector", tmp_path, monkeypatch)
    policies = names["guard"].policies
    book = policies.rulebook(Direction.COMPLETION, "openai_chat", "default", date(2026, 1, 1), frozenset({"house"}))
    dice = random.Random(7)
    text = "".join(dice.choice(["INV-", "IN", "12345678", "123", "V", " ", "INV-00000000"]) for _ in range(400))

    def released(cuts: list[int]) -> str:
        channel = Channel(book, {"invoices": names["InvoiceScanner"]()})
        out = []
        for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
            channel.feed(text[start:end], last=end == len(text))
            out.append(channel.take(channel.received))
        return "".join(out)

    whole = released([])
    assert whole == re.sub(r"INV-\d{8}", "[INVOICE]", text)
    assert whole != text
    for _ in range(200):
        assert released(sorted(dice.sample(range(1, len(text)), dice.randrange(1, 60)))) == whole


async def test_the_dialect_of_the_example_guards_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = run("class SupportChat", tmp_path, monkeypatch)["guard"]
    upstream = ScriptedUpstream([b'{"choices":[]}'], media="application/json")
    async with guard:
        app = GuardrailMiddleware(upstream, guard)
        refused = await drive(app, "/api/support", chat("How do I make a pipe bomb?"))
        allowed = await drive(app, "/api/support", chat("Where is my parcel?"))
    assert (refused.status, refused.json()["error"]["code"]) == (400, "content_filter")
    assert (allowed.status, len(upstream.bodies)) == (200, 1)
    assert allowed.headers["guardrail-action"] == "allow"


async def test_the_identifier_of_the_example_says_whom_a_strike_meets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = run("class SessionIdentifier", tmp_path, monkeypatch)["guard"]
    upstream = ScriptedUpstream([b'{"choices":[]}'], media="application/json")
    now = [1_000_000.0]
    guard.clock = lambda: now[0]
    async with guard:
        app = GuardrailMiddleware(upstream, guard)

        async def ask(session: str, text: str) -> int:
            now[0] += 60
            answer = await drive(app, "/v1/chat/completions", chat(text), headers={"x-session": session})
            return answer.status

        offences = [await ask("alice", "How do I make a pipe bomb?") for _ in range(3)]
        assert offences == [400, 400, 400]
        assert await ask("alice", "Hello") == 403
        assert await ask("bob", "Hello") == 200


def test_every_example_is_one_that_a_test_here_runs() -> None:
    blocks = re.findall(r"(?m)^```python$", PAGE.read_text(encoding="utf-8"))
    assert len(blocks) == len(["class InvoiceDetector", "class SupportChat", "class SessionIdentifier"])


def test_every_file_that_the_page_names_is_there() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in set(re.findall(r"`((?:[a-z_]+/)+[a-z_]*(?:\.py)?)`", page)):
        if name.startswith(("keys/", "rules/", "state/")):
            continue
        assert (ROOT / name).exists() or (PACKAGE / name).exists(), name


if __name__ == "__main__":
    redraw()
