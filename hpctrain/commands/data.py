"""`hpctrain data`: list the data sets and their places, fetch one, check one, pack a folder of pictures, verify it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpctrain.commands.flags import Parser, whole
from hpctrain.data import fetch
from hpctrain.data.downloads import SOURCES, RemoteFile
from hpctrain.data.places import places
from hpctrain.errors import UserError, choose
from hpctrain.report.numbers import short

if TYPE_CHECKING:
    from hpctrain.data.images.sets import Manifest

SHARD_MB = 512
MORE = """hpctrain data check [RECIPE] SETTINGS: what a run would find, and what it would leave out
hpctrain data pack --help, hpctrain data verify --help: a folder of pictures in a few large files"""


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code. Raises UserError and RunFailed."""
    if argv and argv[0] in WITH_OWN_WORDS:
        return WITH_OWN_WORDS[argv[0]](argv[1:])
    parser = Parser("data", "Data sets: list them, fetch one.", "[list | fetch NAME]", MORE)
    parser.add_argument("--into", type=Path, help="the folder (default: $HPCTRAIN_DATA/NAME or data/NAME)")
    parser.add_argument(
        "--from", dest="base_url", metavar="URL", help="another server that has the official files"
    )
    parser.add_json()
    args = parser.take(argv, most_words=2)
    action = args.words[0] if args.words else "list"
    name = args.words[1] if len(args.words) > 1 else ""
    if action in WITH_OWN_WORDS:
        raise UserError("word", action, f"must come first: hpctrain data {action}")
    if action not in ("list", "fetch"):
        raise choose("word", action, ("list", "fetch", *WITH_OWN_WORDS))
    if action == "list":
        return _list(args.json)
    if name not in SOURCES:
        raise choose("name", name, SOURCES)
    source = SOURCES[name]
    folder = (args.into or places(source.name)[0]).expanduser()
    if args.base_url:
        if not re.match(r"\w+://", args.base_url):
            raise UserError("--from", args.base_url, "must be a URL, such as https://host/folder/")
        source = dataclasses.replace(source, base_urls=(args.base_url.rstrip("/") + "/",))
    fetch.fetch(source, folder, fetch.Listener(_say, _fetching))
    print(f"{source.name} is in {folder}")
    return 0


def _list(as_json: bool) -> int:
    rows = fetch.known_sets()
    if as_json:
        print(json.dumps(rows))
        return 0
    width = 2 + max(len(str(row["name"])) for row in rows)
    for row in rows:
        print(f"{row['name']:{width}}{row['what']}")
        if row["home"]:
            print(f"{'':{width}}{row['where'] or 'not here: hpctrain data fetch ' + str(row['name'])}")
    return 0


def _pack(argv: list[str]) -> int:
    about = "Packs many pictures into a few large files. FOLDER has train/<class>/* and val/<class>/*."
    parser = Parser("data pack", about, "FOLDER")
    parser.add_argument(
        "--into", type=Path, required=True, metavar="PACKED", help="the packed set, a new folder"
    )
    parser.add_argument(
        "--resize", type=whole(), metavar="PIXELS", help="make the shorter side this many pixels if it is longer"
    )  # fmt: skip
    parser.add_argument(
        "--shard-mb", type=whole(), default=SHARD_MB, metavar="MB", help=f"size of a file (default: {SHARD_MB})"
    )  # fmt: skip
    parser.add_json()
    args = parser.take(argv, most_words=1)
    folder = _folder(args.words)
    from hpctrain.data.images import pack

    _show(pack.pack(folder, args.into, args.resize, args.shard_mb, _packing), args.into, args.json)
    return 0


def _verify(argv: list[str]) -> int:
    parser = Parser("data verify", "Is a packed set as it was packed? Reads every byte.", "PACKED")
    parser.add_json()
    args = parser.take(argv, most_words=1)
    folder = _folder(args.words)
    from hpctrain.data.images import pack

    _show(pack.verify(folder), folder, args.json)
    return 0


def _check(argv: list[str]) -> int:
    about = "Reads a data set as a run would, and says what it finds and what it leaves out."
    parser = Parser("data check", about, "[RECIPE] SETTINGS")
    parser.add_json()
    args = parser.take(argv)
    from hpctrain import data
    from hpctrain.data.derive import load

    config = load(args.words)
    data.check(config.data)
    splits = data.load(config.data, data.Feeding(config.train.batch_size))
    if args.json:
        counts = {"train": len(splits.train), "validation": len(splits.validation)}
        print(json.dumps(counts | {"found": splits.found}))
    else:
        print(splits.found)
    return 0


WITH_OWN_WORDS: dict[str, Callable[[list[str]], int]] = {"check": _check, "pack": _pack, "verify": _verify}


def _folder(words: list[str]) -> Path:
    if not words:
        raise UserError("folder", "", "must be given")
    return Path(words[0])


def _show(manifest: Manifest, folder: Path, as_json: bool) -> None:
    splits = {
        name: {
            "samples": manifest.samples(name), "shards": len(shards), "bytes": sum(s.bytes for s in shards)
        }
        for name, shards in manifest.splits.items()
    }  # fmt: skip
    if as_json:
        print(json.dumps({"folder": str(folder), "classes": len(manifest.classes), "splits": splits}))
        return
    for name, what in splits.items():
        size = f"{short(what['bytes'], 'B', digits=3)} in {what['shards']} file{'s' if what['shards'] > 1 else ''}"
        print(f"{name:12}{what['samples']:>10,} pictures  {size}")
    print(f"{len(manifest.classes)} classes; use it: data=image_folder data.path={folder}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _fetching(file: RemoteFile) -> Iterator[fetch.Tick]:
    """A bar on a terminal, one line elsewhere; on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        _say(f"fetching {file.name} ({short(file.bytes, 'B', digits=3)})")
        yield lambda have: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(file.name, total=file.bytes)
        yield lambda have: bar.update(task, completed=have)


def _packing(name: str, pictures: Iterator[Any], total: int) -> Iterator[Any]:
    """A bar on a terminal, one line elsewhere; on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        _say(f"packing {total:,} pictures for {name}")
        yield from pictures
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        yield from bar.track(pictures, total, description=name)
