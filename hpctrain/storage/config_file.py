"""config.yaml of a run: the resolved configuration, as plain containers. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpctrain.errors import Damaged, Foreign, UserError
from hpctrain.storage.json_files import read_own, read_small, replace_text

KEY = "config.yaml"  # the key of the UserError
_AGAIN = "`hpctrain train` or `submit` with the run's settings makes it again"


def read_config(path: Path, own: bool = False) -> dict[str, Any]:
    """Returns the configuration in `path`. Raises UserError, with KEY, if the file is missing or damaged.

    `own`: the values will be used and not only shown, so a file that others could have written is refused.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        values = yaml.load((read_own if own else read_small)(path)[0].decode(), Loader=loader)
    except FileNotFoundError:
        raise UserError(KEY, path, f"is missing; {_AGAIN}") from None
    except Foreign as error:
        raise UserError(KEY, error.filename, str(error.strerror)) from None
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


def write_config(path: Path, values: Mapping[str, Any]) -> None:
    """Replaces the configuration in `path`. A table may be any kind of dict, such as one that was read from JSON."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes plain containers."""

    Dumper.add_multi_representer(dict, yaml.SafeDumper.represent_dict)
    replace_text(path, yaml.dump(dict(values), Dumper=Dumper, sort_keys=False, allow_unicode=True))


def _damaged(path: Path, why: str) -> UserError:
    return UserError(KEY, path, f"is damaged ({why}); {_AGAIN} once it is removed")
