"""Slurm's answers: known texts to values."""

from datetime import datetime

import pytest

from hpctrain.scheduler import answers
from hpctrain.scheduler.answers import Job


def test_squeue_s_answer():
    text = "12|PENDING|BeginTime|t|t|hpctrain:a:b|c\n13_4|RUNNING|None|t|t|\nnonsense\n"
    assert answers.parse_squeue(text) == [
        Job("12", "PENDING", "BeginTime", "hpctrain:a:b|c"), Job("13_4", "RUNNING", "None", "")
    ]  # fmt: skip


def test_the_end_of_a_job_as_squeue_says_it():
    assert answers.parse_time("2026-11-24T05:35:03\n") == datetime(2026, 11, 24, 5, 35, 3).timestamp()
    assert [answers.parse_time(text) for text in ("N/A\n", "", "slurm_load_jobs error\n")] == [None] * 3


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
    text = "7|CANCELLED by 1000|c\n7.batch|CANCELLED|\n8|COMPLETED|\n"
    assert answers.parse_sacct(text) == [Job("7", "CANCELLED", "", "c"), Job("8", "COMPLETED", "", "")]
