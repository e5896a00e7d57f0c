"""The tasks, a record each: what is trained for, which scores say how well, which networks and data fit.

A new task is a row here, a file below hpctrain/tasks/ and conf/task/NAME.yaml. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hpctrain.config.data_kinds import Family
from hpctrain.models.network import Inputs, Network
from hpctrain.models.settings import NETWORKS

MAX_EXPONENT = 700.0  # e^709 is the largest float


@dataclass(frozen=True)
class Score:
    """A figure of validation records, and which way is better.

    `of` takes the task's sums over samples and returns the figure, None if it is not known; without it, the figure is
    the task's evaluator's.
    """

    name: str
    of: Callable[..., float | None] | None = None
    higher_is_better: bool = False


@dataclass(frozen=True)
class TaskKind:
    """One task.

    `task`: its class (hpctrain/tasks), "package.module:name". `scores`: the one that the task is judged by first; a
    new one of the same sums is a line here.
    `inputs`: what its networks take (models/network.py), None for anything; the user answers for the network of a
    `target`. `next_token`: what a network predicts comes after all that it sees. `family`: the data that it needs, None
    for any, with `example`, a data set of it.
    """

    task: str
    scores: tuple[Score, ...]
    inputs: Inputs | None = None
    family: Family | None = None
    example: str = ""
    next_token: bool = False

    def fits(self, network: Network) -> bool:
        """Returns whether the network can learn the task."""
        return self.inputs in (None, network.inputs) and not (self.next_token and network.looks_ahead)

    def summarise(self, sums: Sequence[float]) -> dict[str, float]:
        """Returns the scores of the task's sums over samples: the loss first, unknown ones left out."""
        first_loss = sorted(self.scores, key=lambda score: score.name != "loss")
        figures = ((score.name, score.of(*sums)) for score in first_loss if score.of)
        return {name: figure for name, figure in figures if figure is not None}


def mean(total: float, count: float) -> float:
    """Returns `total / count`, 0 of nothing."""
    return total / max(count, 1)


def perplexity(nats: float, words: float) -> float:
    """Returns e^(mean loss per word), at most e^700."""
    return math.exp(min(mean(nats, words), MAX_EXPONENT))


def bits_per(nats: float, characters: float) -> float | None:
    """Returns the loss in bits per character; None if the characters are not known."""
    return nats / math.log(2) / characters if characters else None


_PREDICTION = (
    Score("perplexity", lambda nats, tokens, _characters: perplexity(nats, tokens)),
    Score("loss", lambda nats, tokens, _characters: mean(nats, tokens)),
    Score("bits_per_character", lambda nats, _tokens, characters: bits_per(nats, characters)),
)

TASK_KINDS: dict[str, TaskKind] = {
    "classification": TaskKind(
        "hpctrain.tasks.classification:Classification",
        (
            Score("accuracy", lambda _nats, right, samples: mean(right, samples), higher_is_better=True),
            Score("loss", lambda nats, _right, samples: mean(nats, samples)),
        ),
        "image",
    ),
    "language_model": TaskKind(
        "hpctrain.tasks.language_model:LanguageModelling", _PREDICTION, "tokens", Family.TEXT, "python_stdlib",
        next_token=True,
    ),
    "masked_language_model": TaskKind(
        "hpctrain.tasks.language_model:MaskedLanguageModelling", _PREDICTION, "tokens", Family.TEXT, "python_stdlib",
    ),
    "speech_recognition": TaskKind(
        "hpctrain.tasks.speech_recognition:SpeechRecognition",
        (
            Score("character_error_rate", lambda _nats, wrong, characters: mean(wrong, characters)),
            Score("loss", lambda nats, _wrong, characters: mean(nats, characters)),
        ),
        "spectrogram", Family.SPEECH, "espeak",
    ),
    "translation": TaskKind(
        "hpctrain.tasks.translation:Translation",
        (
            Score("perplexity", lambda nats, _right, words: perplexity(nats, words)),
            Score("loss", lambda nats, _right, words: mean(nats, words)),
            Score("accuracy", lambda _nats, right, words: mean(right, words), higher_is_better=True),
        ),
        "pair", Family.PAIR, "gettext",
    ),
}  # fmt: skip


def networks_of(task: str) -> list[str]:
    """Returns the names of the networks that can learn the task."""
    return [name for name, network in NETWORKS.items() if TASK_KINDS[task].fits(network)]


def scores_of(task: str) -> dict[str, Score]:
    """Returns the task's scores by name, the one that it is judged by first; of a task unknown here, the loss."""
    kind = TASK_KINDS.get(task)
    return {score.name: score for score in (kind.scores if kind else (Score("loss"),))}
