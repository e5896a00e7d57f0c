"""Turns a training state into one flat set of named tensors and JSON, and back.

Takes the state of all ranks; returns a `Snapshot`, which checkpoints/saver.py writes. Names:
model/<name>, optimizer/<parameter name>/<key>, ema/<parameter name>, rng/<rank>/<device>, carry/<rank>/<i>. What
modules keep beside tensors (torch's extra state) is in the meta data.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hpctrain.checkpoints.saver import Snapshot
from hpctrain.data.sampler import part
from hpctrain.errors import RunFailed
from hpctrain.models.factory import EXTRA_STATE
from hpctrain.storage.run_state import Reason
from hpctrain.tasks import Carry
from hpctrain.training.comm import Comm

_RANKS = ("rng/", "carry/")  # tensors of one rank; all others are the same on every rank


class Live:
    """The tensors that training changes: model, optimiser, the average of the weights (if asked for), the carry.

    `carry` is the recurrent state that this rank's samples hand from one step to the next.

    The average (EMA) is ē ← d ē + (1 − d) θ after each update, from ē = θ at the start.
    """

    def __init__(self, model: nn.Module, optimizer: Any, ema_decay: float | None = None) -> None:
        self.model, self.optimizer, self._decay = model, optimizer, ema_decay
        self._weights = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
        kept = self._weights if ema_decay is not None else {}
        self.ema = {name: weight.clone() for name, weight in kept.items()}
        self.carry: Carry = None

    @torch.no_grad()
    def average(self) -> None:
        """Update the average after an update of the weights."""
        if self.ema and self._decay is not None:
            torch._foreach_lerp_(list(self.ema.values()), list(self._weights.values()), 1 - self._decay)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside the block the model has the averaged weights, if there is an average."""
        own = {name: self._weights[name].clone() for name in self.ema}
        try:
            for name, value in self.ema.items():
                self._weights[name].copy_(value)
            yield
        finally:
            for name, value in own.items():
                self._weights[name].copy_(value)

    def tensors(self) -> dict[str, Tensor]:
        """Returns the live tensors (...,) by name. Raises RunFailed if the optimiser keeps anything else."""
        tensors: dict[str, Any] = {f"model/{k}": v for k, v in tensors_of(self.model).items()}
        for name, parameter in self.model.named_parameters():
            state = self.optimizer.state.get(parameter, {})
            tensors |= {f"optimizer/{name}/{key}": value for key, value in state.items()}
        tensors |= {f"ema/{name}": value for name, value in self.ema.items()}
        for name, value in tensors.items():
            if not isinstance(value, Tensor):
                raise RunFailed(
                    Reason.ERROR, f"{name} is not a tensor ({type(value).__name__}): cannot be saved"
                )
        return tensors

    def extra(self) -> dict[str, Any]:
        """Returns by module what its `get_extra_state` returns, unless it is a tensor. Raises RunFailed if not JSON."""
        found: dict[str, Any] = {}
        for name, value in self.model.state_dict().items():
            if not isinstance(value, Tensor):
                found[name.removesuffix(EXTRA_STATE).removesuffix(".")] = value
                try:
                    same = json.loads(json.dumps(value)) == value
                except (TypeError, ValueError):
                    same = False
                if not same:
                    raise RunFailed(
                        Reason.ERROR,
                        f"{name} cannot be saved: what get_extra_state returns must be a tensor or JSON",
                    )
        return found

    @torch.no_grad()
    def load(self, snapshot: Snapshot | None, comm: Comm) -> None:
        """Copy the tensors (...,) of the snapshot of rank 0 into those of every rank. Collective.

        Raises RunFailed for the first tensor that does not fit.
        """
        live = self.tensors()
        if comm.rank == 0:
            assert snapshot is not None
            saved = {k: v for k, v in snapshot.tensors.items() if not k.startswith(_RANKS)}
            compare(live, saved)
            for name, value in saved.items():
                live[name].copy_(value)
        comm.broadcast(live)
        extra = comm.broadcast_object(snapshot.meta.get("extra_state", {}) if snapshot else {})
        for name, value in extra.items():
            self.model.get_submodule(name).set_extra_state(value)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Returns the parameters and buffers (...,) of a model by name, and extra states that are tensors."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


@dataclass
class Undo:
    """What a forward pass changes besides gradients: buffers (running means) and random numbers."""

    buffers: list[Tensor]
    copies: list[Tensor]
    random: dict[str, Tensor]

    def note(self) -> None:
        """Remember the state before a step."""
        if self.buffers:
            torch._foreach_copy_(self.copies, self.buffers)
        self.random = rng_states(self.random.keys())

    def undo(self) -> None:
        """Restore the state of the last `note`."""
        if self.buffers:
            torch._foreach_copy_(self.buffers, self.copies)
        set_rng_states(self.random)


def make_undo(model: nn.Module, device: torch.device) -> Undo:
    """Returns an `Undo` for the buffers of `model` and the random generators of `device`."""
    buffers = [buffer.detach() for buffer in model.buffers()]
    return Undo(buffers, [buffer.clone() for buffer in buffers], rng_states(generators(device)))


def generators(device: torch.device) -> tuple[str, ...]:
    """Returns the names of the random generators that a rank on `device` draws from."""
    return ("cpu", "cuda") if device.type == "cuda" else ("cpu",)


def capture(live: Live, comm: Comm, device: torch.device, meta: dict[str, Any]) -> Snapshot:
    """Returns everything that a bitwise resume needs, with the same names on every rank. Collective."""
    own = {f"rng/{comm.rank}/{name}": state for name, state in rng_states(generators(device)).items()}
    own |= {f"carry/{comm.rank}/{i}": t.detach().cpu() for i, t in enumerate(live.carry or ())}
    tensors = live.tensors()
    for states in comm.gather_objects(own):
        tensors |= states
    extra = {"extra_state": found} if (found := live.extra()) else {}
    return Snapshot(tensors, meta | {"world_size": comm.size} | extra)


def of_ranks(snapshot: Snapshot) -> dict[str, Tensor]:
    """Returns the tensors (...,) that belong to single ranks, for all ranks."""
    return {name: value for name, value in snapshot.tensors.items() if name.startswith(_RANKS)}


def restore_random(tensors: Mapping[str, Tensor], comm: Comm, device: torch.device) -> None:
    """Set this rank's random generators to the saved states (bytes,). Raises RunFailed if the checkpoint lacks them."""
    prefix = f"rng/{comm.rank}/"
    saved = {name: state for name, state in tensors.items() if name.startswith(prefix)}
    wanted = {f"{prefix}{name}": state for name, state in rng_states(generators(device)).items()}
    if (
        f"{prefix}cuda" not in saved or f"{prefix}cuda" not in wanted
    ):  # the run had no GPU then, or has none now
        wanted.pop(f"{prefix}cuda", None), saved.pop(f"{prefix}cuda", None)
    compare(wanted, saved)
    set_rng_states({name.removeprefix(prefix): state for name, state in saved.items()})


def carry_of(tensors: Mapping[str, Tensor], saved_ranks: int, comm: Comm, device: torch.device) -> Carry:
    """Returns this rank's part of the carry: tensors (layers, B, hidden) of all samples, divided along dimension 1.

    `saved_ranks` ranks saved it, in order of their samples.
    """
    parts: list[Tensor] = []
    while all(f"carry/{rank}/{len(parts)}" in tensors for rank in range(saved_ranks)):
        whole = torch.cat([tensors[f"carry/{rank}/{len(parts)}"] for rank in range(saved_ranks)], dim=1)
        parts.append(whole[:, part(whole.shape[1], comm.rank, comm.size)].contiguous().to(device))
    return tuple(parts) or None


def rng_states(names: Iterable[str]) -> dict[str, Tensor]:
    """Returns the state of each named generator, uint8 (bytes,)."""
    read: dict[str, Callable[[], Tensor]] = {"cpu": torch.get_rng_state, "cuda": torch.cuda.get_rng_state}
    return {name: read[name]() for name in names}


def set_rng_states(states: Mapping[str, Tensor]) -> None:
    """Set the named generators to `states`, uint8 (bytes,)."""
    write = {"cpu": torch.set_rng_state, "cuda": torch.cuda.set_rng_state}
    for name, state in states.items():
        write[name](state.cpu())


def compare(expected: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Compare tensors (...,). Raises RunFailed for the first that is missing, unknown, or of another shape or dtype."""
    for name in [*expected, *saved]:
        here, there = expected.get(name), saved.get(name)
        if here is None or there is None:
            side = "does not have" if there is None else "has an unknown"
            raise RunFailed(Reason.NO_VALID_CHECKPOINT, f"the checkpoint {side} tensor {name}")
        if here.shape != there.shape or here.dtype != there.dtype:
            raise RunFailed(
                Reason.NO_VALID_CHECKPOINT,
                f"{name} is {tuple(there.shape)} {there.dtype} in the checkpoint, "
                f"{tuple(here.shape)} {here.dtype} in this run",
            )
