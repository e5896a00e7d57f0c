"""The learning rate against values worked out by hand."""

import math

import pytest

from hpctrain.config.settings import ScheduleConfig
from hpctrain.training.schedule import Schedule, plateau_cuts


def schedule(config, total=100, per_epoch=10, batch=256, lr=1.0):
    return Schedule(config, lr, batch, per_epoch, total)


def test_warm_up_rises_to_the_full_rate():
    rates = [schedule(ScheduleConfig(warmup_epochs=0.4)).lr(step) for step in range(6)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])


def test_cosine_starts_full_passes_half_and_ends_at_the_final_factor():
    s = schedule(ScheduleConfig(name="cosine", final_factor=0.1))
    assert [s.lr(0), s.lr(50), s.lr(100)] == pytest.approx([1.0, 0.55, 0.1])


def test_linear_falls_in_equal_steps_to_the_final_factor():
    s = schedule(ScheduleConfig(name="linear", final_factor=0.2), total=4)
    assert [s.lr(step) for step in range(6)] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.2])


@pytest.mark.parametrize(("name", "middle"), [("linear", 0.75), ("cosine", (1 + math.sqrt(0.5)) / 2)])
def test_decay_begins_after_the_warm_up(name, middle):
    # 20 steps of warm-up, 80 of decay: a quarter of it is over at step 40.
    s = schedule(ScheduleConfig(name=name, warmup_epochs=2))
    assert s.lr(9) == pytest.approx(0.5)
    assert [s.lr(20), s.lr(40), s.lr(100)] == pytest.approx([1.0, middle, 0.0])


def test_a_decay_of_one_step_is_over_after_it():
    s = schedule(ScheduleConfig(name="linear"), total=1)
    assert [s.lr(0), s.lr(1)] == [1.0, 0.0]


def test_linear_scaling_rule():
    assert schedule(ScheduleConfig(scaling="linear"), batch=1024, lr=0.1).lr(5) == pytest.approx(0.4)
    assert schedule(ScheduleConfig(scaling="sqrt"), batch=1024, lr=0.1).lr(5) == pytest.approx(0.2)


def test_steps_and_exponential():
    s = schedule(ScheduleConfig(name="step", milestones_epochs=(2, 4), factor=0.1))
    assert [s.lr(19), s.lr(20), s.lr(40)] == pytest.approx([1.0, 0.1, 0.01])
    # Zaremba et al.: the rate of epoch e (from 1) is decay^max(e - start, 0).
    s = schedule(ScheduleConfig(name="exponential", start_epochs=6, factor=0.5))
    assert [s.lr(0), s.lr(59), s.lr(60), s.lr(70)] == pytest.approx([1.0, 1.0, 0.5, 0.25])


def test_plateau_counts_epochs_without_a_new_best():
    assert plateau_cuts([3, 2, 2.5, 2.4, 1], patience=0) == 2
    assert plateau_cuts([3, 2, 2.5, 2.4, 1], patience=1) == 1
    assert plateau_cuts([], patience=0) == 0
    assert plateau_cuts([1, 1, 1], patience=0) == 2  # the same again is not better
    s = schedule(ScheduleConfig(name="plateau", factor=0.25))
    assert s.lr(99, [1.0, 1.1]) == pytest.approx(0.25)
    assert s.lr(99, [1.0, 1.1, 1.2]) == pytest.approx(0.0625)


@pytest.mark.parametrize(
    ("losses", "cuts"),
    [
        ([3, 4, 4], 0),
        ([3, 4, 4, 4], 1),
        ([3, 4, 4, 4, 4, 4], 1),
        ([3, 4, 4, 4, 4, 4, 4], 2),
        ([3, 4, 4, 2, 4, 4], 0),
    ],
)
def test_each_cut_needs_more_than_patience_bad_epochs_of_its_own(losses, cuts):
    assert plateau_cuts(losses, patience=2) == cuts


def test_a_warm_up_longer_than_the_run_stays_finite():
    s = schedule(ScheduleConfig(name="cosine", warmup_epochs=50), total=10)
    assert all(math.isfinite(s.lr(step)) for step in range(10))
