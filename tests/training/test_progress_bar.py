import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import TINY, Command


def test_a_log_file_gets_one_line_per_epoch(kindling: Command) -> None:
    lines = kindling("fit", *TINY).out.splitlines()[1:3]
    for epoch, line in enumerate(lines, 1):
        assert re.fullmatch(
            rf"epoch {epoch}/2  train/loss \d\.\d{{4}}  val/loss \d\.\d{{4}}  val/accuracy \d\.\d{{4}}", line
        )


@pytest.mark.slow
def test_a_resumed_run_prints_no_epoch_again(kindling: Command) -> None:
    printed = kindling("fit", *TINY, "--trainer.max_epochs", "1", "--test_after_fit", "false").out
    printed += kindling("fit", "--ckpt_path", "last", "--trainer.max_epochs", "3").out
    assert re.findall(r"^epoch \d", printed, re.MULTILINE) == ["epoch 1", "epoch 2", "epoch 3"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_shows_one_progress_bar() -> None:
    import pty
    import termios

    terminal, other_end = pty.openpty()
    termios.tcsetwinsize(other_end, (24, 100))
    # Importing torch takes more than the usual two seconds on some machines only.
    code = [
        "import kindling.utils.console",
        "kindling.utils.console.PROGRESS_DELAY = 0.1",
        "import kindling.cli.entry_point",
        "kindling.cli.entry_point.program()",
    ]
    command = [sys.executable, "-c", "; ".join(code), "fit", *TINY, "--trainer.limit_val_batches", "1"]
    process = subprocess.Popen(command, stdout=other_end, stderr=other_end, env=os.environ | {"OMP_NUM_THREADS": "1"})
    os.close(other_end)
    shown = b""
    while True:
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # the terminal was closed
            break
    assert process.wait(timeout=60) == 0
    assert "  limit_val_batches: 1\n" in Path("runs/tiny/version_0/config.yaml").read_text()  # 1.0: all batches
    text = shown.decode()
    assert "loading PyTorch and Lightning" in text
    assert "Epoch 1" in text
    assert "val/accuracy" in text
    assert "Validation" not in text
    assert "Sanity" not in text
