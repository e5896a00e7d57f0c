"""The page of studies of every kind: it is written whatever the runs are like, and compares like with like."""

import math
import re

import pytest

from hpctrain.config.swept import Choice, Interval
from hpctrain.report import plots
from hpctrain.sweep import page
from hpctrain.sweep.report import look
from tests.studies import Made, curve

FAILED = ("failed", "ERROR")


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Figures have their own tests: here they are drawn and not saved."""
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figure.draw_without_rendering())


@pytest.fixture
def compared(monkeypatch):
    """What the slices show: the scale of each setting, and the scores."""
    seen = {}

    def slice_of(key, swept, found):
        seen[key] = (swept.scale, list(found.values))
        return b""

    monkeypatch.setattr(plots, "slice_of", slice_of)
    return seen


def one(made):
    made.run({"lr": 0.1}, [0.5])


def one_setting(made):
    for seed in range(3):
        made.run({"seed": seed}, [0.5 + seed / 100])


def equal_seeds(made):
    for n in range(6):
        made.run({"lr": n % 2, "seed": n // 2}, [0.5, 0.5])


def all_failed(made):
    for lr in (0.1, 0.2):
        made.run({"lr": lr}, [0.5], FAILED, detail="<script>alert(1)</script>")


def all_wait(made):
    for lr in (0.1, 0.2):
        made.run({"lr": lr}, None)


def categories_and_numbers(made):
    for n, name in enumerate(("mlp", "lenet", "resnet18")):
        for lr in (0, 1e-4, 1e-3):
            made.run({"model": name, "optimizer.weight_decay": lr}, [0.5 + n / 10 + lr])


def nested_and_odd(made):
    for n, value in enumerate(
        ("<b>a&b</b>", "$x^{$", "学习率 🙂", None, True, 3, "/long" * 40, "[1, {'a': 2}]")
    ):
        made.run({"model.a.b.c": value, "x": n}, [n / 10])


def not_finite(made):
    for n, score in enumerate((math.nan, math.inf, -math.inf, 0.5, -0.5)):
        made.run({"lr": n}, [0.1, score])


def diverging(made):
    for n, score in enumerate((80.0, 90.0, 95.0, 1e304)):
        made.run({"lr": n}, [800.0, score], metric="perplexity")


def hundreds(made):
    for n in range(120):
        made.run({"lr": 10 ** (-n / 40), "depth": n % 7}, [n / 120])


KINDS = (one, one_setting, equal_seeds, all_failed, all_wait, categories_and_numbers, nested_and_odd, not_finite,
         hundreds)  # fmt: skip


@pytest.mark.parametrize("fill", KINDS)
def test_every_kind_of_study_has_a_page(tmp_path, fill):
    made = Made(tmp_path)
    fill(made)
    found = page.study_page(look(made.write()))
    assert f"{len(made.trials)} runs" in found
    assert "<script>alert" not in found
    assert "<b>" not in found
    assert "<h2>Result</h2>" in found


def test_scores_to_be_minimised(tmp_path, compared):
    made = Made(tmp_path, metric="perplexity")
    diverging(made)
    found = page.study_page(look(made.write(task="language_model")))
    assert "less is better" in found
    assert "best perplexity</dt><dd>80<" in found
    assert compared["lr"] == ("linear", [80.0, 90.0, 95.0, 1e304])


def test_what_is_left_out_stands_on_the_page(tmp_path):
    made = Made(tmp_path)
    for seed, epochs in enumerate((4, 4, 1)):
        made.run({"lr": 0.1, "seed": seed}, curve(0.8, epochs), ("done", "DONE"))
    made.run({"lr": 0.2, "seed": 0}, [0.5], FAILED)
    found = page.study_page(look(made.write()))
    assert "1 run trained less than others of the same setting" in found
    assert "1 run failed: no mean counts these." in found
    assert "2 of 3" in found


def test_settings_stand_on_the_scale_on_which_they_were_swept(tmp_path, compared):
    made = Made(tmp_path)
    for n in range(8):
        made.run({"lr": 0.1 + n / 1000, "wd": 10.0**-n, "batch": 2**n, "seed": n, "m": n / 10}, [n / 10])
    intervals = [
        Interval("lr", 1e-4, 1, log=True, integer=False),
        Interval("wd", 0, 1, log=False, integer=False),
    ]
    page.study_page(look(made.write([*intervals, Choice("batch", tuple(str(2**n) for n in range(8)))])))
    assert {key: scale for key, (scale, _) in compared.items()} == {
        "lr": "log", "wd": "linear", "batch": "log", "m": "linear"
    }, "a seed is not a setting"  # fmt: skip


def test_importance_leaves_out_the_seed(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "hpctrain.sweep.samplers.importances", lambda params, *_: asked.append(list(params)) or {}
    )
    made = Made(tmp_path)
    for n in range(12):
        made.run({"lr": n % 3, "seed": n, "batch": n % 2}, [n / 10])
    page.study_page(look(made.write()))
    assert asked == [["lr", "batch"]]


def test_the_importance_of_noise_is_small_and_of_the_cause_large():
    """By Optuna itself: the score follows `lr` on its logarithmic scale, and `other` says nothing."""
    pytest.importorskip("optuna", minversion="4")
    import random

    from hpctrain.report.axis import axis

    generator = random.Random(0)
    lrs = [10 ** generator.uniform(-4, 0) for _ in range(80)]
    params = {"lr": lrs, "other": [generator.random() for _ in range(80)]}
    found = plots.scores("x", [-((math.log10(lr) + 2) ** 2) for lr in lrs], True)
    shares = page.importance(
        params, found, {"lr": axis(lrs, "log"), "other": axis(params["other"], "linear")}
    )
    assert shares["lr"] > 0.8
    assert page.importance({"lr": lrs}, found, {"lr": axis(lrs, "log")}) == {}, "one setting has all of it"


def test_pruned_runs_are_compared_at_equal_length(tmp_path, compared):
    """The score after one epoch, which all have: a run that trained longer is not better for that."""
    made = Made(tmp_path, sampler="random", trials=4, pruner="asha")
    for lr, scores in ((1, [0.4, 0.5, 0.9]), (2, [0.45]), (3, [0.3])):
        made.run({"lr": lr}, scores, ("done", "DONE") if len(scores) == 3 else ("paused", "PAUSED"))
    found = page.study_page(look(made.write()))
    assert compared["lr"][1] == [0.4, 0.45, 0.3]
    assert "Runs of unequal length: here accuracy is that of epoch 1." in found


def test_a_cancelled_run_does_not_shorten_the_comparison(tmp_path, compared):
    made = Made(tmp_path)
    for lr in (1, 2, 3):
        made.run({"lr": lr}, [0.1 * lr, 0.2 * lr])
    made.run({"lr": 4}, [0.9], ("cancelled", "CANCELLED"))
    found = page.study_page(look(made.write()))
    assert compared["lr"][1] == pytest.approx([0.2, 0.4, 0.6])
    assert "that of epoch 2; 1 run without a score there left out." in found


def test_long_lists_say_how_much_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST_ROWS", 3)
    made = Made(tmp_path)
    for n in range(5):
        made.run({"lr": n}, [n / 10])
        made.run({"lr": 10 + n}, [], FAILED, detail="x")
    found = page.study_page(look(made.write()))
    assert len(re.findall("2 more are in hpctrain report --csv.", found)) == 2
