"""One request on its line of travel: identify, standing, admit, read, screen, judge, forward, screen, release, settle.

Everything that waits is here; what decides is in `core`. `settle` runs on every way out.
"""

from __future__ import annotations

import hashlib
import logging
import re
import traceback
from collections.abc import Callable, Mapping
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from guardrail.core.admission import Admission, Subject
from guardrail.core.content import Direction
from guardrail.core.incidents import Incident
from guardrail.core.policy import Action
from guardrail.core.surface import Notice, Prompt
from guardrail.core.verdict import Verdict, judge
from guardrail.errors import DetectorError, StoreError, Unreadable, UpstreamError, WireError
from guardrail.gateway.body import ClientGone, read_body
from guardrail.gateway.engine import Engine
from guardrail.gateway.evidence import make_incident, safe_answer, strike_rule, where
from guardrail.gateway.identity import Unauthorized
from guardrail.gateway.messages import language, message
from guardrail.gateway.reply import Reply
from guardrail.gateway.screening import Plan, Screening, screen
from guardrail.gateway.streaming import framing_of
from guardrail.protocols import Dialect

log = logging.getLogger("guardrail.gateway")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")


Moderate = Callable[[Prompt, Verdict, str], bytes]

UNREADABLE = {
    "image": 'it passes with media.generated_images = "pass"',
    "audio": 'it passes with media.generated_audio = "pass"',
}
"""Media that no detector of ours reads, and the setting that lets them pass all the same."""

_NOBODY = Subject("unknown", "", "unknown")
# Reading a member off its enum is a call in Python 3.11, and these are read for every request.
_ALLOW, _REDACT, _PROMPT = Action.ALLOW, Action.REDACT, Direction.PROMPT


class Exchange:
    """One request to a guarded surface and its answer."""

    __slots__ = (
        "_aigc",
        "_began",
        "_proxy",
        "_receive",
        "_scope",
        "action",
        "begun",
        "completion_length",
        "dialect",
        "duration",
        "ended",
        "engine",
        "headers",
        "id",
        "incident",
        "labelled",
        "language",
        "outcome",
        "overhead",
        "prompt",
        "request_id",
        "screenings",
        "send",
        "streamed",
        "subject",
    )  # fmt: skip

    def __init__(
        self, engine: Engine, dialect: Dialect, scope: Scope, receive: Receive, send: Send, *, proxy: bool = False
    ) -> None:
        self.engine = engine
        self.dialect = dialect
        self.headers: Mapping[bytes, bytes] = dict(scope["headers"])
        self.language = language(self.headers.get(b"accept-language", b""))
        self.id = engine.new_id()
        given = self.headers.get(b"x-request-id", b"").decode("latin-1")
        self.request_id = given if _REQUEST_ID.fullmatch(given) else self.id
        self.subject = _NOBODY
        self.prompt: Prompt | None = None
        self.action = _ALLOW
        self.incident: str | None = None
        self.outcome = "error"
        self.overhead = 0.0  # seconds this guard has added
        self.completion_length = 0
        self.streamed = False
        self.labelled = False
        self.screenings: list[tuple[str, Screening]] = []  # by phase: what detectors cost is counted at the end
        self._scope = scope
        self._receive = receive
        self.send = send  # to the client
        self._began = perf_counter()
        self.ended = 0.0  # POSIX seconds
        self.duration = 0.0  # seconds
        self._aigc = b""
        self._proxy = proxy
        self.begun = False  # whether an answer is on its way

    async def run(self, app: ASGIApp) -> None:
        """Travel the whole line; always answers, and always settles."""
        try:
            await self._travel(app)
        except WireError as error:
            self.outcome = error.code
            await self.answer_notice(Notice(error.status, error.code, str(error), param=error.param))
        except Unauthorized:
            self.outcome = "invalid_api_key"
            await self.answer_notice(self.notice(401, "invalid_api_key"))
        except (StoreError, DetectorError) as error:
            self.outcome = "screening_unavailable"
            if isinstance(error, StoreError):
                self.engine.metrics.failed_closed("store")
            await self.answer_notice(self.notice(503, "screening_unavailable", retry_after=5))
        except UpstreamError as error:
            self.outcome = error.code
            await self.answer_notice(self.notice(error.status, error.code))
        except ClientGone:
            self.outcome = "client_gone"
        except Exception as error:
            # Where a framework stands around us, what its app raises is its own to answer.
            if self.begun or not self._proxy:
                raise
            # The type and the place, never the message: it may quote what somebody wrote.
            place = traceback.extract_tb(error.__traceback__)[-1]
            log.error("unexpected %s in %s, line %s", type(error).__name__, place.filename, place.lineno)
            self.outcome = "internal_error"
            await self.answer_notice(self.notice(500, "internal_error"))
        finally:
            self._settle()

    async def _travel(self, app: ASGIApp) -> None:
        engine, dialect = self.engine, self.dialect
        peer = self._scope.get("client")
        self.subject = engine.identifier.identify(self.headers, peer[0] if peer else None)
        admission = engine.admit(self.subject)
        if not admission.allowed:
            await self._turn_away(admission)
            return
        body = await read_body(self._receive, self.headers, engine.options.max_body, engine.late_bodies)
        started = perf_counter()
        prompt = self.prompt = dialect.read_prompt(body)
        if engine.options.body_identity and prompt.end_user:
            self.subject = engine.identifier.end_user(self.subject.tenant, prompt.end_user)
            admission = engine.admit(self.subject)
            if not admission.allowed:
                await self._turn_away(admission)
                return
        if prompt.media in UNREADABLE and prompt.media not in engine.options.unscreened_media:
            raise Unreadable(
                f"the {prompt.media} that would be the answer cannot be screened; {UNREADABLE[prompt.media]}"
            )
        if (prompt.structured or prompt.tools) and engine.options.unlabelled_refused:
            self.outcome = "label_required"
            await self.answer_notice(self.notice(403, "label_required"))
            return
        plan = engine.plan(_PROMPT, dialect.surface, self.subject.tenant)
        screening = await screen(prompt.content, plan, engine.metrics)
        moderate = getattr(dialect, "moderate", None)  # `Moderating`: asking the protocol itself takes too long here
        if moderate is not None:
            await self._moderate(moderate, screening, plan)
            return
        self.screenings.append(("prompt", screening))
        verdict = screening.draw()
        self.action = verdict.action
        if verdict.stops:
            await self._refuse(verdict)
            return
        if verdict.matches or verdict.action is not _ALLOW:
            engine.store.note(self._prompt_evidence(verdict))
        if verdict.action is _REDACT:
            body = dialect.write_prompt(body, screening.changed(prompt.content))
        self.overhead = perf_counter() - started
        if prompt.media in UNREADABLE:
            engine.metrics.bypassed("media")
        # No extensions: a file that the server sends by itself, or trailers, would pass us by.
        scope = {**self._scope, "headers": self._forwarded(len(body)), "extensions": {}}
        await Reply(self).run(app, scope, self._replay(body))

    async def _moderate(self, moderate: Moderate, screening: Screening, plan: Plan) -> None:
        """Answer with the verdict itself: it is what was asked for, so nothing is held against anybody."""
        assert self.prompt is not None
        verdict = screening.draw()
        if judge(plan.rulebook, (), verdict.failures).stops:
            await self._unavailable()
            return
        self.outcome = "moderated"
        await self._respond(200, moderate(self.prompt, verdict, self.id), b"application/json")

    async def _unavailable(self) -> None:
        self.outcome = "screening_unavailable"
        self.engine.metrics.failed_closed("detector")
        await self.answer_notice(self.notice(503, "screening_unavailable", retry_after=1))

    # -- the prompt ----------------------------------------------------------------------------------------------

    async def _turn_away(self, admission: Admission) -> None:
        code = self.outcome = admission.code or "account_suspended"
        await self.answer_notice(
            self.notice(admission.status, code, retry_after=admission.retry_after)._replace(
                until=admission.until,
                incident=admission.incident,
                appeal_url=self.engine.appeal_url(admission.incident) if admission.incident else None,
            )
        )

    async def _refuse(self, verdict: Verdict) -> None:
        assert self.prompt is not None
        strike = None
        if self.engine.options.sanctions and verdict.action is Action.BLOCK:
            strike = strike_rule(verdict, self.prompt.content)
        evidence = self._prompt_evidence(verdict, strike.id if strike is not None else None)
        standing = await self.engine.store.refuse(evidence)
        incident = self.incident = standing.recorded or evidence.id
        if strike is not None:
            self.engine.struck(self.subject, standing, strike.category)
        if not verdict.deciding:
            await self._unavailable()
            return
        if verdict.action is Action.ANSWER:
            self.outcome = "answered"
            text = safe_answer(verdict, self.language)
            if await self._answer_instead(text, "stop"):
                return
        else:
            self.outcome = "blocked"
            text = message("content_filter", self.language)
            if strike is not None:
                text = f"{text} {message('warning', self.language)}"
            if self.engine.options.refusal == "message" and await self._answer_instead(text, "content_filter"):
                return
        rules = tuple(dict.fromkeys(match.rule.id for match in verdict.deciding))
        first = verdict.deciding[0].finding.segment
        await self.answer_notice(
            Notice(
                400,
                "content_filter",
                text,
                param=where(self.prompt.content.segments[first].path),
                incident=incident,
                rules=rules,
                categories=tuple(dict.fromkeys(match.rule.category for match in verdict.deciding)),
                appeal_url=self.engine.appeal_url(incident),
                rules_url=self.engine.options.rules_url,
            )
        )

    async def _answer_instead(self, text: str, reason: str) -> bool:
        """Answer with `text` in the model's place; false where the surface has no words to answer with."""
        assert self.prompt is not None
        body = self.dialect.answer(self.prompt, text, reason, self.id, self.member(labelled=False))
        if body is None:
            return False
        media = framing_of(self.dialect).content_type if self.prompt.stream else b"application/json"
        await self._respond(200, body, media)
        return True

    def _prompt_evidence(self, verdict: Verdict, strike: str | None = None) -> Incident:
        assert self.prompt is not None
        segments = self.prompt.content.segments
        texts = {index: (0, segment.text) for index, segment in enumerate(segments)}
        return self.evidence(verdict, Direction.PROMPT, texts, self.prompt_length, strike)

    def evidence(
        self,
        verdict: Verdict,
        direction: Direction,
        texts: dict[int, tuple[int, str]],
        length: int,
        strike: str | None = None,
    ) -> Incident:
        """The incident of a verdict of this exchange; its id is the one that the answer carries."""
        self.incident = self.engine.new_id()
        return make_incident(
            verdict,
            direction,
            texts,
            digest=self.engine.digest,
            ident=self.incident,
            at=self.engine.clock(),
            subject=self.subject,
            request_id=self.request_id,
            surface=self.dialect.surface,
            length=length,
            strike=strike,
            idempotency=self._idempotency(),
        )

    def _idempotency(self) -> str | None:
        key = self.headers.get(b"idempotency-key")
        return hashlib.sha256(key).hexdigest() if key else None

    # -- answers -------------------------------------------------------------------------------------------------

    def notice(self, status: int, code: str, *, retry_after: int | None = None) -> Notice:
        """A notice with our sentence for its code in the client's language."""
        return Notice(status, code, message(code, self.language), retry_after=retry_after)

    async def answer_notice(self, notice: Notice) -> None:
        """Answer with a notice in the surface's own error shape."""
        await self._respond(notice.status, self.dialect.error(notice), b"application/json", notice.retry_after)

    async def _respond(self, status: int, body: bytes, media: bytes, retry_after: int | None = None) -> None:
        headers = [(b"content-type", media), (b"content-length", b"%d" % len(body)), *self.our_headers()]
        if retry_after is not None:
            headers.append((b"retry-after", b"%d" % retry_after))
            if status == 429:
                headers.append((b"x-should-retry", b"false"))
        self.begun = True
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def our_headers(self) -> list[tuple[bytes, bytes]]:
        """The headers of every guarded answer."""
        found = [
            (b"x-request-id", self.request_id.encode()),
            (b"guardrail-action", self.action.word.encode()),
            (b"guardrail-policy", self.engine.policies.short_digest.encode()),
        ]
        if self.incident is not None:
            found.append((b"guardrail-incident", self.incident.encode()))
        return found

    @property
    def aigc(self) -> bytes:
        """The implicit label of the answer."""
        if not self._aigc:
            self._aigc = self.engine.labeller.aigc(self.id)
        return self._aigc

    def member(self, *, labelled: bool) -> bytes:
        """The `guardrail` object of an answer, as JSON."""
        parts = [b'{"action":"', self.action.word.encode(), b'"']
        if self.incident is not None:
            parts += [b',"incident":"', self.incident.encode(), b'"']
        if labelled:
            parts += [b',"label":{"text":"', self.engine.labeller.text(self.language).encode(), b'","aigc":']
            parts += [self.aigc, b"}"]
        return b"".join((*parts, b"}"))

    # -- the way on and the end ----------------------------------------------------------------------------------

    def _forwarded(self, length: int) -> list[tuple[bytes, bytes]]:
        ours = (b"content-length", b"transfer-encoding", b"x-request-id", b"accept-encoding")
        kept = [item for item in self._scope["headers"] if item[0] not in ours]
        kept.append((b"content-length", b"%d" % length))
        kept.append((b"x-request-id", self.request_id.encode()))
        kept.append((b"accept-encoding", b"identity"))
        return kept

    def _replay(self, body: bytes) -> Receive:
        given = False

        async def receive() -> Message:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": body, "more_body": False}
            return await self._receive()

        return receive

    def _settle(self) -> None:
        engine = self.engine
        self.ended = engine.clock()
        self.duration = perf_counter() - self._began
        if self.outcome in ("allowed", "cut") and engine.options.sanctions:
            engine.store.allow(self.subject, self.ended)  # at once: it ends a row of strikes
        engine.accounts.add(self)

    @property
    def media(self) -> str:
        """What the answer is: text, vector, image or audio."""
        return self.prompt.media if self.prompt else "text"

    @property
    def prompt_length(self) -> int:
        """How much text the prompt has, in code points."""
        return sum(len(segment.text) for segment in self.prompt.content.segments) if self.prompt else 0
