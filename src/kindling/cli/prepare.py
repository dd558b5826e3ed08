"""`kindling prepare`: write the samples of a data source as shards, which `StreamingDataModule` reads."""

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import seed_everything

from kindling.cli.data_options import create_data, data_parser, parse_data
from kindling.data.datamodule import BaseDataModule
from kindling.data.streaming.manifest import Manifest
from kindling.data.streaming.sources import source_of
from kindling.data.streaming.writing import prepare_samples
from kindling.utils.console import as_command, say, silence_libraries
from kindling.utils.cores import share_of_cores
from kindling.utils.errors import UsageError
from kindling.utils.hyperparameters import check_range
from kindling.utils.text import count_noun, join_names, suggest_path

OPTIONS = {
    "--out": "Folder to write.",
    "--workers": "Processes that read and write samples; by default one per core.",
    "--size": "Height and width to resize images to. By default, image files are stored as they are.",
    "--shorter_side": "Store images whose shorter side has more pixels than this as JPEG of this size.",
    "--shard_mb": "Size of a shard in MB.",
}
MAX_MB = 2000  # LitData counts the bytes of a shard in 32 bits


def run(command: str, options: Sequence[str]) -> None:
    """Prepare data with the options on the command line.

    Raises:
        ValueError: If there are no usable samples, or the folder holds something else.
        UsageError: If the options are invalid.
    """
    silence_libraries()
    parser = data_parser(command)
    parser.add_argument("--out", type=str, required=True, help=OPTIONS["--out"])
    parser.add_argument("--workers", type=int, default=share_of_cores(1), help=OPTIONS["--workers"])
    parser.add_argument("--size", type=int | None, default=None, help=OPTIONS["--size"])
    parser.add_argument("--shorter_side", type=int | None, default=None, help=OPTIONS["--shorter_side"])
    parser.add_argument("--shard_mb", type=float, default=64.0, help=OPTIONS["--shard_mb"])
    config, seed = parse_data(parser, command, with_source(options), OPTIONS)
    check_range("workers", config["workers"], 0)
    check_range("shard_mb", config["shard_mb"], 0.001, MAX_MB)
    for name in ("size", "shorter_side"):
        if config[name] is not None:
            check_range(name, config[name], 1)
    if None not in (config["size"], config["shorter_side"]):
        raise UsageError("--size stores pixels and --shorter_side files: choose one")
    seed_everything(seed, verbose=False)
    data = create_data(parser, config)
    out, settings = Path(config["out"]), {name: config[name] for name in ("size", "shorter_side", "shard_mb")}
    split_seed = data.split_seed if isinstance(data, BaseDataModule) else seed
    source = source_of(data, config["size"], config["shorter_side"], repr(config["data"]))
    manifest, was_prepared = prepare_samples(source, out, settings, config["workers"], split_seed)
    if was_prepared:
        say(f"{out} is already prepared: if samples have changed since, delete it or choose another --out")
    else:
        print_manifest(manifest, out)
    recipe = "--config images_cnn" if manifest.kind == "images" else "--model MLPClassifier"
    say(f"next: {as_command('kindling', 'fit', f'{recipe} --data StreamingDataModule --data.path', out)}")


def with_source(options: Sequence[str]) -> list[str]:
    """Return the options with `--data` in place of a folder or file that comes first."""
    if not options or options[0].startswith("-"):
        return [*options]
    source, *others = options
    if Path(source).is_dir():
        return ["--data", "ImageFolderDataModule", "--data.data_dir", source, *others]
    if Path(source).exists():
        return ["--data", "TableDataModule", "--data.path", source, *others]
    advice = suggest_path(source) or ": give a folder of images, a CSV or Parquet file, or --data NAME"
    raise UsageError(f"{source} not found{advice}")


def print_manifest(manifest: Manifest, out: Path) -> None:
    """Print a summary of the shards that were written, and the broken samples."""
    sizes = join_names([f"{split.samples:,} {name}" for name, split in manifest.splits.items()])
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    size = sum(shard.bytes for shard in shards) / 1e6
    total = sum(shard.samples for shard in shards)
    say(f"{out}: {total:,} samples ({sizes}) in {count_noun(len(shards), 'shard', 'shards')}, {size:,.1f} MB")
    if manifest.broken:
        say(f"left out: {count_noun(manifest.broken, 'broken sample', 'broken samples')}, such as")
        for name, reason in manifest.broken_examples.items():
            say(f"  {name}: {reason}")
