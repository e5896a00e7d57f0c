"""Rounds in which each mode is measured in turn, and what they say of hpctrain beside each peer."""

from __future__ import annotations

import json
import statistics
from pathlib import Path


def add_arguments(parser, rounds=5):
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--json", type=Path, help="write the raw figures here")


def take(modes, rounds, measure, key="samples_per_s"):
    """`measure(mode)` gives a dict; a list of {mode: dict}, one a round, each printed as it is there."""
    found = []
    for number in range(rounds):
        found.append({mode: measure(mode) for mode in modes})
        print(
            f"round {number + 1}:", *(f"{m} {facts[key]:,.2f} " for m, facts in found[-1].items()), flush=True
        )
    return found


def answer(done, what):
    """The JSON line that a finished process printed last. Ends the script, with what it said, where there is none."""
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(f"{what}: {done.stderr}")
    return json.loads(lines[-1])


def spread(values, form=",.2f"):
    values = list(values)
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def ratios(rounds, mode, key="samples_per_s"):
    """hpctrain's figure by the mode's, round by round."""
    return spread((facts["hpctrain"][key] / facts[mode][key] for facts in rounds), ".2f")


def keep(path, **facts):
    if path:
        path.write_text(json.dumps(facts, indent=1) + "\n")
