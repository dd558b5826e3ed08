import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from kindling.data.group_splits import find_crossing, hold_out_groups
from kindling.data.time_splits import find_older, hold_out_newest


def samples(seed: int, number: int, groups: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Groups of very different sizes, each with classes of its own."""
    random = np.random.default_rng(seed)
    sizes, shares = random.lognormal(0, 1, groups), random.dirichlet(np.ones(classes), groups)
    owners = random.choice(groups, number, p=sizes / sizes.sum())
    return owners, np.array([random.choice(classes, p=shares[owner]) for owner in owners])


def errors(held_out: np.ndarray, labels: np.ndarray, fraction: float) -> tuple[float, float]:
    """How far the size is from the wanted one; and the share of a class from that in all samples, at most."""
    shares = [np.bincount(each, minlength=labels.max() + 1) / len(each) for each in (labels, labels[held_out])]
    return abs(held_out.mean() - fraction), float(np.abs(shares[0] - shares[1]).max())


@pytest.mark.parametrize(
    ("number", "groups", "classes", "fraction"), [(1000, 50, 3, 0.2), (1000, 12, 2, 0.2), (1000, 30, 2, 0.3)]
)
def test_groups_stay_whole_and_come_closer_than_scikit_learns(
    number: int, groups: int, classes: int, fraction: float
) -> None:
    ours, theirs = [], []
    for seed in range(5):
        owners, labels = samples(seed, number, groups, classes)
        held_out = hold_out_groups(owners, labels, fraction, seed)
        assert not {*owners[held_out]} & {*owners[~held_out]}
        assert (held_out == hold_out_groups(owners, labels, fraction, seed)).all()
        ours.append(errors(held_out, labels, fraction))
        folds = StratifiedGroupKFold(round(1 / fraction), shuffle=True, random_state=seed).split(labels, labels, owners)
        theirs.append(errors(np.isin(np.arange(number), next(iter(folds))[1]), labels, fraction))
    assert (np.mean(ours, axis=0) <= np.mean(theirs, axis=0)).all()
    assert np.mean(ours, axis=0)[0] < 0.02


def test_another_seed_holds_out_other_groups_the_largest_one_too() -> None:
    owners = np.repeat(np.arange(20), np.arange(5, 25))
    labels = np.random.default_rng(0).integers(0, 2, len(owners))
    drawn = [np.unique(owners[hold_out_groups(owners, labels, 0.2, seed)]).tolist() for seed in range(30)]
    assert len({*map(tuple, drawn)}) > 20
    held_out = np.bincount(np.concatenate(drawn), minlength=20)
    assert held_out.min() > 0
    assert held_out.max() < 20


def test_a_class_of_one_group_is_trained_on() -> None:
    owners, labels = np.repeat(np.arange(4), 5), np.array([0] * 5 + [1] * 15)
    for seed in range(10):
        assert not hold_out_groups(owners, labels, 0.25, seed)[:5].any()
    with pytest.raises(ValueError, match="has a label that no other group has"):
        hold_out_groups(owners[:10], labels[:10], 0.5, 0)
    assert hold_out_groups(owners[:10], labels[:10], 0.5, 0, keep_labels=False).sum() == 5
    with pytest.raises(ValueError, match=r"no group can be held out: each is the only one$"):
        hold_out_groups(owners[:5], labels[:5], 0.5, 0)


def test_groups_that_cross_a_split_are_found() -> None:
    groups = np.array([3, 1, 1, 3, 2])
    assert find_crossing(groups, np.array(["train", "val", "val", "train", "test"], dtype=object)) is None
    assert find_crossing(groups, np.array(["train", "val", "val", "test", "test"], dtype=object)) == (0, 3)


def test_the_newest_are_held_out_and_equal_times_stay_together() -> None:
    times = np.array([5.0, 1, 2, 3, 3, 3, 4, 9, 7, 8])
    assert times[hold_out_newest(times, 0.2)].tolist() == [9, 8]
    assert sorted(times[hold_out_newest(times, 0.6)]) == [4, 5, 7, 8, 9]  # 5 are closer to 6 than 8
    assert hold_out_newest(np.array([1.0, 1, 1, 2]), 0.9).tolist() == [False] * 3 + [True]
    with pytest.raises(ValueError, match="all have the same time"):
        hold_out_newest(np.ones(4), 0.5)


def test_what_is_older_than_a_training_sample_is_found() -> None:
    splits = np.array(["train", "train", "val", "test"], dtype=object)
    assert find_older(np.array([1.0, 2, 2, 3]), splits) is None  # as old is allowed
    assert find_older(np.array([1.0, 4, 2, 3]), splits) == (2, 1)
