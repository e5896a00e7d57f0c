"""Pictures decoded ahead of the step beside peers: pictures a second of one process, and what they cost a step.

    python tests/benchmarks/pictures_vs_peers.py [load] [step] [--rounds 5] [--json FILE]

load: 480 JPEGs of 500x375 (as ImageNet's on average), random crops to 224, one decoding process each, in turns:
hpctrain on the folder, on the packed set, and on one packed with --resize 256; torch's DataLoader over the files and
over Hugging Face datasets, both with the same crop in Pillow (as torchvision's: decode the whole, cut, resize).
step: ResNet-50 at 224, bf16, batches of 16, one thread, in turns: on pictures that one process decodes on the other
core, and on the same pictures decoded before. Each mode in its turn; medians, spreads, ratios. Asserts nothing.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import turns
from PIL import Image

COUNT, BATCH = 480, 32
STEPS = 3  # of a turn


def make(root: Path, count: int) -> None:
    """Pictures with the bytes of photographs (about 100 kB): smooth shapes and some noise."""
    draw = np.random.default_rng(0)
    for split, number in (("train", count), ("val", 8)):
        (root / split / "a").mkdir(parents=True)
        for i in range(number):
            coarse = Image.fromarray(draw.integers(0, 256, (24, 32, 3), dtype=np.uint8))
            pixels = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)).astype(np.int16)
            pixels = np.clip(pixels + draw.normal(0, 9, pixels.shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / split / "a" / f"{i}.jpg", quality=90)


def crop(image: Image.Image) -> np.ndarray:
    """torchvision's RandomResizedCrop(224), in Pillow alone."""
    width, height = image.size
    for _ in range(10):
        area = width * height * np.random.uniform(0.08, 1)
        ratio = np.exp(np.random.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            break
    else:
        w = h = min(width, height)
    left, upper = np.random.randint(width - w + 1), np.random.randint(height - h + 1)
    image = image.convert("RGB").crop((left, upper, left + w, upper + h))
    return np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR))


class Files(torch.utils.data.Dataset):
    def __init__(self, root: Path) -> None:
        self.paths = sorted(root.glob("train/a/*"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        return torch.from_numpy(crop(Image.open(self.paths[i])).copy())


class Rows(torch.utils.data.Dataset):
    def __init__(self, packed: Path) -> None:
        import datasets

        datasets.disable_progress_bars()
        files = [str(path) for path in sorted(packed.glob("train-*"))]
        self.rows = datasets.load_dataset("arrow", data_files=files, cache_dir=str(packed / "cache"))["train"]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> torch.Tensor:
        return torch.from_numpy(crop(self.rows[i]["image"]).copy())


def ours(path: Path, *overrides: str, batch: int = BATCH):
    from hpctrain import data
    from hpctrain.data import derive

    config = derive.load(
        ["data=image_folder", f"data.path={path}", "model=resnet18", "data.workers=1", *overrides]
    )
    return data.load(config.data, data.Feeding(batch_size=batch)).train


def run_ours(dataset) -> float:
    from hpctrain.data.images.streamed import Wanted

    order = np.random.default_rng(1).permutation(len(dataset))
    batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
    dataset.batch(batches[0])  # the process is there
    start = time.perf_counter()
    dataset.expect(Wanted(batch) for batch in batches)
    for batch in batches:
        dataset.batch(batch, torch.Generator())
    return len(order) / (time.perf_counter() - start)


def run_loader(loader) -> float:
    found = iter(loader)
    next(found)  # the process is there
    start, seen = time.perf_counter(), 0
    for batch in found:
        seen += len(batch.permute(0, 3, 1, 2).float().mul_(1 / 58).sub_(2.1))
    return seen / (time.perf_counter() - start)


def load(folder: Path, rounds: int) -> list[dict]:
    from hpctrain.data.images import pack

    packed, small = folder.parent / "packed", folder.parent / "small"
    pack.write(folder, packed, None, 2 * 10**7)
    pack.write(folder, small, 256, 2 * 10**7)
    sets = {"hpctrain": ours(packed), "hpctrain_folder": ours(folder), "hpctrain_resized": ours(small)}
    settings = {"batch_size": BATCH, "shuffle": True, "num_workers": 1, "prefetch_factor": 4}
    loaders = {
        "dataloader_files": torch.utils.data.DataLoader(Files(folder), **settings),
        "dataloader_datasets": torch.utils.data.DataLoader(Rows(packed), **settings),
    }

    def measure(mode: str) -> dict[str, float]:
        per_s = run_ours(sets[mode]) if mode in sets else run_loader(loaders[mode])
        return {"samples_per_s": per_s}

    found = turns.take([*sets, *loaders], rounds, measure)
    for dataset in sets.values():
        dataset.close()
    return found


def step(folder: Path, rounds: int) -> list[dict]:
    from hpctrain import models
    from hpctrain.data import derive
    from hpctrain.data.images.streamed import Wanted

    torch.set_num_threads(1)
    settings = derive.load(["data=synthetic", "model=resnet50"]).model.settings
    model = models.build("resnet50", settings).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    real = ours(folder, batch=16)
    batches = [np.arange(16) + 16 * (i % (COUNT // 16)) for i in range(rounds * STEPS + 1)]
    real.expect(Wanted(batch) for batch in batches)
    there = real.batch(batches[0], torch.Generator())
    left = iter(batches[1:])

    def steps(count: int, get) -> float:
        start = time.perf_counter()
        for _ in range(count):
            images, _ = get()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = model(images).float().square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return 16 * count / (time.perf_counter() - start)

    def measure(mode: str) -> dict[str, float]:
        get = (lambda: real.batch(next(left), torch.Generator())) if mode == "hpctrain" else lambda: there
        return {"samples_per_s": steps(STEPS, get)}

    steps(2, lambda: there)
    found = turns.take(["hpctrain", "there_already"], rounds, measure)
    real.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", default=["load", "step"])
    turns.add_arguments(parser)
    args = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "pictures"
        make(folder, COUNT)
        one = next(folder.glob("train/a/*"))
        print(f"{COUNT} JPEGs of 500x375, {one.stat().st_size / 1e3:.0f} kB; {os.cpu_count()} cores")
        for what in args.what:
            results[what] = rounds = {"load": load, "step": step}[what](folder, args.rounds)
            for mode in rounds[0]:
                per_s = turns.spread((facts[mode]["samples_per_s"] for facts in rounds), ",.1f")
                print(
                    f"{what:5} {mode:20} {per_s:28} pictures/s  hpctrain / it: {turns.ratios(rounds, mode)}"
                )
    turns.keep(args.json, **results)


if __name__ == "__main__":
    main()
