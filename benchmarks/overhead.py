"""What guardrail costs, beside no proxy, nginx, a bare pass-through, LiteLLM and NeMo Guardrails, in one run.

    python benchmarks/overhead.py [--rounds 5] [--peers litellm,nemo] [--json FILE] [--gate]

Everything runs on 127.0.0.1 of this machine, against a mock upstream. `benchmarks/README.md` says what is measured.
Exit codes: 0 done, 1 a goal was missed and `--gate` was given, 2 bad usage or a tool is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "overhead"))

from rich.console import Console
from rig import build, load, machine, report, streams, targets
from rig.goals import GOALS
from rig.load import SUITES
from rig.results import Memory, Results

PII_PROMPT = "My account is GB82 WEST 1234 5698 7654 32 and my US social security number is 536-90-4399."


def main() -> int:
    options = _options()
    console = Console(width=None if sys.stdout.isatty() else 190, highlight=False)
    try:
        build.require_tools()
        with ExitStack() as stack:
            work = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="overhead-")))
            work.mkdir(parents=True, exist_ok=True)
            return _run(options, console, work, stack)
    except build.Missing as missing:
        print(missing, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What guardrail costs, beside other gateways, in one run.")
    parser.add_argument("--rounds", type=int, default=5, help="how often every target is measured (default 5)")
    parser.add_argument("--peers", default="litellm,nemo", help="peers to install and compare: litellm,nemo or none")
    parser.add_argument("--without", default="", help="targets to leave out, by name")
    parser.add_argument("--suites", default=",".join(suite.name for suite in SUITES), help="which loads (default all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there, between its marks")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work there, and leave configurations and logs there")
    parser.add_argument("--gate", action="store_true", help="exit with 1 when a goal is missed")
    options = parser.parse_args()
    options.keep = options.keep.resolve() if options.keep else None
    options.peers = [name for name in options.peers.split(",") if name and name != "none"]
    options.suites = options.suites.split(",")
    options.without = options.without.split(",")
    for name in options.peers:
        if name not in build.PEERS:
            parser.error(f"--peers: {name!r} is not one of {', '.join(build.PEERS)}, none")
    known = [suite.name for suite in SUITES]
    for name in options.suites:
        if name not in known:
            parser.error(f"--suites: {name!r} is not one of {', '.join(known)}")
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    return options


def _run(options: argparse.Namespace, console: Console, work: Path, stack: ExitStack) -> int:
    results, loads = Results(), [machine.load_average()]
    upstream = machine.free_port()
    chosen = [targets.direct(upstream), targets.nginx(work, upstream), targets.pass_through(work, upstream)]
    chosen.append(targets.guardrail(work, upstream))
    if "nemo" in options.peers:
        chosen.append(targets.nemo(work, upstream))
    if "litellm" in options.peers:
        chosen += [targets.litellm(work, upstream, screens=screens) for screens in (False, True)]
    chosen = [target for target in chosen if target.name not in options.without]
    servers = _start(chosen, results, console, work, stack)
    _measure(options, servers, results, console, work)
    if "guardrail" in servers:
        results.memory = _memory(servers["guardrail"], results)
    loads.append(machine.load_average())
    missed = report.show(console, results, chosen, options.rounds, (loads[0], loads[-1]))
    if options.markdown:
        report.put(options.markdown, report.markdown(results, chosen, options.rounds, (loads[0], loads[-1])))
    if options.json:
        _write(options.json, results, options.rounds)
    return 1 if missed and options.gate else 0


def _start(
    chosen: list[targets.Target], results: Results, console: Console, work: Path, stack: ExitStack
) -> dict[str, targets.Server]:
    """Start all targets, the upstream first. One that does not start is noted and left out."""
    servers = {}
    for target in chosen:
        server = targets.Server(target, work / f"{target.name}.log")
        console.print(f"starting {target.name} ...", style="dim")
        stack.callback(server.stop)
        try:
            server.start()
        except (RuntimeError, OSError) as error:
            results.absent[target.name] = str(error)
            continue
        time.sleep(0.5)
        servers[target.name] = server
        results.cold_seconds[target.name] = round(server.cold_seconds, 2)
        results.idle_mb[target.name] = round(machine.resident_mb(server.pid), 1)
        if target.package:
            results.versions[target.package] = build.version(target.python, target.package)
    return servers


def _measure(
    options: argparse.Namespace, servers: dict[str, targets.Server], results: Results, console: Console, work: Path
) -> None:
    """Every suite, round by round, the targets one after the other; every second round in the other order."""
    for suite in SUITES:
        if suite.name not in options.suites:
            continue
        for number in range(options.rounds):
            console.print(f"{suite.name}, round {number + 1} of {options.rounds} ...", style="dim")
            for server in list(servers.values())[:: -1 if number % 2 else 1]:
                sample = load.measure(suite, server.target.port, targets.PATH, server.pid, work)
                results.add(suite.name, server.target.name, sample)
    for name, server in servers.items():
        console.print(f"streams one by one, {name} ...", style="dim")
        results.streams[name] = streams.report(server.target.port, targets.PATH, min(options.rounds, 3))


def _memory(server: targets.Server, results: Results) -> Memory:
    """Resident memory of guardrail now, and after the first text that its PII detector hands to presidio."""
    loaded = machine.resident_mb(server.pid)
    prompt = load.body("mock", stream=False, prompt=PII_PROMPT)
    load.post(server.target.port, targets.PATH, prompt, timeout=180).read()
    time.sleep(2)
    return Memory(
        idle_mb=results.idle_mb["guardrail"],
        loaded_mb=round(loaded, 1),
        presidio_mb=round(machine.resident_mb(server.pid), 1),
        presidio_loaded=machine.has_mapped(server.pid, "/spacy/"),
    )


def _write(path: Path, results: Results, rounds: int) -> None:
    judged = [(goal, *goal.judge(results)) for goal in GOALS]
    whole = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "rounds": rounds,
        "goals": [
            {"goal": goal.says, "limit": goal.limit, "measured": value, "outcome": outcome}
            for goal, value, outcome in judged
        ],
        **results.as_json(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
