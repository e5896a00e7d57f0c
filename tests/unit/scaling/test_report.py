"""A study's files to its report: made-up run directories, whose figures are known."""

import csv
import json

import pytest

from hpctrain.cli import main
from hpctrain.config.load import to_dict
from hpctrain.scaling import laws, measured, report
from hpctrain.scaling.laws import Fit, Value
from hpctrain.scaling.plan import plan
from hpctrain.scaling.start import load
from hpctrain.storage.run_dir import RunDir
from tests.profiles import profile

WORDS = [
    "experiment=lenet_digits",
    "cluster=devcluster",
    "train.batch_size=64",
    "scaling.gpus=1,2,4",
    "scaling.repeats=2",
]


@pytest.fixture
def study(tmp_path):
    """Steps of 80, 44 and 26 ms (a little more in the second repeat); the first run of 4 GPUs has failed."""
    config, settings = load([*WORDS, f"run.root={tmp_path}", "run.study=s"])
    folder = tmp_path / "s"
    planned = plan(config, settings)
    for one in planned:
        run = RunDir(folder / one.run_id)
        run.create(to_dict(one.config))
        if (one.gpus, one.repeat) == (4, 1):
            run.state.beat(phase="failed", reason="OUT_OF_MEMORY")
            continue
        step_s = {1: 0.080, 2: 0.044, 4: 0.026}[one.gpus] * (1 + 0.01 * (one.repeat - 1))
        waits_s = 0.0 if one.gpus == 1 else 0.004
        with run.metrics_file.open("w") as file:
            for window in range(1, 6):
                slow = 10 if window == 1 else 1  # the warm-up, that must not count
                parts = {"forward": 0.25, "backward": 0.7, "data": 0.05}
                step_ms = {k: 1e3 * slow * (step_s - waits_s) * v for k, v in parts.items()}
                record = {
                    "kind": "train", "step": 10 * window, "window_steps": 10, "window_s": 10 * step_s * slow,
                    "samples_per_s": 64 / step_s / slow, "gflop_per_s": 5.0,
                    "step_ms": step_ms | {"allreduce": 1e3 * waits_s},
                }  # fmt: skip
                file.write(json.dumps(record) + "\n")
        if one.gpus > 1:
            # Rank 0 waits 1 ms for the others; the exchange alone takes 5 ms, of which 3 show.
            whole = profile(one.gpus, 64 // one.gpus)["computing"]
            of_rank = [[0.030] * 5] + [[0.031] * 5] * (one.gpus - 1)
            run.write_profile(
                profile(one.gpus, 64 // one.gpus, exchange_s=[0.005] * 5,
                        computing={size: part | {"step_s": of_rank} for size, part in whole.items()})
            )  # fmt: skip
        run.state.beat(phase="done", reason="DONE")
    facts = {
        "mode": "strong", "warmup_windows": 1, "cluster": "devcluster", "epochs": 5, "train_samples": 1437,
        "experiment": "lenet on digits", "command": "hpctrain scale", "config": to_dict(config),
        "settings": {"gpus": [1, 2, 4]},
    }  # fmt: skip
    measured.write_plan(folder, facts, [one.facts() for one in planned])
    return folder


def test_figures_are_those_of_the_records(study):
    _, (found,) = report.analyse(study)
    one, two, four = found.table
    assert one.step_s.mean == pytest.approx(0.0804)
    assert two.speedup.mean == pytest.approx(0.0804 / 0.04422, rel=1e-3)
    assert four.efficiency.mean == pytest.approx(0.0804 / 0.026 / 1.01 / 4, rel=1e-3)
    assert two.parts_s["straggler"] == pytest.approx(0.001)
    assert two.parts_s["exposed"] == pytest.approx(0.003)
    assert two.hidden_s == pytest.approx(0.002)
    assert sum(two.parts_s.values()) == pytest.approx(two.step_s.mean)
    assert "straggler" not in one.parts_s
    assert four.step_s.half is None
    assert one.node_hours == pytest.approx(5 * 1437 / one.samples_per_s.mean / 3600)


def test_a_failed_run_is_a_named_gap(study, capsys):
    assert main(["report", "s", "--root", str(study.parent)]) == 0
    out = capsys.readouterr().out
    assert "gap: g4-r1-" in out
    assert "OUT_OF_MEMORY" in out
    assert "Ask for 4 GPUs" in out
    assert "Amdahl's law is not shown: without repeats its serial fraction has no interval" in out


def test_tables_for_programs_and_proposals(study, tmp_path, capsys):
    files = {kind: tmp_path / f"t.{kind}" for kind in ("csv", "latex", "html")}
    flags = [word for kind, path in files.items() for word in (f"--{kind}", str(path))]
    assert main(["report", "s", "--root", str(study.parent), "--json", *flags]) == 0
    rows = list(csv.DictReader(files["csv"].read_text().splitlines()))
    assert [row["gpus"] for row in rows] == ["1", "2", "4"]
    assert float(rows[1]["speedup"]) == pytest.approx(1.818, abs=1e-3)
    assert rows[2]["speedup_half"] == ""
    found = json.loads(capsys.readouterr().out)["data"]["own"]
    assert found["rows"][1]["repeats"] == 2
    assert found["law"]["law"] == "Amdahl"
    assert found["missing"][0].endswith("OUT_OF_MEMORY")
    latex = files["latex"].read_text()
    assert latex.count(r"\\") == 4
    assert r"2 & 1 & 64 & $1447 \pm" in latex
    page = files["html"].read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page.replace("http-equiv", "")


def test_a_study_goes_on_in_its_mode(study):
    with pytest.raises(Exception, match=r"scaling\.mode=weak: study s is strong"):
        measured.write_plan(study, {"mode": "weak"}, [])


def test_nothing_measured_yet(tmp_path, capsys):
    config, settings = load([*WORDS, f"run.root={tmp_path}", "run.study=new"])
    (tmp_path / "new").mkdir()
    facts = {
        "mode": "strong", "warmup_windows": 1, "cluster": "devcluster", "epochs": 1, "train_samples": 1,
        "experiment": "lenet on digits", "command": "hpctrain scale", "config": to_dict(config), "settings": {},
    }  # fmt: skip
    measured.write_plan(tmp_path / "new", facts, [one.facts() for one in plan(config, settings)])
    assert main(["report", "new", "--root", str(tmp_path)]) == 2
    assert "has no result yet (g1-r1-" in capsys.readouterr().err


def test_flags_that_belong_to_sweeps(study, capsys):
    assert main(["report", "s", "--root", str(study.parent), "--parquet", "x"]) == 2
    assert "--parquet=x: is for sweeps" in capsys.readouterr().err


def test_energy_is_shown_where_it_is_reported(study, capsys):
    _, (found,) = report.analyse(study)
    assert all(row.sample_j is None for row in found.table)
    for run in study.glob("g[12]-*"):
        summary = {"energy": {"joules": {"gpu": 640.0}, "samples": 320}}
        RunDir(run).state.beat(summary=summary)
    assert main(["report", "s", "--root", str(study.parent), "--no-html"]) == 0
    assert (
        "joules per sample, GPUs (NVML): 1 GPUs 2.000 ± 0.000, 2 GPUs 2.000 ± 0.000\n"
        in capsys.readouterr().out
    )


def test_a_runs_timeline_is_summed_up(study, capsys):
    run = RunDir(next(study.glob("g2-r1-*")))
    run.attempt(1).mkdir(parents=True)
    events = [
        {"name": "process_name", "ph": "M", "pid": 1, "args": {"name": "allreduce.bucket.0"}},
        {"ph": "B", "name": "ALLREDUCE", "ts": 0, "pid": 1}, {"ph": "E", "ts": 4000, "pid": 1},
    ]  # fmt: skip
    run.timeline_file(1).write_text(json.dumps(events))
    assert main(["report", "s", "--root", str(study.parent), "--no-html"]) == 0
    assert "Horovod's timeline on 2 GPUs: 1 bucket in 1 messages per step, 4 ms" in capsys.readouterr().out


NOT = " is not shown: "


@pytest.mark.parametrize(
    ("law", "said"),
    [
        (Fit("Amdahl", Value(0.1, 0.02), True), ": serial fraction 10.0 ± 2.0 %, speed-up at most 10 (8.33 to 12.5)"),
        (Fit("Amdahl", Value(0.01, 0.04), True), f"{NOT}its serial fraction, 1.0 ± 4.0 %, cannot be told from zero "
         "(a speed-up limited to less than 20 is excluded)"),
        (Fit("Amdahl", Value(-0.1, 0.02)), f"{NOT}it does not fit, its serial fraction would be -10.0 ± 2.0 %"),
        (Fit("Amdahl", Value(0.1), False),
         f"{NOT}it does not fit, the points differ from it by more than their repeats do"),
        (Fit("Amdahl", Value(0.1)), f"{NOT}without repeats its serial fraction has no interval"),
        (Fit("Gustafson", Value(0.1, 0.02)), ": serial fraction 10.0 ± 2.0 %"),
        (Fit("Gustafson", Value(0.01, 0.02)), f"{NOT}its serial fraction, 1.0 ± 2.0 %, cannot be told from zero"),
    ],
)  # fmt: skip
def test_a_law_is_said_with_what_is_known_of_it(law, said):
    table = laws.rows([laws.Point(p, 1, 64, (laws.Repeat(1 / p, 64.0 * p, {}),)) for p in (1, 2, 4)])
    assert report.law_line(law, table) == f"{law.law}'s law{said}"
