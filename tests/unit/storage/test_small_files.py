"""Small files that anything may have happened to: what is read of them, and what is said of what cannot be."""

import json
import os
import pickle
import socket
from pathlib import Path

import pytest

from hpctrain.errors import Damaged, UserError
from hpctrain.storage import rebuild
from hpctrain.storage.json_files import MOST_BYTES, load, read_small, replace_text
from hpctrain.storage.records import Damage, last_record, read_lines, train_records
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import RunState, StateFile
from tests import damages

pytestmark = pytest.mark.usefixtures("at_once")


def as_socket(path):
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path may not be long
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(here)


DAMAGES = {
    "a pipe": (os.mkfifo, "not a regular file"),
    "a folder": (Path.mkdir, "not a regular file"),
    "a socket": (as_socket, "not a regular file"),
    "a link": (damages.link, "not a regular file"),
    "50 MB": (damages.huge, f"larger than {MOST_BYTES // 2**20} MiB"),
    "nothing": (Path.touch, "empty"),
    "half": (lambda path: path.write_text('{"phase": "done", "st'), "not JSON: EOF"),
    "binary": (lambda path: path.write_bytes(bytes(range(256))), "not JSON"),
    "deep": (lambda path: path.write_text("[" * 100_000), "not JSON: recursion limit"),
    "a list": (lambda path: path.write_text("[1]"), "should be an object"),
    "a word for a number": (lambda path: path.write_text('{"step": "x"}'), "step: input should be a valid integer"),
    "a phase that is none": (lambda path: path.write_text('{"phase": 5}'), "phase: input should be"),
    "no number": (lambda path: path.write_text('{"heartbeat": NaN}'), "heartbeat: input should be a finite number"),
    "a huge number": (lambda path: path.write_text('{"step": 1%s}' % ("0" * 400)), "step: "),
    "a negative number": (lambda path: path.write_text('{"attempt": -1}'), "attempt: "),
    "half a letter": (lambda path: path.write_text('{"detail": "\\ud800"}'), "not JSON: "),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_wrong_with_a_file_is_said_and_nothing_waits_for_it(name, tmp_path):
    damage, why = DAMAGES[name]
    path = tmp_path / "state.json"
    damage(path)
    with pytest.raises(Damaged) as said:
        load(path, RunState)
    assert why in said.value.why
    assert str(said.value) == f"{path} is damaged ({said.value.why})"
    state = StateFile(path)
    assert why in state.read().damage
    assert state.read_with_age(5.0)[1] is None
    state.submitted()  # whoever may write the state heals it
    assert (state.read().phase, state.read().damage) == ("submitted", None)


def test_missing_and_whole_are_no_damage(tmp_path):
    path = tmp_path / "state.json"
    assert load(path, RunState) is None
    path.write_text('{"phase": "running", "step": 3, "figures": {"loss": NaN}, "of_a_later_version": []}')
    assert (load(path, RunState).phase, load(path, RunState).step) == ("running", 3)
    with pytest.raises(FileNotFoundError):
        read_small(tmp_path / "none")


def test_a_device_is_not_read():
    with pytest.raises(Damaged, match="not a regular file"):
        read_small(Path("/dev/zero"))


def test_the_error_may_go_to_another_process():
    error = pickle.loads(pickle.dumps(Damaged("/runs/x/state.json", "empty")))
    assert (str(error), error.why) == ("/runs/x/state.json is damaged (empty)", "empty")


def test_a_folder_in_the_way_is_kept_beside_the_file(tmp_path):
    path = tmp_path / "pause.json"
    path.mkdir()
    (path / "somebody's").touch()
    replace_text(path, "{}")
    assert path.read_text() == "{}"
    assert [p.name for p in tmp_path.rglob("somebody's")] == ["somebody's"]


SUMMARY = {"kind": "summary", "attempt": 1, "time": 9.0, "step": 40, "reason": "DONE", "train_s": 2.5}
TRAIN = {"kind": "train", "attempt": 1, "time": 5.0, "step": 30, "epoch": 1.5, "scores": {"loss": 0.5}}


class Folder(RunDir):
    """A run's folder, of which the state is lost."""

    def begin(self, number=1, token="local-x", **outcomes):
        self.attempt(number).mkdir(parents=True, exist_ok=True)
        (self.attempt(number) / "token").write_text(token)
        for rank, outcome in outcomes.items():
            who = {"rank": int(rank[1:]), "outcome": outcome, "host": "n1", "time": float(rank[1:])}
            self.rank_file(number, int(rank[1:])).write_text(json.dumps(who))

    def record(self, *lines):
        self.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def submitted(self, *scripts, config="cluster: {name: c, kind: slurm, slurm_conf: /etc/c.conf}"):
        self.submitit.mkdir()
        self.config_file.write_text(config)
        for number, token in scripts:
            (self.submitit / f"{number}_submission.sh").write_text(
                f"#!/bin/bash\n#SBATCH --comment=hpctrain:{self.run_id}:{token}\n"
                f"#SBATCH --output={self.submitit}/%j_0_log.out\n"
            )


@pytest.fixture
def run(tmp_path):
    (tmp_path / "s" / "net-1").mkdir(parents=True)
    return Folder(tmp_path / "s" / "net-1")


class TestState:
    def test_a_run_that_never_began_has_no_damage(self, run):
        assert run.read_state() == RunState()

    def test_one_that_has_reached_its_end_is_done(self, run):
        run.begin(r0="DONE")
        run.record(TRAIN, SUMMARY)
        state = run.read_state()
        assert (state.phase, state.reason, state.step, state.attempt) == ("done", "DONE", 40, 1)
        assert (state.summary, state.damage) == ({"train_s": 2.5}, rebuild.MISSING)

    def test_one_that_failed_says_why(self, run):
        run.begin(r0="running", r1="OUT_OF_MEMORY")
        run.record(TRAIN)
        run.claim_failure(1, {"rank": 1, "reason": "OUT_OF_MEMORY", "detail": "a tensor", "host": "n1"})
        state = run.read_state()
        assert (state.phase, state.reason, state.detail, state.rank) == (
            "failed",
            "OUT_OF_MEMORY",
            "a tensor",
            1,
        )
        assert (state.step, state.epoch, state.figures) == (30, 1.5, {"loss": 0.5})

    def test_a_rank_s_own_word_does_if_there_is_no_other(self, run):
        run.begin(r0="running", r1="DATA_ERROR", r2="COLLECTIVE_TIMEOUT")
        assert (run.read_state().reason, run.read_state().rank) == ("DATA_ERROR", 1)

    def test_one_that_is_at_work_is_known_by_its_last_sign(self, run):
        run.begin(r0="running", r1="running")
        os.utime(run.rank_file(1, 0), (1000.0, 1000.0))
        os.utime(run.rank_file(1, 1), (900.0, 900.0))
        state, age_s = run.state.read_with_age(1040.0)
        assert (state.phase, state.ranks, age_s) == ("running", 2, 40.0)

    def test_one_whose_next_job_waits_is_submitted(self, run):
        run.begin(token="slurm-7.0", r0="ERROR")
        run.submitted((7, "a"), (8, "b"))
        assert run.read_state().phase == "submitted"
        run.begin(2, token="slurm-8.0", r0="PREEMPTED")
        assert (run.read_state().phase, run.read_state().job_id) == ("requeued", "8")

    def test_an_older_summary_is_no_end_of_this_attempt(self, run):
        run.begin(1, r0="TIME_LIMIT")
        run.begin(2, r0="running")
        run.record(SUMMARY | {"reason": "TIME_LIMIT"}, TRAIN | {"step": 45, "attempt": 2})
        assert (run.read_state().phase, run.read_state().step) == ("running", 45)

    def test_the_next_writer_keeps_what_was_found(self, run):
        run.begin(r0="running")
        run.record(TRAIN)
        run.state_file.write_bytes(b"\0" * 512)
        assert "not JSON" in run.read_state().damage
        run.state.beat(detail=None)
        assert (run.read_state().step, run.read_state().phase, run.read_state().damage) == (
            30,
            "running",
            None,
        )


class TestSubmission:
    def test_the_scripts_tell_the_jobs(self, run):
        run.submitted((7, "a"), (8, "b"), (9, "b"))
        run.submission_file.write_text('{"job_ids": "789"}')
        found = run.submission.read()
        assert (found.job_ids, found.newest, found.token) == (("7", "8", "9"), 2, "b")
        assert (found.cluster, found.slurm_conf, found.path) == ("c", "/etc/c.conf", str(run.path))
        assert found.damage.startswith("job_ids: ")
        assert found.in_slurm
        assert [found.has_passed(job) for job in ("7", "8", "9")] == [True, False, False]

    def test_without_scripts_there_may_be_jobs(self, run):
        run.submitted()
        run.submission_file.mkdir()
        assert run.submission.read().in_slurm

    def test_a_run_on_this_machine_has_none(self, run):
        run.submitted(config="cluster: {name: local, kind: local}")
        run.submission_file.touch()
        assert not run.submission.read().in_slurm

    def test_a_missing_one_matters_if_there_were_jobs(self, run):
        assert run.submission.read().damage is None
        run.submitted((7, "a"))
        assert (run.submission.read().damage, run.submission.read().in_slurm) == (rebuild.MISSING, True)
        run.submission.write(run.submission.read())
        assert "damage" not in json.loads(run.submission_file.read_text())


class TestOthers:
    def test_a_rank_or_a_failure_that_is_damaged_says_nothing(self, run):
        run.begin(r0="running")
        os.mkfifo(run.rank_file(1, 1))
        run.rank_file(1, 2).write_text('{"rank": "2", "outcome": "running"}')
        os.mkfifo(run.attempt(1) / "failure.json")
        assert [who["rank"] for who in run.rank_files(1)] == [0]
        assert run.failure(1) is None

    @pytest.mark.parametrize("text", ["", "[]", '{"epochs": "3"}', '{"epochs": 0}', '{"epochs": null}'])
    def test_a_damaged_pause_is_not_taken_for_none(self, run, text):
        run.pause_file.write_text(text)
        with pytest.raises(Damaged, match=r"pause.json is damaged"):
            run.read_pause()

    @pytest.mark.parametrize(
        ("content", "why"),
        [(b"", "empty"), (b"\0\1", "damaged ("), (b"[1, 2]", "not a table"), (b"a: [1", "line 2"),
         (b"\xff\xfe\xfa", "decode"), (b"# only this\n", "empty"), (b"1: 2", "not a table")],
    )  # fmt: skip
    def test_a_damaged_configuration_is_one_line_with_its_name(self, run, content, why):
        run.config_file.write_bytes(content)
        with pytest.raises(UserError) as said:
            run.read_config()
        assert why in str(said.value)
        assert said.value.value == run.config_file
        assert "\n" not in str(said.value)

    def test_an_attempt_s_token_that_is_a_pipe_is_passed_over(self, run):
        run.begin(1)
        (run.attempt(1) / "token").unlink()
        os.mkfifo(run.attempt(1) / "token")
        assert run.attempt_of("local-x") is None


GARBAGE = {
    "binary": bytes(range(256)),
    "a cut line": b'{"kind": "train", "st',
    "zeros": b"\0" * 4096,
    "another type": b'{"kind": "train", "step": "x"}\n',
    "no table of scores": b'{"kind": "train", "step": 31, "scores": [1]}\n',
    "deep": b"[" * 100_000 + b"\n",
}


class TestRecords:
    @pytest.mark.parametrize("name", GARBAGE)
    def test_garbage_at_the_end_is_passed_over(self, run, name):
        run.record(TRAIN)
        with run.metrics_file.open("ab") as file:
            file.write(GARBAGE[name])
        damage = Damage()
        assert list(read_lines(run.metrics_file, damage)) == [TRAIN]
        assert damage.lines >= 1
        assert [record.step for record in train_records(run.metrics_file)] == [30]
        assert last_record(run.metrics_file).step == 30

    def test_what_is_no_file_has_no_last_record(self, run):
        os.mkfifo(run.metrics_file)
        assert last_record(run.metrics_file) is None
