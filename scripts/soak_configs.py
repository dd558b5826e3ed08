"""The configurations that `soak.py` trains, each in a few seconds, and their data."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from kindling.cli import main as kindling

MLP = (
    "--model MLPClassifier --model.hidden [16] --model.dropout 0.3 --data SyntheticDataModule --data.num_samples 600 "
    "--data.batch_size 32 --data.eval_batch_size 16 --trainer.max_epochs 4 --trainer.log_every_n_steps 3 "
)
PLATEAU = (
    "--model.lr_scheduler torch.optim.lr_scheduler.ReduceLROnPlateau --model.lr_scheduler.patience 0 "
    "--model.lr_scheduler.threshold 10 --model.lr_scheduler.threshold_mode abs --model.optimizer.lr 0.01 "
)
CNN = "--model CNNClassifier --model.channels [4,8] --model.batch_norm true --trainer.max_epochs 3 "
ONE_CYCLE = "--model.lr_scheduler OneCycleLR --model.lr_scheduler.max_lr 0.01 "
IMAGES = "--data ImageFolderDataModule --data.data_dir {data}/images --data.batch_size 8 --data.memory_gb 0 "
DDP = (
    "--trainer.accelerator cpu --trainer.devices 2 --trainer.strategy ddp --trainer.sync_batchnorm true "
    "--model.batch_norm true --data.batch_size 64 "
)


@dataclass(frozen=True)
class Config:
    """A configuration of the runs that are killed and resumed.

    Attributes:
        options: Options of `kindling fit`; `{data}` stands for the folder of the data.
        temporary: Value of `$TMPDIR`, if it matters.
        processes: Number of processes of the run.
        weight: How often it is chosen relative to the others.
    """

    options: str
    temporary: str = ""
    processes: int = 1
    weight: float = 1.0

    def command(self, data: Path) -> list[str]:
        """Return the options of `kindling` that start a run.

        Args:
            data: Folder filled by `write_data`.
        """
        return ["fit", "--run_name", "soak", *self.options.format(data=data).split()]


CONFIGS = {
    "plateau": Config(MLP + PLATEAU),
    "one_cycle": Config(
        CNN + ONE_CYCLE + "--data MNISTDataModule --data.source sample --data.batch_size 64 --data.val_split 0.125 "
        "--data.degrees 10 --data.shift 0.1 --trainer.limit_train_batches 12 --trainer.limit_test_batches 4"
    ),
    "accumulation": Config(
        MLP + PLATEAU + "--trainer.accumulate_grad_batches 2 --trainer.val_check_interval 0.25 "
        "--trainer.gradient_clip_val 0.5 --early_stopping.patience null"
    ),
    "bf16_workers": Config(
        CNN + ONE_CYCLE + IMAGES + "--data.flip true --data.num_workers 2 --trainer.precision bf16-mixed"
    ),
    "images": Config(CNN + IMAGES + "--data.crop 0.7 --data.flip true --data.color 0.2"),
    "stream": Config(
        CNN + ONE_CYCLE + "--data StreamingDataModule --data.path {data}/shards --data.window 2 --data.batch_size 8 "
        "--data.num_workers 2 --data.cache_dir {data}/copies --data.crop 0.7"
    ),
    "table": Config(
        "--model MLPClassifier --model.hidden [16] --model.dropout 0.2 --model.warmup_epochs 1 --data TableDataModule "
        "--data.path {data}/table.csv --data.target churned --data.batch_size 16 --trainer.max_epochs 4"
    ),
    "transfer": Config(
        "--model TransferClassifier --model.backbone shufflenet_v2_x0_5 --model.weights none --model.unfreeze_epoch 2 "
        "--model.lr_scheduler OneCycleLR --model.lr_scheduler.max_lr 0.01 --data DigitsDataModule --data.shots 10 "
        "--data.batch_size 20 --data.val_split 0.2 --trainer.max_epochs 4"
    ),
    "every_n_steps": Config(MLP + ONE_CYCLE + "--checkpoint.every_n_steps 3"),
    "ddp": Config(MLP + ONE_CYCLE + DDP, processes=2, weight=0.3),
    "ema": Config(MLP + "--averaging EMA --averaging.decay 0.9"),
    "swa": Config(MLP + "--averaging SWA --averaging.start_epoch 1"),
    "tmpdir": Config(MLP.replace("[16]", "[512,512]"), temporary="/dev/shm"),
    "best_accuracy": Config(
        MLP + "--model.optimizer SGD --model.optimizer.lr 0.3 --model.optimizer.momentum 0.9 "
        "--checkpoint.monitor val/accuracy --checkpoint.mode max --early_stopping.patience null --seed_everything 7"
    ),
}


def usable(name: str, folder: Path) -> bool:
    """Return whether this machine has what a configuration needs: for `tmpdir`, a second file system."""
    temporary = CONFIGS[name].temporary
    return not temporary or (os.path.isdir(temporary) and os.stat(temporary).st_dev != os.stat(folder).st_dev)


def write_data(folder: Path) -> None:
    """Write images of two classes, as files and as shards, and a table; always the same."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(60):
        brightness = 60 + 80 * (number % 2)
        pixels = random.integers(brightness, brightness + 80, (12, 12, 3), dtype=np.uint8)
        path = folder / "images" / f"class_{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    images, shards = str(folder / "images"), str(folder / "shards")
    assert kindling(["prepare", images, "--out", shards, "--shard_mb", "0.002", "--workers", "0"]) == 0
    age, plan = random.integers(18, 80, 300), random.choice(["basic", "plus", "pro"], 300)
    spent = np.where(random.random(300) < 0.1, np.nan, random.gamma(2, 50, 300).round(2))
    churned = np.where(age + 20 * (plan == "pro") + random.normal(0, 5, 300) > 55, "yes", "no")
    table = pd.DataFrame({"age": age, "plan": plan, "spent": spent, "churned": churned})
    table.to_csv(folder / "table.csv", index=False)
