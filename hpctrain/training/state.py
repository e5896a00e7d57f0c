"""A training state as one flat, named set of tensors and JSON, and back.

Takes model, optimiser, carry and random generators; gives a `Snapshot` (training/checkpoint.py writes it).
Names: model/<name>, optimizer/<parameter name>/<key>, rng/<rank>/<device>, carry/<rank>/<i>.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hpctrain.data.sampler import part
from hpctrain.errors import RunFailed
from hpctrain.training.checkpoint import Snapshot
from hpctrain.training.comm import Comm


def capture(
    model: nn.Module, optimizer: Any, carry: tuple[Tensor, ...] | None, comm: Comm, meta: dict[str, Any]
) -> Snapshot:
    """Everything a bitwise resume needs. Collective; every rank names the same tensors."""
    own = {f"rng/{comm.rank}/{name}": state for name, state in _rng_states(model).items()}
    own |= {f"carry/{comm.rank}/{i}": t.detach().cpu() for i, t in enumerate(carry or ())}
    of_ranks = comm.gather_objects(own)
    tensors: dict[str, Tensor] = {f"model/{k}": v for k, v in model.state_dict().items()}
    for name, values in _optimizer_state(model, optimizer).items():
        tensors |= {f"optimizer/{name}/{key}": value for key, value in values.items()}
    for states in of_ranks:
        tensors |= states
    return Snapshot(tensors, meta | {"world_size": comm.size})


def apply(snapshot: Snapshot, model: nn.Module, optimizer: Any, comm: Comm) -> tuple[Tensor, ...] | None:
    """Set model, optimiser and this rank's random generators in place; gives this rank's carry."""
    tensors = snapshot.tensors
    saved = {k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")}
    _compare(model.state_dict(), saved)
    model.load_state_dict(saved)
    device = next(model.parameters()).device
    for name, parameter in model.named_parameters():
        prefix = f"optimizer/{name}/"
        found = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if found:
            # torch keeps the step counter of fused optimisers where the parameter is, others' buffers too.
            optimizer.state[parameter] = {
                k: torch.empty_like(parameter).copy_(v)
                if v.shape == parameter.shape
                else v.to(device).clone()
                for k, v in found.items()
            }
    if snapshot.meta["world_size"] == comm.size:
        _set_rng_states({k.split("/")[2]: v for k, v in tensors.items() if k.startswith(f"rng/{comm.rank}/")})
    return _carry_of(snapshot, comm, device)


def _carry_of(snapshot: Snapshot, comm: Comm, device: torch.device) -> tuple[Tensor, ...] | None:
    """This rank's part of the state of all samples (dimension 1), which the saved ranks held in order."""
    ranks, tensors = range(snapshot.meta["world_size"]), snapshot.tensors
    parts: list[Tensor] = []
    while all(f"carry/{rank}/{len(parts)}" in tensors for rank in ranks):
        whole = torch.cat([tensors[f"carry/{rank}/{len(parts)}"] for rank in ranks], dim=1)
        parts.append(whole[:, part(whole.shape[1], comm.rank, comm.size)].contiguous().to(device))
    return tuple(parts) or None


def _optimizer_state(model: nn.Module, optimizer: Any) -> dict[str, dict[str, Tensor]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[p]: {k: v for k, v in state.items() if isinstance(v, Tensor)}
        for p, state in optimizer.state.items()
    }


def _rng_states(model: nn.Module) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if next(model.parameters()).is_cuda:
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_rng_states(states: dict[str, Tensor]) -> None:
    if "cpu" in states:
        torch.set_rng_state(states["cpu"].cpu())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())


def _compare(expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    """Raise for the first leaf that is missing, extra, or of another shape or dtype."""
    for name in [*expected, *found]:
        here, there = expected.get(name), found.get(name)
        if here is None or there is None:
            side = "has no" if there is None else "has an unknown"
            raise RunFailed("NO_VALID_CHECKPOINT", f"the checkpoint {side} tensor model/{name}")
        if here.shape != there.shape or here.dtype != there.dtype:
            raise RunFailed(
                "NO_VALID_CHECKPOINT",
                f"model/{name} is {tuple(there.shape)} {there.dtype} in the checkpoint, "
                f"{tuple(here.shape)} {here.dtype} in the model",
            )
