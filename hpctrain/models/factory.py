"""Builds networks by name, loads their weights, and makes inputs for counting.

Takes a model's name and its settings dataclass, returns a torch.nn.Module. Reads the weight file;
`target` imports the user's module. Initial weights come from torch's global generator alone.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hpctrain.errors import UserError, choose
from hpctrain.models.outputs import WithAuxiliary
from hpctrain.models.settings import CUSTOM, NETWORKS, check_target

__all__ = ["WithAuxiliary", "build", "example_inputs"]


def build(
    name: str,
    settings: Any,
    *,
    device: torch.device | str = "cpu",
    weights: Path | str | None = None,
    target: str | None = None,
) -> nn.Module:
    """Returns the network `name`, or an instance of the class `target`, on `device`.

    On "meta" nothing is allocated. For other devices it is built on the CPU and then moved, so that equal seeds
    give equal weights on every device. Raises UserError.
    """
    if target is None and name not in NETWORKS:
        raise choose("model.name", name, NETWORKS)
    meta = torch.device(device).type == "meta"
    with torch.device("meta" if meta else "cpu"):
        model = (
            pkgutil.resolve_name(NETWORKS[name].module)(settings)
            if target is None
            else _from_target(target, settings)
        )
    if weights is not None:
        _load(model, Path(weights))
    return model if meta else model.to(device)


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


def _from_target(target: str, settings: Mapping[str, Any]) -> nn.Module:
    """Returns an instance of `package.module:Class`, with the settings as keyword arguments. Raises UserError."""
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
        return kind(**settings)
    except Exception as error:
        why = str(error) or type(error).__name__
        raise UserError("model.target", target, f"cannot be built from these settings: {why}") from None


def _load(model: nn.Module, path: Path) -> None:
    """Copies the weights of a safetensors or torch file; every name and shape must agree. Raises UserError."""
    weights, own = _read(path), model.state_dict()
    # Files older than PyTorch 0.4.1 lack batch norm's counter, which no published result depends on.
    missing = [key for key in own if key not in weights and not key.endswith("num_batches_tracked")]
    shapes = [
        f"{key} ({_shape(weights[key])} where {_shape(own[key])} is needed)"
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    ]
    faults = {
        "missing": missing,
        "unexpected": [key for key in weights if key not in own],
        "mis-shaped": shapes,
    }
    text = "; ".join(f"{fault}: {_listing(keys)}" for fault, keys in faults.items() if keys)
    if text:
        raise UserError("model.weights", path, f"does not fit the model; {text}")
    model.load_state_dict(weights, strict=False, assign=any(tensor.is_meta for tensor in own.values()))


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
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError("model.weights", path, "must hold a state dict: names to tensors")
    return dict(content)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _listing(names: Sequence[str], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
