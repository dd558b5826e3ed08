"""Shares the cores of a machine among the processes of a run."""

import logging
import os

import psutil
import torch

from kindling.utils.cores import JOBS, share_of_cores
from kindling.utils.text import count_noun

logger = logging.getLogger(__name__)


def share_cores(processes: int = 1) -> None:
    """Give each of some processes on this machine its share of the cores.

    Nothing changes if that is all of them, or if the user has set OMP_NUM_THREADS.
    """
    if (processes == 1 and JOBS not in os.environ) or _chosen_by_user():
        return
    threads = share_of_cores(processes)
    torch.set_num_threads(threads)
    if processes > 1:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # of the processes that this one starts
        each = count_noun(threads, "thread", "threads")
        logger.info(f"{each} in each of {processes} processes on this machine (OMP_NUM_THREADS sets another number)")


def _chosen_by_user() -> bool:
    """Return whether OMP_NUM_THREADS is set, and not by torchrun, which sets it to 1."""
    if "OMP_NUM_THREADS" not in os.environ:
        return False
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["OMP_NUM_THREADS"] != "1":
        return True
    try:  # with which torchrun was started
        return "OMP_NUM_THREADS" in psutil.Process(os.getppid()).environ()
    except psutil.Error:
        return True
