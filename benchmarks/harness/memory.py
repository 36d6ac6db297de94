"""Memory of this process as Linux reports it."""

from __future__ import annotations

from pathlib import Path


def resident_mb(field: str) -> float:
    """`VmRSS` (now) or `VmHWM` (peak) of this process; `getrusage` would count the process that started it, too."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"this system has no {field}: the benchmark runs on Linux")


def restart_peak() -> float:
    """MB resident now; from here the peak starts again, whatever was held and given back before."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident_mb("VmRSS")
