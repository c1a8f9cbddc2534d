"""What memory there is, and what a process has taken of it."""

from __future__ import annotations

from pathlib import Path

MIB = 1 << 20
GIB = 1 << 30


class Skipped(Exception):
    """Why a row cannot be run on this machine."""


def status_bytes(field):
    """A size from /proc/self/status, such as VmSize or VmRSS."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def virtual_bytes():
    """Address space of this process."""
    return status_bytes("VmSize")


def available_bytes():
    """Memory that can be had without swapping, control groups considered."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            found.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return min(found)


def lack_of_memory(wanted):
    """Why `wanted` bytes, and a reserve, cannot be had; empty where they can."""
    available = available_bytes()
    if wanted + GIB // 2 <= available:
        return ""
    return f"needs {wanted / GIB:.1f} GiB of memory and a reserve of 0.5, {available / GIB:.1f} are available"
