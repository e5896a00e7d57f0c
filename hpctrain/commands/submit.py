"""`hpctrain submit`: submit a run as a job and return at once."""

from __future__ import annotations

import functools
import json
import os

from hpctrain.commands.flags import Parser
from hpctrain.commands.say import show_done, warn_of_others
from hpctrain.data.identify import run_id
from hpctrain.errors import UserError
from hpctrain.launch.prepare import check, prepare
from hpctrain.launch.resume import renew
from hpctrain.launch.standing import right_to_start
from hpctrain.storage.run_state import Phase
from hpctrain.storage.search import locate

ABOUT = """Starts a run as a job and returns at once: on Slurm with cluster=NAME, in the background of this
machine with cluster=local. The same science submitted twice is one run.
"""
MORE = "Settings are those of hpctrain train (hpctrain train --help lists them)."


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code. Raises UserError and RunFailed."""
    args = _parser().take(argv)
    from hpctrain.data.derive import load
    from hpctrain.launch import estimate
    from hpctrain.scaling import calibration
    from hpctrain.scheduler import sbatch, submit

    config = load(args.words)
    if config.cluster.kind == "slurm":
        sbatch.check(config)
        if not args.dry_run:
            submit.check_here(config)
    check(config)
    if args.dry_run:
        if config.cluster.kind == "local":
            raise UserError("cluster", config.cluster.name, "--dry-run shows a Slurm job: choose a cluster")
        print(submit.script(locate(config.run.root, config.run.study, run_id(config)), config))
        return 0
    estimated = functools.cache(functools.partial(estimate.estimate, config))
    # lexists, as a folder that may not be read is the business of `prepare`, which names it.
    if not os.path.lexists(locate(config.run.root, config.run.study, run_id(config)).config_file):
        estimated()  # before anything is written: a network may refuse its input
    warn_of_others(config)
    run = prepare(config)
    with right_to_start(run) as standing:
        known = standing.job_id
        if known is None:
            if run.read_state().phase == Phase.DONE:
                if not args.json:
                    return show_done(run)
                facts = {
                    "run": run.run_id,
                    "job_id": next(reversed(run.submission.read().job_ids), None),
                    "new": False,
                    "path": str(run.path),
                    "phase": Phase.DONE,
                }
                print(json.dumps(facts | estimated()))
                return 0
            estimated()
            changed = renew(run, config)
            if changed and not args.json:
                print(changed)
        job_id = standing.submit(config)
    facts = {"run": run.run_id, "job_id": job_id, "new": known is None, "path": str(run.path)}
    if args.json:
        print(json.dumps(facts | estimated() | (calibration.foresee(config) or {})))
        return 0
    if known:
        print(f"run {run.run_id} is under way already as job {job_id}")
    else:
        print(f"run {run.run_id} submitted as job {job_id}")
        print(estimate.shown(estimated(), calibration.foresee(config)))
    print(f"follow it: hpctrain logs -f {run.run_id}")
    return 0


def _parser() -> Parser:
    parser = Parser("submit", ABOUT, "[RECIPE] [SETTINGS]", MORE)
    parser.add_argument("--dry-run", action="store_true", help="print the sbatch script and submit nothing")
    parser.add_argument(
        "--json", action="store_true",
        help="one JSON document on stdout: run, job_id, new, path, FLOPs, time at the roofline, node-hours",
    )  # fmt: skip
    parser.add_run_place(as_settings=True)
    return parser
