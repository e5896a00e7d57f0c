"""The weights of a trained network, from a checkpoint, without the state that only training needs.

Takes run directories; returns state dictionaries. Reading a checkpoint imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpctrain.checkpoints import store
from hpctrain.checkpoints.store import Entry
from hpctrain.errors import RunFailed, UserError
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Reason

if TYPE_CHECKING:
    from torch import Tensor


def weights(run: RunDir, entry: Entry, which: str) -> tuple[dict[str, Tensor], str]:
    """Returns weights (...,) by name, and a text that says which. Buffers are always the model's own.

    `which`: model, ema (averaged), or auto (ema if there is one). Raises UserError if there is no ema, RunFailed if
    the checkpoint is corrupt.
    """
    try:
        own, ema = _both(run, entry)
    except store.CorruptCheckpoint as error:
        raise RunFailed(Reason.NO_VALID_CHECKPOINT, f"{error}; --step takes another one") from None
    if which == "ema" and not ema:
        raise UserError("--weights", "ema", "this run has none: train.ema_decay was null")
    chosen = "ema" if ema and which != "model" else "model"
    return (own | ema, "averaged (ema)") if chosen == "ema" else (own, "model")


def newest(run: RunDir) -> dict[str, Tensor]:
    """Returns the weights (...,) of the newest checkpoint that verifies, the averaged ones if there are any.

    Raises RunFailed if none verifies.
    """
    wrong = []
    for entry in reversed(store.entries(run.checkpoints)):
        try:
            own, ema = _both(run, entry)
        except store.CorruptCheckpoint as error:
            wrong.append(str(error))
            continue
        return own | ema
    raise RunFailed(Reason.NO_VALID_CHECKPOINT, "; ".join(wrong))


def _both(run: RunDir, entry: Entry) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns the model's own tensors and the averaged ones. Raises CorruptCheckpoint."""
    from hpctrain.checkpoints.saver import read_patiently

    tensors = read_patiently(run.checkpoints, entry).tensors
    own = {k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")}
    ema = {k.removeprefix("ema/"): v for k, v in tensors.items() if k.startswith("ema/")}
    return own, ema
