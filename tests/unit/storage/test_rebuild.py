"""What a run's other files say if its state or its submission is missing or damaged."""

import json
import os

from hpctrain.storage import rebuild
from hpctrain.storage.run_state import RunState

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
