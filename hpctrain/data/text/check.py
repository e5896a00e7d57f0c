"""Checks that a text is long enough for its sequences. NumPy only, no torch."""

from __future__ import annotations

from hpctrain.config.settings import DataConfig
from hpctrain.data.text import tokens
from hpctrain.errors import UserError


def check(config: DataConfig) -> int:
    """Returns the number of training sequences, after tokenising the text if needed.

    Raises UserError if a split has none.
    """
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
    """Returns the number of whole sequences in a text of `tokens` tokens; each needs the token after it too."""
    return max(tokens - 1, 0) // length
