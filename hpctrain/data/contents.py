"""Digests of what files hold: the user's data, the code behind model.target, the file model.weights.

Takes settings; returns `Contents`. Digests are kept in the user's cache with the file's size, times and inode, so
that an unchanged file is read only once. They do not cover times or locations: a copy has the same digest. No torch.

A digest covers the name of every file that the data kind reads (relative to the given folder) and
- for text, sentence pairs and code: the whole content, whatever the size;
- for pictures, recordings, local Hugging Face sets and weights: the whole content if all files together have at
  most `WHOLE_BYTES`. Above that, the whole content of lists (`LISTS`), the size of every other file, and `BLOCKS`
  evenly spaced blocks of each file larger than `SAMPLED_BYTES`.
So in a set of more than 2 GiB, an edit that keeps a picture's name and size goes unnoticed; a million pictures cost
a million stat calls, and a packed set of any size a few reads (pack.json, a list, has the SHA-256 of each shard).
Above `MOST_NAMES` files, there is one digest per folder instead of one per file.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import json
import os
import pkgutil
import re
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hpctrain.config.data_kinds import kind_of
from hpctrain.config.settings import DataConfig
from hpctrain.data.downloads import SOURCES
from hpctrain.data.text.source import cache_folder, make_cache
from hpctrain.errors import UserError
from hpctrain.models.settings import check_target
from hpctrain.storage.json_files import read_json, replace_text
from hpctrain.storage.ownership import readable, unread

WHOLE_BYTES = 2 * 2**30
SAMPLED_BYTES = 64 * 2**20
BLOCKS, BLOCK_BYTES = 64, 2**16
MOST_NAMES = 20_000
SETTLED_S = 2.0  # a file changed this recently may change again and keep the same timestamp
LISTS = {".txt", ".json", ".jsonl", ".csv", ".tsv"}
CODE = {".py", ".so", ".c", ".cc", ".cpp", ".cu", ".cuh", ".h"}
BY_NAME = {"import_module", "__import__", "resolve_name"}  # functions that load the module that a text names

Files = tuple[Path, list[Path]]  # the folder that names are relative to, and the files


@dataclass(frozen=True)
class Contents:
    """The digest of each file by name, and the setting `key` and its value `place` that chose the files.

    A file given by its own path has the name "".
    """

    key: str
    place: str
    files: Mapping[str, str]

    @cached_property
    def digest(self) -> str:
        """Returns the SHA-256, in hex, of the names and digests of all files."""
        return hashlib.sha256(json.dumps(self.files, sort_keys=True).encode()).hexdigest()


@readable("data.path")
def of_data(config: DataConfig) -> Contents:
    """Returns what the data set holds; no files if it needs none or has its official ones. Raises UserError."""
    kind = kind_of(config.name)
    if config.source is not None and (config.path is None or kind.files is None):
        if not Path(config.source).is_dir():  # a set on the hub is identified by its name
            return Contents("data.source", config.source, {f"hub:{config.source}": ""})
        folder = Path(config.source)
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        return Contents("data.source", config.source, digests(folder, files, key="data.source"))
    if kind.files is None:
        return Contents("data.path", str(config.path), {})
    folder, files = pkgutil.resolve_name(kind.files)(config)
    held = digests(folder, files, whole=kind.whole)
    official = {file.sha256 for file in SOURCES[config.name].files} if config.name in SOURCES else set()
    if set(held.values()) <= official:
        held = {}
    elif config.path is not None and files == [Path(config.path).expanduser()]:
        held = {"": held[files[0].name]}
    return Contents("data.path", str(config.path or folder), held)


@readable("model.weights")
def of_weights(path: str) -> Contents:
    """Returns what the weight file holds. Raises UserError."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError("model.weights", path, "no such file")
    return Contents("model.weights", path, {"": digests(file.parent, [file], key="model.weights")[file.name]})


def of_code(target: str) -> Contents:
    """Returns the user's files behind `package.module:Class`: its top-level package and all that it imports in turn.

    Python's own code, installed packages and hpctrain do not count: their versions identify them. Nothing is
    imported: a module that the code loads by a name that it makes at run time is not seen. Raises UserError if there is
    no such package.
    """
    check_target(target)
    importlib.invalidate_caches()
    waiting, packages = [target.partition(":")[0].partition(".")[0]], dict[str, dict[str, str]]()
    while waiting:
        name = waiting.pop()
        if name not in packages:
            folder, files = _files_of_package(name)
            packages[name] = digests(folder, files, True, "model.target") if files else {}
            waiting += sorted({top for file in files if file.suffix == ".py" for top in _imported(file)})
    return Contents("model.target", target, {k: v for files in packages.values() for k, v in files.items()})


def _files_of_package(name: str) -> Files:
    """Returns the folder and files of a top-level package or module; no files if it is not the user's own."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or name == "hpctrain":
        return Path(), []
    places = [Path(place) for place in spec.submodule_search_locations or ()]
    alone = [Path(spec.origin)] if not places and spec.origin and Path(spec.origin).is_file() else []
    origins = [*places, *alone]
    if not origins or any(_installed(place.resolve()) for place in origins):
        return Path(), []
    files = [*alone, *(p for place in places for p in sorted(_code_below(place)))]
    return origins[0].parent, [p for p in files if p.is_file() and "__pycache__" not in p.parts]


def _code_below(package: Path) -> Iterator[Path]:
    """Yields a package's code files, also in linked folders, since Python imports from these too.

    Each folder is read once.
    """
    seen = set[Path]()
    for place, folders, names in os.walk(package, followlinks=True):
        if (real := Path(place).resolve()) in seen:
            folders.clear()  # a link to a parent folder, or to one already read
            continue
        seen.add(real)
        folders.sort()
        yield from (path for name in names if (path := Path(place, name)).suffix in CODE)


def _installed(place: Path) -> bool:
    own = [Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib")]
    return bool({"site-packages", "dist-packages"} & {*place.parts}) or any(
        place.is_relative_to(folder) for folder in own
    )


def _imported(file: Path) -> Iterator[str]:
    """Yields the top-level names that a file imports, also inside functions; none if it is not valid Python."""
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (OSError, SyntaxError, ValueError):
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and _name(node.func) in BY_NAME and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield re.split(r"[.:]", first.value)[0]


def _name(called: ast.expr) -> str:
    """The last part of what is called: `f` of both `f()` and `module.f()`; "" if it does not have a name."""
    return str(getattr(called, "attr", None) or getattr(called, "id", ""))


def digests(
    folder: Path, files: Sequence[Path], whole: bool = False, key: str = "data.path"
) -> dict[str, str]:
    """Returns the digest of each file by its name relative to `folder`; see the top of the module.

    Raises UserError, which names the setting `key` that chose the files.
    """
    names = [os.path.relpath(path, folder) for path in files]
    try:
        stats = _stats(files)
        everything = whole or sum(stat.st_size for stat in stats) <= WHOLE_BYTES
        with _remembered(folder) as known:
            by_name = _digests(
                dict(zip(names, zip(files, stats, strict=True), strict=True)), everything, known
            )
    except OSError as error:
        raise UserError(key, error.filename or folder, f"cannot be read: {unread(error)}") from None
    return by_name if len(by_name) <= MOST_NAMES else _by_folder(by_name)


Known = dict[str, tuple[list[int], str]]  # "how:name" to (size, times and inode; digest)


def _digests(
    files: Mapping[str, tuple[Path, os.stat_result]], everything: bool, known: Known
) -> dict[str, str]:
    by_name, unread = dict[str, str](), list[str]()
    how = {name: _reading(path, stat.st_size, everything) for name, (path, stat) in files.items()}
    for name, (_, stat) in files.items():
        facts, digest = known.get(f"{how[name]}:{name}", ([], ""))
        if how[name] == "size":
            by_name[name] = f"{stat.st_size} bytes"
        elif facts == _facts(stat):
            by_name[name] = digest
        else:
            unread.append(name)
    with ThreadPoolExecutor(_threads()) as pool:
        read_now = pool.map(lambda name: READ[how[name]](files[name][0]), unread)
        for name, digest in zip(unread, read_now, strict=True):
            by_name[name], stat = digest, files[name][1]
            if time.time() - max(stat.st_mtime, stat.st_ctime) > SETTLED_S:
                known[f"{how[name]}:{name}"] = (_facts(stat), digest)
    return by_name


def _reading(path: Path, size: int, everything: bool) -> str:
    if everything or path.suffix.lower() in LISTS:
        return "whole"
    return "sampled" if size > SAMPLED_BYTES else "size"


def _facts(stat: os.stat_result) -> list[int]:
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _stats(files: Sequence[Path]) -> list[os.stat_result]:
    """Returns the stat of each file. A thread takes 4,096 at a time: only a file server makes the calls wait."""
    parts = [files[i : i + 4096] for i in range(0, len(files), 4096)]
    with ThreadPoolExecutor(16) as pool:
        return [stat for part in pool.map(lambda part: [p.stat() for p in part], parts) for stat in part]


def _whole(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sampled(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(BLOCKS):
            file.seek((size - BLOCK_BYTES) * number // (BLOCKS - 1))
            digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()


READ: dict[str, Callable[[Path], str]] = {"whole": _whole, "sampled": _sampled}


def _by_folder(by_name: Mapping[str, str]) -> dict[str, str]:
    folders: dict[str, list[tuple[str, str]]] = {}
    for name, digest in by_name.items():
        parent, _, last = name.rpartition("/")
        folders.setdefault(parent, []).append((last, digest))
    return {
        f"{folder}/": f"{len(files)} files {hashlib.sha256(json.dumps(sorted(files)).encode()).hexdigest()}"
        for folder, files in folders.items()
    }


def _threads() -> int:
    return min(8, len(os.sched_getaffinity(0)))


def kept(name: str) -> Path:
    """Returns the path of a file in this module's cache, after making the folder if that is possible."""
    folder = cache_folder().parent / "contents"
    with contextlib.suppress(OSError):
        make_cache(folder)
    return folder / f"{name}.json"


@contextlib.contextmanager
def _remembered(folder: Path) -> Iterator[Known]:
    """Yields the cached digests of a folder's files; saves what the caller adds. A missing cache is not an error."""
    path = kept(hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32])
    before: Known = {}
    with contextlib.suppress(ValueError, TypeError):
        before = {
            name: (list(facts), str(digest)) for name, (facts, digest) in (read_json(path) or {}).items()
        }
    known = dict(before)
    yield known
    if known != before:
        with contextlib.suppress(OSError):
            replace_text(path, json.dumps(known))


def difference(before: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """Returns a message about the first file that was changed, removed or added; None if there is no difference."""
    changes = [*_different(before, now)]
    if not changes:
        return None
    more = f" (and {len(changes) - 1} more)" if len(changes) > 1 else ""
    return f"{changes[0]}{more} since the run began"


def _different(before: Mapping[str, str], now: Mapping[str, str]) -> Iterable[str]:
    for name in sorted(before.keys() & now.keys()):
        if before[name] != now[name]:
            yield f"{name or 'the file'} has changed"
    yield from (f"{name or 'the file'} was removed" for name in sorted(before.keys() - now.keys()))
    yield from (f"{name or 'the file'} was added" for name in sorted(now.keys() - before.keys()))
