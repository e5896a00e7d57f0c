"""Why an attempt ended, from what ranks and launchers left behind: the first that failed counts, of the last start.

tests/golden/launcher_texts holds what real launchers, shells and ranks said: srun of Slurm 22.05, mpirun of Open MPI
4.1 and horovodrun 0.28, each of two or more ranks of which rank 1 ended; and logs of ranks whose native code crashed.
"""

import json
import os
import signal
from pathlib import Path

import pytest

from hpctrain.launch import failure, kernel_log
from hpctrain.launch.failure import cause, explain, settle
from hpctrain.scheduler.sbatch import FAILED_MARK, START_MARK
from hpctrain.storage.run_dir import RunDir, claim_attempt
from hpctrain.storage.run_state import Phase, Reason, Submission

TEXTS = Path(__file__).parents[2] / "golden" / "launcher_texts"
KILLED = "srun: error: node2: task 1: Killed\nsrun: launch/slurm: _step_signal: Terminating StepId=1.0\n"
EXITED = "srun: error: node1: task 0: Exited with exit code 1\nsrun: error: node2: task 1: Killed\n"
UP = ("running", "running")
TIMEOUT = "COLLECTIVE_TIMEOUT"


def told(name):
    return (TEXTS / f"{name}.txt").read_text()


@pytest.fixture(autouse=True)
def silent_kernel(monkeypatch):
    monkeypatch.setattr(kernel_log, "read", lambda: "")


def attempt(folder, outcomes, failure=None, token="token"):
    run = RunDir(folder)
    number = claim_attempt(run, token)
    for rank, outcome in enumerate(outcomes):
        who = {"rank": rank, "outcome": outcome, "pid": 1000 + rank, "time": 5.0}
        run.rank_file(number, rank).write_text(json.dumps(who))
    if failure:
        run.claim_failure(number, {"rank": 0, "reason": failure, "detail": "d"})
    return run


@pytest.mark.parametrize(
    ("outcomes", "failure", "text", "reason", "rank"),
    [
        (UP, None, KILLED, "RANK_KILLED", 1),
        ([TIMEOUT, "running"], TIMEOUT, KILLED, "RANK_KILLED", 1),
        ([TIMEOUT, "running"], TIMEOUT, EXITED, TIMEOUT, 0),
        ([TIMEOUT, "running"], TIMEOUT, EXITED.replace("Killed", "Terminated"), TIMEOUT, 0),
        # Its core was still being written when rank 0 gave up.
        ([TIMEOUT, "running"], TIMEOUT, EXITED.replace("Killed", "Aborted (core dumped)"), "RANK_KILLED", 1),
        ([TIMEOUT], TIMEOUT, "srun: error: node2: task 1: Exited with exit code 2\n", "ERROR", 1),
        ([TIMEOUT, TIMEOUT], TIMEOUT, EXITED, TIMEOUT, 0),
        ([TIMEOUT, "running"], TIMEOUT, "", TIMEOUT, 0),
        (["NAN_PERSISTENT", "running"], "NAN_PERSISTENT", EXITED, "NAN_PERSISTENT", 0),
        (UP, None, "slurmstepd: error: Detected 1 oom-kill event(s)\n", "OUT_OF_MEMORY", 0),
        (UP, None, f"{START_MARK} 0 of job 1\n{KILLED}{START_MARK} 1 of job 1\n", "RANK_KILLED", 0),
        ([], None, "srun: error: Unable to create step\n", "ERROR", None),
        ([], None, "", "LOST", None),
        ([], None, f"{START_MARK} 0 of job 1\n", "LOST", None),
    ],
)
def test_the_first_that_failed_counts(tmp_path, outcomes, failure, text, reason, rank):
    found = explain(attempt(tmp_path, outcomes, failure), text)
    assert (found[0], found[2]) == (reason, rank)


NAMES = {
    "ILL": "Illegal instruction (SIGILL), as of a library that was built for another processor",
    "ABRT": "Aborted (SIGABRT)",
    "BUS": "Bus error (SIGBUS), as if /dev/shm is full or a file in use was cut short",
    "FPE": "Floating point exception (SIGFPE)",
    "SEGV": "Segmentation fault (SIGSEGV)",
    "SYS": "Bad system call (SIGSYS)",
    "TRAP": "Trace/breakpoint trap (SIGTRAP)",
    "USR2": "User defined signal 2 (SIGUSR2)",
    "KILL": "Killed (SIGKILL), from outside or by the kernel",
    "TERM": "Terminated (SIGTERM), from outside",
}
MPIRUN = ("ILL", "ABRT", "BUS", "FPE", "SEGV", "KILL")
SIGNALLED = {
    **{f"srun_{name}": (1, text) for name, text in NAMES.items()},
    **{f"mpirun_{name}": (1, NAMES[name]) for name in MPIRUN},
    **{f"horovodrun_{name}": (1, NAMES[name]) for name in ("ILL", "KILL", "SEGV")},
    "srun_ILL_core": (1, NAMES["ILL"]),
    "srun_SEGV_core": (1, NAMES["SEGV"]),
    "srun_ILL_list": (5, NAMES["ILL"]),
    "srun_SEGV_then_exits": (1, NAMES["SEGV"]),
    "srun_code_132": (1, NAMES["ILL"]),
    "srun_mpi_SEGV": (1, NAMES["SEGV"]),
    "mpirun_init_SEGV": (1, NAMES["SEGV"]),
    "srun_scancel_step": (0, NAMES["KILL"]),
}


@pytest.mark.parametrize("name", SIGNALLED)
@pytest.mark.parametrize("outcomes", [UP * 4, ()])
def test_a_signal_by_its_name_and_the_rank_that_it_ended(tmp_path, name, outcomes):
    rank, words = SIGNALLED[name]
    found = explain(attempt(tmp_path, outcomes), told(name))
    assert found == ("RANK_KILLED", f"rank {rank}: {words}", rank)


OTHERS = {
    "srun_exceeded_memory": (
        "OUT_OF_MEMORY", 1, "the kernel or Slurm ended a rank for its memory: slurmstepd-node1: error: Exceeded job "
        "memory limit",
    ),
    "srun_node_lost": ("NODE_FAILURE", None, "srun: error: Aborting, io error and missing step on node 1"),
    "srun_preempted": (
        "PREEMPTED", None, "slurmstepd-node1: error: *** JOB 1 ON node1 CANCELLED AT 2026-11-26T14:57:34 DUE TO "
        "PREEMPTION ***",
    ),
    "srun_requeued": (
        "TERMINATED", None, "slurmstepd-node1: error: *** JOB 5 ON node1 CANCELLED AT 2026-11-26T14:58:26 DUE TO JOB "
        "REQUEUE ***",
    ),
    "srun_TERM_full": ("TERMINATED", None, "srun was ended by SIGTERM, and its ranks with it"),
    "shell_srun_killed": ("RANK_KILLED", None, "srun: Killed (SIGKILL), and its ranks with it"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("outcomes", [UP, ()])
def test_memory_nodes_slurm_and_srun_itself(tmp_path, name, outcomes):
    reason, rank, words = OTHERS[name]
    assert explain(attempt(tmp_path, outcomes), told(name)) == (reason, words, rank)


NOT_STARTED = {
    "srun_python_gone": (
        "ERROR", 0, "rank 0 did not start: exited with exit code 2: slurmstepd-node1: error: execve(): /no/such/python: "
        "No such file or directory",
    ),
    "srun_python_denied": (
        "ERROR", 1, "rank 1 did not start: exited with exit code 13: slurmstepd-node2: error: execve(): /etc/passwd: "
        "Permission denied",
    ),
    "srun_no_package": (
        "IMPORT_ERROR", 0, "rank 0 did not start: exited with exit code 1: /usr/bin/python3: Error while finding module "
        "specification for 'submitit.core._submit' (ModuleNotFoundError: No module named 'submitit')",
    ),
    "srun_mpi_abort": (
        "ERROR", 1, "rank 1 did not start: exited with exit code 3: MPI_ABORT was invoked on rank 1 in communicator "
        "MPI_COMM_WORLD with errorcode 3. NOTE: invoking MPI_ABORT causes Open MPI to kill all MPI processes. You may or "
        "may not see output from other processes, depending on exactly when Open MPI kills them.",
    ),
    "srun_folder_missing": (
        "ERROR", 0, "rank 0 did not start: launch failed: Slurmd could not connect IO: is the folder of the logs there, "
        "and writable?",
    ),
    "srun_no_gres": (
        "ERROR", None, "the ranks did not start: srun: error: Step requested GRES but job doesn't have GRES; srun: "
        "error: Unable to create step for job 24: Invalid generic resource (gres) specification",
    ),
    "srun_no_memory": (
        "ERROR", None, "the ranks did not start: srun: error: Unable to create step for job 4: Memory required by task "
        "is not available",
    ),
    "srun_no_mpi": (
        "ERROR", None, "the ranks did not start: srun: error: Couldn't find the specified plugin name for mpi/nonsuch "
        "looking at all files; srun: error: cannot find mpi plugin for mpi/nonsuch; srun: error: MPI: Cannot create "
        "context for mpi/nonsuch",
    ),
    "srun_bad_option": ("ERROR", None, "the ranks did not start: srun: unrecognized option '--nonsuch'"),
    "srun_revoked": (
        "ERROR", None, "the ranks did not start: srun: error: Task launch for StepId=9.0 failed on node node3: Job "
        "credential revoked; srun: error: Task launch for StepId=9.0 failed on node node4: Job credential revoked; srun: "
        "error: Application launch failed: Job credential revoked",
    ),
    "shell_python_gone": (
        "ERROR", None, "the ranks did not start: /var/spool/slurmd/job00028/slurm_script: line 2: /no/such/python: No "
        "such file or directory",
    ),
    "mpirun_gone": (
        "ERROR", None, "the ranks did not start: mpirun was unable to launch the specified application as it could not "
        "access or execute an executable: Executable: /no/such/python Node: node1 while attempting to start process rank "
        "0.; 3 total processes failed to start",
    ),
    "mpirun_opt": ("ERROR", None, 'the ranks did not start: mpirun: Error: unknown option "--nonsuch"'),
    "mpirun_3": ("ERROR", 1, "rank 1 did not start: exit code:    3, and it did not say why"),
    "horovodrun_3": ("ERROR", 1, "rank 1 did not start: status code 3, and it did not say why"),
    "horovodrun_gone": (
        "ERROR", 1, "rank 1 did not start: status code 127: env: ‘/no/such/python’: No such file or directory",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_STARTED)
def test_what_kept_the_ranks_from_their_start(tmp_path, name):
    reason, rank, words = NOT_STARTED[name]
    assert explain(attempt(tmp_path, ()), told(name)) == (reason, words, rank)
