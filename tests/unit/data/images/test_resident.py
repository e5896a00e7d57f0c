"""Images as the network sees them: normalised, padded, augmented; and files that are wrong."""

import gzip
import struct

import numpy as np
import pytest
import torch

from hpctrain import data
from hpctrain.config.settings import DataConfig
from hpctrain.data import derive
from hpctrain.data.images import resident
from hpctrain.data.images.idx import read_idx
from hpctrain.errors import UserError

BASE = {"name": "x", "shape": (1, 4, 4), "num_classes": 3, "pad": 1, "mean": (0.5,), "std": (0.25,)}


def dataset(**changes):
    pixels = np.arange(5 * 4, dtype=np.uint8).reshape(5, 1, 2, 2) * 10
    return resident.ImageDataset(
        pixels, np.array([0, 1, 2, 0, 1]), DataConfig(**{**BASE, **changes}), augment=True
    )


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def test_pixels_are_normalised_and_the_border_is_black():
    x, y = dataset().batch(np.array([1, 4]))
    assert x.shape == (2, 1, 4, 4)
    assert y.tolist() == [1, 1]
    torch.testing.assert_close(x[0, 0, 1, 1], torch.tensor((40 / 255 - 0.5) / 0.25))
    torch.testing.assert_close(x[0, 0, 0, 0], torch.tensor(-0.5 / 0.25))


def test_digits_are_scikit_learn_s():
    from sklearn.datasets import load_digits

    splits = data.load(derive.load(["lenet_digits"]).data)
    official = load_digits()
    x, y = splits.train.batch(np.arange(1437))
    pixels = (x[:, 0, 8:-8:2, 8:-8:2] * 0.3754 + 0.3046) * 16
    np.testing.assert_allclose(pixels.numpy(), official.images[:1437], atol=0.07)
    np.testing.assert_array_equal(y.numpy(), official.target[:1437])
    assert len(splits.validation) == 360


def test_fashion_mnist_is_the_official_one():
    splits = data.load(derive.load(["lenet_fashion_mnist"]).data)
    assert (len(splits.train), len(splits.validation)) == (60000, 10000)
    x, y = splits.train.batch(np.arange(60000))
    inner = x[:, :, 2:-2, 2:-2]
    assert abs(float(inner.mean())) < 1e-3
    assert abs(float(inner.std()) - 1) < 1e-3
    assert torch.bincount(y).tolist() == [6000] * 10


@pytest.mark.parametrize("kind", ["flip", "pad_crop", "cutout"])
def test_augmentation_repeats_with_its_seed_and_spares_validation(kind):
    noise = np.random.default_rng(0).integers(0, 256, (8, 3, 32, 32), dtype=np.uint8)
    config = DataConfig(
        "x", shape=(3, 32, 32), num_classes=2, mean=(0.5,) * 3, std=(0.3,) * 3, augment=(kind,)
    )
    train = resident.ImageDataset(noise, np.zeros(8, np.int64), config, augment=True)
    everything = np.arange(8)
    first, again = (train.batch(everything, torch.Generator().manual_seed(5))[0] for _ in range(2))
    other, plain = train.batch(everything, torch.Generator().manual_seed(6))[0], train.batch(everything)[0]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, plain)
    validation = resident.ImageDataset(noise, np.zeros(8, np.int64), config, augment=False)
    assert torch.equal(validation.batch(everything, torch.Generator())[0], plain)


def test_flip_mirrors_about_half():
    x = torch.arange(4.0).view(1, 1, 1, 4).expand(1000, 1, 1, 4)
    flipped = resident.flip(x, torch.Generator().manual_seed(0), torch.zeros(1))
    share = (flipped[:, 0, 0, 0] == 3).float().mean()
    assert 0.45 < share < 0.55
    assert set(flipped[:, 0, 0, 0].tolist()) == {0.0, 3.0}


def test_pad_crop_moves_by_four_pixels_at_most():
    x = torch.zeros(200, 1, 32, 32)
    x[:, :, 16, 16] = 1
    moved = resident.pad_crop(x, torch.Generator().manual_seed(0), torch.zeros(1, 1, 1)).nonzero()[:, 2:]
    assert (moved - 16).abs().max() == 4
    assert len(moved) == 200


def test_idx_round_trip(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "a").write_bytes(idx(array))
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(array)))
    np.testing.assert_array_equal(read_idx(tmp_path / "a"), array)
    np.testing.assert_array_equal(read_idx(tmp_path / "a.gz"), array)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0\0\x08", b"PK\3\4 not idx at all", idx(np.zeros((2, 3), np.uint8))[:-1], b"\0\0\x09\1\0\0\0\0"],
)
@pytest.mark.parametrize("name", ["a", "a.gz"])
def test_a_broken_file_is_named(tmp_path, content, name):
    (tmp_path / name).write_bytes(gzip.compress(content) if name == "a.gz" else content)
    with pytest.raises(UserError, match=r"data\.path"):
        read_idx(tmp_path / name)


def test_a_truncated_archive_is_named(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(np.zeros((9, 9), np.uint8)))[:-9])
    with pytest.raises(UserError, match=r"data.path.*a\.gz"):
        read_idx(tmp_path / "a.gz")


def test_missing_files_say_what_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = derive.load(["lenet_fashion_mnist", "data=mnist"]).data
    with pytest.raises(UserError, match="hpctrain data fetch mnist"):
        data.check(config)
    with pytest.raises(UserError, match="not a folder"):
        data.check(derive.load(["lenet_fashion_mnist", "data.path=/nowhere"]).data)


def test_shapes_and_labels_that_do_not_fit_are_named():
    with pytest.raises(UserError, match=r"data\.shape"):
        dataset(shape=(1, 5, 5))
    with pytest.raises(UserError, match="num_classes"):
        dataset(num_classes=2)
