"""The Slurm job that this process belongs to."""

import os
import subprocess

TIMEOUT = 60  # seconds for an answer of Slurm's controller


def job_id() -> str:
    """Return the ID of the job: 123, or 123_4 for a task of a job array; empty outside of Slurm.

    One task of an array has the ID of the whole array in `SLURM_JOB_ID`: requeueing that would restart all tasks.
    """
    if task := os.environ.get("SLURM_ARRAY_TASK_ID"):
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{task}"
    return os.environ.get("SLURM_JOB_ID", "")


def requeue(job: str) -> str:
    """Put a job back into the queue, to be restarted with the same ID; return why that failed, else nothing."""
    try:
        _run("scontrol", "requeue", job)
    except subprocess.CalledProcessError as error:
        return str(error.stderr.strip() or error)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return ""


def is_queued(job: str) -> bool:
    """Return whether a job of this user is waiting or running; True if Slurm does not answer."""
    try:
        listed = _run("squeue", "--me", "--array", "--noheader", "--format=%i")
    except FileNotFoundError:
        return bool(job_id())  # outside of a cluster, no job can be queued
    except (OSError, subprocess.SubprocessError):
        return True
    return job in listed.split()


def _run(*command: str) -> str:
    """Run a command of Slurm and return its output."""
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT).stdout
