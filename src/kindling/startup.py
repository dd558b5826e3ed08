"""What makes `kindling` start sooner than `import torch, lightning, torchmetrics` takes by itself."""

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


class Deferred(ModuleType):
    """Stands in for a module until something of it is used, a module within it included."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


@contextmanager
def quick_imports() -> Iterator[None]:
    """For the first import of torch and Lightning: two cores took 4.1 s in place of 7.5 s.

    - The imports make a million objects that live on. Looking through them for garbage, again and again while
      importing and training, took 2.5 s.
    - torchmetrics imports scipy.signal, only to put `hamming` there for the sake of SRMRpy: 0.9 s. Who uses that metric
      imports torchmetrics.audio, which puts it there again.
    """
    if "torch" in sys.modules:
        yield
        return
    deferred = Deferred("scipy.signal")
    deferred.hamming = None  # type: ignore[attr-defined]
    sys.modules.setdefault(deferred.__name__, deferred)
    gc.disable()
    try:
        yield
    finally:
        if sys.modules.get(deferred.__name__) is deferred:
            del sys.modules[deferred.__name__]
        gc.freeze()
        gc.enable()
