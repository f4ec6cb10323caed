"""A process that offends: run as `python offender.py MODE STATE_DIR ARGUMENT`, it prints each acknowledged incident."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time
from pathlib import Path

from guardrail.core.admission import Subject
from guardrail.core.content import Direction
from guardrail.core.incidents import Decision, Hit, Incident
from guardrail.core.policy import Action
from guardrail.records.keys import Keyring
from guardrail.stores.sql import SqlStore

CANARY = "canary-7f3a 鹦鹉-密语"


def incident(ident: str, subject: Subject, at: float, excerpt: str = CANARY) -> Incident:
    return Incident(
        ident, at, subject, f"r-{ident}", "openai_chat", Direction.PROMPT, Action.BLOCK,
        (Hit("mlcommons/violent/lexicon", "violent", "keywords", 0.9, 0, 3, 9),), (), "digest", 40, excerpt,
        strike="mlcommons/violent/lexicon",
    )  # fmt: skip


def store(state: Path, patience: float = 10.0) -> SqlStore:
    keys = Keyring.open(state / "keys")
    return SqlStore(f"sqlite:///{state / 'guardrail.db'}", keys.sealer, patience=patience)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def together(state: Path, name: str) -> None:
    """25 refusals of one subject at once, when the parent says go."""
    kept = store(state)
    await kept.start()
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    subject = Subject("t", "shared-target")
    await asyncio.gather(*(kept.refuse(incident(f"{name}-{number}", subject, time.time())) for number in range(25)))
    say("done")
    await kept.close()


async def endless(state: Path, name: str) -> None:
    """Refusals without end, each printed once it is acknowledged, with decisions between them."""
    kept = store(state)
    await kept.start()
    say("ready")

    async def lane(lane_name: str) -> None:
        for number in itertools.count():
            ident = f"{name}-{lane_name}-{number}"
            subject = Subject("t", f"s{lane_name}{number // 3}")
            kept.record(
                Decision(
                    f"d-{ident}", time.time(), subject, "r", "openai_chat", "refused", Action.BLOCK, ident, "digest",
                    None, 1, 0, False, 0.0, 0.0,
                )
            )  # fmt: skip
            await kept.refuse(incident(ident, subject, time.time()))
            say(ident)

    await asyncio.gather(*(lane(str(number)) for number in range(4)))


async def locked_out(state: Path, name: str) -> None:
    """Three refusals while the parent holds the database's write lock, and then a sudden end."""
    kept = store(state, patience=0.1)
    await kept.start()
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    for number in range(3):
        standing = await kept.refuse(incident(f"{name}-{number}", Subject("t", "cut-off"), time.time()))
    say(standing.step.word)
    os._exit(9)


if __name__ == "__main__":
    modes = {"together": together, "endless": endless, "locked_out": locked_out}
    asyncio.run(modes[sys.argv[1]](Path(sys.argv[2]), sys.argv[3]))
