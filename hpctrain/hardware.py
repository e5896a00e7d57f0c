"""Peaks of devices: dense operations by number format and memory bandwidth, each with its source.

Takes a device's name as its driver reports it ("NVIDIA H100 80GB HBM3"), returns `Device` or None: an unknown
device is never guessed. Reads devices.csv beside this file; `measure` keeps this machine busy for a few seconds.
Imports torch only in `measure`.
"""

from __future__ import annotations

import contextlib
import csv
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

TERA, GIGA = 1e12, 1e9
_SEVERAL_WORDS = re.compile(r"[ -]")


@dataclass(frozen=True)
class Device:
    """A device's peaks: `flops` per second by precision name (a MAC is two), and `bytes_per_s` of main memory."""

    name: str
    flops: Mapping[str, float]
    bytes_per_s: float
    source: str


def devices() -> tuple[tuple[tuple[str, ...], Device], ...]:
    """Returns every device of the table with the lower-case fragments that identify its name."""
    text = Path(__file__).with_name("devices.csv").read_text(encoding="utf-8")
    return tuple((tuple(row["match"].split("|")), _device(row)) for row in csv.DictReader(text.splitlines()))


def _device(row: Mapping[str, str]) -> Device:
    peaks = {
        key.removesuffix("_tflops"): float(value) * TERA
        for key, value in row.items()
        if key.endswith("_tflops") and value
    }
    return Device(row["name"], peaks, float(row["memory_gb_per_s"]) * GIGA, row["source"])


def find(name: str) -> Device | None:
    """Returns the device whose longest fragment occurs in `name`; None if none does.

    A fragment of one word, such as a100, must be the whole name but for the maker's: "A100-SXM-64GB" is a variant with
    peaks of its own.
    """
    wanted = " ".join(name.lower().replace("_", " ").split())
    alone = wanted.removeprefix("nvidia ").removeprefix("amd ").removeprefix("instinct ")
    matches = {
        fragment: device
        for fragments, device in devices()
        for fragment in (*fragments, device.name.lower())
        if (fragment in wanted if _SEVERAL_WORDS.search(fragment) else fragment == alone)
    }
    return matches[max(matches, key=len)] if matches else None


def measure(
    seconds: float = 1.0,
    *,
    dtypes: Sequence[str] = ("fp32", "bf16"),
    width: int | None = None,
    copied: int | None = None,
) -> Device:
    """Returns this machine's measured peaks: the best of repeated square products, and of copies beyond the caches.

    It takes about `seconds` for each figure and uses the GPU if there is one, with TF32 off for fp32. Products have
    `width` x `width` elements, copies `copied` elements in fp32. A processor that only emulates bfloat16 gets products
    of a quarter of the width: they are as slow per operation, and would take a minute.
    """
    import torch

    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    width, copied = width or (8192 if cuda else 2048), copied or (2**28 if cuda else 2**26)
    synchronize: Callable[[], None] = torch.cuda.synchronize if cuda else (lambda: None)
    flops, sides = {}, {}
    for name in dtypes:
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[name]
        side = sides[name] = width if name == "fp32" or cuda or cpu_has_bf16() else width // 4
        a = torch.randn(side, side, generator=torch.Generator().manual_seed(0)).to(device, dtype)
        product = partial(torch.mm, a, a, out=torch.empty_like(a))
        with without_tf32() if cuda else contextlib.nullcontext():
            flops[name] = 2 * side**3 / _best_s(product, synchronize, seconds)
    source = torch.ones(copied, device=device)
    target = torch.empty_like(source)
    copy_s = _best_s(partial(target.copy_, source), synchronize, seconds)
    moved_bytes = 2 * source.numel() * source.element_size()
    label = torch.cuda.get_device_name(device) if cuda else _processor()
    products = " and ".join(f"{side}-wide" for side in sorted(set(sides.values()), reverse=True))
    threads = torch.get_num_threads()
    note = f"measured: {products} torch.mm, a copy of {moved_bytes // 2:,} bytes, {threads} threads"
    return Device(label, flops, moved_bytes / copy_s, note)


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """Has torch multiply matrices of fp32 as such, as it does by default, and restores what was set before."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def measure_quickly(dtype: str) -> Device:
    """Returns the measured peak of this process's threads, a CPU rank's, in about a quarter of a second."""
    return measure(0.05, dtypes=(dtype,), width=768, copied=2**23)


def _best_s(job: Callable[[], object], synchronize: Callable[[], None], seconds: float) -> float:
    """Returns the shortest of as many runs as fit, without the first, which warms up."""
    job()
    synchronize()
    best, end = math.inf, time.monotonic() + seconds
    while best == math.inf or time.monotonic() < end:
        start = time.perf_counter()
        job()
        synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def gpu_count() -> int:
    """Returns the number of NVIDIA GPUs that this machine has device files for."""
    return len([p for p in Path("/dev").glob("nvidia[0-9]*") if p.name.removeprefix("nvidia").isdigit()])


def cpu_has_bf16() -> bool:
    """Returns whether this machine's processor multiplies bfloat16 in hardware, according to /proc/cpuinfo."""
    path = Path("/proc/cpuinfo")
    flags = path.read_text().split() if path.exists() else []
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    import platform

    return platform.processor() or "CPU"
