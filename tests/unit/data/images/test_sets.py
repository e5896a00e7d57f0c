"""Pictures in folders, packed files and Hugging Face sets: found, decoded, augmented, read ahead; broken ones named."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hpctrain import cli, data
from hpctrain.data import derive
from hpctrain.data.images import pack, sets
from hpctrain.data.images.decode import Arrow, Decoding
from hpctrain.data.images.streamed import StreamedImages, Wanted
from hpctrain.errors import UserError

NAME = ("folder", "x.png")


def make_folder(root, train=12, validation=4, size=(40, 32), suffix="png", classes=("ant", "bee", "cat")):
    """Noise, other for each picture, in ImageNet's layout; `size` is (width, height)."""
    noise = np.random.default_rng(0)
    for split, count in (("train", train), ("val", validation)):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = noise.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.{suffix}")
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("pictures") / "set")


@pytest.fixture(scope="module")
def packed(folder):
    into = folder.parent / "packed"
    assert cli.main(["data", "pack", str(folder), "--into", str(into), "--shard-mb", "1"]) == 0
    return into


def config(path, *overrides, shape="[3,16,16]", group="image_folder"):
    where = f"data.source={path}" if group.startswith("hugging") else f"data.path={path}"
    return derive.load(
        [f"data={group}", where, f"data.shape={shape}", "model=resnet18", "model.stem=cifar", *overrides]
    ).data


def everything(dataset):
    return [tensor.clone() for tensor in dataset.batch(np.arange(len(dataset)))]


def test_a_folder_is_found_whole_with_its_classes(folder):
    settings = config(folder)
    found = sets.find(settings)
    assert found.classes == ("ant", "bee", "cat")
    assert settings.num_classes == 3
    assert (len(found.train.keys), len(found.validation.keys)) == (36, 12)
    assert [Path(key).parts[1] for key in found.train.keys] == [found.classes[i] for i in found.train.labels]
    assert len({*found.train.labels[:12].tolist()}) == 3  # the first are a sample of all
    assert data.count_samples(settings) == 36
    assert data.count_samples(config(folder, "data.train_limit=5")) == 5


def test_packed_and_hugging_face_give_the_folder_s_pictures(folder, packed, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    plain = data.load(config(folder, "data.augment=[]"))
    from_pack = data.load(config(packed, "data.augment=[]"))
    for split in ("train", "validation"):
        for ours, theirs in zip(
            everything(getattr(plain, split)), everything(getattr(from_pack, split)), strict=True
        ):
            assert torch.equal(ours, theirs)
    assert json.loads(from_pack.files["classes.json"]) == ["ant", "bee", "cat"]
    # The library's own reader of image folders, and of what was packed; its order is another.
    whole = sorted(image.sum().item() for image in everything(plain.train)[0])
    hub = data.load(config(folder, "data.augment=[]", group="hugging_face_images"))
    assert sorted(image.sum().item() for image in everything(hub.train)[0]) == pytest.approx(whole)
    assert len(hub.validation) == 12
    rows = datasets.load_dataset("arrow", data_files=[str(path) for path in sorted(packed.glob("train-*"))])
    assert rows["train"].features["label"].names == ["ant", "bee", "cat"]
    assert rows["train"][0]["image"].size == (40, 32)
    rows["train"].to_parquet(tmp_path / "parquet" / "train-0.parquet")
    parquet = config(tmp_path / "parquet", "data.augment=[]", group="hugging_face_images")
    assert parquet.num_classes == 3
    split = data.load(parquet)
    assert (len(split.train), len(split.validation)) == (34, 2)
    assert torch.equal(split.train.batch(np.arange(34))[0], plain.train.batch(np.arange(34))[0])


def test_reading_ahead_changes_no_bit(packed):
    """Decoded once and kept, decoded by processes ahead of the step, decoded when asked for: the same pictures."""
    augment = "data.augment=[flip,pad_crop,cutout]"
    resident = data.load(config(packed, augment)).train
    here = data.load(config(packed, augment, "data.resident_gb=0", "data.workers=0")).train
    ahead = data.load(
        config(packed, augment, "data.resident_gb=0", "data.workers=2", "data.prefetch=2")
    ).train
    assert not isinstance(resident, StreamedImages)
    assert isinstance(ahead, StreamedImages)
    batches = [part for epoch in range(2) for part in np.array_split(np.random.permutation(36), 4 + epoch)]
    ahead.expect(Wanted(batch) for batch in batches)
    for number, batch in enumerate([*batches, np.array([1, 2])]):  # the last was not announced
        found = [
            dataset.batch(batch, torch.Generator().manual_seed(number)) for dataset in (resident, here, ahead)
        ]
        for images, labels in found[1:]:
            assert torch.equal(images, found[0][0])
            assert torch.equal(labels, found[0][1])
    ahead.expect(Wanted(batch) for batch in batches)
    other = ahead.batch(batches[3])[0]  # out of order: what was announced is forgotten
    assert torch.equal(other, resident.batch(batches[3])[0])
    ahead.close()


def test_random_crops_are_the_epoch_s_and_sample_s_alone(packed):
    def train(*overrides):
        return data.load(config(packed, *overrides), data.Feeding(seed=5, largest=24)).train

    one, two = train("data.workers=0"), train("data.workers=1", "data.prefetch=1")
    order = np.arange(36)
    one.expect([Wanted(order, 0), Wanted(order, 1), Wanted(order, 1, 24)])
    two.expect([Wanted(order[:7], 1), Wanted(order[7:], 1)])
    first, second = one.batch(order)[0], one.batch(order)[0]
    assert not torch.equal(first, second)
    assert torch.equal(torch.cat([two.batch(order[:7])[0], two.batch(order[7:])[0]]), second)
    two.close()
    one.resize(24)
    assert one.batch(order)[0].shape == (36, 3, 24, 24)


def test_crops_are_drawn_as_the_paper_says():
    width, height = 60, 60
    decoding = Decoding((3, 8, 8), 8)
    boxes = np.array([decoding._crop((width, height), (0, 0, i)) for i in range(4000)])
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0
    assert (boxes[:, 2] <= width).all()
    assert (boxes[:, 3] <= height).all()
    share, ratio = w * h / (width * height), w / h
    assert 0.07 < share.min() < 0.1
    assert share.max() <= 1.01
    # Large parts fit less often, so the mean is below the 0.54 of a uniform draw.
    assert 0.4 < share.mean() < 0.54
    assert 0.7 < ratio.min() < 0.8
    assert 1.25 < ratio.max() < 1.43
    assert abs(np.log(ratio).mean()) < 0.02
    # Where no draw fits, the largest part of an allowed ratio.
    assert decoding._crop((1000, 10), (0,)) == (493, 0, 506, 10)


def test_the_middle_is_what_validation_sees():
    pixels = np.zeros((32, 40, 3), np.uint8)
    pixels[:, 4:36] = 255  # the middle 32 of 40 columns
    encoded = encode(pixels)
    assert (Decoding((3, 32, 32), 32).decode(encoded, NAME, None, None) == 255).all()
    half = Decoding((3, 16, 16), 16).decode(encoded, NAME, None, None)
    assert (half[:, 1:-1] == 255).all()  # at the edge the filter sees what is beside it
    # The shorter side becomes 32, of which 28 are kept: columns 6 to 34 and rows 2 to 30.
    pixels[...] = np.arange(40)[None, :, None]
    seen = Decoding((3, 28, 28), 32).decode(encode(pixels), NAME, None, None)
    assert (seen == np.arange(6, 34)[None, :, None]).all()
    tall = Decoding((1, 40, 20), 20).decode(encode(pixels.transpose(1, 0, 2)), NAME, None, None)
    assert tall.shape == (40, 20, 1)


def test_a_jpeg_is_decoded_no_larger_than_needed_and_looks_the_same():
    x = np.linspace(0, 1, 400)
    smooth = (255 * np.stack([np.outer(x, x), np.outer(x, 1 - x), np.outer(1 - x, x)], 2)).astype(np.uint8)
    small = Decoding((3, 32, 32), 32)
    fast, exact = (small.decode(encode(smooth, kind), NAME, None, None) for kind in ("JPEG", "PNG"))
    assert np.abs(fast.astype(int) - exact).max() <= 4


def encode(pixels, kind="PNG"):
    import io

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return out.getvalue()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1", "I;16"])
def test_pictures_of_every_mode_become_three_colours(tmp_path, mode):
    path = tmp_path / ("x.tif" if mode in ("CMYK", "I;16") else "x.png")
    Image.new("RGB" if mode != "I;16" else mode, (9, 7)).convert(mode).save(path)
    assert Decoding((3, 8, 8), 8).decode(path.read_bytes(), NAME, None, None).shape == (8, 8, 3)


@pytest.mark.parametrize(("mode", "suffix"), [("I;16", "png"), ("I;16", "tif"), ("I;16B", "tif")])
@pytest.mark.parametrize("channels", [1, 3])
def test_greys_of_16_bits_keep_their_range(tmp_path, mode, suffix, channels):
    pixels = np.linspace(0, 65535, 64).round().astype(">u2" if mode.endswith("B") else "<u2").reshape(8, 8)
    path = tmp_path / f"x.{suffix}"
    Image.frombytes(mode, (8, 8), pixels.tobytes()).save(path)
    found = Decoding((channels, 8, 8), 8).decode(path.read_bytes(), NAME, None, None)
    assert np.array_equal(found[..., 0], np.round(pixels.astype(float) / 257))


@pytest.mark.parametrize(("mode", "kind"), [("F", "floating-point"), ("I", "32-bit")])
def test_pixels_of_an_unknown_range_are_refused(tmp_path, mode, kind):
    path = tmp_path / "x.tif"
    Image.new(mode, (8, 8), 1000).save(path)
    with pytest.raises(
        UserError, match=f"x.png is not a whole picture: {kind} pixels, of which nobody knows"
    ):
        Decoding((1, 8, 8), 8).decode(path.read_bytes(), NAME, None, None)


def test_linked_folders_and_odd_suffixes_count_and_the_rest_is_named(tmp_path):
    root = make_folder(tmp_path / "set", 2, 1, classes=("a", "b"))
    elsewhere = make_folder(tmp_path / "elsewhere", 3, 1, classes=("c", "more"))
    (root / "train" / "c").symlink_to("../../elsewhere/train/c")
    (root / "train" / "a" / "more").symlink_to(elsewhere / "train" / "more")
    (root / "train" / "a" / "again").symlink_to(root / "train" / "a")  # a circle
    (root / "train" / "b" / "round").symlink_to(elsewhere / "train" / "more")
    (root / "train" / "b" / "deep").mkdir()
    (root / "train" / "b" / "deep" / "up").symlink_to(root / "train")
    for number, suffix in enumerate((".jfif", ".JPE", ".avif", ".jp2", ".webp", ".tga")):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(root / "train" / "b" / f"x{suffix}")
    (root / "train" / "__MACOSX" / "a").mkdir(parents=True)
    (root / "train" / "__MACOSX" / "a" / "._0.png").write_bytes(b"x")
    (root / "train" / "b" / "notes.txt").write_text("x")
    (root / "val" / "c").mkdir()
    found = sets.find(config(root))
    assert found.classes == ("a", "b", "c")
    counts = np.bincount(found.train.labels).tolist()
    assert (counts[0], counts[2]) == (5, 3)
    assert found.remarks == ("folder train/__MACOSX", "1 files that are not pictures (.txt 1)")
    splits = data.load(config(root, "data.workers=0", "data.augment=[]"))
    assert splits.found.endswith("left out: folder train/__MACOSX, 1 files that are not pictures (.txt 1)")
    assert len(splits.train) == len(found.train.keys) == len({str(key) for key in found.train.keys})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.array([0, 1, -1]), "row 2 holds -1"), (np.array([0.0, 0.5]), "row 1 holds 0.5"),
        (np.array([0.0, np.nan]), "row 1 holds nothing"), (np.array(["x", "y"], object), "row 0 holds x"),
        (np.array([None, 1], object), "row 0 holds nothing"), (np.array([0.0, -2.0]), "row 1 holds -2"),
    ],
)  # fmt: skip
def test_labels_that_are_no_class_are_named_with_their_column(values, said):
    with pytest.raises(
        UserError, match=f"data.label_field=kind: {said}.*; labels must be whole numbers from 0 on"
    ):
        sets._labels(values, "kind")
    assert sets._labels(np.array([2.0, 0.0]), "kind").tolist() == [2, 0]


def test_resized_packs_are_smaller_and_keep_what_is_small(tmp_path):
    source = make_folder(tmp_path / "set", 2, 1, size=(200, 100), suffix="jpg", classes=("a",))
    Image.new("RGB", (10, 10)).save(source / "train" / "a" / "small.jpg")
    manifest = pack.write(source, tmp_path / "packed", 50, 10**9)
    assert manifest.resize == 50
    found = sets.of_folder(tmp_path / "packed").train
    sizes = set()
    for key in found.keys:
        data_, _ = found.reader.read(key)
        import io

        sizes.add(Image.open(io.BytesIO(data_)).size)
    assert sizes == {(100, 50), (10, 10)}


def test_shards_divide_the_set_and_are_their_digests(folder, packed, capsys):
    assert cli.main(["data", "verify", str(packed), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["splits"]["train"]["samples"] == 36
    assert cli.main(["data", "pack", str(folder), "--into", str(packed)]) == 2
    assert "is there already" in capsys.readouterr().err
    many = folder.parent / "many"
    manifest = pack.write(folder, many, None, 3 * 4000)
    shards = manifest.splits["train"]
    assert len(shards) > 5
    assert sum(shard.samples for shard in shards) == 36
    assert len(Arrow([str(many / shard.file) for shard in shards])) == 36


def broken_copy(packed, tmp_path, change):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(packed, copy)
    change(copy / "train-00000.arrow")
    return copy


def test_a_short_or_missing_shard_is_named_before_anything_starts(packed, tmp_path):
    copy = broken_copy(packed, tmp_path, lambda shard: shard.write_bytes(shard.read_bytes()[:-100]))
    with pytest.raises(UserError, match=r"train-00000\.arrow is broken: \d+ bytes, packed were \d+"):
        data.check(config(copy))
    (copy / "train-00000.arrow").unlink()
    with pytest.raises(UserError, match=r"train-00000\.arrow, a shard of the packed set, is missing"):
        data.check(config(copy))


def test_a_shard_with_other_bytes_is_named(packed, tmp_path, capsys):
    def spoil(shard):
        content = bytearray(shard.read_bytes())
        content[content.find(b"IDAT") + 100] ^= 255
        shard.write_bytes(content)

    copy = broken_copy(packed, tmp_path, spoil)
    data.check(config(copy))  # sizes are right
    for workers in (0, 1):
        with pytest.raises(UserError, match=r"train-00000\.arrow is broken: picture 0"):
            data.load(config(copy, "data.augment=[]", f"data.workers={workers}"))
    assert cli.main(["data", "verify", str(copy)]) == 2
    assert "train-00000.arrow is broken: its bytes" in capsys.readouterr().err


def test_a_broken_picture_is_named(tmp_path, capsys):
    source = make_folder(tmp_path / "set", 2, 1, classes=("a",))
    victim = source / "train" / "a" / "1.png"
    victim.write_bytes(victim.read_bytes()[:200])
    with pytest.raises(UserError, match=r"train/a/1\.png is not a whole picture"):
        data.load(config(source, "data.augment=[]", "data.workers=0"))
    assert cli.main(["data", "pack", str(source), "--into", str(tmp_path / "packed")]) == 2
    assert "train/a/1.png is not a whole picture" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]  # nothing is left behind


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "val").rename(root / "elsewhere"), r"has no folder val or valid or"),
        (lambda root: (root / "val" / "ant").rename(root / "val" / "dog"), r"dog: is not a class of .*train"),
        (lambda root: [p.unlink() for p in (root / "train").rglob("*.png")], r"train: holds no pictures"),
        (lambda root: (root / "train" / "ab").mkdir(), r"train/ab: is a class without pictures"),
        (lambda root: (root / "pack.json").write_text("{}"), r"pack\.json: is not a list of packed pictures"),
    ],
)
def test_a_wrong_folder_says_what_is_wrong(tmp_path, spoil, message):
    root = make_folder(tmp_path / "set", 1, 1)
    spoil(root)
    with pytest.raises(UserError, match=message):
        data.check(config(root, "data.num_classes=3"))


def test_settings_that_do_not_fit_are_named(folder):
    with pytest.raises(UserError, match=r"data\.path=null: give the folder"):
        derive.load(["data=image_folder", "model=resnet18"])
    with pytest.raises(UserError, match=r"data\.path=/nowhere: is not a folder"):
        config("/nowhere")
    with pytest.raises(UserError, match="the official set 1281167"):
        data.check(config(folder, group="imagenet"))
    with pytest.raises(UserError, match=r"data\.num_classes=2"):
        data.load(config(folder, "data.num_classes=2", "data.workers=0"))
    with pytest.raises(UserError, match=r"random_resized_crop: is for pictures in files"):
        derive.load(["data=cifar10", "model=resnet18", "data.augment=[random_resized_crop]"])
    with pytest.raises(UserError, match=r"data\.source=null: give the name"):
        derive.load(["data=hugging_face_images", "model=resnet18"])
    with pytest.raises(UserError, match=r"data\.label_field=x: must be one of image, label"):
        config(folder, "data.label_field=x", group="hugging_face_images")
