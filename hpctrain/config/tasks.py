"""The tasks, a record each: what is trained for, which scores say how well, which networks and data fit.

A new task is a row here, a file below hpctrain/tasks/ and conf/task/NAME.yaml. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from hpctrain.config.data_kinds import Family
from hpctrain.models.network import Inputs, Network
from hpctrain.models.settings import NETWORKS


@dataclass(frozen=True)
class Score:
    """A figure of validation records, and which way is better."""

    name: str
    higher_is_better: bool = False


@dataclass(frozen=True)
class TaskKind:
    """One task.

    `task`: its class (hpctrain/tasks), "package.module:name". `scores`: the one that the task is judged by first.
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


_PREDICTION = (Score("perplexity"), Score("loss"), Score("bits_per_character"))

TASK_KINDS: dict[str, TaskKind] = {
    "classification": TaskKind(
        "hpctrain.tasks.classification:Classification", (Score("accuracy", True), Score("loss"))
    ),
    "language_model": TaskKind(
        "hpctrain.tasks.language_model:LanguageModelling", _PREDICTION, "tokens", Family.TEXT, "python_stdlib",
        next_token=True,
    ),
    "masked_language_model": TaskKind(
        "hpctrain.tasks.language_model:MaskedLanguageModelling", _PREDICTION, "tokens", Family.TEXT, "python_stdlib",
    ),
    "speech_recognition": TaskKind(
        "hpctrain.tasks.speech_recognition:SpeechRecognition", (Score("character_error_rate"), Score("loss")),
        "spectrogram", Family.SPEECH, "espeak",
    ),
    "translation": TaskKind(
        "hpctrain.tasks.translation:Translation", (Score("perplexity"), Score("loss"), Score("accuracy", True)),
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
