"""A rehearsal of the user's own network: one small batch through it and its loss, before anything is started.

Takes a configuration with `model.target`; builds the network on the CPU and runs it forward, in training, over made-up
samples of the data's shapes. Reads no data. Side effects: those of the user's code; torch's generator moves on.
"""

from __future__ import annotations

import contextlib
import io
import signal
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn.parameter import UninitializedParameter

from hpctrain import models
from hpctrain.config.data_kinds import Family, kind_of
from hpctrain.config.settings import Config
from hpctrain.errors import UserError, said
from hpctrain.tasks import Batch, Task, make_task

SAMPLES = 2  # batch norm needs two
LARGEST = 500_000_000  # parameters; a login node is not the place for more
PATIENCE_S = 10.0  # nor for a network that takes longer than this


def inputs(config: Config, samples: int, pixels: int | None = None) -> tuple[Tensor, ...]:
    """Returns what the network's forward takes, of random numbers: images (B, C, H, W), tokens (B, T), and so on.

    `pixels`: the side of the images, if it is not the data set's own.
    """
    task = _task(config)
    return _batch(config, samples, pixels)[: -task.targets]


def play(config: Config) -> None:
    """Runs the network and its loss once. Raises UserError with the user's file and line if that fails.

    What the user's code prints is not shown: the ranks will print it again, into logs without secrets. A network that
    takes longer than PATIENCE_S is left to the ranks.
    """
    quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with _for_at_most(PATIENCE_S), quiet[0], quiet[1]:
        _play(config)


class _TooLong(BaseException):
    """Not an Exception, so that the user's code does not catch it."""


@contextlib.contextmanager
def _for_at_most(seconds: float) -> Iterator[None]:
    """Ends its block quietly after so many seconds, as soon as Python code runs; in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise _TooLong

    before, timer = signal.signal(signal.SIGALRM, stop), signal.setitimer(signal.ITIMER_REAL, seconds)
    with contextlib.suppress(_TooLong):
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            signal.setitimer(signal.ITIMER_REAL, *timer)


def _play(config: Config) -> None:
    model = config.model
    network = models.build(model.name, model.settings, device="meta", target=model.target)
    if sum(p.numel() for p in network.parameters() if not isinstance(p, UninitializedParameter)) > LARGEST:
        return
    network = models.build(model.name, model.settings, weights=model.weights, target=model.target).train()
    task, batch = _task(config), _batch(config, SAMPLES)
    try:
        models.initialise(network, lambda count: batch[: -task.targets])
        models.check_trainable(network)
        loss, _, _ = task.loss(network, batch, None)
        if not loss.requires_grad:
            raise UserError(
                "model.target",
                model.target,
                "trains nothing: its output is detached, rounded, or made without gradients",
            )
    except UserError:
        raise
    except (
        Exception,
        SystemExit,
        GeneratorExit,
        BaseExceptionGroup,
    ) as error:  # the user's own code may raise anything
        sizes = ", ".join("x".join(map(str, tensor.shape)) for tensor in batch[: -task.targets])
        raise UserError(
            "model.target", model.target, f"fails on {SAMPLES} samples ({sizes}): {said(error)}"
        ) from error


def _task(config: Config) -> Task:
    known = SimpleNamespace(
        num_classes=config.data.num_classes, vocabulary=SimpleNamespace(lengths=lambda: None)
    )
    return make_task(config.task, known)


def _batch(config: Config, samples: int, pixels: int | None = None) -> Batch:
    """Returns a batch of the task's form. The labels are the last ones, so that too narrow a network is seen."""
    data = config.data
    last, length = (data.vocabulary_size or data.num_classes or 1) - 1, data.sequence_length or 1
    lengths = torch.full((samples,), length)
    tokens = torch.randint(last + 1, (samples, length))
    match kind_of(data.name).family:
        case Family.IMAGE | Family.PICTURE:
            shape = data.shape if pixels is None else (data.shape[0], pixels, pixels)
            return torch.rand(samples, *shape), torch.full((samples,), last)
        case Family.TEXT:
            return tokens, torch.full_like(tokens, last)
        case Family.SPEECH:
            spectrograms = torch.rand(samples, 1, data.frequency_bins or 1, length)
            return spectrograms, lengths, torch.full((samples, 1), last), torch.ones_like(lengths)
        case Family.PAIR:
            return tokens, lengths, tokens, torch.full_like(tokens, last)
