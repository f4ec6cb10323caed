"""Make the incident of a verdict: which rules, where, how strong, and the smallest text that shows why."""

from __future__ import annotations

from collections.abc import Callable

from guardrail.core.admission import Subject
from guardrail.core.content import Content, Direction, Path
from guardrail.core.findings import Finding
from guardrail.core.incidents import Hit, Incident
from guardrail.core.policy import Action, Rule
from guardrail.core.verdict import Verdict

_MOST_HITS = 64
_MOST_EXCERPT = 400  # code points


def make_incident(
    verdict: Verdict,
    direction: Direction,
    texts: dict[int, tuple[int, str]],
    *,
    digest: Callable[[str], str],
    ident: str,
    at: float,
    subject: Subject,
    request_id: str,
    surface: str,
    length: int,
    strike: str | None = None,
    idempotency: str | None = None,
) -> Incident:
    """The incident of `verdict`.

    `texts` maps a segment to (offset at which the text at hand begins, that text): of a stream only the part that
    was not sent is still there. `digest` is a keyed hash, by which equal spans of two incidents can be told.
    """
    shown = verdict.deciding or verdict.enforced or verdict.matches
    excerpt = ""
    if shown and shown[0].rule.action is not Action.REDACT:  # what was taken out for privacy's sake is not kept, either
        excerpt = _span(shown[0].finding, texts)[:_MOST_EXCERPT]
    hits = []
    for rule, finding in verdict.matches[:_MOST_HITS]:
        span = _span(finding, texts)
        hits.append(
            Hit(
                rule.id,
                rule.category,
                finding.detector,
                finding.score,
                finding.segment,
                finding.start,
                finding.end,
                digest(span) if span else None,
            )
        )
    return Incident(
        id=ident,
        at=at,
        subject=subject,
        request_id=request_id,
        surface=surface,
        direction=direction,
        action=verdict.action,
        hits=tuple(hits),
        failures=tuple(dict.fromkeys(f"{failure.detector}:{failure.kind}" for failure in verdict.failures)),
        policies=verdict.policies,
        length=length,
        excerpt=excerpt,
        strike=strike,
        idempotency=idempotency,
    )


def _span(finding: Finding, texts: dict[int, tuple[int, str]]) -> str:
    base, text = texts.get(finding.segment, (0, ""))
    return text[max(finding.start - base, 0) : max(finding.end - base, 0)]


def strike_rule(verdict: Verdict, content: Content) -> Rule | None:
    """The rule by which a refused prompt counts against its user, the surest if there are several, or none.

    Only what the end user added in this request counts: history that a client sends again and what the operator
    wrote were judged, but are not this request's doing.
    """
    struck = [
        (finding.score, rule)
        for rule, finding in verdict.deciding
        if rule.strike is not None and finding.score >= rule.strike and content.segments[finding.segment].latest
    ]
    return max(struck, key=lambda item: item[0])[1] if struck else None


def safe_answer(verdict: Verdict, language: str) -> str:
    """The text of the first rule that answers instead, in the language asked for."""
    for rule, _ in verdict.deciding:
        answer = rule.answer.get(language) or next(iter(rule.answer.values()), "")
        if answer:
            return answer
    return ""


def where(path: Path) -> str:
    """A path as people write it: `messages[0].content`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")
