"""Real ranks that are stopped for longer than they wait for each other, as a scheduler that suspends a job does it."""

import json
import os
import signal
import time

import pytest

from tests.integration.test_train import assert_bitwise_equal
from tests.waiting import until

TIMEOUT_S = 8  # on a busy machine a rank may start so much later than the other
STEPS = 420


def settings(transport, epochs=60):
    return (
        f"train.epochs={epochs}", "train.log_every=5", "resources.ranks=2", f"comm.transport={transport}",
        f"comm.timeout_s={TIMEOUT_S}",
    )  # fmt: skip


def in_the_middle(cli, *given):
    """A run of two ranks that has made some of its steps, and the processes of its ranks."""
    process = cli.start("train", *cli.small, *given, "run.study=stopped")

    def steps_made():
        assert process.poll() is None, process.communicate()
        return list(cli.folder.glob("runs/stopped/*/metrics.jsonl")) and cli.records("train", "stopped")

    until(steps_made)
    ranks = sorted(cli.the_run("stopped").glob("attempts/1/rank_*.json"))
    return process, [json.loads(rank.read_text())["pid"] for rank in ranks]


@pytest.mark.parametrize(
    "transport", [pytest.param(name, marks=pytest.mark.long) for name in ("mpi", "gloo")]
)
def test_ranks_that_are_stopped_and_resumed_together_go_on(cli, transport):
    cli.train(*settings(transport), "run.study=calm")
    process, pids = in_the_middle(cli, *settings(transport))
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    step = cli.state("stopped")["step"]
    time.sleep(2.5 * TIMEOUT_S)
    assert cli.state("stopped")["step"] == step < STEPS, "they were stopped in the middle"
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, f"{out}\n{err}"
    state = cli.state("stopped")
    assert (state["phase"], state["reason"], state["attempt"], state["step"]) == ("done", "DONE", 1, STEPS)
    assert_bitwise_equal(cli.tensors("calm"), cli.tensors("stopped"))


@pytest.mark.parametrize(("transport", "rank"), [("mpi", 0), pytest.param("gloo", 1, marks=pytest.mark.long)])
def test_a_rank_that_is_stopped_alone_ends_the_run(cli, transport, rank):
    process, pids = in_the_middle(cli, *settings(transport, epochs=6000))
    os.kill(pids[rank], signal.SIGSTOP)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "COLLECTIVE_TIMEOUT" in err
    assert cli.state("stopped")["reason"] == "COLLECTIVE_TIMEOUT"
