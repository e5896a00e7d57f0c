"""`hpctrain forecast` and what submit predicts, from calibration runs whose profiles are made up."""

import json

import pytest

from hpctrain.cli import main
from hpctrain.config.load import to_dict
from hpctrain.data.identify import run_id
from hpctrain.launch import estimate
from hpctrain.scaling import calibration, plan
from hpctrain.scaling.start import calibrate, load
from hpctrain.storage.files import open_regular
from hpctrain.storage.search import locate
from tests.profiles import profile

MS = 1e-3


def made_up(ranks, s_per_byte):
    """64 ms per step of 64 samples, one gradient of 100 MB at its end; sums of two ranks take 20 µs + nβ."""
    part = {"data_s": 0.0, "forward_s": 0.02, "backward_s": 0.04, "step_s": [[0.06] * 10] * ranks}
    sizes = [4096 * 4**k for k in range(8)]
    return profile(
        ranks, device="cuda", cores=64, optimizer_s=4 * MS, gradients=[{"name": "w", "bytes": 10**8, "ready_s": 0.04}],
        computing={str(64 >> k): {n: v if n == "step_s" else v / 2**k for n, v in part.items()} for k in range(4)},
        **({"sums": [{"bytes": n, "s": [2e-5 + n * s_per_byte] * 3} for n in sizes],
            "exchange_s": [2e-5 + 10**8 * s_per_byte] * 3} if ranks > 1 else {}),
    )  # fmt: skip


@pytest.fixture
def words(tmp_path):
    words = [
        "experiment=lenet_digits", "cluster=devcluster", "cluster.gpus_per_node=2", "train.batch_size=64",
        "cluster.nodes_per_host=1", "cluster.max_nodes=2000", "comm.cycle_time_ms=0", f"run.root={tmp_path}",
    ]  # fmt: skip
    for name, config in plan.calibration(*load(words)).items():
        run = locate(config.run.root, config.run.study, run_id(config))
        run.create(to_dict(config))
        run.write_profile(made_up(1 if name == "1x1" else 2, 1e-11 if name == "1x2" else 1e-9))
    return words


def test_a_prediction_by_hand(words, capsys):
    assert main(["predict", *words, "scaling=weak", "scaling.gpus=1..1024", "--json"]) == 0
    points = {p["gpus"]: p for p in json.loads(capsys.readouterr().out)["points"]}
    assert points[1]["step_s"] == pytest.approx(64 * MS)
    # Two GPUs of a node: 2 (p-1)/p n β = 100 MB x 0.01 ns = 1 ms after the backward pass.
    assert points[2]["step_s"] == pytest.approx(65 * MS, rel=2e-3)
    # 512 nodes: a ring's 2 x 100 MB x 1 ns = 0.2 s; its 2046 messages cost more than the trees' 2 x 10, which win.
    assert points[1024]["step_s"] == pytest.approx(0.264, rel=0.01)
    assert points[1024]["efficiency"] == pytest.approx(64 / 264, rel=0.01)
    assert points[1024]["nodes"] == 512


def test_where_it_is_worth_it_and_what_matters(words, capsys, tmp_path):
    assert (
        main(
            [
                "predict",
                *words,
                "scaling=weak",
                "scaling.gpus=1,2,4",
                "--knobs",
                f"--plot={tmp_path / 'p.png'}",
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "up to 2 GPUs" in out
    # Half the bytes between nodes: the setting that matters most is the first in the list.
    assert out.splitlines()[5].startswith("comm.compression=fp16")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def repeated(words, repeat, slower):
    for name, config in plan.calibration(*load(words), repeat).items():
        run = locate(config.run.root, config.run.study, run_id(config))
        run.create(to_dict(config))
        links = (1e-11 if name == "1x2" else 1e-9) * slower
        run.write_profile(made_up(1 if name == "1x1" else 2, links))


def test_the_interval_is_of_the_repeats_that_are_there(words, capsys):
    asked = [*words, "scaling=weak", "scaling.gpus=1,4", "--json"]
    assert main(["forecast", *asked]) == 0
    once = json.loads(capsys.readouterr().out)["points"][1]
    assert once["low_s"] is once["high_s"] is once["efficiency_low"] is once["efficiency_high"] is None
    repeated(words, 2, 1.2)
    assert calibration.find(*load(words)).repeats[0].profiles.keys() == {"1x1", "1x2", "2x1"}
    assert main(["forecast", *asked]) == 0
    twice = json.loads(capsys.readouterr().out)["points"][1]
    assert twice["low_s"] < once["step_s"] < twice["step_s"] < twice["high_s"]
    assert twice["efficiency_low"] < twice["efficiency"] < twice["efficiency_high"]
    assert main(["forecast", *asked, "scaling.repeats=1"]) == 0
    assert json.loads(capsys.readouterr().out)["points"][1] == once


def test_repeats_of_a_calibration_are_runs_of_their_own(words):
    config, settings = load([*words, "scaling.repeats=3"])
    names = [
        one.run.name for repeat in (1, 2, 3) for one in plan.calibration(config, settings, repeat).values()
    ]
    assert names == ["1x1", "1x2", "2x1", "1x1-r2", "1x2-r2", "2x1-r2", "1x1-r3", "1x2-r3", "2x1-r3"]
    facts, runs = calibrate(config, settings, dry_run=True)
    assert (facts["jobs"], len({run_id(one) for one in runs})) == (9, 9)


def test_the_links_of_a_hierarchical_calibration_are_fitted_as_such(words, tmp_path):
    assert calibration.find(*load(words)).algorithm == "nccl"
    assert calibration.find(*load([*words, "scaling.algorithm=ring"])).algorithm == "ring"
    hierarchical = [*words, "comm.hierarchical=true", f"run.root={tmp_path / 'other'}"]
    repeated(hierarchical, 1, 1.0)
    assert calibration.find(*load(hierarchical)).algorithm == "hierarchical"


def test_strong_scaling_shrinks_a_ranks_share(words, capsys):
    assert main(["predict", *words, "scaling.gpus=1,2", "--json"]) == 0
    one, two = json.loads(capsys.readouterr().out)["points"]
    assert one["batch"] == two["batch"] == 64
    assert two["step_s"] == pytest.approx(35 * MS, rel=2e-3)


def test_without_a_calibration_it_says_what_to_run(words, capsys):
    assert main(["predict", *words, "train.batch_size=32"]) == 2
    said = capsys.readouterr().err
    assert "is not calibrated for lenet" in said
    assert "hpctrain scale --calibrate experiment=lenet_digits" in said


def test_a_profile_that_may_not_be_read_is_not_called_damaged(words, capsys, monkeypatch):
    def closed(path):
        if path.name == "profile.json":
            raise PermissionError(13, "Permission denied", str(path))
        return open_regular(path)

    monkeypatch.setattr("hpctrain.storage.json_files.open_regular", closed)
    assert main(["forecast", *words, "scaling=weak", "scaling.gpus=1..2"]) == 1
    assert "profile.json cannot be read: belongs to " in capsys.readouterr().err


def test_another_experiments_links_serve(words):
    config, settings = load([*words, "train.batch_size=32"])
    alone = plan.calibration(config, settings)["1x1"]
    run = locate(alone.run.root, alone.run.study, run_id(alone))
    run.create(to_dict(alone))
    run.write_profile(made_up(1, 0))
    found = calibration.find(config, settings)
    assert found is not None
    assert found.profiles.keys() == {"1x1", "1x2", "2x1"}


def test_a_study_says_what_a_run_will_take(words):
    config, settings = load([*words, "scaling.gpus=1,2,4", "scaling=weak"])
    seconds = calibration.expected(config, settings)
    assert seconds["1"] == pytest.approx(calibration.START_S + 50 * 64 * MS)
    assert seconds["4"] > 2 * seconds["2"] > 0


def test_submission_foresees_and_warns(words):
    config, _ = load([*words, "resources.nodes=500", "train.steps=100"])
    config_small, _ = load([*words, "resources.nodes=1", "train.steps=100"])
    good = calibration.foresee(config_small)
    assert good["expected_s"] == pytest.approx(100 * 65 * MS, rel=2e-3)
    facts = {"steps": 100, "samples": 1, "flops_total": 1.0, "lower_bound_s": None}
    assert "warning" not in estimate.shown(facts, good)
    poor = calibration.foresee(config)
    assert poor["expected_efficiency"] < 0.5
    assert "less than 50% efficient" in estimate.shown(facts, poor)
    assert calibration.foresee(load(["experiment=lenet_digits"])[0]) is None
