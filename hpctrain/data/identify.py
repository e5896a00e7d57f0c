"""A run's identity here and now, and as its folder remembers it: settings together with the contents of files.

    identity.json   {"settings": what counts, "contents": {"data": {"digest", "count", "files"}, ...}}

Takes a `Config` and a run directory; returns ids, writes identity.json, refuses what has changed. No torch.

Data with `data.path` or `data.source`, the code behind `model.target` and the file `model.weights` count in the id
by content; data that cannot be seen from here, by its path. Sets that are named alone (mnist, ptb, ...) and those
that this machine makes or has (python_stdlib, gettext, espeak) count by name, so that an id is the same
everywhere. Rank 0 notes what it finds of all of these when it first trains, and refuses other contents later. A run
that is done has no rank 0: who asks for it again is told of a named set that has changed (`refuse_other_set`).
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

MOST_INLINE = 256  # files named in identity.json; longer lists are in the user's cache, once for all runs

_seen: dict[Any, Contents | None] = {}


def forget() -> None:
    """Makes the next id look at the files again: a process takes them for unchanged when it makes ids."""
    _seen.clear()


def run_id(config: Config) -> str:
    """Returns `<name>-<10 hex digits>`, the same for the same settings and contents. Digests are made once."""
    counted: dict[str, Any] = {}
    for part, held in _counted(config).items():
        if held is None:
            counted[part] = {"place": _brought(config)[part][1]}
        elif held.files:
            counted[part] = held.digest
    return identity.run_id(config, counted)


def _counted(config: Config) -> dict[str, Contents | None]:
    """Returns the contents that this process makes ids of: those of its first look."""
    for part, (key, _) in _brought(config).items():
        if key not in _seen:
            _seen[key] = _look(config, part)
    return {part: _seen[key] for part, (key, _) in _brought(config).items()}


def _brought(config: Config) -> dict[str, tuple[Any, str]]:
    """Returns what the user brings: "data", "target", "weights", each with what chooses its files, and its place."""
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
    """Returns the contents of one part; None for what cannot be seen from here."""
    with contextlib.suppress(UserError):
        if part == "data":
            return contents.of_data(config.data)
        if part == "target" and config.model.target:
            return contents.of_code(config.model.target)
        if part == "weights" and config.model.weights:
            return contents.of_weights(config.model.weights)
    return None


def digests(config: Config) -> dict[str, Any]:
    """Returns what the run's id was made of, as identity.json has it. Lists of files are in the user's cache."""
    return {part: _facts(held, inline=0) for part, held in _counted(config).items() if held}


def note(run: RunDir, config: Config, made_of: Mapping[str, Any] | None = None) -> None:
    """Writes identity.json, unless it is there.

    `made_of`: the `digests` of the process that made the run's id; None if it is this one.
    """
    if not run.identity_file.exists():
        if made_of is None:
            made_of = {part: _facts(held) for part, held in _counted(config).items() if held}
        _write(run, identity.noted(config), made_of)


def refuse_change(run: RunDir, config: Config) -> None:
    """Raises UserError, naming the setting or file that is not as when the run began, so far as can be seen here."""
    stored = _stored(run, config)
    refuse_settings(stored["settings"], config)
    _refuse_contents(stored["contents"], config, {part: _look(config, part) for part in _brought(config)})


def refuse_other_set(run: RunDir, config: Config) -> None:
    """Raises UserError, naming the file, if a set that is named alone is not the one that the run was trained on.

    Sets are compared that lie in one of their places; one that the machine makes or has is its own on each.
    """
    folder = find_named(config.data.name)
    if folder is None or "data" in _brought(config):
        return
    stored = _stored(run, config)["contents"]
    held = _look(config, "data") if "data" in stored else None
    if held and held.place == str(folder):
        _refuse_contents(stored, config, {"data": held})


def refuse_change_here(run: RunDir, config: Config) -> None:
    """The same for rank 0, that sees all: RunFailed. What identity.json does not say yet is noted in it."""
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
    """config/identity.py's `refuse_change` in a user's words; None: nothing is known. Raises UserError."""
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
    """Returns what identity.json says of a part; a list of more files than `inline` goes to the user's cache."""
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
    """identity.json."""

    settings: dict[str, Any] | None
    contents: dict[str, _Part]


def _stored(run: RunDir, config: Config) -> _Stored:
    """identity.json; settings None and no contents if a run of version 0.1.0 has none.

    Raises UserError if it is damaged and the settings do not make the run's id, which then is all that is left.
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
    """Returns whether the run of `config` has this id, also if its maker did not see what the user brings."""
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
