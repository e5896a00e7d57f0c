"""Weights as a file for other programs: safetensors, TorchScript (traced) or ONNX.

Takes a run and its weights; writes one file, whole or not at all. Writing imports torch.
"""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpctrain.errors import RunFailed, UserError
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Reason

if TYPE_CHECKING:
    from torch import Tensor

FORMATS = {"safetensors": ".safetensors", "torchscript": ".pt", "onnx": ".onnx"}


def check(form: str) -> None:
    """Raises UserError if a format needs packages that are not installed."""
    if form == "onnx":
        missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError("--format", "onnx", "needs the extra: pip install 'hpctrain[onnx]'")


def write(run: RunDir, weights: dict[str, Tensor], form: str, output: Path) -> str:
    """Write the weights (...,) to one file, whole or not at all. Returns a description of it. Raises RunFailed."""
    with tempfile.TemporaryDirectory(dir=output.absolute().parent, prefix=".export.") as folder:
        draft = Path(folder) / output.name
        if form == "safetensors":
            from safetensors.torch import save_file

            save_file({name: tensor.contiguous() for name, tensor in weights.items()}, draft)
        else:
            _trace(run, weights, draft, onnx=form == "onnx")
        draft.replace(output)
    return {"safetensors": f"{len(weights)} tensors", "torchscript": "TorchScript", "onnx": "ONNX"}[form]


def _trace(run: RunDir, weights: dict[str, Tensor], path: Path, onnx: bool) -> None:
    """Trace the network in evaluation mode with one batch of example inputs. Raises RunFailed if that fails."""
    import torch

    from hpctrain import models
    from hpctrain.config.load import from_dict

    config = from_dict(run.network_config())
    network = config.model
    model = models.build(network.name, network.settings, target=network.target)
    model.load_state_dict(weights)
    model.eval()
    if network.target is not None:
        inputs: tuple[Any, ...] = (torch.zeros(2, *config.data.shape),)
    else:
        inputs = models.example_inputs(network.name, network.settings, 2, device="cpu")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer and the exporter warn about their own code
        try:
            if onnx:
                torch.onnx.export(model, inputs, str(path), dynamo=True, verbose=False, external_data=False)
            else:
                torch.jit.trace(model, inputs, check_trace=False).save(str(path))
        except Exception as error:
            why = " ".join(str(error).split())[:200]
            raise RunFailed(
                Reason.ERROR, f"{network.name} cannot be traced: {type(error).__name__}: {why}"
            ) from None
