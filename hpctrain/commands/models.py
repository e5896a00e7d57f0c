"""`hpctrain models`: every network at its default settings, with parameters and multiply-adds."""

from __future__ import annotations

import json

from hpctrain.commands.flags import Parser
from hpctrain.commands.say import wide_console
from hpctrain.flops.answer import networks


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code. Raises UserError."""
    parser = Parser("models", "Every network at its default settings.")
    parser.add_json()
    args = parser.take(argv, most_words=0)
    rows = networks()
    if args.json:
        print(json.dumps(rows))
        return 0
    from rich.table import Table

    table = Table(box=None)
    for column in ("model", "parameters", "MACs forward", "for one"):
        table.add_column(column, justify="right" if column in ("parameters", "MACs forward") else "left")
    for row in rows:
        table.add_row(row["model"], f"{row['params']:,}", f"{row['forward_macs']:,}", row["unit"])
    wide_console().print(table)
    return 0
