import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import TINY, Command, Train, make_run
from kindling.runs.run import Run
from kindling.runs.runs_table import format_table

RUN = Path("runs/tiny/version_0")


def listed(out: str) -> list[str]:
    return [line.split()[0] for line in out.splitlines()[1:]]


def test_the_list_shows_each_run_and_its_status(kindling: Command, trained: Train) -> None:
    trained(*TINY)
    header, line = kindling("runs").out.splitlines()
    columns = ["run", "started", "status", "epochs", "val/loss", "val/accuracy", "test/accuracy", "time", "commit"]
    assert header.split() == columns
    tested = json.loads((RUN / "test_metrics.json").read_text())
    assert f"{tested['test/accuracy']:.4f}" in line.split()
    assert line.startswith(f"{RUN}  ")
    assert "  finished     2/2  " in line


def test_the_newest_run_is_last_or_with_sort_the_best(kindling: Command) -> None:
    make_run("runs/b/version_9", "2026-01-02T00:00:00+00:00", 0.7)
    make_run("runs/b/version_10", "2026-01-02T00:00:00+00:00", 0.8)
    make_run("runs/a/version_0", "2026-01-03T00:00:00+00:00", 0.75)
    make_run("runs/c/version_0", "2026-01-01T00:00:00+00:00")
    by_age = ["runs/c/version_0", "runs/b/version_9", "runs/b/version_10", "runs/a/version_0"]
    assert listed(kindling("runs").out) == by_age
    assert listed(kindling("runs", "runs/b").out) == by_age[1:3]
    by_accuracy = ["runs/c/version_0", "runs/b/version_9", "runs/a/version_0", "runs/b/version_10"]
    assert listed(kindling("runs", "--sort", "val/accuracy").out) == by_accuracy


def test_a_lower_loss_is_better(kindling: Command) -> None:
    for number, loss in enumerate((0.5, 0.1, None, 0.3)):
        make_run(f"runs/a/version_{number}", best={"epoch": 1, "val/loss": loss})
    order = [f"runs/a/version_{number}" for number in (2, 0, 3, 1)]
    assert listed(kindling("runs", "--sort", "val/loss").out) == order


def test_models_without_accuracy_show_another_metric(kindling: Command) -> None:
    for number, mae in enumerate((0.5, 0.1, 0.3)):
        run = make_run(f"runs/a/version_{number}", best={"epoch": 1, "val/loss": 0.2, "val/mae": mae, "val/r2": 0.9})
        (run / "test_metrics.json").write_text(json.dumps({"test/loss": 0.2, "test/mae": mae + 0.1, "test/r2": 0.8}))
    result = kindling("runs", "--sort", "val/mae")
    assert result.out.split()[4:9] == ["val/loss", "val/mae", "test/mae", "time", "commit"]
    assert listed(result.out) == [f"runs/a/version_{number}" for number in (0, 2, 1)]
    assert result.out.splitlines()[-1].split()[2:5] == ["0.2000", "0.1000", "0.2000"]
    make_run("runs/b/version_0", accuracy=0.7)
    assert kindling("runs").out.split()[4:9] == ["val/loss", "val/accuracy", "val/mae", "test/mae", "time"]


def test_the_sort_column_is_always_shown(kindling: Command) -> None:
    make_run("runs/a/version_0", best={"epoch": 1, "val/accuracy": 0.9, "val/f1": 0.8})
    assert "  0.8000" in kindling("runs", "--sort", "val/f1").out


def test_old_and_damaged_runs_are_listed_from_their_other_files(kindling: Command) -> None:
    for number, text in enumerate(("{", "[]", '{"best": 3, "epochs": "x", "seconds": [], "process": 1}', "\0", "")):
        (make_run(f"runs/a/version_{number}") / "run.json").write_text(text)
    empty = make_run("runs/b/version_0")
    (empty / "run.json").unlink()
    (empty / "metrics.csv").write_text("")
    (empty / "test_metrics.json").write_text('{"test/accuracy": "?"}')
    torn = make_run("runs/b/version_1")
    (torn / "run.json").unlink()
    (torn / "metrics.csv").write_text("epoch,step,val/loss\nx,\0")
    Path("runs/b/version_2").mkdir()  # empty, not a run
    result = kindling("runs")
    assert result.code == 0, result.err
    assert len(listed(result.out)) == 7
    assert "0.2000        0.4000" in next(line for line in result.out.splitlines() if "a/version_0" in line)
    for run in listed(result.out):
        assert kindling("runs", "show", run).code == 0
    assert kindling("runs", "compare", *listed(result.out)).code == 0


@pytest.mark.parametrize(
    "text",
    [
        '{"seconds": NaN}',
        '{"epochs": 1e999, "seconds": -Infinity}',
        '{"status": "running", "process": {"host": "other"}, "heartbeat": "2026-01-01T00:00:00"}',
        '{"status": "running", "process": {"host": "other"}, "heartbeat": "9999-12-31T23:59:59-14:00"}',
        '{"started": "0001-01-01T00:00:00+14:00"}',
        '{"status": "running", "process": {"folder": [1]}}',
        '{"status": "running", "process": {"folder": 5}}',
        "[" * 100_000,
        '{"best": {"epoch": 1, "val/loss": 1' + "0" * 400 + "}}",
        '{"recipe": ""}',
        '{"best": {"epoch": NaN, "val/loss": 1}}',
        '{"best": {"epoch": Infinity, "val/loss": [1]}}',
        '{"recipe": "one\\ntwo\\u001b[31m", "commit": "\\u009b2J", "best": {"val/\\u001b": 1}}',
        '{"commands": [1], "commits": 3, "threads": ["x"], "versions": {"torch": []}, "modified": true}',
    ],
)
def test_a_foreign_or_damaged_run_json_does_not_break_the_list(kindling: Command, text: str) -> None:
    make_run("runs/a/version_0", "2026-01-01T00:00:00+00:00")
    bad = make_run("runs/a/version_1")
    (bad / "run.json").write_text(text)
    (bad / "config.yaml").write_text("seed_everything: 1")
    results = [kindling("runs", "--sort", "started"), kindling("runs", "show", bad)]
    results.append(kindling("runs", "compare", bad, "runs/a/version_0"))
    assert [(result.code, result.err) for result in results] == [(0, "")] * 3
    assert sorted(listed(results[0].out)) == ["runs/a/version_0", str(bad)]
    for result in results:
        assert result.out.replace("\n", "").isprintable()


def test_settings_and_metrics_cannot_control_the_terminal(kindling: Command) -> None:
    bad = make_run("runs/a/version_0")
    (bad / "config.yaml").write_text('model: "\\e[31m"\n"\\e[1m": 3')
    (bad / "test_metrics.json").write_text('{"test/\\u001b[2J": 1}')
    for result in (kindling("runs", "show", bad), kindling("runs", "compare", bad, make_run("runs/a/version_1"))):
        assert result.code == 0
        assert result.out.replace("\n", "").isprintable()


def test_a_folder_name_that_is_not_utf8_does_not_break_the_list(kindling: Command) -> None:
    bad = make_run("runs/a/version_0")
    (bad / "run.json").unlink()
    (bad / "config.yaml").write_bytes(b"\xff\xfe\x00")
    assert listed(kindling("runs").out) == [str(bad)]


def test_a_linked_run_is_listed_once_by_its_real_path(kindling: Command, folder: Path) -> None:
    make_run("runs/b/version_0", "2026-01-01T00:00:00+00:00")
    make_run("elsewhere/version_0", "2026-01-02T00:00:00+00:00")
    Path("runs/self").symlink_to(".")
    Path("runs/a").mkdir()
    Path("runs/a/latest").symlink_to(folder / "runs/b/version_0")
    Path("runs/c").symlink_to(folder / "elsewhere")
    assert listed(kindling("runs").out) == ["runs/b/version_0", "runs/c/version_0"]
    assert listed(kindling("runs", "runs/a/latest").out) == ["runs/a/latest"]


def test_a_run_is_not_compared_with_itself(kindling: Command) -> None:
    run = make_run("runs/a/version_0")
    result = kindling("runs", "compare", "a/version_0", run.resolve())
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "is given twice" in result.err


def test_a_pipe_gets_all_columns_and_a_narrow_terminal_the_important_ones(kindling: Command) -> None:
    name = f"runs/{'long_' * 12}name/version_123"
    run = make_run(name, "2026-01-02T00:00:00+00:00", 0.7, recipe="cnn+bf16", commit="a" * 40)
    piped = kindling("runs").out.splitlines()
    assert piped[1].split()[:2] == [str(run), "cnn+bf16"]
    assert piped[1].endswith("aaaaaaa")
    narrow = format_table([Run.read(run)], width=len(name) + 50).splitlines()
    assert max(map(len, narrow[:-1])) <= len(name) + 50
    assert narrow[1].split()[0] == name
    assert narrow[-1].startswith("(not shown, for lack of space: recipe, commit")


def test_a_closed_pipe_is_not_an_error(folder: Path) -> None:
    for number in range(1000):
        make_run(f"runs/a/version_{number}", "2026-01-02T00:00:00+00:00", 0.7)
    command = f"{sys.executable} -m kindling runs | head -1"
    process = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert process.stderr == ""
    assert process.stdout.startswith("run ")


@pytest.mark.alone
def test_a_thousand_runs_are_listed_in_less_than_a_second(trained: Train) -> None:
    trained(*TINY)
    for number in range(1, 1000):
        unread = shutil.ignore_patterns("*.ckpt", "events.*", "report.html", "label_errors.csv", "predictions.csv")
        shutil.copytree(RUN, RUN.with_name(f"version_{number}"), ignore=unread)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        listing = subprocess.run([sys.executable, "-m", "kindling", "runs"], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - start)
    assert len(listed(listing.stdout)) == 1000
    assert min(seconds) < 1


@pytest.mark.slow
def test_neither_torch_nor_lightning_is_imported(folder: Path) -> None:
    make_run("runs/a/version_0")
    make_run("runs/a/version_1")
    program = (
        "import sys; from kindling.cli import main; main(['runs']); main(['runs', 'compare', 'a/version_0', 'a']); "
        "main(['runs', 'show', 'a']); sys.exit(bool({'torch', 'lightning'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "there is no folder nowhere"),
        (["--sort", "val/acuracy"], "there is no column val/acuracy: did you mean val/accuracy?"),
        (["--srt"], "there is no option srt: did you mean sort?"),
        (["show"], "show needs a run folder or recipe: kindling runs lists all"),
        (["show", "tinny"], "there is no run tinny: did you mean tiny?"),
        (["compare", "tiny"], "at least two runs"),
        (["compare", "tiny", "tiny/version_0"], "runs/tiny/version_0 is given twice"),
        (["compare", "tiny", "nothing_like_it"], "there is no run nothing_like_it"),
        (["compare", "cnn/repeat_0", "cnn/repeat_7"], "there is no run cnn/repeat_7: did you mean cnn/repeat_0?"),
        (["show", "runs/cnn/repeat_7"], "there is no run runs/cnn/repeat_7: did you mean runs/cnn/repeat_0?"),
    ],
)
def test_mistakes_end_in_one_line(kindling: Command, arguments: list[str], words: str) -> None:
    make_run("runs/tiny/version_0")
    make_run("runs/cnn/repeat_0/seed_0/version_0")
    result = kindling("runs", *arguments)
    assert result.code in (1, 2)
    assert result.err.startswith("kindling: error: ")
    assert result.err.count("\n") == 1
    assert words in result.err
    assert not Path("runs/compare.png").exists()


def test_without_runs_the_list_shows_how_to_make_one(kindling: Command) -> None:
    result = kindling("runs")
    assert result.code == 0
    assert result.out.count("\n") == 1
    assert "fit --config quickstart" in result.out


def test_help_names_all_three_ways(kindling: Command) -> None:
    shown = kindling("runs", "--help").out
    for words in ("kindling runs show RUN", "kindling runs compare RUN RUN", "--sort COLUMN", "val/accuracy"):
        assert words in shown
