"""The end of a command that a signal has stopped: its exit code, and the requeueing of its Slurm job."""

import signal
import sys
from collections.abc import Sequence

from kindling.cli.command_line import resumes_automatically
from kindling.utils import slurm
from kindling.utils.launch import find_launch
from kindling.utils.stop_signals import TERMINATED, Terminated, end_at_once_on_signals
from kindling.utils.text import program_name


def end_stopped(stop: KeyboardInterrupt, command: str, options: Sequence[str]) -> int:
    """Return the exit code of a command that a signal has stopped; on SIGUSR1, requeue its Slurm job.

    SIGTERM requeues nothing: Slurm sends it to preempted jobs, which it requeues itself, and to canceled ones, which
    would be restarted. Nor does a command that would start over.
    """
    if not isinstance(stop, Terminated):
        return 1
    end_at_once_on_signals()  # such as the SIGTERM that Slurm sends to a requeued job
    if stop.number == signal.SIGTERM or not (job := slurm.job_id()):
        return TERMINATED
    if command != "fit" or not resumes_automatically(options):
        print(f"job {job} is not requeued: only fit --ckpt_path auto would continue", file=sys.stderr)
        return TERMINATED
    if not find_launch().is_first:
        return 0  # Slurm may end all processes when the first one ends with another code, before the job is requeued
    print(f"requeueing job {job}", flush=True)
    if error := slurm.requeue(job):
        print(f"{program_name()}: error: can't requeue job {job}: {error}", file=sys.stderr)
    return TERMINATED
