"""Data sets. `check` finds bad files without torch; `load` and the classes import it when first used.

A data set is anything with `shuffle` (whether the order is drawn anew each epoch; else neighbours follow each
other, and are read as streams), `len()`, `to(device)`,
and `batch(indices, generator)`: tensors, inputs first and targets last. `generator` is given in training
only, for augmentation. One that reads ahead has `expect(batches)` too, and one of images `resize(pixels)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpctrain.data.check import check, count_samples

if TYPE_CHECKING:
    from hpctrain.data.loaders import Dataset, Feeding, Splits, load

__all__ = ["Dataset", "Feeding", "Splits", "check", "count_samples", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module("hpctrain.data.loaders"), name)
