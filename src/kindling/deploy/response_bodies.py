"""Predictions as the bodies of responses, whose size is limited."""

import asyncio
from math import prod

from pydantic_core import to_json
from starlette.exceptions import HTTPException
from torch import Tensor

from kindling.deploy.model_card import ModelCard
from kindling.deploy.request_bodies import Reserve
from kindling.deploy.responses import to_predictions
from kindling.utils.decision_threshold import THRESHOLD

MAX_ENTRIES = 100_000  # classes with their probabilities in a response, which take 30 MB before they are text
ENTRY_BYTES = 300
INLINE_ENTRIES = 2_000  # up to here, a thread would cost more


def count_entries(card: ModelCard, top: int, samples: int, positions: int = 1) -> int:
    """Return how many classes a response lists; 0 for numbers.

    Args:
        card: The model.
        top: Number of classes to list for each sample.
        samples: Number of samples.
        positions: Number of positions of each sample that have a class.

    Raises:
        HTTPException: If there are too many.
    """
    entries = samples * min(top, len(card.classes)) * positions
    check_entries(entries)
    return entries


def check_entries(entries: int) -> None:
    """Refuse a response that lists too many classes.

    Raises:
        HTTPException: If there are too many.
    """
    if entries > MAX_ENTRIES:
        raise HTTPException(
            413,
            f"the response would list {entries:,} classes, at most {MAX_ENTRIES:,}: send fewer samples, or ask for "
            "fewer classes with ?top=",
        )


async def response_body(outputs: Tensor, card: ModelCard, top: int, reserve: Reserve) -> bytes:
    """Return the predictions of a request as JSON; many are written in a thread.

    Args:
        outputs: See `to_predictions`.
        card: The model.
        top: Number of classes to list for each sample.
        reserve: See `BodyReader.reservation`.

    Raises:
        HTTPException: If there are too many.
    """
    entries = count_entries(card, top, len(outputs), prod(outputs.shape[2:]))
    if card.task == "multilabel":
        check_entries(entries := entries + int((outputs >= THRESHOLD).sum()))

    def write() -> bytes:
        return to_json({"predictions": to_predictions(outputs, str(card.task), card.classes, top, card.decision)})

    if max(entries, len(outputs)) <= INLINE_ENTRIES:
        return write()
    reserve(entries * ENTRY_BYTES)
    return await asyncio.to_thread(write)
