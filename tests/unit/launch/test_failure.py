"""Why an attempt ended, from what ranks and launchers left behind: the first that failed counts, of the last start.

tests/golden/launcher_texts holds what real launchers, shells and ranks said: srun of Slurm 22.05, mpirun of Open MPI
4.1 and horovodrun 0.28, each of two or more ranks of which rank 1 ended; and logs of ranks whose native code crashed.
"""

import errno
import json
from pathlib import Path

import pytest

from hpctrain.launch import failure, kernel_log
from hpctrain.launch.failure import cause
from hpctrain.scheduler.sbatch import FAILED_MARK, START_MARK
from hpctrain.storage.run_dir import RunDir, claim_attempt

TEXTS = Path(__file__).parents[2] / "golden" / "launcher_texts"
KILLED = "srun: error: node2: task 1: Killed\nsrun: launch/slurm: _step_signal: Terminating StepId=1.0\n"
EXITED = "srun: error: node1: task 0: Exited with exit code 1\nsrun: error: node2: task 1: Killed\n"
UP = ("running", "running")
TIMEOUT = "COLLECTIVE_TIMEOUT"


def _newest(run, before):
    """The newest attempt after `before`, which is that of an earlier start; None if no rank of this one came up."""
    return max((number for number in run.attempts() if number > before), default=None)


def explain(run, text, before=0, code=None):
    return failure.explain(run, text, _newest(run, before), code)


def settle(run, text, before=0, code=None):
    return failure.settle(run, text, _newest(run, before), code)


def told(name):
    return (TEXTS / f"{name}.txt").read_text()


@pytest.fixture(autouse=True)
def silent_kernel(monkeypatch):
    monkeypatch.setattr(kernel_log, "read", lambda: "")


def attempt(folder, outcomes, failed=None, token="token"):
    folder.mkdir(exist_ok=True)
    run = RunDir(folder)
    number = claim_attempt(run, token)
    for rank, outcome in enumerate(outcomes):
        who = {"rank": rank, "outcome": outcome, "pid": 1000 + rank, "time": 5.0}
        run.rank_file(number, rank).write_text(json.dumps(who))
    if failed:
        run.claim_failure(number, {"rank": 0, "reason": failed, "detail": "d"})
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
        (["NAN_PERSISTENT", "running"], "NAN_PERSISTENT", KILLED, "NAN_PERSISTENT", 0),
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


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("Real-time signal 6", "Real-time signal 6 (SIGRTMIN+6)"),
        ("Exited with exit code 168", "Real-time signal 6 (SIGRTMIN+6)"),
        ("Alarm clock", "Alarm clock (SIGALRM)"),
        ("CPU time limit exceeded", "CPU time limit exceeded (SIGXCPU)"),
    ],
)
def test_a_signal_that_only_a_site_or_a_person_sends(tmp_path, how, words):
    found = explain(
        attempt(tmp_path, UP), f"srun: error: node2: task 1: {how}\nsrun: error: node1: task 0: Killed\n"
    )
    assert found == ("RANK_KILLED", f"rank 1: {words}", 1)


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


def test_srun_that_was_asked_to_end_after_a_rank_had_crashed(tmp_path):
    text = "srun: error: node2: task 1: Illegal instruction\nsrun: forcing job termination\n"
    assert explain(attempt(tmp_path, UP), text)[0] == "RANK_KILLED"


NOT_STARTED = {
    "srun_python_gone": (
        "ERROR", 0, "rank 0 did not start: exited with exit code 2: slurmstepd-node1: error: execve(): "
        "/no/such/python: No such file or directory",
    ),
    "srun_python_denied": (
        "ERROR", 1, "rank 1 did not start: exited with exit code 13: slurmstepd-node2: error: execve(): /etc/passwd: "
        "Permission denied",
    ),
    "srun_no_package": (
        "IMPORT_ERROR", 0, "rank 0 did not start: exited with exit code 1: /usr/bin/python3: Error while finding "
        "module specification for 'submitit.core._submit' (ModuleNotFoundError: No module named 'submitit')",
    ),
    "srun_mpi_abort": (
        "ERROR", 1, "rank 1 did not start: exited with exit code 3: MPI_ABORT was invoked on rank 1 in communicator "
        "MPI_COMM_WORLD with errorcode 3. NOTE: invoking MPI_ABORT causes Open MPI to kill all MPI processes. You may "
        "or may not see output from other processes, depending on exactly when Open MPI kills them.",
    ),
    "srun_folder_missing": (
        "ERROR", 0, "rank 0 did not start: launch failed: Slurmd could not connect IO: is the folder of the logs "
        "there, and writable?",
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
        "credential revoked; srun: error: Task launch for StepId=9.0 failed on node node4: Job credential revoked; "
        "srun: error: Application launch failed: Job credential revoked",
    ),
    "shell_python_gone": (
        "ERROR", None, "the ranks did not start: /var/spool/slurmd/job00028/slurm_script: line 2: /no/such/python: No "
        "such file or directory",
    ),
    "mpirun_gone": (
        "ERROR", None, "the ranks did not start: mpirun was unable to launch the specified application as it could not "
        "access or execute an executable: Executable: /no/such/python Node: node1 while attempting to start process "
        "rank 0.; 3 total processes failed to start",
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


def test_one_rank_of_two_did_not_start(tmp_path):
    text = "srun: error: node2: task 1: Exited with exit code 255\nsrun: error: node1: task 0: Terminated\n"
    text += (
        "slurmstepd: error: *** STEP 12.0 ON node1 CANCELLED AT 2026-11-26T14:54:54 ***\nan error of rank 0\n"
    )
    said = "FATAL:   could not open image /apps/x.sif: failed to retrieve path for /apps/x.sif"
    found = explain(attempt(tmp_path, ["running"]), f"{text}[1]<stderr>:{said}\n")
    assert found == ("ERROR", f"rank 1 did not start: exited with exit code 255: {said}", 1)


def test_a_rank_that_was_up_ends_with_a_code_and_no_word(tmp_path):
    text = "srun: error: node2: tasks 1-2: Exited with exit code 3\n"
    run = attempt(tmp_path, ["running", TIMEOUT, "running"])
    detail = "rank 2 ended: exited with exit code 3, and it did not say why"
    assert explain(run, text) == ("ERROR", detail, 2)
    # 128 and less is no signal, and neither is a number that no signal has.
    for code in (128, 193, 255):
        assert explain(run, text.replace("code 3", f"code {code}"))[0] == "ERROR"
    assert explain(run, text.replace("code 3", "code 129"))[1] == "rank 2: Hangup (SIGHUP)"


STORAGE = "bash: line 3: cannot create /run/x: {}\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (STORAGE.format("Read-only file system"), "STORAGE_ERROR"),
        (STORAGE.format("No space left on device"), "DISK_FULL"),
        (STORAGE.format("Disk quota exceeded"), "DISK_FULL"),
        (STORAGE.format("Permission denied"), "ERROR"),
        ("ImportError: libmpi.so.40: cannot open shared object file\n", "IMPORT_ERROR"),
        (
            "Traceback (most recent call last):\n  File error\nModuleNotFoundError: No module named 'x'\n",
            "IMPORT_ERROR",
        ),
    ],
)
def test_words_stand_for_reasons(tmp_path, text, reason):
    assert explain(RunDir(tmp_path), text) == (
        reason,
        f"the ranks did not start: {text.splitlines()[-1]}",
        None,
    )


def test_without_telling_words_the_last_ones_are_shown(tmp_path):
    text = f"{START_MARK} 0 of job 12 on n1\na\n\nb\n c\nd\n"
    assert explain(RunDir(tmp_path), text) == ("ERROR", "the ranks did not start: b c d", None)


def test_each_line_is_said_once_and_the_detail_is_short(tmp_path):
    text = "error: same\n" * 3 + "error: " + "x" * 1000 + "\nerror: 3\nerror: 4\n"
    _, detail, _ = explain(RunDir(tmp_path), text)
    assert detail.startswith("the ranks did not start: error: same; error: xxx")
    assert len(detail) == 500
    _, detail, _ = explain(RunDir(tmp_path), "error: 1\nerror: 2\nerror: 3\nerror: 4\n")
    assert detail == "the ranks did not start: error: 1; error: 2; error: 3"


def test_ranks_that_were_up_and_said_nothing(tmp_path):
    run = attempt(tmp_path, ["DONE", "running"])
    assert explain(run, "a line\n") == ("RANK_KILLED", "rank 1 ended without a word", 1)
    text = "srun: error: Socket timed out on send/recv operation\n"
    assert explain(run, text) == ("RANK_KILLED", f"rank 1 ended without a word: {text.strip()}", 1)
    done = attempt(tmp_path / "done", ["DONE"])
    assert explain(done, text) == ("LOST", "the process ended without a word, before it had begun", None)


MODULE = "slurm_script: line 24: module: command not found"


def test_a_command_of_the_batch_shell_failed(tmp_path):
    run = attempt(tmp_path, UP, "NAN_PERSISTENT")  # an earlier start
    text = f"{START_MARK} 1 of job 12 on n1\n{MODULE}\n{FAILED_MARK} module load OpenMPI\nerror: of python\n"
    detail = f"module load OpenMPI failed: the ranks were not started: {MODULE}"
    assert explain(run, text, 1) == ("ERROR", detail, None)
    quiet = text.replace(f"{MODULE}\n", "")
    assert explain(run, quiet, 1) == ("ERROR", "module load OpenMPI failed: the ranks were not started", None)
    vague = text.replace(MODULE, "no OpenMPI here")
    assert explain(run, vague, 1)[1].endswith("not started: no OpenMPI here")


def test_a_cancelled_run_is_cancelled_however_it_ended(tmp_path):
    run = attempt(tmp_path, UP)
    run.cancel_file.touch()
    assert explain(run, KILLED) == ("CANCELLED", "cancelled by the user", None)


MEMORY = "the kernel or Slurm ended a rank for its memory: "


@pytest.mark.parametrize(
    ("text", "said", "rank"),
    [
        # Of Slurm 23.02 and newer: the task by name.
        (
            "slurmstepd: error: Detected 1 oom_kill event in StepId=12.0. Some tasks have been OOM Killed.\n"
            "srun: error: node2: task 1: Out Of Memory\nsrun: error: node1: task 0: Terminated\n",
            "slurmstepd: error: Detected 1 oom_kill event in StepId=12.0. Some tasks have been OOM Killed.", 1,
        ),
        # Of older ones: the first that was killed.
        (
            "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=12.0 cgroup.\n"
            "srun: error: node1: task 0: Exited with exit code 1\nsrun: error: node2: task 1: Killed\n",
            "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=12.0 cgroup.", 1,
        ),
        ("slurmstepd: error: Exceeded job memory limit\n", "slurmstepd: error: Exceeded job memory limit", 0),
        (
            "[1]<stderr>:slurmstepd: error: Step 12.0 exceeded memory limit (3 > 2), being killed\n" + KILLED,
            "slurmstepd: error: Step 12.0 exceeded memory limit (3 > 2), being killed", 1,
        ),
        (
            "[ 1453.488459] Memory cgroup out of memory: Killed process 1001 (python3) total-vm:309540kB\n",
            "[ 1453.488459] Memory cgroup out of memory: Killed process 1001 (python3) total-vm:309540kB", 1,
        ),
        ("bash: fork: Cannot allocate memory\n", "bash: fork: Cannot allocate memory", 0),
    ],
)  # fmt: skip
def test_out_of_memory(tmp_path, text, said, rank):
    assert explain(attempt(tmp_path, UP), text) == ("OUT_OF_MEMORY", MEMORY + said, rank)


def test_out_of_memory_before_any_rank_was_up(tmp_path):
    assert explain(RunDir(tmp_path), "oom-kill\n") == ("OUT_OF_MEMORY", f"{MEMORY}oom-kill", None)


def test_the_kernel_is_asked_about_a_rank_that_was_killed(tmp_path, monkeypatch):
    kill = "[ 10.5] Memory cgroup out of memory: Killed process 1001 (python3) total-vm:3kB\n"
    monkeypatch.setattr(kernel_log, "read", lambda: kill)
    run = attempt(tmp_path, UP)
    expected = ("OUT_OF_MEMORY", "the kernel ended rank 1 for its memory (dmesg)", 1)
    assert explain(run, KILLED) == expected
    assert explain(run, "") == expected
    # Not if it ended in another way.
    assert explain(run, KILLED.replace("Killed", "Aborted"))[0] == "RANK_KILLED"
    assert explain(attempt(tmp_path / "done", ["DONE", "DONE"]), "")[0] == "LOST"


CRIES = {
    "bus": ("RANK_KILLED", "Fatal Python error: Bus error (crash.py, line 9 in forward)"),
    "segv": ("RANK_KILLED", "Fatal Python error: Segmentation fault (__init__.py, line 519 in string_at)"),
    "free": (
        "RANK_KILLED",
        "double free or corruption (top); Fatal Python error: Aborted (crash.py, line 12 in forward)",
    ),
    "badalloc": (
        "OUT_OF_MEMORY",
        "terminate called after throwing an instance of 'std::bad_alloc'; Fatal Python error: Aborted "
        "(crash.py, line 18 in forward)",
    ),
}


@pytest.mark.parametrize("name", CRIES)
def test_what_native_code_said_before_it_ended(tmp_path, name):
    reason, cry = CRIES[name]
    run = attempt(tmp_path, ["running", TIMEOUT, "running"], TIMEOUT)
    run.rank_log(1, 2).write_text("step 10\n" + told(f"rank_{name}"))
    assert explain(run, "") == (reason, f"rank 2: {cry}", 2)
    # The launcher's word on another rank counts before it.
    text = "srun: error: node1: task 0: Illegal instruction\n"
    assert explain(run, text)[1:] == (f"rank 0: {NAMES['ILL']}", 0)
    text = "srun: error: node3: task 2: Aborted\n"
    assert explain(run, text) == (reason, f"rank 2: Aborted (SIGABRT); {cry}", 2)


@pytest.mark.parametrize(
    "line",
    [
        "free(): invalid pointer",
        "malloc(): corrupted top size",
        "munmap_chunk(): invalid pointer",
        "corrupted size vs. prev_size in fastbins (abort)",
        "*** stack smashing detected ***: terminated",
        "Fatal glibc error: malloc.c:4189 (_int_malloc): assertion failed: chunk_main_arena (fwd)",
        "[node1:123:0:123] Caught signal 7 (Bus error: nonexistent physical address)",
        "[node4:30853] Signal: Segmentation fault (11)",
        "ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared memory (shm).",
    ],
)
def test_the_last_words_of_libraries(tmp_path, line):
    run = attempt(tmp_path, ["running"])
    run.rank_log(1, 0).write_text(f"step 10\n{line}\nstep 11\n")
    assert explain(run, "") == ("RANK_KILLED", f"rank 0: {line}", 0)


def test_a_log_without_last_words(tmp_path):
    run = attempt(tmp_path, ["running"])
    run.rank_log(1, 0).write_text("step 10\nit is free (of charge)\nno fatal python error: none\n")
    assert explain(run, "x") == ("RANK_KILLED", "rank 0 ended without a word", 0)


def test_the_end_is_written_into_the_state(tmp_path):
    state = settle(attempt(tmp_path, UP), KILLED)
    assert (state.phase, state.reason, state.rank) == ("failed", "RANK_KILLED", 1)
    assert settle(RunDir(tmp_path), KILLED, 1).detail == f"rank 1: {NAMES['KILL']}"


@pytest.mark.parametrize("name", ["srun_preempted", "srun_requeued", "srun_TERM_full"])
def test_a_job_that_slurm_ended_may_come_back(tmp_path, monkeypatch, name):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    reason, _, detail = OTHERS[name]
    state = settle(attempt(tmp_path, UP), told(name))
    assert (state.phase, state.reason, state.detail) == ("requeued", reason, detail)


def job(run, job_id, **logs):
    """Writes a job's logs: `rank_0` is also the batch shell's."""
    run.submitit.mkdir(exist_ok=True)
    for rank, text in logs.items():
        (run.submitit / f"{job_id}_{rank.removeprefix('rank_')}_log.out").write_text(text)


def test_the_cause_of_a_job_that_slurm_calls_failed(tmp_path):
    run = attempt(tmp_path, UP, "NAN_PERSISTENT", token="slurm-12.0")
    start = f"{START_MARK} 0 of job 12 on n[1-2]\n"
    job(run, "12", rank_0=start)
    assert cause(run, "12") == ("NAN_PERSISTENT", "d", 0)
    # The next start's ranks did not come up: what the first one's said does not count.
    job(run, "12", rank_0=f"{start}{START_MARK} 1 of job 12 on n[1-2]\n")
    assert cause(run, "12") is None
    job(run, "12", rank_0=f"{start}{KILLED}{START_MARK} 1 of job 12 on n[1-2]\n{MODULE}\n")
    assert cause(run, "12") == ("ERROR", f"the ranks did not start: {MODULE}", None)
    assert cause(run, "13") is None
    claim_attempt(run, "slurm-12.1")
    run.rank_file(2, 0).write_text('{"rank": 0, "outcome": "running", "pid": 5, "time": 5.0}')
    assert cause(run, "12") == ("RANK_KILLED", f"rank 0 ended without a word: {MODULE}", 0)
    job(
        run,
        "12",
        rank_0=f"{START_MARK} 1 of job 12 on n[1-2]\nsrun: error: node2: task 1: Exited with exit code 2\n",
    )
    job(run, "12", rank_1="slurmstepd: error: execve(): /opt/python: No such file or directory\n")
    detail = "slurmstepd: error: execve(): /opt/python: No such file or directory"
    assert cause(run, "12") == ("ERROR", f"rank 1 did not start: exited with exit code 2: {detail}", 1)


def test_the_cause_on_this_machine(tmp_path):
    run = attempt(tmp_path, UP, token="local-here-1-ab")
    assert cause(run, None) is None
    (tmp_path / "launcher.log").write_text(f"{START_MARK}\n{told('mpirun_ILL')}")
    assert cause(run, None) == ("RANK_KILLED", f"rank 1: {NAMES['ILL']}", 1)
    # A background job: its launcher may not have come so far.
    job(run, "77", rank_0="")
    (run.submitit / "77_0_log.err").write_text(
        "Traceback:\nFileNotFoundError: No such file or directory: 'mpirun'\n"
    )
    (tmp_path / "launcher.log").unlink()
    assert cause(run, "77")[1].endswith("FileNotFoundError: No such file or directory: 'mpirun'")


def test_a_start_that_failed_before_its_ranks_has_its_own_job(tmp_path, monkeypatch):
    """An earlier job's number would send the reader to its logs."""
    run = attempt(tmp_path, UP)
    run.state.starting(attempt=1, job_id="7")
    run.state.stopped("PREEMPTED", in_slurm=True)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    state = failure.settle(run, "srun: error: no such container\n", None, 1)
    assert (state.phase, state.job_id) == ("failed", "12")


def test_the_end_of_a_run_whose_folder_is_gone_is_told_and_not_written(tmp_path):
    run = RunDir(tmp_path / "gone")
    state = failure.settle(run, "", None, 205)
    assert (state.phase, state.reason) == ("failed", "STORAGE_ERROR")
    assert not run.path.exists()


FULL = "hpctrain: rank 1: DISK_FULL: checkpoints cannot be written\n"
READ_ONLY = "hpctrain: rank 1: STORAGE_ERROR: state.json: Read-only file system\n"
WAITED = "hpctrain: rank 0: COLLECTIVE_TIMEOUT: a rank did not answer\n"
ABORTED = "process rank 1 with PID 0 on node n exited on signal 6 (Aborted)\n"


@pytest.mark.parametrize(
    ("outcomes", "failure", "text", "code", "reason", "rank"),
    [
        (["running", "running"], None, FULL, 228, "DISK_FULL", 1),
        (["running", "running"], None, f"{WAITED}{FULL}{ABORTED}", 1, "DISK_FULL", 1),
        (["COLLECTIVE_TIMEOUT", "running"], "COLLECTIVE_TIMEOUT", "", 228, "DISK_FULL", None),
        (["running", "running"], None, EXITED.replace("code 1", "code 228"), 137, "DISK_FULL", None),
        (["running", "running"], None, f"{FULL}{START_MARK} 1 of job 1\n{KILLED}", 1, "RANK_KILLED", 1),
        ([], None, "", 228, "DISK_FULL", None),
        (["NAN_PERSISTENT", "running"], "NAN_PERSISTENT", "", 228, "DISK_FULL", None),
        (["running", "running"], None, READ_ONLY, 205, "STORAGE_ERROR", 1),
        (["running", "running"], None, EXITED.replace("code 1", "code 205"), 137, "STORAGE_ERROR", None),
        ([], None, "", 205, "STORAGE_ERROR", None),
    ],
)  # fmt: skip
def test_bad_storage_is_known_from_a_line_or_the_exit_code(
    tmp_path, outcomes, failure, text, code, reason, rank
):
    found = explain(attempt(tmp_path, outcomes, failure), text, code=code)
    assert (found[0], found[2]) == (reason, rank)


def test_the_log_of_a_rank_is_a_witness_too(tmp_path):
    run = attempt(tmp_path, ["running", "running"])
    run.rank_log(1, 1).write_text(f"step 3\n{FULL}state.json does not say so: [Errno 28]\n")
    assert explain(run, "") == ("DISK_FULL", "checkpoints cannot be written", 1)
    assert cause(run, None) == ("DISK_FULL", "checkpoints cannot be written", 1)
    # The next start: its ranks have said nothing yet.
    assert explain(run, "", 1)[0] == "LOST"
    assert explain(run, f"{WAITED}{START_MARK}\n{FULL}", 1)[0] == "DISK_FULL"


@pytest.mark.parametrize(("restarts", "reason"), [(0, "DISK_FULL"), (1, "RANK_KILLED")])
def test_what_another_rank_of_a_job_said_may_be_of_an_earlier_start(tmp_path, restarts, reason):
    run = attempt(tmp_path, UP, token=f"slurm-12.{restarts}")
    job(run, "12", rank_0=f"{START_MARK} {restarts} of job 12 on n[1-2]\n{KILLED}", rank_1=FULL)
    assert cause(run, "12")[0] == reason


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        (FULL, 228, "DISK_FULL"),
        ("", None, "DISK_FULL"),
        ("a word\n", 1, "DISK_FULL"),
        (ABORTED, 1, "RANK_KILLED"),
        (KILLED, 137, "RANK_KILLED"),
    ],
)
def test_an_end_is_told_even_if_it_cannot_be_written(tmp_path, monkeypatch, text, code, reason):
    run = RunDir(tmp_path)
    run.state.beat(phase="requeued", reason="PREEMPTED", step=40)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hpctrain.storage.run_state.replace_text", full)
    monkeypatch.setattr(failure, "PATIENCE_S", 0.0)
    state = settle(run, text, code=code)
    assert (state.phase, state.reason, state.step) == ("failed", reason, 40)
    assert run.read_state().phase == "requeued"
