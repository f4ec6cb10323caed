"""`guardrail records export-cases`: reviewed incidents as rows to train on, opened with the key and written for one."""

from __future__ import annotations

import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guardrail.cli.recordkeeping import (
    STATE,
    DatabaseUrl,
    Reason,
    StateDir,
    fail,
    open_database,
    plain_errors,
    who,
)
from guardrail.errors import RecordError

if TYPE_CHECKING:
    from guardrail.records.reviewed import Case

_LEAST_KEY = 8  # digits of a subject's key that name it


@plain_errors
def export_cases(
    file: Annotated[Path, typer.Argument(help="The file to write (JSON Lines). It must not be there yet.")],
    reason: Reason = None,
    phrases: Annotated[
        bool, typer.Option("--phrases", help="Also excerpts that are a matched phrase alone: of little use to a model.")
    ] = False,
    opted_out: Annotated[
        Path | None,
        typer.Option(
            help="Subjects whose words must not be used: keys, or beginnings of 8 digits or more, one a line."
        ),
    ] = None,
    policies: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of policies of your own, for the classes of their categories; may be given again."),
    ] = None,
    state_dir: StateDir = STATE,
    database_url: DatabaseUrl = None,
    keys_dir: Annotated[
        Path | None,
        typer.Option(envvar="GUARDRAIL_KEYS_DIR", help="Folder of the keys [default: keys in the state folder]."),
    ] = None,
) -> None:
    """Write the excerpts of incidents whose appeals are decided as rows for `guardrail train`: granted is safe, denied
    is unsafe.

    The file holds what people wrote: only its owner may read it, personal data is replaced as far as it is recognised,
    and each opened excerpt is noted with your name and the reason. Keep it as you keep the keys, and delete it when it
    has done its work. Whether people's words may be used to train a model is theirs to say: see --opted-out.
    """
    from guardrail.detectors.pii.detector import find
    from guardrail.records.keys import Keyring
    from guardrail.records.reviewed import LeftOut, make_case
    from guardrail.resources import policies_dir
    from guardrail.stores.appeals import read_decided
    from guardrail.stores.queries import note_access

    why = (reason or "").strip()
    if not why:
        fail("--reason is needed: why the excerpts are opened, which is kept with your name")
    if file.exists():
        fail(f"{file} is there already; expected a file that is not")
    refusing = _subjects(opted_out)
    classes = _classes([policies_dir(), *(policies or [])])
    sealer = Keyring.open(keys_dir if keys_dir is not None else state_dir / "keys", make=False).sealer
    cases: dict[str, Case] = {}
    opened: list[str] = []
    left: Counter[str] = Counter()
    unread: list[RecordError] = []
    with open_database(state_dir, database_url) as connection:
        for row, appeals in read_decided(connection):
            if row["subject"].startswith(refusing):
                left["the person opted out"] += 1
                continue
            try:
                excerpt = sealer.open(row["sealed"], row["id"], row["seal_key"]).decode("utf-8", "replace")
            except RecordError as error:
                unread.append(error)
                continue
            opened.append(row["id"])
            made = make_case(row, appeals, excerpt, classes=classes, find=find, phrases=phrases)
            if isinstance(made, LeftOut):
                left[made.value] += 1
            else:
                cases[made.text] = made  # of equal texts the last ruling counts
    if unread and not opened:
        raise unread[0]
    with open_database(state_dir, database_url, write=True) as connection:
        # Noted before anything is written: what cannot be noted is not given out.
        for ident in opened:
            note_access(connection, at=time.time(), by=who(), what="export", incident=ident, reason=why)
    for broken in unread:
        typer.echo(f"left out: {broken}", err=True)
    for what, count in sorted(left.items()):
        typer.echo(f"left out: {count}, as {what}", err=True)
    if not cases:
        fail("no reviewed incident gives a row; `guardrail records appeals --all` shows what is decided", code=1)
    _write(file, list(cases.values()))
    labels = Counter(case.label for case in cases.values())
    typer.echo(f"{file}: {labels['safe']} safe and {labels['unsafe']} unsafe rows")
    typer.echo("It holds what people wrote. Keep it as you keep the keys, and delete it after use.", err=True)


def _write(file: Path, cases: Sequence[Case]) -> None:
    """Write rows into a new file that its owner alone may read."""
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(handle, "w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(asdict(case), ensure_ascii=False) + "\n" for case in cases)
    except OSError as error:
        fail(f"{file}: {error.strerror or error}; expected a file that can be made")


def _subjects(file: Path | None) -> tuple[str, ...]:
    """The subjects' keys in a file, or their beginnings; blank lines and those that begin with # are passed over."""
    if file is None:
        return ()
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        fail(f"--opted-out: {file} cannot be read ({error}); expected subjects' keys, one a line")
    found = tuple(line for line in lines if line and not line.startswith("#"))
    if short := [key for key in found if len(key) < _LEAST_KEY or set(key) - set("0123456789abcdef")]:
        fail(f"--opted-out: {file}: {short[0]!r}; expected {_LEAST_KEY} digits (0-9, a-f) of a subject's key or more")
    return found


def _classes(directories: Sequence[Path]) -> dict[str, str]:
    """The class of harm that each category of the policies stands for: the one label that classifier rules of the
    category listen for. A category with several is left out, as nobody has said which it was."""
    from guardrail.policyfile import PolicyFile, decode, read_toml
    from guardrail.training.targets import CLASSES, JAILBREAK, POLITICAL

    labels: dict[str, set[str]] = defaultdict(set)
    for directory in directories:
        for path in sorted(directory.glob("*/policy.toml")):
            for rule in decode(read_toml(path), PolicyFile, str(path)).rule:
                if rule.get("detector") == "classifier":
                    named = [rule["label"]] if "label" in rule else rule.get("labels", [])
                    labels[str(rule.get("category"))] |= set(named) & {*CLASSES, JAILBREAK, POLITICAL}
    return {category: next(iter(found)) for category, found in labels.items() if len(found) == 1}
