"""Start NeMo Guardrails' own server on the loopback address: its command listens on every address and has no option."""

import uvicorn

_run = uvicorn.run


def run_on_loopback(*args, **options):  # type: ignore[no-untyped-def]
    return _run(*args, **{**options, "host": "127.0.0.1"})


uvicorn.run = run_on_loopback

from nemoguardrails.cli import app  # noqa: E402  (it takes uvicorn.run when it is imported)

app()
