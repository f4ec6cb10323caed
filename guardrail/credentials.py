"""An operator's secrets: read from the environment or from files that it names, and refused in a settings file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guardrail.errors import SettingsError
from guardrail.sections import PREFIX, Secrets

NAMES = ("UPSTREAM_API_KEY", "ADMIN_TOKEN", "IDENTITY_SECRET", "CLASSIFIER_API_KEY")
"""Variables (after the prefix) that hold a secret; each has a twin with `_FILE` that names a file holding it."""


def why_refused(path: str) -> str:
    """Why a key that would hold a secret is refused, or nothing if it would not."""
    at, _, name = path.rpartition(".")
    if at.startswith("tenants") and re.fullmatch(r"(api_?)?keys?", name):
        return "a tenant's key is kept as its hash alone; expected key_hashes, the SHA-256 of each key in hex"
    if not re.search(r"(api_?key|secret|password|passwd|token)$", name):
        return ""
    variable = "UPSTREAM_API_KEY"
    if "admin" in path:
        variable = "ADMIN_TOKEN"
    elif "classifier" in path:
        variable = "CLASSIFIER_API_KEY"
    elif "identity" in path or "secret" in name:
        variable = "IDENTITY_SECRET"
    return (
        "a secret does not belong in a settings file, which is copied, shown and committed; "
        f"expected it in {PREFIX}{variable}, or in a file that {PREFIX}{variable}_FILE names"
    )


def read_secrets(env: Mapping[str, str], given: Mapping[str, Any]) -> Secrets:
    routes = {route["id"].upper().replace("-", "_"): route["id"] for route in given.get("upstreams", ())}
    own: dict[str, str] = {}
    for variable in env:
        name = variable.removeprefix(f"{PREFIX}UPSTREAM_API_KEY__")
        if name == variable:
            continue
        route = routes.get(name.removesuffix("_FILE"))
        if route is None:
            known = ", ".join(f"{PREFIX}UPSTREAM_API_KEY__{name}" for name in routes) or "an [[upstreams]] with that id"
            raise SettingsError(f"environment: {variable}: no such upstream; expected {known}")
        own[route] = _secret(env, variable.removesuffix("_FILE")) or ""
    identity = _secret(env, PREFIX + "IDENTITY_SECRET")
    if identity is not None and len(identity) < 32:
        raise SettingsError(f"environment: {PREFIX}IDENTITY_SECRET: too short; expected at least 32 characters")
    return Secrets(
        upstream_api_key=_secret(env, PREFIX + "UPSTREAM_API_KEY"),
        upstream_api_keys=own,
        admin_token=_secret(env, PREFIX + "ADMIN_TOKEN"),
        identity_secret=identity,
        classifier_api_key=_secret(env, PREFIX + "CLASSIFIER_API_KEY"),
    )


def _secret(env: Mapping[str, str], variable: str) -> str | None:
    """A secret from its variable or from the file its twin names; empty counts as not given."""
    direct, file = env.get(variable, "").strip(), env.get(f"{variable}_FILE", "")
    if direct and file:
        raise SettingsError(f"environment: {variable}: {variable}_FILE is set too; expected one of the two")
    if file:
        try:
            direct = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise SettingsError(f"environment: {variable}_FILE: {file}: {reason}; expected a text file") from None
        if not direct:
            raise SettingsError(f"environment: {variable}_FILE: {file}: empty; expected the secret")
    if not direct.isascii() or not direct.isprintable():
        raise SettingsError(f"environment: {variable}: got a character that no header can carry; expected ASCII")
    return direct or None
