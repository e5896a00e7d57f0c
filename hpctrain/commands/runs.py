"""The commands that start runs and look after them. Each takes its arguments, gives an exit code."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hpctrain.commands.flags import take
from hpctrain.config.settings import Config
from hpctrain.data.identify import run_id
from hpctrain.errors import UserError
from hpctrain.launch import follow, local
from hpctrain.launch.prepare import prepare, refuse_if_running
from hpctrain.launch.resume import configuration, renew
from hpctrain.storage.run_dir import FINAL, PHASES, RunDir, find, locate, runs
from hpctrain.sweep.study_dir import StudyDir

if TYPE_CHECKING:
    from hpctrain.launch.status import Row

SUBMIT_USAGE = """usage: hpctrain submit [--dry-run] [--json] [EXPERIMENT] [settings]

Starts a run as a job and returns at once: on Slurm with cluster=NAME, in the background of this
machine with cluster=local. The same science submitted twice is one run.

  --dry-run   print the sbatch script and submit nothing
  --json      one JSON document on stdout: run, job_id, new, path, FLOPs, lower bound, node-hours

Settings are those of hpctrain train (hpctrain train --help lists them).
"""


def train(argv: list[str]) -> int:
    """`hpctrain train`: a Hydra application that runs in the foreground."""
    from hpctrain.config.compose import run_app

    return run_app(argv, lambda config, overrides: train_here(config), result=_validation_loss)


def _validation_loss(config: Config) -> float | None:
    """What a sweeper of Hydra's gets from a run."""
    state = locate(config.run.root, config.run.study, run_id(config)).read_state()
    loss = ((state.get("summary") or {}).get("validation") or {}).get("loss")
    return None if loss is None else float(loss)


def train_here(config: Config) -> int:
    if config.cluster.kind != "local":
        raise UserError("cluster", config.cluster.name, "train runs on this machine; use hpctrain submit")
    run = prepare(config)
    refuse_if_running(run)
    state = run.read_state()
    if state.get("phase") == "done":
        return _show_done(run)
    renew(run, config)
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


Foresight = Callable[[Config], dict[str, float]]


def submit(argv: list[str], foresee: Foresight | None = None) -> int:
    """`hpctrain submit [--dry-run] [--json] SETTINGS`: returns at once; the job goes on.

    `foresee`: gives `expected_s` and `expected_efficiency` of a run, where they are known.
    """
    from hpctrain.config.compose import load
    from hpctrain.launch import estimate
    from hpctrain.scheduler import sbatch, submit

    argv, flags, _ = take(argv, "--dry-run", "--json")
    if "--help" in flags:
        print(SUBMIT_USAGE)
        return 0
    config = load(argv)
    if config.cluster.kind == "slurm":
        sbatch.check(config)
        if "--dry-run" not in flags:
            submit.check_here(config)
    if "--dry-run" in flags:
        if config.cluster.kind == "local":
            raise UserError("cluster", config.cluster.name, "--dry-run shows a Slurm job: choose a cluster")
        print(submit.script(locate(config.run.root, config.run.study, run_id(config)), config))
        return 0
    run = prepare(config)
    estimated = estimate.estimate(config)  # before anything is started: a network may refuse its input
    if run.read_state().get("phase") == "done":  # looked at last: it may end while we count
        return _show_done(run)
    known = _under_way(run)
    if known is None and not run.read_submission().get("open"):  # open: submit looks for its job
        refuse_if_running(run)
        renew(run, config)
    job_id = known or submit.submit(run, config)
    facts = {"run": run.run_id, "job_id": job_id, "new": known is None, "path": str(run.path)}
    facts |= estimated
    if foresee is not None:
        facts |= foresee(config)
    if "--json" in flags:
        print(json.dumps(facts))
        return 0
    verb = "is under way already as" if known else "submitted as"
    print(f"run {run.run_id} {verb} job {job_id}\n{estimate.shown(facts)}")
    print(f"follow it: hpctrain logs -f {run.run_id}")
    return 0


def resume(argv: list[str]) -> int:
    """`hpctrain resume RUN [SETTINGS]`: submit the run again; it goes on from its checkpoint."""
    from hpctrain.scheduler.submit import submit as submit_run

    parser = _parser("resume", "start a stopped or failed run again where it was")
    parser.add_argument("settings", nargs="*", help="to change, such as resources.ranks=4")
    args = parser.parse_args(argv)
    if args.run and "=" in args.run:  # the newest run, with settings
        args.run, args.settings = None, [args.run, *args.settings]
    run = find(args.root, args.run, args.study)
    if run.read_state().get("phase") == "done" and not args.settings:
        return _show_done(run)
    known = _under_way(run)
    if known and args.settings:
        raise UserError("settings", " ".join(args.settings), f"the run is under way as job {known}")
    if known is None:
        refuse_if_running(run)
        config = configuration(run, args.settings)
        renew(run, config)
    job_id = known or submit_run(run, config)
    print(f"run {run.run_id} {'is under way already as' if known else 'submitted as'} job {job_id}")
    print(f"follow it: hpctrain logs -f {run.run_id}")
    return 0


def logs(argv: list[str]) -> int:
    """`hpctrain logs [RUN] [-f] [--rank N]`."""
    parser = _parser("logs", "show a run's log: the newest run's, or RUN's")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the run ends")
    parser.add_argument("--rank", type=int, default=0)
    args = parser.parse_args(argv)
    run = find(args.root, args.run, args.study)
    if args.follow:
        from hpctrain.launch.status import Watch

        watched = Watch(run, lambda text: print(f"hpctrain: {text}", file=sys.stderr, flush=True))
        follow.follow(run, watched.ended, rank=args.rank)
        return follow.show_end(run, run.read_state())
    follow.follow(run, lambda: True, rank=args.rank, bar=False)
    return 0


def cancel(argv: list[str]) -> int:
    """`hpctrain cancel [RUN] [--study S]`: the ranks save and stop; the run can be resumed."""
    args = _parser("cancel", "stop a run, or all of a study, after saving a checkpoint").parse_args(argv)
    study = StudyDir(Path(args.root).resolve() / (args.study or ""))
    if args.run is None and args.study and study.exists():
        from hpctrain.sweep import overview as of_study

        print(f"study {study.name}: {of_study.cancel(study)}")
        return 0
    if args.run is None and args.study:
        chosen = list(runs(Path(args.root), args.study))
    else:
        chosen = [find(args.root, args.run, args.study)]
    for run in chosen:
        print(f"{run.run_id}: {_cancel(run)}")
    return 0


def _cancel(run: RunDir) -> str:
    """Ask one run to stop; gives what was done, in words."""
    from hpctrain.scheduler import client

    state = run.read_state()
    if state.get("phase") in FINAL:
        return f"has ended already ({state['phase']})"
    run.cancel_file.touch()
    facts = run.read_submission()
    if facts.get("study"):  # its job has others to do as well, and passes the request on
        return "asked to save and stop"
    if facts.get("cluster", "local") != "local" and facts.get("job_ids"):
        try:
            client.cancel(facts["job_ids"], facts.get("slurm_conf"))
        except client.Unreachable as error:
            return f"Slurm did not take the request: {error}; try again"
        if state.get("phase") in ("submitted", "requeued"):
            run.write_state(phase="cancelled", reason="CANCELLED", detail="cancelled while it waited")
            return "cancelled while it waited"
    elif local.signal_ranks(run, signal.SIGINT) == 0:
        run.write_state(phase="cancelled", reason="CANCELLED", detail="cancelled before its ranks were up")
        return "cancelled"
    return "asked to save and stop"


def status(argv: list[str]) -> int:
    """`hpctrain status [NAME] [--study S] [--phase P] [--json] [--watch]`."""
    from hpctrain.launch import status as look
    from hpctrain.sweep import overview as of_study

    parser = _parser("status", "what became of the runs")
    parser.add_argument("--state", "--phase", dest="phase", choices=PHASES, help="only runs in this state")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--watch", action="store_true", help="go on until every run has ended")
    args = parser.parse_args(argv)
    while True:
        found = look.rows(Path(args.root), args.study, args.phase, args.run)
        if args.phase in (None, "submitted"):
            found += of_study.waiting(Path(args.root), args.study, args.run)
        if args.json:
            print(json.dumps(look.as_json(found)))
        else:
            study = StudyDir(Path(args.root).resolve() / (args.study or ""))
            if args.study and study.exists() and not args.watch:
                print(of_study.summary(study, found))
            _print_table(look.table(found) if found else f"no runs in {args.root} fit", clear=args.watch)
            if len(found) == 1 and not args.watch:
                _explain(found[0], args.root)
        if not args.watch or all(r.phase in FINAL for r in found):
            return 0
        time.sleep(1)


def _explain(row: Row, root: str) -> None:
    """What the table of one run has no room for."""
    if row.detail:
        print(row.detail)
    if row.phase == "failed":
        run = locate(root, row.study, row.run)
        for line in follow.last_words(run, run.read_state()):
            print(f"  | {line}")


def _print_table(shown: object, clear: bool) -> None:
    from rich.console import Console

    console = Console()
    if clear and console.is_terminal:
        console.clear()
    console.print(shown)


def _show_done(run: RunDir) -> int:
    print(
        f"hpctrain: {run.run_id} is done already; another seed or run.name makes a new run", file=sys.stderr
    )
    return follow.show_end(run, run.read_state())


def _under_way(run: RunDir) -> str | None:
    """The job that this run has in a queue or running, if any."""
    from hpctrain.launch import status as look

    if not run.read_submission().get("job_ids") or run.read_state().get("phase") in FINAL:
        return None
    row = look.row_of(run)
    return None if row.phase in FINAL else row.job_id


def _parser(command: str, text: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"hpctrain {command}", description=text)
    parser.add_argument("run", nargs="?", metavar="RUN", help="run id, the start of one, a path or a job id")
    parser.add_argument("--root", default="runs", help="where the runs are (default: runs)")
    parser.add_argument("--study", help="only runs of this study")
    return parser
