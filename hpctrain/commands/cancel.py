"""`hpctrain cancel`: runs save a checkpoint and stop; they can be resumed."""

from __future__ import annotations

from pathlib import Path

from hpctrain.commands.flags import Parser
from hpctrain.launch import cancel
from hpctrain.storage.run_dir import find, runs
from hpctrain.sweep import overview
from hpctrain.sweep.study_dir import StudyDir


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code. Raises UserError."""
    parser = Parser("cancel", "Stop a run, or all runs of a study, after saving a checkpoint.", "[RUN]")
    parser.add_run_place(as_settings=False)
    args = parser.take(argv, most_words=1)
    name = next(iter(args.words), None)
    study = StudyDir(Path(args.root).resolve() / (args.study or ""))
    if name is None and args.study and study.exists():
        print(f"study {study.name}: {overview.cancel(study)}")
        return 0
    if name is None and args.study:
        chosen = list(runs(Path(args.root), args.study))
    else:
        chosen = [find(args.root, name, args.study)]
    for run in chosen:
        print(f"{run.run_id}: {cancel.cancel(run)}")
    return 0
