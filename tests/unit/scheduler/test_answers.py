"""Slurm's answers: known texts to values."""

import pytest

from hpctrain.scheduler import answers
from hpctrain.scheduler.answers import Job


def test_squeue_s_answer():
    text = "12|PENDING|BeginTime|name|hpctrain:a:b|/a|b/x.sh\n13_4|RUNNING|None|n||(null)\nnonsense\n"
    assert answers.parse_squeue(text) == [
        Job("12", "PENDING", "BeginTime", "hpctrain:a:b", "name", "/a|b/x.sh"),
        Job("13_4", "RUNNING", "None", "", "n", "(null)"),
    ]


@pytest.mark.parametrize(("state", "writes"), [
    ("RUNNING", True), ("COMPLETING", True), ("SUSPENDED", True), ("CONFIGURING", True), ("PENDING", False),
    ("REQUEUE_HOLD", False), ("SPECIAL_EXIT", False), ("COMPLETED", False), ("NODE_FAIL", False), ("NEVER_HEARD", None),
])  # fmt: skip
def test_whether_a_job_s_processes_may_be_at_work(state, writes):
    assert Job("1", state).writes is writes


@pytest.mark.parametrize(("text", "job_id"), [
    ("Submitted batch job 12\n", "12"), ("Submitted batch job 12 on cluster c\n", "12"), ("12\n", None), ("", None),
    ("Welcome, job 7 of 9!\n3\nSubmitted batch job 12\n", "12"), ("\ufffd\nSubmitted batch job 12", "12"),
    ("Submitted batch job 12\nhours left:\n1000\n", "12"),
])  # fmt: skip
def test_sbatch_s_answer(text, job_id):
    assert answers.parse_sbatch(text) == job_id


@pytest.mark.parametrize(("said", "refused"), [
    ("sbatch: error: invalid account", True), ("Socket timed out on send/recv operation", False),
    ("Unable to contact slurm controller", False), ("sbatch did not answer within 60 s", False),
    (answers.NO_JOB_ID, False), ("Zero Bytes were transmitted", False),
])  # fmt: skip
def test_a_refusal_is_told_from_a_lost_answer(said, refused):
    assert answers.refused(said) is refused


def test_limits_and_sizes():
    assert answers.over_limit("Job violates accounting/QOS policy (job submit limit, user's size)")
    assert answers.over_limit("AssocMaxSubmitJobLimit")
    assert not answers.over_limit("invalid partition")
    assert answers.parse_max_array_size("A = 1\nMaxArraySize            = 51\n") == 51
    assert answers.parse_max_array_size("") == 1001


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1795498503|1-02:03:04\n", (1795498503.0, 93784.0)),
        ("1795498503|5:00\n1795498504|6:00\n", (1795498503.0, 300.0)),
        ("N/A|UNLIMITED\n", (None, None)),
        ("12345\n** Down|tonight **\n1795498503|5:00\n1000\n", (1795498503.0, 300.0)),
        ("\n", (None, None)),
        ("slurm_load_jobs error\n", (None, None)),
    ],
)
def test_the_end_of_a_job_as_squeue_says_it(text, said):
    assert answers.parse_end(text) == said


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0:00", 0), ("0:59\n", 59), ("59:59", 3599), ("1:00:00", 3600), ("01:02:03", 3723), ("2-00:00:01", 172801),
        ("365-23:59:59", 31622399),
        *((text, None) for text in ("", "INVALID", "UNLIMITED", "NOT_SET", "N/A", "59", "-1:00", "1-5:00", "1:2:3:4")),
    ],
)  # fmt: skip
def test_durations(text, seconds):
    assert answers.parse_duration(text) == seconds


def test_the_controllers_time():
    text = "****\nsdiag output at Tue Nov 24 05:35:03 2026 (1795498503)\nData since      Tue Nov 24 (1795478400)\n"
    assert answers.parse_now(text) == 1795498503.0
    assert answers.parse_now("sdiag: error: no answer\n") is None


@pytest.mark.parametrize(
    ("state", "when", "grace"),
    [
        ("RUNNING", "2026-11-24T05:35:03", True),
        ("RUNNING", "None", False),
        ("COMPLETING", "2026-11-24T05:35:03", False),
    ],
)
def test_a_job_in_its_grace_time_is_known(state, when, grace):
    text = f"JobId=7 JobState={state} Reason=None\n   PreemptEligibleTime=2026-11-24T05:35:03 PreemptTime={when}\n"
    assert answers.in_grace(text) is grace


@pytest.mark.parametrize(
    ("states", "number"), [("RP", 0), ("PP", 0), ("CRP", 1), ("CPP", 1), ("CC", 1), ("C", 0)]
)
def test_of_a_chain_the_job_that_matters_is_chosen(states, number):
    names = {"R": "RUNNING", "P": "PENDING", "C": "COMPLETED"}
    chain = [Job(str(i), names[s]) for i, s in enumerate(states)]
    assert answers.current(chain) == chain[number]


def test_sacct_s_answer_without_steps():
    text = "7|CANCELLED by 1000|0:15|name|c|d\n7.batch|CANCELLED|0:15|batch|\n8|COMPLETED||n|\n9||0:0|n|\n"
    assert answers.parse_sacct(text) == [
        Job("7", "CANCELLED", "", "c|d", "name", exit_code=0), Job("8", "COMPLETED", "", "", "n")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("shown", "code"), [("0", 0), ("1", 1), ("2", 2), ("100", 228), ("77", 205), ("228", 228)]
)
def test_sacct_takes_128_off_high_exit_codes(shown, code):
    (job,) = answers.parse_sacct(f"7|FAILED|{shown}:0|n|\n")
    assert job.exit_code == code


def test_slurms_words_for_not_known():
    text = "7|500\n7.batch|10\n8|\n8.0|30\n8.extern|2\n9|0\n9.0|4294967294\n10|18446744073709551614\n"
    assert answers.parse_energy(text) == {"7": 500.0, "8": 30.0}
    assert answers.parse_energy("") == {}


def test_the_start_of_a_job_as_scontrol_tells_it():
    text = "JobId=7 JobName=x\n   JobState=REQUEUED Reason=None\n   Requeue=1 Restarts=3 BatchFlag=1\n"
    assert answers.parse_start(text) == ("REQUEUED", 3)
    assert answers.parse_start("slurm_load_jobs error: Invalid job id specified\n") is None
    assert answers.parse_start("JobState=RUNNING") is None


def test_one_task_stands_for_its_array():
    jobs = [Job("7", "RUNNING"), Job("12_0", "PENDING"), Job("12_3", "RUNNING"), Job("9_1", "PENDING")]
    assert answers.one_of_each_array(jobs) == {"12": jobs[2], "9": jobs[3]}
