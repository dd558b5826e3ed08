"""The process that trains a run, and whether it is still alive."""

import os
import platform
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from kindling.utils import slurm

HEARTBEAT_TIMEOUT = 180  # seconds after which a run on another host counts as dead; it writes run.json every 30


def process_info(run: Path) -> dict[str, Any]:
    """Return this process and its run folder, for `is_alive` and `is_copy`."""
    began = psutil.Process().create_time()
    return {
        "host": platform.node(),
        "pid": os.getpid(),
        "began": round(began, 2),
        "after_boot": round(began - psutil.boot_time(), 2),
        "folder": [str(run.resolve()), run.stat().st_ino],
        **current_job(),
    }


def current_job() -> dict[str, Any]:
    """Return the job of this process, and how often Slurm and torchrun have restarted it; empty outside of a job."""
    elastic = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    name = f"slurm {slurm.job_id()}" if slurm.job_id() else f"torchrun {elastic}" if elastic != "none" else ""
    counts = (os.environ.get(f"{launcher}_RESTART_COUNT", "0") for launcher in ("SLURM", "TORCHELASTIC"))
    return {"job": name, "restarts": [*map(int, counts)]} if name else {}


def is_alive(process: dict[str, Any], heartbeat: str) -> bool:
    """Return whether a process is running; on another host, whether it wrote its last heartbeat a short time ago.

    A job that was restarted has ended its earlier processes, on any host.
    """
    job = current_job()
    with suppress(TypeError):
        if job and process.get("job") == job["job"] and process.get("restarts", []) < job["restarts"]:
            return False
    if is_elsewhere(process):
        return abs(heartbeat_age(heartbeat)) < HEARTBEAT_TIMEOUT
    with suppress(psutil.Error, KeyError, TypeError, ValueError):
        # The pid may have been reused. Setting the clock shifts the boot time as well.
        began = psutil.Process(process["pid"]).create_time()
        after_boot = began - psutil.boot_time()
        return bool(abs(began - process["began"]) < 5 or abs(after_boot - process.get("after_boot", -1.0)) < 0.1)
    return False


def heartbeat_age(heartbeat: str) -> float:
    """Return the seconds since a heartbeat: negative if the clocks differ, infinite if it is missing."""
    return (datetime.now(UTC) - datetime.fromisoformat(heartbeat)).total_seconds() if heartbeat else float("inf")


def is_elsewhere(process: dict[str, Any]) -> bool:
    """Return whether a process runs on another host."""
    return process.get("host") != platform.node()


def is_copy(process: dict[str, Any], run: Path) -> bool:
    """Return whether a run folder is a copy of the one in which a process trains; that one may have been moved."""
    match process.get("folder"):
        case [str(path), int(inode)]:
            return str(run.resolve()) != path and run.stat().st_ino != inode
    return False
