"""An evaluation knows nothing of scores: any evaluator is filled once per micro-batch, and rank 0 asks it once."""

import threading

import numpy as np
import pytest
import torch

from hpctrain.errors import RunFailed
from hpctrain.storage.run_state import Reason
from hpctrain.tasks.evaluator import SummedScores
from hpctrain.training.comm import Comm
from hpctrain.training.evaluation import evaluate


class Numbers:
    """Sample i is the number i."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def batch(self, indices, generator=None):
        return (torch.from_numpy(np.asarray(indices)),)


class Double(torch.nn.Module):
    def forward(self, numbers):
        return 2 * numbers


class Seen:
    """Keeps what it is given. Its scores are not sums: the largest number, and where the parts came from."""

    def __init__(self):
        self.given = []

    def add(self, output, batch, sums, indices):
        self.given.append((output, batch[0].tolist(), float(sums[0]), list(indices)))

    def part(self):
        return [number for _, numbers, _, _ in self.given for number in numbers]

    def scores(self, parts):
        return {
            "largest": float(max(number for part in parts for number in part)),
            "parts": float(len(parts)),
        }


class Thinking(Seen):
    """Scores that take until somebody has looked three times."""

    def __init__(self):
        super().__init__()
        self.looks, self.ready = threading.Semaphore(0), False

    def scores(self, parts):
        for _ in range(3):
            assert self.looks.acquire(timeout=60), "nobody looked"
        self.ready = True
        return {"loss": 1.0}


class Rank(Comm):
    """Rank `rank` of two. The other one's part is `other`; rank 0 says the `words` one by one."""

    size = 2

    def __init__(self, rank, other=(), words=()):
        self.rank, self._other, self._words, self.said = rank, other, iter(words), []

    def gather_objects(self, value):
        return [value, self._other] if self.rank == 0 else [self._other, value]

    def broadcast_object(self, value):
        self.said.append(value)
        return value if self.rank == 0 else next(self._words)


def forward_of(model):
    def forward(batch, carry):
        (numbers,) = batch
        model(numbers)
        return numbers.sum(), torch.tensor([float(numbers.sum()), float(len(numbers))]), None

    return forward


def mean():
    return SummedScores(2, lambda sums: {"mean": sums[0] / sums[1]})


def run(evaluator, count, comm, batch, batch_size, tick=list):
    model = Double()
    scores = evaluate(model, forward_of(model), evaluator, Numbers(count), comm, batch, batch_size, tick)
    assert model.training
    assert not model._forward_hooks, "nothing of an evaluation stays in the model"
    return scores


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_sums_are_over_each_sample_once(batch_size):
    evaluator, ticks = mean(), []
    scores = run(evaluator, 21, Comm(), 8, batch_size, lambda: ticks.append(1))
    assert scores == {"mean": 10.0}
    assert evaluator.part() == [210.0, 21.0]
    assert len(ticks) == {1: 21, 3: 8, 8: 3}[batch_size]


def test_an_evaluator_sees_output_batch_sums_and_indices():
    evaluator = Seen()
    run(evaluator, 10, Comm(), 4, 3)
    for output, numbers, total, indices in evaluator.given:
        assert output.tolist() == [2 * number for number in numbers]
        assert (numbers, total) == (indices, sum(numbers))
        assert len(indices) <= 3
    assert sorted(evaluator.part()) == list(range(10))


def test_a_batch_that_the_model_did_not_see_has_no_output():
    """An output is never that of the batch before."""
    model, evaluator = Double(), Seen()
    forward = forward_of(model)

    def first_only(batch, carry):
        return forward(batch, carry) if 0 in batch[0] else (None, torch.zeros(1), None)

    evaluate(model, first_only, evaluator, Numbers(2), Comm(), 1, 1, list)
    assert [output is None for output, *_ in evaluator.given] == [False, True]


def test_rank_0_scores_the_parts_of_all_ranks():
    comm = Rank(0, other=[77])
    assert run(Seen(), 6, comm, 4, 4) == {"largest": 77.0, "parts": 2.0}
    assert comm.said[-1] == {"largest": 77.0, "parts": 2.0}


def test_other_ranks_score_nothing_and_wait_for_the_scores():
    comm = Rank(1, words=[None, None, {"loss": 0.5}])
    evaluator = Seen()
    evaluator.scores = None
    assert run(evaluator, 6, comm, 4, 4) == {"loss": 0.5}
    assert comm.said == [None] * 3


def test_a_rank_without_samples_adds_its_part():
    comm = Rank(0, other=[0])
    assert run(Seen(), 1, comm, 2, 4) == {"largest": 0.0, "parts": 2.0}


def test_during_a_long_scoring_rank_0_says_that_it_lives():
    """To the other ranks, whose time-out counts from each word, and to the outside."""
    evaluator, comm = Thinking(), Rank(0)
    assert run(evaluator, 1, comm, 2, 4, evaluator.looks.release) == {"loss": 1.0}
    *before, last = comm.said
    assert last == {"loss": 1.0}
    assert len(before) >= 3
    assert set(before) == {None}


def test_a_failure_meanwhile_does_not_wait_for_the_scores():
    evaluator = Thinking()

    def full():
        raise RunFailed(Reason.DISK_FULL, "heartbeat cannot be written")

    with pytest.raises(RunFailed, match="heartbeat"):
        evaluate(Double(), None, evaluator, Numbers(0), Rank(0), 2, 4, full)
    assert not evaluator.ready
    evaluator.looks.release(3)


def test_an_error_of_the_evaluator_is_raised():
    evaluator = Seen()
    with pytest.raises(ValueError, match="max"):
        evaluate(Double(), None, evaluator, Numbers(0), Comm(), 2, 4, list)
