"""How often to save: the interval that loses least, as a pure formula."""

from __future__ import annotations

import math


def young_daly_s(save_s: float, mtbf_s: float) -> float:
    """Seconds between checkpoints: √(2 · cost of a save · mean time between failures).

    Young 1974, "A first order approximation to the optimum checkpoint interval"; Daly 2006 gives the
    same to first order. At least ten saves' worth, so that saving stays below a tenth of the time.
    """
    return max(math.sqrt(2 * save_s * mtbf_s), 10 * save_s)
