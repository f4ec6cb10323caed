"""What has to be there before anything runs: Debian's tools, our two C programs, a virtual environment for each peer.

Everything made is kept in `benchmarks/.cache` and made once.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
CACHE = HERE.parent / ".cache"

PACKAGES = {"nginx": "nginx-light", "cc": "gcc libc6-dev"}

# LiteLLM 1.107.0 was a compromised release and has been withdrawn; pip takes the newest of the others that it can.
PEERS = {
    "litellm": ("litellm[proxy]>=1.106,!=1.107.*",),
    "nemo": ("nemoguardrails[server]>=0.24", "openai", "langchain-openai"),
}


class Missing(Exception):
    """Something this benchmark needs is not on this machine; the message says what to do."""


def require_tools() -> None:
    """Raise `Missing` with one line that names the command to run when a tool is not installed."""
    if not sys.platform.startswith("linux"):
        raise Missing("this benchmark reads /proc and uses epoll: it runs on Linux only")
    absent = [package for tool, package in PACKAGES.items() if find(tool) is None]
    if absent:
        raise Missing(f"apt-get install -y {' '.join(absent)}   (then, if it started a server: service nginx stop)")


def find(tool: str) -> str | None:
    """Where `tool` is; servers are often outside a user's PATH."""
    return shutil.which(tool) or shutil.which(tool, path="/usr/sbin:/usr/local/sbin:/sbin")


def compiled(name: str) -> Path:
    """The program made of `native/NAME.c`, compiled when it is older than its source."""
    source, program = HERE / "native" / f"{name}.c", CACHE / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        CACHE.mkdir(parents=True, exist_ok=True)
        command = [find("cc") or "cc", "-O2", "-o", str(program), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Missing(f"{source} does not compile here: {done.stderr.strip().splitlines()[0]}")
    return program


def environment(peer: str) -> Path:
    """The virtual environment of `peer`, its packages installed. Raises `Missing` when pip cannot."""
    where = CACHE / "venvs" / peer
    done_file = where / "installed"
    wanted = "\n".join(PEERS[peer])
    if not done_file.exists() or done_file.read_text() != wanted:
        print(f"installing {', '.join(PEERS[peer])} into {where} (once, minutes) ...", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(where)], check=True)
        command = [str(where / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", *PEERS[peer]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Missing(f"pip cannot install {peer}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        done_file.write_text(wanted)
    return where


def version(python: Path | str, package: str) -> str:
    """The version of `package` as `python` sees it, or an empty string."""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip()
