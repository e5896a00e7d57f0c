"""A run's identity, as it is now and as its folder recorded it: the settings and the contents of files.

    identity.json   {"settings": those that count, "contents": {"data": {"digest", "count", "files"}, ...}}

Takes a `Config` and a run directory; returns ids, writes identity.json, refuses a run that has changed. No torch.

Data with `data.path` or `data.source`, the code behind `model.target` and the file `model.weights` count in the id
by content, or by path if they cannot be read from this machine. Sets given by name alone (mnist, ptb, ...) and those
that each machine makes or has (python_stdlib, gettext, espeak) count by name, so that an id is the same everywhere.
Rank 0 records the contents of all of these when it first trains, and refuses other contents later. A finished run
has no rank 0, so whoever asks for it again checks a set given by name (`refuse_other_set`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from hpctrain.config import identity
from hpctrain.config.settings import Config
from hpctrain.data import contents
from hpctrain.data.contents import Contents
from hpctrain.data.places import find_named
from hpctrain.errors import Damaged, RunFailed, UserError
from hpctrain.storage.json_files import load, read_json, replace_text
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Reason

MOST_INLINE = 256  # files listed in identity.json; longer lists are in the user's cache, shared by all runs

_seen: dict[Any, Contents | None] = {}


def forget() -> None:
    """Makes the next id read the files again; otherwise a process assumes that they do not change."""
    _seen.clear()


def run_id(config: Config) -> str:
    """Returns `<name>-<10 hex digits>`, the same for the same settings and contents. Digests are computed once."""
    counted: dict[str, Any] = {}
    for part, held in _counted(config).items():
        if held is None:
            counted[part] = {"place": _brought(config)[part][1]}
        elif held.files:
            counted[part] = held.digest
    return identity.run_id(config, counted)


def _counted(config: Config) -> dict[str, Contents | None]:
    """Returns the contents that this process makes ids of, as it first saw them."""
    for part, (key, _) in _brought(config).items():
        if key not in _seen:
            _seen[key] = _look(config, part)
    return {part: _seen[key] for part, (key, _) in _brought(config).items()}


def _brought(config: Config) -> dict[str, tuple[Any, str]]:
    """Returns the parts that the user brings ("data", "target", "weights"), each as (what selects it, its path)."""
    data, model, parts = config.data, config.model, dict[str, tuple[Any, str]]()
    if data.path or data.source:
        place = str(data.path or data.source)
        where = str(Path(place).expanduser().resolve())
        parts["data"] = (("data", data.name, where, data.source, data.languages), place)
    for part, value in (("target", model.target), ("weights", model.weights)):
        if value:
            parts[part] = ((part, value, str(Path.cwd())), value)
    return parts


def _look(config: Config, part: str) -> Contents | None:
    """Returns the current contents of one part; None if it is not set or cannot be read from here."""
    with contextlib.suppress(UserError):
        if part == "data":
            return contents.of_data(config.data)
        if part == "target" and config.model.target:
            return contents.of_code(config.model.target)
        if part == "weights" and config.model.weights:
            return contents.of_weights(config.model.weights)
    return None


def digests(config: Config) -> dict[str, Any]:
    """Returns what the run's id was made of, in identity.json's form; lists of files go to the user's cache."""
    return {part: _facts(held, inline=0) for part, held in _counted(config).items() if held}


def note(run: RunDir, config: Config, made_of: Mapping[str, Any] | None = None) -> None:
    """Writes identity.json, unless it exists.

    `made_of`: `digests` from the process that made the run's id; None if that is this process.
    """
    if not run.identity_file.exists():
        if made_of is None:
            made_of = {part: _facts(held) for part, held in _counted(config).items() if held}
        _write(run, identity.noted(config), made_of)


def refuse_change(run: RunDir, config: Config) -> None:
    """Raises UserError, naming the setting or file, if one visible from here has changed since the run began."""
    stored = _stored(run, config)
    refuse_settings(stored["settings"], config)
    _refuse_contents(stored["contents"], config, {part: _look(config, part) for part in _brought(config)})


def refuse_other_set(run: RunDir, config: Config) -> None:
    """Raises UserError, naming the file, if a set given by name alone is not the one that the run was trained on.

    Only sets in one of their known places are compared; those that a machine makes or has differ between machines.
    """
    folder = find_named(config.data.name)
    if folder is None or "data" in _brought(config):
        return
    stored = _stored(run, config)["contents"]
    held = _look(config, "data") if "data" in stored else None
    if held and held.place == str(folder):
        _refuse_contents(stored, config, {"data": held})


def refuse_change_here(run: RunDir, config: Config) -> None:
    """Raises RunFailed if a setting or file has changed since the run began. For rank 0, which can read all files.

    Adds to identity.json the contents that it does not record yet.
    """
    held = {part: _look(config, part) for part in ("data", "target", "weights")}
    try:
        stored = _stored(run, config)
        refuse_settings(stored["settings"], config)
    except UserError as error:
        raise RunFailed(Reason.CONFIG_CHANGED, str(error)) from None
    try:
        _refuse_contents(stored["contents"], config, held)
    except UserError as error:
        reason = Reason.DATA_ERROR if error.key.startswith("data.") else Reason.CONFIG_CHANGED
        raise RunFailed(reason, str(error)) from None
    missing = {part: _facts(c) for part, c in held.items() if c and part not in stored["contents"]}
    if missing:
        settings = stored["settings"] or identity.noted(config)
        _write(run, settings, stored["contents"] | missing)


def _refuse_contents(stored: Mapping[str, Any], config: Config, held: Mapping[str, Contents | None]) -> None:
    for part, now in held.items():
        before = stored.get(part)
        if now is None or before is None or before["digest"] == now.digest:
            continue
        if part != "data" and config.checkpoint.allow_change:
            continue
        raise UserError(now.key, now.place, f"{_difference(before, now)}; {_advice(part, config)}")


def refuse_settings(saved: Mapping[str, Any] | None, config: Config) -> None:
    """Raises UserError if settings differ from `saved` as config/identity.py compares them; None is not compared."""
    if saved is None:
        return
    try:
        identity.refuse_change(saved, config)
    except RunFailed as error:
        key, _, rest = error.detail.partition(" is ")
        value, _, why = rest.partition(", but ")
        raise UserError(key, value, why) from None


def _advice(part: str, config: Config) -> str:
    if part not in _brought(config):
        return "the id has only the set's name: data.path=FOLDER or another run.name begins a new run"
    new = "`hpctrain train` or `submit` with the same settings begins a new run"
    return new if part == "data" else f"{new}; if it is meant here: checkpoint.allow_change=true"


def _difference(before: Mapping[str, Any], now: Contents) -> str:
    files = before["files"]
    if files is None:
        files = (read_json(contents.kept(before["digest"])) or {}).get("files")
    if files is None:
        return (
            f"the files are not those that the run began with ({before['count']} then, {len(now.files)} now)"
        )
    return contents.difference(files, now.files) or "the files have changed since the run began"


def _facts(held: Contents, inline: int = MOST_INLINE) -> dict[str, Any]:
    """Returns a part's entry in identity.json; a list of more than `inline` files goes to the user's cache instead."""
    short = len(held.files) <= inline
    if not short:
        path = contents.kept(held.digest)
        with contextlib.suppress(OSError):
            if not path.exists():
                replace_text(path, json.dumps({"files": dict(held.files)}))
    files = dict(held.files) if short else None
    return {"digest": held.digest, "count": len(held.files), "files": files}


class _Part(TypedDict):
    digest: str
    count: int
    files: dict[str, str] | None


class _Stored(TypedDict):
    """The content of identity.json."""

    settings: dict[str, Any] | None
    contents: dict[str, _Part]


def _stored(run: RunDir, config: Config) -> _Stored:
    """Returns the content of identity.json; settings None and no contents for a run of version 0.1.0 without one.

    Raises UserError if the file is damaged and the settings do not lead to the run's id, the only other evidence.
    """
    nothing: _Stored = {"settings": None, "contents": {}}
    try:
        return load(run.identity_file, _Stored) or nothing
    except Damaged as error:
        why = error.why
    if config.checkpoint.allow_change or _makes(run.run_id, config):
        return nothing
    raise UserError(
        "config.yaml", run.config_file, f"does not make the run's id, and {run.identity_file.name} is damaged ({why}): "
        "the settings or the user's files have changed; if that is meant: checkpoint.allow_change=true"
    )  # fmt: skip


def _makes(name: str, config: Config) -> bool:
    """Returns whether `config` leads to this id, even if the id was made where some of the files were unreadable."""
    brought = _brought(config)
    seen = {part: held.digest for part in brought if (held := _look(config, part)) and held.files}
    unseen = {part: {"place": place} for part, (_, place) in brought.items()}
    return name in (
        identity.run_id(config, seen),
        identity.run_id(config, unseen | seen),
        identity.run_id(config, unseen),
    )


def _write(run: RunDir, settings: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
    replace_text(run.identity_file, json.dumps({"settings": settings, "contents": parts}))
