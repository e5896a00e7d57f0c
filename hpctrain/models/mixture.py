"""Sparsely gated mixture of experts with two-level gating (Shazeer et al. 2017, sections 2 to 4, appendix B).

Takes vectors (N, D), returns vectors (N, D) and, in training, a loss that balances the experts. N vectors,
D their width, a groups of b experts, E = a·b experts, F their hidden width, k active at each level, C the
capacity of an expert. All shapes follow from N, so that nothing depends on values or waits for the device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hpctrain.models.cells import is_exporting
from hpctrain.models.settings_sequence import GNMTMoESettings


class MixtureOfExperts(nn.Module):
    """Chooses k groups for every vector, and in each group k experts, networks with one hidden ReLU layer.

    An expert takes the first C = ceil(capacity_factor · N · k² / E) vectors that choose it; further vectors get
    nothing from it.
    """

    def __init__(self, settings: GNMTMoESettings) -> None:
        super().__init__()
        self.settings = settings
        experts, width = settings.groups * settings.experts_per_group, settings.width
        self.primary = Gate(width, settings.groups, settings.gate_noise)
        self.secondary = Gate(width, experts, settings.gate_noise)
        self.w_in = nn.Parameter(torch.empty(experts, width, settings.expert_hidden))
        self.w_out = nn.Parameter(torch.empty(experts, settings.expert_hidden, width))

    def capacity(self, vectors: int) -> int:
        """Returns C for a batch of `vectors`."""
        share = vectors * self.settings.active**2 / self.w_in.shape[0]
        return max(1, math.ceil(self.settings.capacity_factor * share))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Maps vectors (N, D) to (N, D) and, in training, the balancing loss, a scalar. Vectors whose `mask` (N,) is
        false are left out."""
        chosen, weights, loss = self._choose(x, mask)
        experts, capacity = self.w_in.shape[0], self.capacity(x.shape[0])
        slots = assign(chosen.flatten(), experts, capacity)
        copies = x[:, None].expand(-1, chosen.shape[1], -1).flatten(0, 1)
        # The last row takes the vectors that do not fit.
        queue = x.new_zeros(experts * capacity + 1, x.shape[1]).index_copy(0, slots, copies)
        hidden = torch.relu(torch.bmm(queue[:-1].view(experts, capacity, -1), self.w_in))
        answers = F.pad(torch.bmm(hidden, self.w_out).flatten(0, 1), (0, 0, 0, 1))
        answers = answers.index_select(0, slots).view(*chosen.shape, -1)
        return (answers * weights[..., None].to(answers.dtype)).sum(1), loss

    def _choose(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns expert numbers (N, k²), which are E for masked vectors; their weights (N, k²); and the loss."""
        settings, k = self.settings, self.settings.active
        groups, each = settings.groups, settings.experts_per_group
        first = self.primary(x)
        group_values, group = first.noisy.topk(k, -1)
        second = self.secondary(x).of_groups(group, each)
        expert_values, expert = second.noisy.topk(k, -1)
        weights = group_values.softmax(-1)[..., None] * expert_values.softmax(-1)
        chosen = (group[..., None] * each + expert).flatten(1)
        weights = weights.flatten(1)
        if mask is not None:
            weights = weights * mask[:, None]
            chosen = chosen.masked_fill(~mask[:, None], groups * each)
        if not self.training:
            return chosen, weights, None
        importance = weights.new_zeros(groups * each + 1)
        importance = importance.index_add(0, chosen.flatten(), weights.flatten())[:-1]
        loss = settings.importance_weight * variation(importance)
        if settings.gate_noise:
            loss = loss + settings.load_weight * variation(self._load(first, second, group, mask))
        return chosen, weights, loss

    def _load(self, first: Scores, second: Scores, group: Tensor, mask: Tensor | None) -> Tensor:
        """Returns Load_H (a, b) of appendix B: the expected number of vectors of each expert, differentiable."""
        k, groups = self.settings.active, self.settings.groups
        valid = torch.ones_like(group[:, :1]) if mask is None else mask[:, None].to(group.dtype)
        primary = (first.probability_in_top(k) * valid).sum(0)
        secondary = second.probability_in_top(k) * valid[..., None]
        loads = secondary.new_zeros(groups, secondary.shape[-1])
        loads = loads.index_add(0, group.flatten(), secondary.flatten(0, 1))
        members = primary.new_zeros(groups)
        members = members.index_add(0, group.flatten(), valid.expand_as(group).flatten().to(primary.dtype))
        return primary[:, None] * loads / members.clamp(min=1)[:, None]


class Scores:
    """A gate's scores of each choice (N, choices), without and with noise, and the noise's deviation."""

    def __init__(self, clean: Tensor, noisy: Tensor, deviation: Tensor | None) -> None:
        self.clean, self.noisy, self.deviation = clean, noisy, deviation

    def of_groups(self, group: Tensor, each: int) -> Scores:
        """Returns the scores (N, k, b) of the experts in the chosen groups (N, k), from scores (N, E)."""

        def pick(scores: Tensor) -> Tensor:
            by_group = scores.view(scores.shape[0], -1, each)
            return by_group.gather(1, group[..., None].expand(-1, -1, each))

        deviation = None if self.deviation is None else pick(self.deviation)
        return Scores(pick(self.clean), pick(self.noisy), deviation)

    def probability_in_top(self, k: int) -> Tensor:
        """Returns P(x, i) (N, choices) of equations 8 and 9: that i is among the top k if its noise is redrawn."""
        if self.deviation is None or k >= self.noisy.shape[-1]:
            return torch.ones_like(self.clean)
        top = self.noisy.topk(k + 1, -1).values
        inside = self.noisy > top[..., k : k + 1]
        rival = torch.where(inside, top[..., k : k + 1], top[..., k - 1 : k])
        probability: Tensor = torch.special.ndtr((self.clean - rival) / self.deviation)
        return probability


class Gate(nn.Module):
    """Scores x W_g, in training with trainable noise if `noise` is set (equation 4)."""

    def __init__(self, inputs: int, choices: int, noise: bool) -> None:
        super().__init__()
        self.score = nn.Linear(inputs, choices, bias=False)
        self.noise = nn.Linear(inputs, choices, bias=False) if noise else None

    def forward(self, x: Tensor) -> Scores:
        """Maps vectors (N, D) to scores (N, choices)."""
        clean = self.score(x)
        if self.noise is None or not self.training:
            return Scores(clean, clean, None)
        deviation = F.softplus(self.noise(x)) + 0.01
        return Scores(clean, clean + torch.randn_like(clean) * deviation, deviation)


def assign(chosen: Tensor, experts: int, capacity: int) -> Tensor:
    """Returns a place (M,) among experts x capacity for each entry of `chosen` (M,), first come, first served.

    Entries whose expert is full, and those equal to `experts`, get the place past the end.
    """
    if is_exporting():  # ONNX has no stable sort; this takes M·E numbers
        each = chosen[:, None] == torch.arange(experts + 1, device=chosen.device)
        place = each.long().cumsum(0).gather(1, chosen[:, None])[:, 0] - 1
        return torch.where(
            (place < capacity) & (chosen < experts), chosen * capacity + place, experts * capacity
        )
    order = chosen.argsort(stable=True)
    ordered = chosen[order]
    first = torch.searchsorted(ordered, torch.arange(experts + 1, device=chosen.device))
    place = torch.arange(chosen.shape[0], device=chosen.device) - first[ordered]
    fits = (place < capacity) & (ordered < experts)
    slots = torch.where(fits, ordered * capacity + place, experts * capacity)
    return torch.empty_like(slots).scatter(0, order, slots)


def variation(x: Tensor) -> Tensor:
    """Returns the squared coefficient of variation of x (E,) or (a, b), a scalar (equation 7)."""
    return x.var(correction=0) / (x.mean().square() + 1e-10)
