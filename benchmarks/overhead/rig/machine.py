"""What the kernel knows of a process and of this machine: CPU time, memory, load. Linux only, read from /proc."""

from __future__ import annotations

import os
import platform
import socket
import time
from pathlib import Path

PROC = Path("/proc")


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def tree(pid: int) -> list[int]:
    """`pid` and all its descendants that live."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                # The name of the process, in brackets, may hold anything: the fields are counted after it.
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo.extend(children.get(found[-1], ()))
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time that `pid` and its living descendants have used, in seconds, to the nanosecond.

    The clock of a process (clock_getcpuclockid(3)) has its ended threads in it, and is far finer than the 10 ms ticks
    of /proc/PID/stat.
    """
    total = 0
    for member in tree(pid):
        try:
            total += time.clock_gettime_ns((~member << 3) | 2)
        except OSError:
            continue
    return total / 1e9


def resident_mb(pid: int) -> float:
    """Resident memory of `pid` and its descendants, in MB (10^6 bytes)."""
    total = 0
    for member in tree(pid):
        try:
            status = (PROC / str(member) / "status").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    return total * 1024 / 1e6


def has_mapped(pid: int, part: str) -> bool:
    """Whether `pid` or a descendant has loaded a file (a compiled module) with `part` in its path."""
    for member in tree(pid):
        try:
            if part in (PROC / str(member) / "maps").read_text():
                return True
        except OSError:
            continue
    return False


def load_average() -> float:
    """The load average of the last minute."""
    return os.getloadavg()[0]


def describe() -> dict[str, str | int]:
    """The machine in words, for the report."""
    model = ""
    for line in (PROC / "cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": model or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
