"""A profiled run: every gradient in its place, all ranks heard, and the trained weights untouched."""

import json


def test_a_profile_takes_a_step_apart_and_leaves_the_weights(cli):
    cli.train("resources.ranks=2", "train.epochs=1", "run.study=plain")
    cli.train("resources.ranks=2", "train.epochs=1", "run.study=profiled", "train.profile=3")
    plain, profiled = cli.tensors("plain"), cli.tensors("profiled")
    assert all(plain[name].equal(profiled[name]) for name in plain)
    assert not (cli.the_run("plain") / "profile.json").exists()

    found = json.loads((cli.the_run("profiled") / "profile.json").read_text())
    assert (found["ranks"], found["ranks_per_node"], found["batch_size"], found["device"]) == (
        2,
        2,
        16,
        "cpu",
    )
    whole = found["computing"]["16"]
    # The backward pass has the last layer's gradient first; the sizes are those of all parameters.
    gradients = found["gradients"]
    assert gradients[0]["name"].startswith("output.")
    assert gradients[-1]["name"].startswith("c1.")
    assert sum(g["bytes"] for g in gradients) == 4 * cli.records("summary", "profiled")[-1]["params"]
    assert 0 < gradients[0]["ready_s"] < gradients[-1]["ready_s"] <= whole["backward_s"] * 1.5
    assert {len(steps) for steps in whole["step_s"]} == {3}
    assert len(whole["step_s"]) == 2
    assert set(found["computing"]) == {"16", "8", "4", "2"}
    assert len(found["exchange_s"]) == 3
    assert [s["bytes"] for s in found["sums"]] == [4096 * 4**k for k in range(8)]
    assert all(t > 0 for s in found["sums"] for t in s["s"])
