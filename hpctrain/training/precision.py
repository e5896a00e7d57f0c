"""The number format of a run, as its device can do it; and which batch fits where one does not.

Takes the precision settings and a device; gives contexts and words. Weights and the optimiser stay fp32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from hpctrain.config import PrecisionConfig
from hpctrain.errors import RunFailed
from hpctrain.flops.peaks import cpu_has_bf16

if TYPE_CHECKING:
    from hpctrain.training.step import Trainer


def settle(settings: PrecisionConfig, device: torch.device) -> PrecisionConfig:
    """`auto` as the fastest safe format: bf16 where the device computes with it, else fp32.

    Raises RunFailed where bf16 is asked for and the device has none (launch/local.py knows of CPUs beforehand).
    """
    if settings.name == "fp32":
        return settings
    able = (
        torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else cpu_has_bf16()
    )
    if settings.name == "auto":
        return replace(settings, name="bf16" if able else "fp32")
    if not able:
        raise RunFailed("ERROR", "precision=bf16: this device computes no bfloat16; allowed: fp32, auto")
    return settings


def autocast(precision: str, device: torch.device) -> Callable[[], Any]:
    """The context of a forward pass."""
    if precision == "fp32":
        return contextlib.nullcontext
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16)


def out_of_memory(error: BaseException) -> bool:
    """Whether it says that an allocation failed, on a GPU or in the host's memory."""
    said = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in said or "can't allocate memory" in said)
    )


def advice(trainer: Trainer, device: torch.device) -> str:
    """After a step that did not fit: the largest half, quarter, ... of the batch that does, tried out."""
    import numpy as np

    asked = size = trainer.batch_size
    while size > 1:
        size //= 2
        if device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            trainer.exchange.begin()
            indices = np.arange(size, dtype=np.int64) % len(trainer.dataset)
            batch = trainer.dataset.batch(indices, torch.Generator())
            with trainer.autocast():
                total, _, _ = trainer.task.loss(trainer.model, batch, None)
            total.backward()
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            continue
        return (
            f"train.batch_size={asked} does not fit in memory; train.batch_size={size} does (train.accumulate"
            f" {-(-asked // size)} times what it is keeps the effective batch)"
        )
    return f"train.batch_size={asked} does not fit in memory, and neither does 1"
