"""Comm settings within a study: the planned runs, the measured effects, and the preset that is written."""

import json

import numpy as np
import pytest
from scipy import stats

from hpctrain.cli import main
from hpctrain.config.checks import TUNED_COMM
from hpctrain.config.load import to_dict
from hpctrain.errors import UserError
from hpctrain.scaling import comm_settings, measured, preset
from hpctrain.scaling.comm_settings import CommSetting
from hpctrain.scaling.laws import Point, Repeat, Value
from hpctrain.scaling.plan import plan
from hpctrain.scaling.start import load
from hpctrain.storage.run_dir import RunDir

WORDS = [
    "experiment=lenet_digits", "cluster=devcluster", "train.batch_size=64", "scaling.gpus=2,4", "scaling.repeats=2",
    "scaling.knobs={bucket_mb:[1,25],compression:fp16,accumulate:[2]}",
]  # fmt: skip


def test_each_value_is_tried_by_itself_on_the_most_gpus():
    config, settings = load(WORDS)
    tried = [p for p in plan(config, settings) if p.comm_setting]
    assert sorted(p.comm_setting for p in tried) == sorted(
        2 * [("bucket_mb", 1), ("compression", "fp16"), ("accumulate", 2)]
    )
    assert {p.gpus for p in tried} == {4}
    assert len({p.run_id for p in plan(config, settings)}) == 4 + 6
    by_key = {p.comm_setting[0]: p.config for p in tried}
    assert by_key["bucket_mb"].comm.bucket_mb == 1
    assert by_key["bucket_mb"].comm.compression == "none"
    # Twice the passes are twice the study's effective batch: samples per second are compared.
    assert by_key["accumulate"].effective_batch == 128


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            "{buckt_mb:[1]}",
            r"^scaling\.knobs=buckt_mb: must be one of bucket_mb, fusion_threshold_mb, cycle_time_ms, hierarchical, "
            r"compression, accumulate \(did you mean bucket_mb\?\)$",
        ),
        ("{bucket_mb:[0]}", r"scaling\.knobs\.bucket_mb=0: must be > 0"),
        ("{compression:[zip]}", r"scaling\.knobs\.compression=zip: must be one of none, fp16"),
        ("{accumulate:[0]}", r"scaling\.knobs\.accumulate=0: must be"),
    ],
)
def test_what_is_no_setting_of_the_exchange(given, said):
    with pytest.raises(UserError, match=said):
        plan(*load([*WORDS[:-1], f"scaling.knobs={given}"]))


def point(*rates):
    return Point(4, 1, 64, tuple(Repeat(64 / r, r, {}) for r in rates))


def test_what_matters_is_what_the_noise_does_not_explain():
    base = point(100.0, 101.0, 99.0)
    tried = [
        (CommSetting("bucket_mb", 1.0), point(120.0, 121.0, 119.0)),
        (CommSetting("bucket_mb", 4.0), point(130.0, 131.0, 129.0)),
        (CommSetting("cycle_time_ms", 5.0), point(101.0, 99.0, 102.0)),
        (CommSetting("hierarchical", True), point(80.0, 81.0, 79.0)),
        (CommSetting("accumulate", 2), point(150.0, 151.0, 149.0)),
        (CommSetting("compression", "fp16"), point()),
    ]
    found = comm_settings.effects(base, tried, {"comm.bucket_mb=4.0": 0.25})
    assert [e.name for e in found] == [
        "train.accumulate=2", "comm.bucket_mb=4.0", "comm.bucket_mb=1.0", "comm.cycle_time_ms=5.0",
        "comm.hierarchical=true",
    ]  # fmt: skip
    assert found[1].change.mean == pytest.approx(0.3)
    assert found[1].predicted == 0.25
    assert [e.matters for e in found] == [True, True, True, False, True]
    assert [e.repeats for e in found] == [3] * 5
    # The batch is not the cluster's affair; of two values of a key the better one.
    assert comm_settings.best(found) == {"bucket_mb": 4.0}
    (said,) = comm_settings.finding(found, 4)
    assert "comm.hierarchical=true -20.0" in said
    assert "Within the noise: cycle_time_ms." in said


def test_nothing_is_compared_with_no_result():
    tried = [("bucket_mb", 1.0, point(200.0))]
    assert comm_settings.effects(None, tried, {}) == comm_settings.effects(point(), tried, {}) == []


def effect(key, value, mean, half):
    return comm_settings.Effect(key, value, 2, Value(mean, half))


@pytest.mark.parametrize(
    ("effects", "said"),
    [
        ([], []),
        (
            [effect("bucket_mb", 1, 0.5, None)],
            ["A single repeat each does not show which comm setting matters."],
        ),
        (
            [effect("bucket_mb", 1, 0.05, 0.05), effect("compression", "fp16", -0.01, 0.02)],
            ["None of the comm settings that were tried matters on 8 GPUs: all are within the noise."],
        ),
        (
            [effect("bucket_mb", 1, 0.0314, 0.004)],
            ["The comm settings that matter on 8 GPUs: comm.bucket_mb=1 +3.1 ± 0.4 % (samples/s)."],
        ),
        (
            [effect("bucket_mb", 1, 0.0314, 0.004), effect("hierarchical", True, 0.5, None)],
            [
                "The comm settings that matter on 8 GPUs: comm.bucket_mb=1 +3.1 ± 0.4 % (samples/s). "
                "Nothing is known of comm.hierarchical=true: a single repeat."
            ],
        ),
        # The strongest first, whether it helps or harms; a key that matters at one value is not noise.
        (
            [
                effect("hierarchical", True, 0.1, 0.01),
                effect("bucket_mb", 1, 0.02, 0.5),
                effect("cycle_time_ms", None, 0.01, 0.5),
                effect("hierarchical", False, 0.001, 0.01),
                effect("accumulate", 4, -0.25, 0.1),
            ],
            [
                "The comm settings that matter on 8 GPUs: train.accumulate=4 -25.0 ± 10 %, "
                "comm.hierarchical=true +10.0 ± 1 % (samples/s). Within the noise: bucket_mb, cycle_time_ms."
            ],
        ),
    ],
)
def test_the_finding(effects, said):
    assert comm_settings.finding(effects, 8) == said


@pytest.mark.parametrize(
    ("value", "text"), [(True, "true"), (None, "null"), (1, "1"), (0.5, "0.5"), ("A", "A")]
)
def test_a_value_is_written_as_the_command_line_takes_it(value, text):
    assert effect("cycle_time_ms", value, 0.0, None).name == f"comm.cycle_time_ms={text}"


def test_one_repeat_says_nothing_of_what_matters():
    found = comm_settings.effects(point(100.0), [(CommSetting("bucket_mb", 1.0), point(200.0))], {})
    assert comm_settings.best(found) == {}
    assert found[0].change == Value(1.0, None)
    assert comm_settings.percent(found[0].change) == "+100.0 %"


def test_several_settings_need_more_to_matter_than_one():
    base, other = point(100.0, 101.0, 99.0), point(103.0, 104.0, 102.0)
    alone = comm_settings.effects(base, [(CommSetting("bucket_mb", 1.0), other)], {})
    tried = [(CommSetting("bucket_mb", float(n)), other) for n in range(8)]
    single = (CommSetting("compression", "fp16"), point(100.0))  # is not compared
    (first, *_), together = alone, comm_settings.effects(base, [*tried, single], {})
    # Student's t, with very nearly 4 degrees of freedom, at 97.5 %, and at 1 - 0.025/8.
    assert first.matters
    assert first.change.half == pytest.approx(2.776 * 1.03 * (1 / 3 * (1e-4 + 1 / 103**2)) ** 0.5, rel=1e-3)
    assert together[0].change.half / first.change.half == pytest.approx(
        stats.t.ppf(1 - 0.025 / 8, 4) / 2.7764, rel=1e-3
    )
    assert not any(effect.matters for effect in together)


def said_to_matter(settings, repeats, spread, studies):
    """The shares of studies of settings without effect in which one matters, and whose intervals hold all effects."""
    generator = np.random.default_rng([settings, repeats, int(10 * spread)])
    wrong = 0
    for _ in range(studies):
        sigmas = 0.03 * np.exp(spread * generator.normal(size=(settings + 1, 1)))
        base, *others = 100 * np.exp(sigmas * generator.normal(size=(settings + 1, repeats)))
        tried = [(CommSetting("bucket_mb", float(n)), point(*rates)) for n, rates in enumerate(others)]
        wrong += any(effect.matters for effect in comm_settings.effects(point(*base), tried, {}))
    return wrong / studies


def test_of_settings_without_effect_none_matters():
    assert said_to_matter(8, 3, 0.5, 300) < 0.05 + 4 * (0.05 * 0.95 / 300) ** 0.5


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("spread", [0.0, 0.5])
@pytest.mark.parametrize("repeats", [2, 3, 5])
@pytest.mark.parametrize("settings", [1, 3, 8, 20])
def test_the_error_over_all_settings_is_at_most_6_percent(settings, repeats, spread):
    assert said_to_matter(settings, repeats, spread, 4000) <= 0.06


def test_a_presets_settings_are_replaced():
    once = comm_settings.with_comm("# A cluster\nname: x\nmpi: pmix", {"bucket_mb": 4.0}, "study a")
    assert once == "# A cluster\nname: x\nmpi: pmix\ncomm:  # study a\n  bucket_mb: 4.0\n"
    twice = comm_settings.with_comm(once + "needs: [account]\n", {"hierarchical": True}, "study b")
    assert (
        twice == "# A cluster\nname: x\nmpi: pmix\nneeds: [account]\ncomm:  # study b\n  hierarchical: true\n"
    )


def test_a_presets_settings_keep_their_order():
    text = comm_settings.with_comm("name: x\n", {"hierarchical": True, "bucket_mb": 4.0}, "study")
    assert text == "name: x\ncomm:  # study\n  hierarchical: true\n  bucket_mb: 4.0\n"


def test_a_command_lines_own_setting_goes_before_the_presets():
    preset = "+cluster.comm.bucket_mb=3"
    assert load([*WORDS, preset])[0].comm.bucket_mb == 3
    assert load([*WORDS, preset, "comm.bucket_mb=7"])[0].comm.bucket_mb == 7
    with pytest.raises(UserError, match=r"cluster\.comm\.buckt_mb=3: .*did you mean bucket_mb"):
        load([*WORDS, "+cluster.comm.buckt_mb=3"])


def test_a_prediction_tries_each_setting_that_a_preset_may_have():
    assert comm_settings.WORTH_TRYING.keys() == set(TUNED_COMM)


@pytest.fixture
def study(tmp_path):
    """64 samples in 10 ms; in 8 ms with fp16."""
    config, settings = load([*WORDS, f"run.root={tmp_path}", "run.study=s"])
    planned = plan(config, settings)
    for one in planned:
        run = RunDir(tmp_path / "s" / one.run_id)
        run.create(to_dict(one.config))
        step_s = (0.008 if one.comm_setting == ("compression", "fp16") else 0.01) * (1 + 0.001 * one.repeat)
        record = {
            "kind": "train", "step": 20, "window_steps": 10, "window_s": 10 * step_s, "samples_per_s": 64 / step_s,
            "step_ms": {"forward": 1e3 * step_s},
        }  # fmt: skip
        run.metrics_file.write_text(json.dumps(record) + "\n")
        run.state.beat(phase="done", reason="DONE")
    facts = {
        "mode": "strong", "warmup_windows": 1, "cluster": "devcluster", "epochs": 5, "train_samples": 1437,
        "experiment": "lenet on digits", "command": "hpctrain scale", "config": to_dict(config),
        "settings": {"gpus": [2, 4]},
    }  # fmt: skip
    measured.write_plan(tmp_path / "s", facts, [one.facts() for one in planned])
    return tmp_path / "s"


def test_the_report_says_which_matters(study, capsys):
    assert main(["report", "s", "--root", str(study.parent), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["data"]["own"]
    assert [row["repeats"] for row in found["rows"]] == [2, 2]
    fp16 = found["knobs"][0]
    assert (fp16["setting"], fp16["matters"]) == ("comm.compression=fp16", True)
    assert fp16["change"]["mean"] == pytest.approx(0.25)
    assert "comm.compression=fp16 +25.0" in found["finding"][-1]
    assert "comm.compression=fp16" in (study / "report.html").read_text()


def test_the_best_are_written_to_the_preset(study, monkeypatch, tmp_path, capsys):
    conf = tmp_path / "conf"
    (conf / "cluster").mkdir(parents=True)
    (conf / "cluster" / "devcluster.yaml").write_text("name: devcluster\n")
    monkeypatch.setattr("hpctrain.config.conf_files.conf_dir", lambda: conf)
    assert main(["report", "s", "--root", str(study.parent), "--write-preset"]) == 0
    assert "comm.compression=fp16" in capsys.readouterr().err
    written = (conf / "cluster" / "devcluster.yaml").read_text()
    assert written == "name: devcluster\ncomm:  # hpctrain report s\n  compression: fp16\n"


def test_a_study_without_knobs_has_nothing_to_write():
    with pytest.raises(UserError, match="tried no settings of the exchange"):
        preset.write_preset("s", "devcluster", [])
