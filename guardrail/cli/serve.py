"""`guardrail serve`: run the proxy."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer


def serve(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Settings file [default: guardrail.toml, if there is one].")
    ] = None,
    upstream: Annotated[
        str | None, typer.Option(help="Endpoint to guard, with or without /v1 [default: a built-in demo].")
    ] = None,
    listen: Annotated[str | None, typer.Option(help="Public listener [default: 127.0.0.1:8080].")] = None,
    admin_listen: Annotated[str | None, typer.Option(help="Operators' listener [default: 127.0.0.1:8081].")] = None,
    profile: Annotated[
        str | None, typer.Option(help="neutral, eu_2026, cn_2026 or cn_draft_2023 [default: neutral].")
    ] = None,
    state_dir: Annotated[Path | None, typer.Option(help="Where records and keys are kept [default: ./state].")] = None,
    workers: Annotated[int | None, typer.Option(help="Proxy processes [default: 1].")] = None,
    observe: Annotated[
        bool, typer.Option("--observe", help="Record what every rule would do, and enforce none.")
    ] = False,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Run the proxy: screen prompts and answers on their way to and from an OpenAI-shaped endpoint.

    Options win over GUARDRAIL_* variables, those over the settings file. Stops on SIGTERM or Ctrl+C: readiness falls,
    running streams get 30 seconds.
    """
    overrides: dict[str, Any] = {
        "upstream": upstream,
        "listen": listen,
        "admin_listen": admin_listen,
        "profile": profile,
        "state_dir": str(state_dir) if state_dir else None,
        "server.workers": workers,
        "observe": True if observe else None,
    }
    if log_level not in ("debug", "info", "warning", "error"):
        raise typer.BadParameter(f"got {log_level!r}; expected debug, info, warning or error", param_hint="--log-level")

    import uvloop

    from guardrail.server import start_logging
    from guardrail.settings import Settings

    start_logging(log_level)
    settings = Settings.load(config, overrides=overrides)
    if settings.server.workers > 1:
        from guardrail.workers import Supervisor

        arguments = {"config": str(config) if config else None, "overrides": overrides, "log_level": log_level}
        if not uvloop.run(Supervisor(settings, arguments).run(lambda: _announce(settings))):
            raise typer.Exit(2)
    else:
        uvloop.run(_one_process(settings))


async def _one_process(settings: Any) -> None:
    from guardrail.app import compose, upstream_app
    from guardrail.server import Listener, bind, run

    public, operators = bind(settings.server.address), bind(settings.server.admin_address)
    guard = compose(settings)
    for rule in guard.policies.not_enforced[:1]:
        logging.getLogger("guardrail").warning(
            "%d rules are not enforced: their detector is switched off, or its model has no such label (%s ...)",
            len(guard.policies.not_enforced),
            rule,
        )
    await guard.start()
    drain = settings.server.drain_seconds
    await run(
        [
            Listener(guard.proxy_app(upstream_app(settings)), public, drain=drain, lifespan=True),
            Listener(guard.operators_app(), operators),
        ],
        on_ready=lambda: _announce(settings),
        on_stop=guard.drain,
    )
    await guard.close()


def _announce(settings: Any) -> None:
    server = settings.server
    guarded = settings.upstream.root or "a built-in demo upstream, which is no model (--upstream URL guards a real one)"
    mode = " in observe mode: nothing is enforced" if settings.observe else ""
    print(f"guardrail: guarding {guarded}{mode}", file=sys.stderr)
    print(f"guardrail: public     http://{server.listen}   profile {settings.profile}", file=sys.stderr)
    print(f"guardrail: operators  http://{server.admin_listen}/metrics", file=sys.stderr, flush=True)
