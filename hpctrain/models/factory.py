"""Builds networks by name, loads their weights, and makes inputs for counting.

Takes a model's name and its settings dataclass, returns a torch.nn.Module. Reads the weight file;
`target` imports the user's module. Initial weights come from torch's global generator alone.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import UninitializedParameter

from hpctrain.errors import UserError, choose, listing, said
from hpctrain.models.outputs import WithAuxiliary
from hpctrain.models.settings import CUSTOM, NETWORKS, check_target

__all__ = ["WithAuxiliary", "build", "check_tail", "check_trainable", "example_inputs", "initialise"]

NAMED = 20  # weights in a message
EXTRA_STATE = "_extra_state"  # torch's name for what a module keeps beside tensors


def build(
    name: str,
    settings: Any,
    *,
    device: torch.device | str = "cpu",
    weights: Path | str | None = None,
    target: str | None = None,
) -> nn.Module:
    """Returns the network `name`, or an instance of the class `target`, on `device`.

    On "meta" nothing is allocated, unless a `target` can only be built with data: then it is on the CPU. For other
    devices it is built on the CPU and then moved, so that equal seeds give equal weights on every device. Raises
    UserError.
    """
    if target is None and name not in NETWORKS:
        raise choose("model.name", name, NETWORKS)
    meta = torch.device(device).type == "meta"
    place = torch.device("meta" if meta else "cpu")
    if target is None:
        with place:
            model: nn.Module = pkgutil.resolve_name(NETWORKS[name].module)(settings)
    else:
        model = _from_target(target, settings, place)
    if weights is not None:
        _load(model, Path(weights))
    return model if meta else model.to(device)


def check_trainable(model: nn.Module) -> None:
    """Raises UserError for parameters that cannot be trained here: none that needs a gradient, or complex ones."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(
            "model.target",
            type(model).__name__,
            "has no parameter to train: all are frozen, or none is there",
        )
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.is_complex():
            raise UserError(
                "model.target", type(model).__name__, f"its parameter {name} is complex: keep it as a real parameter "
                "(..., 2), and use torch.view_as_complex on it"
            )  # fmt: skip


Samples = Callable[[int], Sequence[Tensor]]


def check_tail(model: nn.Module, samples: Samples, fewest: int) -> None:
    """Raises UserError if the network cannot train on the smallest part of a batch, which has `fewest` samples.

    `samples` returns so many samples, tensors (B, ...) as `forward` takes them. Batch norm needs more than one value
    per channel.
    """
    if fewest != 1 or not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return
    state = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            model(*samples(1))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UserError(
                "data.drop_last", "false", "the last batch of an epoch has one sample for a rank, of which batch norm "
                "makes nothing: data.drop_last=true leaves such batches out, or choose another train.batch_size"
            ) from None  # fmt: skip
        finally:
            for name, buffer in model.named_buffers():
                buffer.copy_(state[name])


def initialise(model: nn.Module, samples: Samples) -> None:
    """Gives lazy modules their parameters, by a forward pass of two `samples`: tensors (B, ...) as `forward` takes."""
    if any(isinstance(parameter, UninitializedParameter) for parameter in model.parameters()):
        with torch.no_grad():
            model(*samples(2))


def example_inputs(
    name: str,
    settings: Any,
    batch: int,
    *,
    device: torch.device | str = "meta",
    input_shape: Sequence[int] | None = None,
    length: int | None = None,
) -> tuple[Tensor, ...]:
    """Returns zero inputs for `batch` samples, as the network's forward takes them; all lengths are full.

    Images (B, C, H, W); tokens (B, T) int64; spectrogram (B, 1, F, T); source (B, S), its lengths (B,)
    and target (B, S). `input_shape` and `length` (words or frames) override the settings' own. Raises
    UserError if a `target`'s input shape is not given.
    """
    takes = NETWORKS.get(name, CUSTOM).inputs
    if takes != "image":
        length = length or settings.example_length
        if takes == "spectrogram":
            return (torch.zeros(batch, 1, settings.frequency_bins, length, device=device),)
        tokens = torch.zeros(batch, length, dtype=torch.int64, device=device)
        if takes == "tokens":
            return (tokens,)
        return tokens, torch.full((batch,), length, device=device), tokens
    shape = input_shape or getattr(settings, "input_shape", None)
    if shape is None:
        raise UserError("input", "", "give the input's shape, as in input=3x224x224")
    return (torch.zeros(batch, *shape, device=device),)


def _from_target(target: str, settings: Mapping[str, Any], place: torch.device) -> nn.Module:
    """Returns an instance of `package.module:Class`, with the settings as keyword arguments. Raises UserError.

    It is made at `place`, or on the CPU if its code needs the values of tensors.
    """
    check_target(target)
    module_name, _, class_name = target.partition(":")
    try:
        kind = getattr(importlib.import_module(module_name), class_name)
    except (Exception, SystemExit) as error:  # the user's own code may raise anything
        raise UserError(
            "model.target", target, f"cannot be imported: {error or type(error).__name__}"
        ) from None
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise UserError("model.target", target, "must name a subclass of torch.nn.Module")
    try:
        with place:
            return kind(**settings)
    except (Exception, SystemExit) as error:
        if place.type == "meta":
            return _from_target(target, settings, torch.device("cpu"))
        raise UserError(
            "model.target", target, f"cannot be built from these settings: {said(error)}"
        ) from None


def _load(model: nn.Module, path: Path) -> None:
    """Copies the weights of a safetensors or torch file; every name and shape must agree. Raises UserError."""
    weights, own = _read(path), model.state_dict()
    # Files older than PyTorch 0.4.1 lack batch norm's counter, which no published result depends on.
    # Safetensors lack what modules keep beside tensors.
    spared = ("num_batches_tracked", EXTRA_STATE)
    missing = [key for key in own if key not in weights and not key.endswith(spared)]
    shapes = [
        f"{key} ({_shape(weights[key])} where {_shape(own[key])} is needed)"
        for key in own
        if key in weights and not key.endswith(EXTRA_STATE) and weights[key].shape != own[key].shape
    ]
    numbers = [
        f"{key} ({_numbers(weights[key])} where {_numbers(own[key])} is needed)"
        for key in own
        if key in weights and not key.endswith(EXTRA_STATE) and _numbers(weights[key]) != _numbers(own[key])
    ]
    faults = {
        "missing": missing,
        "unexpected": [key for key in weights if key not in own],
        "mis-shaped": shapes,
        "of other numbers": numbers,
    }
    text = "; ".join(f"{fault}: {listing(keys, NAMED)}" for fault, keys in faults.items() if keys)
    if text:
        raise UserError("model.weights", path, f"does not fit the model; {text}")
    model.load_state_dict(
        weights, strict=False, assign=any(getattr(kept, "is_meta", False) for kept in own.values())
    )


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError("model.weights", path, "no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds; all mean that this is not a weight file
        reason = str(error).strip().partition("\n")[0]
        raise UserError("model.weights", path, f"is not a readable weight file: {reason}") from None
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and (isinstance(value, Tensor) or key.endswith(EXTRA_STATE))
        for key, value in content.items()
    ):
        raise UserError("model.weights", path, "must hold a state dict: names to tensors")
    return dict(content)


def _numbers(tensor: Tensor) -> str:
    return "complex" if tensor.is_complex() else "float" if tensor.is_floating_point() else "integer"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
