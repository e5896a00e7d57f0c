"""A run from its configuration to its last step: set up, resume, loop, finish. Read it top to bottom.

Takes a checked `Config`, its run directory, a `Comm`, a stop flag and a checkpointer. Every rank runs it; only rank 0
writes files.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from hpctrain import data, models
from hpctrain.checkpoints.saver import Checkpointer
from hpctrain.config.image_sizes import image_size
from hpctrain.config.settings import Config
from hpctrain.data import sampler
from hpctrain.errors import RunFailed
from hpctrain.storage.full_disk import patiently
from hpctrain.storage.records import SummaryRecord, ValidationRecord
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Phase, Reason
from hpctrain.tasks import make_task
from hpctrain.training import precision, progress, read_ahead, state
from hpctrain.training.comm import Comm, bind_device
from hpctrain.training.energy import Energy, total
from hpctrain.training.evaluation import evaluate, evaluation_shares
from hpctrain.training.exchange import make_exchange
from hpctrain.training.flop_accounting import Costs
from hpctrain.training.group_batch_norm import share_norms
from hpctrain.training.machine_peaks import ceilings
from hpctrain.training.optimizers import make_optimizer
from hpctrain.training.profile import profile
from hpctrain.training.progress import Ledger, Progress, Window
from hpctrain.training.reporter import Reporter, shown
from hpctrain.training.saving import Saving
from hpctrain.training.schedule import Schedule
from hpctrain.training.step import FLAGS, Trainer
from hpctrain.training.step_timer import Clock
from hpctrain.training.stop import STOP_REASONS, StopFlag
from hpctrain.training.window import WindowRecorder

PATIENT_NANS = 10  # steps in a row whose loss or gradient is not finite, before on_nan=skip gives up


def train(
    config: Config, run: RunDir, comm: Comm, stop: StopFlag, checkpointer: Checkpointer, report: Reporter
) -> str:
    """Train to the end, or until something stops the run. Returns the reason of the end. Collective.

    Raises RunFailed if the run cannot go on.
    """
    # --- Set up: device, data, model, optimiser. Order matters to Horovod: device, model, then state.
    settings = config.train
    device = bind_device(config.resources.device, comm.local_rank)
    if settings.deterministic and device.type == "cuda":  # the call takes seconds for its imports
        torch.use_deterministic_algorithms(True, warn_only=True)
    splits = data.load(config.data, read_ahead.feeding(config, device))
    if comm.rank == 0:
        patiently(lambda: run.keep(splits.files))
    report.say(splits.found)
    train_set, validation_set = splits.train.to(device), splits.validation.to(device)
    batch = config.effective_batch
    steps_per_epoch = sampler.steps_per_epoch(len(train_set), batch, config.data.drop_last)
    total_steps = settings.steps if settings.steps is not None else (settings.epochs or 0) * steps_per_epoch
    pause_epochs = comm.broadcast_object(run.read_pause() if comm.rank == 0 else None)
    end_step = total_steps if pause_epochs is None else min(total_steps, pause_epochs * steps_per_epoch)

    torch.manual_seed(config.seed)
    network = config.model
    model = models.build(network.name, network.settings, weights=network.weights, target=network.target)
    automatic = config.precision.name == "auto"
    numbers = precision.settle(config.precision, device)
    # A checkpoint holds the number format of the run, so that no device goes on in another one.
    config = replace(config, precision=numbers)
    if numbers.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    task = make_task(config.task, train_set)

    def samples(count: int) -> tuple[Tensor, ...]:
        whole: tuple[Tensor, ...] = train_set.batch(np.zeros(count, dtype=np.int64))
        return whole[: -task.targets]

    model = model.to(device).train()
    models.initialise(model, samples)
    models.check_trainable(model)
    fewest = sampler.smallest_micro_batch(
        len(train_set), batch, settings.batch_size, comm.size, config.data.drop_last
    )
    models.check_tail(model, samples, fewest)
    comm.broadcast(state.tensors_of(model))
    torch.manual_seed(config.seed + 1 + comm.rank)  # from here on for dropout, which differs between ranks
    optimizer = make_optimizer(config.optimizer, model.named_parameters())
    exchange, optimizer = make_exchange(config.comm, model, optimizer, comm, task.width + FLAGS, report.say)
    schedule = Schedule(config.schedule, config.optimizer.lr, batch, steps_per_epoch, total_steps)
    autocast = precision.autocast(numbers.name, device)
    clock = Clock(device)
    trainer = Trainer(
        model, task, train_set, optimizer, exchange, autocast, settings.batch_size, settings.clip_norm, clock
    )
    costs = Costs(config, numbers.name, model, train_set, device, task.targets)
    if comm.size > 1 and config.comm.batch_norm_ranks != 1:
        trainer.norms, layers = share_norms(model, comm)
        report.say(f"comm.batch_norm_ranks={config.comm.batch_norm_ranks}: {layers} layers of batch norm")
    compiled = precision.compile_blocks(model) if numbers.compile else []
    live = state.Live(model, optimizer, settings.ema_decay)
    undo = state.make_undo(model, device)

    def order_of(epoch: int) -> sampler.Indices:
        return sampler.epoch_order(len(train_set), config.seed, epoch, train_set.shuffle, batch)

    # --- Resume: the newest good checkpoint, or the beginning.
    at, ledger = Progress(window=Window(sums=[0.0] * task.width)), Ledger()
    snapshot = checkpointer.restore(run.saved_step()) if comm.rank == 0 else None
    meta, tensors = comm.broadcast_object(
        (snapshot.meta, state.of_ranks(snapshot)) if snapshot else (None, {})
    )
    if meta is not None:
        at, ledger = progress.continued(meta, config, order_of)
        live.load(snapshot, comm)
        if meta["world_size"] == comm.size:
            state.restore_random(tensors, comm, device)
        else:
            torch.manual_seed(_step_seed(config.seed, at.step, comm.rank))
            report.say(
                f"resuming on {comm.size} ranks what {meta['world_size']} saved: the global batches are the same, and"
                " each sample is taken once per epoch; random numbers (dropout, augmentation), the groups of batch norm"
                " and the order of sums differ, so it is not bitwise the same run"
            )
        live.carry = state.carry_of(tensors, meta["world_size"], comm, device)
        if comm.rank > 0:  # rank 0 counts what all ranks took before
            ledger.taken = ledger.fingerprint = 0
    del snapshot, tensors
    report.begin(at.step, at.validated_at)
    report.check_progress(at.step)
    report.say(costs.headline(comm, device, at.step, total_steps))
    if automatic:
        report.say(f"precision=auto: {numbers.name} on this device")
    if compiled:
        report.say(f"compiled one by one at the first step: {', '.join(compiled)}")
    report.beat(
        now=True, phase=Phase.RUNNING, step=at.step, total_steps=total_steps, epoch_steps=steps_per_epoch
    )
    window = WindowRecorder(at, task, costs, clock, report)
    order = order_of(at.step // steps_per_epoch)
    reason, wanted, diverged = Reason.DONE, False, False
    steps_to_come = range(at.step, end_step)
    read_ahead.announce(
        train_set,
        sampler.shares(order_of, steps_to_come, steps_per_epoch, batch, comm.rank, comm.size),
        config,
    )

    saving = Saving(checkpointer, config, comm, device, live, at, ledger, schedule, window, clock)
    energy, energy_from = Energy(device, comm.local_rank == 0), at.samples
    window.leave_out()

    # --- Loop: one optimiser step per turn, with reports, validation and checkpoints around it.
    while True:
        whole_epoch = at.step > 0 and (at.step % steps_per_epoch == 0 or at.step == total_steps)
        if whole_epoch and at.validated_at < at.step:  # even if the last attempt stopped at this very step
            if at.step % steps_per_epoch == 0:
                expected = np.arange(len(train_set), dtype=np.int64)
                if config.data.drop_last:
                    expected = order_of(at.step // steps_per_epoch - 1)[: steps_per_epoch * batch]
                ledger.close(comm.gather_objects(ledger.share), expected)
            comm.broadcast({f"buffer/{name}": buffer for name, buffer in model.named_buffers()})
            with live.averaged():
                shares = evaluation_shares(len(validation_set), batch, comm)
                read_ahead.announce(validation_set, ((0, share) for share in shares), config)
                scores = evaluate(
                    model, trainer.forward, task.evaluator(validation_set), validation_set, comm, batch,
                    settings.batch_size, report.beat,
                )  # fmt: skip
            at.validation_losses.append(scores["loss"])
            at.validated_at = at.step
            report.record(ValidationRecord(at.step, at.step / steps_per_epoch, scores))
            report.say(f"epoch {at.step / steps_per_epoch:g}: validation {shown(scores)}")
            best = config.checkpoint.keep_best and scores["loss"] <= min(at.validation_losses)
            window.leave_out()
            if wanted or best or at.step == total_steps or checkpointer.due(at.step, whole_epoch):
                saving.save(metric=scores["loss"])
                window.leave_out()
        if at.step >= end_step:
            break

        epoch, place = divmod(at.step, steps_per_epoch)
        if settings.image_sizes and (place == 0 or at.step == steps_to_come.start):
            pixels = image_size(config, epoch)
            train_set.resize(pixels)
            costs.resize(pixels)
        if place == 0:
            order = order_of(epoch)
        share = sampler.share(order, place, batch, comm.rank, comm.size)
        lr = schedule.lr(at.step, at.validation_losses)
        generator = torch.Generator().manual_seed(_step_seed(config.seed, at.step, comm.rank))
        undo.note()
        before = live.carry
        overdue = comm.rank == 0 and checkpointer.overdue()
        detail: str | None = None
        try:
            summed, live.carry = trainer.step(share, generator, before, lr, save=overdue, stop=stop.poll())
            extras = summed.tolist()  # on a GPU this waits for the step
        except (MemoryError, RuntimeError) as error:
            if not precision.out_of_memory(error):
                raise
            detail = " ".join(str(error).split())[:200]
        if detail is not None:  # not in the except block: there the error keeps the tensors of the step alive
            raise RunFailed(Reason.OUT_OF_MEMORY, f"{precision.advice(trainer, device)}: {detail}")
        bad, wanted, *stops = extras[task.width :]
        if bad:
            undo.undo()
            live.carry = before
            report.say(f"loss or gradient is not finite at step {at.step + 1}: no rank applies the update")
            diverged = settings.on_nan == "stop" or at.bad_in_a_row + 1 >= PATIENT_NANS
            if diverged:
                break
            at.bad_in_a_row += 1
            skipped_from = at.step
            if settings.on_nan == "rollback":
                skipped_from = _roll_back(checkpointer, live, comm)
            at.skipped.append((skipped_from, at.step + 1))
        else:
            live.average()
            at.bad_in_a_row = 0
            window.add(extras[: task.width])
        at.step += 1
        at.samples += share.global_count
        ledger.take(share.indices)
        checkpointer.report()
        stopping = next((r for r, votes in zip(STOP_REASONS, stops, strict=True) if votes), None)
        whole_epoch = at.step % steps_per_epoch == 0 or at.step == total_steps

        record_due = at.step % settings.log_every == 0 or whole_epoch
        if record_due or stopping:
            window.record(lr, at.step / steps_per_epoch, total_steps, cut=not record_due)
        if record_due:
            energy.update()
        report.beat(
            step=at.step,
            epoch=at.step / steps_per_epoch,
            figures=window.figures,
            checkpoint=checkpointer.committed_step,
        )
        if stopping:
            reason = stopping
            break
        if not whole_epoch and (wanted or checkpointer.due(at.step, whole_epoch)):
            saving.save()
    if reason == Reason.DONE and at.step < total_steps:
        reason = Reason.PAUSED

    # --- Finish: the last checkpoint is on disk before the state says so.
    saving.finish()
    joules = total(comm.gather_objects(energy.joules()), comm.size // comm.local_size, comm.size)
    if diverged:
        raise RunFailed(Reason.NAN_PERSISTENT, f"loss or gradient is not finite at step {at.step + 1}")
    if settings.profile and reason == Reason.DONE:
        measured = profile(trainer, comm, settings.profile)
        if settings.ceilings:
            measured["ceilings"] = ceilings(comm, device)
        if comm.rank == 0:
            patiently(lambda: run.write_profile(measured))
    waits = comm.gather_objects(read_ahead.waited(train_set))
    if comm.rank == 0:
        summary = costs.summary(run, at.samples, window.elapsed_s, waits)
        if joules:  # they are of this attempt alone
            summary["energy"] = {"joules": joules, "samples": at.samples - energy_from}
        report.record(SummaryRecord(at.step, reason, dict(summary)))
        report.beat(
            now=True,
            step=at.step,
            epoch=at.step / steps_per_epoch,
            summary=summary,
            checkpoint=checkpointer.committed_step,
        )
    return reason


def _roll_back(checkpointer: Checkpointer, live: state.Live, comm: Comm) -> int:
    """Load weights and optimiser of the last checkpoint on every rank. Returns the step of that checkpoint. Collective.

    The data goes on after the step that was not finite. Raises NAN_PERSISTENT if there is no checkpoint yet.
    """
    snapshot = checkpointer.newest() if comm.rank == 0 else None
    step = comm.broadcast_object(snapshot.meta["step"] if snapshot else None)
    if step is None:
        raise RunFailed(
            Reason.NAN_PERSISTENT, "loss or gradient is not finite, and there is no checkpoint yet"
        )
    live.load(snapshot, comm)
    return int(step)


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Returns the seed of one rank's augmentation at one step: a resumed run draws what an undisturbed one draws."""
    return (seed << 32) ^ (step << 12) ^ rank
