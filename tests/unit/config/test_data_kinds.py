"""The table of data kinds: it and conf/data agree, all that it names is there, and a row is all that a kind needs."""

import pkgutil

import numpy as np
import pytest

from hpctrain import data
from hpctrain.config import compose
from hpctrain.config.data_kinds import DATA_KINDS, DERIVED, DataKind, Family, family, names
from hpctrain.config.settings import DataConfig
from hpctrain.data.loaders import Splits
from hpctrain.errors import UserError


def test_the_table_and_conf_agree():
    assert set(compose.groups()["data"]) == DATA_KINDS.keys()


@pytest.mark.parametrize("kind", DATA_KINDS.values(), ids=DATA_KINDS)
def test_all_that_a_row_names_is_there(kind):
    places = [kind.loader, kind.check, kind.files, kind.source, *kind.derived.values()]
    assert all(callable(pkgutil.resolve_name(place)) for place in places if place is not None)
    assert set(kind.derived) <= set(DERIVED)


def test_families():
    assert family("ptb") is Family.TEXT
    assert family("nosuch") is None
    assert names(Family.SPEECH) == ("espeak", "librispeech")


def test_an_unknown_kind_lists_the_known_ones():
    with pytest.raises(UserError, match=r"data\.name=digit: must be one of .*did you mean digits"):
        data.check(DataConfig("digit"))


class Counts:
    """A toy: sample n is the number n."""

    shuffle = True

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def batch(self, indices, generator=None):
        import torch

        numbers = torch.from_numpy(np.asarray(indices))
        return numbers[:, None].float(), numbers % 2

    def to(self, device):
        return self


def load_counts(config, feeding):
    return Splits(Counts(config.train_samples), Counts(config.validation_samples))


def check_counts(config):
    if config.path != "here":
        raise UserError("data.path", config.path, "must be here")
    return config.train_samples


def test_a_row_is_all_that_a_new_kind_needs(monkeypatch):
    import sys
    import types

    toys = types.ModuleType("toys")
    toys.load_counts, toys.check_counts = load_counts, check_counts
    monkeypatch.setitem(sys.modules, "toys", toys)
    monkeypatch.setitem(DATA_KINDS, "counts", DataKind(Family.IMAGE, "toys:load_counts", "toys:check_counts"))
    config = DataConfig(
        "counts", path="here", shape=(1,), num_classes=2, train_samples=8, validation_samples=4
    )
    assert data.check(config) == data.count_samples(config) == 8
    with pytest.raises(UserError, match="must be here"):
        data.check(DataConfig("counts", path="there"))
    splits = data.load(config)
    inputs, targets = splits.train.batch(np.array([3, 4]))
    assert (inputs.tolist(), targets.tolist()) == ([[3.0], [4.0]], [1, 0])
