"""A study as runs: shapes, batches, what is refused, and that the same study is the same runs."""

from dataclasses import replace

import pytest

from hpctrain.cli import main
from hpctrain.data.identify import run_id
from hpctrain.errors import UserError
from hpctrain.scaling.plan import calibration, gpu_counts, plan, rank_batch, shape
from hpctrain.scaling.start import load

WORDS = ["experiment=lenet_digits", "cluster=devcluster", "train.batch_size=64"]


def study(*words):
    return load([*WORDS, *words])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("1,2,4", (1, 2, 4)),
        ("4, 1", (1, 4)),
        ([1, 8], (1, 8)),
        ("1..6", (1, 2, 4, 6)),
        ("8..1024", (8, 16, 32, 64, 128, 256, 512, 1024)),
        ("1,4..16", (1, 4, 8, 16)),
        (3, (3,)),
    ],
)
def test_counts(given, expected):
    assert gpu_counts(given) == expected


@pytest.mark.parametrize("given", ["", "0,1", "a", "4..2", "-1", "1.5", "1...4"])
def test_counts_that_are_none(given):
    with pytest.raises(UserError, match=r"scaling\.gpus=.*must be counts"):
        gpu_counts(given)


def test_counts_reach_us_whole_through_hydra():
    assert study("scaling.gpus=1,2,4")[1].gpus == (1, 2, 4)
    assert study("scaling.gpus=1..16")[1].gpus == (1, 2, 4, 8, 16)
    assert study("scaling.gpus='2,4'")[1].gpus == (2, 4)


def test_whole_nodes_or_part_of_one():
    config, _ = study()
    assert [(s.nodes, s.ranks_per_node) for s in (shape(config, g) for g in (1, 3, 4, 8))] == [
        (1, 1), (1, 3), (1, 4), (2, 4),
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"scaling\.gpus=6: must be at most 4 or a multiple"):
        shape(config, 6)


def test_strong_keeps_the_effective_batch_and_weak_a_ranks():
    config, settings = study("scaling.gpus=1,2,4", "train.accumulate=2")
    batches = {p.gpus: p.config.effective_batch for p in plan(config, settings)}
    assert batches == {1: 128, 2: 128, 4: 128}
    weak = replace(settings, mode="weak")
    assert {p.gpus: p.config.effective_batch for p in plan(config, weak)} == {1: 128, 2: 256, 4: 512}


def test_a_batch_that_does_not_divide_is_refused():
    config, settings = study("scaling.gpus=1,3", "scaling.batch=64")
    with pytest.raises(UserError, match=r"scaling\.batch=64: .* 3 GPUs do not divide"):
        plan(config, settings)
    assert rank_batch(config, replace(settings, batch=63), 3) == 21


def test_one_count_is_no_study():
    with pytest.raises(UserError, match=r"scaling\.gpus=4: .*two or more"):
        plan(*study("scaling.gpus=4"))


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


def test_a_run_is_timed_and_does_little_else():
    config, settings = study("scaling.gpus=1,2")
    run = plan(config, settings)[0].config
    assert run.train.steps == 50
    assert run.train.log_every == 10
    assert run.train.profile == 5
    assert run.checkpoint.every == 50
    assert run.cluster.exclusive
    assert not run.cluster.requeue
    assert run.data.validation_limit == run.effective_batch


def test_synthetic_data_have_the_same_shape():
    config, settings = study("scaling.gpus=1,2", "scaling.data=synthetic")
    data = plan(config, settings)[0].config.data
    assert (data.name, data.shape, data.num_classes) == (
        "synthetic",
        config.data.shape,
        config.data.num_classes,
    )


def test_text_has_no_synthetic_stand_in():
    config, settings = load(
        ["experiment=char_lstm_python", "cluster=devcluster", "scaling.gpus=1,2", "scaling.data=both"]
    )
    with pytest.raises(UserError, match=r"scaling\.data=synthetic"):
        plan(config, settings)


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
