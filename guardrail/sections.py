"""The sections of `guardrail.toml` as frozen types: each field says what it means and what it accepts.

`settings` puts them together and reads them; this module reads nothing.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from guardrail.core.policy import TenantTerms
from guardrail.core.sanctions import Ladder
from guardrail.wire import jsonpath, template
from guardrail.wire.mapped import Layout

PREFIX = "GUARDRAIL_"
"""What every environment variable of ours begins with."""

# -- words with a form of their own ------------------------------------------------------------------------------


class Address(NamedTuple):
    """Where a listener listens."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read `host:port` or `[v6]:port`; raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(text)
    if host.startswith("[") and host.endswith("]"):
        return Address(str(ipaddress.IPv6Address(host[1:-1])), int(port))
    if not re.fullmatch(r"[A-Za-z0-9.-]+", host):
        raise ValueError(text)
    return Address(host, int(port))


def root_of(url: str) -> str:
    """An endpoint's URL before `/v1`, without a slash at its end: paths of requests are put behind it."""
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def _check_url(text: str) -> None:
    parts = urlsplit(text)
    plain = parts.username is None and parts.password is None and not parts.query and not parts.fragment
    _ = parts.port  # raises ValueError when it is no port
    if text and not (parts.scheme in ("http", "https") and parts.hostname and plain and " " not in text):
        raise ValueError(text)


def _check_path_pattern(text: str) -> None:
    method, space, path = text.partition(" ")
    if not space or not re.fullmatch(r"[A-Z]+|\*", method) or not path.startswith("/") or " " in path:
        raise ValueError(text)


def _check_singular(text: str) -> None:
    if text and not jsonpath.parse(text).singular:
        raise ValueError(text)


def _check_template(text: str, names: frozenset[str]) -> None:
    if text:
        template.parse(text, names)


def expects(words: str, *checks: Any, **constraints: Any) -> Meta:
    return Meta(extra={"expected": words, "checks": checks}, **constraints)


def says(meaning: str, **constraints: Any) -> Meta:
    return Meta(description=meaning, **constraints)


Listen = Annotated[str, expects("host:port, such as 127.0.0.1:8080 or [::1]:8080", parse_address)]
Url = Annotated[str, expects("an http or https URL without user, query or fragment", _check_url)]
Network = Annotated[
    str, expects("an address or network, such as 10.0.0.0/8", lambda text: ipaddress.ip_network(text, strict=False))
]
HeaderName = Annotated[str, expects("a header's name in lower case, such as x-end-user-id", pattern=r"^[a-z0-9-]+\Z")]
Id = Annotated[str, expects("an id of 1 to 64 letters a-z, digits, - and _", pattern=r"^[a-z0-9][a-z0-9_-]{0,63}\Z")]
PathPattern = Annotated[
    str, expects('a method and a path, such as "GET /v1/models/*" (* as method: any)', _check_path_pattern)
]
JsonPath = Annotated[str, expects(jsonpath.WORDS, jsonpath.parse)]
OneJsonPath = Annotated[
    str, expects("a JSONPath of names and indices, such as $.token or $.choices[0].text", _check_singular)
]
ErrorBody = Annotated[
    str,
    expects(
        "a JSON object with {message}, {code}, {incident} ... in its texts",
        lambda t: _check_template(t, template.NOTICE),
    ),
]
ClosingBody = Annotated[
    str,
    expects(
        "a JSON object with {code}, {action}, {incident} or {guardrail} in its texts",
        lambda t: _check_template(t, template.CLOSING),
    ),
]
UrlPath = Annotated[str, expects("a path such as /v1/chat/completions or /v1/*", pattern=r"^/[^ ]*\Z")]
KeyHash = Annotated[
    str,
    Meta(
        pattern=r"^[0-9a-f]{64}\Z",
        extra={"expected": "the SHA-256 of a key in 64 lower-case hex digits, never the key itself", "secret": True},
    ),
]
Seconds = Annotated[float, Meta(gt=0, le=86400)]
Span = Annotated[float, Meta(gt=0, le=10 * 366 * 86400)]
Score = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1, le=1000)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of settings."""


# -- the sections ------------------------------------------------------------------------------------------------


class Server(Section, frozen=True):
    """`[server]`: the listeners and what they take."""

    listen: Annotated[Listen, says("Where the public listener listens.")] = "127.0.0.1:8080"
    admin_listen: Annotated[Listen, says("Where the operators' listener listens.")] = "127.0.0.1:8081"
    public_url: Annotated[Url, says("Base of the links in answers; never taken from the Host header.")] = (
        "http://<listen>"
    )
    workers: Annotated[int, says("Proxy processes; 1 runs everything in one.", ge=1, le=256)] = 1
    trusted_proxies: Annotated[
        tuple[Network, ...], says("Peers whose X-Forwarded-For and end-user headers are believed.")
    ] = ()
    drain_seconds: Annotated[float, says("How long running streams may go on after SIGTERM.", ge=0, le=3600)] = 30.0
    max_body_bytes: Annotated[int, says("Largest request body, in bytes.", ge=1024, le=1 << 30)] = 8 * 1024 * 1024
    max_response_bytes: Annotated[
        int, says("Largest upstream answer that is not streamed, in bytes.", ge=1024, le=1 << 30)
    ] = 32 * 1024 * 1024
    body_timeout: Annotated[Seconds, says("Longest time that a request body may take, in seconds.")] = 30.0

    def __post_init__(self) -> None:
        if "<listen>" in self.public_url:
            msgspec.structs.force_setattr(self, "public_url", self.public_url.replace("<listen>", self.listen))

    @property
    def address(self) -> Address:
        return parse_address(self.listen)

    @property
    def admin_address(self) -> Address:
        return parse_address(self.admin_listen)


class Upstream(Section, frozen=True):
    """`[upstream]`: the generation endpoint that is guarded."""

    url: Annotated[Url, says("The endpoint to guard, with or without /v1; empty: the built-in demo.")] = ""
    connect_timeout: Annotated[Seconds, says("Longest wait for a connection, in seconds.")] = 10.0
    read_timeout: Annotated[Seconds, says("Longest pause between two reads of an answer, in seconds.")] = 600.0
    connections: Annotated[int, says("Most connections to the upstream, for each worker.", ge=1, le=100_000)] = 512

    @property
    def root(self) -> str:
        """The URL before `/v1`, without a slash at its end."""
        return root_of(self.url)


class Route(Section, frozen=True):
    """`[[upstreams]]`: another endpoint, chosen by path or by model; the first that fits is taken."""

    id: Annotated[Id, says("Its name in logs and in GUARDRAIL_UPSTREAM_API_KEY__<ID>.")]
    url: Annotated[Url, says("Its URL, with or without /v1."), Meta(min_length=1)]
    paths: Annotated[tuple[UrlPath, ...], says("Request paths that go there; * stands for any ending.")] = ()
    models: Annotated[tuple[str, ...], says("Models (the body's `model`) that go there; * stands for any ending.")] = ()

    @property
    def root(self) -> str:
        """The URL before `/v1`, without a slash at its end."""
        return root_of(self.url)


class Surface(Section, frozen=True):
    """`[[surfaces]]`: an API of the app's own, by where its texts stand. `ignore` counts for requests and answers."""

    id: Annotated[Id, says("Its name in metrics, in records and for `applies_to` of policies.")]
    path: Annotated[str, says("Its path, as it is asked for."), expects("a path without *", pattern=r"^/[^ *?#]*\Z")]
    prompt: Annotated[
        tuple[JsonPath, ...], says("Where a request has what its user wrote; one must be there."), Meta(min_length=1)
    ]
    context: Annotated[
        tuple[JsonPath, ...], says("Where it has earlier turns and the operator's words: screened, never a strike.")
    ] = ()
    answer: Annotated[tuple[JsonPath, ...], says("Where a JSON answer has the model's text.")] = ()
    stream: Annotated[
        Literal["none", "sse", "jsonl"], says("How answers are streamed: server-sent events, JSON lines, not at all.")
    ] = "none"
    stream_if: Annotated[
        OneJsonPath, says("Where a request says that it wants a stream; empty: it always gets one, if there is one.")
    ] = ""
    delta: Annotated[
        tuple[OneJsonPath, ...], says("Where an event has the next piece of the answer; of further texts, theirs.")
    ] = ()
    finish: Annotated[OneJsonPath, says("Where an event says (neither false, null nor empty) that it is the end.")] = ""
    terminator: Annotated[str, says("What follows the last event as data of its own, such as [DONE]; for sse.")] = ""
    ignore: Annotated[
        tuple[JsonPath, ...], says("What is not screened, nor anything below it; all other texts are.")
    ] = ()
    end_user: Annotated[OneJsonPath, says('Where it names its end user; believed with identity.end_user = "body".')] = (
        ""
    )
    error: Annotated[ErrorBody, says("The body of refusals and errors; empty: OpenAI's shape.")] = ""
    closing: Annotated[
        ClosingBody, says("The last event of a stream that was stopped; empty: `content_filter` at `finish`.")
    ] = ""
    member: Annotated[bool, says("Whether answers carry the `guardrail` object.")] = True

    def layout(self) -> Layout:
        """The same as its dialect reads it."""
        return Layout(
            surface=self.id,
            path=self.path,
            prompt=_paths(self.prompt),
            context=_paths(self.context),
            answer=_paths(self.answer),
            ignore=_paths(self.ignore),
            stream=self.stream,
            stream_if=_path(self.stream_if),
            delta=_paths(self.delta),
            finish=_path(self.finish),
            terminator=self.terminator,
            end_user=_path(self.end_user),
            error=template.parse(self.error, template.NOTICE) if self.error else None,
            closing=template.parse(self.closing, template.CLOSING) if self.closing else None,
            member=self.member,
        )

    def misfit(self) -> str:
        """What of it contradicts the rest, as `key: ...; expected ...`; empty if nothing does."""
        streamed = ("delta", "finish", "terminator", "stream_if", "closing")
        given = next((key for key in streamed if getattr(self, key)), "")
        if self.stream == "none" and given:
            return f'{given}: it is set and stream is "none"; expected stream = "sse" or "jsonl"'
        if self.stream == "none" and not self.answer:
            return "answer: no path; expected where an answer has the model's text"
        if self.stream != "none" and not self.delta:
            return "delta: no path; expected where an event has the next piece of the answer"
        if self.stream_if and not self.answer:
            return "answer: no path and stream_if is set; expected where an answer that is no stream has its text"
        if self.terminator and self.stream != "sse":
            return 'terminator: it is set; expected only with stream = "sse", since lines are JSON'
        if self.path.startswith("/guardrail/"):
            return f"path: got {self.path}; expected one that is not below /guardrail, where our own pages are"
        return ""


def _path(text: str) -> jsonpath.JSONPath | None:
    return jsonpath.parse(text) if text else None


def _paths(texts: tuple[str, ...]) -> tuple[jsonpath.JSONPath, ...]:
    return tuple(jsonpath.parse(text) for text in texts)


class Identity(Section, frozen=True):
    """`[identity]`: who a request is counted against."""

    end_user: Annotated[
        Literal["header", "body", "none"],
        says("Where the end user's id is read: a trusted header, the body's `user` or `safety_identifier`, nowhere."),
    ] = "header"
    header: Annotated[HeaderName, says("The header with the end user's id.")] = "x-end-user-id"
    signature_header: Annotated[
        HeaderName,
        says(
            "The header with the hex HMAC-SHA256 of that id; believed from any peer, given GUARDRAIL_IDENTITY_SECRET."
        ),
    ] = "x-end-user-signature"


class Exemption(Section, frozen=True):
    """`[[tenants.exceptions]]`: a rule that does not apply to a tenant for a while."""

    rule: Annotated[str, says("The rule's full id."), Meta(min_length=1)]
    until: Annotated[date, says("The last day on which it does not apply (UTC).")]
    because: Annotated[str, says("Why, for whoever reviews it."), Meta(min_length=1)]


class Tenant(Section, frozen=True):
    """`[[tenants]]`: a customer of the operator, known by the keys it calls with."""

    id: Annotated[Id, says("Its name in records.")]
    key_hashes: Annotated[tuple[KeyHash, ...], says("SHA-256 of each of its keys, in hex.")] = ()
    policies: Annotated[tuple[str, ...], says("Policies that apply to it; empty: all of the profile.")] = ()
    shared_key: Annotated[bool, says("Whether many people use one key: such a key is limited, never suspended.")] = (
        False
    )
    audience: Annotated[Literal["public", "internal", "rnd"], says("Whom its service is offered to.")] = "public"
    thresholds: Annotated[Mapping[str, Score], says("Another threshold for a rule, by the rule's full id.")] = (
        msgspec.field(default_factory=dict)
    )
    exceptions: Annotated[tuple[Exemption, ...], says("Rules that do not apply to it until a date.")] = ()

    def terms(self) -> TenantTerms:
        """The part of this that policies need."""
        return TenantTerms(
            frozenset(self.policies), dict(self.thresholds), {item.rule: item.until for item in self.exceptions}
        )


class Policies(Section, frozen=True):
    """`[policies]`: where rules come from."""

    directories: Annotated[
        tuple[Path, ...], says("More folders with policies, beside those that come with the package.")
    ] = ()


class ClassifierSettings(Section, frozen=True):
    """`[classifier]`: the model that scores texts."""

    enabled: Annotated[bool, says("Whether the classifier runs.")] = True
    model: Annotated[str, says("The id of a model that comes with the package, or a folder."), Meta(min_length=1)] = (
        "guard-zh-en"
    )
    labels: Annotated[
        Mapping[str, str],
        says("For a Hugging Face folder without model.toml, or tei: the category of each label; empty: not used."),
    ] = msgspec.field(default_factory=dict)
    threshold: Annotated[Score, says("For such a model, and for openai: the least score of a label that counts.")] = 0.5
    device: Annotated[
        str,
        says("Where it runs; auto takes a GPU if there is one."),
        expects('"auto", "cpu", "cuda" or "cuda:N"', pattern=r"^(auto|cpu|cuda(:\d+)?)\Z"),
    ] = "auto"
    runtime: Annotated[
        Literal["auto", "torch", "onnx"],
        says("On a CPU: torch (weights as they are), onnx (int8, made at the first start), or the quicker of the two."),
    ] = "auto"
    onnx_dir: Annotated[
        str, says("Where the int8 form is kept; empty: guardrail in the user's cache folder (XDG_CACHE_HOME).")
    ] = ""
    threads: Annotated[
        int, says("CPU threads; 0: cores less workers, so that proxies have theirs; 1 at least.", ge=0, le=1024)
    ] = 0
    batch_tokens: Annotated[int, says("Most tokens in one batch, padding included.", ge=128, le=1 << 20)] = 8192
    queue: Annotated[int, says("Most texts that may wait; more are refused at once.", ge=1, le=1 << 20)] = 1024
    deadline: Annotated[Seconds, says("Longest wait for a score, in seconds.")] = 10.0
    cache: Annotated[
        int, says("Texts whose scores are remembered (as keyed hashes, never the text); 0: none.", ge=0, le=1 << 20)
    ] = 4096
    url: Annotated[Url, says("A classifier on another machine; empty: in this process.")] = ""
    engine: Annotated[
        Literal["guardrail", "tei", "openai"],
        says(
            "What scores: our engine (here or at `url`), a TEI server, a guard model behind an OpenAI-compatible API."
        ),
    ] = "guardrail"
    activation: Annotated[
        Literal["server", "sigmoid", "softmax"],
        says(
            "For tei: who makes probabilities of scores; sigmoid where labels may hold together: TEI takes a softmax."
        ),
    ] = "server"
    template: Annotated[
        Literal[
            "",
            "qwen3guard",
            "llama-guard-3",
            "llama-guard-4",
            "granite-guardian-3",
            "granite-guardian-3.3",
            "granite-guardian-4",
        ],
        says("For openai: which guard model `model` is, and so how it is asked and what it answers."),
    ] = ""
    endpoint: Annotated[
        Literal["chat", "completions"],
        says(
            "For openai: chat uses the model's own prompt; completions one of ours, for a verdict in one forward pass."
        ),
    ] = "chat"
    categories: Annotated[
        bool, says("For openai: whether the model may go on to name the categories of what it finds unsafe.")
    ] = True
    controversial: Annotated[
        Literal["unsafe", "safe"], says("For openai with qwen3guard: which side its middle verdict is on.")
    ] = "unsafe"
    risks: Annotated[
        tuple[
            Literal[
                "harm",
                "social_bias",
                "profanity",
                "sexual_content",
                "unethical_behavior",
                "violence",
                "jailbreak",
            ],
            ...,
        ],
        says("For openai with granite-guardian-*: what it is asked about; each is a request of its own."),
        Meta(min_length=1),
    ] = ("harm",)
    window: Annotated[
        int,
        says(
            "For tei and openai: most characters sent at once, longer texts go by windows; 0: 480, openai 16000.",
            ge=0,
            le=1 << 20,
        ),
    ] = 0


class Switch(Section, frozen=True):
    """`[keywords]` and `[pii]`: a detector that is on or off."""

    enabled: Annotated[bool, says("Whether the detector runs.")] = True


class Labels(Section, frozen=True):
    """`[labels]`: how a model's answer is marked as such."""

    headers: Annotated[bool, says("Whether answers carry AI-Generated and AIGC headers.")] = True
    affix: Annotated[
        Literal["none", "start", "end"], says("Where the visible mark goes in a text answer (cn_* profiles: end).")
    ] = "none"
    client_renders_label: Annotated[
        bool, says("Whether the client shows the mark itself where it cannot be put: JSON, tools, code.")
    ] = False


class Provider(Section, frozen=True):
    """`[provider]`: who answers for the service; required by cn_* profiles."""

    name: Annotated[str, says("The provider's name, as the public may read it.")] = ""
    code: Annotated[
        str,
        says("The provider's code in AIGC labels (GB 45438-2025 Annex E)."),
        expects("27 characters 0-9 and A-Z, or empty", pattern=r"^([0-9A-Z]{27})?\Z"),
    ] = ""
    rules_url: Annotated[Url, says("The provider's own rules; empty: /guardrail/rules.")] = ""


class Sanctions(Section, frozen=True):
    """`[sanctions]`: the ladder. A row is of strikes with no allowed request between; a day is the last 24 hours."""

    enabled: Annotated[bool, says("Whether strikes lead to sanctions.")] = True
    warn_day: Annotated[Count, says("Strikes in a day that warn.")] = 1
    warn_seconds: Annotated[Span, says("How long a warning stands, in seconds.")] = 86400.0
    limit_row: Annotated[Count, says("Strikes in a row that limit.")] = 2
    limit_day: Annotated[Count, says("Strikes in a day that limit.")] = 3
    limit_seconds: Annotated[Span, says("How long a limit lasts, in seconds.")] = 86400.0
    limit_interval: Annotated[Span, says("Seconds between two requests of a limited subject.")] = 10.0
    suspend_row: Annotated[Count, says("Strikes in a row that suspend.")] = 3
    suspend_day: Annotated[Count, says("Strikes in a day that suspend.")] = 5
    suspend_seconds: Annotated[
        tuple[Span, ...],
        says("How long the first, second, third ... suspension lasts, in seconds; the last is for all that follow."),
        Meta(min_length=1),
    ] = (86400.0, 259200.0, 604800.0)
    terminate_suspensions: Annotated[Count, says("The suspension within terminate_days that closes the account.")] = 3
    terminate_days: Annotated[int, says("Days for which a suspension counts.", ge=1, le=3660)] = 90
    terminate_by_person: Annotated[bool, says("Whether only a person may close an account.")] = False
    day_offset: Annotated[
        Annotated[int, Meta(ge=-50400, le=50400)] | None,
        says("Count calendar days of the zone so many seconds east of UTC instead; unset: the last 24 hours."),
    ] = None

    def ladder(self) -> Ladder:
        """The same as the core counts with."""
        numbers = {name: getattr(self, name) for name in self.__struct_fields__ if name != "enabled"}
        return Ladder(**numbers)


class Stream(Section, frozen=True):
    """`[stream]`: how a streamed answer is held."""

    keepalive_seconds: Annotated[
        Seconds, says("How often a comment keeps the connection alive while text is held, in seconds.")
    ] = 10.0


class Media(Section, frozen=True):
    """`[media]`: answers that no detector can read."""

    generated_images: Annotated[
        Literal["refuse", "pass"],
        says("Whether pictures may be asked for: they pass unscreened, their prompts do not."),
    ] = "refuse"
    generated_audio: Annotated[
        Literal["refuse", "pass"], says("Whether speech may be asked for: sound passes unscreened, its text does not.")
    ] = "refuse"

    @property
    def unscreened(self) -> frozenset[str]:
        """The media that pass."""
        chosen = {"image": self.generated_images, "audio": self.generated_audio}
        return frozenset(medium for medium, choice in chosen.items() if choice == "pass")


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """What only the environment (or a file that it names) may hold. Shown nowhere."""

    upstream_api_key: str | None = None
    upstream_api_keys: Mapping[str, str] = msgspec.field(default_factory=dict)
    admin_token: str | None = None
    identity_secret: str | None = None
    classifier_api_key: str | None = None

    def __repr__(self) -> str:
        held = [name for name in self.__struct_fields__ if getattr(self, name)]
        return f"Secrets(holds {', '.join(held) or 'none'})"

    def key_for(self, route: str | None = None) -> str | None:
        """The key to call an upstream with: its own, or else the general one."""
        return self.upstream_api_keys.get(route or "", self.upstream_api_key)
