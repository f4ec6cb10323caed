"""What an operator can set: `guardrail.toml`, mirrored by `GUARDRAIL_SECTION__KEY`, as one frozen type.

Arguments win over the environment, the environment over the file, the file over the profile's defaults. Unknown keys
are errors. Secrets come from the environment, or from files that the environment names, and from nowhere else.
"""

from __future__ import annotations

import difflib
import os
import re
import secrets
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from guardrail.credentials import NAMES, read_secrets, why_refused
from guardrail.errors import SettingsError
from guardrail.layers import Key, Layer, Tree, build, check, keys, merge
from guardrail.policyfile import ProfileDefaults, ProfileFile, decode, one_of, read_toml
from guardrail.policyset import PROFILES, profile_names
from guardrail.resources import policies_dir
from guardrail.sections import (
    PREFIX,
    Address,
    ClassifierSettings,
    Identity,
    Labels,
    Media,
    PathPattern,
    Policies,
    Provider,
    Route,
    Sanctions,
    Secrets,
    Section,
    Server,
    Stream,
    Surface,
    Switch,
    Tenant,
    Upstream,
    says,
)

__all__ = ["ALIASES", "PREFIX", "Address", "Settings", "admin_token", "known_keys"]

DEFAULT_FILE = "guardrail.toml"

ALIASES = {
    "listen": ("server", "listen"),
    "admin_listen": ("server", "admin_listen"),
    "public_url": ("server", "public_url"),
    "upstream": ("upstream", "url"),
}
"""Short forms, as variables (GUARDRAIL_LISTEN) and as arguments (`listen=`); a file writes the section."""

_OTHER_VARIABLES = frozenset({"CONFIG", "TEST_ALL"})
# A Kubernetes service called "guardrail" puts these into every pod beside it: they are not ours.
_SERVICE_LINK = re.compile(r"(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)\Z")
# For what one process of ours tells another.
_INTERNAL = "INTERNAL_"


class Settings(Section, frozen=True):
    """Everything an operator can set, as `Settings.load` reads it.

    Two fields are no settings: `secrets`, which only the environment may hold, and `duties`, what the profile asks.
    """

    profile: Annotated[
        str,
        says("Which rules the service answers to: the name of a file in a folder profiles/ of the policies."),
        Meta(
            pattern=r"^[a-z0-9_-]+\Z", extra={"expected": "neutral, eu_2026, cn_2026, cn_draft_2023 or one of your own"}
        ),
    ] = "neutral"
    observe: Annotated[bool, says("Record what every rule would do, and enforce none.")] = False
    state_dir: Annotated[Path, says("Where records, keys and the admin token are kept.")] = Path("state")
    keys_dir: Annotated[Path, says("Where the keys for hashing, sealing and signing are kept.")] = Path(
        "<state_dir>/keys"
    )
    database_url: Annotated[str, says("The database of records, as SQLAlchemy writes it.")] = (
        "sqlite:///<state_dir>/guardrail.db"
    )
    unknown_surface: Annotated[Literal["refuse", "pass"], says("What happens to a path that no dialect reads.")] = (
        "refuse"
    )
    passthrough: Annotated[tuple[PathPattern, ...], says("Requests that pass unread, and are counted.")] = (
        "GET /v1/models",
        "GET /v1/models/*",
    )
    websockets: Annotated[Literal["refuse", "pass"], says("What happens to a websocket, which is not read.")] = "refuse"
    refusal: Annotated[
        Literal["error", "message"], says("How a blocked prompt is answered: HTTP 400, or an assistant's message.")
    ] = "error"
    on_store_error: Annotated[
        Literal["cached", "block", "allow"],
        says("When the store is away: serve those not known to be sanctioned, nobody, or everybody."),
    ] = "cached"
    server: Server = Server()
    upstream: Upstream = Upstream()
    upstreams: Annotated[tuple[Route, ...], says("More endpoints, chosen by path or model.")] = ()
    surfaces: Annotated[tuple[Surface, ...], says("APIs of the app's own, read by paths.")] = ()
    identity: Identity = Identity()
    tenants: Annotated[tuple[Tenant, ...], says("Customers, known by their keys.")] = ()
    policies: Policies = Policies()
    classifier: ClassifierSettings = ClassifierSettings()
    keywords: Switch = Switch()
    pii: Switch = Switch()
    labels: Labels = Labels()
    provider: Provider = Provider()
    sanctions: Sanctions = Sanctions()
    stream: Stream = Stream()
    media: Media = Media()
    secrets: Annotated[Secrets, Meta(extra={"hidden": True})] = Secrets()
    duties: Annotated[ProfileDefaults, Meta(extra={"hidden": True})] = ProfileDefaults()

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        overrides: Mapping[str, object] | None = None,
    ) -> Settings:
        """Read the settings: `overrides` over `env` (the process's own when none) over the file over the profile.

        The file is `path`, else what GUARDRAIL_CONFIG names, else `guardrail.toml` in the working directory if there
        is one. `overrides` may name a key as a nested table, as `"server.workers"`, as `server__workers`, or by a
        short form (`upstream=`, `listen=`, `admin_listen=`, `public_url=`); one that is None does not count.
        Relative paths in the file start at the file's folder, others at the working directory.
        Raises `SettingsError`, which names file and key.
        """
        env = os.environ if env is None else env
        named = path if path is not None else env.get(PREFIX + "CONFIG") or None
        file = Path(named) if named is not None else Path(DEFAULT_FILE)
        written = _file_layer(file) if named is not None or file.is_file() else {}
        given = merge(merge(written, _environment_layer(env)), _argument_layer(overrides or {}))
        duties = _duties(given)
        whole = merge({"labels": {"affix": duties.affix}}, given)
        settings: Settings = build(whole | {"secrets": read_secrets(env, given), "duties": duties}, cls)
        _require(settings)
        return settings

    def __post_init__(self) -> None:
        state = str(self.state_dir)
        msgspec.structs.force_setattr(self, "keys_dir", Path(str(self.keys_dir).replace("<state_dir>", state)))
        msgspec.structs.force_setattr(
            self, "database_url", self.database_url.replace("<state_dir>", str(self.state_dir.absolute()))
        )

    @property
    def regulated(self) -> bool:
        """Whether the profile makes a named provider answer for what is generated, as the Chinese ones do."""
        return self.duties.requires_provider


def known_keys() -> list[Key]:
    """Every setting there is, in the order in which they are documented."""
    return list(keys(Settings))


def admin_token(settings: Settings) -> str:
    """The operators' token: GUARDRAIL_ADMIN_TOKEN, or the one in `state_dir/admin-token`, made here the first time.

    The file is readable by its owner alone. Raises `SettingsError` when it can be neither read nor made.
    """
    if settings.secrets.admin_token:
        return settings.secrets.admin_token
    file = settings.state_dir / "admin-token"
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        fresh = settings.state_dir / f".admin-token-{os.getpid()}-{secrets.token_hex(4)}"
        if not file.exists():
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as stream:
                stream.write(secrets.token_urlsafe(32) + "\n")
            try:
                os.link(fresh, file)  # fails if another process was quicker: then its token is the one
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        token = file.read_text().strip()
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}; expected a file that can be made and read") from None
    if not token:
        raise SettingsError(f"{file}: it is empty; expected a token, or no file: a new one is made")
    return token


# -- the layers --------------------------------------------------------------------------------------------------


def _file_layer(file: Path) -> Tree:
    try:
        values = tomllib.loads(file.read_bytes().decode())
    except FileNotFoundError:
        raise SettingsError(f"{file}: no such file; expected a settings file in TOML") from None
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}; expected a settings file in TOML") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: {error}; expected a settings file in TOML") from None
    return check(values, Settings, Layer(lambda path: f"{file}: {path}", file.absolute().parent), why_refused)


def _environment_layer(env: Mapping[str, str]) -> Tree:
    by_variable = {key.variable("").split("__[]")[0]: key.path for key in known_keys() if "[]" not in key.dotted}
    by_variable |= {alias.upper(): path for alias, path in ALIASES.items()}
    values: Tree = {}
    spelled: dict[str, str] = {}
    for variable, value in env.items():
        name = variable.removeprefix(PREFIX)
        if name == variable or _not_a_setting(name):
            continue
        path = by_variable.get(name)
        if path is None:
            reason = why_refused(name.lower())
            close = difflib.get_close_matches(name, [*by_variable, *NAMES, "CONFIG"], 1, 0.6)
            closest = f"the closest known one is {PREFIX}{close[0]}" if close else f"expected {PREFIX}SECTION__KEY"
            raise SettingsError(f"environment: {variable}: {reason or f'unknown variable; {closest}'}")
        dotted = ".".join(path)
        if dotted in spelled:
            raise SettingsError(f"environment: {variable}: {spelled[dotted]} says the same; expected one of the two")
        spelled[dotted] = variable
        _put(values, path, value)

    def name_of(path: str) -> str:
        dotted, _, index = path.partition("[")
        return f"environment: {spelled.get(dotted, dotted)}" + (f"[{index}" if index else "")

    return check(values, Settings, Layer(name_of, Path(), textual=True), why_refused)


def _argument_layer(overrides: Mapping[str, object]) -> Tree:
    values: Tree = {}
    for name, value in overrides.items():
        if value is None:
            continue
        path = tuple(name.replace("__", ".").split("."))
        if name in ALIASES and not isinstance(value, Mapping):
            path = ALIASES[name]
        _put(values, path, value)
    return check(values, Settings, Layer(lambda path: f"arguments: {path}", Path()), why_refused)


def _duties(given: Tree) -> ProfileDefaults:
    """What the profile's file says, the defaults that it sets included."""
    folders = [policies_dir(), *given.get("policies", {}).get("directories", ())]
    name = given.get("profile", "neutral")
    for folder in folders:
        file = folder / PROFILES / f"{name}.toml"
        if file.is_file():
            return decode(read_toml(file), ProfileFile, str(file)).defaults
    raise SettingsError(f'profile: got "{name}"; expected {one_of(profile_names(folders))}')


def _put(tree: Tree, path: tuple[str, ...], value: object) -> None:
    for part in path[:-1]:
        below = tree.get(part)
        tree[part] = dict(below) if isinstance(below, Mapping) else {}
        tree = tree[part]
    held = tree.get(path[-1])
    tree[path[-1]] = merge(held, value) if isinstance(held, dict) and isinstance(value, Mapping) else value


def _not_a_setting(name: str) -> bool:
    stem = name.removesuffix("_FILE")
    return (
        name in _OTHER_VARIABLES
        or stem in NAMES
        or stem.startswith("UPSTREAM_API_KEY__")
        or name.startswith(_INTERNAL)
        or _SERVICE_LINK.match(name) is not None
    )


# -- what must hold between keys ---------------------------------------------------------------------------------


def _require(settings: Settings) -> None:
    provider, server = settings.provider, settings.server
    if settings.regulated and not (provider.name and provider.code):
        missing = "provider.code" if provider.name else "provider.name"
        raise SettingsError(
            f"{missing}: it is missing; profile {settings.profile} expects [provider] with name and the 27-character "
            "code, since whoever offers the service answers for what it generates"
        )
    holds_key = settings.secrets.upstream_api_key or settings.secrets.upstream_api_keys
    if holds_key and not settings.tenants and not server.address.loopback:
        raise SettingsError(
            f"server.listen: got {server.listen} with {PREFIX}UPSTREAM_API_KEY set and no [[tenants]]: anybody could "
            "spend that key; expected [[tenants]] with key_hashes, or a loopback address"
        )
    if server.listen == server.admin_listen and server.address.port:
        raise SettingsError(f"server.admin_listen: got {server.listen}, as server.listen; expected another address")
    for index, route in enumerate(settings.upstreams):
        if not (route.paths or route.models):
            raise SettingsError(f"upstreams[{index}]: no paths and no models; expected one of them, to choose it by")
    _once("upstreams[].id", [route.id for route in settings.upstreams])
    for index, surface in enumerate(settings.surfaces):
        if misfit := surface.misfit():
            raise SettingsError(f"surfaces[{index}].{misfit}")
    _once("surfaces[].id", [surface.id for surface in settings.surfaces])
    _once("surfaces[].path", [surface.path.rstrip("/") for surface in settings.surfaces])
    _once("tenants[].id", [tenant.id for tenant in settings.tenants])
    _once("tenants[].key_hashes", [key for tenant in settings.tenants for key in tenant.key_hashes], shown=False)
    classifier = settings.classifier
    if classifier.enabled and classifier.engine != "guardrail" and not classifier.url:
        raise SettingsError(f"classifier.url: it is missing; engine {classifier.engine} expects its server's URL")
    if classifier.enabled and classifier.engine == "openai" and not classifier.template:
        raise SettingsError(
            "classifier.template: it is missing; engine openai expects which guard model answers, such as qwen3guard"
        )
    ladder = settings.sanctions
    if not ladder.warn_day <= ladder.limit_day <= ladder.suspend_day or ladder.limit_row > ladder.suspend_row:
        raise SettingsError(
            "sanctions: a milder step needs more strikes than a harder one; "
            "expected warn_day <= limit_day <= suspend_day and limit_row <= suspend_row"
        )


def _once(key: str, values: list[str], *, shown: bool = True) -> None:
    for value in sorted({value for value in values if values.count(value) > 1}):
        raise SettingsError(f"{key}: got {value if shown else 'one'} twice; expected each once")
