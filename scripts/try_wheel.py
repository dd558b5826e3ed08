"""Install the wheel of a folder into a new environment, and run the main commands there: try_wheel.py dist."""

import json
import re
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from urllib.request import urlopen

COMMANDS = (
    "fit --config quickstart --trainer.max_epochs 1 --trainer.limit_train_batches 8",
    "fit --ckpt_path last --trainer.max_epochs 2",
    "test --ckpt_path best",
    "predict --ckpt_path best",
    "export --ckpt_path best",
    "runs --format json",
    "new leafnet",
)


def try_server(kindling: Path, folder: Path) -> None:
    """Start `kindling serve`, ask whether it is ready, and predict a digit.

    Raises:
        RuntimeError: If it does not start.
        OSError: If it does not respond with status 200.
    """
    command = [str(kindling), "serve", "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            address = next((found[0] for line in server.stdout if (found := re.search(r"http://[\d.:]+/", line))), "")
            if not address:
                raise RuntimeError("kindling serve did not start")
            wait_until_ready(address)
            body = json.dumps({"inputs": [[0.0] * 28] * 28}).encode()
            with urlopen(f"{address}predict", body, timeout=60) as response:
                print(json.load(response)["predictions"][0]["class"], flush=True)
        finally:
            server.terminate()


def wait_until_ready(address: str, seconds: float = 60) -> None:
    """Wait until the server accepts connections, and is ready to predict."""
    end = time.monotonic() + seconds
    while True:
        try:
            urlopen(f"{address}ready", timeout=60).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
        else:
            return


def main(dist: Path) -> None:
    """Run all commands in an empty folder; the first failure ends the program."""
    (wheel,) = dist.resolve().glob("*.whl")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        venv.create(Path(folder, "env"), with_pip=True)
        scripts = next(path for name in ("bin", "Scripts") if (path := Path(folder, "env", name)).is_dir())
        install = [str(scripts / "python"), "-m", "pip", "install", "--quiet", f"{wheel}[export,new,serve]"]
        subprocess.run(install, check=True)
        for command in COMMANDS:
            print(f"kindling {command}", flush=True)
            subprocess.run([scripts / "kindling", *command.split()], check=True, cwd=folder)
        print("kindling serve", flush=True)
        try_server(scripts / "kindling", Path(folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
