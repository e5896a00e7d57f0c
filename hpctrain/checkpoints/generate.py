"""Text from a trained language model: the request is checked first, then the text comes piece by piece.

Takes a run with a checkpoint, and a prompt. Errors of the request are raised before torch is imported. Equal seeds
make equal text. No side effects.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hpctrain.checkpoints import store
from hpctrain.checkpoints.weights import newest
from hpctrain.config.load import from_dict
from hpctrain.config.settings import Config
from hpctrain.config.tasks import TASK_KINDS, networks_of
from hpctrain.data.text import vocabulary as vocabularies
from hpctrain.data.text.vocabulary import Vocabulary
from hpctrain.errors import Damaged, UserError
from hpctrain.storage.json_files import read_json
from hpctrain.storage.run_dir import RunDir


@dataclass(frozen=True)
class Writer:
    """A trained run, ready to continue `prompt`, a list of token numbers."""

    run: RunDir
    config: Config
    vocabulary: Vocabulary
    prompt: list[int]

    def pieces(self, tokens: int, temperature: float, top_k: int | None, seed: int) -> Iterator[str]:
        """Yields the text of `tokens` more tokens, piece by piece. Raises RunFailed if no checkpoint is whole."""
        import torch

        from hpctrain import models
        from hpctrain.models.sampling import continue_tokens

        torch.set_num_threads(1)  # one token at a time is too little work for more threads
        network = self.config.model
        model = models.build(network.name, network.settings, target=network.target)
        model.load_state_dict(newest(self.run))
        decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a piece may be half a character
        for token in continue_tokens(
            model, self.prompt, tokens, temperature=temperature, top_k=top_k, seed=seed
        ):
            yield decoder.decode(self.vocabulary.piece(token))
        yield decoder.decode(b"", final=True)


def writer(run: RunDir, prompt: str) -> Writer:
    """Returns a `Writer` for the prompt.

    Raises UserError if the run does not train a language model or has no checkpoint, or if the prompt is empty or has
    a word or character that is not in the vocabulary.
    """
    config = from_dict(run.network_config())
    _check_task(run, config)
    vocabulary = _vocabulary(run)
    tokens = _encode(vocabulary, prompt)
    if not store.entries(run.checkpoints):
        raise UserError("run", run.run_id, "has no checkpoint yet")
    return Writer(run, config, vocabulary, tokens)


def _check_task(run: RunDir, config: Config) -> None:
    writing = [name for name, kind in TASK_KINDS.items() if kind.next_token]
    if config.model.network.looks_ahead:
        raise UserError(
            "run", run.run_id,
            "is bidirectional: it sees what comes after a token, so it cannot write the next; "
            f"train model={' or '.join(networks_of(writing[0]))} with task={writing[0]}",
        )  # fmt: skip
    if config.task.name not in writing:
        needed = " or ".join(writing)
        raise UserError("run", run.run_id, f"has task={config.task.name}; generate needs task={needed}")


def _vocabulary(run: RunDir) -> Vocabulary:
    if not run.vocabulary_file.exists():
        raise UserError("run", run.run_id, "has no vocabulary.json yet: it has not started")
    values: Any = read_json(run.vocabulary_file)
    try:
        return vocabularies.from_json(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(run.vocabulary_file, f"not a vocabulary: {error}") from None


def _encode(vocabulary: Vocabulary, prompt: str) -> list[int]:
    """Returns the prompt's tokens. Raises UserError if a word or character is not in the vocabulary."""
    unknown = vocabulary.unknown(prompt)
    if unknown:
        what = {"word": "words", "character": "characters"}[vocabulary.kind]
        shown = ", ".join(map(repr, unknown[:5])) + (" ..." if len(unknown) > 5 else "")
        raise UserError("--prompt", prompt, f"{what} that the model has not seen: {shown}")
    tokens = [int(token) for numbers in vocabulary.encode([prompt]) for token in numbers]
    if not tokens:
        raise UserError("--prompt", repr(prompt), "must hold at least one token")
    return tokens
