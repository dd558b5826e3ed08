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


def check_entries(entries: int) -> None:
    """Raise HTTPException if a response would list too many classes."""
    if entries > MAX_ENTRIES:
        raise HTTPException(
            413,
            f"the response would list {entries:,} classes, at most {MAX_ENTRIES:,}: send fewer samples, or ask for "
            "fewer classes with ?top=",
        )


async def response_body(outputs: Tensor, card: ModelCard, top: int, reserve: Reserve) -> bytes:
    """Return the predictions of a request as JSON with the `top` classes of each sample; many are written in a thread.

    Raises:
        HTTPException: If they list too many classes.
    """
    entries = len(outputs) * prod(outputs.shape[2:]) * min(top, len(card.classes))  # 0 for numbers
    if card.task == "multilabel":
        entries += int((outputs >= THRESHOLD).sum())
    check_entries(entries)

    def write() -> bytes:
        return to_json({"predictions": to_predictions(outputs, str(card.task), card.classes, top, card.decision)})

    if max(entries, len(outputs)) <= INLINE_ENTRIES:
        return write()
    reserve(entries * ENTRY_BYTES)
    return await asyncio.to_thread(write)
