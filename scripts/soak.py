"""Kills runs at random moments, resumes them, and checks that each is bit-identical to a run that was not killed.

    python scripts/soak.py                            # 200 kills over all configurations, two at a time
    python scripts/soak.py --config plateau --only 17  # repeat one of them

The seed determines the moments: at random times, during a training batch, validation or the test, while a checkpoint or
another file is written, and twice in a row. The signals are KILL, TERM, INT, or TERM followed by KILL. A killed run is
resumed by `kindling fit --ckpt_path RUN` unless `run.json` says that it is complete. If a session ends before its kill,
it is repeated with an earlier one. Most processes are forks of this one, which has imported everything; one trial in
20, and every distributed run, starts new Python processes.
"""

import argparse
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

# Before the imports: the same number of threads in each process, and none in one that is forked.
os.environ |= dict.fromkeys(["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"], "1")
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])

# Imported here so that no fork has to. Lightning comes first, as in a command: otherwise typing would cache
# `Optional[Union[float, int]]` of scikit-learn for its `Optional[Union[int, float]]`, and 12 be parsed as 12.0.
import lightning.pytorch  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import sklearn.metrics  # noqa: F401
import torch.utils.tensorboard  # noqa: F401
import torchvision  # noqa: F401
from rich.console import Console
from rich.table import Table

from soak_configs import CONFIGS, usable, write_data
from soak_trials import Reference, Result, Trial, plan, run_trial, temporary_folder, train_reference

MAX_FAULTS = 3  # that are printed per trial


def share(names: Sequence[str], kills: int) -> dict[str, int]:
    """Return the number of kills per configuration, in proportion to their weights."""
    total, ends = sum(CONFIGS[name].weight for name in names), [0]
    for number in range(len(names)):
        ends.append(round(kills * sum(CONFIGS[name].weight for name in names[: number + 1]) / total))
    return {name: end - start for name, start, end in zip(names, ends, ends[1:], strict=False)}


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="number of runs to kill, in all configurations")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    parser.add_argument("--config", nargs="+", choices=CONFIGS, help="configurations; by default all")
    parser.add_argument("--only", type=int, nargs="+", help="numbers of the kills of each configuration")
    parser.add_argument("--jobs", type=int, default=2, help="number of concurrent runs")
    parser.add_argument("--keep", type=Path, help="a new folder in which to keep the files of all runs")
    return parser.parse_args(arguments)


def prepare(folder: Path, name: str) -> tuple[str, Reference]:
    """Train a configuration without a kill."""
    return name, train_reference(name, folder / name / "reference", folder / "data")


def kill(folder: Path, keep: bool, trial: Trial, reference: Reference) -> Result:
    """Kill, resume and compare a run."""
    place = folder / trial.config / str(trial.number)
    result = run_trial(trial, reference, place, folder / "data")
    if not keep:
        shutil.rmtree(place)
    return result


def soak(options: argparse.Namespace, folder: Path) -> Iterator[Result]:
    """Run all trials, and yield their results as they complete."""
    names = [name for name in options.config or CONFIGS if usable(name, folder)]
    write_data(folder / "data")
    numbers = {name: options.only or range(kills) for name, kills in share(names, options.kills).items()}
    trials = [plan(name, number, options.seed) for name in names for number in numbers[name]]
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("fork")) as workers:
        reference = dict(workers.map(partial(prepare, folder), names))
        run = partial(kill, folder, options.keep is not None)
        work = [workers.submit(run, trial, reference[trial.config]) for trial in trials]
        yield from (done.result() for done in as_completed(work))


def report(result: Result, seed: int) -> None:
    """Print the failure of a trial, and the command that repeats it."""
    trial, kills = result.trial, ", then ".join(map(str, result.hits or result.trial.kills))
    faults = "; ".join(result.faults[:MAX_FAULTS]) + f" (and {len(result.faults) - MAX_FAULTS} more)" * (
        len(result.faults) > MAX_FAULTS
    )
    again = f"python scripts/soak.py --config {trial.config} --only {trial.number} --seed {seed} --keep soak"
    print(f"{trial.config} {trial.number}: {kills}: {faults}\n  {again}", flush=True)


def count_kills(results: Sequence[Result]) -> tuple[int, int]:
    """Return how many kills hit a run, and how many were planned; a run that is complete already is not killed."""
    return sum(len(each.hits) for each in results), sum(len(each.trial.kills) for each in results)


def table(results: Sequence[Result]) -> Table:
    """Return a table of the results by configuration."""
    summary = Table("configuration", "runs", "kills that hit", "resumed bit-identically")
    for name in [*dict.fromkeys(each.trial.config for each in results), "all"]:
        own = [each for each in results if name in ("all", each.trial.config)]
        right, (hits, kills) = sum(not each.faults for each in own), count_kills(own)
        summary.add_row(name, str(len(own)), f"{hits} of {kills}", str(right))
    return summary


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 1 if any run was not resumed bit-identically."""
    options, start, results = read_options(arguments), time.monotonic(), []
    if options.keep:
        options.keep.mkdir(parents=True)
    with temporary_folder() as temporary:
        folder = (options.keep or temporary).resolve()
        try:
            for result in soak(options, folder):
                results.append(result)
                if result.faults:
                    report(result, options.seed)
        except RuntimeError as error:  # a reference run failed
            sys.exit(str(error))
    Console().print(table(sorted(results, key=lambda each: [*CONFIGS].index(each.trial.config))))
    right = sum(not each.faults for each in results)
    hits, kills = count_kills(results)
    took = f"in {time.monotonic() - start:.0f} s, seed {options.seed}"
    print(f"{right} of {len(results)} {took}; {hits} of {kills} kills hit")
    return int(right < len(results) or not results)


if __name__ == "__main__":
    sys.exit(main())
