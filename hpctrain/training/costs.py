"""What a run costs and reaches: FLOPs a sample, rates, and the summary at its end.

Takes the model and one sample of its data; gives figures with units in their names. FLOPs are counted by
hpctrain.flops (multiply-add = 2); shares of a peak only where the device's peak is known.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from hpctrain import flops
from hpctrain.config import Config
from hpctrain.report.curves import scores_of
from hpctrain.run_dir import RunDir
from hpctrain.training.comm import Comm


class Costs:
    def __init__(self, config: Config, model: nn.Module, dataset: Any, device: torch.device) -> None:
        *inputs, _ = dataset.batch(np.zeros(1, dtype=np.int64))
        self.work = flops.step_work(model, tuple(inputs), config.optimizer)
        self._ranks, self._batch = config.ranks, config.effective_batch
        precision = "bf16" if config.precision.name == "bf16" else "fp32"
        name = config.cluster.device or (
            torch.cuda.get_device_name(device) if device.type == "cuda" else None
        )
        self._peak_flops = flops.peak_flops(name, precision) if name else None

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

    def rates(self, steps: int, samples: int, wall_s: float) -> dict[str, float]:
        """Throughput over a stretch of the run: all ranks together."""
        done = self.total(samples, steps)
        figures = {"samples_per_s": samples / wall_s, "gflop_per_s": done / wall_s / 1e9}
        if self._peak_flops:
            figures["mfu"] = done / wall_s / (self._peak_flops * self._ranks)
        return figures

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
            "samples_per_s": samples / train_s if train_s else None,
            "gflop_per_s": done / train_s / 1e9 if train_s else None,
            "flops_total": done,
            "flops_per_step": {
                "forward": work.forward_flops * self._batch,
                "backward": work.backward_flops * self._batch,
                "optimizer": work.optimizer_flops * self._ranks,
            },
            "params": work.params,
        }
