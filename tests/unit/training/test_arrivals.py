"""When a bucket of gradients is complete: early only if each gradient is known to arrive once in a pass."""

from hpctrain.training.arrivals import Arrivals


def play(arrivals, *places, started=False):
    """A step of one pass; returns after which arrival the bucket was complete."""
    arrivals.begin()
    arrivals.arm()
    complete = []
    for place in places:
        arrivals.arrived(place, started)
        complete.append(arrivals.complete)
    arrivals.end()
    return complete


def test_it_is_complete_from_the_second_pass_on():
    arrivals = Arrivals(3)
    assert play(arrivals, 0, 2, 1) == [False, False, False]
    assert play(arrivals, 2, 0, 1) == [False, False, True]
    assert play(arrivals, 2, 0) == [False, False]
    assert play(arrivals, 0, 1, 2) == [False, False, True]
    assert arrivals.repeated() == arrivals.late() == []


def test_what_came_twice_once_is_never_complete_early():
    arrivals = Arrivals(2)
    assert play(arrivals, 0, 1, 0) == [False, False, False]
    assert arrivals.repeated() == [0]
    assert play(arrivals, 0, 1) == [False, False]
    assert play(arrivals, 0, 1) == [False, False]
    assert arrivals.repeated() == [0]


def test_what_comes_twice_counts_once():
    arrivals = Arrivals(2)
    play(arrivals, 0, 1)
    assert play(arrivals, 0, 0, 1) == [False, False, True]
    assert arrivals.repeated() == [0]
    assert play(arrivals, 0, 1) == [False, False]


def test_an_unknown_gradient_keeps_the_others_waiting():
    arrivals = Arrivals(2)
    assert play(arrivals, 0) == [False]
    assert play(arrivals, 0, 1) == [False, False]
    assert play(arrivals, 0, 1) == [False, True]


def test_late_is_what_came_after_the_start():
    arrivals = Arrivals(3)
    play(arrivals, 1, 2)
    play(arrivals, 2, 1, started=True)
    assert arrivals.late() == [2, 1]


def test_what_was_seen_is_of_one_step():
    arrivals = Arrivals(2)
    assert arrivals.seen == [False, False]
    arrivals.seen[1] = True
    arrivals.arm()
    assert arrivals.seen == [False, True]
    arrivals.begin()
    assert arrivals.seen == [False, False]


def test_a_bucket_without_gradients_waits_for_no_one():
    arrivals = Arrivals(0)
    assert arrivals.complete
