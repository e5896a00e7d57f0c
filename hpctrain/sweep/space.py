"""The swept space as runs: the grid, and random draws. Pure, except that Hydra reads conf/.

A run of a study is a `Trial`; runs with the same id are one trial. No torch, no Optuna.
"""

from __future__ import annotations

import ast
import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

from hpctrain.config.load import to_dict
from hpctrain.config.settings import Config
from hpctrain.config.sweep_grammar import Composer
from hpctrain.config.swept import Choice, Interval, Swept
from hpctrain.data.derive import configure
from hpctrain.data.identify import digests, run_id
from hpctrain.sweep.settings import SweepConfig
from hpctrain.sweep.study_dir import Trial


def combinations(settings: SweepConfig, space: Sequence[Swept]) -> Iterator[tuple[str, ...]]:
    """Yields the overrides of each run: all combinations, or `trials` draws. Draw n depends only on the seed and n."""
    if settings.sampler == "grid":
        choices = [[f"{s.key}={v}" for v in s.values] for s in space if isinstance(s, Choice)]
        yield from itertools.product(*choices)
    else:
        for n in range(settings.trials or 0):
            yield draw(space, random.Random(f"{settings.seed}.{n}"))


def draw(space: Sequence[Swept], generator: random.Random) -> tuple[str, ...]:
    """Returns the overrides of one random run."""
    return tuple(
        f"{s.key}={s.draw(generator) if isinstance(s, Interval) else generator.choice(s.values)}"
        for s in space
    )


def trial(composer: Composer, overrides: tuple[str, ...]) -> tuple[Trial, Config]:
    """Returns one run with its composed and checked configuration. Raises UserError."""
    config = configure(composer.compose(overrides))
    params = {key: as_value(text) for key, _, text in (o.lstrip("+").partition("=") for o in overrides)}
    return Trial(run_id(config), overrides, params, to_dict(config), contents=digests(config)), config


def as_value(text: str) -> Any:
    """Returns the value of an override's text, as a number or boolean if it is one."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError):
        return {"true": True, "false": False, "null": None}.get(text, text)
    return value if isinstance(value, int | float | str) else text
