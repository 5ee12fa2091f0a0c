"""The machine a measurement ran on, and what the processes under test took of it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from ray_whisper_streaming.bench.text_errors import extra

__all__ = ["MemoryPeak", "describe_machine", "resident_mb", "write_report"]

PACKAGES = (
    "ray-whisper-streaming", "ctranslate2", "faster-whisper", "jiwer", "numpy", "onnxruntime", "opencc", "ray", "torch",
    "whisper-normalizer",
)  # fmt: skip
"""Packages whose versions may explain a figure."""

SAMPLE_PAUSE_S = 0.5
"""Between two looks at the memory. Walking the process tree costs milliseconds; buffers live for seconds."""

MEGABYTE = 2**20


def describe_machine() -> dict[str, Any]:
    """Processor, GPU, memory, versions, load by others, and the command line: what a figure is worth nothing
    without.
    """
    versions: dict[str, str] = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(extra("psutil").virtual_memory().total / 2**30, 1),
        "gpus": _gpus(),
        "load_average_before": [round(value, 2) for value in os.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "command_line": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def write_report(path: Path, results: Any, **about: Any) -> None:
    """Write what a program measured as JSON, with the machine it belongs to and what else is to be said of it."""
    report = {"machine": describe_machine(), **about, "results": results}
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def resident_mb() -> float:
    """Resident memory of this process and all processes under it, in MB. Pages that they share count for
    each.
    """
    psutil = extra("psutil")
    me = psutil.Process()
    total = 0
    for process in [me, *me.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):  # it may have ended in between
            total += process.memory_info().rss
    return total / MEGABYTE


class MemoryPeak:
    """Watches `resident_mb` while its block runs; ``peak_mb`` is the most it saw."""

    def __init__(self) -> None:
        self.peak_mb = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-peak", daemon=True)

    def __enter__(self) -> MemoryPeak:
        self.peak_mb = resident_mb()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_PAUSE_S):
            self.peak_mb = max(self.peak_mb, resident_mb())


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    query = [command, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30)
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else []
