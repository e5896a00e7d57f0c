"""A run from its configuration to its last step: set up, resume, loop, finish. Read it top to bottom.

Takes a checked `Config`, its run directory, a `Comm`, a stop flag and a checkpointer; gives the name of
the reason for which it ended (run_dir.REASONS). Every rank runs it; rank 0 alone writes files.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from hpctrain import data, models
from hpctrain.config import Config
from hpctrain.data import sampler
from hpctrain.errors import RunFailed
from hpctrain.run_dir import RunDir
from hpctrain.tasks import TASKS, Carry
from hpctrain.training import state
from hpctrain.training.checkpoint import Checkpointer
from hpctrain.training.clock import PARTS, Clock
from hpctrain.training.comm import Comm, bind_device
from hpctrain.training.costs import Costs
from hpctrain.training.exchange import GradientExchange
from hpctrain.training.metrics import Reporter, shown
from hpctrain.training.optimizers import make_optimizer
from hpctrain.training.schedule import Schedule
from hpctrain.training.step import FLAGS, Trainer, evaluate
from hpctrain.training.stop import STOP_REASONS, StopFlag


@dataclass
class Progress:
    """Where the run is: what a checkpoint holds beside tensors."""

    step: int = 0
    samples: int = 0
    elapsed_s: float = 0.0
    validation_losses: list[float] = field(default_factory=list)
    carry: Carry = None


def train(
    config: Config, run: RunDir, attempt: int, comm: Comm, stop: StopFlag, checkpointer: Checkpointer
) -> str:
    # --- Set up: device, data, model, optimiser. Order matters to Horovod: device, model, then state.
    settings = config.train
    device = bind_device(config.resources.device, comm.local_rank)
    torch.use_deterministic_algorithms(settings.deterministic and device.type == "cuda", warn_only=True)
    splits = data.load(config.data)
    if comm.rank == 0:
        run.keep(splits.files)
    train_set, validation_set = splits.train.to(device), splits.validation.to(device)
    batch = config.effective_batch
    steps_per_epoch = sampler.steps_per_epoch(len(train_set), batch)
    total_steps = settings.steps if settings.steps is not None else (settings.epochs or 0) * steps_per_epoch

    torch.manual_seed(config.seed)
    network = config.model
    model = models.build(network.name, network.settings, weights=network.weights, target=network.target)
    if config.precision.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = model.to(device).train()
    comm.broadcast(model.state_dict())
    torch.manual_seed(config.seed + 1 + comm.rank)  # from here on: dropout, different on each rank
    task = TASKS[config.task.name](config.task, train_set)
    optimizer = make_optimizer(config.optimizer, model.named_parameters())
    exchange = GradientExchange(
        list(model.parameters()),
        comm,
        bucket_mb=config.comm.bucket_mb,
        extras=task.width + FLAGS,
        half=config.comm.compression == "fp16",
    )
    schedule = Schedule(config.schedule, config.optimizer.lr, batch, steps_per_epoch, total_steps)
    autocast = _autocast(config.precision.name, device)
    clock = Clock(device)
    trainer = Trainer(
        model, task, train_set, optimizer, exchange, autocast, settings.batch_size, settings.clip_norm, clock
    )
    costs = Costs(config, model, train_set, device)
    report = Reporter(run, attempt, comm.rank == 0, settings.tensorboard)

    # --- Resume: the newest good checkpoint, or the beginning.
    at = Progress()
    snapshot = comm.broadcast_object(checkpointer.restore() if comm.rank == 0 else None)
    if snapshot is not None:
        at = Progress(**{key: snapshot.meta[key] for key in ("step", "samples", "elapsed_s")})
        at.validation_losses = list(snapshot.meta["validation_losses"])
        at.carry = state.apply(snapshot, model, optimizer, comm)
        saved_ranks = snapshot.meta["world_size"]
        if saved_ranks != comm.size:
            report.say(
                f"resuming on {comm.size} ranks what {saved_ranks} saved: the same global batches, but random"
                " numbers (dropout, augmentation) and the order of sums differ, so not bitwise the same run"
            )
    report.resume_at(at.step)
    report.check_progress(at.step)
    report.say(costs.headline(comm, device, at.step, total_steps))
    report.beat(now=True, phase="running", step=at.step, total_steps=total_steps, epoch_steps=steps_per_epoch)
    began = time.perf_counter() - at.elapsed_s
    order = _epoch_order(config, train_set, at.step // steps_per_epoch)
    sums = torch.zeros(task.width, dtype=torch.float64, device=device)
    window_step, window_samples, window_s = at.step, at.samples, time.perf_counter()
    figures: dict[str, float] = {}
    reason = "DONE"
    clock.take()

    # --- Loop: one optimiser step a turn; reports, validation and checkpoints stand around it.
    while at.step < total_steps:
        epoch, place = divmod(at.step, steps_per_epoch)
        if place == 0:
            order = _epoch_order(config, train_set, epoch)
        share = sampler.share(order, place, batch, comm.rank, comm.size)
        lr = schedule.lr(at.step, at.validation_losses)
        generator = torch.Generator().manual_seed(_step_seed(config.seed, at.step, comm.rank))
        save = comm.rank == 0 and checkpointer.overdue()
        extras, at.carry = trainer.step(share, generator, at.carry, lr, save=save, stop=stop.poll())
        at.step += 1
        at.samples += share.global_count
        sums += extras[: task.width]
        bad, save, *stops = extras[task.width :].tolist()
        if bad and settings.on_nan == "stop":
            raise RunFailed("NAN_PERSISTENT", f"loss or gradient is not finite at step {at.step}")
        stopping = next((r for r, votes in zip(STOP_REASONS, stops, strict=True) if votes), None)
        whole_epoch = at.step % steps_per_epoch == 0 or at.step == total_steps

        if at.step % settings.log_every == 0 or whole_epoch or stopping:
            now = time.perf_counter()
            steps, parts = at.step - window_step, clock.take()
            figures = task.summarise(sums.tolist())
            figures |= costs.rates(steps, at.samples - window_samples, now - window_s)
            report.record(
                "train", step=at.step, epoch=at.step / steps_per_epoch, samples=at.samples, lr=lr, **figures,
                window_s=now - window_s, window_steps=steps,
                step_ms={part: 1e3 * parts[part] / steps for part in PARTS},
            )  # fmt: skip
            report.say(
                f"step {at.step}/{total_steps} epoch {at.step / steps_per_epoch:.2f}: {shown(figures)}"
            )
            sums.zero_()
            window_step, window_samples, window_s = at.step, at.samples, now
        report.beat(step=at.step, epoch=at.step / steps_per_epoch, figures=figures)

        if whole_epoch and not stopping:
            totals = evaluate(
                model, task, validation_set, comm, batch, settings.batch_size, autocast, report.beat
            )
            scores = task.summarise(totals)
            at.validation_losses.append(scores["loss"])
            report.record("validation", step=at.step, epoch=at.step / steps_per_epoch, **scores)
            report.say(f"epoch {at.step / steps_per_epoch:g}: validation {shown(scores)}")
        if stopping or save or at.step == total_steps or checkpointer.due(at.step, whole_epoch):
            at.elapsed_s = time.perf_counter() - began
            captured = state.capture(
                model, optimizer, at.carry, comm, _meta(at, attempt, config, steps_per_epoch)
            )
            checkpointer.save(captured, metric=min(at.validation_losses, default=None))
        if whole_epoch:  # validation and the save are not part of the next steps' figures
            clock.take()
            window_s = time.perf_counter()
        if stopping:
            reason = stopping
            break

    # --- Finish: the last checkpoint is on disk before the state says so.
    checkpointer.finish()
    if comm.rank == 0:
        summary = costs.summary(run, at.samples, time.perf_counter() - began)
        report.record("summary", step=at.step, reason=reason, **summary)
        report.beat(now=True, step=at.step, epoch=at.step / steps_per_epoch, summary=summary)
    report.close()
    return reason


def _meta(at: Progress, attempt: int, config: Config, steps_per_epoch: int) -> dict[str, Any]:
    """What a checkpoint holds beside tensors. The order of samples follows from seed and step alone."""
    return {
        "step": at.step,
        "epoch": at.step / steps_per_epoch,
        "samples": at.samples,
        "elapsed_s": at.elapsed_s,
        "validation_losses": at.validation_losses,
        "steps_per_epoch": steps_per_epoch,
        "effective_batch": config.effective_batch,
        "seed": config.seed,
        "attempt": attempt,
    }


def _epoch_order(config: Config, dataset: Any, epoch: int) -> sampler.Indices:
    return sampler.epoch_order(len(dataset), config.seed, epoch, dataset.shuffle, config.effective_batch)


def _step_seed(seed: int, step: int, rank: int) -> int:
    """A seed for one rank's augmentation at one step: a resumed run draws what the undisturbed one drew."""
    return (seed << 32) ^ (step << 12) ^ rank


def _autocast(precision: str, device: torch.device) -> Callable[[], Any]:
    if precision == "fp32":
        return contextlib.nullcontext
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16)
