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
    s = schedule(ScheduleConfig(name="plateau", factor=0.25))
    assert s.lr(99, [1.0, 1.1]) == pytest.approx(0.25)


def test_a_warm_up_longer_than_the_run_stays_finite():
    s = schedule(ScheduleConfig(name="cosine", warmup_epochs=50), total=10)
    assert all(math.isfinite(s.lr(step)) for step in range(10))
