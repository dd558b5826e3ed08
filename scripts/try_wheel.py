"""Install the wheel of a folder into a new environment, and run the main commands there: try_wheel.py dist."""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

COMMANDS = (
    "fit --config quickstart --trainer.max_epochs 1 --trainer.limit_train_batches 8",
    "fit --ckpt_path last --trainer.max_epochs 2",
    "test --ckpt_path best",
    "predict --ckpt_path best",
    "export --ckpt_path best",
    "runs --format json",
    "new leafnet",
)


def main(dist: Path) -> None:
    """Run all commands in an empty folder; the first failure ends the program."""
    (wheel,) = dist.resolve().glob("*.whl")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        venv.create(Path(folder, "env"), with_pip=True)
        scripts = next(path for name in ("bin", "Scripts") if (path := Path(folder, "env", name)).is_dir())
        install = [str(scripts / "python"), "-m", "pip", "install", "--quiet", f"{wheel}[export,new]"]
        subprocess.run(install, check=True)
        for command in COMMANDS:
            print(f"kindling {command}", flush=True)
            subprocess.run([scripts / "kindling", *command.split()], check=True, cwd=folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
