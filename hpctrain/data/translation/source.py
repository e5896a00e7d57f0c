"""Sentence pairs of two languages: line-aligned files like WMT's, or this system's gettext catalogues.

Takes a DataConfig, returns the pairs of both splits, as words. No torch. `data=gettext` reads the *.mo files below
data.path (default /usr/share/locale): the English messages of programs, and their translations.
"""

from __future__ import annotations

import functools
import gettext
import re
import sys
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hpctrain.config.settings import DataConfig
from hpctrain.data.lines import lines
from hpctrain.data.places import find_folder, source_of
from hpctrain.errors import UserError

PADDING, UNKNOWN, START, END = range(4)
LOCALES = Path("/usr/share/locale")
VALIDATION_SHARE = 20  # one sentence in this many
# Scripts without spaces: a Han character is a word, as in BERT's tokeniser (Devlin et al. 2018), and so is a letter
# with its marks in Thai, Lao, Tibetan, Burmese and Khmer.
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"
_UNSPACED = "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff"

Pair = tuple[list[str], list[str]]


@dataclass(frozen=True)
class Pairs:
    """Both splits: pairs of sentences, each a list of words. `remarks` say what of the files is not in them."""

    train: list[Pair]
    validation: list[Pair]
    remarks: tuple[str, ...] = ()


def count(config: DataConfig) -> int:
    """Returns the training pairs per epoch. Raises UserError."""
    return len(pairs(config).train)


def pairs(config: DataConfig) -> Pairs:
    """Returns both splits, sentences of up to data.sequence_length words, cut to their limits. Raises UserError."""
    longest = config.sequence_length
    if longest is None:
        raise UserError("data.sequence_length", "null", "give the most words of a sentence")
    whole = source_of(config)
    fitting: dict[str, list[Pair]] = {}
    empty = long = 0
    for split, items in (("train", whole.train), ("validation", whole.validation)):
        full = [(s, t) for s, t in items if s and t]
        # A target needs room for its end.
        fitting[split] = [(s, t) for s, t in full if len(s) <= longest and len(t) < longest]
        empty, long = empty + len(items) - len(full), long + len(full) - len(fitting[split])
        if not fitting[split]:
            raise UserError("data.sequence_length", longest, f"no {split} sentence is as short")
    remarks = [f"{long:,} pairs longer than {longest} words"] if long else []
    remarks += [f"{empty:,} pairs with an empty side"] if empty else []
    train, validation = (
        fitting["train"][: config.train_limit],
        fitting["validation"][: config.validation_limit],
    )
    return Pairs(train, validation, (*whole.remarks, *remarks))


def words(text: str) -> list[str]:
    """Returns the words and punctuation marks of a text, in lower case; combining marks stay with their letters."""
    return _words().findall(text.lower())


@functools.cache
def _words() -> re.Pattern[str]:
    marks = "".join(c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c).startswith("M"))
    letter, joiners = rf"[\w{marks}]", "\u200c\u200d"
    spaced = rf"(?:(?![{_HAN}{_UNSPACED}])[\w{marks}{joiners}])+"
    return re.compile(rf"[{_HAN}]|(?:(?=[{_UNSPACED}]){letter})[{marks}]*|{spaced}|[^\w\s{marks}{joiners}]")


def vocabulary(sentences: Iterable[Pair], size: int) -> dict[str, int]:
    """Returns the most frequent words of both languages together, numbered from 4; ties are in alphabetical order."""
    counts = Counter(word for pair in sentences for side in pair for word in side)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return {word: number for number, word in enumerate(ranked[: size - 4], 4)}


def files(config: DataConfig) -> tuple[Path, list[Path]]:
    """Returns the folder of a set, and the texts of both splits in it. Raises UserError."""
    folder = find_folder(config.name, config.path)
    texts = [folder / f"{stem}.{language}" for stem in ("train", "valid") for language in config.languages]
    for text in texts:
        if not text.is_file():
            raise UserError("data.path", folder, f"has no {text.name}")
    return folder, texts


def catalogues(config: DataConfig) -> tuple[Path, list[Path]]:
    """Returns the folder of gettext catalogues, and those in the second language. Raises UserError."""
    folder = Path(config.path).expanduser() if config.path else LOCALES
    language = config.languages[1]
    paths = sorted(folder.glob(f"{language}/LC_MESSAGES/*.mo"))
    if not paths:
        raise UserError("data.path", folder, f"has no {language}/LC_MESSAGES/*.mo")
    return folder, paths


def catalogued(config: DataConfig) -> Pairs:
    """Returns the pairs of messages and translations in the catalogues. Raises UserError."""
    translations: dict[str, str] = {}
    for file in catalogues(config)[1]:
        for source, target in _catalogue(file):
            if "%" not in source and "\n" not in source and source != target:
                translations.setdefault(source, target)
    train: list[Pair] = []
    validation: list[Pair] = []
    for source, target in sorted(translations.items()):
        part = validation if zlib.crc32(source.encode()) % VALIDATION_SHARE == 0 else train
        part.append((words(source), words(target)))
    return Pairs(train, validation)


def _catalogue(file: Path) -> Iterator[tuple[str, str]]:
    try:
        with file.open("rb") as opened:
            catalogue = gettext.GNUTranslations(opened)
    except (OSError, UnicodeDecodeError):
        return  # some programs' catalogues are not UTF-8
    for source, target in catalogue._catalog.items():  # type: ignore[attr-defined]
        if source and isinstance(source, str) and isinstance(target, str):
            yield source, target


def aligned(config: DataConfig) -> Pairs:
    """Returns train.<language> and valid.<language> of both languages, a sentence per line. Raises UserError."""
    folder, paths = files(config)
    splits = {}
    for split, stem, pair in (("train", "train", paths[:2]), ("validation", "valid", paths[2:])):
        texts = [lines(path) for path in pair]
        if len(texts[0]) != len(texts[1]):
            raise UserError(
                "data.path",
                folder,
                f"{stem}.*: {len(texts[0])} lines in one language, {len(texts[1])} in the other",
            )
        splits[split] = [(words(s), words(t)) for s, t in zip(*texts, strict=True)]
    return Pairs(splits["train"], splits["validation"])
