"""Optimisers from their settings: torch's fused ones, and LARS.

Takes named parameters and an `OptimizerConfig`; returns a torch optimiser whose `step` reads `optimizer.found_inf`, a
float32 tensor of shape (): if it is 1, the step changes nothing, without a look by the host.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from hpctrain.config.settings import AdamConfig, LarsConfig, OptimizerConfig


def make_optimizer(config: OptimizerConfig, parameters: Iterable[tuple[str, nn.Parameter]]) -> Any:
    """Returns one optimiser of all trainable parameters. `config` says whether vectors (norms, biases) are decayed."""
    trainable = [p for _, p in parameters if p.requires_grad]
    optimizer = _make(config, trainable)
    for group in optimizer.param_groups:
        for p in group["params"]:
            optimizer.state[p] = _first_state(config, p)
    return optimizer


def _first_state(config: OptimizerConfig, p: nn.Parameter) -> dict[str, Tensor]:
    """Returns the state that torch would make at the first step, so that all checkpoints have the same tensors.

    There is a second reason: if the gradient of the very first step is not finite, torch's fused SGD leaves
    uninitialised memory as its momentum.
    """
    if isinstance(config, AdamConfig):
        step = torch.zeros((), dtype=torch.float32, device=p.device)
        return {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
    return {"momentum_buffer": torch.zeros_like(p)} if config.momentum else {}


def _make(config: OptimizerConfig, trainable: list[nn.Parameter]) -> Any:
    groups: list[dict[str, Any]] = [{"params": trainable}]
    if not config.decay_norm_and_bias and config.weight_decay > 0:
        groups = [
            {"params": [p for p in trainable if p.ndim > 1]},
            {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    if isinstance(config, AdamConfig):
        kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
        return kind(groups, betas=config.betas, eps=config.eps, **common)
    common |= {"momentum": config.momentum, "nesterov": config.nesterov}
    if isinstance(config, LarsConfig):
        return Lars(groups, config.trust_coefficient, **common)
    return torch.optim.SGD(groups, **common)


class Lars(torch.optim.SGD):
    """Layer-wise adaptive rate scaling (You, Gitman, Ginsburg 2017, arXiv:1708.03888, Algorithm 1).

    For each matrix or filter w with gradient g: rate λ = trust · |w| / (|g| + decay · |w|),
    v ← m v + λ lr (g + decay · w), w ← w − v. Vectors (norms, biases) have λ = 1. A step overwrites the gradients with
    λ lr (g + decay · w), and torch's fused SGD does the rest.
    """

    def __init__(self, groups: list[dict[str, Any]], trust: float, **settings: Any) -> None:
        """`trust` is the trust coefficient; `settings` are those of SGD."""
        super().__init__(groups, **settings)
        self._trust = trust
        self._matrices = [
            torch.tensor([p.ndim > 1 for p in group["params"]], device=group["params"][0].device)
            for group in self.param_groups
        ]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the weights from their gradients."""
        del closure
        asked = [(group["lr"], group["weight_decay"]) for group in self.param_groups]
        for group, matrices in zip(self.param_groups, self._matrices, strict=True):
            self._scale_gradients(group, matrices)
            group |= {"lr": 1.0, "weight_decay": 0.0}
        super().step()
        for group, (lr, decay) in zip(self.param_groups, asked, strict=True):
            group |= {"lr": lr, "weight_decay": decay}

    def _scale_gradients(self, group: dict[str, Any], matrices: Tensor) -> None:
        used = [p.grad is not None for p in group["params"]]
        weights, decay = list(itertools.compress(group["params"], used)), group["weight_decay"]
        if not weights:
            return
        matrices = matrices[torch.tensor(used, device=matrices.device)] if not all(used) else matrices
        gradients = [p.grad for p in weights]
        w_norms, g_norms = (torch.stack(torch._foreach_norm(of)) for of in (weights, gradients))
        rates = self._trust * w_norms / (g_norms + decay * w_norms)
        # A layer of zeros, or without a gradient, gets the plain step.
        rates = torch.where(matrices & (w_norms > 0) & (g_norms > 0), rates, 1.0) * group["lr"]
        if decay:
            torch._foreach_add_(gradients, weights, alpha=decay)
        torch._foreach_mul_(gradients, rates.unbind())
