"""The kinds of data sets, one record each.

A new kind is a row here, a file below hpctrain/data/ and conf/data/NAME.yaml. Pure: the functions of a kind are named
("package.module:name") and imported when first needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from hpctrain.errors import choose


class Family(StrEnum):
    """What one sample is."""

    IMAGE = "image"  # an array of pixels; the whole set is in memory
    PICTURE = "picture"  # an encoded picture in a file, decoded when it is needed
    TEXT = "text"
    SPEECH = "speech"
    PAIR = "pair"  # a sentence in two languages


@dataclass(frozen=True)
class DataKind:
    """One kind of data.

    `loader`: (DataConfig, Feeding) to data.Splits. `check`: DataConfig to the number of training samples per epoch,
    without torch; raises UserError for what is missing or wrong. `files`: DataConfig to (folder, the files that the
    kind reads there), for a run's identity; None if it reads none or makes its own. `whole`: every byte of the files
    counts, however many there are. `derived`: settings that follow from the data, each with a function of DataConfig.
    `source`: DataConfig to what the loader reads (a set, a folder, sentences), if kinds with one loader differ in that.
    `given`: what data.path must name; None if the kind has default places.
    """

    family: Family
    loader: str
    check: str = "hpctrain.data.check:count_settings"
    files: str | None = None
    whole: bool = False
    derived: Mapping[str, str] = field(default_factory=dict)
    source: str | None = None
    given: str | None = None


_IDX = DataKind(
    Family.IMAGE, "hpctrain.data.loaders:load_idx", "hpctrain.data.check:check_idx",
    "hpctrain.data.places:idx_files", True,
)  # fmt: skip
_TEXT = DataKind(
    Family.TEXT, "hpctrain.data.loaders:load_text", "hpctrain.data.text.check:check",
    "hpctrain.data.text.source:files", True, {"vocabulary_size": "hpctrain.data.text.tokens:vocabulary_size"},
)  # fmt: skip
_PICTURES = DataKind(
    Family.PICTURE, "hpctrain.data.loaders:load_pictures", "hpctrain.data.images.sets:check",
    "hpctrain.data.images.sets:files", derived={"num_classes": "hpctrain.data.images.sets:num_classes"},
    source="hpctrain.data.images.sets:of_path",
)  # fmt: skip
_PAIRS = DataKind(
    Family.PAIR, "hpctrain.data.loaders:load_pairs", "hpctrain.data.translation.source:count",
    "hpctrain.data.translation.source:files", True, source="hpctrain.data.translation.source:aligned",
)  # fmt: skip
_SPEECH = DataKind(
    Family.SPEECH, "hpctrain.data.loaders:load_speech", "hpctrain.data.speech.source:count",
    "hpctrain.data.speech.source:files", source="hpctrain.data.speech.source:recorded",
)  # fmt: skip

DATA_KINDS: dict[str, DataKind] = {
    "fashion_mnist": _IDX,
    "mnist": _IDX,
    "cifar10": DataKind(
        Family.IMAGE, "hpctrain.data.loaders:load_cifar10", "hpctrain.data.check:check_cifar10",
        "hpctrain.data.places:cifar_files", True,
    ),
    "digits": DataKind(Family.IMAGE, "hpctrain.data.loaders:load_digits"),
    "synthetic": DataKind(Family.IMAGE, "hpctrain.data.loaders:load_synthetic"),
    "image_folder": replace(_PICTURES, given="the folder that has train/<class>/ and val/<class>/"),
    "imagenet": _PICTURES,
    "hugging_face_images": DataKind(
        Family.PICTURE, "hpctrain.data.loaders:load_pictures", "hpctrain.data.images.sets:check_hub",
        derived={"num_classes": "hpctrain.data.images.sets:num_classes_of_hub"},
        source="hpctrain.data.images.sets:of_hub",
    ),
    "text": replace(_TEXT, given="a file or folder of UTF-8 text"),
    "python_stdlib": replace(_TEXT, files="hpctrain.data.text.source:stdlib_files"),
    "ptb": _TEXT,
    "wikitext2": _TEXT,
    "wikitext103": _TEXT,
    "hugging_face": _TEXT,
    "espeak": replace(_SPEECH, files=None, source="hpctrain.data.speech.source:spoken"),
    "librispeech": _SPEECH,
    "gettext": replace(
        _PAIRS, files="hpctrain.data.translation.source:catalogues",
        source="hpctrain.data.translation.source:catalogued",
    ),
    "parallel": _PAIRS,
}  # fmt: skip

DERIVED = ("vocabulary_size", "num_classes")  # what `derived` may name


def kind_of(name: str) -> DataKind:
    """Returns the kind of the data set `name`. Raises UserError, which lists the kinds that exist."""
    if name not in DATA_KINDS:
        raise choose("data.name", name, DATA_KINDS)
    return DATA_KINDS[name]


def family(name: str) -> Family | None:
    """Returns what one sample of the data set `name` is; None if the kind is unknown."""
    kind = DATA_KINDS.get(name)
    return kind.family if kind else None


def names(of: Family) -> tuple[str, ...]:
    """Returns the names of the data kinds whose family is `of`."""
    return tuple(name for name, kind in DATA_KINDS.items() if kind.family is of)
