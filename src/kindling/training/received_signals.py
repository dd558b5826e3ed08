"""Signals that ask a training to stop, received by any of its processes."""

import signal
from types import FrameType
from typing import Any

from lightning.pytorch import Trainer

from kindling.utils.stop_signals import STOP_SIGNALS


class ReceivedSignals:
    """Notes a signal (`number`, 0 if none) instead of stopping at once; a second one stops at once."""

    def __init__(self) -> None:
        self.number = 0
        self._handlers: dict[int, Any] = {}

    def start(self) -> None:
        """Replace the handlers of the signals."""
        for number in STOP_SIGNALS:
            self._handlers[number] = signal.signal(number, self._note)

    def stop(self) -> None:
        """Restore the handlers of the signals."""
        while self._handlers:
            signal.signal(*self._handlers.popitem())

    def received(self, trainer: Trainer) -> int:
        """Return the signal that any of the processes has received; 0 if none has. All processes must call this."""
        decide = trainer.strategy.reduce_boolean_decision
        if not decide(self.number != 0, all=False):
            return 0
        return next(int(number) for number in reversed(STOP_SIGNALS) if decide(self.number == number, all=False))

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self.stop()
