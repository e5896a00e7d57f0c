"""`hpctrain export RUN`: a run's weights for other programs. Takes arguments, gives an exit code.

Writes one file: safetensors (the bare state dict), TorchScript (traced, for torch.jit.load without this
package) or ONNX (the extra `onnx`). The averaged weights where the run has them.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import warnings
from pathlib import Path
from typing import Any

from hpctrain.checkpoints import store
from hpctrain.errors import RunFailed, UserError, nearest
from hpctrain.storage.run_dir import RunDir, find

FORMATS = {"safetensors": ".safetensors", "torchscript": ".pt", "onnx": ".onnx"}


def export(argv: list[str]) -> int:
    """`hpctrain export RUN [--format F] [--step N] [--weights W] [--output FILE]`."""
    parser = argparse.ArgumentParser(prog="hpctrain export", description="A run's weights as one file.")
    parser.add_argument("run", nargs="?", metavar="RUN", help="run id, the start of one, a path or a job id")
    parser.add_argument("--root", default="runs", help="where the runs are (default: runs)")
    parser.add_argument("--study", help="only runs of this study")
    parser.add_argument("--format", default="safetensors", help=f"{', '.join(FORMATS)}")
    parser.add_argument("--step", help="a step, `best` or `last` (default: last)", default="last")
    parser.add_argument("--weights", default="auto", help="model, ema, or auto: ema where there is one")
    parser.add_argument("--output", type=Path, help="the file; default: RUN-step.suffix, here")
    args = parser.parse_args(argv)
    if args.format not in FORMATS:
        raise UserError(
            "--format", args.format, f"must be one of {', '.join(FORMATS)}", nearest(args.format, FORMATS)
        )
    if args.weights not in ("auto", "model", "ema"):
        raise UserError("--weights", args.weights, "must be one of auto, ema, model")
    if args.format == "onnx":
        missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError("--format", "onnx", "needs the extra: pip install 'hpctrain[onnx]'")
    run = find(args.root, args.run, args.study)
    entry = _choose(run, args.step)
    output = args.output or Path(f"{run.run_id}-step{entry.step}{FORMATS[args.format]}")
    if not output.absolute().parent.is_dir():
        raise UserError("--output", output, "must be in a folder that exists")
    weights, kind = _weights(run, entry, args.weights)
    what = _write(run, weights, args.format, output)
    print(f"{output}: {what}, {kind} weights of step {entry.step}")
    return 0


def _choose(run: RunDir, text: str) -> store.Entry:
    found = store.entries(run.checkpoints)
    if not found:
        raise UserError("run", run.run_id, "has no checkpoint to export")
    if text == "last":
        return found[-1]
    if text == "best":
        scored = []
        for entry in found:
            meta = store.read_meta(run.checkpoints, entry, store.read_manifest(run.checkpoints, entry))
            if (metric := store.metric_of(meta)) is not None:
                scored.append((metric, entry))
        if not scored:
            raise UserError("--step", text, "no checkpoint here has been validated")
        return min(scored)[1]
    fits = [entry for entry in found if str(entry.step) == text]
    if not fits:
        steps = [str(entry.step) for entry in found]
        raise UserError("--step", text, f"must be best, last or one of {', '.join(steps)}")
    return fits[-1]


def _weights(run: RunDir, entry: store.Entry, which: str) -> tuple[dict[str, Any], str]:
    """The state dict of the model; buffers are the model's own either way."""
    from hpctrain.checkpoints.saver import read_patiently

    try:
        tensors = read_patiently(run.checkpoints, entry).tensors
    except store.CorruptCheckpoint as error:
        raise RunFailed("NO_VALID_CHECKPOINT", f"{error}; --step takes another one") from None
    own = {k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")}
    ema = {k.removeprefix("ema/"): v for k, v in tensors.items() if k.startswith("ema/")}
    if which == "ema" and not ema:
        raise UserError("--weights", "ema", "this run has none: train.ema_decay was null")
    chosen = "ema" if ema and which != "model" else "model"
    return (own | ema, "averaged (ema)") if chosen == "ema" else (own, "model")


def _write(run: RunDir, weights: dict[str, Any], form: str, output: Path) -> str:
    """One file, there whole or not at all; gives what it is, in words."""
    with tempfile.TemporaryDirectory(dir=output.absolute().parent, prefix=".export.") as folder:
        draft = Path(folder) / output.name
        if form == "safetensors":
            from safetensors.torch import save_file

            save_file({name: tensor.contiguous() for name, tensor in weights.items()}, draft)
        else:
            _trace(run, weights, draft, onnx=form == "onnx")
        draft.replace(output)
    return {"safetensors": f"{len(weights)} tensors", "torchscript": "TorchScript", "onnx": "ONNX"}[form]


def _trace(run: RunDir, weights: dict[str, Any], path: Path, onnx: bool) -> None:
    """Follow one batch of zeros through the network, in evaluation mode."""
    import torch

    from hpctrain import models
    from hpctrain.config.settings import from_dict

    config = from_dict(run.read_config())
    network = config.model
    model = models.build(network.name, network.settings, target=network.target)
    model.load_state_dict(weights)
    model.eval()
    if network.target is not None:
        inputs: tuple[Any, ...] = (torch.zeros(2, *config.data.shape),)
    else:
        inputs = models.example_inputs(network.name, network.settings, 2, device="cpu")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's and the exporter's, about themselves
        try:
            if onnx:
                torch.onnx.export(model, inputs, str(path), dynamo=True, verbose=False, external_data=False)
            else:
                torch.jit.trace(model, inputs, check_trace=False).save(str(path))
        except Exception as error:
            why = " ".join(str(error).split())[:200]
            raise RunFailed(
                "ERROR", f"{network.name} cannot be traced: {type(error).__name__}: {why}"
            ) from None
