"""The report of a study from files: what is compared with what, and the page."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hpctrain.commands.report import main
from hpctrain.errors import UserError
from hpctrain.report import html, table
from hpctrain.sweep.report import look
from hpctrain.sweep.study_dir import StudyDir


@pytest.fixture
def plain(tmp_path):
    """Four runs as `train` leaves them, in one folder."""
    from hpctrain.config.load import to_dict
    from hpctrain.data.derive import load
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
            run.state.beat(
                phase="done", reason="DONE", ranks=1, summary={"elapsed_s": 36.0, "flops_total": 1e12}
            )
    return study


def test_runs_without_a_sweep_have_a_report_too(plain, capsys):
    assert main(["mine", "--root", str(plain.path.parent), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [s["params"] for s in found["settings"]] == [{"optimizer.lr": 0.2}, {"optimizer.lr": 0.1}]
    assert found["settings"][0]["mean"] == pytest.approx(0.225)
    assert found["costs"]["hours"] == pytest.approx(0.04)
    assert Path(found["best"]).is_file(), "no command line is known that gives it again"
    assert Path(found["best"]).parent.name in found["settings"][0]["runs"]


def test_the_page_needs_nothing_else(plain):
    main(["mine", "--root", str(plain.path.parent)])
    page = (plain.path / "report.html").read_text()
    assert re.findall(r"https?:|src=\"(?!data:)|@import|url\(", page) == []
    assert (
        page.count('src="data:image/png;base64,') == 2
    )  # curves, and a slice of the rate: a seed is not a setting
    for title in ("Result", "Leaderboard", "Learning curves", "What matters", "Cost"):
        assert f"<h2>{title}</h2>" in page
    assert "Failed runs" not in page


def test_what_users_wrote_is_escaped():
    page = html.page(
        "<a>", "b", [html.Section("c", [html.Table([table.texts("<x>", ["<script>alert(1)</script>"])])])]
    )
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["mien"], "study=mien: no such study.*did you mean mine"),
        (["mine", "--metric", "acuracy"], "--metric=acuracy: must be one of accuracy, loss.*did you mean accuracy"),
        (["mine", "--csv", "/nowhere/t.csv"], "--csv=/nowhere/t.csv: cannot be written"),
        (["mine", "--csv", "/nowhere/t.csv"], "non-existent directory: '/nowhere'"),
        (["mine", "--html", "."], "--html=.: is there and is not a file"),
        (["mine", "--top", "-1"], "--top=-1: must be a whole number ≥ 0"),
        (["mine", "--html", "/nowhere/t.html"], "--html=/nowhere/t.html: cannot be written"),
    ],
)  # fmt: skip
def test_one_line_says_what_is_wrong(plain, args, said):
    with pytest.raises(UserError, match=said):
        main([*args, "--root", str(plain.path.parent)])


def test_a_closed_root_is_said_to_be(plain, monkeypatch):
    root = plain.path.parent
    monkeypatch.setattr("hpctrain.storage.search.os.access", lambda *_: False)
    with pytest.raises(UserError, match=f"run.root={root}: {root} cannot be read: belongs to "):
        main(["mine", "--root", str(root)])


def test_a_study_without_results_says_so(plain):
    for file in plain.path.glob("*/metrics.jsonl"):
        file.unlink()
    found = look(plain)
    assert found.settings == []
    assert found.verdict() == "No run has a result yet."


def test_a_narrow_terminal_has_the_table_in_parts(plain, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["mine", "--root", str(plain.path.parent), "--no-html"]) == 0
    out = capsys.readouterr().out
    table = out.partition("\n")[2].partition("Best:")[0].splitlines()
    heads = [line.split() for line in table if line.startswith("#")]
    assert heads == [
        ["#", "accuracy", "±", "95", "%", "vs", "best", "seeds"],
        ["#", "epochs", "optimizer.lr"],
    ]
    assert [line.split()[:3] for line in table[1:3]] == [["1", "0.225", "0.064"], ["2", "0.125", "0.064"]]
    assert [line.split() for line in table[-2:]] == [["1", "2", "0.2"], ["2", "2", "0.1"]]
    assert max(map(len, table)) <= 40
    assert "its runs: seed 0 0.2200, seed 1 0.2300" in out


def test_more_failed_runs_than_are_shown_are_counted(plain, capsys):
    for run in plain.path.glob("*/state.json"):
        run.write_text(json.dumps({"phase": "failed", "reason": "ERROR", "detail": "x"}))
    for n in range(4):
        shutil.copytree(next(plain.path.glob("lenet*")), plain.path / f"copy{n}")
    main(["mine", "--root", str(plain.path.parent), "--no-html"])
    out, err = capsys.readouterr()
    assert "8 runs failed: no mean counts these." in out
    assert "failed: 3 more; the page and --json have all" in err


def test_a_report_needs_neither_torch_nor_hydra_and_without_a_page_no_matplotlib(plain):
    code = (
        "import sys; from hpctrain.cli import main; "
        f"main(['report', 'mine', '--root', {str(plain.path.parent)!r}, '--no-html']); "
        "print([m for m in ('torch', 'hydra', 'matplotlib', 'optuna') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
