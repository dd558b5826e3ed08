"""How this process was started: alone, or by a launcher as one of the processes of a run."""

import os
from typing import NamedTuple


class Launch(NamedTuple):
    """Information of the environment about the processes of a run, before they are connected.

    Attributes:
        launcher: `torchrun`, `srun` or `MASTER_PORT`, the variable by which another launcher was recognized; empty if
            this process was started alone.
        is_first: Whether this is the first process of the run.
        processes: Number of processes that the launcher has started; 0 if each of them will start more, on its node.
    """

    launcher: str
    is_first: bool
    processes: int


def find_launch() -> Launch:
    """Return how this process was started, without slow imports.

    The rules are Lightning's for torchrun, Slurm and launchers that set MASTER_PORT. So a Slurm job with SLURM_NTASKS
    counts as started by srun, also where its script starts Python without srun, unless its name is bash or interactive.
    Lightning's detection of LSF (jsrun) and MPI (mpi4py) is left out.
    """
    get = os.environ.get
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return Launch("torchrun", get("RANK") == "0", int(os.environ["WORLD_SIZE"]))
    if "SLURM_NTASKS" in os.environ and get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        return Launch("srun", get("SLURM_PROCID", "0") == "0", int(os.environ["SLURM_NTASKS"]))
    node, rank = get("NODE_RANK", get("GROUP_RANK", "")), get("LOCAL_RANK", "")
    if "MASTER_PORT" not in os.environ or not (node or rank):
        return Launch("", True, 1)
    is_first = (node or "0", rank or "0") == ("0", "0")
    return Launch("MASTER_PORT", is_first, int(get("WORLD_SIZE", "1")) if rank else 0)
