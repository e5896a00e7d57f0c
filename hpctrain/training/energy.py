"""The energy that this rank's hardware reports: CPU packages by RAPL, its GPU by NVML.

Takes the rank's device; returns joules since the meter was made, by source. Leaves out a source that is missing or may
not be read: no figure is made up. Side effects: reads files under /sys and asks the driver.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

import torch

POWERCAP = Path("/sys/class/powercap")


class EnergyUse(TypedDict):
    """Joules by source, and the number of samples that took them."""

    joules: dict[str, float]
    samples: int


class Energy:
    """A meter. Call `update` now and then: the counter of a busy package wraps after some minutes (2³² µJ or more)."""

    def __init__(self, device: torch.device, first_of_node: bool, powercap: Path = POWERCAP) -> None:
        """`first_of_node`: this rank reads the packages, which all ranks of its node share."""
        # Whole packages ("intel-rapl:0"): their parts ("intel-rapl:0:0") are in them.
        zones = sorted(powercap.glob("intel-rapl:*")) if first_of_node and powercap.is_dir() else []
        self._zones = {z: _read(z / "energy_uj") for z in zones if z.name.count(":") == 1}
        self._packages_j = 0.0
        self._gpu = _gpu(device)
        self._gpu_start_j = self._gpu() if self._gpu else 0.0

    def update(self) -> None:
        """Read the counters of the packages."""
        for zone, before in self._zones.items():
            now = _read(zone / "energy_uj")
            if now is None or before is None:
                continue
            range_uj = _read(zone / "max_energy_range_uj") or 2**32
            self._packages_j += 1e-6 * ((now - before) if now >= before else now - before + range_uj)
            self._zones[zone] = now

    def joules(self) -> dict[str, float]:
        """Returns the joules of this rank so far, by source."""
        self.update()
        by_source = {}
        if any(before is not None for before in self._zones.values()):
            by_source["packages"] = self._packages_j
        if self._gpu:
            by_source["gpu"] = self._gpu() - self._gpu_start_j
        return by_source


def total(of_ranks: list[dict[str, float]], nodes: int, ranks: int) -> dict[str, float]:
    """Returns the sum over ranks of each source that all nodes (packages) or all ranks (GPUs) have."""
    wanted = {"packages": nodes, "gpu": ranks}
    values = {source: [one[source] for one in of_ranks if source in one] for source in wanted}
    return {source: sum(each) for source, each in values.items() if len(each) == wanted[source]}


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # only root may read it since 2020 (CVE-2020-8694)
        return None


def _gpu(device: torch.device) -> Any:
    """Returns a function of the joules of this rank's GPU since its driver was loaded; None if NVML has no counter."""
    if device.type != "cuda":
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # it is not installed, the GPU is old, no permission: NVML has an error class for each
        return None
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
