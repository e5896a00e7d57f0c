"""`hpctrain logs`: show a run's log, or follow it."""

from __future__ import annotations

import sys

from hpctrain.commands.flags import Parser, find_run, whole
from hpctrain.commands.say import say, show_end
from hpctrain.launch import follow
from hpctrain.shown import printable
from hpctrain.storage.run_dir import RunDir


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code. Raises UserError."""
    parser = Parser("logs", "Show a run's log: the newest run's, or that of RUN.", "[RUN]")
    parser.add_argument("--follow", "-f", action="store_true", help="go on until the run ends")
    parser.add_argument("--rank", type=whole(0), default=0, metavar="N", help="that rank's log (default: 0)")
    parser.add_run_place(as_settings=False)
    args = parser.take(argv, most_words=1)
    run = find_run(args)
    follow.refuse_rank(run, args.rank)
    if not args.follow:
        follow.follow(run, lambda: True, sys.stdout, rank=args.rank, bar=False)
        _show_start(run, args.rank)
        return 0
    from hpctrain.launch.status import Watch

    follow.follow(run, Watch(run, say).ended, sys.stdout, rank=args.rank)
    _show_start(run, args.rank)
    return show_end(run)


def _show_start(run: RunDir, rank: int) -> None:
    """Print what the batch shell or the launcher said, if the rank's own log does not show how the run ended."""
    start = follow.start_log(run, run.read_state(), rank)
    if start:
        say(f"the log of rank {rank} does not tell; from {start[0]}:")
        sys.stdout.write(printable(start[1]))
