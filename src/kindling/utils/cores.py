"""Shares of the cores of a machine."""

import os


def share_of_cores(processes: int) -> int:
    """Return how many cores each process of a run on this machine gets, at least 1.

    Args:
        processes: Number of processes of the run on this machine.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    is_bound = cores <= int(os.environ.get("SLURM_CPUS_PER_TASK", 0))  # srun gives each process cores of its own
    return cores if is_bound else max(1, cores // processes)
