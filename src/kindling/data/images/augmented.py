"""Base class of the data modules whose images can be augmented."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from typing_extensions import override

from kindling.data.augment import Augmentation
from kindling.data.auto_augment import AutoAugment
from kindling.data.auto_flip import choose_flip
from kindling.data.datamodule import BaseDataModule
from kindling.data.fitted_state import FittedState
from kindling.data.mixing import Mixing

logger = logging.getLogger(__name__)

FLIP = "flip"  # key of the choice of `--data.flip auto` in a checkpoint


class AugmentedImages(BaseDataModule):
    """Base class of data modules with images whose training samples can be augmented.

    Args:
        flip: Augmentation: whether to flip images horizontally with probability 0.5. With auto, they are flipped unless
            mirrored training images look like those with another label, as digits and arrows do.
        crop: Augmentation: smallest fraction of the area to crop at a random position; 1 turns it off.
        color: Augmentation: largest change of brightness, contrast and saturation; 0.2 draws factors from 0.8 to 1.2.
        degrees: Augmentation: largest rotation in either direction.
        shift: Augmentation: largest shift along each axis, as a fraction of its length.
        scale: Augmentation: largest change of size; 0.1 draws factors from 0.9 to 1.1.
        ratio: Augmentation: largest quotient of the sides of a crop; with 1.33 they are stretched by up to a third.
            It needs `crop`.
        auto_augment: Augmentation: one random operation for each image (ta_wide, TrivialAugment), or two moderate ones
            (ra, RandAugment).
        erasing: Augmentation: probability of filling a random box of an image with its mean color.
        mixup: Augmentation: mixes pairs of images and their classes in random shares, from a beta distribution with
            this parameter; 0 turns it off. It makes `train/accuracy` count the class with the larger share.
        cutmix: Augmentation: the same with a box of one image in the other; with both, each image is mixed by one.
        colour: Old name of `color`, which works for one more version.
        **loading: Batches and validation split, see `BaseDataModule`.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        flip: bool | Literal["auto"] = False,
        crop: float = 1.0,
        color: float = 0.0,
        degrees: float = 0.0,
        shift: float = 0.0,
        scale: float = 0.0,
        ratio: float = 1.0,
        auto_augment: AutoAugment | None = None,
        erasing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        colour: float | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        if colour is not None:
            logger.warning("note: the option colour has been renamed to color")
        self.augmentation = Augmentation(
            flip=flip,
            crop=crop,
            color=color or colour or 0.0,
            degrees=degrees,
            shift=shift,
            scale=scale,
            ratio=ratio,
            auto_augment=auto_augment,
            erasing=erasing,
        )
        self.mixing = Mixing(mixup, cutmix)
        self.augments = bool(self.augmentation) or bool(self.mixing)
        self._chooses_flip = flip == "auto"

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self.mixing and getattr(self, "task", None) not in ("classification", "multilabel"):
            raise ValueError(
                f"MixUp and CutMix need classes, but the targets of {self.origin} are not: leave out --data.mixup and "
                "--data.cutmix"
            )
        if stage == "fit" and self.augmentation.flip == "auto":
            self._set_flip(choose_flip(self.train, self.split_seed))

    @override
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        batch = super().on_after_batch_transfer(batch, dataloader_idx)
        if not (self.mixing and self._is_training and isinstance(batch, tuple)):
            return batch
        inputs, targets = batch
        return self.mixing(inputs, targets, self.num_classes)  # type: ignore[attr-defined]

    @override
    def state_dict(self) -> dict[str, Any]:
        flip = self.augmentation.flip
        return super().state_dict() | ({FLIP: flip} if self._chooses_flip and flip != "auto" else {})

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._chooses_flip and FLIP in state_dict:
            self._set_flip(state_dict[FLIP])
        super().load_state_dict(without_flip(state_dict))

    @override
    def combine_fitted(self, states: Sequence[FittedState]) -> None:
        super().combine_fitted([*map(without_flip, states)])

    def _set_flip(self, flip: bool) -> None:
        self.augmentation = replace(self.augmentation, flip=flip)
        self.augments = bool(self.augmentation) or bool(self.mixing)


def without_flip(state: FittedState) -> FittedState:
    """Return the state of a data module without the choice of `--data.flip auto`."""
    return {name: value for name, value in state.items() if name != FLIP}
