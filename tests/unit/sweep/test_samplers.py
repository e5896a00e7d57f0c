"""Optuna's samplers over a journal that is written by many, cut short, and full."""

import json
import multiprocessing
import random
import subprocess
import sys
import warnings
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from hpctrain.config.swept import Choice, Interval
from hpctrain.errors import RunFailed, UserError
from hpctrain.sweep import samplers
from hpctrain.sweep.samplers import (
    Search,
    append,
    check_sampler,
    cut_torn_line,
    distributions,
    importances,
    journal_backend,
    optuna,
    sampler,
    written,
)
from hpctrain.sweep.settings import SweepConfig
from hpctrain.sweep.study_dir import StudyDir, Trial, Work

SPACE = [
    Interval("optimizer.lr", 0.001, 1.0, log=True, integer=False),
    Interval("train.epochs", 1, 5, log=False, integer=True),
    Choice("schedule", ("constant", "cosine")),
]
FIXED = ["experiment=lenet_digits"]


def search(study, sampler="tpe", trials=12, space=SPACE, higher_is_better=False):
    settings = SweepConfig(sampler=sampler, trials=trials, metric="loss")
    study.add_part({"sweep": asdict(settings), "trials": []})
    return Search(study, settings, space, FIXED, higher_is_better)


def suggestions(one):
    """Yields what the sampler suggests; no test asks for as many as a hundred."""
    for _ in range(100):
        if (trial := one.suggest()) is None:
            return
        yield trial
    raise AssertionError("it suggests for ever")


def remembered(study):
    """Returns what the sampler's journal holds, as another process reads it."""
    storage = optuna().storages.JournalStorage(journal_backend(study.journal))
    return optuna().load_study(study_name=study.name, storage=storage)


@pytest.fixture
def study(tmp_path):
    made = StudyDir(tmp_path / "runs" / "s")
    made.create()
    return made


def end(study, trial, value):
    study.write_ended(
        Work(trial.run_id), {"phase": "done", "value": value, "epochs": 1.0, "reason": "DONE", "detail": None}
    )


@pytest.mark.parametrize("name", ["tpe", "cmaes", "qmc", "nsga2"])
def test_every_sampler_suggests_runs_within_the_space(study, name):
    one = search(study, name, trials=5)
    seen = []
    for trial in suggestions(one):
        assert 0.001 <= trial.params["optimizer.lr"] <= 1
        assert trial.params["train.epochs"] in range(1, 6)
        assert trial.config["optimizer"]["lr"] == trial.params["optimizer.lr"]
        end(study, trial, trial.params["optimizer.lr"])
        seen.append(trial.run_id)
    assert len(seen) == 5
    assert set(study.trials()) == set(seen)


def test_tpe_learns_from_what_has_ended(study, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")  # fixes the sampler's seed, which is otherwise the process's id
    one = search(study, trials=50)
    values = []
    for trial in suggestions(one):
        values.append(abs(trial.params["optimizer.lr"] - 0.03) + 0.01 * trial.params["train.epochs"])
        end(study, trial, values[-1])
    assert sum(values[25:]) < sum(values[:25])


ONE_RUN = [Choice("seed", ("7",))]


@pytest.mark.parametrize(("higher_is_better", "direction"), [(True, "MAXIMIZE"), (False, "MINIMIZE")])
def test_the_sampler_is_told_each_result_once(study, higher_is_better, direction):
    one, other = (search(study, trials=2, higher_is_better=higher_is_better) for _ in range(2))
    end(study, one.suggest(), 0.5)
    end(study, one.suggest(), None)  # it failed
    one.tell()
    other.tell()
    memory = remembered(study)
    assert memory.direction.name == direction
    assert [(t.state.name, t.values) for t in memory.trials] == [("COMPLETE", [0.5]), ("FAIL", None)]


def test_a_run_that_is_known_already_is_not_suggested_again(study):
    one = search(study, "qmc", trials=3, space=ONE_RUN)
    known = one.suggest()
    assert known.params == {"seed": 7}
    end(study, known, 0.5)
    # Suggestions two and three are the same run, whose result they have.
    assert one.suggest() is None
    assert [s["run_id"] for _, s in study.suggestions()] == [known.run_id] * 3
    assert [t.values for t in remembered(study).trials] == [[0.5]] * 3


def test_a_job_gives_up_if_it_only_finds_runs_that_are_known(study):
    one = search(study, "qmc", trials=100, space=ONE_RUN)
    end(study, one.suggest(), 0.5)
    assert one.suggest() is None
    assert len(list(study.suggestions())) == 1 + samplers.TRIES


def test_a_suggestion_that_another_job_was_faster_with_is_dropped(study, monkeypatch):
    one, publish = search(study, trials=1), study.add_suggestion

    def slow(trial, number, limit):
        assert publish(Trial("other", (), {}, {}), 99, limit)
        return publish(trial, number, limit)

    monkeypatch.setattr(study, "add_suggestion", slow)
    assert one.suggest() is None
    assert [s["run_id"] for _, s in study.suggestions()] == ["other"]
    assert [t.state.name for t in remembered(study).trials] == ["FAIL"]


def test_a_sweep_that_asks_for_no_runs_gets_none(study):
    one = search(study, trials=None)
    assert one.suggest() is None


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


@pytest.mark.parametrize(
    ("content", "whole"),
    [
        (b"", b""),
        (b"a\n", b"a\n"),
        (b"a\nb\n", b"a\nb\n"),
        (b"a\nb", b"a\n"),
        (b"ab", b""),
        (b"a\n" * 40_000 + b"b", b"a\n" * 40_000),
        (b"a\n" + b"b" * 100_000, b"a\n"),
    ],
)
def test_what_follows_the_last_line_is_cut(tmp_path, content, whole):
    path = tmp_path / "journal"
    path.write_bytes(content)
    cut_torn_line(path)
    assert path.read_bytes() == whole


def test_logs_are_lines_of_json(tmp_path):
    path = tmp_path / "journal"
    append(path, [{"a": 1, "b": [2]}])
    append(path, [{"c": "é"}, {"d": None}])
    assert path.read_text() == '{"a":1,"b":[2]}\n{"c":"\\u00e9"}\n{"d":null}\n'


def test_a_full_disk_is_said_and_leaves_a_whole_journal(study, monkeypatch):
    one = search(study)
    one.suggest()
    before = study.journal.read_bytes()

    def half(path, logs):
        with path.open("ab") as file:
            file.write(b'{"op_co')
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(samplers, "append", half)
    with pytest.raises(RunFailed) as raised:
        one.suggest()
    assert str(raised.value) == ("DISK_FULL: the study cannot be written: [Errno 28] No space left on device")
    assert study.journal.read_bytes() == before
    monkeypatch.undo()
    assert search(study).suggest() is not None


def test_a_journal_backend_reads_what_another_wrote(tmp_path):
    journal_backend(tmp_path / "j").append_logs([{"a": 1}, {"b": 2}])
    assert list(journal_backend(tmp_path / "j").read_logs(0)) == [{"a": 1}, {"b": 2}]


def test_the_journal_is_locked_while_it_is_written(tmp_path, monkeypatch):
    seen = []

    def look(path, logs):
        seen.append(sorted(file.name for file in tmp_path.iterdir()))
        append(path, logs)

    monkeypatch.setattr(samplers, "append", look)
    journal_backend(tmp_path / "j").append_logs([{"a": 1}])
    assert seen == [["j", "j.lock"]]
    assert [file.name for file in tmp_path.iterdir()] == ["j"]


def test_a_study_that_cannot_begin_says_why(study, monkeypatch):
    def broken(path, logs):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(samplers, "append", broken)
    with pytest.raises(RunFailed, match=r"^STORAGE_ERROR: the study cannot be written: "):
        search(study)


def test_the_space_in_optunas_words():
    kinds = optuna().distributions
    assert distributions(SPACE) == {
        "optimizer.lr": kinds.FloatDistribution(0.001, 1.0, log=True),
        "train.epochs": kinds.IntDistribution(1, 5),
        "schedule": kinds.CategoricalDistribution(["constant", "cosine"]),
    }
    width = Interval("model.hidden", 16, 256, log=True, integer=True)
    share = Interval("optimizer.momentum", 0.0, 0.9, log=False, integer=False)
    assert distributions([width, share]) == {
        "model.hidden": kinds.IntDistribution(16, 256, log=True),
        "optimizer.momentum": kinds.FloatDistribution(0.0, 0.9),
    }
    # Numbers in a list are categories, as they were written.
    assert distributions([Choice("x", ("1e-3", "0.1"))])["x"].choices == ("1e-3", "0.1")


def test_parameters_become_overrides():
    params = {"schedule": "cosine", "train.epochs": 3.0, "optimizer.lr": 0.12345678}
    assert written(SPACE, params) == ("optimizer.lr=0.123457", "train.epochs=3", "schedule=cosine")


def asked(name, seed=0):
    """Returns the first parameters that a new sampler draws."""
    made = optuna().create_study(
        sampler=sampler(SweepConfig(sampler=name, trials=9, metric="loss", seed=seed))
    )
    space = distributions(SPACE)
    return [tuple(made.ask(space).params.values()) for _ in range(4)]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("tpe", "TPESampler"),
        ("cmaes", "CmaEsSampler"),
        ("gp", "GPSampler"),
        ("qmc", "QMCSampler"),
        ("nsga2", "NSGAIISampler"),
    ],
)
def test_each_job_draws_from_a_stream_of_its_own(monkeypatch, name, kind):
    assert type(sampler(SweepConfig(sampler=name))).__name__ == kind
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    first = asked(name)
    assert asked(name) == first
    assert asked(name, seed=1) != first
    monkeypatch.setenv("SLURM_JOB_ID", "2")
    # The points of a Sobol sequence are one stream for all jobs, which take turns in it.
    assert (asked(name) == first) == (name == "qmc")


def test_a_study_draws_from_its_own_sampler(study, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    params = dict(zip((s.key for s in SPACE), asked("nsga2")[0], strict=True))
    assert search(study, "nsga2").suggest().overrides == written(SPACE, params)


def test_a_process_outside_of_slurm_has_a_stream_of_its_own(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    streams = []
    for pid in (1, 2, 1):
        monkeypatch.setattr("os.getpid", lambda pid=pid: pid)
        streams.append(asked("tpe"))
    assert streams[0] == streams[2] != streams[1]


def test_cmaes_needs_its_package(monkeypatch):
    settings = SweepConfig(sampler="cmaes", trials=2, metric="loss")
    check_sampler(settings)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "cmaes" else object())
    with pytest.raises(UserError) as raised:
        check_sampler(settings)
    assert str(raised.value) == "sweep.sampler=cmaes: needs the package: pip install 'hpctrain[sweep]'"
    check_sampler(SweepConfig(sampler="nsga2", trials=2, metric="loss"))


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_importance_finds_what_matters(higher_is_better):
    params = {"lr": [0.01 * (n % 10 + 1) for n in range(60)], "seed": [n % 3 for n in range(60)]}
    sign = -1 if higher_is_better else 1
    values = [sign * (p - 0.05) ** 2 for p in params["lr"]]
    shares = importances(params, values, higher_is_better)
    assert list(shares) == ["lr", "seed"]
    assert shares["lr"] > 0.8 > 0.2 > shares["seed"]


def test_importance_is_what_matters_among_the_better_runs():
    # Lower is better below a = 5, where a decides; above, b decides.
    runs = [(a, b) for a in range(10) for b in range(10)]
    params = {"a": [float(a) for a, _ in runs], "b": [float(b) for _, b in runs]}
    values = [a if a < 5 else 10.0 + b for a, b in runs]
    low, high = (importances(params, values, higher_is_better) for higher_is_better in (False, True))
    assert low["a"] > low["b"]
    assert high["b"] > high["a"]


def test_many_numbers_are_a_range_and_many_words_are_not():
    # As words, both would matter alike, as every value stands alone.
    places = random.Random(0).sample(range(60), 60)
    params = {"lr": [10 ** (-n / 12) for n in range(60)], "noise": [n / 60 for n in places]}
    values = [abs(n - 30.0) for n in range(60)]
    assert importances(params, values, higher_is_better=False)["lr"] > 0.9
    words = {"name": [f"w{n % 10}" for n in range(60)], "other": [f"v{n // 10}" for n in range(60)]}
    shares = importances(words, [float(n % 10) for n in range(60)], higher_is_better=False)
    assert shares["name"] > 0.9


def test_words_and_switches_have_an_importance_too():
    params = {
        "schedule": ["cosine", "step"] * 20,
        "nesterov": [True] * 20 + [False] * 20,
        "clip": [None, 1.0, None, 0.1] * 10,
    }
    shares = importances(params, [0.1] * 20 + [1.0] * 20, higher_is_better=False)
    assert max(shares, key=shares.get) == "nesterov"
    assert set(shares) == set(params)


def test_nothing_swept_has_no_importance():
    assert importances({}, [1.0, 2.0], higher_is_better=True) == {}


def test_an_optuna_that_is_missing_or_too_old_is_said(monkeypatch):
    """hydra-optuna-sweeper brings Optuna 2.10: a search says so, a report does without the importance."""
    for module, said in (
        (None, "needs Optuna: pip install 'hpctrain[sweep]'"),
        (
            SimpleNamespace(__version__="3.6.2"),
            "needs Optuna 4 or newer, and 3.6.2 is installed: pip install 'hpctrain[sweep]'",
        ),
    ):
        monkeypatch.setitem(sys.modules, "optuna", module)
        with pytest.raises(UserError) as raised:
            check_sampler(SweepConfig(sampler="tpe", trials=2, metric="loss"))
        assert str(raised.value) == f"sweep.sampler=: {said}"
        assert importances({"lr": [0.1, 0.2]}, [1.0, 2.0], higher_is_better=True) == {}


def test_optuna_4_is_enough(monkeypatch):
    four = SimpleNamespace(
        __version__="4.0.0",
        logging=SimpleNamespace(ERROR=40, set_verbosity=lambda level: None),
        exceptions=SimpleNamespace(ExperimentalWarning=FutureWarning),
    )
    monkeypatch.setitem(sys.modules, "optuna", four)
    with warnings.catch_warnings():
        assert optuna() is four


def test_optuna_says_nothing_below_an_error():
    library = optuna()
    library.logging.set_verbosity(library.logging.INFO)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optuna()
        warnings.warn("this sampler is new", library.exceptions.ExperimentalWarning, stacklevel=1)
    assert library.logging.get_verbosity() == library.logging.ERROR


def test_importance_leaves_other_packages_as_they_are():
    code = (
        "import sys; from hpctrain.sweep.samplers import importances as i\n"
        "i({'lr': [n / 9 for n in range(9)]}, list(range(9)), True)\n"
        "assert 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def _suggest_some(path, queue):
    got = []
    try:
        got += [trial.run_id for trial in suggestions(search(StudyDir(path), trials=12))]
    finally:
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
