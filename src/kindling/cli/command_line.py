"""The parts of a command line, before it is parsed."""

from collections.abc import Sequence

AUTO = "auto"  # value of --ckpt_path: the run that the same command has started


def group_options(typed: Sequence[str]) -> list[list[str]]:
    """Return the options of a command line, each with its values; -c VALUE, -c=VALUE and -cVALUE become --config."""
    options: list[list[str]] = []
    for part in typed:
        if part == "-c":
            part = "--config"
        elif part.startswith("-c"):
            part = f"--config={part[2:].removeprefix('=')}"
        if part.startswith("--") or not options:
            options.append([part])
        else:
            options[-1].append(part)
    return options


def option_name(option: Sequence[str]) -> str:
    """Return the dotted name of an option, without `init_args` and without the `+` that appends to a list."""
    return option[0].partition("=")[0].removeprefix("--").replace("init_args.", "").removesuffix("+")


def option_values(option: Sequence[str]) -> list[str]:
    """Return the values of an option."""
    return [*option[0].split("=", 1)[1:], *option[1:]]


def resumes_automatically(typed: Sequence[str]) -> bool:
    """Return whether the last `--ckpt_path` of a command line is `auto`."""
    named = [option_values(option) for option in group_options(typed) if option_name(option) == "ckpt_path"]
    return named[-1:] == [[AUTO]]
