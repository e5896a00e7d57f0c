"""Number format and compilation of a run, as far as its device supports them, and advice if a batch does not fit.

Takes the precision settings, a device and a model; returns contexts and messages. Weights and the optimiser stay fp32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hpctrain.config.settings import PrecisionConfig
from hpctrain.errors import RunFailed
from hpctrain.hardware import cpu_has_bf16
from hpctrain.storage.run_state import Reason, says_out_of_memory
from hpctrain.training.comm import Comm

if TYPE_CHECKING:
    from hpctrain.training.step import Trainer


def settle(settings: PrecisionConfig, device: torch.device) -> PrecisionConfig:
    """Returns the settings with `auto` replaced by the fastest safe format: bf16 if the device has it, else fp32.

    Raises RunFailed if bf16 is asked for and the device does not have it (launch/local.py checks CPUs beforehand).
    """
    if settings.name == "fp32":
        return settings
    able = (
        torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else cpu_has_bf16()
    )
    if settings.name == "auto":
        return replace(settings, name="bf16" if able else "fp32")
    if not able:
        raise RunFailed(Reason.ERROR, "precision=bf16: this device has no bfloat16; allowed: fp32, auto")
    return settings


def autocast(precision: str, device: torch.device) -> Callable[[], Any]:
    """Returns a function that makes the context of a forward pass."""
    if precision == "fp32":
        return contextlib.nullcontext
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16)


def tf32_allowed() -> tuple[bool, bool]:
    """Returns whether torch may multiply fp32 as TF32 on a GPU that has it: in matrix products, and in cuDNN's layers.

    By default it may in cuDNN's (convolutions, recurrent layers). If a user's code has set torch's newer switches, the
    old ones cannot be read: both count as allowed, so that a share of the peak is never too large.
    """
    try:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return True, True


def compile_blocks(model: nn.Module, **options: Any) -> list[str]:
    """Compile each block of `model` by itself with torch.compile, in place. Returns the names of the blocks.

    A graph of the whole model would deliver all gradients at its end, and no computing would be left to hide their
    exchange. A block is a member of a sequence inside the model, or a child that is not a sequence. Recurrent layers
    keep the kernels of their library. `options` are those of torch.compile.
    """
    blocks: dict[str, nn.Module] = {}
    for name, child in model.named_children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            blocks |= {f"{name}.{number}": block for number, block in child.named_children()}
        else:
            blocks[name] = child
    chosen = {name: block for name, block in blocks.items() if _worth_compiling(block)}
    for block in chosen.values():
        block.compile(dynamic=False, **options)
    return list(chosen)


def _worth_compiling(block: nn.Module) -> bool:
    """Whether compilation can help: a single library call gains nothing."""
    modules = list(block.modules())
    return len(modules) > 1 and not any(isinstance(m, nn.RNNBase | nn.Embedding) for m in modules)


def out_of_memory(error: BaseException) -> bool:
    """Returns whether the error says that an allocation failed, on a GPU or in the host's memory."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and says_out_of_memory(str(error))
    )


def advice(trainer: Trainer, device: torch.device) -> str:
    """Returns what to set after a step that did not fit: the largest half, quarter, ... of the batch that fits.

    Tries them on this rank alone.
    """
    import numpy as np

    asked = size = trainer.batch_size
    trainer.norms.comm, trainer.norms.together = Comm(), True  # the other ranks do not take part
    while size > 1:
        size //= 2
        if device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            trainer.exchange.begin()
            indices = np.arange(size, dtype=np.int64) % len(trainer.dataset)
            batch = trainer.dataset.batch(indices, torch.Generator())
            total, _, _ = trainer.forward(batch)
            total.backward()
        except ValueError:  # batch norm of a single value
            continue
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            continue
        return (
            f"train.batch_size={asked} does not fit in memory; train.batch_size={size} does (train.accumulate"
            f" {-(-asked // size)} times what it is keeps the effective batch)"
        )
    return f"train.batch_size={asked} does not fit in memory, and neither does 1"
