"""The composition root: settings in, a `Guard` out. The only module that names concrete classes."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send
from uuid_utils import uuid7

from guardrail.core.admission import Subject
from guardrail.core.content import Content, Direction, Segment
from guardrail.core.lexicon import PhraseError
from guardrail.core.policy import Action
from guardrail.core.verdict import Verdict
from guardrail.engines import is_shipped_model, served_classifier
from guardrail.errors import PolicyError, SettingsError
from guardrail.gateway.engine import Engine, Options
from guardrail.gateway.identity import DEFAULT_TENANT, Addresses, HeaderIdentifier, TenantKey
from guardrail.gateway.middleware import GuardrailMiddleware
from guardrail.gateway.screening import screen
from guardrail.metrics import Metrics, render
from guardrail.policyset import Loaded
from guardrail.policyset import load as load_policies
from guardrail.protocols import Classifier, Detector, Dialect, Identifier, Priority, Store
from guardrail.records.keys import Keyring
from guardrail.resources import model_path, policies_dir
from guardrail.settings import Settings, admin_token

if TYPE_CHECKING:
    from guardrail.detectors.classifier import ClassifierDetector
    from guardrail.inference.card import ModelCard
    from guardrail.portal.service import Service

CLASSIFIER_SOCKET = "GUARDRAIL_INTERNAL_CLASSIFIER"
"""Names the Unix socket of the classifier that several workers share; the supervisor sets it."""

DIRECT = "direct"
"""The surface of texts that come through the Python API or `/guardrail/screen`."""


_HOUSEKEEPING = 5.0  # seconds


class Guard(Engine):
    """A guard, ready to be started: `async with guard`, mounted as middleware, or asked with `screen`."""

    settings: Settings
    loaded: Loaded
    keyring: Keyring
    _housekeeping: asyncio.Task[None] | None = None

    @classmethod
    def from_settings(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        detectors: Sequence[Detector] = (),
        dialects: Sequence[Dialect] = (),
        identifier: Identifier | None = None,
        store: Store | None = None,
        **overrides: Any,
    ) -> Guard:
        """Compose a guard from `guardrail.toml` (or `path`), the environment and `overrides`.

        An override names a key by its short form (`upstream=`), with two underscores (`server__workers=`) or as a
        table (`classifier={"enabled": False}`). The objects are as for `compose`. Raises `SettingsError` or
        `PolicyError`.
        """
        settings = Settings.load(path, overrides=overrides)
        return compose(settings, store=store, detectors=detectors, dialects=dialects, identifier=identifier)

    async def start(self) -> None:
        await super().start()
        if self._housekeeping is None:
            self._housekeeping = asyncio.create_task(self._keep_house())

    async def close(self) -> None:
        if self._housekeeping is not None:
            self._housekeeping.cancel()
            self._housekeeping = None
        await super().close()

    async def _keep_house(self) -> None:
        """Tell the metrics what changes without a request: sanctions that end, a store that comes and goes."""
        while True:
            self.metrics.sanctions_in_force(self.store.in_force(self.clock()))
            self.metrics.degraded("store", self.store.degraded)
            await asyncio.sleep(_HOUSEKEEPING)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def screen(
        self,
        text: str,
        *,
        direction: Direction | str = Direction.PROMPT,
        subject: Subject | None = None,
        policies: Sequence[str] | None = None,
        priority: Priority = Priority.PROMPT,
    ) -> Verdict:
        """Screen one text against what is enforced for `subject`'s tenant, or against the named policies alone.

        Nothing is recorded and nobody is sanctioned. Raises `PolicyError` for a policy that is not loaded.
        """
        verdict, _ = await self.screen_and_redact(
            text, direction=direction, subject=subject, policies=policies, priority=priority
        )
        return verdict

    async def screen_and_redact(
        self,
        text: str,
        *,
        direction: Direction | str = Direction.PROMPT,
        subject: Subject | None = None,
        policies: Sequence[str] | None = None,
        priority: Priority = Priority.PROMPT,
    ) -> tuple[Verdict, str]:
        """As `screen`, with the text as it would be sent on (redacted, or cut where it stops)."""
        known = {policy.id for policy in self.policies.policies}
        if unknown := [name for name in policies or () if name not in known]:
            raise PolicyError(f"no policy {unknown[0]!r} is loaded; expected one of {', '.join(sorted(known))}")
        way = Direction(direction)
        plan = self.plan(way, DIRECT, subject.tenant if subject else DEFAULT_TENANT, frozenset(policies or ()))
        content = Content(way, (Segment(text),))
        screening = await screen(content, plan, self.metrics, priority)
        channel = screening.channels[0]
        return screening.verdict, channel.take(channel.received)

    def ready(self) -> dict[str, object]:
        """Whether requests can be served, and with what."""
        away = self.started and self.store.degraded
        return {
            "ready": self.started and not self.draining and not (away and self.options.on_store_error == "block"),
            "draining": self.draining,
            "degraded": ["store"] if away else [],
            "profile": self.settings.profile,
            "policy": self.policies.short_digest,
            "policies": [policy.id for policy in self.policies.policies],
            "detectors": sorted(self.detectors),
            "not_enforced": list(self.policies.not_enforced),
        }

    def drain(self) -> None:
        """Say that no new requests should come: readiness falls, running ones go on."""
        self.draining = True

    def public_app(self) -> ASGIApp:
        """The public pages and endpoints alone, for apps that mount the middleware themselves."""
        from guardrail.portal.app import portal_app

        return portal_app(self.screen_and_redact, self.ready, self._bearers, self._service())

    def operators_app(self) -> ASGIApp:
        """Metrics and readiness, for the operators' own network."""
        from guardrail.console.app import operators_app

        return operators_app(self._scrape, self.ready)

    def _scrape(self) -> tuple[bytes, str]:
        self.accounts.flush()
        return render(self.metrics.registry)

    def proxy_app(self, upstream: ASGIApp) -> ASGIApp:
        """The whole public listener: our own paths, and everything else guarded on its way to `upstream`."""
        from guardrail.portal.app import ROUTES

        portal = self.public_app()
        settings = self.settings
        admin_token(settings)  # made at the start, so that it can be read before anything asks for it
        guarded = GuardrailMiddleware(
            upstream,
            self,
            unknown_surface=settings.unknown_surface,
            websockets=settings.websockets,
            proxy=True,
        )

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            # No router on the hot path: it costs a sixth of a request.
            if scope["type"] == "http" and scope["path"].startswith(ROUTES):
                await portal(scope, receive, send)
            else:
                await guarded(scope, receive, send)

        return app

    def _service(self) -> Service:
        """What the public pages work with."""
        from guardrail.portal.service import Service

        settings = self.settings
        return Service(
            store=self.store,
            policies=lambda: self.policies,
            capability=self.keyring.capability,
            check=self.keyring.check,
            address=Addresses(tuple(settings.server.trusted_proxies)).client,
            clock=self.clock,
            new_id=self.new_id,
            public_url=settings.server.public_url.rstrip("/"),
            ladder=self.ladder if self.options.sanctions else None,
            provider=settings.provider.name,
            provider_code=settings.provider.code,
            provider_rules=settings.provider.rules_url,
            profile=settings.profile,
            profile_title=self.loaded.title,
            regulated=settings.regulated,
            label_headers=self.options.label_headers,
            label_position=self.labeller.position,
            label_text=self.labeller.text,
        )

    def _bearers(self) -> frozenset[str]:
        keys = {key for tenant in self.settings.tenants for key in tenant.key_hashes}
        return frozenset(keys | {hashlib.sha256(admin_token(self.settings).encode()).hexdigest()})


def compose(
    settings: Settings,
    *,
    store: Store | None = None,
    keyring: Keyring | None = None,
    metrics: Metrics | None = None,
    detectors: Sequence[Detector] = (),
    dialects: Sequence[Dialect] = (),
    identifier: Identifier | None = None,
) -> Guard:
    """Make a guard of settings. Reads policies, keys and the model; opens no connection. Raises `GuardrailError`s.

    `detectors` come beside those of the settings, and rules name them; `dialects` beside ours and those of
    `[[surfaces]]`, and win where both speak at a path; `identifier` and `store` stand in the place of ours.
    """
    from guardrail.labels.answer import AnswerLabeller

    metrics = metrics or Metrics()
    keyring = keyring or Keyring.open(settings.keys_dir)
    ladder = settings.sanctions.ladder()
    loaded, eyes = load_detectors(settings, metrics, detectors)
    if store is None:
        store = open_store(settings, keyring, metrics)
    public = settings.server.public_url.rstrip("/")
    guard = Guard(
        policies=loaded.policies,
        detectors=eyes,
        store=store,
        metrics=metrics,
        identifier=identifier
        or HeaderIdentifier(
            keyring.subject,
            header=settings.identity.header if settings.identity.end_user == "header" else None,
            signature_header=settings.identity.signature_header,
            trusted_proxies=tuple(settings.server.trusted_proxies),
            secret=(settings.secrets.identity_secret or "").encode(),
            tenants={
                key: TenantKey(tenant.id, tenant.shared_key) for tenant in settings.tenants for key in tenant.key_hashes
            },
        ),
        labeller=AnswerLabeller(settings.provider.code, settings.labels.affix),
        dialects={
            path: dialect for dialect in (*own_dialects(), *mapped(settings), *dialects) for path in dialect.paths
        },
        new_id=lambda: str(uuid7()),
        appeal_url=lambda incident: (
            f"{public}/guardrail/appeals?incident={incident}&capability={keyring.capability(incident)}"
        ),
        digest=keyring.digest,
        ladder=ladder,
        options=Options(
            passthrough=settings.passthrough,
            max_body=settings.server.max_body_bytes,
            max_response=settings.server.max_response_bytes,
            body_timeout=settings.server.body_timeout,
            keepalive=settings.stream.keepalive_seconds,
            body_identity=settings.identity.end_user == "body",
            refusal=settings.refusal,
            on_store_error=settings.on_store_error,
            sanctions=settings.sanctions.enabled and not settings.observe,
            label_headers=settings.labels.headers,
            unlabelled_refused=settings.duties.json_needs_client_label and not settings.labels.client_renders_label,
            unscreened_media=settings.media.unscreened,
            rules_url=settings.provider.rules_url or f"{public}/guardrail/rules",
        ),
    )
    guard.settings = settings
    guard.loaded = loaded
    guard.keyring = keyring
    return guard


def own_dialects() -> tuple[Dialect, ...]:
    """The dialects that come with the package, one for each surface."""
    from guardrail.wire.anthropic_messages import AnthropicMessages
    from guardrail.wire.ollama import OllamaChat, OllamaGenerate
    from guardrail.wire.openai_chat import OpenAIChat
    from guardrail.wire.openai_completions import OpenAICompletions
    from guardrail.wire.openai_embeddings import OpenAIEmbeddings
    from guardrail.wire.openai_media import OpenAIImages, OpenAISpeech
    from guardrail.wire.openai_moderations import OpenAIModerations
    from guardrail.wire.openai_responses import OpenAIResponses

    return (
        OpenAIChat(),
        OpenAIResponses(),
        OpenAICompletions(),
        OpenAIEmbeddings(),
        OpenAIModerations(),
        OpenAIImages(),
        OpenAISpeech(),
        OllamaChat(),
        OllamaGenerate(),
        AnthropicMessages(),
    )


def mapped(settings: Settings) -> tuple[Dialect, ...]:
    """The dialects of the app's own APIs, which win where one of ours speaks at the path; raises `SettingsError`."""
    from guardrail.wire.mapped import Mapped

    taken = {dialect.surface for dialect in own_dialects()} | {DIRECT}
    for index, surface in enumerate(settings.surfaces):
        if surface.id in taken:
            raise SettingsError(
                f'surfaces[{index}].id: got "{surface.id}", which is one of ours; expected another name'
            )
    return tuple(Mapped(surface.layout()) for surface in settings.surfaces)


def open_store(settings: Settings, keyring: Keyring, metrics: Metrics) -> Store:
    """The store that the settings name, not yet started."""
    from guardrail.stores.sql import SqlStore

    settings.state_dir.mkdir(parents=True, exist_ok=True)
    return SqlStore(
        settings.database_url,
        keyring.sealer,
        ladder=settings.sanctions.ladder(),
        journal=settings.state_dir,
        dropped=metrics.records_dropped,
    )


def load_detectors(
    settings: Settings, metrics: Metrics, own: Sequence[Detector] = ()
) -> tuple[Loaded, dict[str, Detector]]:
    """The policies that are enforced, and the detectors that they need: `own` ones and those of the settings."""
    detectors: dict[str, Detector] = {}
    for detector in own:
        if detector.name in ("classifier", "pii", "keywords") or detector.name in detectors:
            raise SettingsError(f'detector "{detector.name}" is there already; expected one with a name of its own')
        detectors[detector.name] = detector
    flags: dict[str, Mapping[str, float]] = {}
    disabled = []
    if settings.classifier.enabled:
        detectors["classifier"] = classifier = _classifier(settings, metrics)
        flags["classifier"] = classifier.flag_thresholds
    else:
        disabled.append("classifier")
    if settings.pii.enabled:
        from guardrail.detectors.pii.detector import PiiDetector

        detectors["pii"] = PiiDetector()
    else:
        disabled.append("pii")
    if not settings.keywords.enabled:
        disabled.append("keywords")
    loaded = load_policies(
        [policies_dir(), *settings.policies.directories],
        settings.profile,
        defaults={name: detector.thresholds for name, detector in detectors.items()},
        strike_defaults={name: detector.strike_thresholds for name, detector in detectors.items()},
        flag_defaults=flags,
        disabled_detectors=disabled,
        other_models=() if is_shipped_model(settings) else ("classifier",),
        tenants={tenant.id: tenant.terms() for tenant in settings.tenants},
        observe_all=settings.observe,
    )
    if settings.keywords.enabled:
        from guardrail.detectors.keywords.detector import KeywordDetector

        try:
            detectors["keywords"] = KeywordDetector(loaded.phrases)
        except PhraseError as error:
            raise loaded.locate(error) from None
    return loaded, detectors


def _classifier(settings: Settings, metrics: Metrics) -> ClassifierDetector:
    from guardrail.detectors.classifier import ClassifierDetector
    from guardrail.inference.card import load_card

    chosen = settings.classifier
    if chosen.engine != "guardrail":
        served, card = served_classifier(settings)
        return ClassifierDetector(_cached(served, card, settings, metrics), card.labels)
    folder = model_path(chosen.model)
    address = os.environ.get(CLASSIFIER_SOCKET) or chosen.url
    if address:
        from guardrail.inference.remote import RemoteClassifier

        card = load_card(folder, chosen.labels or None, threshold=chosen.threshold)
        key = settings.secrets.classifier_api_key
        remote = RemoteClassifier(address, tuple(card.labels), deadline=chosen.deadline, key=key)
        return ClassifierDetector(_cached(remote, card, settings, metrics), card.labels)
    engine, card = load_engine(settings, metrics)
    return ClassifierDetector(_cached(engine, card, settings, metrics), card.labels)


def _cached(classifier: Classifier, card: ModelCard, settings: Settings, metrics: Metrics) -> Classifier:
    """The classifier behind a cache of its scores, unless the settings want none."""
    if not (entries := settings.classifier.cache):
        return classifier
    from guardrail.inference.cache import VerdictCache, digest_of

    return VerdictCache(classifier, digest_of(card), entries=entries, on_result=metrics.classifier_cache)


def load_engine(settings: Settings, metrics: Metrics) -> tuple[Classifier, ModelCard]:
    """The classifier's engine in this process, with its model's card. Blocks for seconds."""
    from guardrail.inference.engine import load_classifier, spare_threads

    chosen = settings.classifier
    return load_classifier(
        model_path(chosen.model),
        label_map=chosen.labels or None,
        threshold=chosen.threshold,
        runtime=chosen.runtime,
        cache=Path(chosen.onnx_dir).expanduser() if chosen.onnx_dir else None,
        device=chosen.device,
        threads=chosen.threads or spare_threads(settings.server.workers),
        queue=chosen.queue,
        batch_tokens=chosen.batch_tokens,
        deadline=chosen.deadline,
        on_depth=metrics.queue_depth,
        on_batch=metrics.batch,
        on_split=metrics.batch_split,
    )


def upstream_app(settings: Settings) -> ASGIApp:
    """What the proxy guards: the configured endpoints, or the demo when there is none."""
    from guardrail.gateway.upstream import Target, Upstream

    if not settings.upstream.url:
        if settings.upstreams:
            raise SettingsError("upstream.url: it is missing; expected where requests go that no [[upstreams]] takes")
        from guardrail.demo import demo_app

        return demo_app()
    secrets = settings.secrets
    identity = settings.identity
    return Upstream(
        Target(settings.upstream.root, secrets.key_for()),
        [
            Target(route.root, secrets.key_for(route.id), tuple(route.paths), tuple(route.models))
            for route in settings.upstreams
        ],
        connections=settings.upstream.connections,
        connect_timeout=settings.upstream.connect_timeout,
        read_timeout=settings.upstream.read_timeout,
        private_headers=(identity.header, identity.signature_header),
    )


class GuardScorer:
    """What the policies say, as a score for evaluation: 1 for a text that they stop, else 0.

    `detector` narrows it to the rules of one detector that would block.
    """

    threshold = 1.0

    def __init__(self, guard: Guard, detector: str | None = None) -> None:
        self._guard = guard
        self._detector = detector

    async def score(self, texts: Sequence[str], directions: Sequence[Direction]) -> list[float]:
        verdicts = await asyncio.gather(
            *(
                self._guard.screen(text, direction=way, priority=Priority.OFFLINE)
                for text, way in zip(texts, directions, strict=True)
            )
        )
        return [float(self._stops(verdict)) for verdict in verdicts]

    def _stops(self, verdict: Verdict) -> bool:
        if self._detector is None:
            return verdict.stops
        return any(
            match.rule.action >= Action.ANSWER and match.finding.detector == self._detector
            for match in verdict.enforced
        )

    async def start(self) -> None:
        await self._guard.start()

    async def close(self) -> None:
        await self._guard.close()


def scorer(detector: str, settings: Settings) -> Any:
    """What `guardrail evaluate --detector keywords|guard|pii` measures: a `HarmScorer`, or for pii a span finder."""
    from guardrail.stores.memory import MemoryStore

    if detector == "pii":
        from guardrail.detectors.pii.detector import find

        return find
    if detector == "keywords":
        settings = msgspec.structs.replace(
            settings, classifier=msgspec.structs.replace(settings.classifier, enabled=False)
        )
    guard = compose(settings, store=MemoryStore(), keyring=Keyring.throwaway())
    return GuardScorer(guard, None if detector == "guard" else detector)
