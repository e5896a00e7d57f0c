"""`hpctrain train`: run here, in the foreground. A Hydra application, with all of Hydra's own flags."""

from __future__ import annotations

import sys

from hpctrain.commands.flags import Parser
from hpctrain.commands.say import say, show_done, show_end
from hpctrain.config.settings import Config
from hpctrain.data.identify import run_id
from hpctrain.errors import UserError
from hpctrain.launch import foreground
from hpctrain.launch.prepare import prepare, refuse_if_running
from hpctrain.launch.resume import renew
from hpctrain.storage.run_dir import locate
from hpctrain.storage.run_state import Phase

HYDRAS = (
    "--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--resolve", "--package", "-p", "--run", "-r",
    "--multirun", "-m", "--shell-completion", "-sc", "--config-path", "-cp", "--config-name", "-cn", "--config-dir",
    "-cd", "--experimental-rerun", "--info", "-i",
)  # fmt: skip


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code. Raises UserError and RunFailed."""
    from hpctrain.config.compose import run_app

    parser = Parser("train", "run here, in the foreground", "[EXPERIMENT] [SETTINGS]", passed_on=HYDRAS)
    parser.add_run_place(as_settings=True)
    words = parser.take(argv).words
    return run_app(words, lambda config, overrides: _train_here(config), result=_validation_loss)


def _train_here(config: Config) -> int:
    if config.cluster.kind != "local":
        raise UserError("cluster", config.cluster.name, "train runs on this machine; use hpctrain submit")
    run = prepare(config)
    refuse_if_running(run)
    if run.read_state().phase == Phase.DONE:
        return show_done(run)
    if changed := renew(run, config):
        print(changed)
    return show_end(run, foreground.run_here(run, config, sys.stdout, say))


def _validation_loss(config: Config) -> float | None:
    """What one of Hydra's sweepers gets from a run."""
    state = locate(config.run.root, config.run.study, run_id(config)).read_state()
    loss = ((state.summary or {}).get("validation") or {}).get("loss")
    return None if loss is None else float(loss)
