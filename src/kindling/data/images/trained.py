"""Digests of the training images, which a checkpoint holds so that none of them is tested."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from kindling.data.images.samples import Sample

logger = logging.getLogger(__name__)

TRAINED = "trained"  # key of the digests in a checkpoint, one after the other
DIGITS = 14  # of each, hexadecimal: of a million images, one is like one of another million with a probability of 1e-5
MARK = "-"  # begins the entry of a duplicate


def digest_trained(samples: Sequence[Sample], digests: Sequence[bytes]) -> dict[str, str]:
    """Return the digests of the training images, and marks of duplicates in other splits, of which `fit` warns."""
    pairs = [*zip(samples, digests, strict=True)]
    trained = {_shorten(digest) for sample, digest in pairs if sample.split == "train"}
    held_out = [(sample, digest) for sample, digest in pairs if sample.split != "train"]
    copies = {_mark(sample, digest) for sample, digest in held_out if _shorten(digest) in trained}
    return {TRAINED: "".join(sorted(trained | copies))}


def merge_trained(states: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the digests of all images that some states were trained on; nothing if none of them has any.

    A duplicate stays marked if all states mark it: the model of another state may have been trained on it.
    """
    known = [split_digests(state[TRAINED]) for state in states if TRAINED in state]
    if not known:
        return {}
    trained = {digest for digest in set.union(*known) if not digest.startswith(MARK)}
    return {TRAINED: "".join(sorted(trained | set.intersection(*known)))}


def split_digests(joined: str) -> set[str]:
    """Return the digests and marks that a checkpoint holds one after the other."""
    return {joined[start : start + DIGITS] for start in range(0, len(joined), DIGITS)}


def are_unknown(fitted: Mapping[str, Any], digests: Iterable[bytes]) -> bool:
    """Return whether a model was trained on none of some images; False if the checkpoint has no digests."""
    trained = split_digests(fitted.get(TRAINED, ""))
    return bool(trained) and trained.isdisjoint(map(_shorten, digests))


def rename(root: Path, labels: Path | None) -> str:
    """Return the advice for new images that have the file names of training images."""
    return f"give them other names in {labels}" if labels else f"move them to {root / 'test'}"


def warn_same_names(root: Path, source: str, labels: Path | None) -> None:
    """Warn that unknown images with the file names of training images may be re-saved copies of them."""
    logger.warning(
        f"the images of {root} have the file names of {source}, but other contents: only one split is used, which is "
        f"correct if they are re-saved copies; if they are new images, {rename(root, labels)} to test on all of them"
    )


def check_unseen(root: Path, samples: Sequence[Sample], digests: Sequence[bytes], fitted: Mapping[str, Any]) -> None:
    """Raise ValueError if a model was trained on some of the images, whatever their names are now."""
    trained = split_digests(fitted.get(TRAINED, ""))
    pairs = zip(samples, digests, strict=True)
    seen = [each.file for each, digest in pairs if _shorten(digest) in trained and _mark(each, digest) not in trained]
    if seen:
        raise ValueError(
            f"the model was trained on {len(seen):,} of the {len(samples):,} {samples[0].split} images of {root}, such "
            f"as {seen[0]}: remove them, or use unseen images"
        )


def _shorten(digest: bytes) -> str:
    return digest.hex()[:DIGITS]


def _mark(copy: Sample, digest: bytes) -> str:
    """Return the mark of a held-out file that is a duplicate of a training image."""
    return MARK + blake2b(digest + copy.file.encode()).hexdigest()[: DIGITS - len(MARK)]
