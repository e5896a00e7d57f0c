"""Recurrent language models: RNN, bidirectional RNN, GRU, LSTM over one-hot or embedded words.

All take tokens (B, T) and return a logit per word of the vocabulary at each position (B, T, N), and the state to
carry over. B sentences, T words, N words in the vocabulary, H hidden units, L layers, D directions.
Sizes and initialisation (all weights uniform in ±init_range) follow Zaremba et al. 2014; the recurrent
weights of a ReLU network start as the identity (Le et al. 2015). Dropout and initialisation draw from
torch's global generator.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from hpctrain.models.cells import GATES, LSTM, RNN, unroll
from hpctrain.models.settings_sequence import RecurrentSettings

Carry = tuple[Tensor, ...] | None

FUSED: dict[str, Callable[..., nn.RNNBase]] = {"rnn": RNN, "gru": nn.GRU, "lstm": LSTM}
ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu}


class OneHotLayer(nn.Module):
    """A recurrent layer over one-hot words: word w selects column w of its input matrix.

    So W x is a gather, and the (B, T, N) tensor of ones and zeros is never made. There is no input bias, because it
    would add the same vector to every column.
    """

    def __init__(self, settings: RecurrentSettings) -> None:
        super().__init__()
        self.cell, self.weight_drop = settings.cell, settings.weight_drop
        self.activation = ACTIVATIONS[settings.nonlinearity]
        width = GATES[settings.cell] * settings.hidden
        self.columns = nn.Embedding(settings.vocabulary_size, width)
        self.recurrent = nn.Linear(settings.hidden, width)

    def forward(
        self, tokens: Tensor, carry: tuple[Tensor, ...], reverse: bool = False
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Maps tokens (B, T) and state parts (B, H) to outputs (B, T, H) and the last state."""
        weight = self.recurrent.weight
        if self.training and self.weight_drop:
            weight = F.dropout(weight, self.weight_drop)  # one mask for all time steps

        def recurrent(h: Tensor) -> Tensor:
            out: Tensor = functional_call(self.recurrent, {"weight": weight}, h)
            return out

        output, carry = unroll(
            self.cell, self.columns(tokens.T), recurrent, carry, activation=self.activation, reverse=reverse
        )
        return output.transpose(0, 1), carry


class LanguageModel(nn.Module):
    """An embedding, recurrent layers, and a linear layer over the vocabulary.

    The state to carry over is a flat tuple, (h,) or (h, c), each (L·D, B, H): the batch is dimension 1.
    """

    def __init__(self, settings: RecurrentSettings) -> None:
        super().__init__()
        self.settings = settings
        directions = 1 + settings.bidirectional
        width, fused_layers = settings.embedding, settings.layers
        if settings.input == "one_hot":
            self.one_hot = nn.ModuleList(OneHotLayer(settings) for _ in range(directions))
            width, fused_layers = directions * settings.hidden, settings.layers - 1
        else:
            self.embedding = nn.Embedding(settings.vocabulary_size, settings.embedding)
        self.rnn = _fused(settings, width, fused_layers) if fused_layers else None
        self.decoder = nn.Linear(directions * settings.hidden, settings.vocabulary_size)
        if settings.tied:
            self.decoder.weight = self.embedding.weight
        self._initialise()

    def _initialise(self) -> None:
        settings = self.settings
        bound = settings.hidden**-0.5 if settings.init_range is None else settings.init_range
        for name, parameter in self.named_parameters():
            nn.init.uniform_(parameter, -bound, bound)
            if settings.nonlinearity == "relu" and ("weight_hh" in name or "recurrent.weight" in name):
                nn.init.eye_(parameter)
            elif settings.nonlinearity == "relu" and "bias" in name:
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, carry: Carry = None) -> tuple[Tensor, Carry]:
        """Maps tokens (B, T) int64 to logits (B, T, N) and the state after the last token (None if bidirectional)."""
        settings = self.settings
        if carry is None:
            carry = self._zero_state(tokens.shape[0])
        if settings.input == "one_hot":
            x, carry = self._one_hot_layers(tokens, carry)
        else:
            x = F.dropout(self.embedding(tokens), settings.dropout_input, self.training)
            x, carry = self._fused_layers(x, carry)
        logits: Tensor = self.decoder(F.dropout(x, settings.dropout_output, self.training))
        return logits, None if settings.bidirectional else carry

    def _zero_state(self, batch: int) -> tuple[Tensor, ...]:
        settings, like = self.settings, self.decoder.weight
        shape = settings.layers * (1 + settings.bidirectional), batch, settings.hidden
        return tuple(like.new_zeros(shape) for _ in range(2 if settings.cell == "lstm" else 1))

    def _one_hot_layers(self, tokens: Tensor, carry: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        directions = len(self.one_hot)
        results = [
            layer(tokens, tuple(part[d] for part in carry), reverse=bool(d))
            for d, layer in enumerate(self.one_hot)
        ]
        x = torch.cat([output for output, _ in results], dim=-1)
        states = [torch.stack(parts) for parts in zip(*(state for _, state in results), strict=True)]
        if self.rnn is None:
            return x, tuple(states)
        x = F.dropout(x, self.settings.dropout_between, self.training)
        x, rest = self._fused_layers(x, tuple(part[directions:] for part in carry))
        return x, tuple(torch.cat(pair) for pair in zip(states, rest, strict=True))

    def _fused_layers(self, x: Tensor, carry: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        assert self.rnn is not None
        dropped = {
            name: F.dropout(weight, self.settings.weight_drop)
            for name, weight in self.rnn.named_parameters()
            if self.training and self.settings.weight_drop and "weight_hh" in name
        }
        state = carry if self.settings.cell == "lstm" else carry[0]
        x, state = functional_call(self.rnn, dropped, (x, state)) if dropped else self.rnn(x, state)
        return x, state if isinstance(state, tuple) else (state,)


def _fused(settings: RecurrentSettings, width: int, layers: int) -> nn.RNNBase:
    """Returns torch's own layers, which run as one kernel on a GPU; the batch is dimension 0."""
    extra = {"nonlinearity": settings.nonlinearity} if settings.cell == "rnn" else {}
    return FUSED[settings.cell](
        width,
        settings.hidden,
        layers,
        batch_first=True,
        dropout=settings.dropout_between if layers > 1 else 0.0,
        bidirectional=settings.bidirectional,
        **extra,
    )
