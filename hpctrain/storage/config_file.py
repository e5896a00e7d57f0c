"""config.yaml of a run: the resolved configuration, as plain containers. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpctrain.errors import Damaged, UserError
from hpctrain.storage.json_files import read_small

KEY = "config.yaml"  # of the UserError


def read_config(path: Path) -> dict[str, Any]:
    """Returns the configuration in `path`. Raises FileNotFoundError; UserError, with KEY, if it cannot be one."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        values = yaml.load(read_small(path)[0].decode(), Loader=loader)
    except Damaged as error:
        raise _damaged(path, error.why) from None
    except yaml.MarkedYAMLError as error:
        place = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise _damaged(path, f"{error.problem or error.context}{place}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _damaged(path, " ".join(str(error).split())[:100] or "nested too deeply") from None
    if values is None:
        raise _damaged(path, "empty")
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise _damaged(path, "not a table of settings")
    return values


def _damaged(path: Path, why: str) -> UserError:
    new = "`hpctrain train` or `submit` with the run's settings makes it again once it is removed"
    return UserError(KEY, path, f"is damaged ({why}); {new}")
