"""A made-up profile.json."""


def profile(ranks=1, batch_size=64, steps=3, **changes):
    """A whole profile of a step that computes one second on each rank; `changes` replace its values."""
    computing = {"data_s": 0.25, "forward_s": 0.25, "backward_s": 0.5, "step_s": [[1.0] * steps] * ranks}
    several = ranks > 1
    return {
        "ranks": ranks, "ranks_per_node": ranks, "batch_size": batch_size, "device": "cpu", "cores": 4,
        "gradients": [{"name": "w", "bytes": 4000, "ready_s": 0.25}], "computing": {str(batch_size): computing},
        "optimizer_s": 0.125, "exchange_s": [0.5] * steps * several,
        "sums": [{"bytes": n, "s": [1e-5 * n] * steps} for n in (4096, 16384) if several],
    } | changes  # fmt: skip
