import time

import pytest

from conftest import TINY, Command, Train
from kindling.utils.console import progress, say
from kindling.utils.console_idle import note_output


def test_several_short_steps_are_no_long_silence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kindling.utils.console.PROGRESS_DELAY", 0.6)
    note_output()
    for step, seconds in enumerate((0.4, 0.4, 0.05)):
        with progress(f"step {step}"):
            time.sleep(seconds)
    assert capsys.readouterr().out == "step 1 ...\n"  # after 0.6 s
    time.sleep(0.6)
    say("a line")
    with progress("the next step"):
        time.sleep(0.05)
    assert capsys.readouterr().out == "a line\n"


def test_an_evaluation_that_takes_long_is_announced(
    kindling: Command, trained: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(*TINY)
    monkeypatch.setattr("kindling.utils.console.PROGRESS_DELAY", 0.0)
    for command, verb in (("test", "testing"), ("validate", "validating"), ("predict", "predicting")):
        assert f"{verb} ...\n" in kindling(command, "--ckpt_path", "best").out
