"""The one loop in which tests wait."""

import time


def until(ready, what="it", patience_s=240.0, pause_s=0.05):
    """The first true answer of `ready`. `what` is waited for: a text, or what gives one when it was in vain."""
    end_s = time.monotonic() + patience_s
    while not (answer := ready()):
        assert time.monotonic() < end_s, (
            f"waited {patience_s} s in vain for {what() if callable(what) else what}"
        )
        time.sleep(pause_s)
    return answer
