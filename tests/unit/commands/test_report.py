"""The report of a study from files: what is compared with what, and the page."""

import json
import re
from pathlib import Path

import pytest

from hpctrain.commands.report import look, report
from hpctrain.errors import UserError
from hpctrain.report import html
from hpctrain.sweep.leaderboard import costs, rank
from hpctrain.sweep.results import Result
from hpctrain.sweep.study_dir import StudyDir


def result(value, phase="done", epochs=4.0, **params):
    name = "-".join(map(str, params.values()))
    return Result(name, params, (), (), phase, None, None, value, epochs, [(epochs, value)], 2, 1800.0, 1e15)


def test_seeds_are_one_setting():
    rows = [
        result(v, lr=lr, seed=s) for lr, vs in ((1, (0.9, 0.91)), (2, (0.5, 0.51))) for s, v in enumerate(vs)
    ]
    best, other = rank(rows, more_is_better=True)
    assert (best.params, best.mean) == ({"lr": 1}, pytest.approx(0.905))
    assert best.half_width == pytest.approx(12.706 * 0.005, rel=1e-3)
    assert other.like_best is False
    assert [s.params["lr"] for s in rank(rows, more_is_better=False)] == [2, 1]


def test_what_was_stopped_early_is_not_compared():
    rows = [result(0.7, lr=1), result(0.9, "paused", 1.0, lr=2), result(0.8, lr=3)]
    assert [s.params["lr"] for s in rank(rows, more_is_better=True)] == [3, 1, 2]


def test_costs_by_what_became_of_the_runs():
    found = costs([result(0.5, lr=1), result(None, "failed", lr=2), result(0.1, "paused", lr=3)])
    assert found["hours"] == pytest.approx(3.0)
    assert (found["failed_hours"], found["pruned_hours"]) == (pytest.approx(1.0), pytest.approx(1.0))
    assert found["exaflops"] == pytest.approx(3e-3)


@pytest.fixture
def plain(tmp_path):
    """Four runs as `train` leaves them, in one folder."""
    from hpctrain.config.compose import load
    from hpctrain.config.settings import to_dict
    from hpctrain.data.identify import run_id

    study = StudyDir(tmp_path / "runs" / "mine")
    for lr in (0.1, 0.2):
        for seed in (0, 1):
            config = load(["lenet_digits", f"optimizer.lr={lr}", f"seed={seed}"])
            run = study.run(run_id(config))
            run.create(to_dict(config))
            records = [
                {"kind": "validation", "epoch": e, "accuracy": lr + 0.01 * seed + e / 100, "loss": 1.0}
                for e in (1.0, 2.0)
            ]
            run.metrics_file.write_text("".join(json.dumps(r) + "\n" for r in records))
            run.write_state(
                phase="done", reason="DONE", ranks=1, summary={"elapsed_s": 36.0, "flops_total": 1e12}
            )
    return study


def test_runs_without_a_sweep_have_a_report_too(plain, capsys):
    assert report(["mine", "--root", str(plain.path.parent), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [s["params"] for s in found["settings"]] == [{"optimizer.lr": 0.2}, {"optimizer.lr": 0.1}]
    assert found["settings"][0]["mean"] == pytest.approx(0.225)
    assert found["costs"]["hours"] == pytest.approx(0.04)
    assert Path(found["best"]).is_file(), "no command line is known that gives it again"
    assert Path(found["best"]).parent.name in found["settings"][0]["runs"]


def test_the_page_needs_nothing_else(plain):
    report(["mine", "--root", str(plain.path.parent)])
    page = (plain.path / "report.html").read_text()
    assert re.findall(r"https?:|src=\"(?!data:)|@import|url\(", page) == []
    assert page.count('src="data:image/png;base64,') == 4  # curves, two slices, parallel coordinates
    for title in ("Result", "Leaderboard", "Learning curves", "What matters", "Cost"):
        assert f"<h2>{title}</h2>" in page
    assert "Failed runs" not in page


def test_what_users_wrote_is_escaped():
    page = html.page("<a>", "b", [html.Section("c", [html.Table(["<x>"], [["<script>alert(1)</script>"]])])])
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["mien"], "study=mien: no such study.*did you mean mine"),
        (["mine", "--metric", "acuracy"], "--metric=acuracy: must be one of accuracy, loss.*did you mean accuracy"),
        (["mine", "--csv", "/nowhere/t.csv"], "--csv=/nowhere/t.csv: cannot be written"),
        (["mine", "--html", "/nowhere/t.html"], "--html=/nowhere/t.html: cannot be written"),
    ],
)  # fmt: skip
def test_one_line_says_what_is_wrong(plain, args, said):
    with pytest.raises(UserError, match=said):
        report([*args, "--root", str(plain.path.parent)])


def test_a_study_without_results_says_so(plain):
    for file in plain.path.glob("*/metrics.jsonl"):
        file.unlink()
    found = look(plain)
    assert found.settings == []
    assert found.verdict() == "No run has a result yet."


def test_a_part_with_one_value_of_a_swept_key_is_compared_by_it(tmp_path):
    """`sweep optimizer.lr=0.1,0.2` and later `sweep optimizer.lr=0.3 model=mlp seed=0,1` are one table."""
    from dataclasses import asdict

    from hpctrain.config.sweep_grammar import Composer
    from hpctrain.sweep import results
    from hpctrain.sweep.space import trial

    study = StudyDir(tmp_path / "s")
    study.create()
    for fixed, overrides in (
        (
            ["experiment=lenet_digits"],
            [("optimizer.lr=0.1", "model=mlp"), ("optimizer.lr=0.2", "model=lenet")],
        ),
        (["experiment=lenet_digits", "optimizer.lr=0.3"], [("seed=0",), ("seed=1",)]),
    ):
        trials = [trial(Composer(fixed), o)[0] for o in overrides]
        study.add_part({"fixed": fixed, "trials": [asdict(t) for t in trials]})
    rows = results.read(study, "accuracy")
    assert [dict(r.params) for r in rows] == [
        {"optimizer.lr": 0.1, "model": "mlp", "seed": 0},
        {"optimizer.lr": 0.2, "model": "lenet", "seed": 0},
        {"optimizer.lr": 0.3, "model": "lenet", "seed": 0},
        {"optimizer.lr": 0.3, "model": "lenet", "seed": 1},
    ]
    assert rows[-1].fixed == ("experiment=lenet_digits", "optimizer.lr=0.3")
