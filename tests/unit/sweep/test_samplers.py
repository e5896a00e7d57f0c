"""Optuna's samplers over a journal that is written by many, cut short, and full."""

import json
import multiprocessing
from dataclasses import asdict

import pytest

from hpctrain.config.swept import Choice, Interval
from hpctrain.errors import RunFailed, UserError
from hpctrain.sweep.samplers import (
    Search,
    check_sampler,
    cut_torn_line,
    distributions,
    importances,
    journal_backend,
)
from hpctrain.sweep.settings import SweepConfig
from hpctrain.sweep.study_dir import StudyDir, Work

SPACE = [
    Interval("optimizer.lr", 0.001, 1.0, log=True, integer=False),
    Interval("train.epochs", 1, 5, log=False, integer=True),
    Choice("schedule", ("constant", "cosine")),
]
FIXED = ["experiment=lenet_digits"]


def search(study, sampler="tpe", trials=12):
    settings = SweepConfig(sampler=sampler, trials=trials, metric="loss")
    study.add_part({"sweep": asdict(settings), "trials": []})
    return Search(study, settings, SPACE, FIXED, higher_is_better=False)


@pytest.fixture
def study(tmp_path):
    made = StudyDir(tmp_path / "runs" / "s")
    made.create()
    return made


def end(study, trial, value):
    study.write_ended(Work(trial.run_id), {"phase": "done", "value": value})


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "qmc", "nsga2"])
def test_every_sampler_suggests_runs_within_the_space(study, sampler):
    one = search(study, sampler)
    seen = []
    while trial := one.suggest():
        assert 0.001 <= trial.params["optimizer.lr"] <= 1
        assert trial.params["train.epochs"] in range(1, 6)
        assert trial.config["optimizer"]["lr"] == trial.params["optimizer.lr"]
        end(study, trial, trial.params["optimizer.lr"])
        seen.append(trial.run_id)
    assert len(seen) == 12
    assert set(study.trials()) == set(seen)


def test_tpe_learns_from_what_has_ended(study, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")  # fixes the sampler's seed, which is otherwise the process's id
    one = search(study, trials=60)
    values = []
    while trial := one.suggest():
        values.append(abs(trial.params["optimizer.lr"] - 0.03) + 0.01 * trial.params["train.epochs"])
        end(study, trial, values[-1])
    assert sum(values[30:]) < sum(values[:30])


def _suggest_some(path, queue):
    one = search(StudyDir(path), trials=12)
    got = []
    while trial := one.suggest():
        got.append(trial.run_id)
    queue.put(got)


def test_many_jobs_together_make_as_many_as_were_asked_for(study):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=_suggest_some, args=(study.path, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    got = [run for _ in processes for run in queue.get(timeout=120)]
    for process in processes:
        process.join()
    assert len(got) == 12
    assert len(list(study.suggestions())) == 12


def test_a_later_sweep_may_ask_for_more(study):
    one = search(study, trials=1)
    assert one.suggest() is not None
    assert one.suggest() is None
    search(study, trials=2)
    assert one.suggest() is not None


def test_half_a_line_in_the_journal_is_cut(study):
    search(study).suggest()
    lines = study.journal.read_bytes()
    study.journal.write_bytes(lines + b'{"op_code": 4, "worker_id"')  # killed while it wrote
    one = search(study)
    assert one.suggest() is not None
    for line in study.journal.read_text().splitlines():
        json.loads(line)
    before = study.journal.read_bytes()
    cut_torn_line(study.journal)
    assert study.journal.read_bytes() == before


def test_a_full_disk_is_said_and_leaves_a_whole_journal(study, monkeypatch):
    from hpctrain.sweep import samplers as module

    one = search(study)
    one.suggest()
    before = study.journal.read_bytes()

    def half(path, logs):
        with path.open("ab") as file:
            file.write(b'{"op_co')
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "append", half)
    with pytest.raises(RunFailed, match="DISK_FULL"):
        one.suggest()
    assert study.journal.read_bytes() == before
    monkeypatch.undo()
    assert search(study).suggest() is not None


def test_a_journal_backend_reads_what_another_wrote(tmp_path):
    journal_backend(tmp_path / "j").append_logs([{"a": 1}, {"b": 2}])
    assert list(journal_backend(tmp_path / "j").read_logs(0)) == [{"a": 1}, {"b": 2}]


def test_numbers_in_a_list_stay_as_they_were_written():
    assert distributions(SPACE)["schedule"].choices == ("constant", "cosine")
    assert distributions([Choice("x", ("1e-3", "0.1"))])["x"].choices == ("1e-3", "0.1")


def test_importance_finds_what_matters():
    params = {"lr": [0.01 * (n % 10 + 1) for n in range(60)], "seed": [n % 3 for n in range(60)]}
    values = [-((p - 0.05) ** 2) for p in params["lr"]]
    shares = importances(params, values, higher_is_better=True)
    assert shares["lr"] > 0.8 > 0.2 > shares["seed"]


def test_an_optuna_that_is_too_old_is_said(monkeypatch):
    """hydra-optuna-sweeper brings Optuna 2.10: a search says so, a report does without the importance."""
    import sys
    import types

    monkeypatch.setitem(sys.modules, "optuna", types.SimpleNamespace(__version__="2.10.1"))
    with pytest.raises(UserError, match=r"needs Optuna 4 or newer, here is 2\.10\.1"):
        check_sampler(SweepConfig(sampler="tpe", trials=2, metric="loss"))
    assert importances({"lr": [0.1, 0.2]}, [1.0, 2.0], higher_is_better=True) == {}


def test_importance_leaves_other_packages_as_they_are():
    import subprocess
    import sys

    code = (
        "import sys; from hpctrain.sweep.samplers import importances as i\n"
        "i({'lr': [n / 9 for n in range(9)]}, list(range(9)), True)\n"
        "assert 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
