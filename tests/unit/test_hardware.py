"""Peaks of devices: from the table by a driver's name, measured on this machine; what this machine has."""

import platform
from pathlib import Path

import pytest
import torch

from hpctrain import hardware


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("Tesla V100-SXM2-32GB", "NVIDIA V100 SXM2"),
        ("Tesla V100-PCIE-16GB", "NVIDIA V100 PCIe"),
        ("A100", "NVIDIA A100 SXM4 40GB"),
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 SXM4 80GB"),
        ("NVIDIA A100-PCIE-40GB", "NVIDIA A100 PCIe 40GB"),
        ("NVIDIA A100 80GB PCIe", "NVIDIA A100 PCIe 80GB"),
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100 SXM5"),
        ("NVIDIA H100 PCIe", "NVIDIA H100 PCIe"),
        ("nvidia_h100__pcie", "NVIDIA H100 PCIe"),
        ("NVIDIA H200", "NVIDIA H200 SXM"),
        ("NVIDIA GH200 480GB", "NVIDIA GH200 96GB"),
        ("NVIDIA GH200 144G HBM3e", "NVIDIA GH200 144GB"),
        ("AMD Instinct MI250X", "AMD MI250X one die"),  # the driver's name of each die
        ("AMD Instinct MI250X / MI250", None),
        ("MI250X card", "AMD MI250X both dies"),
        ("INTEL(R) XEON(R) PLATINUM 8480+", "Intel Xeon Platinum 8480+"),
        ("NVIDIA A100-SXM-64GB", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA A100X", None),
        ("a100", "NVIDIA A100 SXM4 40GB"),
        ("GeForce 256", None),
        ("", None),
    ],
)
def test_devices_are_known_by_their_drivers_names(name, known):
    found = hardware.find(name)
    assert (found.name if found else None) == known


def test_every_device_has_peaks_and_a_source_and_is_found_by_its_own_name():
    for _, device in hardware.devices():
        assert device.flops["fp32"] > 1e12
        assert device.bytes_per_s > 1e11
        assert len(device.source) > 20
        assert hardware.find(device.name) == device


def test_peaks_are_operations_and_bytes_per_second():
    v100 = hardware.find("V100")
    assert v100.flops == {"fp64": 7.8e12, "fp32": 15.7e12, "fp16": 125e12}  # it does not have bf16 or TF32
    assert v100.bytes_per_s == 900e9
    a100 = hardware.find("A100")
    assert (a100.flops["fp32"], a100.flops["tf32"], a100.flops["fp64"]) == (19.5e12, 156e12, 19.5e12)


def test_a_die_has_half_of_its_card():
    die, card = hardware.find("AMD Instinct MI250X"), hardware.find("MI250X card")
    assert card.flops == {name: 2 * peak for name, peak in die.flops.items()}
    assert card.bytes_per_s == 2 * die.bytes_per_s


def test_fp32_is_measured_as_such_whatever_is_allowed():
    torch.set_float32_matmul_precision("high")
    try:
        with hardware.without_tf32():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.fixture
def timed(monkeypatch):
    """The jobs that are measured, each said to take half a second: (job, for how many seconds it may run)."""
    jobs = []

    def best(job, synchronize, seconds):
        synchronize()
        jobs.append((job, seconds))
        return 0.5

    monkeypatch.setattr(hardware, "_best_s", best)
    monkeypatch.setattr(hardware, "cpu_has_bf16", lambda: True)
    return jobs


def test_a_measurement_counts_products_and_copies(timed):
    found = hardware.measure(3.0, width=16, copied=1000)
    # 16 x 16 sums of 16 products, two operations each; 4,000 bytes are read, and written.
    assert found.flops == {"fp32": 2 * 16**3 / 0.5, "bf16": 2 * 16**3 / 0.5}
    assert found.bytes_per_s == 8000 / 0.5
    threads = torch.get_num_threads()
    assert found.source == f"measured: 16-wide torch.mm, a copy of 4,000 bytes, {threads} threads"
    assert [seconds for _, seconds in timed] == [3.0, 3.0, 3.0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU computes in bfloat16")
def test_bfloat16_that_is_emulated_is_measured_with_smaller_products(timed, monkeypatch):
    monkeypatch.setattr(hardware, "cpu_has_bf16", lambda: False)
    found = hardware.measure(width=16, copied=1000)
    assert found.flops == {"fp32": 2 * 16**3 / 0.5, "bf16": 2 * 4**3 / 0.5}
    assert "16-wide and 4-wide torch.mm" in found.source
    assert hardware.measure(dtypes=("bf16",), width=16, copied=1000).source.startswith(
        "measured: 4-wide torch.mm"
    )


def test_a_measurement_does_what_it_counts(timed):
    hardware.measure(width=16, copied=1000)
    *products, copy = [job for job, _ in timed]
    for product, dtype in zip(products, (torch.float32, torch.bfloat16), strict=True):
        product()
        a, b = product.args
        assert (a.dtype, a.shape) == (dtype, (16, 16))
        assert torch.equal(product.keywords["out"], a @ b)
        assert a.std() > 0.5  # zeros could be faster
    copy()
    assert copy.func.__self__.tolist() == [1.0] * 1000


def test_a_measurement_leaves_the_random_numbers_of_a_training_alone(timed):
    before = torch.get_rng_state()
    hardware.measure(width=16, copied=1000)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_measurement_takes_a_second_for_each_figure_and_exceeds_the_caches(timed):
    found = hardware.measure()
    assert [seconds for _, seconds in timed] == [1.0, 1.0, 1.0]
    if not torch.cuda.is_available():
        assert found.source.startswith("measured: 2048-wide torch.mm, a copy of 268,435,456 bytes, ")


def test_a_rank_measures_its_own_precision_quickly(timed):
    found = hardware.measure_quickly("bf16")
    assert found.flops.keys() == {"bf16"}
    assert found.source.startswith("measured: 768-wide torch.mm, a copy of 33,554,432 bytes, ")
    assert [seconds for _, seconds in timed] == [0.05, 0.05]


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless a test moves it."""
    now = [100.0]
    monkeypatch.setattr(hardware.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(hardware.time, "perf_counter", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("seconds", "runs", "best"),
    [
        (0.0, 2, 5.5),  # a warm-up, and one that counts
        (5.5, 2, 5.5),
        (5.6, 3, 3.5),
        (9.0, 3, 3.5),
        (9.1, 4, 3.5),
    ],
)
def test_the_best_is_the_shortest_run_that_fits_after_a_warm_up(clock, seconds, runs, best):
    durations, waits = iter([1.0, 5.0, 3.0, 4.0]), []

    def job():
        clock[0] += next(durations)

    def synchronize():
        clock[0] += 0.5
        waits.append(clock[0])

    assert hardware._best_s(job, synchronize, seconds) == best
    assert len(waits) == runs


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A folder in place of this machine's root."""
    for name in ("dev", "proc"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(hardware, "Path", lambda path: tmp_path / Path(path).relative_to("/"))
    return tmp_path


def test_gpus_are_counted_by_their_device_files(machine):
    assert hardware.gpu_count() == 0
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm", "nvidia0foo", "sda1"):
        (machine / "dev" / name).touch()
    assert hardware.gpu_count() == 3


@pytest.mark.parametrize(
    ("flags", "has"),
    [
        ("avx512_bf16", True),
        ("amx_bf16", True),
        ("bf16", True),
        ("avx512f avx2", False),
        ("avx512_bf16x", False),
    ],
)
def test_bf16_is_a_flag_of_the_processor(machine, flags, has):
    (machine / "proc/cpuinfo").write_text(f"model name\t: toy\nflags\t\t: fpu {flags} sse\n")
    assert hardware.cpu_has_bf16() is has


def test_without_cpuinfo_bf16_is_not_assumed(machine):
    assert hardware.cpu_has_bf16() is False


def label():
    return hardware.measure(dtypes=(), copied=1).name


def test_a_measured_processor_is_named_by_cpuinfo(timed, machine):
    (machine / "proc/cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: AMD: EPYC 7763\nmodel name\t: second\n"
    )
    assert label() == "AMD: EPYC 7763"


@pytest.mark.parametrize(("said", "name"), [("aarch64", "aarch64"), ("", "CPU")])
def test_a_processor_that_cpuinfo_does_not_name(timed, machine, monkeypatch, said, name):
    monkeypatch.setattr(platform, "processor", lambda: said)
    assert label() == name
    (machine / "proc/cpuinfo").write_text("processor\t: 0\n")
    assert label() == name
