"""The commands that start runs and look after them. Each takes its arguments, gives an exit code."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path

from hpctrain.config import Config, from_dict
from hpctrain.launch import follow, local
from hpctrain.launch.prepare import prepare, refuse_if_running
from hpctrain.run_dir import FINAL, PHASES, RunDir, find


def train(argv: list[str]) -> int:
    """`hpctrain train`: a Hydra application that runs in the foreground."""
    from hpctrain.compose import run_app

    return run_app(argv, lambda config, overrides: train_here(config))


def train_here(config: Config) -> int:
    run = prepare(config)
    refuse_if_running(run)
    state = run.read_state()
    if state.get("phase") == "done":
        print(
            f"hpctrain: {run.run_id} is done already; a new seed or run.name makes another", file=sys.stderr
        )
        return follow.show_end(run, state)
    return watch(run, config)


def watch(run: RunDir, config: Config) -> int:
    """Start the ranks here and show them until they end. Ctrl-C saves and stops; twice kills."""
    first = max(run.attempts(), default=0) + 1
    process = local.start(run, config)
    interrupts, asked_at = 0, 0.0

    def interrupted(number: int, frame: object) -> None:
        nonlocal interrupts
        interrupts += 1

    before = {s: signal.signal(s, interrupted) for s in (signal.SIGINT, signal.SIGTERM)}

    def ended() -> bool:
        nonlocal asked_at
        if interrupts and not asked_at:
            print("hpctrain: saving a checkpoint and stopping (again to kill)", file=sys.stderr, flush=True)
            asked_at = time.monotonic()
            local.ask_to_stop(process, run, signal.SIGINT)
        elif asked_at and (interrupts > 1 or time.monotonic() - asked_at > local.STOP_PATIENCE_S):
            local.kill(process, run)
        return process.poll() is not None

    try:
        follow.follow(run, ended, first_attempt=first)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return follow.show_end(run, local.finish(process, run))


def submit(argv: list[str]) -> int:
    """`hpctrain submit`: returns at once; the job goes on."""
    from hpctrain.compose import load
    from hpctrain.launch.submit import submit_local

    config = load(argv)
    run = prepare(config)
    refuse_if_running(run)
    state = run.read_state()
    if state.get("phase") == "done":
        print(
            f"hpctrain: {run.run_id} is done already; a new seed or run.name makes another", file=sys.stderr
        )
        return follow.show_end(run, state)
    job = submit_local(run, config)
    print(f"run {run.run_id} submitted as job {job}\nfollow it: hpctrain logs -f {run.run_id}")
    return 0


def logs(argv: list[str]) -> int:
    """`hpctrain logs [RUN] [-f] [--rank N]`."""
    parser = _parser("logs", "show a run's log: the newest run's, or RUN's")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the run ends")
    parser.add_argument("--rank", type=int, default=0)
    args = parser.parse_args(argv)
    run = find(args.root, args.run, args.study)
    first = 1
    if args.follow:
        follow.follow(run, lambda: follow.is_final(run), rank=args.rank, first_attempt=first)
        return follow.show_end(run, run.read_state())
    follow.follow(run, lambda: True, rank=args.rank, bar=False)
    return 0


def cancel(argv: list[str]) -> int:
    """`hpctrain cancel RUN`: the ranks save and stop; the run can be resumed."""
    args = _parser("cancel", "stop a run after saving a checkpoint").parse_args(argv)
    run = find(args.root, args.run, args.study)
    if follow.is_final(run):
        print(f"{run.run_id} has ended already: {run.read_state()['phase']}")
        return 0
    run.cancel_file.touch()
    if local.signal_ranks(run, signal.SIGINT) == 0:
        run.write_state(phase="cancelled", reason="CANCELLED", detail="cancelled before it ran")
    print(f"{run.run_id}: asked to save and stop")
    return 0


def resume(argv: list[str]) -> int:
    """`hpctrain resume RUN`: submit the same configuration again; it goes on from its checkpoint."""
    from hpctrain.launch.submit import submit_local

    args = _parser("resume", "start a stopped or failed run again where it was").parse_args(argv)
    run = find(args.root, args.run, args.study)
    refuse_if_running(run)
    job = submit_local(run, from_dict(run.read_config()))
    print(f"run {run.run_id} submitted as job {job}\nfollow it: hpctrain logs -f {run.run_id}")
    return 0


def _parser(command: str, text: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"hpctrain {command}", description=text)
    parser.add_argument("run", nargs="?", metavar="RUN", help="run id, the start of one, a path or a job id")
    parser.add_argument("--root", default="runs", help="where the runs are (default: runs)")
    parser.add_argument("--study", help="only runs of this study")
    return parser


def status(argv: list[str]) -> int:
    """`hpctrain status [RUN] [--study S] [--phase P] [--json] [--watch]`."""
    from hpctrain.launch import status as look

    parser = _parser("status", "what became of the runs")
    parser.add_argument("--phase", choices=PHASES, help="only runs in this phase")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--watch", action="store_true", help="go on until every run has ended")
    args = parser.parse_args(argv)
    while True:
        found = look.rows(Path(args.root), args.study, args.phase, args.run)
        if args.json:
            print(json.dumps(look.as_json(found)))
        else:
            from rich.console import Console

            Console().print(look.table(found) if found else f"no runs in {args.root} fit")
        if not args.watch or all(r.phase in FINAL for r in found):
            return 0
        time.sleep(1)
