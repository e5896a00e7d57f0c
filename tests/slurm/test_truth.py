"""What a run's files and Slurm say is true, whoever asks and when: no second job, no false end, no other's job.

Each test does to real jobs what once led to one of these.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.slurm.conftest import PATIENCE_S, ROOT, without_sacct
from tests.waiting import until

pytestmark = pytest.mark.slurm
LONG = ("train.steps=100000",)


def living(cluster):
    """Jobs in the queue that have not ended."""
    return cluster.call("squeue", "--noheader", "--all", "--format=%i").split()


def at_once(*calls):
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def on_node(cluster, node, *args):
    """The command line of hpctrain on a node."""
    return cluster.line("exec", "--node", node, "--", sys.executable, "-m", "hpctrain.cli", *args)


def from_node(cluster, node, *args):
    """hpctrain on a node: another host."""
    line = on_node(cluster, node, *args)
    done = subprocess.run(line, capture_output=True, text=True, env=cluster.environment, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write(run, **changes):
    """Changes state.json behind everybody's back."""
    (run.path / "state.json").write_text(json.dumps(run.state | changes))


class TestOneJob:
    def test_two_submits_at_once(self, cluster, run):
        job = run(*LONG)
        answers = at_once(job.submit, job.submit)
        assert sorted(answer["new"] for answer in answers) == [False, True]
        assert len({answer["job_id"] for answer in answers}) == 1
        assert living(cluster) == job.job_ids

    def test_resumes_at_once_from_two_hosts(self, cluster, run):
        job = run(*LONG)
        first = job.submit()["job_id"]
        job.await_step(10)
        cluster.call("scancel", first)
        job.await_end("cancelled", "CANCELLED")
        until(lambda: not living(cluster), "the first job's end")
        resume = ("resume", "--root", str(job.root))
        said = at_once(
            lambda: from_node(cluster, "node3", *resume), lambda: from_node(cluster, "node4", *resume),
            lambda: cluster.hpctrain(*resume),
        )  # fmt: skip
        assert sum("submitted as" in text for text in said) == 1, said
        assert sum("under way already as" in text for text in said) == 2, said
        assert len(living(cluster)) == 1

    def test_a_submitter_that_was_killed_between_question_and_answer(self, cluster, run, tmp_path):
        """sbatch has the job; whoever called it is dead before it could note the number."""
        tools = tmp_path / "tools"
        tools.mkdir()
        (tools / "sbatch").write_text(f'#!/bin/sh\n{shutil.which("sbatch")} "$@"\nkill -9 $PPID\n')
        (tools / "sbatch").chmod(0o755)
        job = run(*LONG)
        line = [sys.executable, "-m", "hpctrain.cli", "submit", *job.settings]
        path = f"{tools}:{os.environ['PATH']}"
        killed = subprocess.run(
            line, env=cluster.environment | {"PATH": path}, check=False, capture_output=True
        )
        assert killed.returncode == -signal.SIGKILL
        assert len(living(cluster)) == 1
        assert job.status()["job_id"] == living(cluster)[0], "status knows it by its token"
        assert (job.submit()["new"], job.submit()["new"]) == (False, False)
        assert living(cluster) == job.job_ids

    @pytest.mark.long
    def test_a_second_job_by_hand_is_refused_before_its_ranks(self, cluster, run):
        job = run(*LONG)
        first = job.submit()["job_id"]
        job.await_step(10)
        line = [
            "sbatch",
            "--parsable",
            "--nodes=2",
            "--ntasks-per-node=1",
            "--gpus-per-node=1",
            f"-o{job.root}/out",
        ]
        second = subprocess.run(
            [*line, ROOT / "slurm" / "train.sbatch", *job.settings], capture_output=True, text=True, check=True,
            env=cluster.environment | {"HPCTRAIN_PYTHON": sys.executable}, cwd=job.root.parent,
        ).stdout.strip()  # fmt: skip
        until(lambda: second not in living(cluster), "the second job's end")
        assert f"is under way as job {first}" in (job.root / "out").read_text()
        assert job.job_ids == [first]
        assert job.status()["phase"] == "running"


class TestWhoseWord:
    @pytest.mark.long
    def test_a_job_that_the_lock_refuses_does_not_end_the_run(self, cluster, run):
        job = run(*LONG)
        first = job.submit()["job_id"]
        job.await_step(10)
        python, path = sys.executable, job.path
        script = (
            f"srun --mpi=pmix --kill-on-bad-exit=1 {python} -m hpctrain.launch.jobs {path} "
            f">{path}/submitit/${{SLURM_JOB_ID}}_0_log.out 2>&1;"
            f"{python} -m hpctrain.launch.post_mortem {path}"
        )
        second = cluster.call(
            "sbatch", "--parsable", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=1", "-o/dev/null",
            f"--wrap={script}",
        )  # fmt: skip
        until(lambda: second not in living(cluster), "the second job's end")
        assert "RUN_LOCKED" in (path / "attempts/2/failure.json").read_text(), job.logs()
        row = job.status()
        assert (row["phase"], row["attempt"], row["job_id"]) == ("running", 1, first)
        cluster.hpctrain("cancel", "--root", job.root)
        job.await_end("cancelled", "CANCELLED")

    @pytest.mark.long
    def test_ranks_whose_node_was_cut_off_say_nothing_once_the_job_runs_elsewhere(
        self, cluster, run, same_weights
    ):
        job = run("+model.pause_s=0.4", "comm.timeout_s=60")
        job_id = job.submit()["job_id"]
        job.await_step(20)
        cluster.link("node2", "down")
        try:
            until(
                lambda: job.state.get("attempt") == 2 and job.state["phase"] == "running",
                lambda: f"{job.state}",
            )
        finally:
            cluster.script("stop", "node", "node2")
            cluster.script("start", "node", "node2")
        job.await_end("done", "DONE")
        assert job.job_ids == [job_id]
        same_weights(job)

    def test_a_launcher_that_ends_after_its_run_did(self, cluster, run, tmp_path):
        """Stopped in a terminal while its ranks ended; a job has taken the run up since."""
        job = run(*LONG)
        local = [
            *(s for s in job.settings if not s.startswith(("cluster=", "resources."))),
            "cluster=local", "resources.ranks=2",
        ]  # fmt: skip
        launcher = subprocess.Popen(
            [sys.executable, "-m", "hpctrain.cli", "train", *local], env=cluster.environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            until(lambda: list(job.root.glob("*/*/state.json")), "the run's state")
            job.await_step(10)
            pids = job.hosts(1)
            os.kill(launcher.pid, signal.SIGSTOP)
            for file in job.path.glob("attempts/1/rank_*.json"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(json.loads(file.read_text())["pid"], signal.SIGKILL)
            assert pids
            said = cluster.hpctrain("resume", "--root", job.root, code=2)
            assert "RUN_LOCKED" in said, "its launcher lives, and nobody else may start the run"
            os.kill(launcher.pid, signal.SIGCONT)
            launcher.wait(60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(launcher.pid, signal.SIGKILL)
            launcher.wait()
        assert job.state["reason"] == "RANK_KILLED"


class TestCancel:
    @pytest.mark.parametrize("phase", [pytest.param("failed", marks=pytest.mark.long), "interrupted"])
    def test_what_lives_is_cancelled_whatever_the_file_says(self, cluster, run, phase):
        job = run(*LONG, "+model.pause_s=0.2")
        job.submit()
        job.await_step(10)
        (job.path / "state.json").chmod(0o400)
        write(job, phase=phase, reason="LOST")
        assert "asked to save and stop" in cluster.hpctrain("cancel", "--root", job.root)
        until(lambda: not living(cluster), "the job's end")
        job.await_end("cancelled", "CANCELLED")

    def test_cancel_then_resume_at_once(self, cluster, run, same_weights):
        job = run()
        first = job.submit()["job_id"]
        job.await_step(20)
        cluster.hpctrain("cancel", "--root", job.root)
        said = cluster.hpctrain("resume", "--root", job.root)
        assert f"job {first} saves and stops first" in said
        assert len(job.job_ids) == 2
        job.await_end("done", "DONE")
        same_weights(job)

    def test_a_job_that_waits_is_taken_back_and_can_be_resumed(self, cluster, run):
        job = run(*LONG, "cluster.partition=low", "+cluster.sbatch.begin=now+1hour")
        first = job.submit()["job_id"]
        assert "cancelled while it waited" in cluster.hpctrain("cancel", "--root", job.root)
        assert living(cluster) == []
        assert job.status()["phase"] == "cancelled"
        cluster.hpctrain("resume", "--root", job.root)
        assert living(cluster) == job.job_ids[-1:] != [first]

    def test_a_run_in_a_terminal_of_another_host(self, cluster, run):
        """As on a second login node: its process ids mean nothing here."""
        job = run("cluster=local", "resources.nodes=1", "train.steps=2000", "+model.pause_s=0.1")
        with subprocess.Popen(
            on_node(cluster, "node1", "train", *job.settings),
            env=cluster.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        ) as terminal:  # fmt: skip
            until(lambda: job.root.exists() and list(job.root.glob("*/*/state.json")), "the run to start")
            job.await_step(10)
            assert set(job.hosts(1)) == {"node1"}
            assert job.status()["phase"] == "running"
            said = cluster.hpctrain("cancel", "--root", job.root)
            assert "node1" in said
            assert terminal.wait(120) != 0
        job.await_end("cancelled", "CANCELLED")
        assert job.state["checkpoint"] >= 10

    @pytest.mark.long
    def test_a_request_that_slurm_did_not_take_is_said_by_the_exit_code(self, cluster, run):
        job = run(*LONG, "+model.pause_s=0.2")
        job.submit()
        job.await_step(10)
        cluster.script("stop", "slurmctld", "--kill")
        try:
            line = ["cancel", "--root", job.root]
            out = cluster.hpctrain(*line, code=1)
            assert "Slurm did not take the request" in out
            until(lambda: job.state["phase"] == "cancelled", "the run to look for the request itself")
        finally:
            cluster.script("start", "slurmctld")
        until(lambda: not living(cluster), "the job's end")


class TestNumbersAndTokens:
    def test_another_job_of_the_same_number_is_neither_shown_nor_cancelled(self, cluster, run):
        """As if job ids had started again: the number that the run has noted is somebody else's now."""
        job = run(*LONG, "+cluster.sbatch.begin=now+1hour")
        own = job.submit()["job_id"]
        cluster.call("scancel", own)
        other = cluster.call("sbatch", "--parsable", "-o/dev/null", "--wrap=sleep 300")
        file = job.path / "submission.json"
        file.write_text(file.read_text().replace(f'"{own}"', f'"{other}"'))
        row = job.status()
        assert (row["phase"], row["scheduler"]) == ("submitted", "unknown")
        cluster.hpctrain("cancel", other, "--root", job.root, code=1)
        assert living(cluster) == [other]

    def test_a_copied_run_is_not_the_original(self, cluster, run, tmp_path):
        job = run(*LONG)
        job.submit()
        job.await_step(10)
        shutil.copytree(job.root, tmp_path / "copy")
        (row,) = json.loads(cluster.hpctrain("status", "--root", tmp_path / "copy", "--json"))
        assert "is a copy of" in row["detail"]
        said = cluster.hpctrain("cancel", "--root", tmp_path / "copy", code=1)
        assert f"is a copy of {job.path}" in said
        assert living(cluster) == job.job_ids
        assert job.status()["phase"] == "running"

    def test_a_renamed_root_still_has_its_job(self, cluster, run):
        job = run(*LONG, "+cluster.sbatch.begin=now+1hour")
        job.submit()
        moved = job.root.with_name("moved")
        job.root.rename(moved)
        assert "cancelled while it waited" in cluster.hpctrain("cancel", "--root", moved)
        assert living(cluster) == []

    def test_a_number_is_a_job_before_it_is_a_part_of_a_name(self, cluster, run, tmp_path):
        job = run(*LONG, "+cluster.sbatch.begin=now+1hour")
        job_id = job.submit()["job_id"]
        name, decoy = job.path.name, job.path.parent / f"lenet-digits-0{job_id}99"
        shutil.copytree(job.path, decoy)
        (decoy / "submission.json").unlink()
        shutil.rmtree(decoy / "submitit")
        assert cluster.hpctrain("cancel", job_id, "--root", job.root).startswith(name)

    def test_the_token_cannot_be_replaced(self, cluster, run):
        said = run("+cluster.sbatch.comment=mine").submit(code=2)
        assert "cluster.sbatch.comment" in said
        assert living(cluster) == []


HABITS = {
    "SQUEUE_PARTITION": "high", "SQUEUE_STATES": "PENDING", "SQUEUE_FORMAT": "%i", "SACCT_FORMAT": "JobID",
    "SLURM_CLUSTERS": "elsewhere", "SCANCEL_STATE": "PENDING",
}  # fmt: skip


class TestAbsence:
    @pytest.mark.long
    def test_a_user_s_habits_narrow_no_question(self, cluster, run):
        job = run(*LONG)
        job_id = job.submit()["job_id"]
        job.await_step(10)
        row = job.status(**HABITS)
        assert (row["phase"], row["scheduler"]) == ("running", "RUNNING")
        assert job.submit(**HABITS)["job_id"] == job_id
        cluster.hpctrain("cancel", "--root", job.root, **HABITS)
        job.await_end("cancelled", "CANCELLED")

    @pytest.mark.long
    def test_a_hidden_partition(self, cluster, run):
        cluster.call("scontrol", "update", "partition=low", "Hidden=YES")
        try:
            job = run(*LONG)
            job_id = job.submit()["job_id"]
            job.await_step(10)
            assert (job.status()["phase"], job.submit()["job_id"]) == ("running", job_id)
        finally:
            cluster.call("scontrol", "update", "partition=low", "Hidden=NO")

    @pytest.mark.long
    def test_what_slurm_has_forgotten_is_unknown_until_a_person_says_so(self, cluster, run, tmp_path):
        cluster.set(MinJobAge=2)
        job = run("cluster.requeue=false")
        job_id = job.submit()["job_id"]
        try:
            job.await_step(20)
            pid = job.hosts(1)["node1"]
            for file in job.path.glob("attempts/1/rank_*.json"):
                os.kill(json.loads(file.read_text())["pid"], signal.SIGSTOP)  # nobody is left to say anything
            cluster.call("scancel", "--full", "--signal=KILL", job_id)
            cluster.call("scancel", job_id)
            until(
                lambda: job_id not in cluster.call("squeue", "-h", "-tall", "-o%i").split(),
                "Slurm to forget the job",
            )
            assert pid
        finally:
            cluster.set(MinJobAge=300)
        write(job, phase="running", reason=None)
        path = without_sacct(tmp_path)
        row = job.status(PATH=path)
        assert (row["phase"], row["scheduler"]) == ("running", "unknown")
        assert "--unlock" in row["detail"]
        assert "--unlock" in cluster.hpctrain("resume", "--root", job.root, code=2, PATH=path)
        assert f"job {job_id}" in cluster.hpctrain("checkpoints", "--unlock", "--root", job.root, PATH=path)
        assert (job.status(PATH=path)["phase"], job.status(PATH=path)["reason"]) == ("failed", "LOST")
        cluster.hpctrain("resume", "--root", job.root)
        job.await_end("done", "DONE")


class TestEnvironment:
    def test_nothing_of_the_submitter_s_environment_changes_the_job(self, cluster, run, same_weights):
        job = run("resources.timeout_min=30")
        job_id = job.submit(
            SBATCH_TIMELIMIT="2", SBATCH_PARTITION="high", SBATCH_EXPORT="NONE", SBATCH_JOB_NAME="x",
            SBATCH_EXCLUSIVE="user", SLURM_NNODES="4", SLURM_NTASKS_PER_NODE="3", SLURM_MEM_PER_CPU="10",
            SLURM_EXPORT_ENV="NONE", SRUN_CPUS_PER_TASK="7",
        )["job_id"]  # fmt: skip
        told = cluster.call("scontrol", "show", "job", job_id)
        for word in (
            "TimeLimit=00:30:00",
            "Partition=low",
            "NumNodes=2",
            "NumTasks=2",
            f"JobName={job.path.name}",
        ):
            assert word in told
        job.await_end("done", "DONE")
        same_weights(job)

    def test_a_site_that_prints_before_its_answer(self, cluster, run, tmp_path):
        tools = tmp_path / "tools"
        tools.mkdir()
        text = "printf 'Welcome! See job 7 of the \\377 list.\\n42 users\\n'"
        (tools / "sbatch").write_text(f'#!/bin/sh\n{text}\nexec {shutil.which("sbatch")} "$@"\n')
        (tools / "sbatch").chmod(0o755)
        job = run(*LONG, "+cluster.sbatch.begin=now+1hour")
        job_id = job.submit(PATH=f"{tools}:{os.environ['PATH']}", LANG="de_DE.UTF-8")["job_id"]
        assert living(cluster) == [job_id]

    def test_bytes_of_another_s_comment(self, cluster, run):
        subprocess.run(
            [b"sbatch", b"-o/dev/null", b"--comment=\xff\xfe|x", b"--begin=now+1hour", b"--wrap=true"], check=True,
            env=cluster.environment, capture_output=True,
        )  # fmt: skip
        job = run(*LONG, "+cluster.sbatch.begin=now+1hour")
        job_id = job.submit()["job_id"]
        assert (job.status()["phase"], job.status()["job_id"]) == ("submitted", job_id)
