"""`hpctrain checkpoints RUN`: list, verify, compare, prune, unlock. Listing needs no torch."""

from __future__ import annotations

import json
import time

from hpctrain.checkpoints import store, upkeep
from hpctrain.checkpoints.upkeep import Row
from hpctrain.commands.flags import Parser, find_run, whole
from hpctrain.commands.say import bar, console
from hpctrain.errors import RunFailed, UserError
from hpctrain.report.numbers import short
from hpctrain.shown import shown
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Reason


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code. Raises UserError and RunFailed."""
    args = _parser().take(argv, most_words=1)
    if args.keep_last is not None and (not args.prune or args.keep_last < 1):
        raise UserError("--keep-last", args.keep_last, "must be ≥ 1, and goes with --prune")
    run = find_run(args)
    if args.unlock:
        return _unlock(run)
    if not run.checkpoints.is_dir():
        raise UserError("run", run.run_id, "has no checkpoints yet")
    if args.prune:
        return _prune(run, args.keep_last)
    if args.diff:
        return _diff(run, args.diff, args.json)
    return _list(run, verify=args.verify, as_json=args.json)


def _list(run: RunDir, verify: bool, as_json: bool) -> int:
    folder = run.checkpoints
    rows = upkeep.rows(folder)
    if verify:
        with bar("verifying", sum(row["bytes"] or 0 for row in rows)) as tick:
            rows = [upkeep.verified(folder, row, tick) for row in rows]
    aside = upkeep.put_aside(folder)
    if as_json:
        print(json.dumps({"run": run.run_id, "checkpoints": rows, "put_aside": aside}))
    else:
        _show(run, rows, aside, verify)
    return 1 if any(row["state"] == "broken" for row in rows) else 0


def _show(run: RunDir, rows: list[Row], aside: list[str], verified: bool) -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for column in ("checkpoint", "state", "epoch", "loss", "size", "ranks", "saved"):
        table.add_column(column, no_wrap=True)
    scores = [metric for row in rows if (metric := row.get("metric")) is not None]
    for row in rows:
        metric = row.get("metric")
        size = "" if row["bytes"] is None else short(row["bytes"], "B", digits=3)
        best = " (best)" if metric is not None and metric == min(scores) else ""
        table.add_row(
            row["name"], row["state"], f"{row['epoch']:.2f}" if "epoch" in row else "",
            f"{metric:.4g}{best}" if metric is not None else "", size,
            str(row.get("world_size", "")),
            time.strftime("%m-%d %H:%M", time.localtime(row["saved"])) if "saved" in row else "",
        )  # fmt: skip
    screen = console()
    screen.print(table if rows else f"{run.run_id} has no checkpoint yet")
    for row in rows:
        if row["error"] is not None:
            screen.print(shown(row["error"]), highlight=False, soft_wrap=True)
    if aside:
        screen.print(f"{len(aside)} put aside as broken: {', '.join(aside)}", highlight=False)
    if rows and not verified:
        screen.print("committed is not read yet: --verify compares every byte", highlight=False)


def _diff(run: RunDir, names: list[str], as_json: bool) -> int:
    """Returns 0 if both hold the same, bit for bit; else 1."""
    places = [upkeep.locate(run, name) for name in names]
    from hpctrain.checkpoints.diff import compare
    from hpctrain.checkpoints.saver import read_patiently

    sides = []
    for folder, entry in places:
        with bar(f"reading {entry.name}", None):
            try:
                sides.append(read_patiently(folder, entry))
            except store.CorruptCheckpoint as error:
                raise RunFailed(Reason.NO_VALID_CHECKPOINT, str(error)) from None
    with bar("comparing", sum(t.nbytes for t in sides[0].tensors.values())) as tick:
        diff = compare(sides[0], sides[1], tick)
    print(json.dumps(diff.as_json()) if as_json else diff)
    return 0 if diff.same else 1


def _prune(run: RunDir, keep_last: int | None) -> int:
    with bar("pruning", None):
        names = upkeep.prune(run, keep_last, _job_ended)
    print(f"deleted {len(names)}: {', '.join(names)}" if names else "nothing to delete")
    left = store.entries(run.checkpoints)
    print(f"kept {len(left)}: {', '.join(entry.name for entry in left)}")
    return 0


def _unlock(run: RunDir) -> int:
    ended = upkeep.unlock(run, _job_ended)
    verb = "is" if len(ended) == 1 else "are"
    print(f"{' and '.join(ended)} {verb} taken to have ended" if ended else "nobody has ever written here")
    return 0


def _job_ended(job_id: str) -> bool | None:
    from hpctrain.scheduler import client

    return client.has_ended(job_id)


def _parser() -> Parser:
    about = (
        "A run's checkpoints, oldest first: the newest run's, or those of RUN (a run id, the start of one,\n"
    )
    parser = Parser("checkpoints", f"{about}a path or a job id).", "[RUN]")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--verify", action="store_true", help="read every byte and compare digests")
    what.add_argument(
        "--diff", nargs=2, metavar=("A", "B"), help="compare two: steps, or a checkpoint folder's path"
    )
    what.add_argument("--prune", action="store_true", help="delete what checkpoint.keep_* does not keep")
    what.add_argument(
        "--unlock", action="store_true", help="say that the last owner has ended, if you know it"
    )
    parser.add_argument(
        "--keep-last",
        type=whole(),
        metavar="K",
        help="with --prune: how many to keep, in place of the run's setting",
    )
    parser.add_json()
    parser.add_run_place(as_settings=False)
    return parser
