"""Optimisers from their settings: torch's fused ones, and LARS.

Takes named parameters and an `OptimizerConfig`, gives a torch optimiser whose `step` reads
`optimizer.found_inf` (a float32 scalar tensor): where it is 1, nothing changes, without a look from the host.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from hpctrain.config import AdamConfig, LarsConfig, OptimizerConfig, SgdConfig


def make_optimizer(config: OptimizerConfig, parameters: Iterable[tuple[str, nn.Parameter]]) -> Any:
    """One optimiser over all trainable parameters; vectors (norms, biases) undecayed where asked."""
    trainable = [p for _, p in parameters if p.requires_grad]
    optimizer = _make(config, trainable)
    for group in optimizer.param_groups:
        for p in group["params"]:
            optimizer.state[p] = _first_state(config, p)
    return optimizer


def _first_state(config: OptimizerConfig, p: nn.Parameter) -> dict[str, Tensor]:
    """What torch makes at the first step, at once: a checkpoint of any step has the same tensors.

    And torch's fused SGD, told at its first step that the gradient is not finite, leaves memory that it
    has not set as its momentum.
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
    match config:
        case SgdConfig():
            return torch.optim.SGD(
                groups,
                lr=config.lr,
                momentum=config.momentum,
                nesterov=config.nesterov,
                weight_decay=config.weight_decay,
                fused=True,
            )
        case AdamConfig():
            kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
            return kind(
                groups,
                lr=config.lr,
                betas=config.betas,
                eps=config.eps,
                weight_decay=config.weight_decay,
                fused=True,
            )
        case LarsConfig():
            return Lars(groups, config)


class Lars(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You, Gitman, Ginsburg 2017, arXiv:1708.03888, Algorithm 1).

    For each matrix or filter w with gradient g: rate λ = trust · |w| / (|g| + decay · |w|),
    v ← m v + λ lr (g + decay · w), w ← w − v. Vectors (norms, biases) take λ = 1.
    """

    def __init__(self, groups: list[dict[str, Any]], config: LarsConfig) -> None:
        super().__init__(
            groups,
            {
                "lr": config.lr,
                "momentum": config.momentum,
                "nesterov": config.nesterov,
                "weight_decay": config.weight_decay,
                "trust": config.trust_coefficient,
            },
        )
        self.found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        del closure
        if self.found_inf is not None and bool(self.found_inf):
            return
        for group in self.param_groups:
            for p in group["params"]:
                self._update(p, group)

    def _update(self, p: nn.Parameter, group: dict[str, Any]) -> None:
        decay, lr, m = group["weight_decay"], group["lr"], group["momentum"]
        assert p.grad is not None
        update = p.grad.add(p, alpha=decay) if decay else p.grad.clone()
        if p.ndim > 1:
            w_norm, g_norm = p.norm(), p.grad.norm()
            rate = group["trust"] * w_norm / (g_norm + decay * w_norm)
            # A layer of zeros, or without gradient, takes the plain step.
            update.mul_(torch.where((w_norm > 0) & (g_norm > 0), rate, torch.ones_like(rate)))
        state = self.state[p]
        velocity = state.get("momentum_buffer", torch.zeros_like(p))  # none without momentum
        velocity.mul_(m).add_(update, alpha=lr)
        p.sub_(velocity.mul(m).add_(update, alpha=lr) if group["nesterov"] else velocity)
