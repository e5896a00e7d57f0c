"""Settings of the networks that see sequences: one frozen dataclass a family, the papers' values as defaults.

Takes plain values, gives checked dataclasses. Widths are in units, lengths in words or frames; the
`example_...` lengths only say what a count or a lower bound is for. Imports no torch; no side effects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

Positive = Annotated[int, Ge(1)]
Dropout = Annotated[float, Ge(0), Lt(1)]


@dataclass(frozen=True)
class RecurrentSettings:
    """A recurrent language model; the sizes are the medium LSTM's of Zaremba et al. 2014.

    `input=one_hot` feeds a word's one-hot vector straight into the first recurrent layer; `embedding`
    puts a matrix of width `embedding` before it. `init_range` None: torch's 1/sqrt(hidden).
    """

    cell: Literal["rnn", "gru", "lstm"] = "lstm"
    bidirectional: bool = False
    nonlinearity: Literal["tanh", "relu"] = "tanh"
    vocabulary_size: Annotated[int, Ge(2)] = 10_000
    input: Literal["one_hot", "embedding"] = "embedding"
    embedding: Positive = 650
    hidden: Positive = 650
    layers: Positive = 2
    tied: bool = False
    dropout_input: Dropout = 0.0
    dropout_between: Dropout = 0.0
    dropout_output: Dropout = 0.0
    weight_drop: Dropout = 0.0
    init_range: Annotated[float, Gt(0)] | None = 0.05
    example_length: Positive = 35

    def __post_init__(self) -> None:
        if self.nonlinearity == "relu" and self.cell != "rnn":
            raise ValueError(f"model.nonlinearity=relu: needs model=rnn or birnn, not {self.cell}")
        if self.tied and self.input == "one_hot":
            raise ValueError(
                "model.tied=true: needs model.input=embedding; one-hot words have no matrix to tie"
            )
        if self.tied and self.embedding != self.hidden * (1 + self.bidirectional):
            raise ValueError(
                f"model.tied=true: needs model.embedding={self.hidden * (1 + self.bidirectional)}, "
                f"the width of the last layer, not {self.embedding}"
            )


@dataclass(frozen=True)
class RNNSettings(RecurrentSettings):
    cell: Literal["rnn"] = "rnn"


@dataclass(frozen=True)
class BiRNNSettings(RecurrentSettings):
    cell: Literal["rnn", "gru", "lstm"] = "rnn"
    bidirectional: Literal[True] = True


@dataclass(frozen=True)
class GRUSettings(RecurrentSettings):
    cell: Literal["gru"] = "gru"
    bidirectional: Literal[False] = False


@dataclass(frozen=True)
class LSTMSettings(RecurrentSettings):
    cell: Literal["lstm"] = "lstm"
    bidirectional: Literal[False] = False
