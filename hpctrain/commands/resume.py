"""`hpctrain resume`: submit a stopped or failed run again; it goes on from its checkpoint."""

from __future__ import annotations

from hpctrain.commands.flags import Parser
from hpctrain.commands.say import show_done
from hpctrain.errors import UserError
from hpctrain.launch.resume import configuration, renew
from hpctrain.launch.standing import right_to_start
from hpctrain.scheduler.recognition import moved_from
from hpctrain.storage.run_state import Phase
from hpctrain.storage.search import find


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code. Raises UserError and RunFailed."""
    parser = Parser(
        "resume", "Start a stopped or failed run again where it was: the newest run, or RUN (a run id, the start of "
        "one,\na path or a job id). SETTINGS change it, such as resources.ranks=4.", "[RUN] [SETTINGS]",
    )  # fmt: skip
    parser.add_run_place(as_settings=False)
    args = parser.take(argv)
    named = [word for word in args.words[:1] if "=" not in word]
    settings = args.words[len(named) :]
    run = find(args.root, named[0] if named else None, args.study)
    if run.read_state().phase == Phase.DONE and not settings:
        return show_done(run)
    if settings:
        configuration(run, settings)  # what is refused is refused before anything is written
    with right_to_start(run) as standing:
        known = standing.job_id
        if known and settings:
            raise UserError("settings", " ".join(settings), f"the run is under way as job {known}")
        if known and (old := moved_from(run, run.submission.read())):
            advice = f"hpctrain cancel {run.run_id}, then resume it, or move the folder back"
            raise UserError(
                "run",
                run.run_id,
                f"its folder was moved from {old}, where job {known} looks for it: {advice}",
            )
        if known is None:
            if run.read_state().phase == Phase.DONE and not settings:  # it has ended meanwhile
                return show_done(run)
            config = configuration(run, settings)
            if changed := renew(run, config):
                print(changed)
            if standing.leaving:
                print(f"job {standing.leaving} saves and stops first")
        job_id = known or standing.submit(config)
    print(f"run {run.run_id} {'is under way already as' if known else 'submitted as'} job {job_id}")
    print(f"follow it: hpctrain logs -f {run.run_id}")
    return 0
