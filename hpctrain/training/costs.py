"""What a run costs and reaches: FLOPs a sample, rates, and the summary at its end.

Takes the model and a batch of its data; gives figures with units in their names. FLOPs are counted by
hpctrain.flops (multiply-add = 2). What the device can do at most is looked up (GPUs, cluster.device) or, on
a CPU, measured at the start; where neither is known, shares of it are None. Side effects: that measurement.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from hpctrain import flops
from hpctrain.config import Config
from hpctrain.flops import peaks
from hpctrain.report.curves import scores_of
from hpctrain.run_dir import RunDir
from hpctrain.training.comm import Comm


class Costs:
    def __init__(
        self, config: Config, model: nn.Module, dataset: Any, device: torch.device, targets: int = 1
    ) -> None:
        """`targets`: how many tensors at a batch's end are not the model's inputs."""
        self._ranks, self._batch = config.ranks, config.effective_batch
        samples = min(config.train.batch_size, len(dataset))
        batch = dataset.batch(np.zeros(samples, dtype=np.int64))[:-targets]
        inputs = tuple(tensor.to("meta") for tensor in batch)
        self.work = flops.step_work(model, inputs, config.optimizer, samples=samples)
        dtype = "fp32" if config.precision.name == "fp32" else "bf16"
        self.device = _device(config, device, dtype)
        known = self.device is not None and dtype in self.device.flops
        self._peak_flops = self.device.flops[dtype] if self.device and known else None
        self._least_s = self.work.least_s(self.device, dtype) if self.device and known else None

    def headline(self, comm: Comm, device: torch.device, step: int, total_steps: int) -> str:
        work, start = self.work, f"resuming at step {step} of" if step else "starting"
        return (
            f"{start} {total_steps} steps on {comm.size} rank{'s' if comm.size > 1 else ''} "
            f"({comm.transport}, {device.type}), effective batch {self._batch}; {work.params:,} parameters, "
            f"{self.per_sample / 1e6:,.2f} MFLOP a sample"
        )

    @property
    def per_sample(self) -> float:
        """FLOPs of forward and backward pass for one sample."""
        return self.work.forward_flops + self.work.backward_flops

    def total(self, samples: int, steps: int) -> float:
        return self.per_sample * samples + self.work.optimizer_flops * steps * self._ranks

    def rates(self, steps: int, samples: int, wall_s: float) -> dict[str, float | None]:
        """Throughput over a stretch of the run: all ranks together. `flops` are those of the stretch."""
        done = self.total(samples, steps)
        return {
            "samples_per_s": samples / wall_s if wall_s else None,
            "flops": done,
            "gflop_per_s": done / wall_s / 1e9 if wall_s else None,
            **self._shares(steps, samples, wall_s),
        }

    def _shares(self, steps: int, samples: int, wall_s: float) -> dict[str, float | None]:
        """Of the devices' peak (MFU), and of the roofline: least time over the time taken."""
        if not (self._peak_flops and self._least_s and wall_s):
            return {"mfu": None, "roofline_share": None}
        sample_s, update_s = self._least_s
        least_s = samples / self._ranks * sample_s + steps * update_s
        mfu = self.per_sample * samples / wall_s / (self._peak_flops * self._ranks)
        return {"mfu": mfu, "roofline_share": least_s / wall_s}

    def summary(self, run: RunDir, samples: int, elapsed_s: float) -> dict[str, Any]:
        """The figures of the whole run, from its own records: earlier attempts count."""
        records, validations = run.read_metrics("train"), run.read_metrics("validation")
        train_s = sum(record["window_s"] for record in records)
        steps = sum(record["window_steps"] for record in records)
        done = self.total(samples, steps)
        work = self.work
        return {
            "validation": scores_of(validations[-1]) if validations else None,
            "samples": samples,
            "steps": steps,
            "train_s": train_s,
            "elapsed_s": elapsed_s,
            **self.rates(steps, samples, train_s),
            "flops_total": done,
            "flops_per_step": {
                "forward": work.forward_flops * self._batch,
                "backward": work.backward_flops * self._batch,
                "optimizer": work.optimizer_flops * self._ranks,
            },
            "params": work.params,
            "device_peak": None
            if self.device is None
            else {
                "device": self.device.name,
                "flops_per_s": dict(self.device.flops),
                "bytes_per_s": self.device.bytes_per_s,
                "source": self.device.source,
            },
        }


def _device(config: Config, device: torch.device, dtype: str) -> peaks.Device | None:
    """What this rank computes on; None where its peak is not known."""
    if config.cluster.device:
        return peaks.find(config.cluster.device)
    if device.type == "cuda":
        return peaks.find(torch.cuda.get_device_name(device))
    return peaks.measure_quickly(dtype)
