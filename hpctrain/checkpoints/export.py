"""Weights as a file for other programs: safetensors, TorchScript (traced) or ONNX.

Takes a run and its weights; writes one file, whole or not at all. Writing imports torch.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
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
            made = f"{len(weights)} tensors"
        else:
            made = _trace(run, weights, draft, onnx=form == "onnx")
        draft.replace(output)
    return made


def _trace(run: RunDir, weights: dict[str, Tensor], path: Path, onnx: bool) -> str:
    """Trace the network in evaluation mode with one batch of example inputs. Returns what was made.

    Raises RunFailed if that fails.
    """
    import torch

    from hpctrain import models
    from hpctrain.config.load import from_dict

    config = from_dict(run.network_config())
    network = config.model
    model = models.build(network.name, network.settings, target=network.target)
    # A module's extra state (training/state.py) is not among the weights, which were checked when they were read.
    model.load_state_dict(weights, strict=not any("_extra_state" in name for name in model.state_dict()))
    model.eval()
    if network.target is not None:
        inputs: tuple[Any, ...] = (torch.zeros(2, *config.data.shape),)
    else:
        inputs = models.example_inputs(network.name, network.settings, 2, device="cpu")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer and the exporter warn about their own code
        try:
            if onnx:
                return _to_onnx(model, inputs, path)
            torch.jit.trace(model, inputs, check_trace=False).save(str(path))
            return "TorchScript"
        except Exception as error:
            why = " ".join(str(error).split())[:200]
            raise RunFailed(
                Reason.ERROR, f"{network.name} cannot be traced: {type(error).__name__}: {why}"
            ) from None


def _to_onnx(model: Any, inputs: tuple[Any, ...], path: Path) -> str:
    """Writes the ONNX file, for batches of any size if the network's code allows it. Returns what was made."""
    import torch

    def export(**shapes: Any) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            torch.onnx.export(
                model, inputs, str(path), dynamo=True, verbose=False, external_data=False, **shapes
            )

    try:
        export(dynamic_shapes=tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs))
    except Exception:  # of many kinds: the code makes a number of the batch's size
        export()
        return f"ONNX, for batches of {len(inputs[0])} alone: the network's code fixes their size"
    return "ONNX, for batches of any size"
