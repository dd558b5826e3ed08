import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from conftest import LOADING, TINY

ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


def python(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ONE_THREAD, timeout=120)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.slow
def test_fit_imports_no_more_than_it_uses() -> None:
    options = "--model MLPClassifier --data MNISTDataModule --data.source sample --trainer.max_epochs 1".split()
    code = f"import sys; from kindling.cli import main; print(main({['fit', *options]})); print(sorted(sys.modules))"
    *_, exit_code, loaded = python(code).splitlines()
    assert exit_code == "0"
    # Imports of scikit-learn, and for tables, images and exports, are deferred until needed.
    unused = ("pandas", "sklearn", "mlxtend.data", "onnx", "onnxruntime", "starlette")
    for name in unused:
        assert f"'{name}'" not in loaded


@pytest.mark.slow
def test_slow_imports_are_announced_where_no_program_reads() -> None:
    options = "fit --model MLPClassifier --data SyntheticDataModule --print_config".split()
    delay = "from kindling.utils import console; console.PROGRESS_DELAY = 0.1"
    command = [sys.executable, "-c", f"{delay}; from kindling.cli import main; main({options})"]
    run = subprocess.run(command, capture_output=True, text=True, env=ONE_THREAD, timeout=120)
    assert run.stderr == LOADING
    assert yaml.safe_load(run.stdout)["model"]["class_path"] == "kindling.MLPClassifier"


@pytest.mark.slow
def test_the_process_settings_are_not_changed() -> None:
    code = "import gc, sys; from kindling.cli import main; main(['fit', '--help'])"
    told = f"{code}; print(gc.isenabled(), gc.get_freeze_count(), sys.modules['scipy.signal'].hamming.__module__)"
    assert python(told).splitlines()[-1] == "True 0 scipy.signal.windows._windows"


def test_a_file_left_open_is_written_at_the_exit() -> None:
    python(
        "import sys; from kindling.cli import main, program; sys.argv = ['kindling', '--version']\n"
        "file = open('open.txt', 'w'); file.write('unflushed'); program()"
    )
    assert Path("open.txt").read_text() == "unflushed"


@pytest.mark.slow
def test_the_installed_command_returns_the_exit_code() -> None:
    program = Path(sys.executable).with_name("kindling")

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *options], capture_output=True, text=True, env=ONE_THREAD, timeout=120)

    assert run("--help").stdout.startswith("usage: kindling")
    assert (run("nonsense").returncode, run("nonsense").stderr.count("\n")) == (2, 1)
    done = run("fit", *TINY)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-4] == "next:"
    assert run("fit", *TINY, "--data.batch_size", "0").returncode == 1
    assert "0 1\n" in python(
        "import atexit, threading; from kindling.cli import entry_point as cli\n"
        "cli.main = lambda: print(0, end=' ') or 0\n"
        "atexit.register(print, 1); cli.program()"
    )


@pytest.mark.parametrize(
    ("last", "code"),
    [
        ("atexit.register(signal.raise_signal, signal.SIGINT)", 0),
        # Ctrl-C ends a thread that hangs.
        ("threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()", -signal.SIGINT),
    ],
    ids=["clean-up", "thread"],
)
def test_ctrl_c_at_exit_shows_no_traceback(last: str, code: int) -> None:
    imports = "import atexit, os, signal, threading; from kindling.cli import entry_point as cli"
    program = f"{imports}; {last}; cli.main = lambda: 0; cli.program()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (code, "")


def test_ctrl_c_within_a_destructor_interrupts_the_command() -> None:
    program = """
import signal, time
from kindling.cli import entry_point as cli
class Noisy:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
def work():
    try:
        del [Noisy()][0]
        time.sleep(60)
    except KeyboardInterrupt:
        return 1
cli.main = work
cli.program()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (1, "")
