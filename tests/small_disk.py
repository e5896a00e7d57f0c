"""A small file system that a test can fill. It is mounted, as root."""

import contextlib
import os
import subprocess
import threading
import time


class Disk:
    """A mounted folder, kept full by a thread: what is freed is taken at once.

    The filler stays one open file: a path would lead to the disk below once this one is unmounted.
    """

    def __init__(self, place):
        self.place, self._path = place, place / "filler"
        self._filler = self._thread = None
        self._full = threading.Event()

    def fill(self):
        """Until `free`, every byte that is free is taken within a hundredth of a second."""
        self._filler = self._path.open("ab", buffering=0)
        self._full.set()
        self._top_up()
        self._thread = threading.Thread(target=self._keep_full, daemon=True)
        self._thread.start()

    def rest(self):
        """What is freed from now on stays free."""
        self._full.clear()
        if self._thread:
            self._thread.join()
            self._filler.close()
            self._thread = None

    def free(self):
        self.rest()
        os.truncate(self._path, 0)  # a forked child may have the file open
        self._path.unlink()

    def _keep_full(self):
        while self._full.is_set():
            time.sleep(0.01)
            self._top_up()

    def _top_up(self):
        with contextlib.suppress(OSError):
            while True:
                self._filler.write(b"\0" * 4096)


@contextlib.contextmanager
def small_disk(place, size="1m", options=()):
    """Yields a Disk of `size` at the empty folder `place`, and unmounts it in the end."""
    place.mkdir(mode=0o700)
    command = [
        "mount",
        "-t",
        "tmpfs",
        "-o",
        ",".join(("mode=0700", f"size={size}", *options)),
        "tmpfs",
        place,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"this test mounts a tmpfs, as root: {done.stderr}"
    disk = Disk(place)
    try:
        yield disk
    finally:
        disk.rest()
        subprocess.run(["umount", "-l", place], check=True)
