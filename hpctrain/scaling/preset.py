"""Writes the best settings of the exchange that a study measured into its cluster's preset."""

from __future__ import annotations

from collections.abc import Sequence

from hpctrain.errors import UserError
from hpctrain.scaling import comm_settings
from hpctrain.scaling.comm_settings import Effect
from hpctrain.storage.json_files import replace_text


def write_preset(study: str, cluster: str, effects: Sequence[Effect]) -> str:
    """Rewrites conf/cluster/<cluster>.yaml if a setting is faster beyond the noise; returns what was done, in words.

    Raises UserError if the study tried no settings, or there is no such preset, or it cannot be written.
    """
    from hpctrain.config.conf_files import conf_dir

    flag = "--write-preset"
    if not effects:
        raise UserError(flag, study, "tried no settings of the exchange: give hpctrain scale scaling.knobs")
    chosen = comm_settings.best(effects)
    path = conf_dir() / "cluster" / f"{cluster}.yaml"
    if not chosen:
        return f"{path} stays as it is: no setting is faster beyond the noise"
    if not path.is_file():
        raise UserError(flag, cluster, f"has no preset {path}")
    text = comm_settings.with_comm(path.read_text(), chosen, f"hpctrain report {study}")
    try:
        replace_text(path, text)
    except OSError as error:
        raise UserError(flag, path, f"cannot be written ({error.strerror})") from None
    return f"{path}: " + " ".join(f"comm.{key}={comm_settings.word(value)}" for key, value in chosen.items())
