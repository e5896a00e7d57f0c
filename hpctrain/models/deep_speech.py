"""Deep Speech 2 (Amodei et al. 2016, "Deep Speech 2: end-to-end speech recognition in English and Mandarin").

Takes spectrograms (B, 1, F, T), returns log-probabilities of characters (T', B, K) for a CTC loss, and how
many of the T' steps of each sample are valid. B samples, F frequency bins, T frames of 10 ms, T' steps
after the strides, C channels, H hidden units, G gates, K characters (0 is CTC's blank). Weights start as
torch's linear and convolutional layers do, from the global generator.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hpctrain.models.cells import GATES, unroll
from hpctrain.models.settings_sequence import DeepSpeech2Settings


class DeepSpeech2(nn.Module):
    """Convolutions over time and frequency, recurrent layers, fully connected layers, a softmax (Figure 1)."""

    def __init__(self, settings: DeepSpeech2Settings) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList()
        self.norms = nn.ModuleList()
        inputs, frequencies = 1, settings.frequencies()
        shapes = zip(settings.conv_channels, settings.conv_kernels, settings.conv_strides, strict=True)
        for (outputs, kernel, stride), bins in zip(shapes, frequencies, strict=False):
            padding = (0 if kernel[0] == bins else kernel[0] // 2, kernel[1] // 2)
            bias = settings.bias and not settings.batch_norm
            self.convolutions.append(nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=bias))
            self.norms.append(_norm(outputs, settings))
            inputs = outputs
        widths = [inputs * frequencies[-1]] + [settings.hidden] * (settings.layers - 1)
        self.layers = nn.ModuleList(RecurrentLayer(width, settings) for width in widths)
        hidden = settings.hidden
        self.lookahead = Lookahead(hidden, settings.lookahead) if settings.lookahead else nn.Identity()
        self.full = nn.ModuleList(
            nn.Linear(hidden, hidden, bias=settings.bias) for _ in range(settings.full_layers)
        )
        self.output = nn.Linear(hidden, settings.vocabulary_size, bias=settings.bias)

    def forward(self, spectrogram: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps spectrograms (B, 1, F, T) and valid frames (B,) to log-probabilities (T', B, K) and valid steps (B,).

        Without `lengths` all frames are valid. Frames beyond a sample's length do not affect the result.
        """
        x, mask = spectrogram, None
        if lengths is not None:
            x = x * _valid(lengths, x.shape[-1]).T[:, None, None]
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = convolution(x)
            if lengths is not None:
                lengths = _after(convolution, lengths)
                mask = _valid(lengths, x.shape[-1])
            x = clipped_relu(over_steps(norm, x.permute(3, 0, 1, 2), mask)).permute(1, 2, 3, 0)
            if mask is not None:
                x = x * mask.T[:, None, None]
        x = x.permute(3, 0, 1, 2).flatten(2)
        for layer in self.layers:
            x = layer(x, mask)
        x = self.lookahead(x)
        for full in self.full:
            x = clipped_relu(full(x))
        if lengths is None:
            lengths = torch.full((x.shape[1],), x.shape[0], device=x.device)
        return self.output(x).log_softmax(-1), lengths


class RecurrentLayer(nn.Module):
    """h_t = f(B(W x_t) + U h_(t-1)) in one or both directions, which share W and are added (section 3.2)."""

    def __init__(self, inputs: int, settings: DeepSpeech2Settings) -> None:
        super().__init__()
        self.cell, self.hidden = settings.cell, settings.hidden
        width = GATES[settings.cell] * settings.hidden
        self.input = nn.Linear(inputs, width, bias=False)
        self.norm = _norm(width, settings)
        self.recurrent = nn.ModuleList(
            nn.Linear(settings.hidden, width, bias=settings.bias) for _ in range(1 + settings.bidirectional)
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Maps steps (T', B, inputs) to (T', B, H), which is zero wherever `mask` (T', B) is false."""
        projected = over_steps(self.norm, self.input(x), mask)
        start = (projected.new_zeros(projected.shape[1], self.hidden),)
        activation = clipped_relu if self.cell == "rnn" else torch.tanh
        outputs = [
            unroll(
                self.cell,
                projected,
                recurrent,
                start,
                activation=activation,
                mask=mask,
                reverse=bool(direction),
            )[0]
            for direction, recurrent in enumerate(self.recurrent)
        ]
        return outputs[0] if len(outputs) == 1 else outputs[0] + outputs[1]


class Lookahead(nn.Module):
    """Each unit's weighted sum over this step and the next `steps` (section 3.7): row convolution."""

    def __init__(self, hidden: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.conv = nn.Conv1d(hidden, hidden, steps + 1, groups=hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps steps (T', B, H) to (T', B, H)."""
        future = F.pad(x.permute(1, 2, 0), (0, self.steps))
        return self.conv(future).permute(2, 0, 1)  # type: ignore[no-any-return]


def clipped_relu(x: Tensor) -> Tensor:
    """Returns min(max(x, 0), 20) for x of any shape (...,)."""
    return x.clamp(0, 20)


def over_steps(norm: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    """Returns x (T', B, features, ...) normalised over all valid steps of all samples; `mask` is (T', B)."""
    if isinstance(norm, nn.Identity):
        return x
    if mask is None:
        return norm(x.flatten(0, 1)).view_as(x)  # type: ignore[no-any-return]
    rows = norm(x[mask])
    return rows.new_zeros(x.shape).index_put((mask,), rows)  # type: ignore[no-any-return]


def _norm(features: int, settings: DeepSpeech2Settings) -> nn.Module:
    return nn.BatchNorm1d(features, affine=settings.norm_affine) if settings.batch_norm else nn.Identity()


def _after(convolution: nn.Module, lengths: Tensor) -> Tensor:
    """Returns the steps (B,) that `convolution` makes of `lengths` (B,) frames."""
    assert isinstance(convolution, nn.Conv2d)
    assert not isinstance(convolution.padding, str)
    room = lengths + 2 * convolution.padding[1] - convolution.kernel_size[1]
    return room // convolution.stride[1] + 1


def _valid(lengths: Tensor, steps: int) -> Tensor:
    """Returns (steps, B): whether a step lies within its sample."""
    return torch.arange(steps, device=lengths.device)[:, None] < lengths
