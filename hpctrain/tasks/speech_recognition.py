"""Speech recognition: connectionist temporal classification over characters (Graves et al. 2006).

B utterances, T' steps, K characters (0 is the blank), L characters of a text. A batch is (spectrograms, their
frames, characters (B, L), how many of those count). Sums are (loss in nats, wrong characters, characters).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hpctrain.config.settings import TaskConfig
from hpctrain.errors import UserError
from hpctrain.models.losses import ctc
from hpctrain.tasks import Batch, Carry, Task


class SpeechRecognition(Task):
    """A sample's loss is the negative log-likelihood of its text, a character."""

    width = 3
    targets = 3  # lengths too: a count takes all frames, which is what runs

    def __init__(self, config: TaskConfig, dataset: Any) -> None:
        del config, dataset

    def loss(self, model: nn.Module, batch: Batch, carry: Carry) -> tuple[Tensor, Tensor, Carry]:
        """Returns (summed loss per character, a scalar; sums (3,); the carry)."""
        spectrogram, frames, labels, counts = batch
        log_probabilities, steps = model(spectrogram, frames)
        needed = counts + ((labels[:, 1:] == labels[:, :-1]) & (labels[:, 1:] > 0)).sum(1)
        if bool((needed > steps.to(needed)).any()):
            place = int((needed - steps.to(needed)).argmax())
            raise UserError(
                "data.path", f"a transcript of {int(counts[place])} characters",
                f"does not fit into the {int(steps[place])} steps that the network makes of its {int(frames[place])} "
                "frames: CTC would learn nothing from it",
            )  # fmt: skip
        losses = ctc(log_probabilities, labels, steps, counts)
        wrong = 0
        best = log_probabilities.detach().argmax(-1).T.tolist()
        for path, length, text, count in zip(
            best, steps.tolist(), labels.tolist(), counts.tolist(), strict=True
        ):
            wrong += distance(collapse(path[:length]), text[:count])
        sums = torch.stack([losses.detach().sum(), losses.new_tensor(wrong), counts.sum().to(losses.dtype)])
        return (losses / counts.clamp(min=1)).sum(), sums, carry


def collapse(path: Sequence[int]) -> list[int]:
    """What a path of the most likely symbols says: repetitions joined, then blanks left out."""
    return [s for i, s in enumerate(path) if s and (i == 0 or s != path[i - 1])]


def distance(a: Sequence[int], b: Sequence[int]) -> int:
    """Insertions, deletions and substitutions that make `b` of `a` (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]
