"""A study as runs: shapes, batches, what is refused, and that the same study is the same runs."""

import json
from dataclasses import replace
from functools import cache
from typing import get_args, get_type_hints

import pytest

from hpctrain.cli import main
from hpctrain.config.settings import ScheduleConfig
from hpctrain.data.identify import run_id
from hpctrain.errors import UserError
from hpctrain.scaling.network import Link, Network, Shape, allreduce_s
from hpctrain.scaling.plan import (
    ScalingConfig,
    algorithm,
    calibration,
    gpu_counts,
    plan,
    rank_batch,
    scaling_config,
    shape,
    synthetic,
)
from hpctrain.scaling.start import load

WORDS = ["experiment=lenet_digits", "cluster=devcluster", "train.batch_size=64"]


@cache
def study(*words):
    """Returns the run's configuration and the study's settings, which are frozen."""
    return load([*WORDS, *words])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("1,2,4", (1, 2, 4)),
        ("4, 1", (1, 4)),
        ("[1,2]", (1, 2)),
        ([1, 8], (1, 8)),
        (["1", "4..16"], (1, 4, 8, 16)),
        ("1..6", (1, 2, 4, 6)),
        ("8..1024", (8, 16, 32, 64, 128, 256, 512, 1024)),
        ("1,4..16", (1, 4, 8, 16)),
        ("4..4", (4,)),
        (3, (3,)),
    ],
)
def test_counts(given, expected):
    assert gpu_counts(given) == expected


@pytest.mark.parametrize("given", ["", "0,1", "a", "4..2", "-1", "1.5", "1...4", 1.5, [], [1, None]])
def test_counts_that_are_none(given):
    with pytest.raises(UserError) as raised:
        gpu_counts(given)
    assert str(raised.value) == f"scaling.gpus={given}: must be counts such as 1,2,4 or 1..1024"


def test_a_wrong_setting_of_a_study_is_named():
    with pytest.raises(UserError, match=r"^scaling\.repeats=0: must be"):
        scaling_config({"gpus": "1,2", "repeats": 0})


def test_counts_reach_us_whole_through_hydra():
    assert study("scaling.gpus=1,2,4")[1].gpus == (1, 2, 4)
    assert study("scaling.gpus=1..16")[1].gpus == (1, 2, 4, 8, 16)
    assert study("scaling.gpus='2,4'")[1].gpus == (2, 4)


def test_whole_nodes_or_part_of_one():
    config, _ = study()
    assert [shape(config, g) for g in (1, 3, 4, 8)] == [Shape(1, 1), Shape(1, 3), Shape(1, 4), Shape(2, 4)]
    with pytest.raises(UserError) as raised:
        shape(config, 6)
    assert str(raised.value) == "scaling.gpus=6: must be at most 4 or a multiple of it, the GPUs per node"


@pytest.mark.parametrize(
    ("asked", "preset", "expected"), [(2, 4, Shape(4, 2)), (None, 4, Shape(2, 4)), (None, None, Shape(8, 1))]
)
def test_the_gpus_of_a_node_are_those_asked_for_else_the_presets_else_one(asked, preset, expected):
    config, _ = study()
    config = replace(
        config,
        resources=replace(config.resources, gpus_per_node=asked),
        cluster=replace(config.cluster, gpus_per_node=preset),
    )
    assert shape(config, 8) == expected


def test_strong_keeps_the_effective_batch_and_weak_a_ranks():
    config, settings = study("scaling.gpus=1,2,4", "train.accumulate=2")
    batches = {p.gpus: p.config.effective_batch for p in plan(config, settings)}
    assert batches == {1: 128, 2: 128, 4: 128}
    weak = replace(settings, mode="weak")
    assert {p.gpus: p.config.effective_batch for p in plan(config, weak)} == {1: 128, 2: 256, 4: 512}


def test_a_batch_that_does_not_divide_is_refused():
    config, settings = study("scaling.gpus=1,3", "scaling.batch=64")
    kept = "strong scaling keeps the effective batch, which 3 GPUs"
    with pytest.raises(UserError) as raised:
        plan(config, settings)
    assert str(raised.value) == f"scaling.batch=64: {kept} do not divide"
    assert rank_batch(config, replace(settings, batch=63), 3) == 21
    twice = replace(config, train=replace(config.train, accumulate=2))
    with pytest.raises(UserError) as raised:
        rank_batch(twice, settings, 3)
    assert str(raised.value) == f"scaling.batch=64: {kept} × 2 forward passes do not divide"
    assert rank_batch(twice, replace(settings, batch=66), 3) == 11
    with pytest.raises(UserError, match="do not divide"):
        rank_batch(config, settings, 128)  # half a sample each


def test_one_count_is_no_study():
    config, settings = study("scaling.gpus=4")
    with pytest.raises(UserError) as raised:
        plan(config, settings)
    assert str(raised.value) == "scaling.gpus=4: one count does not show scaling: give two or more"


@pytest.mark.parametrize("flag", [[], ["--calibrate"]])
def test_a_cluster_that_is_not_up_is_one_line_and_leaves_nothing(flag, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("SLURM_CONF", raising=False)
    words = [
        *WORDS,
        "scaling.gpus=1,2",
        f"cluster.slurm_conf={tmp_path}/no.conf",
        f"run.root={tmp_path / 'runs'}",
    ]
    assert main(["scale", *flag, *words]) == 2
    assert capsys.readouterr().err.startswith("hpctrain: cluster=devcluster: is not ")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("flag", [[], ["--calibrate"]])
def test_settings_that_some_count_cannot_have_are_refused(flag, capsys):
    words = [
        *WORDS,
        "scaling.gpus=1,2",
        "comm.batch_norm_ranks=2",
        "resources.gpus_per_node=2",
        "resources.nodes=1",
    ]
    assert main(["scale", *flag, *words]) == 2
    assert "comm.batch_norm_ranks=2: must divide the 1 ranks, or be all" in capsys.readouterr().err


def test_every_run_of_a_study_is_a_run_of_its_own_in_random_order():
    config, settings = study("scaling.gpus=1,2,4", "scaling.repeats=2", "scaling.data=both")
    planned = plan(config, settings)
    names = [p.run_id for p in planned]
    assert len(set(names)) == len(names) == 3 * 2 * 2
    assert names == [p.run_id for p in plan(config, settings)]
    assert names != [p.run_id for p in plan(config, replace(settings, seed=1))]
    assert [p.gpus for p in planned] != sorted(p.gpus for p in planned)


def test_measurements_are_named_by_what_they_are():
    config, settings = study("scaling.gpus=1,8", "scaling.repeats=2", "scaling.data=both")
    facts = {one.config.run.name: one.facts() for one in plan(config, settings)}
    assert sorted(facts) == [
        "g1-r1", "g1-r1-synthetic", "g1-r2", "g1-r2-synthetic", "g8-r1", "g8-r1-synthetic", "g8-r2", "g8-r2-synthetic",
    ]  # fmt: skip
    one = facts["g8-r2-synthetic"]
    assert one.pop("run").startswith("g8-r2-synthetic-")
    assert json.dumps(one) == json.dumps(
        {"gpus": 8, "nodes": 2, "repeat": 2, "data": "synthetic", "batch": 64, "knob": None}
    )


def test_other_values_of_a_comm_setting_are_tried_on_the_most_gpus():
    config, settings = study("scaling.gpus=2,4", "scaling.repeats=2", "scaling.data=both")
    assert config.comm.bucket_mb == 25
    tried = [
        one
        for one in plan(config, replace(settings, knobs={"bucket_mb": [1, 25, 64]}))
        if one.comm_setting is not None
    ]
    found = sorted((one.comm_setting, one.repeat, one.config.run.name) for one in tried)
    assert found == [
        (("bucket_mb", value), repeat, f"g4-r{repeat}-bucket_mb-{value}")
        for value in (1, 64)
        for repeat in (1, 2)
    ]
    assert all(
        (one.gpus, one.data, one.config.comm.bucket_mb) == (4, "own", one.comm_setting[1]) for one in tried
    )
    # They show something on one count as well.
    assert len(plan(config, replace(settings, gpus=(4,), data="own", knobs={"bucket_mb": [1]}))) == 4


def test_a_run_is_timed_and_does_little_else():
    config, settings = study(
        "scaling.gpus=1,8", "scaling.repeats=1", "train.accumulate=2", "resources.chain=3",
        "checkpoint.every_min=5",
    )  # fmt: skip
    run = next(one.config for one in plan(config, settings) if one.gpus == 8)
    assert run.train == replace(config.train, batch_size=8, steps=50, epochs=None, log_every=10, profile=5)
    assert run.resources == replace(config.resources, nodes=2, gpus_per_node=4, timeout_min=15, chain=1)
    assert run.cluster == replace(config.cluster, exclusive=True, requeue=False)
    assert run.checkpoint == replace(
        config.checkpoint, every=50, every_min=None, keep_last=1, keep_best=False
    )
    # One batch is validated at most.
    assert run.data == replace(config.data, validation_limit=128)
    assert json.dumps(run.data.validation_limit) == "128"


def test_a_run_keeps_its_own_limits():
    config, settings = study("scaling.gpus=1,2", "resources.timeout_min=7", "data.validation_limit=9")
    run = plan(config, settings)[0].config
    assert (run.resources.timeout_min, run.data.validation_limit) == (7, 9)


@pytest.mark.parametrize(
    ("study_says", "preset_says", "expected"),
    [(False, False, False), (False, True, True), (True, False, True)],
)
def test_whole_nodes_are_taken_if_the_study_or_the_preset_says_so(study_says, preset_says, expected):
    config, settings = study("scaling.gpus=1,2")
    config = replace(config, cluster=replace(config.cluster, exclusive=preset_says))
    assert plan(config, replace(settings, exclusive=study_says))[0].config.cluster.exclusive is expected


def test_synthetic_data_have_the_same_shape():
    config, settings = study("scaling.gpus=1,2", "scaling.data=synthetic")
    data = plan(config, settings)[0].config.data
    assert (data.name, data.shape, data.num_classes) == (
        "synthetic",
        config.data.shape,
        config.data.num_classes,
    )
    # The shape is the padded one, and noise lies nowhere.
    padded = replace(config.data, pad=2, path="/pictures")
    assert synthetic(padded) == replace(config.data, name="synthetic", path=None, pad=0)


def test_text_has_no_synthetic_stand_in():
    config, settings = load(
        ["experiment=char_lstm_python", "cluster=devcluster", "scaling.gpus=1,2", "scaling.data=both"]
    )
    with pytest.raises(UserError) as raised:
        plan(config, settings)
    assert str(raised.value) == (
        "scaling.data=synthetic: needs a set of images; data=python_stdlib is not one"
    )


def test_calibration_does_not_depend_on_what_takes_no_time():
    one = {name: run_id(c) for name, c in calibration(*study()).items()}
    other = {name: run_id(c) for name, c in calibration(*study("optimizer.lr=0.3", "seed=5")).items()}
    assert list(one) == ["1x1", "1x2", "1x4", "2x1"]
    assert one == other
    assert one != {n: run_id(c) for n, c in calibration(*study("train.batch_size=32")).items()}


def test_calibration_does_not_depend_on_how_a_study_measures():
    one = {name: run_id(c) for name, c in calibration(*study()).items()}
    longer = ("scaling.windows=9", "scaling.window_steps=50", "scaling.mode=weak", "train.steps=7")
    assert one == {n: run_id(c) for n, c in calibration(*study(*longer)).items()}


@pytest.mark.parametrize(
    ("preset", "asked", "max_nodes", "shapes"),
    [
        (4, 2, None, ["1x1", "1x2", "1x4", "2x1"]),
        (None, 2, 2, ["1x1", "1x2", "2x1"]),
        (None, None, 4, ["1x1", "2x1"]),
        (2, None, 1, ["1x1", "1x2"]),
    ],
)
def test_calibration_runs_inside_a_node_and_between_two(preset, asked, max_nodes, shapes):
    config, settings = study()
    cluster = replace(config.cluster, gpus_per_node=preset, max_nodes=max_nodes)
    resources = replace(config.resources, gpus_per_node=asked)
    runs = calibration(replace(config, cluster=cluster, resources=resources), settings)
    assert list(runs) == shapes
    for name, run in runs.items():
        assert f"{run.resources.nodes}x{run.resources.gpus_per_node}" == run.run.name == name


def test_a_calibration_run_is_short_and_profiled():
    config, settings = study("seed=5")
    run = calibration(config, settings)["1x2"]
    assert (run.train.batch_size, run.train.steps, run.train.log_every, run.train.profile) == (64, 10, 5, 10)
    assert (run.optimizer.lr, run.schedule, run.seed) == (0.001, ScheduleConfig(), 0)
    assert (run.run.study, run.data.name) == ("calibration-devcluster", "digits")
    assert calibration(config, replace(settings, profile_steps=20))["1x2"].train.profile == 20


def test_auto_is_what_the_devices_library_chooses_from():
    auto = ScalingConfig(gpus=(1, 2))
    assert [algorithm(auto, device) for device in ("cuda", "cpu")] == ["nccl", "mpi"]
    assert algorithm(replace(auto, algorithm="ring"), "cuda") == "ring"


@pytest.mark.parametrize("name", get_args(get_type_hints(ScalingConfig)["algorithm"]))
def test_the_model_knows_every_algorithm(name):
    network = Network(Link(1e-6, 1e-9), Link(1e-6, 1e-9), 0.0)
    chosen = algorithm(ScalingConfig(gpus=(1, 2), algorithm=name), "cpu")
    assert allreduce_s(network, Shape(2, 2), 1e6, chosen) > 0
