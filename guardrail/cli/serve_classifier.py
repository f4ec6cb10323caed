"""`guardrail serve-classifier`: run the classifier alone, for proxies on other machines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer


def serve_classifier(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Settings file [default: guardrail.toml, if there is one].")
    ] = None,
    listen: Annotated[str, typer.Option(help="Where it listens.")] = "127.0.0.1:8090",
    model: Annotated[
        str | None, typer.Option(help="The id of a model that comes with the package, or a folder.", show_default=False)
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N [default: auto].")] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Serve the classifier of the settings to proxies that name this address in `[classifier] url`.

    It answers POST /predict and GET /health as text-embeddings-inference words them, and asks nobody who they are: keep
    it on a network of your own. Stops on SIGTERM or Ctrl+C. Ray Serve does the same on many machines (docs/models.md).
    """
    if log_level not in ("debug", "info", "warning", "error"):
        raise typer.BadParameter(f"got {log_level!r}; expected debug, info, warning or error", param_hint="--log-level")
    from guardrail.sections import parse_address

    try:
        address = parse_address(listen)
    except ValueError:
        raise typer.BadParameter(f"got {listen!r}; expected host:port", param_hint="--listen") from None

    import uvloop

    from guardrail.errors import SettingsError
    from guardrail.server import start_logging
    from guardrail.settings import Settings

    start_logging(log_level)
    settings = Settings.load(config, overrides={"classifier.model": model, "classifier.device": device})
    chosen = settings.classifier
    if chosen.url or chosen.engine != "guardrail":
        raise SettingsError(
            f'classifier.url: got "{chosen.url}" with engine {chosen.engine}; expected none, as what is served here '
            "runs here"
        )
    uvloop.run(_serve(settings, address))


async def _serve(settings: Any, address: Any) -> None:
    from guardrail.app import load_engine
    from guardrail.inference.server import classifier_app
    from guardrail.metrics import Metrics
    from guardrail.server import Listener, bind, run

    socket = bind(address)
    engine, card = load_engine(settings, Metrics())

    def announce() -> None:
        print(f"guardrail: classifier {card.id} at http://{address}", file=sys.stderr, flush=True)

    await run([Listener(classifier_app(engine), socket, lifespan=True)], on_ready=announce)
