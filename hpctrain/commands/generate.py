"""`hpctrain generate`: text from a trained language model, written as it comes."""

from __future__ import annotations

import argparse
import sys

from hpctrain.checkpoints.generate import writer
from hpctrain.commands.flags import Parser, find_run, number, text, whole
from hpctrain.errors import UserError


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code. Raises UserError and RunFailed."""
    args = _arguments(argv)
    author = writer(find_run(args), args.prompt)
    out = sys.stdout
    out.write(args.prompt)
    if author.vocabulary.kind == "word" and not args.prompt.endswith(("\n", " ")):
        out.write(" ")
    out.flush()
    for piece in author.pieces(args.tokens, args.temperature, args.top_k, args.seed):
        out.write(piece)
        out.flush()
    out.write("\n")
    return 0


def _arguments(argv: list[str]) -> argparse.Namespace:
    about = "Text from a trained language model: the newest run's, or that of RUN (a run id, the start of one, or\n"
    parser = Parser("generate", f"{about}a path). Equal seeds give equal text.", "[RUN]")
    parser.add_argument(
        "--prompt", type=text, default="\n", help="what the text begins with (default: a new line)"
    )
    parser.add_argument("--tokens", type=whole(), default=200, help="how many to add (default: 200)")
    parser.add_argument(
        "--temperature", type=number, default=0.8, help="0 takes the likeliest (default: 0.8)"
    )
    parser.add_argument("--top-k", type=whole(), help="choose among the K likeliest tokens only")
    parser.add_argument("--seed", type=whole(), default=1, help="equal seeds give equal text (default: 1)")
    parser.add_run_place(as_settings=False)
    args = parser.take(argv, most_words=1)
    for name, least in (("tokens", 1), ("temperature", 0), ("top_k", 1), ("seed", 0)):
        value = getattr(args, name)
        if value is not None and not least <= value < 2**31:  # false for nan too
            raise UserError(f"--{name.replace('_', '-')}", value, f"must be ≥ {least} and < 2^31")
    return args
