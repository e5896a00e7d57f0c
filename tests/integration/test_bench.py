"""`hpctrain bench` on this machine, from the command line to its document; it leaves nothing behind."""

import json


def test_a_bench_of_two_ranks(cli):
    out, _ = cli.run(
        "bench", "lenet_digits", "resources.ranks=2", "train.batch_size=16", "--synthetic", "--steps", "10",
        "--json",
    )  # fmt: skip
    found = json.loads(out)
    assert (found["ranks"], found["effective_batch"], found["model"]) == (2, 32, "lenet")
    sums = found["ceilings"]["allreduce"]
    assert [one["bytes"] for one in sums] == [1024 * 4**k for k in range(len(sums))]
    assert len(sums) >= 8  # fewer than ten only where a sum takes seconds
    assert all(one["s"] > 0 for one in sums)
    assert found["ceilings"]["flops_per_s"].keys() == {"fp32", "bf16"}
    (step,) = found["steps"]
    assert (step["data"], step["steps"]) == ("synthetic", 10)
    assert 0 < step["mfu"] < 1
    assert abs(sum(step["parts_s"].values()) / step["step_s"] - 1) < 0.02  # every millisecond has its place
    assert not list(cli.folder.glob("runs/*"))


def test_wrong_input_starts_nothing(cli):
    for words, said in (
        (["lenet_digits", "train.batch_size=0"], "train.batch_size=0: must be ≥ 1"),
        (["lenet_digits", "--steps", "x"], "--steps=x: must be a whole number"),
    ):
        _, err = cli.run("bench", *words, code=2)
        assert said in err
        assert len(err.splitlines()) == 1
    assert not (cli.folder / "runs").exists()
