"""`hpctrain bench`: what this machine can do at most, and how near an experiment's training step comes to it."""

from __future__ import annotations

import json

from hpctrain.commands.flags import Parser, whole
from hpctrain.commands.say import say
from hpctrain.scaling import bench_page
from hpctrain.scaling.bench import WINDOWS, bench, wanted

ABOUT = """Measures what this machine can do at most (matrix products, memory, sums over the ranks) and the training
step of an experiment: samples/s, GFLOP/s, share of the peak and of the roofline, and where each millisecond goes.
  hpctrain bench                                        the machine alone
  hpctrain bench resources.ranks=2                      and the sums of two ranks
  hpctrain bench lenet_fashion_mnist resources.ranks=2  and one step, with the experiment's data and with noise
  hpctrain bench RECIPE cluster=NAME resources.nodes=2    the same as Slurm jobs; waits for them
"""


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code. Raises UserError and RunFailed."""
    args = _parser().take(argv)
    document = bench(wanted(args.words, args.steps, args.synthetic), say)
    print(json.dumps(document) if args.json else bench_page.text(document))
    return 0


def _parser() -> Parser:
    parser = Parser("bench", ABOUT, "[RECIPE] [SETTINGS]")
    parser.add_argument(
        "--steps", type=whole(WINDOWS), default=50, metavar="N",
        help="steps that are timed (default: 50), in five stretches; a fifth more come before them",
    )  # fmt: skip
    parser.add_argument(
        "--synthetic", action="store_true", help="noise of the data's shape only: no files are needed"
    )
    parser.add_json()
    parser.add_run_place(as_settings=True)
    return parser
