"""Which text a DataConfig names, and how it is divided into training and validation.

Takes a DataConfig; returns a `Source`: functions that stream each part as blocks of text, and an identity that
differs between texts. Reads only, a block at a time; no torch. Bytes that are not UTF-8 raise UserError.

If some of a folder's files (or folders) have train or training in their names, and others val, valid, validation, dev
or test, the first are for training, those named test and all others are left out, and the rest is for validation. Of
any other text, and of training text if none is for validation, the last `validation_fraction` of the bytes is for
validation, cut at the end of a line; files are first ordered by a hash of their names, so that this is a random sample.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import pkgutil
import re
import stat
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpctrain.config.data_kinds import kind_of
from hpctrain.config.settings import DataConfig
from hpctrain.data import hub
from hpctrain.data.lines import not_utf8
from hpctrain.data.places import find_named, places
from hpctrain.errors import UserError, listing

BLOCK_BYTES = 2**20
NAMED, MORE = 3, "more files"  # in a message
ROLES = {
    "train": {"train", "training"}, "validation": {"val", "valid", "validation", "dev"}, "test": {"test", "testing"}
}  # fmt: skip
_TEST_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


@dataclass(frozen=True)
class Source:
    """A text. `identity` is JSON-able and changes with the text; `size_bytes` is None if it is not known.

    `found` says which files, or parts of files, are for what, and which are left out.
    """

    identity: Any
    train: Callable[[], Iterator[str]]
    validation: Callable[[], Iterator[str]]
    size_bytes: int | None = None
    found: str = ""


@dataclass(frozen=True)
class Span:
    """The bytes [start, stop) of a file."""

    path: Path
    start: int
    stop: int


def find_source(config: DataConfig) -> Source:
    """Returns the text that `config` names, from file names and sizes; reads almost nothing. Raises UserError."""
    if config.source is not None and config.path is None:
        return _of_hub(config)
    folder, paths = pkgutil.resolve_name(str(kind_of(config.name).files))(config)
    return from_files(folder, paths, config.validation_fraction)


def _of_hub(config: DataConfig) -> Source:
    """Returns the splits `train` and `validation` of a Hugging Face set.

    If it has no `validation`, the last rows of `train` take its place. The streams raise UserError.
    """
    identity: list[Any] = [config.source, config.subset, config.field]
    folder = Path(config.source or "")
    if folder.is_dir():
        identity.append([(p.name, *_facts(p.stat())) for p in sorted(folder.rglob("*")) if p.is_file()])

    def stream(split: str) -> Iterator[str]:
        rows = hub.load_rows(config)
        if "validation" in rows:
            part = rows[split]
        else:
            whole = rows["train"]
            cut = round((1 - config.validation_fraction) * len(whole))
            part = whole.select(range(cut) if split == "train" else range(cut, len(whole)))
        if config.field not in part.column_names:
            raise UserError("data.field", config.field, f"must be one of {', '.join(part.column_names)}")
        yield from _blocks(part[config.field])

    return Source(identity, lambda: stream("train"), lambda: stream("validation"))


def files(config: DataConfig) -> tuple[Path, list[Path]]:
    """Returns the folder that names are relative to, and the text's files. Raises UserError."""
    if config.path is not None:
        path = Path(config.path).expanduser()
    else:
        named = kind_of(config.name).given is None
        place = find_named(config.name) if named else None
        if place is None:
            looked = "".join(f"{folder} or " for folder in places(config.name)) if named else ""
            raise UserError("data.path", "null", f"give {looked}a file or folder of UTF-8 text")
        path = place
    if path.is_file():
        return path.parent, [path]
    if not path.is_dir():
        raise UserError("data.path", config.path, "is not a file or folder")
    os.scandir(path).close()  # of a folder that is closed, rglob yields nothing
    hidden = re.compile(r"(^|/)\.")
    below = [p for p in sorted(path.rglob("*")) if not hidden.search(p.relative_to(path).as_posix())]
    return path, [p for p in below if p.is_file()]


def stdlib_files(config: DataConfig) -> tuple[Path, list[Path]]:
    """Returns the folder of Python's standard library and its modules, or the files of data.path. Raises UserError."""
    if config.path is not None:
        return files(config)
    folder = Path(sysconfig.get_paths()["stdlib"])
    modules = sorted(folder.rglob("*.py"))
    return folder, [p for p in modules if not _TEST_FOLDERS & {*p.relative_to(folder).parts}]


def from_files(folder: Path, files: Iterable[Path], fraction: float) -> Source:
    """Returns the text of `files`, which are below `folder`. Raises UserError if there is too little to divide."""
    facts = [(p, p.relative_to(folder).as_posix(), p.stat()) for p in files]
    facts = [fact for fact in facts if fact[2].st_size > 0]
    where = facts[0][0] if len(facts) == 1 else folder
    if not facts:
        raise UserError("data.path", folder, "holds no text: every file is empty, or there is none")
    identity: list[Any] = [str(folder.resolve()), [(name, *_facts(s)) for _, name, s in facts]]
    named: dict[str, list[str]] = {key: [] for key in (*ROLES, "other")}
    for _, name, _ in facts:
        named[_role(name) if len(facts) > 1 else "other"].append(name)
    used, left_out = named["train"], [*named["test"], *named["other"]]
    if not used or not (named["validation"] or named["test"]):  # the names do not say what the files are for
        used, named["validation"], left_out = [name for _, name, _ in facts], [], []
    if named["validation"]:
        train, validation = (_whole(folder / name for name in names) for names in (used, named["validation"]))
        found = f"training on {listing(used, NAMED, MORE)}"
        found += f", validation on {listing(named['validation'], NAMED, MORE)}"
    else:
        used.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
        train, validation = _divide(_whole(folder / name for name in used), fraction)
        found = (
            f"{listing(used, NAMED, MORE)}, of which the last {fraction:.3g} of the bytes is for validation"
        )
    if left_out or named["validation"]:
        identity.append(named)
    if not validation or not train:
        raise UserError("data.path", where, "is too small to be divided into training and validation")
    size = sum(span.stop - span.start for span in [*train, *validation])
    found += f"; left out: {listing(left_out, NAMED, MORE)}" if left_out else ""
    return Source(identity, lambda: read(train), lambda: read(validation), size, found)


def _facts(stat: os.stat_result) -> tuple[int, ...]:
    """Returns facts that differ for a rewritten file, even one with its old size and modification time."""
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _role(name: str) -> str:
    """Returns what a file is for: a key of ROLES, by its own name, else its outermost folder's; else "other"."""
    for part in (Path(name).name, Path(name).parts[0]):
        words = re.split(r"[^a-z]+", part.lower())
        if role := next((role for role, names in ROLES.items() if not names.isdisjoint(words)), None):
            return role
    return "other"


def _whole(paths: Iterable[Path]) -> list[Span]:
    return [Span(p, 0, p.stat().st_size) for p in paths]


def _divide(spans: list[Span], fraction: float) -> tuple[list[Span], list[Span]]:
    """Returns (training, validation): the last `fraction` of all bytes, from the start of a line, is for validation."""
    left = round((1 - fraction) * sum(span.stop for span in spans))
    for number, span in enumerate(spans):
        if left < span.stop:
            cut = _line_begin(span.path, left)
            first = [Span(span.path, 0, cut)] if cut > 0 else []
            last = [Span(span.path, cut, span.stop)] if cut < span.stop else []
            return spans[:number] + first, last + spans[number + 1 :]
        left -= span.stop
    return spans, []


def _line_begin(path: Path, offset: int) -> int:
    """Returns where the first line at or after `offset` begins; if none begins nearby, where a character does."""
    with path.open("rb") as file:
        file.seek(max(offset - 1, 0))
        block = file.read(BLOCK_BYTES)
    end = block.find(b"\n")
    if 0 <= end < len(block) - 1:
        return max(offset - 1, 0) + end + 1
    whole = next((i for i, byte in enumerate(block[1:5], 1) if byte & 0xC0 != 0x80), 1)
    return max(offset - 1, 0) + whole


def read(spans: Iterable[Span]) -> Iterator[str]:
    """Yields the text of all spans in blocks; each span ends with a newline. Raises UserError if it is not UTF-8."""
    for span in spans:
        decoder = codecs.getincrementaldecoder("utf-8-sig" if span.start == 0 else "utf-8")()
        at, text = span.start, ""
        with span.path.open("rb") as file:
            file.seek(span.start)
            while at < span.stop:
                block = file.read(min(BLOCK_BYTES, span.stop - at))
                pending = len(decoder.getstate()[0])
                try:
                    text = decoder.decode(block, final=at + len(block) >= span.stop or not block)
                except UnicodeDecodeError as error:
                    offset = at - pending + error.start
                    raise not_utf8(span.path, offset) from None
                if not block:
                    raise UserError("data.path", span.path, "became shorter while it was read")
                at += len(block)
                yield text
        if not text.endswith("\n"):
            yield "\n"


def cache_folder() -> Path:
    """Returns where tokenised text is kept: $HPCTRAIN_CACHE, else hpctrain/ in the user's cache."""
    own = os.environ.get("HPCTRAIN_CACHE")
    base = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "hpctrain"
    return base.expanduser() / "tokens"


def _blocks(rows: Any) -> Iterator[str]:
    """Yields rows as lines, in blocks of about BLOCK_BYTES characters."""
    lines: list[str] = []
    size = 0
    for row in rows:
        if row is None:  # a cell without a value
            continue
        lines.append(row if row.endswith("\n") else f"{row}\n")
        size += len(row)
        if size >= BLOCK_BYTES:
            yield "".join(lines)
            lines, size = [], 0
    if lines:
        yield "".join(lines)


def make_cache(folder: Path) -> None:
    """Makes a folder of the cache, for this user alone, or with the permissions of HPCTRAIN_CACHE. Raises OSError."""
    if folder.is_dir():
        return
    top = folder == cache_folder().parent
    if not top:
        make_cache(folder.parent)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if os.environ.get("HPCTRAIN_CACHE") and not top and folder.stat().st_uid == os.geteuid():
        folder.chmod(stat.S_IMODE(folder.parent.stat().st_mode) | 0o700)


def open_as(cache: Path, draft: Path) -> None:
    """Lets everyone who may read the cache read what is below `draft`, so that users can share one copy."""
    may = stat.S_IMODE(cache.stat().st_mode) & 0o755 | 0o700
    for path in draft.rglob("*"):
        path.chmod(may if path.is_dir() else may & 0o644)
    draft.chmod(may)
