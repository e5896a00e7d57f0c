"""Whether a text is long enough for its sequences. NumPy only, no torch."""

from __future__ import annotations

from hpctrain.config.settings import DataConfig
from hpctrain.data.text import tokens
from hpctrain.errors import UserError


def check(config: DataConfig) -> int:
    """Training sequences of the text, which is tokenised for it. Raises UserError if there are none."""
    if config.sequence_length is None:
        raise UserError("data.sequence_length", "null", "give the number of tokens in a training sequence")
    lengths = tokens.counts(config)
    for split, count in lengths.items():
        if sequences(count, config.sequence_length) == 0:
            raise UserError(
                "data.sequence_length", config.sequence_length,
                f"must be ≤ {max(count - 1, 0)}: the {split} text has {count:,} tokens",
            )  # fmt: skip
    return sequences(lengths["train"], config.sequence_length)


def sequences(tokens: int, length: int) -> int:
    """How many whole sequences a text of so many tokens has; each needs the token after it."""
    return max(tokens - 1, 0) // length
