"""A Python that has imported nothing yet."""

import subprocess
import sys


def said(code):
    """Returns what `code` prints in a fresh interpreter, in which it must not fail."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()
