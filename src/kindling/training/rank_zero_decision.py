"""A decision of the first process of a distributed run, which all others learn before they are connected."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore  # torch.distributed exports them untyped
from torch.distributed import DistError

from kindling.training.orphans import PARENT_VARIABLE
from kindling.training.process_connections import PeerError
from kindling.utils.launch import Launch, find_launch

VARIABLE = "KINDLING_DECISION"  # environment variable in which the processes started by `Launcher` find the decision
TIMEOUT = timedelta(minutes=10)  # for all processes to start
DECISION, READERS, ALL_READ, FAILED = "decision", "readers", "all read", "failed"

_stores: list[TCPStore] = []  # a store ends with its object; torch's own store shares its server


def decide_once(decide: Callable[[], str]) -> str:
    """Return the decision of the first process of a distributed run, in each of its processes.

    Processes started by `Launcher` find it in their environment. Those started by torchrun, Slurm or another launcher
    read it from the store at the address at which torch will connect them.

    Args:
        decide: Function that returns the decision; called only in the first process.

    Raises:
        ValueError: If a launcher has set its environment variables inconsistently.
        PeerError: If the first process has failed or another one has not started.
    """
    if PARENT_VARIABLE in os.environ:
        return os.environ[VARIABLE]
    launch = find_launch()
    if launch.processes == 1:
        os.environ[VARIABLE] = decide()
        return os.environ[VARIABLE]
    try:
        store = _connect(launch)
        decision = _decide(decide, store, launch.processes) if launch.is_first else _read(store, launch.processes)
    except DistError as error:
        raise PeerError("lost the connection to the first process before training started") from error
    os.environ[VARIABLE] = decision
    return decision


def _connect(launch: Launch) -> Store:
    """Return a store that all processes share, with keys of their own for each start by torchrun."""
    if launch.launcher == "srun":
        try:
            environment = SLURMEnvironment()
        except RuntimeError as error:  # without --ntasks-per-node
            raise ValueError(str(error)) from error
        address, port = environment.main_address, environment.main_port
    else:
        address, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), int(os.environ["MASTER_PORT"])
    serves = launch.is_first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True)
    _stores.append(
        TCPStore(address, port, is_master=serves, timeout=TIMEOUT, wait_for_workers=False, multi_tenant=True)
    )
    return PrefixStore(f"kindling {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", _stores[-1])


def _decide(decide: Callable[[], str], store: Store, processes: int) -> str:
    """Decide, and wait until the other processes have read it: the store ends with this process."""
    decision = FAILED
    try:
        decision = decide()
    finally:
        store.set(DECISION, decision)
        if processes:
            _wait(store, ALL_READ)
    return decision


def _read(store: Store, processes: int) -> str:
    """Return the decision of the first process."""
    _wait(store, DECISION)
    decision = store.get(DECISION).decode()
    with suppress(DistError):  # the store ends as soon as all have read it
        if store.add(READERS, 1) == processes - 1:
            store.set(ALL_READ, "")
    if decision == FAILED:
        raise PeerError("the first process has failed before training started")
    return decision


def _wait(store: Store, key: str) -> None:
    """Wait for a key, as `Store.wait` does, but let signals through."""
    until = time.monotonic() + TIMEOUT.total_seconds()
    while not store.check([key]):
        if time.monotonic() > until:
            raise PeerError(f"not all processes have started within {TIMEOUT.total_seconds() / 60:.0f} minutes")
        time.sleep(0.02)
