"""Text as training sequences: T tokens as input, and the token after each as its target.

B sequences of T tokens. Sample i is tokens [i T, (i+1) T]: neighbouring samples continue each other, so the
sampler reads them as streams. Tokens at the end that do not fill a sequence are not used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpctrain.data.text.check import sequences
from hpctrain.data.text.vocabulary import Vocabulary


class TextDataset:
    """One split of a text, cut into sequences that follow each other."""

    shuffle = False

    def __init__(self, tokens: NDArray[Any], length: int, vocabulary: Vocabulary) -> None:
        """`tokens` may be memory-mapped; `length` is T."""
        self._tokens, self._length, self.vocabulary = tokens, length, vocabulary
        self._device = torch.device("cpu")

    def __len__(self) -> int:
        return sequences(len(self._tokens), self._length)

    def to(self, device: torch.device) -> TextDataset:
        """Puts later batches on `device`; the text stays on disk. Returns the set."""
        self._device = device
        return self

    def batch(
        self, indices: NDArray[np.int64], generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns tokens (B, T) and their successors (B, T), int64."""
        del generator
        places = indices[:, None] * self._length + np.arange(self._length + 1)
        rows = torch.from_numpy(self._tokens[places].astype(np.int64)).to(self._device)
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
