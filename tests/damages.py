"""What may have happened to a small file: by name, a function that does it to a path."""

import os


def fifo(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def folder(path):
    path.unlink(missing_ok=True)
    path.mkdir()


def link(path):
    path.unlink(missing_ok=True)
    (path.parent / ".elsewhere").write_text("{}")
    path.symlink_to(path.parent / ".elsewhere")


def huge(path):
    with path.open("wb") as file:
        file.truncate(50 * 10**6)


DAMAGES = {
    "pipe": fifo,
    "folder": folder,
    "link": link,
    "huge": huge,
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_text('{"phase": "do'),
    "list": lambda path: path.write_text("[]"),
    "types": lambda path: path.write_text(
        '{"phase": 5, "job_ids": "77", "epochs": [], "step": "x", "owner": {"pid": "x"}, "mode": 5}'
    ),
    "binary": lambda path: path.write_bytes(os.urandom(999)),
}
