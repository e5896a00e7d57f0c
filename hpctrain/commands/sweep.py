"""`hpctrain sweep`: many runs as one study. Returns at once; the same command again completes the study."""

from __future__ import annotations

import json
from pathlib import Path

from hpctrain.commands.flags import Parser
from hpctrain.commands.say import warn_of_others
from hpctrain.errors import UserError
from hpctrain.launch.estimate import hours_shown, roofline_shown
from hpctrain.storage.run_state import Phase
from hpctrain.sweep import living
from hpctrain.sweep.asha import survivors
from hpctrain.sweep.request import understand
from hpctrain.sweep.start import Started, foresee, start
from hpctrain.sweep.study_dir import StudyDir
from hpctrain.sweep.unlock import unlock

ABOUT = """Every setting may take several values: optimizer.lr=0.01,0.1 'seed=range(3)' model=lenet,alexnet
'schedule=glob(*)', or an interval for random and adaptive search: 'optimizer.lr=tag(log,interval(1e-4,1))'.
sweep=grid|random|tpe|cmaes|asha chooses how; sweep.* are its settings (conf/sweep_base.yaml).
The study is run.study; the same command again completes it, more values extend it.
"""


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code. Raises UserError and RunFailed."""
    args = _parser().take(argv)
    if args.unlock:
        return _unlock(StudyDir(Path(args.root or "runs") / args.unlock), args.json)
    request = understand(args.words)
    if not args.dry_run:
        warn_of_others(request.config)
    started = foresee(request) if args.dry_run else start(request, args.retry)
    if args.json:
        print(json.dumps(started.facts()))
    else:
        _show(started, args.dry_run)
    return 0


def _unlock(study: StudyDir, as_json: bool) -> int:
    if not study.folder.is_dir():
        raise UserError("--unlock", study.path, "must be the name or the folder of a study")
    study = StudyDir(study.path.resolve(), own=True)
    study.refuse_others()
    ended = unlock(study)
    if as_json:
        print(json.dumps({"study": study.name, "ended": ended}))
    elif ended:
        print(f"now counted as ended: {', '.join(ended)}")
    else:
        print("nothing to unlock: no process holds the study, or its owner is known to live")
    return 0


def _show(started: Started, dry_run: bool) -> None:
    study, jobs, left, facts = started.study, started.jobs, started.left, started.facts()
    print(
        f"study {study.name}: {started.runs:,} runs, of which {max(0, started.runs - left):,} are done already"
    )
    bound = roofline_shown(facts["lower_bound_s"])
    flops = "FLOPs unknown" if facts["flops_total"] is None else f"{facts['flops_total']:.3g} FLOPs"
    if len(started.rungs) == 1:
        print(f"{facts['steps']:,} steps, {flops}; {bound}")
    else:
        share, reduction = facts["expected_share"], started.request.settings.reduction
        print(
            f"about {round(share * facts['steps']):,} steps if one run in {reduction} goes on from each of the rungs "
            f"{', '.join(map(str, started.rungs))} (epochs); all runs to their ends: {facts['steps']:,} steps, {flops}"
        )
        if any(swept.key == "seed" for swept in started.request.space):
            print(
                "warning: with sweep.pruner=asha each seed is pruned alone: lucky ones go on, and flatter their "
                "settings; prune with one seed, then sweep seeds over the best settings"
            )
        reached = [
            rung
            for rung, n in zip(started.rungs, survivors(started.runs, started.rungs, reduction), strict=True)
            if n
        ]
        if reached[-1] < started.rungs[-1]:
            print(
                f"warning: of {started.runs} runs none is likely to train beyond epoch {reached[-1]} of "
                f"{started.rungs[-1]}; {reduction ** (len(started.rungs) - 1)} runs, a larger sweep.min_epochs or "
                "sweep.pruner=none would"
            )
    if facts["node_hours_max"] is not None:
        print(hours_shown(facts["node_hours_max"]))
    each = "each works until all is done" if jobs.quota is None else f"{_many(jobs.quota, 'run')} each"
    what = f"{_many(jobs.jobs, 'job')} in {_many(len(jobs.arrays), 'array')}, {each}, {jobs.at_once} at once"
    if dry_run:
        print(f"would submit {what}")
    elif started.job_ids:
        print(f"submitted {what}: {', '.join(started.job_ids)}")
        print(f"follow it: hpctrain status --study {study.name}; at any time: hpctrain report {study.name}")
    elif left:
        live, unknown = living.here(study) if started.request.config.cluster.kind == "local" else (1, 0)
        doubt = living.elsewhere(study) if unknown and not live else "its jobs are in the queue already"
        print(f"{doubt}; nothing was submitted")
    else:
        print(f"nothing is left to do: hpctrain report {study.name}")


def _many(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _parser() -> Parser:
    parser = Parser("sweep", ABOUT, "[RECIPE] SETTINGS")
    parser.add_argument("--dry-run", action="store_true", help="show runs, jobs and costs; start nothing")
    parser.add_argument(
        "--retry", choices=(Phase.FAILED, Phase.CANCELLED), metavar="PHASE",
        help="do runs again that ended as `failed` or `cancelled`",
    )  # fmt: skip
    parser.add_argument(
        "--unlock", metavar="STUDY",
        help="say that a `sweep` of STUDY on another host, or jobs that Slurm has forgotten, have ended, if you know; "
        "STUDY is a name or a folder; starts nothing",
    )  # fmt: skip
    parser.add_json()
    parser.add_run_place(as_settings=True)
    return parser
