"""Recordings and their transcripts: LibriSpeech's layout, or sentences that espeak-ng speaks.

Takes a DataConfig, returns the utterances of both splits. A folder holds `*.trans.txt` files, whose lines are an id
and its words, beside `<id>.flac` or `<id>.wav`; a split is all such files below folders named train* or dev*.
`data=espeak` makes such a folder of spoken numbers once, in the user's cache. No torch.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hpctrain.config.settings import DataConfig
from hpctrain.data.lines import lines
from hpctrain.data.places import find_folder, source_of
from hpctrain.data.text.source import cache_folder, make_cache, open_as
from hpctrain.errors import UserError

SPLITS = {"train": "train*", "validation": "dev*"}
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
VOICES = ("en-us", "en-gb", "en-gb-scotland", "en-us+f2", "en-gb+m3", "en-us+f4")
# The network's output symbols, from number 1 on; 0 is CTC's blank.
CHARACTERS = " 'abcdefghijklmnopqrstuvwxyz"
ALPHABET = "a to z, apostrophe"
MOST_STRANGE = 0.1  # of the characters: more is another language, or another kind of file
SOUNDS = (".flac", ".wav")


@dataclass(frozen=True)
class Utterance:
    """One recording and its transcript."""

    path: Path
    text: str


def count(config: DataConfig) -> int:
    """Returns the training recordings per epoch; data=espeak makes them now if needed. Raises UserError."""
    return len(utterances(config)["train"])


def utterances(config: DataConfig) -> dict[str, list[Utterance]]:
    """Returns both splits, in the order of their transcripts, cut to their limits.

    Raises UserError, also if more than MOST_STRANGE of the transcripts' characters are not in the alphabet.
    """
    folder = source_of(config)
    limits = {"train": config.train_limit, "validation": config.validation_limit}
    splits = {split: _listed(folder, pattern)[: limits[split]] for split, pattern in SPLITS.items()}
    for split, items in splits.items():
        if not items:
            raise UserError(
                "data.path", folder, f"has no *.trans.txt in a folder {SPLITS[split]} for {split}"
            )
    strange, share = _strange([item for items in splits.values() for item in items])
    if share > MOST_STRANGE:
        raise UserError(
            "data.path", folder, f"{share:.0%} of the characters of its transcripts are not in the alphabet "
            f"({ALPHABET}): {strange}"
        )  # fmt: skip
    return splits


def remarks(items: Sequence[Utterance]) -> tuple[str, ...]:
    """Returns what of the transcripts the network does not hear of: characters outside of the alphabet, with counts."""
    strange, _ = _strange(items)
    silent = sum(not numbers_of(item.text) for item in items)
    return (
        *([f"characters that are not in the alphabet ({ALPHABET}): {strange}"] if strange else []),
        *([f"the transcripts of {silent:,} recordings, which have no letter of it"] if silent else []),
    )


def _strange(items: Sequence[Utterance], most: int = 5) -> tuple[str, float]:
    """Returns the commonest characters that are not in the alphabet, with counts, and their share of all characters."""
    counts = Counter(c for item in items for c in "".join(item.text.lower().split()))
    strange = {c: n for c, n in counts.items() if c not in CHARACTERS}
    ranked = sorted(strange, key=lambda c: (-strange[c], c))
    shown = ", ".join(f"{c} {strange[c]:,} times" for c in ranked[:most])
    more = f" and {len(ranked) - most} more" if len(ranked) > most else ""
    return shown + more, sum(strange.values()) / max(1, counts.total())


def recorded(config: DataConfig) -> Path:
    """Returns the folder of a set of recordings. Raises UserError."""
    return find_folder(config.name, config.path)


def files(config: DataConfig) -> tuple[Path, list[Path]]:
    """Returns the folder of a set, and the transcripts and recordings of its splits. Raises UserError."""
    folder = recorded(config)
    below = (path for pattern in SPLITS.values() for part in folder.glob(pattern) for path in part.rglob("*"))
    return folder, sorted(p for p in below if p.name.lower().endswith((".trans.txt", *SOUNDS)))


def _listed(folder: Path, pattern: str) -> list[Utterance]:
    heard = []
    for listing in sorted(path for part in folder.glob(pattern) for path in part.rglob("*.trans.txt")):
        beside = {name: path for path in sorted(listing.parent.iterdir()) if (name := _recording(path))}
        for number, line in enumerate(lines(listing), 1):
            if not line.strip():
                continue
            name, *text = line.split(maxsplit=1)
            if name not in beside:
                said = f"line {number} names {name}, but no {name}.flac or .wav is beside it"
                raise UserError("data.path", listing, said)
            heard.append(Utterance(beside[name], text[0].strip() if text else ""))
    return heard


def _recording(path: Path) -> str | None:
    return path.stem if path.suffix.lower() in SOUNDS else None


def numbers_of(text: str) -> list[int]:
    """Returns the symbol numbers of a text's characters, from 1 on; leaves out those not in `CHARACTERS`."""
    heard = "".join(c for c in text.lower() if c in CHARACTERS or c.isspace())
    return [1 + CHARACTERS.index(c) for c in " ".join(heard.split())]


def spoken(config: DataConfig) -> Path:
    """Returns the folder of spoken numbers, made now if it is not in the cache. Raises UserError."""
    counts = {
        "train": min(config.train_samples, config.train_limit or config.train_samples),
        "validation": min(config.validation_samples, config.validation_limit or config.validation_samples),
    }
    folder = cache_folder() / "espeak" / hashlib.sha256(repr((counts, VOICES, 1)).encode()).hexdigest()[:16]
    if folder.is_dir():
        return folder
    if shutil.which("espeak-ng") is None:
        raise UserError("data", config.name, "needs espeak-ng (Debian's package of this name)")
    make_cache(folder.parent)
    draft = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        for split, name in (("train", "train"), ("validation", "dev")):
            _speak(draft / name, counts[split], seed=len(name))
        open_as(folder.parent, draft)
        try:
            draft.rename(folder)  # whole, or not at all
        except OSError:
            if not folder.is_dir():  # else another process made it first
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _speak(folder: Path, count: int, seed: int) -> None:
    """Writes `count` spoken sentences of one to three digits, with voices and speeds drawn from `seed`."""
    folder.mkdir()
    draw = random.Random(seed)
    listing, commands = [], []
    for number in range(count):
        text = " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, 3)))
        name = f"{number:05d}"
        voice = [
            "-v",
            draw.choice(VOICES),
            "-s",
            str(draw.randint(150, 200)),
            "-p",
            str(draw.randint(35, 65)),
        ]
        commands.append(["espeak-ng", *voice, "-w", str(folder / f"{name}.wav"), text])
        listing.append(f"{name} {text.upper()}\n")
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for done in pool.map(lambda c: subprocess.run(c, capture_output=True, text=True), commands):
            if done.returncode:
                raise UserError("data", "espeak", f"espeak-ng failed: {done.stderr.strip()[-200:]}")
    (folder / "spoken.trans.txt").write_text("".join(listing))
