"""Google's neural machine translation, and its sparsely gated mixture-of-experts form.

GNMT: Wu et al. 2016 (arXiv 1609.08144), sections 3 and 4. Mixture: Shazeer et al. 2017 (arXiv
1701.06538), appendices E to G. Both take source words (B, S), the number of valid ones (B,), and for each target
word to predict the one before it (B, T); they return logits (B, T, V). B sentence pairs, S and T words of source
and target, V words in the shared vocabulary, H hidden units; D, M and A are the widths of a layer's output, the
encoder's output and the attention. All weights start uniform in ±init_range, from torch's global generator.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hpctrain.models.cells import LSTM, State, over_time
from hpctrain.models.mixture import MixtureOfExperts
from hpctrain.models.outputs import WithAuxiliary
from hpctrain.models.settings_sequence import GNMTMoESettings, GNMTSettings


class Attention(nn.Module):
    """A weighted mean of the encoder's outputs, which a network of one hidden layer scores.

    A score is v·tanh(W y + U x) (GNMT, equation 4) or, with `product`, v·(tanh(W y) tanh(U x)), which the mixture
    uses for speed (Shazeer et al. 2017, appendix G).
    """

    def __init__(self, query: int, memory: int, hidden: int, *, product: bool = False) -> None:
        super().__init__()
        self.product = product
        self.query = nn.Linear(query, hidden, bias=False)
        self.key = nn.Linear(memory, hidden, bias=False)
        self.score = nn.Linear(hidden, 1, bias=False)

    def forward(self, query: Tensor, keys: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Maps query (B, D), keys U x (B, S, A), memory (B, S, M) and mask (B, S) to a context (B, M)."""
        y = self.query(query)[:, None]
        hidden = torch.tanh(y) * torch.tanh(keys) if self.product else torch.tanh(y + keys)
        scores = self.score(hidden).squeeze(-1).masked_fill(~mask, float("-inf"))
        return torch.bmm(scores.softmax(-1)[:, None], memory).squeeze(1)


class AttentiveLSTM(nn.Module):
    """The decoder's bottom layer: its last output is the query, and the context is part of its next input."""

    def __init__(self, lstm: LSTM, attention: Attention) -> None:
        super().__init__()
        self.lstm, self.attention = lstm, attention

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Maps words (B, T, D), the encoder's outputs (B, S, M) and mask (B, S) to outputs (B, T, D) and contexts
        (B, T, M)."""
        keys, cell = self.attention.key(memory), self.lstm.cell()

        def body(state: State, word: Tensor) -> tuple[State, State]:
            context = self.attention(state[0][0], keys, memory, mask)
            state = cell(torch.cat([word, context], -1), state)
            return state, (state[0][0], context)

        _, (outputs, contexts) = over_time(body, self.lstm.start(x), (x.transpose(0, 1),))
        return outputs.transpose(0, 1), contexts.transpose(0, 1)


class GNMT(nn.Module):
    """8 + 8 LSTM layers; the encoder's bottom layer is bidirectional; residuals from the third layer up.

    The attention's context enters every layer of the decoder (Figure 1, section 3).
    """

    def __init__(self, settings: GNMTSettings) -> None:
        super().__init__()
        hidden = settings.hidden
        self.dropout = settings.dropout

        def lstm(inputs: int) -> LSTM:
            return LSTM(inputs, hidden, batch_first=True, bias=settings.bias)

        self.source = nn.Embedding(settings.vocabulary_size, hidden)
        self.target = nn.Embedding(settings.vocabulary_size, hidden)
        self.forwards, self.backwards = lstm(hidden), lstm(hidden)
        self.encoder = nn.ModuleList(
            lstm(2 * hidden if layer == 1 else hidden) for layer in range(1, settings.encoder_layers)
        )
        self.bottom = AttentiveLSTM(lstm(2 * hidden), Attention(hidden, hidden, hidden))
        self.decoder = nn.ModuleList(lstm(2 * hidden) for _ in range(1, settings.decoder_layers))
        self.output = nn.Linear(hidden, settings.vocabulary_size, bias=settings.bias)
        _uniform(self, settings.init_range)

    def forward(self, source: Tensor, source_lengths: Tensor, target: Tensor) -> Tensor:
        """Maps source (B, S), its valid words (B,) and the target so far (B, T) to logits (B, T, V)."""
        memory = self._encode(source, source_lengths)
        mask = _valid(source_lengths, source.shape[1])
        y, context = self.bottom(self._drop(self.target(target)), memory, mask)
        for number, layer in enumerate(self.decoder):
            output, _ = layer(torch.cat([self._drop(y), context], -1))
            y = output + y if number else output
        return cast(Tensor, self.output(self._drop(y)))

    def _encode(self, source: Tensor, lengths: Tensor) -> Tensor:
        x = self._drop(self.source(source))
        forwards, _ = self.forwards(x)
        backwards, _ = self.backwards(_reverse(x, lengths))
        x = torch.cat([forwards, _reverse(backwards, lengths)], -1)
        for number, layer in enumerate(self.encoder):
            output, _ = layer(self._drop(x))
            x = output + x if number else output
        return x

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class GNMTMoE(nn.Module):
    """3 + 2 LSTM layers with projection; a mixture follows the encoder's second and the decoder's first layer.

    Every layer's input is added to its output; only the decoder's first layer sees the attention. In training the
    result is `WithAuxiliary`: logits and the two mixtures' balancing losses, already weighted.
    """

    def __init__(self, settings: GNMTMoESettings) -> None:
        super().__init__()
        width = settings.width
        self.dropout = settings.dropout

        def lstm(inputs: int) -> LSTM:
            # torch can only project to fewer units; for equally many, this is a plain LSTM.
            projection = width if width < settings.hidden else 0
            return LSTM(inputs, settings.hidden, batch_first=True, bias=settings.bias, proj_size=projection)

        self.source = nn.Embedding(settings.vocabulary_size, width)
        self.target = nn.Embedding(settings.vocabulary_size, width)
        self.encoder = nn.ModuleList(lstm(width) for _ in range(settings.encoder_layers))
        self.encoder_mixture = MixtureOfExperts(settings)
        attention = Attention(width, width, settings.attention, product=True)
        self.bottom = AttentiveLSTM(lstm(2 * width), attention)
        self.decoder_mixture = MixtureOfExperts(settings)
        self.decoder = nn.ModuleList(lstm(width) for _ in range(1, settings.decoder_layers))
        self.output = nn.Linear(width, settings.vocabulary_size, bias=settings.bias)
        _uniform(self, settings.init_range)
        if settings.gate_noise:  # appendix A: zero weights, so that noise alone spreads the first load evenly
            for mixture in (self.encoder_mixture, self.decoder_mixture):
                for gate in (*mixture.primary.parameters(), *mixture.secondary.parameters()):
                    nn.init.zeros_(gate)

    def forward(self, source: Tensor, source_lengths: Tensor, target: Tensor) -> Tensor | WithAuxiliary:
        """Maps source (B, S), its valid words (B,) and the target so far (B, T) to logits (B, T, V)."""
        mask = _valid(source_lengths, source.shape[1])
        x = self._drop(self.source(source))
        losses: list[Tensor] = []
        for number, layer in enumerate(self.encoder):
            x = x + self._drop(layer(x)[0])
            if number == 1:
                x = self._mix(self.encoder_mixture, x, mask, losses)
        y = self._drop(self.target(target))
        output, _ = self.bottom(y, x, mask)
        y = self._mix(self.decoder_mixture, y + self._drop(output), None, losses)
        for layer in self.decoder:
            y = y + self._drop(layer(y)[0])
        logits: Tensor = self.output(y)
        return WithAuxiliary(logits, tuple(losses)) if self.training else logits

    def _mix(self, mixture: MixtureOfExperts, x: Tensor, mask: Tensor | None, losses: list[Tensor]) -> Tensor:
        mixed, loss = mixture(x.flatten(0, 1), None if mask is None else mask.flatten())
        if loss is not None:
            losses.append(loss)
        return x + self._drop(torch.sigmoid(mixed).view_as(x))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


def _uniform(model: nn.Module, bound: float) -> None:
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -bound, bound)


def _valid(lengths: Tensor, steps: int) -> Tensor:
    """Returns (B, steps): whether a word lies within its sentence."""
    return torch.arange(steps, device=lengths.device) < lengths[:, None]


def _reverse(x: Tensor, lengths: Tensor) -> Tensor:
    """Returns x (B, S, D) with each sentence reversed and its padding left in place."""
    step = torch.arange(x.shape[1], device=x.device)
    index = torch.where(_valid(lengths, x.shape[1]), lengths[:, None] - 1 - step, step)
    return x.gather(1, index[..., None].expand_as(x))
