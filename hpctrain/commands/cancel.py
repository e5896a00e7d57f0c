"""`hpctrain cancel`: runs save a checkpoint and stop; they can be resumed."""

from __future__ import annotations

from pathlib import Path

from hpctrain.commands.flags import Parser
from hpctrain.commands.say import say
from hpctrain.launch import cancel
from hpctrain.storage.folders import absolute
from hpctrain.storage.search import find, no_such_study, runs
from hpctrain.sweep import overview
from hpctrain.sweep.study_dir import StudyDir


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code. Raises UserError."""
    parser = Parser("cancel", "Stop a run, or all runs of a study, after saving a checkpoint.", "[RUN]")
    parser.add_run_place(as_settings=False)
    args = parser.take(argv, most_words=1)
    name = next(iter(args.words), None)
    study = StudyDir(absolute(args.root) / (args.study or ""))
    if name is None and args.study and study.exists():
        return _tell([(f"study {study.name}", overview.cancel(study))])
    if name is None and args.study:
        chosen = list(runs(Path(args.root), args.study))
        if not chosen:
            raise no_such_study(args.root, args.study)
    else:
        chosen = [find(args.root, name, args.study)]
    return _tell([(run.run_id, cancel.cancel(run)) for run in chosen])


def _tell(answers: list[tuple[str, cancel.Answer]]) -> int:
    """Print each answer, on stderr if the request was not taken; returns the exit code."""
    for name, answer in answers:
        if answer.taken:
            print(f"{name}: {answer.words}")
        else:
            say(f"{name}: {answer.words}")
    return 0 if all(answer.taken for _, answer in answers) else 1
