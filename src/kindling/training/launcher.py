"""Starts, monitors and ends the processes of a run on several devices, and reports one error for all of them."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import IO, Any, ClassVar

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.strategies.launchers.subprocess_script import _basic_subprocess_cmd
from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch.distributed.distributed_c10d import PrefixStore
from typing_extensions import override

from kindling.training.orphans import PARENT_VARIABLE
from kindling.training.process_connections import GRACE_SECONDS, PeerError, Peers, is_lost_connection, report_as_one
from kindling.training.threads import share_cores
from kindling.utils.stop_signals import interrupt
from kindling.utils.text import program_name


class Launcher(_SubprocessScriptLauncher):
    """Starts the command again for each additional device, and reports a failure of any process as one error.

    The stderr of the other processes is captured: the main process reports its own error, or else the error line of
    the process that failed. With Lightning's launcher all processes write, and the main process is killed by SIGKILL.

    Args:
        launcher: Lightning's launcher, which this one replaces.
        clean_up: Called before the main process exits because another one has failed.
    """

    peers: ClassVar[Peers | None] = None  # for all commands of this process, if it was started by another program

    def __init__(self, launcher: _SubprocessScriptLauncher, clean_up: Callable[[], None]) -> None:
        super().__init__(launcher.cluster_environment, launcher.num_processes, launcher.num_nodes)
        self._clean_up = clean_up
        self._stderr: list[IO[bytes]] = []
        self._is_over = self._is_running = False

    @override
    def launch(self, function: Callable[..., Any], *args: Any, trainer: Trainer | None = None, **kwargs: Any) -> Any:
        environment = self.cluster_environment
        environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        share_cores(self.num_processes)
        if not environment.creates_processes_externally:
            self._call_children_scripts()
            threading.Thread(target=self._watch, daemon=True).start()
        elif not self.procs and PARENT_VARIABLE not in os.environ and self._world_size > 1:
            separate_restarts()
            Launcher.peers = peers = self.peers or Peers()
            peers.on_end = self._end_with_peer
        self._is_running = True
        try:
            return function(*args, **kwargs)
        except Exception as error:
            self._is_over = True
            report_as_one(self.peers, error)
            is_from_peer = isinstance(error, PeerError)
            reason = self._wait_for_reason() if is_from_peer or is_lost_connection(error) else None
            self.kill(signal.SIGKILL)
            if reason is None:
                raise
            line, _, _ = re.sub(r"^\[\S+\] ", "", str(error).splitlines()[0]).partition(". ")  # without gloo's advice
            lost = str(error) if is_from_peer else f"lost the connection to another process: {line}"
            raise PeerError(reason or lost) from error
        except BaseException as stop:  # Ctrl-C, after which Lightning ends the other processes
            self._is_over = True
            report_as_one(self.peers, stop)
            raise
        finally:
            self._is_running = False

    @property
    def _world_size(self) -> int:
        return self.num_processes * self.num_nodes

    def _end_with_peer(self) -> None:
        """End this process if another one has ended early and this one does not notice, as with NCCL."""
        time.sleep(GRACE_SECONDS)
        if self._is_running and self.peers is not None:
            self.peers.report_lost()
            self._clean_up()
            os._exit(1)

    @override
    def _call_children_scripts(self) -> None:
        self._check_can_spawn_children()
        environment = self.cluster_environment
        os.environ |= {
            "MASTER_ADDR": environment.main_address,
            "MASTER_PORT": str(environment.main_port),
            "NODE_RANK": str(environment.node_rank()),
            "LOCAL_RANK": str(environment.local_rank()),
            "WORLD_SIZE": str(self._world_size),
        }
        for rank in range(1, self.num_processes):
            stderr = tempfile.TemporaryFile()  # noqa: SIM115  (stays open while the process runs)
            self._stderr.append(stderr)
            target = None if os.environ.get("KINDLING_DEBUG") else stderr
            variables = os.environ | {"LOCAL_RANK": str(rank), PARENT_VARIABLE: str(os.getpid())}
            self.procs.append(subprocess.Popen(_basic_subprocess_cmd(), env=variables, stderr=target))

    def wait(self) -> None:
        """Wait for the other processes to end; from here, the main process does something else."""
        self._is_over = True
        for process in self.procs:
            process.wait()

    def _watch(self) -> None:
        """End the main process if another one has failed and it does not notice, as in a rendezvous or with NCCL."""
        while not any(process.poll() for process in self.procs):
            time.sleep(0.2)
            if self._is_over:
                return
        time.sleep(GRACE_SECONDS)
        if not self._is_over:
            reason = self._wait_for_reason()
            self.kill(signal.SIGKILL)
            self._clean_up()
            print(f"{program_name()}: error: {reason}", file=sys.stderr, flush=True)
            os._exit(1)

    def _wait_for_reason(self) -> str:
        """Return one line on why another process has failed; print its traceback if there is one."""
        until = time.monotonic() + GRACE_SECONDS
        while self.procs and time.monotonic() < until and not any(process.poll() for process in self.procs):
            time.sleep(0.05)
        for rank, (process, stderr) in enumerate(zip(self.procs, self._stderr, strict=True), start=1):
            if not process.poll():
                continue
            stderr.seek(0)
            written = stderr.read().decode(errors="replace")
            if lines := re.findall(f"^{re.escape(program_name())}: error: (.+)", written, re.MULTILINE):
                return str(lines[-1])
            name = f"process {rank + 1} of {self.num_processes}"
            if process.returncode < 0:
                return f"{name} was killed ({signal.Signals(-process.returncode).name})"
            if f"{program_name()}: interrupted\n" in written:  # by Ctrl-C or SIGTERM
                return f"{name} was interrupted"
            print(written, end="", file=sys.stderr)
            return f"{name} failed"
        return ""


def wait_for_processes(trainer: Trainer) -> None:
    """Wait for the other processes of a training to end, before another training starts in this one."""
    if isinstance(trainer.strategy.launcher, Launcher):
        trainer.strategy.launcher.wait()


def watch_processes(trainer: Trainer, clean_up: Callable[[], None]) -> None:
    """Replace Lightning's launcher, if the Trainer starts several processes, and its signal handlers.

    That of SIGTERM broadcasts the signal to all processes, which then wait for each other forever, and in a single
    process it makes an interrupted test exit with code 0. That of SIGUSR1 in a Slurm job saves a checkpoint wherever
    the signal arrives, such as in the middle of a step.
    """
    trainer._signal_connector._sigterm_notifier_fn = interrupt  # type: ignore[assignment, method-assign]
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, SLURMEnvironment):
        environment.auto_requeue = False
    strategy = trainer.strategy
    if isinstance(strategy.launcher, _SubprocessScriptLauncher):
        strategy._launcher = Launcher(strategy.launcher, clean_up)


@contextmanager
def reporting_as_one() -> Iterator[None]:
    """Report one error for all processes of a command, and tell the others that this one ends."""
    try:
        yield
    except BaseException as error:
        report_as_one(Launcher.peers, error)
        raise
    if Launcher.peers is not None:
        Launcher.peers.leave("done")


def separate_restarts() -> None:
    """Let processes that torchrun has restarted connect: its store keeps the addresses of those before them.

    Torch 2.14 shares one store among all attempts, so that the new processes would wait for the old ones.
    """
    if (attempt := os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) == "0":
        return
    module: Any = import_module("torch.distributed.rendezvous")  # `torch.distributed` has a function of this name
    create = module._create_c10d_store
    if not hasattr(create, "func"):
        module._create_c10d_store = partial(_with_prefix, create, attempt)


def _with_prefix(create: Callable[..., Any], attempt: str, *args: Any, **kwargs: Any) -> PrefixStore:
    return PrefixStore(f"attempt {attempt}", create(*args, **kwargs))
