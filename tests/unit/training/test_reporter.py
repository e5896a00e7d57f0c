"""What a run says: records to its loggers, from where the checkpoint stands."""

import contextlib
import errno
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
    return RunDir(tmp_path).held_by(lambda: True)


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
    settings = load(["lenet_digits"]).train
    before = chosen_loggers(settings)
    monkeypatch.setitem(LOGGERS, "toy", Toy)
    names = chosen_loggers(settings)
    assert names == [*before, "toy"]
    with contextlib.closing(Reporter(run, 3, True, names)) as report:
        report.begin(7, 5)
        report.record(ValidationRecord(7, 0.5, SCORES))
        assert toys[0].open
    (toy,) = toys
    assert (toy.start, toy.records, toy.open) == (Start(3, 7, 5), [ValidationRecord(7, 0.5, SCORES)], False)
    assert lines(run)[0]["scores"] == SCORES


def test_a_setting_turns_a_logger_on():
    off, on = load(["lenet_digits"]).train, load(["lenet_digits", "train.tensorboard=true"]).train
    assert "json_lines" in chosen_loggers(off)
    assert {*chosen_loggers(on)} - {*chosen_loggers(off)} == {"tensorboard"}


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


def test_the_first_saved_step_of_an_attempt_is_noted_beside_its_logs(run):
    run.attempt(3).mkdir(parents=True)
    with contextlib.closing(Reporter(run, 3, True)) as report:
        report.beat(now=True, step=1, checkpoint=None)
        assert list(run.attempt(3).iterdir()) == []
        for step in (5, 9):
            report.beat(now=True, step=step, checkpoint=step)
    assert json.loads((run.attempt(3) / "saved.json").read_text()) == 5


class FullAt:
    """In place of a file of the system: `room` bytes fit, then writes fail until there is room again."""

    def __init__(self, file, room):
        self._file, self.room = file, room

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = self._file.write(data[: self.room])
        self.room -= count
        return count

    def __getattr__(self, name):
        return getattr(self._file, name)


@pytest.mark.parametrize("room", [0, 1, 150, 10_000])
def test_a_record_that_a_full_disk_refused_is_written_with_the_next(run, room, capsys):
    with contextlib.closing(Reporter(run, 1, True)) as report:
        report.begin(0, 0)
        report.record(TrainRecord(1))
        ((logger, _),) = report._loggers
        logger._file = FullAt(logger._file, room)
        for step in (2, 3):
            report.record(TrainRecord(step))
        whole = [line["step"] for line in lines(run)]  # no torn line
        assert whole == [1, 2, 3][: len(whole)]
        logger._file.room = 10**6
        report.record(TrainRecord(4))
    assert [line["step"] for line in lines(run)] == [1, 2, 3, 4]
    assert ("not written" in capsys.readouterr().out) == (room < 10_000)


def test_records_that_find_no_room_at_the_end_are_left_out_with_a_note(run, capsys):
    with contextlib.closing(Reporter(run, 1, True)) as report:
        report.begin(0, 0)
        report.record(TrainRecord(1))
        report._loggers[0][0]._file = FullAt(report._loggers[0][0]._file, 20)
        report.record(TrainRecord(2))
    assert [line["step"] for line in lines(run)] == [1]
    assert "the last records not written" in capsys.readouterr().out


def test_records_that_find_no_room_for_long_end_the_run(run, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with contextlib.closing(Reporter(run, 1, True)) as report:
        report.begin(0, 0)
        report._loggers[0][0]._file = FullAt(report._loggers[0][0]._file, 0)
        report.record(TrainRecord(1))
        now[0] += reporter.UNTOLD_S
        with pytest.raises(RunFailed, match="DISK_FULL"):
            report.record(TrainRecord(2))


def test_a_torn_line_of_a_killed_attempt_is_dropped_and_nothing_else(run):
    whole = json.dumps({"kind": "train", "attempt": 1, "step": 4, "scores": {}}) + "\n"
    run.metrics_file.write_text(whole + '{"kind": "tr')
    with contextlib.closing(Reporter(run, 2, True)) as report:
        report.begin(4, 0)
        report.record(TrainRecord(8))
    assert [line["step"] for line in lines(run)] == [4, 8]


def test_a_file_that_stays_as_it_is_needs_no_room(run, monkeypatch):
    with contextlib.closing(Reporter(run, 1, True)) as report:
        report.begin(0, 0)
        report.record(TrainRecord(1))
    monkeypatch.setattr("hpctrain.training.json_lines.replace_text", lambda *_: pytest.fail("copied"))
    with contextlib.closing(Reporter(run, 2, True)) as report:
        report.begin(1, 0)


@pytest.fixture
def full(monkeypatch):
    """A disk on which state.json cannot be replaced while the switch is on."""
    from hpctrain.storage import run_state

    real, switch = run_state.replace_text, [False]

    def replace_text(path, text):
        if switch[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, text)

    monkeypatch.setattr(run_state, "replace_text", replace_text)
    return switch


def test_what_a_failed_heartbeat_was_to_say_the_next_one_says(run, full, monkeypatch, capsys):
    monkeypatch.setattr(reporter, "HEARTBEAT_S", 0.0)
    report = Reporter(run, 1, True)
    report.beat(now=True, step=1)
    full[0] = True
    report.beat(step=2, checkpoint=2)
    report._beating.exception()
    report.beat(step=3)
    report._beating.exception()
    full[0] = False
    report.beat(step=4)
    report.close()
    state = run.read_state()
    assert (state.step, state.checkpoint) == (4, 2)
    assert capsys.readouterr().out.count("heartbeat not written") == 1


def test_heartbeats_that_find_no_room_for_long_end_the_run(run, full, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    report = Reporter(run, 1, True)
    full[0] = True
    for _ in range(3):
        report.beat(step=1)
        report._beating.exception()
        now[0] += reporter.UNTOLD_S / 2
    with pytest.raises(RunFailed, match="DISK_FULL: heartbeat cannot be written"):
        report.beat(step=1)
    report.close()


def test_tensorboard_begins_another_file_after_a_full_disk(run, monkeypatch):
    files = []

    class Writer:
        def __init__(self, folder):
            files.append([])
            self.figures = files[-1]

        def add_scalar(self, name, value, step):
            if len(files) == 1 and step == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.figures.append((name, step))

        def close(self):
            self.figures.append("closed")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", Writer)
    with contextlib.closing(Reporter(run, 1, True, ["tensorboard"])) as report:
        report.begin(0, 0)
        for step in (1, 2, 3):
            report.record(ValidationRecord(step, 1.0, SCORES))
    both = lambda step: [("validation/epoch", step), ("validation/loss", step)]  # noqa: E731
    assert [sorted(files[0]), sorted(files[1][:2]), files[1][2:]] == [both(1), both(3), ["closed"]]


def test_figures_as_one_line():
    figures = {"loss": 0.29841, "accuracy": None, "samples_per_s": 11000.4, "flops": 1e9, "mfu": 0.125}
    assert shown(figures) == "loss 0.2984, 11,000 samples/s, 12.5% of peak"
