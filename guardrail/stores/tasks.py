"""What the event loop asks of the writer's thread, and how the answer gets back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from guardrail.core.admission import Subject
from guardrail.core.incidents import Decision, Incident
from guardrail.core.sanctions import Entry
from guardrail.stores.ledger import Writing


@dataclass(frozen=True, slots=True)
class Reply:
    """Where an answer is waited for."""

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]

    @classmethod
    def here(cls) -> Reply:
        """A reply to the running loop."""
        loop = asyncio.get_running_loop()
        return cls(loop, loop.create_future())


@dataclass(frozen=True, slots=True)
class Refuse:
    incident: Incident
    reply: Reply


@dataclass(frozen=True, slots=True)
class Enter:
    """Append an entry that a person decided."""

    subject: Subject
    entry: Entry
    reply: Reply


@dataclass(frozen=True, slots=True)
class Flush:
    """Answer once everything queued before is written."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Work:
    """Do what is asked for now and then (an appeal) in the turn's transaction, on its connection and its `Writing`.

    A `CaseError` is an answer like any other, raised before anything is written; all else undoes the turn, which is
    then tried again: twice must be as good as once.
    """

    work: Callable[[Connection, Writing], Any]
    reply: Reply


@dataclass(frozen=True, slots=True)
class Allow:
    subject: Subject
    at: float


Record = Decision | Incident
"""What is written later, in groups: a request's metadata, or an incident that nobody was refused for."""

Task = Refuse | Enter | Work | Flush | Allow
Answer = tuple[Task, Any]
"""A task and its result, or the exception that it is answered with."""


def deliver(answers: Iterable[Answer]) -> None:
    """Give every answer to its loop, waking each loop once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for task, result in answers:
        if not isinstance(task, Allow):
            by_loop.setdefault(task.reply.loop, []).append((task.reply.future, result))
    for loop, settled in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, settled)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more, and what they asked for is done


def _settle(settled: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, result in settled:
        if future.done():  # whoever waited was called off
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
