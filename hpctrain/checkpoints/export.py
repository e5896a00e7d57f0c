"""Weights as a file for other programs: safetensors, TorchScript (traced) or ONNX.

Takes a run and its weights; writes one file, whole or not at all. Writing imports torch.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hpctrain.config.tasks import TASK_KINDS
from hpctrain.errors import RunFailed, UserError
from hpctrain.models.network import FREE, Inputs
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Reason

if TYPE_CHECKING:
    from torch import Tensor, nn

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
    from hpctrain.models.factory import EXTRA_STATE
    from hpctrain.tasks import rehearsal

    config = from_dict(run.network_config())
    network = config.model
    model = models.build(network.name, network.settings, target=network.target)
    # A module's extra state (training/state.py) is not among the weights, which were checked when they were read.
    model.load_state_dict(weights, strict=not any(EXTRA_STATE in name for name in model.state_dict()))
    model.eval()
    if network.target is not None:
        takes, inputs = TASK_KINDS[config.task.name].inputs, rehearsal.inputs(config, 2)
    else:
        takes, inputs = (
            network.network.inputs,
            models.example_inputs(network.name, network.settings, 2, device="cpu"),
        )
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer and the exporter warn about their own code
        try:
            if onnx:
                return to_onnx(model, inputs, takes or "image", path)
            torch.jit.trace(model, inputs, check_trace=False).save(str(path))
            return "TorchScript"
        except Exception as error:
            why = " ".join(str(error).split())[:200]
            raise RunFailed(
                Reason.ERROR, f"{network.name} cannot be traced: {type(error).__name__}: {why}"
            ) from None


@contextlib.contextmanager
def _no_logs() -> Iterator[None]:
    """Keeps off the terminal what the exporter logs: packages that it does not need, and attempts that failed."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(before)


def to_onnx(model: nn.Module, inputs: tuple[Tensor, ...], takes: Inputs, path: Path) -> str:
    """Writes the network as an ONNX file, made from example inputs, tensors (B, ...). Returns a description of it.

    Batches and lengths may then be of any size (models/network.py, FREE), if the network's code allows it; else
    batches alone; else neither. Raises what torch's exporter raises.
    """
    import torch

    def export(free: tuple[dict[int, str], ...] | None) -> None:
        with contextlib.redirect_stdout(io.StringIO()), _no_logs():
            torch.onnx.export(
                model, inputs, str(path), dynamo=True, verbose=False, external_data=False, dynamic_shapes=free
            )

    inputs = tuple(tensor.clone() for tensor in inputs)  # of one tensor given twice the sizes would be one
    batches = tuple({0: "batch"} for _ in inputs)
    lengths = tuple(mine | more for mine, more in zip(batches, (*FREE[takes], *batches), strict=False))
    choices = (
        [("batches", batches)]
        if lengths == batches
        else [("batches and lengths", lengths), ("batches", batches)]
    )
    for sizes, free in choices:
        with contextlib.suppress(Exception):  # of many kinds: the code makes a number of a size
            export(free)
            return f"ONNX, for {sizes} of any size"
    export(None)
    return f"ONNX, for batches of {len(inputs[0])} alone: the network's code fixes their size"
