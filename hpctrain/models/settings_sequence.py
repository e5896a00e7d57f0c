"""Settings of the networks that take sequences: one frozen dataclass per family, with the papers' values as defaults.

Takes plain values, returns checked dataclasses. Widths are in units, lengths in words or frames. `example_length`
is the length that a count or a roofline assumes; training ignores it. Imports no torch; no side effects.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from hpctrain.models.network import Mixture, Network, Unit

Positive = Annotated[int, Ge(1), Le(10**7)]
Depth = Annotated[int, Ge(1), Le(1000)]  # layers of one kind
Dropout = Annotated[float, Ge(0), Lt(1)]
HOW = {"science": "how"}  # as in config/settings.py: no result depends on it

# Regular expressions that match layers by name.
ATTENTION_SCORES = r"(^|\.)attention(\.score)?$"
ATTENTION_AND_GATES = r"(^|\.)(attention|primary|secondary)(\.|$)"


@dataclass(frozen=True)
class RecurrentSettings:
    """A recurrent language model; the sizes are the medium LSTM's of Zaremba et al. 2014.

    `input=one_hot` feeds a word's one-hot vector straight into the first recurrent layer; `embedding`
    puts a matrix of width `embedding` before it. `init_range` None means torch's 1/sqrt(hidden).
    """

    cell: Literal["rnn", "gru", "lstm"] = "lstm"
    bidirectional: bool = False
    nonlinearity: Literal["tanh", "relu"] = "tanh"
    vocabulary_size: Annotated[int, Ge(2), Le(10**7)] = 10_000
    input: Literal["one_hot", "embedding"] = "embedding"
    embedding: Positive = 650
    hidden: Positive = 650
    layers: Depth = 2
    tied: bool = False
    dropout_input: Dropout = 0.0
    dropout_between: Dropout = 0.0
    dropout_output: Dropout = 0.0
    weight_drop: Dropout = 0.0
    init_range: Annotated[float, Gt(0), Le(10**6)] | None = 0.05
    example_length: Positive = field(default=35, metadata=HOW)

    def __post_init__(self) -> None:
        if self.nonlinearity == "relu" and self.cell != "rnn":
            raise ValueError(f"model.nonlinearity=relu: needs model=rnn or birnn, not {self.cell}")
        if self.dropout_input and self.input == "one_hot":
            raise ValueError(
                f"model.dropout_input={self.dropout_input}: needs model.input=embedding; a one-hot word has "
                "no units to drop"
            )
        if self.tied and self.input == "one_hot":
            raise ValueError(
                "model.tied=true: needs model.input=embedding; one-hot words have no matrix to tie"
            )
        if self.tied and self.embedding != self.hidden * (1 + self.bidirectional):
            raise ValueError(
                f"model.tied=true: needs model.embedding={self.hidden * (1 + self.bidirectional)}, "
                f"the width of the last layer, not {self.embedding}"
            )


@dataclass(frozen=True, eq=False, repr=False)
class RNNSettings(RecurrentSettings):
    """A plain recurrent network."""

    cell: Literal["rnn"] = "rnn"
    bidirectional: Literal[False] = False


@dataclass(frozen=True, eq=False, repr=False)
class BiRNNSettings(RecurrentSettings):
    """A bidirectional network: it can label words, but not predict the next one."""

    cell: Literal["rnn", "gru", "lstm"] = "rnn"
    bidirectional: Literal[True] = True


@dataclass(frozen=True, eq=False, repr=False)
class GRUSettings(RecurrentSettings):
    """Gated recurrent units (Cho et al. 2014)."""

    cell: Literal["gru"] = "gru"
    bidirectional: Literal[False] = False


@dataclass(frozen=True, eq=False, repr=False)
class LSTMSettings(RecurrentSettings):
    """Long short-term memory (Hochreiter & Schmidhuber 1997)."""

    cell: Literal["lstm"] = "lstm"
    bidirectional: Literal[False] = False


@dataclass(frozen=True)
class DeepSpeech2Settings:
    """Deep Speech 2 (Amodei et al. 2016); the default is Table 3's network of about 68 M parameters.

    Kernels and strides are (frequency, time); a kernel as high as its input spans all frequencies (the
    paper's 1-D convolution). `bias` and `norm_affine` add biases of the recurrent and full layers and
    the normalisation's gain and shift, which the published parameter counts leave out. `lookahead` is
    the number of future steps that the streaming variant sees. `frequency_bins` are those of a 20 ms window.
    """

    cell: Literal["rnn", "gru"] = "rnn"
    bidirectional: bool = True
    frequency_bins: Positive = 161
    conv_channels: tuple[Positive, ...] = (32, 32, 96)
    conv_kernels: tuple[tuple[Positive, Positive], ...] = ((41, 11), (21, 11), (21, 11))
    conv_strides: tuple[tuple[Positive, Positive], ...] = ((2, 2), (2, 1), (2, 1))
    hidden: Positive = 1760
    layers: Depth = 7
    full_layers: Annotated[int, Ge(0), Le(1000)] = 0
    lookahead: Annotated[int, Ge(0), Le(10**6)] = 0
    vocabulary_size: Annotated[int, Ge(2), Le(10**7)] = 29
    batch_norm: bool = True
    norm_affine: bool = False
    bias: bool = False
    example_length: Positive = field(default=100, metadata=HOW)

    def frequencies(self) -> tuple[int, ...]:
        """Returns the frequency bins before each convolution and after the last."""
        sizes = [self.frequency_bins]
        for kernel, stride in self._windows():
            padding = 0 if kernel == sizes[-1] else kernel // 2
            sizes.append((sizes[-1] + 2 * padding - kernel) // stride + 1)
        return tuple(sizes)

    def example_steps(self) -> int:
        """Returns the number of steps that the recurrent layers see for `example_length` frames."""
        length = self.example_length
        for (_, kernel), (_, stride) in zip(self.conv_kernels, self.conv_strides, strict=True):
            length = (length + 2 * (kernel // 2) - kernel) // stride + 1
        return length

    def _windows(self) -> list[tuple[int, int]]:
        """Returns the height and vertical stride of each convolution."""
        return [(k[0], s[0]) for k, s in zip(self.conv_kernels, self.conv_strides, strict=True)]

    def __post_init__(self) -> None:
        if not 0 < len(self.conv_channels) == len(self.conv_kernels) == len(self.conv_strides):
            raise ValueError(
                f"model.conv_channels={list(self.conv_channels)}: "
                "conv_channels, conv_kernels and conv_strides must be of one length, at least 1"
            )
        if self.lookahead and self.bidirectional:
            raise ValueError(
                "model.lookahead: needs model.bidirectional=false (a bidirectional layer sees all)"
            )
        for (kernel, stride), bins in zip(self._windows(), self.frequencies(), strict=False):
            if bins < max(kernel, stride):
                raise ValueError(
                    f"model.frequency_bins={self.frequency_bins}: leaves {bins} bins to a convolution "
                    f"of kernel {kernel} and stride {stride}"
                )


@dataclass(frozen=True)
class GNMTSettings:
    """Google's neural machine translation (Wu et al. 2016, sections 3 and 4).

    `bias` adds the LSTMs' and output layer's biases, which the published parameter counts leave out.
    """

    vocabulary_size: Annotated[int, Ge(2), Le(10**7)] = 32_000
    hidden: Positive = 1024
    encoder_layers: Annotated[int, Ge(2), Le(1000)] = 8
    decoder_layers: Annotated[int, Ge(2), Le(1000)] = 8
    dropout: Dropout = 0.2
    bias: bool = False
    init_range: Annotated[float, Gt(0), Le(10**6)] = 0.04
    example_length: Positive = field(default=25, metadata=HOW)


@dataclass(frozen=True)
class GNMTMoESettings:
    """The sparsely gated mixture-of-experts form (Shazeer et al. 2017, appendix E, single pair).

    `groups` times `experts_per_group` experts per layer; two-level gating keeps `active` of the groups
    and `active` experts in each. An expert takes at most `capacity_factor` times its even share of the
    words; words above that are left out. 1.0 is the strictly balanced batch of appendix F. A batch of 16
    examples of 32 words assigns exactly one word to each of 2,048 experts.
    """

    vocabulary_size: Annotated[int, Ge(2), Le(10**7)] = 32_000
    width: Positive = 512
    hidden: Positive = 2048
    encoder_layers: Annotated[int, Ge(3), Le(1000)] = 3
    decoder_layers: Annotated[int, Ge(2), Le(1000)] = 2
    attention: Positive = 512
    groups: Positive = 16
    experts_per_group: Positive = 128
    expert_hidden: Positive = 2048
    active: Positive = 2
    capacity_factor: Annotated[float, Gt(0), Le(10**6)] = 1.0
    gate_noise: bool = False
    importance_weight: Annotated[float, Ge(0), Le(10**6)] = 0.01
    load_weight: Annotated[float, Ge(0), Le(10**6)] = 0.01
    dropout: Dropout = 0.4
    bias: bool = False
    init_range: Annotated[float, Gt(0), Le(10**6)] = 0.04
    example_length: Positive = field(default=32, metadata=HOW)

    def mixture(self) -> Mixture:
        """Returns the description of the two mixtures, one in the encoder and one in the decoder."""
        return Mixture(
            layers=2,
            experts=self.groups * self.experts_per_group,
            active=self.active**2,
            expert_params=2 * self.width * self.expert_hidden,
            width=self.width,
            capacity=self.capacity_factor,
            gates=r"\.(primary|secondary)",
        )

    def __post_init__(self) -> None:
        if self.width > self.hidden:
            raise ValueError(
                f"model.width={self.width}: must be ≤ model.hidden={self.hidden}, which is projected to it"
            )
        if self.active > min(self.groups, self.experts_per_group):
            raise ValueError(
                f"model.active={self.active}: must be ≤ model.groups={self.groups} "
                f"and ≤ model.experts_per_group={self.experts_per_group}"
            )


def _example_length(settings: Any) -> int:
    length: int = settings.example_length
    return length


_WORD = Unit("word", _example_length)
_PAIR = Unit(
    "pair of a source and a target word",
    _example_length,
    ATTENTION_SCORES,
    left_out="attention's scores and sums, which grow with the length",
)
# 16 sentences of 32 words, with 4 experts each, fill 2,048 experts with one word each.
_ROUTED_PAIR = Unit(
    "pair of a source and a target word",
    _example_length,
    ATTENTION_AND_GATES,
    r"(^|\.)(attention|primary)(\.|$)",
    "attention and the experts' gates; of the parameters, attention and the choice of groups",
    batch=16,
)
_STEP = Unit(
    "step of the recurrent layers (20 ms)",
    DeepSpeech2Settings.example_steps,
    r"^lookahead",
    r"^lookahead",
    "the look-ahead convolution",
)
_LANGUAGE_MODEL = "hpctrain.models.recurrent:LanguageModel"

NETWORKS: dict[str, Network] = {
    "rnn": Network(RNNSettings, _LANGUAGE_MODEL, "tokens", unit=_WORD),
    "birnn": Network(BiRNNSettings, _LANGUAGE_MODEL, "tokens", unit=_WORD, looks_ahead=True),
    "gru": Network(GRUSettings, _LANGUAGE_MODEL, "tokens", unit=_WORD),
    "lstm": Network(LSTMSettings, _LANGUAGE_MODEL, "tokens", unit=_WORD),
    "deep_speech2": Network(
        DeepSpeech2Settings,
        "hpctrain.models.deep_speech:DeepSpeech2",
        "spectrogram",
        "hpctrain.models.losses:example_ctc",
        _STEP,
    ),
    "gnmt": Network(GNMTSettings, "hpctrain.models.gnmt:GNMT", "pair", unit=_PAIR),
    "gnmt_moe": Network(
        GNMTMoESettings,
        "hpctrain.models.gnmt:GNMTMoE",
        "pair",
        unit=_ROUTED_PAIR,
        mixture=GNMTMoESettings.mixture,
    ),
}
