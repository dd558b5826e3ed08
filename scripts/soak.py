"""Kills trainings at random moments, resumes them, and compares each with one that was never killed: to the bit.

    python scripts/soak.py                            # 200 kills over all configurations, two at a time
    python scripts/soak.py --config plateau --only 17  # one of them again

The moments follow from the seed: at random times, during a training batch, a validation, the test, while a checkpoint
or another file is written, and twice in a row; by KILL, TERM, INT, or TERM with a KILL after it. A killed training is
resumed by `kindling fit --ckpt_path RUN` unless its record says that it is complete. A session that ends before its
kill is repeated with an earlier one. Most processes are forks of this one, which has imported everything; one in
20 starts Python anew, and so do all of a distributed training.
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

# So that no fork has to import them. Lightning first, as in a command: `Optional[Union[float, int]]` of scikit-learn
# would be cached for its `Optional[Union[int, float]]`, and 12 be parsed as 12.0.
import lightning.pytorch  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import sklearn.metrics  # noqa: F401
import torch.utils.tensorboard  # noqa: F401
import torchvision  # noqa: F401
from rich.console import Console
from rich.table import Table

from soak_configs import CONFIGS, usable, write_data
from soak_trials import Result, Straight, Trial, plan, run_trial, temporary_folder, train_straight

SHOWN = 3  # faults of a trial in its line


def share(names: Sequence[str], kills: int) -> dict[str, int]:
    """Share the kills among the configurations by their weights."""
    total, ends = sum(CONFIGS[name].weight for name in names), [0]
    for number in range(len(names)):
        ends.append(round(kills * sum(CONFIGS[name].weight for name in names[: number + 1]) / total))
    return {name: end - start for name, start, end in zip(names, ends, ends[1:], strict=False)}


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="trainings to kill, shared among the configurations")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other moments")
    parser.add_argument("--config", nargs="+", choices=CONFIGS, help="configurations; by default all")
    parser.add_argument("--only", type=int, nargs="+", help="numbers of the kills of each configuration")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    parser.add_argument("--keep", type=Path, help="a new folder for the files of all trainings, which are kept there")
    return parser.parse_args(arguments)


def prepare(folder: Path, name: str) -> tuple[str, Straight]:
    """Train a configuration without a kill."""
    return name, train_straight(name, folder / name / "straight", folder / "data")


def kill(folder: Path, keep: bool, trial: Trial, straight: Straight) -> Result:
    """Kill, resume and compare a training."""
    place = folder / trial.config / str(trial.number)
    result = run_trial(trial, straight, place, folder / "data")
    if not keep:
        shutil.rmtree(place)
    return result


def soak(options: argparse.Namespace, folder: Path) -> Iterator[Result]:
    """Run all trials, and yield their results as they come."""
    names = [name for name in options.config or CONFIGS if usable(name, folder)]
    write_data(folder / "data")
    numbers = {name: options.only or range(kills) for name, kills in share(names, options.kills).items()}
    trials = [plan(name, number, options.seed) for name in names for number in numbers[name]]
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("fork")) as workers:
        straight = dict(workers.map(partial(prepare, folder), names))
        run = partial(kill, folder, options.keep is not None)
        work = [workers.submit(run, trial, straight[trial.config]) for trial in trials]
        yield from (done.result() for done in as_completed(work))


def report(result: Result, seed: int) -> None:
    """Print what went wrong in a trial, and the command that repeats it."""
    trial, kills = result.trial, ", then ".join(map(str, result.hits or result.trial.kills))
    faults = "; ".join(result.faults[:SHOWN]) + f" (and {len(result.faults) - SHOWN} more)" * (
        len(result.faults) > SHOWN
    )
    again = f"python scripts/soak.py --config {trial.config} --only {trial.number} --seed {seed} --keep soak"
    print(f"{trial.config} {trial.number}: {kills}: {faults}\n  {again}", flush=True)


def count_kills(results: Sequence[Result]) -> tuple[int, int]:
    """Return how many kills hit a training, and how many were planned: one is spared if the training is complete."""
    return sum(len(each.hits) for each in results), sum(len(each.trial.kills) for each in results)


def table(results: Sequence[Result]) -> Table:
    """Sum the results up by configuration."""
    summary = Table("configuration", "trainings", "kills that hit", "resumed to the bit")
    for name in [*dict.fromkeys(each.trial.config for each in results), "all"]:
        own = [each for each in results if name in ("all", each.trial.config)]
        right, (hits, kills) = sum(not each.faults for each in own), count_kills(own)
        summary.add_row(name, str(len(own)), f"{hits} of {kills}", str(right))
    return summary


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 1 if a training was not resumed as promised."""
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
        except RuntimeError as error:  # a training fails without a kill
            sys.exit(str(error))
    Console().print(table(sorted(results, key=lambda each: [*CONFIGS].index(each.trial.config))))
    right = sum(not each.faults for each in results)
    hits, kills = count_kills(results)
    took = f"in {time.monotonic() - start:.0f} s, seed {options.seed}"
    print(f"{right} of {len(results)} {took}; {hits} of {kills} kills hit")
    return int(right < len(results) or not results)


if __name__ == "__main__":
    sys.exit(main())
