"""Where conf/ is, and which groups it has. Reads file names only; imports neither Hydra nor torch."""

from __future__ import annotations

from pathlib import Path


def conf_dir() -> Path:
    """Returns conf/: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return next(path for path in (package / "conf", package.parent / "conf") if path.is_dir())


def groups() -> dict[str, list[str]]:
    """Returns every config group with the names of its options."""
    return {
        folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
        for folder in sorted(conf_dir().iterdir())
        if folder.is_dir()
    }
