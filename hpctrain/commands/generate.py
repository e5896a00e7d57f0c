"""`hpctrain generate`: text from a trained language model, written as it comes.

Takes a run with a checkpoint, and a prompt; writes to stdout. All that can be wrong is found before torch is
imported. Equal seeds give equal text.
"""

from __future__ import annotations

import argparse
import codecs
import sys
from typing import Any

from hpctrain.checkpoints import store
from hpctrain.config.settings import Config, from_dict
from hpctrain.data.text import vocabulary as vocabularies
from hpctrain.data.text.vocabulary import Vocabulary
from hpctrain.errors import RunFailed, UserError
from hpctrain.storage.run_dir import RunDir, find, read_json


def generate(argv: list[str]) -> int:
    """`hpctrain generate [RUN] --prompt TEXT --tokens N --temperature T --top-k K --seed S`."""
    args = _arguments(argv)
    run = find(args.root, args.run, args.study)
    config = from_dict(run.read_config())
    _check_task(run, config)
    vocabulary = _vocabulary(run)
    prompt = _encode(vocabulary, args.prompt)
    if not store.entries(run.checkpoints):
        raise UserError("run", run.run_id, "has no checkpoint yet")
    out = sys.stdout
    out.write(args.prompt)
    if vocabulary.kind == "word" and not args.prompt.endswith(("\n", " ")):
        out.write(" ")
    out.flush()
    model = _load(run, config)  # from here on torch
    from hpctrain.models.sampling import continue_tokens

    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a piece may be half a character
    for token in continue_tokens(
        model, prompt, args.tokens, temperature=args.temperature, top_k=args.top_k, seed=args.seed
    ):
        out.write(decoder.decode(vocabulary.piece(token)))
        out.flush()
    out.write(decoder.decode(b"", final=True) + "\n")
    return 0


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="hpctrain generate", description="text from a trained language model: the newest run's, or RUN's"
    )
    parser.add_argument("run", nargs="?", metavar="RUN", help="run id, the start of one, or a path")
    parser.add_argument("--prompt", default="\n", help="what the text begins with (default: a new line)")
    parser.add_argument("--tokens", type=int, default=200, help="how many to add (default: 200)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest (default: 0.8)")
    parser.add_argument("--top-k", type=int, help="choose among the K likeliest tokens only")
    parser.add_argument("--seed", type=int, default=1, help="equal seeds give equal text (default: 1)")
    parser.add_argument("--root", default="runs", help="where the runs are (default: runs)")
    parser.add_argument("--study", help="only runs of this study")
    args = parser.parse_args(argv)
    for name, least in (("tokens", 1), ("temperature", 0), ("top_k", 1), ("seed", 0)):
        value = getattr(args, name)
        if value is not None and not least <= value < 2**31:  # false for nan too
            raise UserError(f"--{name.replace('_', '-')}", value, f"must be ≥ {least} and < 2^31")
    return args


def _check_task(run: RunDir, config: Config) -> None:
    if getattr(config.model.settings, "bidirectional", False):
        raise UserError(
            "run", run.run_id,
            "is bidirectional: it sees what comes after a token, so it cannot write the next; "
            "train model=rnn, gru or lstm with task=language_model",
        )  # fmt: skip
    if config.task.name != "language_model":
        raise UserError("run", run.run_id, f"has task={config.task.name}; generate needs task=language_model")


def _vocabulary(run: RunDir) -> Vocabulary:
    values: Any = read_json(run.vocabulary_file)
    if values is None:
        raise UserError("run", run.run_id, "has no vocabulary.json yet: it has not started")
    return vocabularies.from_json(values)


def _encode(vocabulary: Vocabulary, prompt: str) -> list[int]:
    """The prompt's tokens. Raises UserError where a word or character is not in the vocabulary."""
    unknown = vocabulary.unknown(prompt)
    if unknown:
        what = {"word": "words", "character": "characters"}[vocabulary.kind]
        shown = ", ".join(map(repr, unknown[:5])) + (" ..." if len(unknown) > 5 else "")
        raise UserError("--prompt", prompt, f"{what} that the model has not seen: {shown}")
    tokens = [int(token) for numbers in vocabulary.encode([prompt]) for token in numbers]
    if not tokens:
        raise UserError("--prompt", repr(prompt), "must hold at least one token")
    return tokens


def _load(run: RunDir, config: Config) -> Any:
    """The network with the weights (averaged ones, if any) of the newest good checkpoint. Raises RunFailed."""
    import torch

    from hpctrain import models
    from hpctrain.checkpoints.saver import read_patiently

    torch.set_num_threads(1)  # one token at a time is too little for more
    model = models.build(config.model.name, config.model.settings, target=config.model.target)
    wrong = []
    for entry in reversed(store.entries(run.checkpoints)):
        try:
            tensors = read_patiently(run.checkpoints, entry).tensors
        except store.CorruptCheckpoint as error:
            wrong.append(str(error))
            continue
        weights = {k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")}
        weights |= {k.removeprefix("ema/"): v for k, v in tensors.items() if k.startswith("ema/")}
        model.load_state_dict(weights)
        return model
    raise RunFailed("NO_VALID_CHECKPOINT", "; ".join(wrong))
