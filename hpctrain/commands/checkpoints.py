"""`hpctrain checkpoints RUN`: list, verify, compare, prune. Takes arguments, gives an exit code.

Listing needs no torch. Only --prune and --unlock change anything, and they refuse while the run is written.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpctrain.checkpoints import store
from hpctrain.checkpoints.policy import Retention
from hpctrain.checkpoints.store import CorruptCheckpoint, Entry
from hpctrain.config.settings import CheckpointConfig, from_dict
from hpctrain.errors import RunFailed, UserError, nearest
from hpctrain.storage import lock
from hpctrain.storage.files import FILES, refuse_if_shared
from hpctrain.storage.run_dir import RunDir, find


def checkpoints(argv: list[str]) -> int:
    """`hpctrain checkpoints RUN [--verify | --diff A B | --prune | --unlock] [--json]`."""
    parser = argparse.ArgumentParser(
        prog="hpctrain checkpoints", description="A run's checkpoints, oldest first."
    )
    parser.add_argument("run", nargs="?", metavar="RUN", help="run id, the start of one, a path or a job id")
    parser.add_argument("--root", default="runs", help="where the runs are (default: runs)")
    parser.add_argument("--study", help="only runs of this study")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--verify", action="store_true", help="read every byte and compare digests")
    what.add_argument(
        "--diff", nargs=2, metavar=("A", "B"), help="compare two: steps, or a checkpoint folder's path"
    )
    what.add_argument("--prune", action="store_true", help="delete what checkpoint.keep_* does not keep")
    what.add_argument("--unlock", action="store_true", help="you know that the last owner has ended: say so")
    parser.add_argument(
        "--keep-last", type=int, metavar="K", help="with --prune: instead of the run's setting"
    )
    args = parser.parse_args(argv)
    if args.keep_last is not None and (not args.prune or args.keep_last < 1):
        raise UserError("--keep-last", args.keep_last, "must be ≥ 1, and goes with --prune")
    run = find(args.root, args.run, args.study)
    if not run.checkpoints.is_dir():
        raise UserError("run", run.run_id, "has no checkpoints yet")
    if args.unlock:
        return _unlock(run)
    if args.prune:
        return _prune(run, args.keep_last)
    if args.diff:
        return _diff([_locate(run, text) for text in args.diff], args.json)
    return _list(run, verify=args.verify, as_json=args.json)


def _list(run: RunDir, verify: bool, as_json: bool) -> int:
    folder = run.checkpoints
    found, late = store.entries(folder), store.superseded(folder)
    rows = [_row(folder, entry, entry in late) for entry in sorted(found + late)]
    if verify:
        with _bar("verifying", sum(row["bytes"] or 0 for row in rows)) as tick:
            for row, entry in zip(rows, sorted(found + late), strict=True):
                if row["state"] != "broken":
                    row |= _verified(folder, entry, tick)
    broken = [row for row in rows if row["state"] == "broken"]
    aside = sorted(path.name for path in folder.glob("broken.*"))
    if as_json:
        print(json.dumps({"run": run.run_id, "checkpoints": rows, "put_aside": aside}))
    else:
        _print(run, rows, aside, verify)
    return 1 if broken else 0


def _row(folder: Path, entry: Entry, late: bool) -> dict[str, Any]:
    """What a checkpoint says of itself; its tensors are not read."""
    row: dict[str, Any] = {"name": entry.name, "step": entry.step, "bytes": None, "error": None}
    row["state"] = "superseded" if late else "committed"
    try:
        manifest = store.read_manifest(folder, entry)
        meta = store.read_meta(folder, entry, manifest)
        row["saved"] = (folder / entry.name / "manifest.json").stat().st_mtime
    except (CorruptCheckpoint, OSError) as error:
        return row | {"state": "broken", "error": str(error)}
    row["bytes"] = sum(record.bytes for record in manifest.files.values())
    row |= {key: meta[key] for key in ("epoch", "world_size", "attempt")}
    return row | {"metric": store.metric_of(meta)}


def _verified(folder: Path, entry: Entry, tick: Any) -> dict[str, Any]:
    try:
        store.verify(folder, entry, tick)
    except CorruptCheckpoint as error:
        return {"state": "broken", "error": str(error)}
    return {"state": "good"}


def _print(run: RunDir, rows: list[dict[str, Any]], aside: list[str], verified: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for column in ("checkpoint", "state", "epoch", "loss", "size", "ranks", "saved"):
        table.add_column(column, no_wrap=True)
    scores = [row["metric"] for row in rows if row.get("metric") is not None]
    for row in rows:
        metric = row.get("metric")
        best = " (best)" if metric is not None and metric == min(scores) else ""
        table.add_row(
            row["name"], row["state"], f"{row['epoch']:.2f}" if "epoch" in row else "",
            f"{metric:.4g}{best}" if metric is not None else "", _size(row["bytes"]),
            str(row.get("world_size", "")),
            time.strftime("%m-%d %H:%M", time.localtime(row["saved"])) if "saved" in row else "",
        )  # fmt: skip
    console = Console()
    console.print(table if rows else f"{run.run_id} has no checkpoint yet")
    for row in rows:
        if row["error"] is not None:
            console.print(row["error"], highlight=False, soft_wrap=True)
    if aside:
        console.print(f"{len(aside)} put aside as broken: {', '.join(aside)}", highlight=False)
    if rows and not verified:
        console.print("committed is not read yet: --verify compares every byte", highlight=False)


def _diff(places: list[tuple[Path, Entry]], as_json: bool) -> int:
    """0 where they hold the same, bit for bit; 1 where they do not."""
    from hpctrain.checkpoints.diff import compare
    from hpctrain.checkpoints.saver import read_patiently

    sides = []
    for folder, entry in places:
        with _bar(f"reading {entry.name}", None):
            try:
                sides.append(read_patiently(folder, entry))
            except CorruptCheckpoint as error:
                raise RunFailed("NO_VALID_CHECKPOINT", str(error)) from None
    with _bar("comparing", sum(t.nbytes for t in sides[0].tensors.values())) as tick:
        found = compare(sides[0], sides[1], tick)
    if as_json:
        print(json.dumps(found.as_json()))
    else:
        print(found)
    return 0 if found.same else 1


def _prune(run: RunDir, keep_last: int | None) -> int:
    settings = _settings(run)
    if keep_last is not None:
        settings = replace(settings, keep_last=keep_last)
    refuse_if_shared(run.checkpoints)
    with lock.acquire(run.checkpoints, max(run.attempts(), default=0), _job_ended):
        names = [entry.name for entry in store.superseded(run.checkpoints)]
        for entry in store.superseded(run.checkpoints):
            store.delete(run.checkpoints, entry, FILES)
        with _bar("pruning", None):
            names += [entry.name for entry in Retention(run.checkpoints, settings).prune()]
        store.sweep(run.checkpoints, FILES)
    print(f"deleted {len(names)}: {', '.join(names)}" if names else "nothing to delete")
    left = store.entries(run.checkpoints)
    print(f"kept {len(left)}: {', '.join(entry.name for entry in left)}")
    return 0


def _unlock(run: RunDir) -> int:
    owner = lock.last_owner(run.checkpoints)
    if owner is None:
        print("nobody has ever written here")
        return 0
    if lock.has_ended(owner, lock.this_process(0), _job_ended) is False:
        raise RunFailed("RUN_LOCKED", f"process {owner.pid} on {owner.host} is alive: hpctrain cancel it")
    lock.unlock(run.checkpoints)
    print(f"attempt {owner.attempt} (process {owner.pid} on {owner.host}) is taken to have ended")
    return 0


def _locate(run: RunDir, text: str) -> tuple[Path, Entry]:
    """A checkpoint by its step, its name, or its folder's path."""
    if "/" in text:
        path = Path(text).resolve()
        entry = store.parse(path.name)
        if entry is None or not path.is_dir():
            raise UserError("--diff", text, "must be a step, a name, or the path of a step_... folder")
        return path.parent, entry
    found = store.entries(run.checkpoints)
    fits = [e for e in found if text in (e.name, str(e.step))]
    if not fits:
        steps = [str(entry.step) for entry in found]
        raise UserError("--diff", text, f"must be one of {', '.join(steps)}", nearest(text, steps))
    return run.checkpoints, fits[-1]


def _settings(run: RunDir) -> CheckpointConfig:
    return from_dict(run.read_config()).checkpoint


def _job_ended(job_id: str) -> bool | None:
    from hpctrain.scheduler import client

    return client.has_ended(job_id)


def _size(count: int | None) -> str:
    if count is None:
        return ""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.3g} {unit}"


@contextmanager
def _bar(text: str, total: int | None) -> Iterator[Any]:
    """A progress bar on stderr, where that is a terminal; gives what to call with bytes done."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(text, total=total)
        yield lambda count: bar.update(task, advance=count)
