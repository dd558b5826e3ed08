"""The entry point of `kindling`; torch is imported only by commands that need it."""

import difflib
import gc
import inspect
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

from kindling import __version__
from kindling.cli.commands import COMMANDS, FUNCTIONS, MODULES
from kindling.cli.requeue import end_stopped
from kindling.utils.console_idle import note_output
from kindling.utils.launch import find_launch
from kindling.utils.stop_signals import find_interruption, interrupting
from kindling.utils.text import program_name, set_program_name, shorten

TERMINABLE = ("fit", "validate", "test", "predict", "tune")  # what they leave half-written on SIGTERM is removed
HELP = f"""usage: {{program}} COMMAND [OPTIONS]

commands:
{chr(10).join(f"  {name:<10}{line}" for name, line in COMMANDS.items())}

options of all commands except runs and new:
  --plugin FILE   load custom classes from a file or module

examples:
  {{program}} fit --config quickstart
  {{program}} fit --help
"""


def program() -> NoReturn:
    """Run `main` and exit with its code; the name of the script becomes the name of the program in messages."""
    set_program_name(os.path.basename(sys.argv[0]).removesuffix(".exe"))
    sys.unraisablehook = _interrupt_again
    code = main()
    has_threads = any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread())
    # From here, Ctrl-C would only print the traceback of a library's clean-up.
    signal.signal(signal.SIGINT, signal.SIG_DFL if has_threads else signal.SIG_IGN)
    sys.exit(code)


def _interrupt_again(unraisable: Any) -> None:
    """Raise Ctrl-C again if it occurred in a destructor or weak reference callback, where Python ignores it."""
    if unraisable.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(unraisable)
        return
    hook = sys._getframe()  # in which Python would ignore it once more

    def interrupt() -> None:
        while _is_on_stack(hook):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()


def _is_on_stack(frame: FrameType) -> bool:
    """Return whether the main thread is still in a frame, or in a function called from it."""
    current = sys._current_frames().get(threading.main_thread().ident or 0)
    while current is not None and current is not frame:
        current = current.f_back
    return current is frame


def main(args: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        args: Name and options of the command, by default `sys.argv`.

    Returns:
        The exit code: 0 on success, 1 if the command failed or Ctrl-C stopped it, 2 for a usage error, 143 after
        SIGTERM or SIGUSR1.
    """
    note_output()
    command, *options = (sys.argv[1:] if args is None else args) or ["--help"]
    if command in ("-h", "--help"):
        print(HELP.format(program=program_name()), end="")
        return 0
    if command == "--version":
        print(f"kindling {__version__}")
        return 0
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(COMMANDS)}"
        return _fail(f"there is no command {shorten(command, 60) or repr(command)}: {hint}", code=2)

    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns if the home folder is read-only
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported; profiling on a CPU warns
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # silences messages of torch's profiler about a missing GPU
    with interrupting() if command in TERMINABLE else nullcontext():
        try:
            with _loading(command), _importing():
                run = _find(command)
        except KeyboardInterrupt as stop:
            return _fail("interrupted during start-up", code=end_stopped(stop, command, options))
        except ModuleNotFoundError as error:
            if f"{error.name}.".startswith("kindling.") or os.environ.get("KINDLING_DEBUG"):
                raise
            return _fail(f"{error.name} is not installed: install the dependencies with pip install -e .", code=1)
        return call(run, command, options)


def call(run: Callable[[str, Sequence[str]], None], command: str, options: Sequence[str]) -> int:
    """Call the function of a command, report its error in one line, and return the exit code."""
    from kindling.cli.console_logging import console_logging
    from kindling.utils.errors import UsageError

    try:
        with console_logging():
            run(command, options)
    except UsageError as error:
        return _fail(str(error), code=2)
    except Exception as error:
        message = describe_error(error)
        if not message or os.environ.get("KINDLING_DEBUG"):
            raise
        return _fail(message, code=1)
    except (KeyboardInterrupt, SystemExit) as stop:
        # Help pages exit too, and processes whose error another one reports.
        if interruption := find_interruption(stop):
            if stop.__cause__ is None:
                print(f"{program_name()}: interrupted", file=sys.stderr)
            return end_stopped(interruption, command, options)
        code = stop.code if isinstance(stop, SystemExit) else 1
        return int(code or 0) if isinstance(code, int | None) else _fail(str(code), code=1)
    return 0


def _find(command: str) -> Callable[[str, Sequence[str]], None]:
    """Import and return the function that runs a command."""
    if command not in FUNCTIONS:
        found: Callable[[str, Sequence[str]], None] = import_module(MODULES[command]).run
        return found
    from kindling.cli.function_command import run_function

    function = getattr(import_module(FUNCTIONS[command]), command)
    return lambda _, options: run_function(function, options)


def _loading(command: str) -> AbstractContextManager[object]:
    """Return a progress bar, or a line, for the imports; `new` and `runs` need no slow ones."""
    if command in ("new", "runs") or not find_launch().is_first:
        return nullcontext()
    from kindling.utils.console import progress

    return progress("loading PyTorch and Lightning", stderr=True)  # a program may read stdout


@contextmanager
def _importing() -> Iterator[None]:
    """Pause garbage collection during imports, where it finds nothing and takes a quarter of the time.

    One full collection follows the first imports: without it, each generation would visit the million objects in turn.
    """
    was_enabled, are_new = gc.isenabled(), "torch" not in sys.modules
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
            if are_new:
                gc.collect()


def describe_error(error: BaseException) -> str:
    """Return one line about an error; empty if it is in a user's code, whose author needs the traceback."""
    from kindling.cli.parser_errors import one_line
    from kindling.utils.errors import LIBRARIES, describe_killed_worker, unwrap_worker_error, users_line

    if message := describe_killed_worker(error):
        return message
    frames = inspect.trace()
    if isinstance(error, _user_errors()):
        message, place = one_line(unwrap_worker_error(str(error))), users_line(error)
        if frames[-1].filename.startswith(LIBRARIES[0]):
            return message
        hint = f"{place}; KINDLING_DEBUG=1 shows the traceback" if place else "KINDLING_DEBUG=1 shows where"
        return f"{message} ({hint})"
    if users_line(error):
        return ""
    where = f"{'/'.join(frames[-1].filename.split(os.sep)[-3:])}, line {frames[-1].lineno}"
    owners = (frame.frame.f_locals.get("self") for frame in frames)
    model = next((f"{type(owner).__name__}: " for owner in owners if hasattr(owner, "configure_optimizers")), "")
    reason = shorten(f"{model}{type(error).__name__}: {error}", 180)
    return f"{reason} (unexpected, in {where}; KINDLING_DEBUG=1 shows the traceback)"


def _user_errors() -> tuple[type[Exception], ...]:
    """Return the types of errors that users can fix; Lightning's own only if it has been imported."""
    lightning = sys.modules.get("lightning.fabric.utilities.exceptions")
    return (ValueError, OSError, ImportError, *([lightning.MisconfigurationException] if lightning else []))


def _fail(message: str, code: int) -> int:
    if not _is_reported_by_first():
        length = 400 if code == 1 else 280  # an address and a path, for example, must be complete
        print(f"{program_name()}: error: {shorten(message, length)}", file=sys.stderr)
    return code


def _is_reported_by_first() -> bool:
    """Return whether rank 0 reports the same error: until the processes connect, all of them fail alike."""
    distributed = sys.modules.get("torch.distributed")
    is_connected = distributed is not None and distributed.is_available() and distributed.is_initialized()
    launch = find_launch()
    return launch.launcher in ("torchrun", "srun") and not launch.is_first and not is_connected
