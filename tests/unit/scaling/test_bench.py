"""What `hpctrain bench` would run."""

from hpctrain.scaling import bench


def test_without_an_experiment_only_the_machine_is_measured():
    wanted = bench.wanted(["resources.ranks=2"], 50, False)
    assert (wanted.machine_only, wanted.kinds, wanted.config.ranks) == (True, ("own",), 2)
    assert not bench.wanted(["lenet_digits"], 50, False).machine_only


def test_the_planned_run_times_the_experiment_s_own_step():
    wanted = bench.wanted(["lenet_digits", "resources.ranks=2"], 52, False)
    assert wanted.kinds == ("own", "synthetic")
    own, noise = (bench.planned(wanted, kind) for kind in wanted.kinds)
    assert (own.train.steps, own.train.log_every, own.ranks) == (60, 10, 2)
    assert (own.model, own.optimizer, own.train.batch_size) == (
        wanted.config.model,
        wanted.config.optimizer,
        wanted.config.train.batch_size,
    )
    assert (own.train.ceilings, noise.train.ceilings) == (True, False)
    assert (own.data.name, noise.data.name, noise.data.shape) == ("digits", "synthetic", own.data.shape)
    assert noise.data.pad == 0  # the shape has the padding in it
    assert own.run.study == noise.run.study == "bench"
