"""A process's output as a log: what a full disk does not take is lost, secrets are hidden."""

import subprocess
import sys
from pathlib import Path


def test_lines_that_storage_does_not_take_are_lost_and_nothing_else():
    script = (
        "import logging, sys\n"
        "from hpctrain.storage import output\n"
        "output.as_log()\n"
        "logging.getLogger().addHandler(logging.StreamHandler(sys.stdout))\n"
        "print('a'); print('b', file=sys.stderr, flush=True); logging.error('c'); print('d' * 100_000)\n"
        "sys.exit(7)"
    )
    with Path("/dev/full").open("w") as full:
        assert subprocess.run([sys.executable, "-c", script], stdout=full, stderr=full).returncode == 7
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"a\nc\n{'d' * 100_000}\n", "b\n")


def test_a_secret_is_hidden_in_a_log():
    script = "from hpctrain.storage import output; output.as_log(); print('X_TOKEN=word', chr(0xdcff))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("X_TOKEN=*** ?\n", 0)
