"""Data sets. `check` finds bad files without torch; `load` and the classes import torch when first used.

A data set has `len()`, `to(device)`, `batch(indices, generator)`, which returns tensors, inputs first and targets
last, and `shuffle`: True if the order is drawn anew each epoch, False if neighbouring samples continue each other
and are read as streams. `generator` is passed in training only, for augmentation. A set that reads ahead also has
`expect(batches)`, and a set of images `resize(pixels)`.
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
