"""The one command, `kindling`. Its help answers at once: torch is imported only by what needs it."""

import atexit
import difflib
import inspect
import logging
import os
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import NoReturn

from kindling import __version__
from kindling.startup import quick_imports

COMMANDS = {
    "fit": "train a model, keep its best and last checkpoints, test the best",
    "validate": "measure a checkpoint on the validation split",
    "test": "measure a checkpoint on the test split",
    "predict": "write the classes and probabilities that a checkpoint predicts to predictions.csv",
}

# Those of parts that a project may do without: who deletes the folder deletes the command.
OF_PARTS: list[tuple[str, str, str]] = [
    ("runs", "kindling.runlist.command", "list what was trained; show one run, or compare several"),
    ("export", "kindling.deploy.export", "write a checkpoint as a file that other programs run, proven to be equal"),
    ("serve", "kindling.deploy.serve", "answer over HTTP, with a page to try the model on"),
    ("new", "kindling.newproject.command", "write a project of your own from this one"),
]
OPTIONAL = {name: module for name, module, _ in OF_PARTS if find_spec(module.rpartition(".")[0])}
COMMANDS |= {name: line for name, _, line in OF_PARTS if name in OPTIONAL}

HELP = f"""usage: kindling COMMAND [OPTIONS]

commands:
{chr(10).join(f"  {name:<10}{line}" for name, line in COMMANDS.items())}

start with:
  kindling fit --config configs/quickstart.yaml
  kindling fit --help
"""


def program() -> NoReturn:
    """The installed command: `main`, then an exit that leaves it to the system to free the memory.

    To take the imported libraries down object by object would take another half second. What asked to be called at the
    exit is called, and while another thread is at work, the exit is the usual one.
    """
    code = main()
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        sys.exit(code)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        args: Its name and options, by default those of the command line.

    Returns:
        The exit code: 0, 1 if the command failed, 2 if it was not understood.
    """
    command, *options = (sys.argv[1:] if args is None else args) or ["--help"]
    if command in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if command == "--version":
        print(f"kindling {__version__}")
        return 0
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        return _fail(f"there is no command {command}: {hint}", code=2)

    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of a home folder that can't be written
    try:
        with quick_imports():
            from kindling.errors import UsageError, dead_worker, one_line, without_worker

            run = import_module(OPTIONAL.get(command, "kindling.training")).run
    except KeyboardInterrupt:
        return _fail("interrupted before it began", code=1)
    except ModuleNotFoundError as error:
        if f"{error.name}.".startswith("kindling.") or os.environ.get("KINDLING_DEBUG"):
            raise
        return _fail(f"{error.name} is not installed: make train installs what pyproject.toml names", code=1)
    try:
        run(command, options)
    except UsageError as error:
        return _fail(str(error), code=2)
    except Exception as error:
        # What a person can mend is said in one line; KINDLING_DEBUG=1 shows where it came from.
        killed = dead_worker(error)
        if os.environ.get("KINDLING_DEBUG") or not (killed or isinstance(error, _mendable())):
            raise
        ours = killed or inspect.trace()[-1].filename.startswith(os.path.dirname(__file__))
        message = killed or one_line(without_worker(str(error)))
        return _fail(message + ("" if ours else " (KINDLING_DEBUG=1 shows where)"), code=1)
    except (KeyboardInterrupt, SystemExit) as stop:
        # Lightning turns Ctrl-C into an exit; the other exits are those of help pages.
        if isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt):
            print("kindling: interrupted", file=sys.stderr)
            return 1
        return int(stop.code or 0)
    return 0


def _mendable() -> tuple[type[Exception], ...]:
    """What a person can mend; errors of Lightning's own only where it has been imported, which takes seconds."""
    lightning = sys.modules.get("lightning.fabric.utilities.exceptions")
    return (ValueError, OSError, ImportError, *([lightning.MisconfigurationException] if lightning else []))


def _fail(message: str, code: int) -> int:
    print(f"kindling: error: {message}", file=sys.stderr)
    return code
