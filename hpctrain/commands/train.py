"""`hpctrain train`: run here, in the foreground. A Hydra application, with all of Hydra's own flags."""

from __future__ import annotations

import sys
from typing import Any

from hpctrain.commands.flags import Parser
from hpctrain.commands.say import say, show_done, show_end
from hpctrain.config.settings import Config
from hpctrain.data.identify import run_id
from hpctrain.errors import UserError
from hpctrain.launch import foreground
from hpctrain.launch.prepare import prepare
from hpctrain.launch.resume import renew
from hpctrain.launch.standing import Standing, right_to_start
from hpctrain.storage.run_state import Phase
from hpctrain.storage.search import locate

HYDRAS = (
    "--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--resolve", "--package", "-p", "--run", "-r",
    "--multirun", "-m", "--shell-completion", "-sc", "--config-path", "-cp", "--config-name", "-cn", "--config-dir",
    "-cd", "--experimental-rerun", "--info", "-i",
)  # fmt: skip


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code. Raises UserError and RunFailed."""
    from hpctrain.config.compose import run_app
    from hpctrain.data.derive import configure, derive

    def job(values: dict[str, Any]) -> tuple[int, float | None]:
        config = configure(values)
        return _train_here(config), _validation_loss(config)

    parser = Parser("train", "run here, in the foreground", "[RECIPE] [SETTINGS]", passed_on=HYDRAS)
    parser.add_run_place(as_settings=True)
    words = parser.take(argv).words
    return run_app(words, job, derive)


def _train_here(config: Config) -> int:
    if config.cluster.kind != "local":
        raise UserError("cluster", config.cluster.name, "train runs on this machine; use hpctrain submit")
    run = prepare(config)
    with right_to_start(run) as standing:
        if standing != Standing():
            raise UserError(
                "run", run.run_id, f"is under way as job {standing.job_id or standing.leaving}; follow it with "
                f"hpctrain logs -f {run.run_id}"
            )  # fmt: skip
        if run.read_state().phase == Phase.DONE:
            return show_done(run)
        if changed := renew(run, config):
            print(changed)
        run.submission.write(run.submission.read().without_jobs())
        run.pause_at(None)
        state = foreground.run_here(run, config, sys.stdout, say)
    return show_end(run, state)


def _validation_loss(config: Config) -> float | None:
    """Returns what one of Hydra's sweepers minimises: the last validation loss of the run, if it has one."""
    state = locate(config.run.root, config.run.study, run_id(config)).read_state()
    loss = ((state.summary or {}).get("validation") or {}).get("loss")
    return None if loss is None else float(loss)
