"""A backbone that is frozen, then trained, in a run with several processes."""

from pathlib import Path

import pytest
import torch

from conftest import Command, different, weights
from ranks import Ranks

CNN = (
    "fit --model CNNClassifier --model.channels [8,8] --model.hidden 16 --model.batch_norm false --run_name cnn "
    "--data DigitsDataModule --data.shots 10 --trainer.max_epochs 1 --test_after_fit false"
).split()
# Four steps an epoch; frozen for two of them, then two more.
TRANSFER = (
    "fit --model TransferClassifier --model.backbone runs/cnn/version_0 --model.unfreeze_epoch 2 --model.backbone_lr 1 "
    "--model.optimizer.lr 0.01 --data DigitsDataModule --data.shots 10 --data.val_split 0.2 --data.batch_size 20 "
    "--trainer.max_epochs 4 --test_after_fit false --trainer.logger false"
).split()


def last(run: str) -> Path:
    return Path(f"runs/{run}/version_0/checkpoints/last.ckpt")


def stop_at(step: int) -> list[object]:
    return ["--trainer.callbacks", "helpers.SignalAt", "--trainer.callbacks.step", step]


@pytest.mark.slow
def test_several_processes_train_both_phases_as_one_does(kindling: Command) -> None:
    """Two processes reach the weights of one, and resume exactly in either phase."""
    assert kindling(*CNN).code == 0
    assert kindling(*TRANSFER, "--run_name", "one", "--model.cache_features", "false").code == 0
    results = Ranks(*TRANSFER, "--run_name", "two").wait()
    assert [result.code for result in results] == [0, 0], results[0].err
    assert results[0].err == "computing the features of 100 images once (--model.cache_features)\n"
    assert results[1].err == ""
    start, one, both = weights(last("cnn")), weights(last("one")), weights(last("two"))
    assert not torch.equal(both["network.backbone.0.weight"], start["network.0.weight"])
    for name in one:
        torch.testing.assert_close(both[name], one[name], rtol=1e-5, atol=1e-6)

    assert {result.code for result in Ranks(*TRANSFER, "--run_name", "stopped", *stop_at(5)).wait()} == {1}
    stopped = weights(last("stopped"))  # the backbone is still frozen
    assert torch.equal(stopped["network.backbone.0.weight"], start["network.0.weight"])
    resume = ["fit", "--ckpt_path", last("stopped")]
    assert {result.code for result in Ranks(*resume, *stop_at(9)).wait()} == {1}
    assert torch.load(last("stopped"), weights_only=True)["global_step"] == 10
    assert {result.code for result in Ranks(*resume, "--trainer.callbacks", "null").wait()} == {0}
    assert different(last("two"), last("stopped")) == []
