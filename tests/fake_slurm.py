"""Stand-ins for the commands of Slurm, which run jobs of one node at once."""

import os
import sys
from pathlib import Path

import pytest

from ranks import free_port

START = (
    f"#!{sys.executable}\n"
    + """
import os, re, signal, subprocess, sys, time
from pathlib import Path

cluster = Path(os.environ["CLUSTER"])
"""
)
# Runs a job until it ends without having been requeued.
SBATCH = (
    START
    + r"""
script = Path(sys.argv[1])
lines = [line.partition("  #")[0] for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
options = dict(re.findall(r" --([\w-]+)=?(\S*)", "\n".join(lines)))
tasks, job = os.environ["TASKS"], os.environ["JOB"]
environment = os.environ | {
    "SLURM_JOB_ID": job, "SLURM_JOB_NAME": options["job-name"], "SLURM_SUBMIT_DIR": os.getcwd(),
    "SLURM_NTASKS": tasks, "SLURM_NTASKS_PER_NODE": tasks, "SLURM_NNODES": options["nodes"],
    "SLURM_CPUS_PER_TASK": options["cpus-per-task"], "SLURM_NODELIST": "127.0.0.1", "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SIGNAL": options["signal"].partition("@")[0],
}
for restarts in range(10):
    (cluster / "requeued").unlink(missing_ok=True)
    environment |= {"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}
    mode = "a" if options["open-mode"] == "append" else "w"
    with open(options["output"].replace("%j", job), mode) as log:
        code = subprocess.run(["bash", script, *sys.argv[2:]], env=environment, stdout=log, stderr=log).returncode
    with open(cluster / "codes", "a") as file:
        print(code, file=file)
    if "requeue" not in options or not (cluster / "requeued").exists():
        break
"""
)
# Runs a command in several tasks. Sends the signal of the job to them, and to their children, when the file `limit`
# appears; and SIGTERM when the job is requeued, is canceled, or a task fails.
SRUN = (
    START
    + r"""
command = sys.argv[1:]
while command[0].startswith("-"):
    del command[0]
ranks = range(int(os.environ["SLURM_NTASKS"]))
environments = [os.environ | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in ranks]
tasks = [subprocess.Popen(command, env=environment, start_new_session=True) for environment in environments]

def send(number):
    for task in tasks:
        if task.poll() is None:
            os.killpg(task.pid, number)

is_ending = False
while any(task.poll() is None for task in tasks):
    time.sleep(0.01)
    if (cluster / "limit").exists():
        send(getattr(signal, "SIG" + os.environ["SIGNAL"]))
        (cluster / "limit").unlink()
    if not is_ending and ((cluster / "requeued").exists() or any(task.poll() for task in tasks)):
        send(signal.SIGTERM)
        is_ending = True
codes = [task.returncode if task.returncode >= 0 else 128 - task.returncode for task in tasks]
print("srun:", *codes)
sys.exit(max(codes))
"""
)
SCONTROL = (
    START
    + """
with open(cluster / "scontrol", "a") as file:
    print(*sys.argv[1:], file=file)
time.sleep(2)  # a process that ends with an error meanwhile ends the others, and this call
(cluster / "requeued").touch()
"""
)


class Cluster:
    """A cluster of one node, on which the test runs.

    Args:
        folder: Folder of the stand-ins and of their state.
        patch: Sets the environment variables of the user.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.job = str(free_port(15000, 24999) - 15000)  # Lightning derives a port from the ID
        self.commands = folder / "bin"
        self.commands.mkdir()
        for name, script in {"sbatch": SBATCH, "srun": SRUN, "scontrol": SCONTROL}.items():
            (self.commands / name).write_text(script)
            (self.commands / name).chmod(0o755)
        patch.setenv("PATH", f"{self.commands}:{os.environ['PATH']}")
        patch.setenv("CLUSTER", str(folder))
        patch.setenv("JOB", self.job)
        patch.setenv("TASKS", "1")

    def lines(self, name: str) -> list[str]:
        """Return the lines of a file that the stand-ins have written: `codes` of the job, calls of `scontrol`."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []
