"""Processes and data workers that exit when the process that started them has ended."""

import multiprocessing
import os
import threading
import time

from torch.utils.data._utils import worker
from torch.utils.data._utils.worker import ManagerWatchdog

PARENT_VARIABLE = "KINDLING_PARENT"  # environment variable with the PID of the main process, set by `Launcher`


def end_with_parent() -> None:
    """Make a process that `Launcher` has started exit soon after the main process has ended."""
    if PARENT_VARIABLE in os.environ:
        exit_when_orphaned(int(os.environ[PARENT_VARIABLE]))


def exit_when_orphaned(parent: int) -> None:
    """Make this process exit soon after its parent has ended, given the PID of the parent.

    The parent may have been killed before this process could call getppid().
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)  # nothing to save: only the main process writes files

    threading.Thread(target=watch, daemon=True).start()


class ParentWatchdog(ManagerWatchdog):
    """Detects that the parent of a data worker has ended, even if it was killed while the worker started.

    Torch's watchdog reads the PID of the parent after the start, so an orphan would wait forever.
    """

    def __init__(self) -> None:
        super().__init__()
        parent = multiprocessing.parent_process()
        assert parent is not None
        assert parent.pid is not None
        self.manager_pid = parent.pid


def watch_parents() -> None:
    """Use `ParentWatchdog` in the data workers that this process forks."""
    worker.ManagerWatchdog = ParentWatchdog  # type: ignore[misc]
