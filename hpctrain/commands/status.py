"""`hpctrain status`: what became of the runs."""

from __future__ import annotations

import argparse
import functools
import json
import time
from pathlib import Path

from hpctrain.commands.flags import DEFAULT_ROOT, Parser
from hpctrain.commands.say import console, say
from hpctrain.errors import UserError
from hpctrain.launch import follow, status
from hpctrain.launch.status import Row
from hpctrain.scheduler import client
from hpctrain.shown import shown
from hpctrain.storage.folders import absolute
from hpctrain.storage.run_state import FINAL, PHASES, Phase
from hpctrain.storage.search import is_run, locate, may_enter, no_such_run, no_such_study, refuse_closed, runs
from hpctrain.sweep import overview
from hpctrain.sweep.study_dir import StudyDir


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code. Raises UserError."""
    args = _parser().take(argv, most_words=1)
    name = next(iter(args.words), None)
    if name and is_run(name):
        path = absolute(name)
        args.root, args.study, name = str(path.parents[1]), path.parent.name, path.name
    refuse_closed("run.root", absolute(args.root), absolute(args.root))
    if args.study:
        StudyDir(absolute(args.root) / args.study).refuse_closed()
    if args.root != DEFAULT_ROOT and not args.study and not absolute(args.root).is_dir():
        raise UserError("run.root", absolute(args.root), "there is no such folder")
    told: set[str] = set()
    while True:
        queues = client.Queues()
        once = functools.partial(_say_once, told)
        listed = status.rows(Path(args.root), args.study, args.phase, name, queues, once)
        if args.phase in (None, Phase.SUBMITTED):
            listed += overview.waiting(Path(args.root), args.study, name, queues, once)
        if not listed:
            _refuse_unknown(args, name)
        for row in listed:
            for damage in row.damage:
                _say_once(told, f"{row.study}/{row.run}: {damage}")
        if args.json:
            print(json.dumps(status.as_json(listed)))
        else:
            _show(listed, args)
        if not args.watch or not any(map(_goes_on, listed)):
            return 0
        time.sleep(1)


def _goes_on(row: Row) -> bool:
    """Whether a run may change by itself."""
    return row.phase not in FINAL and not row.needs_start


def _refuse_unknown(args: argparse.Namespace, name: str | None) -> None:
    """Raises UserError if no run has that name, or there is no such study."""
    if args.study and not (absolute(args.root) / args.study).is_dir():
        raise no_such_study(args.root, args.study)
    run_ids = [run.run_id for run in runs(absolute(args.root), args.study)] if name else []
    if name and not any(name in run_id for run_id in run_ids):
        raise no_such_run(args.root, name, run_ids)


def _say_once(told: set[str], words: str) -> None:
    if words not in told:
        told.add(words)
        say(words)


def _show(listed: list[Row], args: argparse.Namespace) -> None:
    """Print the table, a study's summary above it, and the details of a single run below it."""
    study = StudyDir(absolute(args.root) / (args.study or ""))
    if args.study and not args.watch and may_enter(study.folder) and study.exists():
        print(overview.summary(study, listed))
    settings = overview.swept(study) if args.study else {}
    _print_table(status.table(listed, settings) if listed else _none(args), clear=args.watch)
    if len(listed) == 1 and not args.watch:
        _explain(listed[0], args.root)


def _none(args: argparse.Namespace) -> str:
    """Returns what to print for an empty table: where status looked."""
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
        "status",
        "What became of the runs: of all, of those with NAME in their run id, or of the one at a path.",
        "[NAME]",
    )
    parser.add_argument(
        "--phase", "--state", dest="phase", choices=PHASES, metavar="PHASE",
        help=f"only runs in this phase: {', '.join(PHASES)}",
    )  # fmt: skip
    parser.add_json()
    parser.add_argument(
        "--watch", action="store_true", help="repeat until nothing changes by itself any more"
    )
    parser.add_run_place(as_settings=False)
    return parser
