"""What a run's other files say if its state or its submission is missing or damaged."""

import json
import os

import pytest

from hpctrain.storage import rebuild
from hpctrain.storage.run_state import RunState, Submission

SUMMARY = {"kind": "summary", "attempt": 1, "time": 9.0, "step": 40, "reason": "DONE", "train_s": 2.5}
TRAIN = {"kind": "train", "attempt": 1, "time": 5.0, "step": 30, "epoch": 1.5, "scores": {"loss": 0.5}}


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

    @pytest.mark.parametrize(
        ("why", "open_", "phase"),
        [(None, True, "new"), ("empty", True, "submitted"), ("empty", False, "new"), (None, False, "new")],
    )
    def test_one_that_never_began_waits_if_its_state_is_damaged_and_it_may_have_jobs(
        self, run, why, open_, phase
    ):
        submission = Submission(cluster="c", open=open_)
        assert rebuild.state(run.path, submission, why) == RunState(phase, damage=why)

    def test_one_that_waits_keeps_what_it_had_reached(self, run):
        run.begin(token="slurm-7.0", r0="ERROR")
        run.record(TRAIN)
        os.utime(run.rank_file(1, 0), (900.0, 900.0))
        os.utime(run.metrics_file, (1000.0, 1000.0))
        submission = Submission(cluster="c", job_ids=("7", "8"))
        assert rebuild.state(run.path, submission, "empty") == RunState(
            "submitted", attempt=1, ranks=1, job_id="7", heartbeat=1000.0, damage="empty", step=30, epoch=1.5,
            figures={"loss": 0.5},
        )  # fmt: skip

    def test_an_attempt_whose_ranks_left_nothing_has_no_last_sign(self, run):
        run.begin()
        assert run.read_state() == RunState("running", attempt=1, damage=rebuild.MISSING)

    @pytest.mark.parametrize(
        ("reason", "phase"),
        [
            ("ERROR", "failed"),
            ("CANCELLED", "cancelled"),
            ("PREEMPTED", "failed"),
            ("OF_A_LATER_VERSION", "failed"),
        ],
    )
    def test_a_failure_s_reason_tells_the_phase(self, run, reason, phase):
        run.begin(r0="running")
        run.claim_failure(1, {"rank": 0, "reason": reason, "detail": "a word"})
        state = run.read_state()
        assert (state.phase, state.reason, state.detail, state.rank) == (phase, reason, "a word", 0)

    @pytest.mark.parametrize(
        ("ranks", "in_slurm", "phase", "reason", "rank"),
        [
            ([{"outcome": "DONE"}, {"outcome": "DONE"}], False, "done", "DONE", None),
            ([{"outcome": "DONE"}, {"outcome": "running"}], False, "running", None, None),
            ([{"outcome": "TIME_LIMIT"}, {"outcome": "TIME_LIMIT"}], False, "interrupted", "TIME_LIMIT", None),
            ([{"outcome": "TIME_LIMIT"}, {"outcome": "TIME_LIMIT"}], True, "requeued", "TIME_LIMIT", None),
            ([{"outcome": "TIME_LIMIT"}, {"outcome": "ERROR"}], True, "failed", "ERROR", 1),
            ([{"outcome": "OF_LATER"}, {"outcome": "running"}], True, "failed", "OF_LATER", 0),
            # The first to fail speaks; who does not say when was the first.
            ([{"outcome": "ERROR", "time": 5}, {"outcome": "LOST", "time": 3}], False, "failed", "LOST", 1),
            ([{"outcome": "ERROR", "time": 0.5}, {"outcome": "DATA_ERROR"}], False, "failed", "DATA_ERROR", 1),
        ],
    )  # fmt: skip
    def test_the_ranks_outcomes_come_to_one(self, run, ranks, in_slurm, phase, reason, rank):
        run.begin(token="slurm-7.0")
        for number, who in enumerate(ranks):
            run.rank_file(1, number).write_text(json.dumps({"rank": number} | who))
        submission = Submission(cluster="c" if in_slurm else "local", job_ids=("7",))
        state = rebuild.state(run.path, submission, None)
        assert (state.phase, state.reason, state.rank) == (phase, reason, rank)

    @pytest.mark.parametrize(
        ("told", "detail"), [({"detail": "a tensor"}, "a tensor"), ({"detail": ""}, None), ({}, None)]
    )
    def test_a_rank_s_own_words_are_kept(self, run, told, detail):
        run.begin()
        run.rank_file(1, 0).write_text(json.dumps({"rank": 0, "outcome": "ERROR"} | told))
        assert run.read_state().detail == detail

    def test_a_summary_of_another_end_leaves_the_word_to_the_ranks(self, run):
        run.begin(r0="TIME_LIMIT")
        run.record(SUMMARY | {"reason": "TIME_LIMIT"})
        state = run.read_state()
        assert (state.phase, state.reason, state.summary) == ("interrupted", "TIME_LIMIT", {"train_s": 2.5})


class TestSubmission:
    def script(self, run, job_id, text):
        run.submitit.mkdir(exist_ok=True)
        (run.submitit / f"{job_id}_submission.sh").write_bytes(text)

    def test_scripts_tell_all_but_what_was_not_in_them(self, run):
        run.submitted((10, "b"), (9, "a"))
        (run.submitit / "10_0_log.out").touch()
        assert rebuild.submission(run.path, None) == Submission(
            cluster="c", token="b", job_ids=("9", "10"), newest=1, open=True, slurm_conf="/etc/c.conf",
            known_as={"9": ("hpctrain:net-1:a", ""), "10": ("hpctrain:net-1:b", "")}, path=str(run.path),
            damage=rebuild.MISSING,
        )  # fmt: skip

    def test_scripts_that_say_nothing_are_jobs(self, run):
        self.script(run, 7, b"#!/bin/bash\n# \xff\n")
        assert rebuild.submission(run.path, "empty") == Submission(
            cluster="unknown", job_ids=("7",), newest=1, open=True, known_as={"7": ("", "")}, damage="empty"
        )

    def test_a_folder_s_percent_signs_were_doubled_for_sbatch(self, run):
        self.script(run, 7, b"#SBATCH --output='/runs/50%%/net-1/submitit/%j_0_log.out'\n")
        assert rebuild.submission(run.path, None).path == "/runs/50%/net-1"

    def test_a_script_that_others_could_have_written_is_no_job(self, run):
        run.submitted((7, "a"), (8, "b"))
        (run.submitit / "8_submission.sh").chmod(0o666)
        assert rebuild.submission(run.path, None).job_ids == ("7",)

    @pytest.mark.parametrize(
        ("config", "cluster", "slurm_conf"),
        [
            ("cluster: {name: c, kind: slurm, slurm_conf: ~/c.conf}", "c", "/home/me/c.conf"),
            ("cluster: {name: c, kind: slurm, slurm_conf: null}", "c", None),
            ("cluster: {name: c, kind: slurm, slurm_conf: 7}", "c", None),
            ("cluster: {kind: slurm}", "unknown", None),
            ("cluster: c", "unknown", None),
            ("seed: 1", "unknown", None),
            ("{", "unknown", None),
        ],
    )
    def test_the_configuration_names_the_cluster(self, run, monkeypatch, config, cluster, slurm_conf):
        monkeypatch.setenv("HOME", "/home/me")
        monkeypatch.delenv("SLURM_CONF", raising=False)
        run.submitted(config=config)
        found = rebuild.submission(run.path, "empty")
        expected = Submission(cluster=cluster, newest=0, open=True, slurm_conf=slurm_conf, damage="empty")
        assert found == expected

    def test_the_environment_s_cluster_comes_first(self, run, monkeypatch):
        monkeypatch.setenv("SLURM_CONF", "/etc/mine.conf")
        run.submitted()
        assert rebuild.submission(run.path, "empty").slurm_conf == "/etc/mine.conf"

    def test_a_configuration_that_others_could_have_written_names_none(self, run):
        run.submitted()
        run.config_file.chmod(0o666)
        assert rebuild.submission(run.path, "empty").cluster == "unknown"

    def test_a_run_of_this_machine_whose_file_is_damaged_says_that_alone(self, run):
        run.submitted(config="cluster: {name: here, kind: local}")
        assert rebuild.submission(run.path, "empty") == Submission(damage="empty")
        self.script(run, 7, b"")
        assert rebuild.submission(run.path, "empty").in_slurm, "it was a job all the same"

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
