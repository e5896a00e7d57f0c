"""What a run costs and achieves: FLOPs per sample, rates, and the summary at its end.

Takes the model and a batch of its data; returns figures with units in their names. hpctrain.flops counts the FLOPs
(multiply-add = 2). The device's peak is looked up (GPUs, cluster.device) or, on a CPU, measured at the start; if it is
not known, shares of it are None. Side effects: that measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from torch import nn

from hpctrain import flops, hardware
from hpctrain.config.settings import Config
from hpctrain.errors import Uncounted
from hpctrain.flops import StepWork, roofline
from hpctrain.storage.records import Rates, Scores, TrainRecord, train_records, validation_records
from hpctrain.storage.run_dir import RunDir
from hpctrain.training.comm import Comm
from hpctrain.training.energy import EnergyUse
from hpctrain.training.precision import tf32_allowed
from hpctrain.training.read_ahead import Waiting, kept_up


class StepFlops(TypedDict):
    """FLOPs of one step over all ranks."""

    forward: float
    backward: float
    optimizer: float


class DevicePeak(TypedDict):
    """What shares of the peak refer to: hardware.Device's fields, and the number format of the products."""

    device: str
    format: str
    flops_per_s: dict[str, float]
    bytes_per_s: float
    source: str


class Summary(TypedDict):
    """The figures of a whole run, in state.json and in its last record. See storage/records.py for the rates.

    `elapsed_s` counts validation and checkpoints as well, which `train_s` leaves out. `energy` is of one attempt alone.
    Figures of operations are None if the network's could not be counted.
    """

    validation: Scores | None
    samples: int
    steps: int
    train_s: float
    elapsed_s: float
    samples_per_s: float | None
    flops: float | None
    gflop_per_s: float | None
    mfu: float | None
    roofline_share: float | None
    flops_total: float | None
    input: Waiting | None
    flops_per_step: StepFlops | None
    params: int
    device_peak: DevicePeak | None
    energy: NotRequired[EnergyUse]


class Costs:
    """The FLOPs of a run's steps, and their share of the device's peak."""

    def __init__(
        self,
        config: Config,
        precision: str,
        model: nn.Module,
        dataset: Any,
        device: torch.device,
        targets: int = 1,
    ) -> None:
        """`precision`: fp32 or bf16. `targets`: how many tensors at the end of a batch are not inputs of the model."""
        self._ranks, self._batch = config.ranks, config.effective_batch
        samples = min(config.train.batch_size, len(dataset))
        one = dataset.batch(np.zeros(1, dtype=np.int64))[:-targets]
        inputs = tuple(tensor.new_empty(samples, *tensor.shape[1:], device="meta") for tensor in one)
        # With progressive resizing, the cost of one step at each size of its images.
        sizes = {None: inputs} | {
            pixels: (inputs[0].new_empty(*inputs[0].shape[:2], pixels, pixels),)
            for pixels in {pixels for _, pixels in config.train.image_sizes}
        }
        self.uncounted: str | None = None
        self._works: dict[int | None, StepWork | None] = dict.fromkeys(sizes)
        try:
            if not config.train.flops:
                raise Uncounted("train.flops=false")
            for size, given in sizes.items():
                self._works[size] = flops.step_work(model, given, config.optimizer, samples=samples)
        except Uncounted as why:
            self.uncounted = str(why)
            self._works = dict.fromkeys(sizes)
        self._params = sum(parameter.numel() for parameter in model.parameters())
        self._precision = self._format = precision
        self.device = _device(config, device, precision)
        self.resize(None)

    def resize(self, pixels: int | None) -> None:
        """From now on figures are for images with `pixels` per side; None: the size of the data set's images."""
        self.work = self._works[pixels]
        self._peak_flops, self._roofline_s = None, None
        if self.work and self.device:
            self._format = self.work.format(self.device, self._precision, *tf32_allowed())
            if self._format in self.device.flops:
                self._peak_flops = self.device.flops[self._format]
                self._roofline_s = self.work.roofline_s(self.device, self._format)

    def headline(self, comm: Comm, device: torch.device, step: int, total_steps: int) -> str:
        """Returns the line that announces the run: steps, ranks, parameters, cost."""
        start = f"resuming at step {step} of" if step else "starting"
        each = self.per_sample
        cost = f"FLOPs unknown: {self.uncounted}" if each is None else f"{each / 1e6:,.2f} MFLOP per sample"
        return (
            f"{start} {total_steps} steps on {comm.size} rank{'s' if comm.size > 1 else ''} "
            f"({comm.transport}, {device.type}), effective batch {self._batch}; {self._params:,} parameters, {cost}"
        )

    @property
    def per_sample(self) -> float | None:
        """FLOPs of the forward and the backward pass for one sample; None if they are not known."""
        return None if self.work is None else self.work.forward_flops + self.work.backward_flops

    def total(self, samples: int, steps: int) -> float | None:
        """Returns the FLOPs of `steps` steps over `samples` samples, those of the optimiser on all ranks included."""
        if self.work is None or self.per_sample is None:
            return None
        return self.per_sample * samples + self.work.optimizer_flops * steps * self._ranks

    def rates(self, steps: int, samples: int, wall_s: float) -> Rates:
        """Returns the throughput of `steps` steps over `samples` samples that took `wall_s` seconds."""
        done = self.total(samples, steps)
        if not wall_s:
            return Rates(flops=done)
        if done is None:
            return Rates(samples / wall_s)
        rates = Rates(samples / wall_s, done, done / wall_s / 1e9)
        if not (self._peak_flops and self._roofline_s and self.per_sample):
            return rates
        sample_s, update_s = self._roofline_s
        roofline_s = samples / self._ranks * sample_s + steps * update_s
        mfu = roofline.mfu(self.per_sample * samples / self._ranks, wall_s, self._peak_flops)
        return replace(rates, mfu=mfu, roofline_share=roofline_s / wall_s)

    def summary(
        self, run: RunDir, samples: int, elapsed_s: float, waits: list[tuple[float, int] | None]
    ) -> Summary:
        """Returns the figures of the whole run, from its own records, those of earlier attempts included.

        `waits`: how long each rank waited for its data in this attempt (training/read_ahead.py).
        """
        records, validations = train_records(run.metrics_file), validation_records(run.metrics_file)
        train_s = sum(record.window_s for record in records)
        attempt_s = sum(r.window_s for r in records if r.attempt == records[-1].attempt)
        steps = sum(record.window_steps for record in records)
        rates = self._of_sizes(records, self.rates(steps, samples, train_s), train_s)
        work = self.work
        return {
            "validation": validations[-1].scores if validations else None,
            "samples": samples,
            "steps": steps,
            "train_s": train_s,
            "elapsed_s": elapsed_s,
            "samples_per_s": rates.samples_per_s,
            "flops": rates.flops,
            "gflop_per_s": rates.gflop_per_s,
            "mfu": rates.mfu,
            "roofline_share": rates.roofline_share,
            "flops_total": rates.flops,
            "input": kept_up(waits, attempt_s),
            "flops_per_step": None
            if work is None
            else {
                "forward": work.forward_flops * self._batch,
                "backward": work.backward_flops * self._batch,
                "optimizer": work.optimizer_flops * self._ranks,
            },
            "params": self._params,
            "device_peak": None
            if self.device is None
            else {
                "device": self.device.name,
                "format": self._format,
                "flops_per_s": dict(self.device.flops),
                "bytes_per_s": self.device.bytes_per_s,
                "source": self.device.source,
            },
        }

    def _of_sizes(self, records: Sequence[TrainRecord], rates: Rates, train_s: float) -> Rates:
        """Returns the sums over the records if images change their size during the run: each record is of one size."""
        if len(self._works) == 1 or not train_s or self.work is None:
            return rates
        done = sum(record.rates.flops or 0.0 for record in records)
        rates = replace(rates, flops=done, gflop_per_s=done / train_s / 1e9)
        known = [r for r in records if r.rates.mfu is not None and r.rates.roofline_share is not None]
        if len(known) < len(records):
            return rates
        return replace(
            rates,
            mfu=sum((r.rates.mfu or 0.0) * r.window_s for r in known) / train_s,
            roofline_share=sum((r.rates.roofline_share or 0.0) * r.window_s for r in known) / train_s,
        )


def _device(config: Config, device: torch.device, dtype: str) -> hardware.Device | None:
    """Returns the device of this rank with its peaks, or None if they are not known."""
    if config.cluster.device:
        return hardware.find(config.cluster.device)
    if device.type == "cuda":
        return hardware.find(torch.cuda.get_device_name(device))
    return hardware.measure_quickly(dtype)
