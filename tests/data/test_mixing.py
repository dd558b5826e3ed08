import pytest
import torch
import torchvision.transforms.v2 as transforms
from torch import Tensor

from kindling.data.mixing import Mixing

SHARES = torch.linspace(0.05, 0.95, 19)


def numbered(number: int, size: int = 20) -> tuple[Tensor, Tensor]:
    """Return images, each of one value and with a label of its own."""
    labels = torch.arange(number)
    return labels.float().view(-1, 1, 1, 1).expand(number, 1, size, size) / number, labels


def test_mixup_takes_the_same_share_of_images_and_classes_of_each_pair() -> None:
    torch.manual_seed(0)
    images, labels = numbered(400)
    mixed, shares = Mixing(mixup=0.4)(images, labels, 400)
    torch.testing.assert_close(shares.sum(1), torch.ones(400))
    torch.testing.assert_close(mixed[:, 0, 3, 5], shares @ images[:, 0, 0, 0])
    own = shares[labels, labels]
    assert len(set(own.tolist())) > 300  # an amount for each image
    partners = shares.clone()
    partners[labels, labels] = 0
    assert (partners > 0).sum(1).max() == 1


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_shares_are_distributed_as_those_of_torchvision(alpha: float) -> None:
    torch.manual_seed(0)
    images, labels = numbered(3000, size=4)
    _, shares = Mixing(mixup=alpha)(images, labels, 3000)
    theirs = torch.stack([transforms.MixUp(alpha=alpha, num_classes=2)._dist.sample() for _ in range(3000)]).squeeze()
    ours = shares[labels, labels]
    below = [(values.unsqueeze(1) < SHARES).float().mean(0) for values in (ours, theirs)]
    torch.testing.assert_close(*below, atol=0.05, rtol=0)


def test_cutmix_boxes_are_those_of_torchvision() -> None:
    torch.manual_seed(0)
    images, labels = numbered(2000)
    mixed, shares = Mixing(cutmix=1.0)(images, labels, 2000)
    torch.testing.assert_close(mixed.mean((1, 2, 3)), shares @ images[:, 0, 0, 0], atol=1e-4, rtol=0)
    changed = (mixed - images).abs()[:, 0] > 1e-5
    heights, widths = changed.any(2).sum(1), changed.any(1).sum(1)
    assert torch.equal(changed.sum((1, 2)), heights * widths)  # one box
    box = transforms.CutMix(num_classes=2)
    theirs = [box.make_params([images[0]])["box"] for _ in range(2000)]
    expected = torch.tensor([[right - left, bottom - top] for left, top, right, bottom in theirs]).float()
    for mine, side in ((widths, 0), (heights, 1)):
        torch.testing.assert_close(mine.float().quantile(SHARES), expected[:, side].quantile(SHARES), atol=1.01, rtol=0)


def test_with_both_each_image_is_mixed_by_one_of_them() -> None:
    torch.manual_seed(0)
    images, labels = numbered(1000)
    mixed, _ = Mixing(mixup=1.0, cutmix=1.0)(images, labels, 1000)
    values = mixed.flatten(1)
    is_even = (values - values[:, :1]).abs().amax(1) < 1e-6
    assert 0.4 < is_even.float().mean() < 0.7  # MixUp, and boxes of no or the whole area


def test_several_classes_are_mixed_in_the_same_proportion() -> None:
    torch.manual_seed(0)
    images, labels = numbered(50)
    classes = torch.stack([labels % 2, labels % 3 == 0, torch.ones(50)], dim=1)
    mixed, shares = Mixing(mixup=1.0)(images, classes, 3)
    own = torch.stack([mixed[:, 0, 0, 0], *shares.T], dim=1)
    pairs = torch.stack([images[:, 0, 0, 0], *classes.T], dim=1)
    # Each mixture lies on the line between its own values and those of another sample.
    towards = pairs.unsqueeze(0) - pairs.unsqueeze(1)  # (50, 50, 4)
    along = (own - pairs).unsqueeze(1)
    share = (along * towards).sum(2) / towards.square().sum(2).clamp(min=1e-9)
    assert ((along - share.unsqueeze(2) * towards).abs().amax(2).amin(1) < 1e-4).all()
    assert torch.equal(shares[:, 2], torch.ones(50))


def test_a_single_image_stays_itself() -> None:
    images, labels = numbered(1)
    mixed, shares = Mixing(mixup=1.0, cutmix=1.0)(images, labels, 3)
    torch.testing.assert_close(mixed, images)
    assert shares.tolist() == [[1, 0, 0]]


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_a_negative_parameter_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be at least 0, got -1"):
        Mixing(**{name: -1.0})
