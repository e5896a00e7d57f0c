"""From a model's name to its settings dataclass, and the checks of a model that do not need torch."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

from hpctrain.errors import UserError
from hpctrain.models import settings_image as image
from hpctrain.models import settings_sequence as sequence
from hpctrain.models.network import Network, Unit
from hpctrain.storage.ownership import readable

# Each network's record is defined beside its settings.
NETWORKS: dict[str, Network] = image.NETWORKS | sequence.NETWORKS
SETTINGS = {name: network.settings for name, network in NETWORKS.items()}
# The record of a user's `target`, about which almost nothing is known.
CUSTOM = Network(dict, "", unit=Unit("sample"), any_size=True)


def check_target(target: str) -> None:
    """Checks a user's `package.module:Class` without importing it, also in the current folder. Raises UserError."""
    module = target.partition(":")[0]
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", target):
        raise UserError("model.target", target, "must be package.module:Class")
    search(str(Path.cwd()))
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        raise UserError("model.target", target, f"there is no module {module.partition('.')[0]} here")


def search(folder: str) -> None:
    """Makes Python look for modules in `folder` too, after all other folders."""
    if folder not in sys.path:
        sys.path.append(folder)


@readable("model.weights")
def check_weights(weights: str) -> None:
    """Raises UserError if there is no such weight file."""
    if not Path(weights).is_file():
        raise UserError("model.weights", weights, "no such file")
    with Path(weights).open("rb"):
        pass
