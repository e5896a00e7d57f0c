"""Energy from counters that may wrap, may be closed to users, or may not be there; and from Slurm's accounting."""

import sys
from types import SimpleNamespace

import pytest
import torch

from hpctrain.scaling.measured import sample_j
from hpctrain.storage.run_state import RunState
from hpctrain.training.energy import Energy, total

CPU = torch.device("cpu")


@pytest.fixture
def powercap(tmp_path):
    """Two packages, and a part of one, which is in the package's figure already."""
    for zone, energy_uj in (("intel-rapl:0", 900), ("intel-rapl:1", 100), ("intel-rapl:0:0", 50)):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "energy_uj").write_text(f"{energy_uj}\n")
        (tmp_path / zone / "max_energy_range_uj").write_text("1000\n")
    return tmp_path


def test_packages_counters_begin_anew(powercap):
    meter = Energy(CPU, True, powercap)
    (powercap / "intel-rapl:1" / "energy_uj").write_text("300")
    meter.update()
    (powercap / "intel-rapl:0" / "energy_uj").write_text("200")  # 300 more, over the range of 1000
    assert meter.joules() == {"packages": pytest.approx(500e-6)}
    assert Energy(CPU, False, powercap).joules() == {}


def test_what_cannot_be_read_is_no_figure(powercap, tmp_path):
    for zone in powercap.iterdir():
        (zone / "energy_uj").unlink()
    assert Energy(CPU, True, powercap).joules() == {}
    assert Energy(CPU, True, tmp_path / "nothing").joules() == {}


def test_a_gpus_own_counter(monkeypatch):
    millijoules = iter((5_000, 5_000, 12_500))
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(millijoules),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="7"))
    assert Energy(torch.device("cuda", 0), False).joules() == {"gpu": 7.5}
    monkeypatch.setitem(sys.modules, "pynvml", None)  # not installed
    assert Energy(torch.device("cuda", 0), False).joules() == {}


def test_a_sum_needs_every_node_and_every_gpu():
    ranks = [{"packages": 1.0, "gpu": 2.0}, {"gpu": 2.0}, {"packages": 3.0, "gpu": 2.0}, {"gpu": 2.0}]
    assert total(ranks, nodes=2, ranks=4) == {"packages": 4.0, "gpu": 8.0}
    assert total([{"packages": 1.0}, {}, {}, {}], nodes=2, ranks=4) == {}


def test_joules_a_sample_come_from_the_run_before_slurm():
    own = {"joules": {"gpu": 30.0, "packages": 20.0}, "samples": 50}
    state = RunState(job_id="7", summary={"samples": 100, "energy": own})
    assert sample_j(state, {"7": 500.0}) == (1.0, "GPUs (NVML) and CPU packages (RAPL)")
    without = RunState(job_id="7", summary={"samples": 100})
    assert sample_j(without, {"7": 500.0}) == (5.0, "whole jobs (Slurm)")
    assert sample_j(without, {}) == (None, "")
    assert sample_j(RunState(), {"7": 500.0}) == (None, "")
