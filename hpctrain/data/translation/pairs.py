"""Sentence pairs as word numbers. B pairs, S words per sentence, padded with `PADDING`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpctrain.data.translation.source import END, PADDING, START, UNKNOWN, Pair


class TranslationDataset:
    """Sentence pairs as word numbers, padded to one length."""

    shuffle = True

    def __init__(self, pairs: Sequence[Pair], numbers: Mapping[str, int], length: int) -> None:
        self._device = torch.device("cpu")
        self._source = torch.full((len(pairs), length), PADDING)
        self._target = torch.full((len(pairs), length + 1), PADDING)
        self._lengths = torch.tensor([len(source) for source, _ in pairs])
        for i, (source, target) in enumerate(pairs):
            self._source[i, : len(source)] = torch.tensor([numbers.get(w, UNKNOWN) for w in source])
            line = [START, *(numbers.get(w, UNKNOWN) for w in target), END]
            self._target[i, : len(line)] = torch.tensor(line)

    def __len__(self) -> int:
        return len(self._lengths)

    def to(self, device: torch.device) -> TranslationDataset:
        """Puts later batches on `device`; the sentences stay on the host. Returns the set."""
        self._device = device
        return self

    def batch(
        self, indices: NDArray[np.int64], generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns source words (B, S), how many are valid (B,), target words (B, S) and the words after each (B, S)."""
        del generator
        chosen = torch.from_numpy(indices)
        source, lengths, target = (
            part[chosen].to(self._device) for part in (self._source, self._lengths, self._target)
        )
        return source, lengths, target[:, :-1].contiguous(), target[:, 1:].contiguous()
