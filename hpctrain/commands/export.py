"""`hpctrain export RUN`: a run's weights for other programs, as one file. The averaged weights if the run has them."""

from __future__ import annotations

from pathlib import Path

from hpctrain.checkpoints import export
from hpctrain.checkpoints.export import FORMATS
from hpctrain.checkpoints.upkeep import choose
from hpctrain.checkpoints.weights import weights
from hpctrain.commands.flags import Parser, find_run, refuse_special
from hpctrain.errors import UserError

ABOUT = """A run's weights as one file: safetensors (the bare state dictionary), TorchScript (traced, for torch.jit.load
without this package) or ONNX (needs the extra: pip install 'hpctrain[onnx]'). The newest run's, or those of RUN
(a run id, the start of one, a path or a job id).
"""


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code. Raises UserError and RunFailed."""
    args = _parser().take(argv, most_words=1)
    export.check(args.format)
    run = find_run(args)
    entry = choose(run, args.step)
    output = args.output or Path(f"{run.run_id}-step{entry.step}{FORMATS[args.format]}")
    if not output.absolute().parent.is_dir():
        raise UserError("--output", output, "must be in a folder that exists")
    refuse_special("--output", output)
    tensors, kind = weights(run, entry, args.weights)
    what = export.write(run, tensors, args.format, output)
    print(f"{output}: {what}, {kind} weights of step {entry.step}")
    return 0


def _parser() -> Parser:
    parser = Parser("export", ABOUT, "[RUN]")
    parser.add_argument(
        "--format", default="safetensors", choices=FORMATS, metavar="F",
        help=f"{', '.join(FORMATS)} (default: safetensors)",
    )  # fmt: skip
    parser.add_argument("--step", default="last", help="a step, `best` or `last` (default: last)")
    parser.add_argument(
        "--weights", default="auto", choices=("auto", "ema", "model"), metavar="W",
        help="model, ema, or auto: ema if there is one (default: auto)",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="the file (default: RUN-step.suffix, here)"
    )
    parser.add_run_place(as_settings=False)
    return parser
