"""`hpctrain status`: what became of the runs."""

from __future__ import annotations

import argparse
import functools
import json
import time
from pathlib import Path

from hpctrain.commands.flags import Parser
from hpctrain.commands.say import console, say
from hpctrain.launch import follow, status
from hpctrain.launch.status import Row
from hpctrain.scheduler import client
from hpctrain.shown import shown
from hpctrain.storage.run_dir import absolute, locate, no_such_run, no_such_study, runs
from hpctrain.storage.run_state import FINAL, PHASES, Phase
from hpctrain.sweep import overview
from hpctrain.sweep.study_dir import StudyDir


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code. Raises UserError."""
    args = _parser().take(argv, most_words=1)
    name = next(iter(args.words), None)
    told: set[str] = set()
    while True:
        queues = client.Queues()
        found = status.rows(Path(args.root), args.study, args.phase, name, queues)
        if args.phase in (None, Phase.SUBMITTED):
            once = functools.partial(_say_once, told)
            found += overview.waiting(Path(args.root), args.study, name, queues, once)
        if not found:
            _refuse_unknown(args, name)
        for row in found:
            for damage in row.damage:
                _say_once(told, f"{row.study}/{row.run}: {damage}")
        if args.json:
            print(json.dumps(status.as_json(found)))
        else:
            _show(found, args)
        if not args.watch or all(r.phase in FINAL or overview.needs_sweep(r) for r in found):
            return 0
        time.sleep(1)


def _refuse_unknown(args: argparse.Namespace, name: str | None) -> None:
    """Raises UserError if no run has that name, or there is no such study."""
    if args.study and not (absolute(args.root) / args.study).is_dir():
        raise no_such_study(args.root, args.study)
    if name and not any(name in run.run_id for run in runs(absolute(args.root), args.study)):
        raise no_such_run(args.root, name, [run.run_id for run in runs(absolute(args.root), args.study)])


def _say_once(told: set[str], words: str) -> None:
    if words not in told:
        told.add(words)
        say(words)


def _show(found: list[Row], args: argparse.Namespace) -> None:
    """Print the table, a study's summary above it, and below it what the table of one run has no room for."""
    study = StudyDir(absolute(args.root) / (args.study or ""))
    if args.study and study.exists() and not args.watch:
        print(overview.summary(study, found))
    settings = overview.swept(study) if args.study else {}
    _print_table(status.table(found, settings) if found else _none(args), clear=args.watch)
    if len(found) == 1 and not args.watch:
        _explain(found[0], args.root)


def _none(args: argparse.Namespace) -> str:
    """What is said of an empty table: where it looked."""
    place = absolute(args.root) / (args.study or "")
    fits = f" is {args.phase}" if args.phase else ""
    return f"no run in {place}{fits}; --root FOLDER or HPCTRAIN_ROOT says where else to look"


def _explain(row: Row, root: str) -> None:
    if row.detail:
        print(shown(row.detail))
    if row.phase == Phase.FAILED:
        run = locate(root, row.study, row.run)
        for line in follow.last_words(run, run.read_state()):
            print(f"  | {shown(line)}")


def _print_table(table: object, clear: bool) -> None:
    screen = console()
    if clear and screen.is_terminal:
        screen.clear()
    screen.print(table, soft_wrap=isinstance(table, str))


def _parser() -> Parser:
    parser = Parser(
        "status", "What became of the runs: of all, or of those with NAME in their run id.", "[NAME]"
    )
    parser.add_argument(
        "--phase", "--state", dest="phase", choices=PHASES, metavar="PHASE",
        help=f"only runs in this phase: {', '.join(PHASES)}",
    )  # fmt: skip
    parser.add_json()
    parser.add_argument("--watch", action="store_true", help="go on until nothing changes any more by itself")
    parser.add_run_place(as_settings=False)
    return parser
