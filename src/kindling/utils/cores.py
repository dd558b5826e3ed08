"""Shares of the cores of a machine."""

import os

JOBS = "KINDLING_JOBS"  # environment variable with the number of commands that share the cores


def share_of_cores(processes: int = 1) -> int:
    """Return how many cores each process of a run on this machine gets, at least 1.

    Args:
        processes: Number of processes of the run on this machine.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    is_bound = cores <= int(os.environ.get("SLURM_CPUS_PER_TASK", 0))  # srun gives each process cores of its own
    return max(1, cores // int(os.environ.get(JOBS, 1)) // (1 if is_bound else processes))
