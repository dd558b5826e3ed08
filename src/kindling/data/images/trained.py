"""Digests of the training images, which a checkpoint holds so that none of them is tested."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kindling.data.images.samples import Sample

logger = logging.getLogger(__name__)

TRAINED = "trained"  # key of the digests in a checkpoint, one after the other
DIGITS = 14  # of each, hexadecimal: of a million images, one is like one of another million with a probability of 1e-5


def digest_trained(samples: Sequence[Sample], digests: Sequence[bytes]) -> dict[str, str]:
    """Return the digests of the training images; not of those that are held out too, of which `fit` has warned."""
    digest_of = [(sample.split == "train", _shorten(digest)) for sample, digest in zip(samples, digests, strict=True)]
    held_out = {digest for is_train, digest in digest_of if not is_train}
    return {TRAINED: "".join(sorted({digest for is_train, digest in digest_of if is_train} - held_out))}


def merge_trained(states: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the digests of all images that some states were trained on; nothing if none of them has any."""
    known = [split_digests(state[TRAINED]) for state in states if TRAINED in state]
    return {TRAINED: "".join(sorted(set().union(*known)))} if known else {}


def split_digests(joined: str) -> set[str]:
    """Return the digests that a checkpoint holds one after the other."""
    return {joined[start : start + DIGITS] for start in range(0, len(joined), DIGITS)}


def are_unknown(fitted: Mapping[str, Any], digests: Iterable[bytes]) -> bool:
    """Return whether a model was trained on none of some images; False if the checkpoint has no digests."""
    trained = split_digests(fitted.get(TRAINED, ""))
    return bool(trained) and trained.isdisjoint(map(_shorten, digests))


def warn_same_names(root: Path, source: str) -> None:
    """Warn that unknown images with known names may be those of training, saved again."""
    logger.warning(
        f"the model was trained on none of the images of {root}, whose names are those of {source}: only one split of "
        f"them is used; to test all, move them to {root / 'test'}"
    )


def check_unseen(root: Path, samples: Sequence[Sample], digests: Sequence[bytes], fitted: Mapping[str, Any]) -> None:
    """Raise ValueError if a model was trained on some of the images, whatever their names are now."""
    trained = split_digests(fitted.get(TRAINED, ""))
    seen = [sample.file for sample, digest in zip(samples, digests, strict=True) if _shorten(digest) in trained]
    if seen:
        raise ValueError(
            f"the model was trained on {len(seen):,} of the {len(samples):,} {samples[0].split} images of {root}, such "
            f"as {seen[0]}: remove them, or use unseen images"
        )


def _shorten(digest: bytes) -> str:
    return digest.hex()[:DIGITS]
