"""Data sets from their official homes: lists them with their folders on this machine, and downloads them.

Takes names and folders; writes into <folder>/ only. A download resumes where an earlier one broke off, is
checked against its author's SHA-256, and gets its name only then. If several processes ask at once (the ranks of
a job, two users of one project folder), one downloads and the others wait. Links are not followed, and other users'
files are not written to. Imports no torch.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import itertools
import os
import re
import shutil
import stat
import tarfile
import tempfile
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedIOBase, BufferedRandom
from pathlib import Path

from hpctrain.data.downloads import SOURCES, RemoteFile, Source
from hpctrain.data.places import find_folder
from hpctrain.errors import RunFailed, UserError
from hpctrain.storage.files import lock_file
from hpctrain.storage.run_state import Reason

CHUNK_BYTES = 2**20
TIMEOUT_S = 30.0  # without receiving a byte
TRIES = 4
PAUSE_S = 1.0  # before the second try; doubled each time

Tick = Callable[[int], None]  # called with the number of bytes of the file received so far


@dataclass(frozen=True)
class Listener:
    """Callbacks of a download: `say` gets messages about waiting and retries, `progress` shows each file's bytes."""

    say: Callable[[str], None] = lambda text: None
    progress: Callable[[RemoteFile], contextlib.AbstractContextManager[Tick]] = lambda file: (
        contextlib.nullcontext(lambda have: None)
    )


SILENT = Listener()


def known_sets() -> list[dict[str, str | None]]:
    """Returns each data set of conf/data: its name, what it is, where it is on this machine, and its official home."""
    from hpctrain.config.conf_files import conf_dir

    rows = []
    for path in sorted((conf_dir() / "data").glob("*.yaml")):
        name, source = path.stem, SOURCES.get(path.stem)
        row = {"name": name, "what": _what(path), "where": _where(name) if source else None}
        rows.append(row | {"home": source.page if source else None})
    return rows


def _what(path: Path) -> str:
    """Returns the first sentence of a data set's configuration file."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    text = " ".join(line.lstrip("# ") for line in lines)
    return textwrap.shorten(re.split(r"(?<!et al)[.;:](?= |$)", text)[0], 100)


def _where(name: str) -> str | None:
    try:
        return str(find_folder(name))
    except UserError:
        return None


def fetch(source: Source, folder: Path, hear: Listener = SILENT) -> None:
    """Gets all files of `source` into `folder`, verified. Raises UserError, RunFailed("DATA_ERROR")."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder, hear):
            for file in source.files:
                if not _is_there(file, folder):
                    _fetch_file(source, file, folder, hear)
    except OSError as error:
        raise UserError("--into", folder, f"cannot be written: {error.strerror or error}") from None


@contextlib.contextmanager
def _alone(folder: Path, hear: Listener) -> Iterator[None]:
    """Lets one process per machine fetch at a time; one that may not open the lock fetches its own copy meanwhile."""
    with lock_file(folder / ".fetch.lock") as lock:
        if lock is not None:
            _wait_for(lock, folder, hear)
        yield


def _wait_for(lock: int, folder: Path, hear: Listener) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        hear.say(f"another process is fetching into {folder}: waiting for it")
        fcntl.flock(lock, fcntl.LOCK_EX)


def _is_there(file: RemoteFile, folder: Path) -> bool:
    """Returns whether a file is complete and readable; for an archive, whether its members are.

    Members are not hashed: they were unpacked from a verified archive.
    """
    wanted = file.members or ((file.name, file.bytes),)
    paths = [(folder / name, size) for name, size in wanted]
    if not all(
        path.is_file() and os.access(path, os.R_OK) and path.stat().st_size == size for path, size in paths
    ):
        return False
    return bool(file.members) or _sha256_of(folder / file.name) == file.sha256


def _fetch_file(source: Source, file: RemoteFile, folder: Path, hear: Listener) -> None:
    """Downloads one file. Until it is verified it has a name of its user's own, so that nobody else writes to it."""
    part = folder / f"{file.name}.{os.geteuid()}.part"
    with hear.progress(file) as tick, _own(part) as out:
        _download(source, file, out, folder, tick, hear.say)
        if file.members:
            _unpack(file, out, folder)
    if file.members:
        part.unlink()
    else:
        part.replace(folder / file.name)


def _own(path: Path) -> BufferedRandom:
    """Opens a file to read and write; replaces it with a new one if it is a link or belongs to another user."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
    with contextlib.suppress(OSError):
        handle = os.open(path, flags)
        status = os.fstat(handle)
        if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink == 1:
            return os.fdopen(handle, "r+b")
        os.close(handle)
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666), "r+b")


def _download(
    source: Source,
    file: RemoteFile,
    out: BufferedRandom,
    folder: Path,
    tick: Tick,
    say: Callable[[str], None],
) -> None:
    """Downloads into `out`. Each retry resumes where the last try broke off, at the next base URL."""
    trouble = ""
    for attempt in range(TRIES):
        url = source.base_urls[attempt % len(source.base_urls)] + file.name
        try:
            _continue(url, file, out, tick)
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            trouble = f"{url}: {getattr(error, 'reason', None) or error}"
            if getattr(error, "code", None) == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                out.truncate(0)  # the bytes so far are not the beginning of this file
        else:
            size, digest = out.seek(0, os.SEEK_END), _sha256(out)
            if digest == file.sha256:
                return
            trouble = f"{url}: {size} bytes with SHA-256 {digest[:12]}..., not the official {file.bytes}"
            out.truncate(0)
        if attempt + 1 < TRIES:
            say(f"{trouble}; trying again")
            time.sleep(PAUSE_S * 2**attempt)
    raise RunFailed(
        Reason.DATA_ERROR, f"{trouble}. Where this machine reaches no network, fetch {file.name} elsewhere "
        f"({source.page}) and put it into {folder}"
    )  # fmt: skip


def _continue(url: str, file: RemoteFile, out: BufferedRandom, tick: Tick) -> None:
    """Requests the bytes that `out` lacks, once; stops at the first byte beyond the official size."""
    have = out.seek(0, os.SEEK_END)
    if have >= file.bytes:
        if have == file.bytes:
            return
        have = 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        resumed = have > 0 and answer.status == http.client.PARTIAL_CONTENT
        have = have if resumed else 0
        out.seek(have)
        out.truncate()
        while chunk := answer.read(min(CHUNK_BYTES, file.bytes + 1 - have)):
            out.write(chunk)
            have += len(chunk)
            tick(have)
            if have > file.bytes:
                break  # not the official file: its digest will not match
        out.flush()
        os.fsync(out.fileno())
    if have < file.bytes:
        raise http.client.IncompleteRead(b"", file.bytes - have)


def _unpack(file: RemoteFile, archive: BufferedRandom, folder: Path) -> None:
    """Writes the wanted members of a verified archive, by name; nothing else in it is written."""
    archive.seek(0)
    with (
        tempfile.TemporaryDirectory(dir=folder, prefix=".unpack.") as draft,
        tarfile.open(fileobj=archive) as tar,
    ):
        for name, size in file.members:
            member = tar.extractfile(name)
            if member is None:
                raise RunFailed(Reason.DATA_ERROR, f"{file.name}: {name} is not a regular file")
            path = Path(draft) / Path(name).name
            with path.open("wb") as out:
                shutil.copyfileobj(member, out, CHUNK_BYTES)
                os.fsync(out.fileno())
            if path.stat().st_size != size:
                raise RunFailed(Reason.DATA_ERROR, f"{file.name}: {name} has {path.stat().st_size} bytes")
        for name, _ in file.members:
            place = folder / name
            place.parent.mkdir(exist_ok=True)
            into = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                os.rename(Path(draft) / place.name, place.name, dst_dir_fd=into)
            finally:
                os.close(into)


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return _sha256(file)


def _sha256(file: BufferedIOBase) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()
