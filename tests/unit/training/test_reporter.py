"""What a run says: records to its loggers, from where the checkpoint stands."""

import contextlib
import json

import pytest

from hpctrain.data.derive import load
from hpctrain.errors import RunFailed
from hpctrain.storage.records import SummaryRecord, TrainRecord, ValidationRecord
from hpctrain.storage.run_dir import RunDir
from hpctrain.training import reporter
from hpctrain.training.logger import Start
from hpctrain.training.reporter import LOGGERS, Reporter, chosen_loggers, shown

SCORES = {"loss": 0.5}


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path)


def lines(run):
    return [json.loads(line) for line in run.metrics_file.read_text().splitlines()]


def test_a_new_logger_is_one_line_of_the_table(run, monkeypatch):
    class Toy:
        def __init__(self, run, start):
            self.start, self.records, self.open = start, [], True
            toys.append(self)

        def record(self, record):
            self.records.append(record)

        def close(self):
            self.open = False

    toys = []
    monkeypatch.setitem(LOGGERS, "toy", Toy)
    names = chosen_loggers(load(["lenet_digits"]).train)
    assert names == ["json_lines", "toy"]
    with contextlib.closing(Reporter(run, 3, True, names)) as report:
        report.begin(7, 5)
        report.record(ValidationRecord(7, 0.5, SCORES))
        assert toys[0].open
    (toy,) = toys
    assert (toy.start, toy.records, toy.open) == (Start(3, 7, 5), [ValidationRecord(7, 0.5, SCORES)], False)
    assert lines(run)[0]["scores"] == SCORES


def test_a_setting_turns_a_logger_on():
    config = load(["lenet_digits", "train.tensorboard=true"])
    assert chosen_loggers(config.train) == ["json_lines", "tensorboard"]


def test_tensorboard_has_scores_and_figures(run, monkeypatch):
    seen = {}

    class Writer:
        def __init__(self, folder):
            assert folder == str(run.tensorboard)

        def add_scalar(self, name, value, step):
            seen[name, step] = value

        def close(self):
            seen["closed"] = True

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", Writer)
    with contextlib.closing(Reporter(run, 1, True, ["tensorboard"])) as report:
        report.begin(0, 0)
        report.record(TrainRecord(4, 0.5, 64, 0.1, SCORES, window_s=2.0, window_steps=4))
        report.record(ValidationRecord(8, 1.0, SCORES))
    wanted = {
        "train/loss": 0.5,
        "train/lr": 0.1,
        "train/epoch": 0.5,
        "train/window_s": 2.0,
        "train/flops": 0.0,
    }
    assert seen == {(name, 4): value for name, value in wanted.items()} | {
        ("validation/loss", 8): 0.5, ("validation/epoch", 8): 1.0, "closed": True,
    }  # fmt: skip


def test_an_attempt_drops_records_of_work_that_it_does_again(run):
    old = {"kind": "train", "attempt": 1, "step": 4, "loss": 1.0, "window_steps": 4}
    run.metrics_file.write_text(json.dumps(old) + "\n" + json.dumps(old | {"step": 6, "cut": True}) + "\n")
    with contextlib.closing(Reporter(run, 1, True)) as report:
        report.begin(10, 8)
        for step in (8, 10, 12):
            report.record(TrainRecord(step))
            report.record(ValidationRecord(step))
        report.record(TrainRecord(10, cut=True))
        report.record(SummaryRecord(10, "INTERRUPTED"))
    with contextlib.closing(Reporter(run, 2, True)) as report:
        report.begin(10, 8)
        report.record(TrainRecord(11))
    assert [(r["attempt"], r["kind"], r["step"]) for r in lines(run)] == [
        (1, "train", 4), (1, "train", 8), (1, "validation", 8), (1, "train", 10), (1, "summary", 10), (2, "train", 11),
    ]  # fmt: skip
    assert lines(run)[0] == old


def test_other_ranks_say_nothing(run, capsys):
    with contextlib.closing(Reporter(run, 1, False, ["json_lines", "tensorboard"])) as report:
        report.begin(0, 0)
        report.record(TrainRecord(1))
        report.beat(now=True, phase="running")
        report.say("a line")
    assert list(run.path.iterdir()) == []
    assert capsys.readouterr().out == ""


def test_starts_at_the_same_step_are_no_progress(run):
    report = Reporter(run, 1, True)
    for step in (0, 5, 5, 5):
        report.check_progress(step)
    with pytest.raises(RunFailed, match="began at step 5"):
        report.check_progress(5)
    report.close()


def test_a_heartbeat_is_written_once_in_a_while_unless_now(run, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(reporter.time, "monotonic", lambda: now[0])
    report = Reporter(run, 1, True)
    report.beat(now=True, step=1)
    report.beat(step=2)  # too soon
    assert run.read_state().step == 1
    now[0] += reporter.HEARTBEAT_S
    report.beat(step=3)
    report.close()
    assert run.read_state().step == 3


def test_figures_as_one_line():
    figures = {"loss": 0.29841, "accuracy": None, "samples_per_s": 11000.4, "flops": 1e9, "mfu": 0.125}
    assert shown(figures) == "loss 0.2984, 11,000 samples/s, 12.5% of peak"
